"""Contrastive learning on Fashion-MNIST, one class normal.

  python -m deep_oc.train --config=configs/simclr_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/simclr_fmnist/**'

Sohn et al., ICLR 2021, table 10: mean AUROC 93.9 ± 0.3 (RBF OC-SVM). A class
takes 382,976 steps of 64 network inputs.
"""
from ml_collections import ConfigDict

from configs import simclr_cifar10

sweep = simclr_cifar10.sweep


def get_config() -> ConfigDict:
  config = simclr_cifar10.get_config()
  config.experiment = 'simclr_fmnist'
  config.data.name = 'fashion_mnist'
  config.data.pad = 2  # 28 px to 32
  return config
