"""ImageNet's features on Fashion-MNIST, one class normal: nothing is trained.

  python -m deep_oc.train --config=configs/imagenet_fmnist.py \\
      --config.encoder.weights=resnet50.pth --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/imagenet_fmnist/**'

Sohn et al., ICLR 2021, table 7: mean AUROC 91.8 (RBF OC-SVM), 90.5 (KDE), 77.0
(linear OC-SVM). The network sees grey in three colours. All else is as on
CIFAR-10, and so are an EfficientNet-Lite0's features,
--config=configs/imagenet_fmnist.py:lite0.
"""
from ml_collections import ConfigDict

from configs import imagenet_cifar10, rotation_fmnist

sweep = imagenet_cifar10.sweep


def get_config(network: str = 'resnet50') -> ConfigDict:
  config = imagenet_cifar10.get_config(network)
  config.experiment = config.experiment.replace('cifar10', 'fmnist')
  config.data = rotation_fmnist.get_config().data
  return config
