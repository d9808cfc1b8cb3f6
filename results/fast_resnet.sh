#!/usr/bin/env bash
# Regenerates fast_resnet.csv: the published and the fast recipes with a ResNet-18
# of a quarter of the width and the published head, to equal image passes, on the
# validation part of CIFAR-10's training split. Needs CIFAR-10 as a TFDS set.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
for method in ${METHODS:-rotation dacl}; do
  for normal in automobile ship; do
    for recipe in '' fast_; do
      case $recipe$method in  # 128,000 image passes
        rotation) steps=500 ;;
        fast_rotation) steps=1000 ;;
        *) steps=2000 ;;
      esac
      $python -m deep_oc.train --config=configs/$recipe${method}_cifar10.py \
        --config.experiment=resnet_${recipe}$method --config.train.steps=$steps \
        --config.protocol.name=validation --config.protocol.normal=$normal \
        --config.encoder.width=0.25 --config.optimizer.per=step
    done
  done
done
$python -m deep_oc.evaluate --runs='runs/resnet_*/**' --classifiers=kde \
  --features=pool,random
awk 'FNR > 1 || NR == 1' runs/resnet_*/*/seed0/results.csv \
  > results/fast_resnet.csv
