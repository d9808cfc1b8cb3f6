"""Contrastive learning on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/simclr_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/simclr_cifar10/**'

Sohn et al., ICLR 2021, table 8: mean AUROC 89.0 ± 0.7 (RBF OC-SVM and KDE). A
class takes 319,488 steps of 64 network inputs, 0.068 EFLOP.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'simclr_cifar10'
  config.method = 'simclr'
  config.pretext = ConfigDict(dict(
      name='contrastive',
      # One-directional, as the official code; 'nt_xent' is SimCLR's own.
      loss='one_directional',
      temperature=0.2,
      head=(512,) * 8 + (128,),
      augment=config.pretext.augment))
  config.train.batch = 32  # source images; two network inputs each
  return config
