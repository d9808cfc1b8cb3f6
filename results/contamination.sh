#!/usr/bin/env bash
# Regenerates contamination_fmnist.csv and .png: rotation and DACL trained on
# Fashion-MNIST with 0, 1, 5 and 10 % of other classes' images among the normal
# ones, all ten classes. Needs Fashion-MNIST as a TFDS set. A run that is there
# already is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/xla}
for seed in ${SEEDS:-0}; do
  for normal in 0 1 2 3 4 5 6 7 8 9; do
    for method in rotation dacl; do
      for share in 0 0.01 0.05 0.1; do
        protocol="--config.protocol.name=one_vs_rest"
        if [ $share != 0 ]; then
          protocol="--config.protocol.name=contaminated --config.protocol.contamination=$share"
        fi
        python -m deep_oc.train --config=configs/small_fmnist.py:$method \
          --config.protocol.normal=$normal --config.seed=$seed $protocol
      done
    done
  done
done
for method in rotation dacl; do
  features=pool,random,pixels
  [ $method = dacl ] || features+=,score  # which rotation alone has
  python -m deep_oc.evaluate --runs="runs/small_fmnist_$method/**" \
    --classifiers=kde --features=$features
done
python results/contamination.py --runs='runs/small_fmnist_*/**' \
  --output=results/contamination_fmnist.csv
