"""DACL on CelebA, faces without glasses normal.

  python -m deep_oc.train --config=configs/dacl_celeba.py
  python -m deep_oc.evaluate --runs='runs/dacl_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 88.4 ± 1.4 (linear OC-SVM), 85.6 ± 0.5
(KDE), 84.5 ± 1.1 (RBF OC-SVM); table 5: 90.6 ± 0.4 (Gaussian), five seeds. If
the paper's number of epochs was 2,048 here too (see `rotation_celeba`), it took
some 38 million steps of 64 network inputs of 64 × 64 pixels, 33 EFLOP.

The faces and their turned copies take 7 GB of the device's memory. Another
attribute: --config=configs/dacl_celeba.py:Smiling.
"""
from ml_collections import ConfigDict

from configs import dacl_cifar10, rotation_celeba

sweep = rotation_celeba.sweep


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return rotation_celeba.on_faces(
      dacl_cifar10.get_config(), 'dacl_celeba', attribute)
