"""A denoising autoencoder on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/denoising_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/denoising_cifar10/**'

Sohn et al., ICLR 2021, table 8: mean AUROC over the ten classes 83.5 ± 1.0
(KDE), 83.4 ± 1.0 (RBF OC-SVM), five seeds, of the encoder's features. Rows with
the feature 'score' are of the reconstruction error.

They publish neither noise, decoder, augmentation nor schedule: these are chosen
here, noise and decoder by custom, the others to be those of rotation
prediction. A class so takes 159,744 steps of 64 network inputs, 0.034 EFLOP.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'denoising_cifar10'
  config.method = 'denoising'
  config.pretext = ConfigDict(dict(
      name='denoising',
      noise=0.1,  # standard deviation, of pixels in [0, 1]
      decoder=(256, 128, 64, 32),  # channels of maps of 2, 4, 8 and 16 pixels
      augment=config.pretext.augment))
  return config
