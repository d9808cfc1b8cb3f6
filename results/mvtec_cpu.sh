#!/usr/bin/env bash
# Regenerates mvtec_cpu.csv and mvtec_cpu_summary.csv: CutPaste, and rotation and
# contrastive learning on patches, on MVTec AD at a budget for two CPU cores.
# Needs MVTEC_AD=/where/mvtec_ad/lies, with the categories named below.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
run() {
  local start=$SECONDS
  $python -m deep_oc.train --config="$1" --config.experiment="mvtec_cpu_$2" \
    --config.train.monitor_every=500 "${@:3}"
  echo "mvtec_cpu_$2: $((SECONDS - start)) s"
}
categories=${CATEGORIES:-bottle hazelnut transistor}
# Patches: the windows of an image share one pass.
for category in $categories; do
  run configs/cutpaste_patchnet_mvtec.py:$category cutpaste_patchnet_$category
done
# Whole images, half as large and through a network half as wide as published;
# sixteen of them a step, an eightieth of the steps.
for category in $categories; do
  run configs/cutpaste_mvtec.py:$category cutpaste_3way_$category \
    --config.data.size=128 --config.encoder.width=0.5 --config.train.batch=16 \
    --config.train.steps=800 --config.pretext.head='(128,)'
done
# That they run, no more: 100 steps, a quarter of the width, windows beside each
# other.
for method in rotnet rotation simclr dacl; do
  head='(512,)'
  case $method in rotnet) head='()' ;; simclr|dacl) head='(512,128)' ;; esac
  run configs/${method}_mvtec.py:bottle ${method}_bottle \
    --config.encoder.width=0.25 --config.train.batch=32 --config.train.steps=100 \
    --config.optimizer.learning_rate=0.03 --config.optimizer.per=step \
    --config.pretext.head=$head --config.localize.stride=32
done
# What a density for each position hides: one for all.
rm -rf runs/mvtec_shared && mkdir -p runs/mvtec_shared
cp -r runs/mvtec_cpu_cutpaste_patchnet_bottle runs/mvtec_shared/bottle
$python -m deep_oc.localize --workdir=runs/mvtec_shared/bottle/0/seed0 \
  --set=positions=shared
$python -m deep_oc.evaluate --runs='runs/mvtec_shared/**' \
  --features=windows,random_windows --output=results/mvtec_cpu_shared.csv
$python -m deep_oc.evaluate --runs='runs/mvtec_cpu_*/**' \
  --output=results/mvtec_cpu_summary.csv
awk 'FNR > 1 || NR == 1' runs/mvtec_cpu_*/*/seed0/results.csv \
  > results/mvtec_cpu.csv
