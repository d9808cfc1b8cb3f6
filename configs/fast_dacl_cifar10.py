"""DACL on CIFAR-10 with a tenth of the published image passes.

  python -m deep_oc.train --config=configs/fast_dacl_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/fast_dacl_cifar10/**'

8.2 million network inputs a class, of 81.9: the published recipe with the loss
in both directions, and a rate that falls with each step. With a small encoder
on the validation part of CIFAR-10's training split, by results/fast_recipe.py,
nothing else was better by what could be told from chance, and twice the batch
was worse. With this encoder and schedule the recipe has not been measured.
"""
from ml_collections import ConfigDict

from configs import dacl_cifar10

sweep = dacl_cifar10.sweep


def get_config() -> ConfigDict:
  config = dacl_cifar10.get_config()
  config.experiment = 'fast_dacl_cifar10'
  config.pretext.loss = 'nt_xent'
  config.optimizer.per = 'step'
  config.train.steps = 128_000
  return config
