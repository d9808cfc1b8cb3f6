#!/usr/bin/env bash
# The sweep behind sweep_fmnist.csv: its launcher is killed while the run of
# class 5, seed 0 is in the middle, and the same command goes on.
# TFDS_DATA_DIR is where the data set lies.
set -euo pipefail
cd "$(dirname "$0")/.."
sweep=(python -m launch.sweep --config=configs/small_fmnist.py:rotation)

"${sweep[@]}" &
until grep -qs '"step": 200,' runs/small_fmnist_rotation/5/seed0/metrics.jsonl
do sleep 0.5; done
kill -KILL $!
sleep 5  # the run saves and ends

"${sweep[@]}"
cp runs/small_fmnist_rotation/summary.csv results/sweep_fmnist_summary.csv
awk 'FNR > 1 || NR == 1' runs/small_fmnist_rotation/*/seed*/results.csv \
    > results/sweep_fmnist.csv
