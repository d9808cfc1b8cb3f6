"""Contrastive learning with distribution augmentation on Fashion-MNIST.

  python -m deep_oc.train --config=configs/dacl_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/dacl_fmnist/**'

Sohn et al., ICLR 2021, table 10: mean AUROC 94.8 ± 0.3 (RBF OC-SVM). A class
takes 1,536,000 steps of 64 network inputs.
"""
from ml_collections import ConfigDict

from configs import dacl_cifar10

sweep = dacl_cifar10.sweep


def get_config() -> ConfigDict:
  config = dacl_cifar10.get_config()
  config.experiment = 'dacl_fmnist'
  config.data.name = 'fashion_mnist'
  config.data.pad = 2  # 28 px to 32
  return config
