"""ImageNet's features on CelebA, faces without glasses normal: no training.

  python -m deep_oc.train --config=configs/imagenet_celeba.py \\
      --config.encoder.weights=resnet50.pth
  python -m deep_oc.evaluate --runs='runs/imagenet_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 82.4 (KDE), 81.4 (RBF OC-SVM), 58.0
(linear OC-SVM). Classifiers are fitted to 20,000 of the faces. All else is as
in `imagenet_cifar10`.

Another attribute: --config=configs/imagenet_celeba.py:Smiling.
"""
from ml_collections import ConfigDict

from configs import imagenet_cifar10, rotation_celeba

sweep = rotation_celeba.sweep


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return rotation_celeba.on_faces(
      imagenet_cifar10.get_config(), 'imagenet_celeba', attribute)
