"""Contrastive learning on CIFAR-100, one of 100 classes normal.

  python -m deep_oc.train --config=configs/simclr_cifar100.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/simclr_cifar100/**'

The code of Sohn et al., ICLR 2021, knows this data set; the paper has no number
for it. All else is as on CIFAR-10. A class has 500 images and takes 30,720
steps of 64 network inputs.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar100, simclr_cifar10

sweep = rotation_cifar100.sweep


def get_config() -> ConfigDict:
  config = simclr_cifar10.get_config()
  config.experiment = 'simclr_cifar100'
  config.data.name = 'cifar100'
  return config
