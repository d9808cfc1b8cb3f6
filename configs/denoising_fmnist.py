"""A denoising autoencoder on Fashion-MNIST, one class normal.

  python -m deep_oc.train --config=configs/denoising_fmnist.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/denoising_fmnist/**'

Sohn et al., ICLR 2021, table 10: mean AUROC 92.5 ± 0.5 (KDE), 92.7 ± 0.5 (RBF
OC-SVM), five seeds; their table 7 has 93.7 ± 0.4 and 93.9 ± 0.4. With the
schedule that is chosen in `denoising_cifar10`, a class takes 190,464 steps of
64 network inputs.
"""
from ml_collections import ConfigDict

from configs import denoising_cifar10

sweep = denoising_cifar10.sweep


def get_config() -> ConfigDict:
  config = denoising_cifar10.get_config()
  config.experiment = 'denoising_fmnist'
  config.data.name = 'fashion_mnist'
  config.data.pad = 2  # 28 px to 32
  return config
