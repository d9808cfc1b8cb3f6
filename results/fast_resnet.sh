#!/usr/bin/env bash
# Regenerates fast_resnet.csv: DACL by the published and by the fast recipe with a
# ResNet-18 of a quarter of the width and the published head, 2,000 steps of 64
# network inputs, on the validation part of CIFAR-10's training split. Batch and
# crops are those that the fast recipe had then. Needs CIFAR-10 as a TFDS set.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
for normal in ${CLASSES:-automobile ship}; do
  for recipe in '' fast_; do
    fields=()
    [[ -z $recipe ]] || fields=(
      --config.train.batch=8 --config.pretext.augment.crop=0.5)
    $python -m deep_oc.train --config=configs/${recipe}dacl_cifar10.py \
      --config.experiment=resnet_${recipe}dacl --config.train.steps=2000 \
      --config.protocol.name=validation --config.protocol.normal=$normal \
      --config.encoder.width=0.25 --config.optimizer.per=step \
      "${fields[@]}"
  done
done
$python -m deep_oc.evaluate --runs='runs/resnet_*/**' --classifiers=kde \
  --features=pool,random
awk 'FNR > 1 || NR == 1' runs/resnet_*/*/*/seed0/results.csv \
  > results/fast_resnet.csv
