#!/usr/bin/env bash
# What bfloat16 costs in AUROC: bfloat16.csv, beside sweep_fmnist.csv, which has
# the same runs in float32. TFDS_DATA_DIR is where the data set lies.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m launch.sweep --config=configs/small_fmnist.py:rotation --seeds=0 \
    --set=dtype=bfloat16 --set=experiment=small_fmnist_bfloat16
awk 'FNR > 1 || NR == 1' runs/small_fmnist_bfloat16/*/seed0/results.csv \
    > results/bfloat16.csv
