"""The autoencoder with which Deep SVDD may begin, on CIFAR-10.

  python -m deep_oc.train --config=configs/autoencoder_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.train --config=configs/deep_svdd_cifar10.py \\
      --config.protocol.normal=1 \\
      --config.encoder.weights='runs/autoencoder_cifar10/{normal}/seed{seed}'
  python -m deep_oc.evaluate --runs='runs/autoencoder_cifar10/**'

Schedule and encoder are those of the authors' PyTorch code of Deep SVDD (Ruff
et al., ICML 2018); the decoder's layers are this project's (`denoising`), and
so is the image that it restores, with its contrast. A class takes 8,750 steps
of 200 images. Rows with the feature 'score' are of the reconstruction error.
"""
from ml_collections import ConfigDict

from configs import deep_svdd_cifar10

sweep = deep_svdd_cifar10.sweep


def get_config() -> ConfigDict:
  config = deep_svdd_cifar10.get_config()
  config.experiment = 'autoencoder_cifar10'
  config.method = 'autoencoder'
  config.pretext = ConfigDict(dict(
      name='denoising',
      noise=0.0,
      dim=config.pretext.dim,  # of the code
      decoder=(128, 64, 32),  # channels of maps of 4, 8 and 16 pixels
      augment=config.pretext.augment))
  config.optimizer.update(
      # There 5e-7, of an error that is the sum over pixels, not their mean.
      weight_decay=5e-7 / 3072,
      milestones=(250.0,))
  config.train.epochs = 350.0
  return config
