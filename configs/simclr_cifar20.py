"""Contrastive learning on CIFAR-100's 20 superclasses.

  python -m deep_oc.train --config=configs/simclr_cifar20.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/simclr_cifar20/**'

Sohn et al., ICLR 2021, table 7: mean AUROC over the 20 superclasses 82.4 ± 0.8
(RBF OC-SVM and KDE), five seeds. A superclass takes 159,744 steps of 64 network
inputs, 0.034 EFLOP.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar20, simclr_cifar10

sweep = rotation_cifar20.sweep


def get_config() -> ConfigDict:
  config = simclr_cifar10.get_config()
  config.experiment = 'simclr_cifar20'
  config.data.name = 'cifar100'
  config.data.label = 'coarse_label'  # rows say cifar100_coarse
  return config
