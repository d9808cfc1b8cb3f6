"""RotNet (rotation prediction, linear head) on Fashion-MNIST, one class normal.

  python -m deep_oc.train --config=configs/rotnet_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/rotnet_fmnist/**'

Sohn et al., ICLR 2021, table 10: mean AUROC 94.6 ± 0.3 (KDE). A class takes
190,464 steps of 256 network inputs.
"""
from ml_collections import ConfigDict

from configs import rotnet_cifar10

sweep = rotnet_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotnet_cifar10.get_config()
  config.experiment = 'rotnet_fmnist'
  config.data.name = 'fashion_mnist'
  config.data.pad = 2  # 28 px to 32
  return config
