"""RotNet (rotation prediction, linear head) on CIFAR-100's 20 superclasses.

  python -m deep_oc.train --config=configs/rotnet_cifar20.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/rotnet_cifar20/**'

Sohn et al., ICLR 2021, table 7: mean AUROC over the 20 superclasses 81.9 ± 0.5
(KDE), 80.3 ± 0.5 (the rotation classifier's own score), five seeds. A
superclass takes 79,872 steps of 256 network inputs, 0.068 EFLOP.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar20, rotnet_cifar10

sweep = rotation_cifar20.sweep


def get_config() -> ConfigDict:
  config = rotnet_cifar10.get_config()
  config.experiment = 'rotnet_cifar20'
  config.data.name = 'cifar100'
  config.data.label = 'coarse_label'  # rows say cifar100_coarse
  return config
