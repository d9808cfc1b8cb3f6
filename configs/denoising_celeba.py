"""A denoising autoencoder on CelebA, faces without glasses normal.

  python -m deep_oc.train --config=configs/denoising_celeba.py
  python -m deep_oc.evaluate --runs='runs/denoising_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 67.0 ± 0.7 (KDE), 66.8 ± 0.9 (RBF
OC-SVM), 59.8 ± 4.0 (linear OC-SVM), five seeds. With the schedule that is
chosen in `denoising_cifar10`, some 5 million steps of 64 network inputs of
64 × 64 pixels, 4 EFLOP; config.train.steps shortens it.

Another attribute: --config=configs/denoising_celeba.py:Smiling.
"""
from ml_collections import ConfigDict

from configs import denoising_cifar10, rotation_celeba

sweep = rotation_celeba.sweep


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return rotation_celeba.on_faces(
      denoising_cifar10.get_config(), 'denoising_celeba', attribute)
