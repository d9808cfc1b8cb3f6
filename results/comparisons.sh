#!/usr/bin/env bash
# What the papers compare with, small, on Fashion-MNIST: comparisons_fmnist.csv.
# METHODS are those of configs/small_fmnist.py, pretrained_deep_svdd after
# autoencoder, with whose runs it begins; TFDS_DATA_DIR is where the data
# set lies.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
for method in ${METHODS:-denoising geom goad hendrycks arnet deep_svdd autoencoder pretrained_deep_svdd}; do
  $python -m launch.sweep --config="configs/small_fmnist.py:$method" --seeds=0
done
awk 'FNR > 1 || NR == 1' runs/small_fmnist_*/*/seed0/results.csv \
  > results/comparisons_fmnist.csv
