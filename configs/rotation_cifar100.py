"""Rotation prediction with an MLP head on CIFAR-100, one of 100 classes normal.

  python -m deep_oc.train --config=configs/rotation_cifar100.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/rotation_cifar100/**'

The code of Sohn et al., ICLR 2021, knows this data set; the paper has no number
for it. All else is as on CIFAR-10. A class has 500 images and takes 14,336
steps of 256 network inputs.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar10


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'rotation_cifar100'
  config.data.name = 'cifar100'
  return config


def sweep():
  """Yields the overrides for all 100 classes, five seeds each."""
  for normal in range(100):
    for seed in range(5):
      yield {'protocol.normal': str(normal), 'seed': seed}
