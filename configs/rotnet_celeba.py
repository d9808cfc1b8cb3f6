"""RotNet (linear head) on CelebA, faces without glasses normal.

  python -m deep_oc.train --config=configs/rotnet_celeba.py
  python -m deep_oc.evaluate --runs='runs/rotnet_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 77.4 ± 1.0 (KDE), 51.4 ± 3.9 (the
rotation classifier's own score), five seeds. If the paper's number of epochs
was 2,048 here too (see `rotation_celeba`), it took some 5 million steps of 256
network inputs of 64 × 64 pixels, 16 EFLOP.

Another attribute: --config=configs/rotnet_celeba.py:Smiling.
"""
from ml_collections import ConfigDict

from configs import rotation_celeba, rotnet_cifar10

sweep = rotation_celeba.sweep


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return rotation_celeba.on_faces(
      rotnet_cifar10.get_config(), 'rotnet_celeba', attribute)
