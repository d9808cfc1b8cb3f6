"""RotNet (linear head) on cats and dogs, one of them normal.

  python -m deep_oc.train --config=configs/rotnet_catdog.py \\
      --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/rotnet_catdog/**'

Sohn et al., ICLR 2021, table 7: mean AUROC of the two 86.4 ± 0.2 (KDE), 86.1 ±
0.3 (the rotation classifier's own score), five seeds. A class takes 319,488
steps of 256 network inputs of 64 × 64 pixels, 1.09 EFLOP.

Images as in `rotation_catdog`.
"""
from ml_collections import ConfigDict

from configs import rotation_catdog, rotnet_cifar10

sweep = rotation_catdog.sweep


def get_config() -> ConfigDict:
  return rotation_catdog.on_pets(rotnet_cifar10.get_config(), 'rotnet_catdog')
