"""ImageNet's features on cats and dogs, one of them normal: nothing is trained.

  python -m deep_oc.train --config=configs/imagenet_catdog.py \\
      --config.encoder.weights=resnet50.pth --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/imagenet_catdog/**'

Sohn et al., ICLR 2021, table 7: mean AUROC of the two 74.6 (KDE), 74.5 (RBF
OC-SVM), 61.0 (linear OC-SVM). Images as in `rotation_catdog`, all else as in
`imagenet_cifar10`.
"""
from ml_collections import ConfigDict

from configs import imagenet_cifar10, rotation_catdog


def get_config() -> ConfigDict:
  return rotation_catdog.on_pets(
      imagenet_cifar10.get_config(), 'imagenet_catdog')


def sweep():
  """Yields the overrides of the paper's table: two classes."""
  yield from imagenet_cifar10.once(rotation_catdog.sweep())
