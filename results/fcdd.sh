#!/usr/bin/env bash
# Regenerates fcdd.csv: FCDD on MVTec AD at a budget for two CPU cores.
# KIND=union CATEGORIES=bottle regenerates union_fcdd.csv: CutPaste's defects.
# Needs MVTEC_AD=/where/mvtec_ad/lies, with the CATEGORIES.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
name=${KIND:+${KIND}_}fcdd
for category in ${CATEGORIES:-bottle hazelnut transistor}; do
  start=$SECONDS
  $python -m deep_oc.train --config=configs/fcdd_mvtec.py:$category \
    --config.experiment=mvtec_cpu_${name}_$category \
    --config.pretext.kind=${KIND:-confetti} \
    --config.encoder.channels='(8,32,64,128,128)' \
    --config.train.batch=16 --config.train.steps=1200 \
    --config.train.monitor_every=200 \
    --config.optimizer.learning_rate=0.01 \
    --config.optimizer.schedule=cosine --config.optimizer.per=step
  echo "$category: $((SECONDS - start)) s"
done
$python -m deep_oc.evaluate --runs="runs/mvtec_cpu_${name}_*/**" \
  --classifiers=gde_ledoit_wolf
awk 'FNR > 1 || NR == 1' runs/mvtec_cpu_${name}_*/*/seed0/results.csv \
  > results/$name.csv
