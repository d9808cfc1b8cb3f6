"""ImageNet's features on CIFAR-100's 20 superclasses: nothing is trained.

  python -m deep_oc.train --config=configs/imagenet_cifar20.py \\
      --config.encoder.weights=resnet50.pth --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/imagenet_cifar20/**'

Sohn et al., ICLR 2021, table 7: mean AUROC over the 20 superclasses 83.7 (KDE
and RBF OC-SVM), 71.0 (linear OC-SVM). All else is as on CIFAR-10, and so are
an EfficientNet-Lite0's features, --config=configs/imagenet_cifar20.py:lite0.
"""
from ml_collections import ConfigDict

from configs import imagenet_cifar10, rotation_cifar20


def get_config(network: str = 'resnet50') -> ConfigDict:
  config = imagenet_cifar10.get_config(network)
  config.experiment = config.experiment.replace('cifar10', 'cifar20')
  config.data = rotation_cifar20.get_config().data
  return config


def sweep():
  """Yields the overrides of the paper's table: 20 superclasses."""
  yield from imagenet_cifar10.once(rotation_cifar20.sweep())
