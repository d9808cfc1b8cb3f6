"""Contrastive learning on cats and dogs, one of them normal.

  python -m deep_oc.train --config=configs/simclr_catdog.py \\
      --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/simclr_catdog/**'

Sohn et al., ICLR 2021, table 7: mean AUROC of the two 87.7 ± 0.5 (RBF OC-SVM),
87.7 ± 0.4 (KDE), five seeds. A class takes 638,976 steps of 64 network inputs
of 64 × 64 pixels, 0.54 EFLOP.

Images as in `rotation_catdog`.
"""
from ml_collections import ConfigDict

from configs import rotation_catdog, simclr_cifar10

sweep = rotation_catdog.sweep


def get_config() -> ConfigDict:
  return rotation_catdog.on_pets(simclr_cifar10.get_config(), 'simclr_catdog')
