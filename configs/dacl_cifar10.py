"""Contrastive learning with distribution augmentation (DACL) on CIFAR-10.

  python -m deep_oc.train --config=configs/dacl_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/dacl_cifar10/**'

Sohn et al., ICLR 2021, table 8: mean AUROC 92.5 ± 0.6 (RBF OC-SVM), 92.4 ± 0.7
(KDE), five seeds. A class takes 1,280,000 steps of 64 network inputs, 0.273
EFLOP.
"""
from ml_collections import ConfigDict

from configs import simclr_cifar10

sweep = simclr_cifar10.sweep


def get_config() -> ConfigDict:
  config = simclr_cifar10.get_config()
  config.experiment = 'dacl_cifar10'
  config.method = 'dacl'
  # The four quarter turns of each image, as further images and negatives.
  config.distribution = 'rot'
  config.train.checkpoint_every = 20_000
  return config
