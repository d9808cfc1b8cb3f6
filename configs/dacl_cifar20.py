"""DACL on CIFAR-100's 20 superclasses, one of them normal.

  python -m deep_oc.train --config=configs/dacl_cifar20.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/dacl_cifar20/**'

Sohn et al., ICLR 2021, table 7: mean AUROC over the 20 superclasses 86.5 ± 0.7
(RBF OC-SVM and KDE), five seeds. A superclass takes 638,976 steps of 64 network
inputs, 0.136 EFLOP.
"""
from ml_collections import ConfigDict

from configs import dacl_cifar10, rotation_cifar20

sweep = rotation_cifar20.sweep


def get_config() -> ConfigDict:
  config = dacl_cifar10.get_config()
  config.experiment = 'dacl_cifar20'
  config.data.name = 'cifar100'
  config.data.label = 'coarse_label'  # rows say cifar100_coarse
  return config
