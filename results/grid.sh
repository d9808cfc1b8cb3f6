#!/usr/bin/env bash
# Regenerates grid_fmnist.csv: every classifier on every feature of the encoders
# that contamination.sh trained by rotation prediction without contamination.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m deep_oc.evaluate --runs='runs/small_fmnist_rotation/*/seed0' \
  --features=pool,head,random,score --output=results/grid_fmnist.csv \
  --classifiers="$(python -c "from deep_oc import oneclass
print(','.join(oneclass.CLASSIFIERS))")"
