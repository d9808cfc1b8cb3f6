#!/usr/bin/env bash
# Regenerates patch_svdd.csv: Patch SVDD on MVTec AD at a budget for two CPU cores.
# CENTRE=false regenerates uncentred_patch_svdd.csv: the mean image stays in.
# Needs MVTEC_AD=/where/mvtec_ad/lies, with the CATEGORIES.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
centre=${CENTRE:-true}
[ "$centre" = true ] && name=patch_svdd || name=uncentred_patch_svdd
for category in ${CATEGORIES:-bottle hazelnut transistor}; do
  start=$SECONDS
  $python -m deep_oc.train --config=configs/patch_svdd_mvtec.py:$category \
    --config.experiment=mvtec_cpu_${name}_$category \
    --config.pretext.centre=$centre \
    --config.train.batch=32 --config.train.steps=2000 \
    --config.train.monitor_every=500
  echo "$category: $((SECONDS - start)) s"
done
$python -m deep_oc.evaluate --runs="runs/mvtec_cpu_${name}_*/**" \
  --classifiers=gde_ledoit_wolf
awk 'FNR > 1 || NR == 1' runs/mvtec_cpu_${name}_*/*/seed0/results.csv \
  > results/$name.csv
