"""The autoencoder with which Deep SVDD may begin, on Fashion-MNIST.

  python -m deep_oc.train --config=configs/autoencoder_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.train --config=configs/deep_svdd_fmnist.py \\
      --config.protocol.normal=1 \\
      --config.encoder.weights='runs/autoencoder_fmnist/{normal}/seed{seed}'
  python -m deep_oc.evaluate --runs='runs/autoencoder_fmnist/**'

As `autoencoder_cifar10`. A class takes 10,500 steps of 200 images.
"""
from ml_collections import ConfigDict

from configs import autoencoder_cifar10, deep_svdd_fmnist

sweep = deep_svdd_fmnist.sweep


def get_config() -> ConfigDict:
  config = autoencoder_cifar10.get_config()
  config.experiment = 'autoencoder_fmnist'
  config.data = deep_svdd_fmnist.get_config().data
  config.encoder = deep_svdd_fmnist.get_config().encoder
  config.optimizer.weight_decay = 5e-7 / 1024  # likewise, of 32 x 32 pixels
  return config
