"""A denoising autoencoder on CIFAR-100's 20 superclasses, one normal.

  python -m deep_oc.train --config=configs/denoising_cifar20.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/denoising_cifar20/**'

Sohn et al., ICLR 2021, table 9: mean AUROC over the 20 superclasses 75.2 ± 1.0
(KDE and RBF OC-SVM alike), five seeds. With the schedule that is chosen in
`denoising_cifar10`, a superclass takes 79,872 steps of 64 network inputs, 0.017
EFLOP.
"""
from ml_collections import ConfigDict

from configs import denoising_cifar10, rotation_cifar20

sweep = rotation_cifar20.sweep


def get_config() -> ConfigDict:
  config = denoising_cifar10.get_config()
  config.experiment = 'denoising_cifar20'
  config.data.name = 'cifar100'
  config.data.label = 'coarse_label'  # rows say cifar100_coarse
  return config
