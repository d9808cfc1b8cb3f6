"""A denoising autoencoder on CIFAR-100, one of 100 classes normal.

  python -m deep_oc.train --config=configs/denoising_cifar100.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/denoising_cifar100/**'

The code of Sohn et al., ICLR 2021, knows this data set; the paper has no number
for it. All else is as on CIFAR-10. A class has 500 images and takes 14,336
steps of 64 network inputs.
"""
from ml_collections import ConfigDict

from configs import denoising_cifar10, rotation_cifar100

sweep = rotation_cifar100.sweep


def get_config() -> ConfigDict:
  config = denoising_cifar10.get_config()
  config.experiment = 'denoising_cifar100'
  config.data.name = 'cifar100'
  return config
