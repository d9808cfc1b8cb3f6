"""Contrastive learning on CelebA, faces without glasses normal.

  python -m deep_oc.train --config=configs/simclr_celeba.py
  python -m deep_oc.evaluate --runs='runs/simclr_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 91.7 ± 0.7 (linear OC-SVM), 84.6 ± 2.5
(KDE), 83.5 ± 2.4 (RBF OC-SVM), five seeds. If the paper's number of epochs was
2,048 here too (see `rotation_celeba`), it took some 10 million steps of 64
network inputs of 64 × 64 pixels, 8 EFLOP.

Another attribute: --config=configs/simclr_celeba.py:Smiling.
"""
from ml_collections import ConfigDict

from configs import rotation_celeba, simclr_cifar10

sweep = rotation_celeba.sweep


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return rotation_celeba.on_faces(
      simclr_cifar10.get_config(), 'simclr_celeba', attribute)
