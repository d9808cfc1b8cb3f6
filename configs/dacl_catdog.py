"""DACL on cats and dogs, one of them normal.

  python -m deep_oc.train --config=configs/dacl_catdog.py \\
      --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/dacl_catdog/**'

Sohn et al., ICLR 2021, table 7: mean AUROC of the two 89.6 ± 0.5 (RBF OC-SVM),
89.6 ± 0.4 (KDE), five seeds. A class takes 2,560,000 steps of 64 network inputs
of 64 × 64 pixels, 2.18 EFLOP.

Images as in `rotation_catdog`.
"""
from ml_collections import ConfigDict

from configs import dacl_cifar10, rotation_catdog

sweep = rotation_catdog.sweep


def get_config() -> ConfigDict:
  return rotation_catdog.on_pets(dacl_cifar10.get_config(), 'dacl_catdog')
