"""Deep SVDD (one class) on Fashion-MNIST, one class normal.

  python -m deep_oc.train --config=configs/deep_svdd_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/deep_svdd_fmnist/**'

Ruff et al., ICML 2018, have no number for this data set. Liznerski et al., ICLR
2021, quote a mean AUROC of 93 for Deep SVDD, read second-hand; of which network
and with what pre-training was not. All else is as on CIFAR-10. A class takes
4,500 steps of 200 images.
"""
from ml_collections import ConfigDict

from configs import deep_svdd_cifar10

sweep = deep_svdd_cifar10.sweep


def get_config() -> ConfigDict:
  config = deep_svdd_cifar10.get_config()
  config.experiment = 'deep_svdd_fmnist'
  config.data.name = 'fashion_mnist'
  config.data.pad = 2  # 28 px to 32
  config.pretext.warmup_steps = 300  # ten epochs, of 6,000 images
  return config
