"""A denoising autoencoder on cats and dogs, one of them normal.

  python -m deep_oc.train --config=configs/denoising_catdog.py \\
      --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/denoising_catdog/**'

Sohn et al., ICLR 2021, table 11: mean AUROC of the two 50.7 ± 1.4 (KDE), 51.0 ±
1.4 (RBF OC-SVM), five seeds; their table 7 has 57.3 ± 1.3 for both, and 61.0 ±
1.5 (linear OC-SVM). With the schedule that is chosen in `denoising_cifar10`, a
class takes 319,488 steps of 64 network inputs of 64 × 64 pixels, 0.27 EFLOP.

Images as in `rotation_catdog`.
"""
from ml_collections import ConfigDict

from configs import denoising_cifar10, rotation_catdog

sweep = rotation_catdog.sweep


def get_config() -> ConfigDict:
  return rotation_catdog.on_pets(
      denoising_cifar10.get_config(), 'denoising_catdog')
