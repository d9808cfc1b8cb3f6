#!/usr/bin/env bash
# Whether convolutions reformulated for CPUs change an AUROC: convolutions.csv,
# beside sweep_fmnist.csv, which has the same runs with them. TFDS_DATA_DIR is
# where the data set lies.
set -euo pipefail
cd "$(dirname "$0")/.."
DEEP_OC_XLA_CONVOLUTIONS=1 python -m launch.sweep \
    --config=configs/small_fmnist.py:rotation --seeds=0 \
    --set=experiment=small_fmnist_xla
awk 'FNR > 1 || NR == 1' runs/small_fmnist_xla/*/seed0/results.csv \
    > results/convolutions.csv
