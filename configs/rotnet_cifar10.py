"""RotNet (rotation prediction, linear head) on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/rotnet_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/rotnet_cifar10/**'

Sohn et al., ICLR 2021, table 8: mean AUROC 89.3 ± 0.3 (KDE), 86.8 ± 0.4 (the
rotation classifier's own score). Cost as `rotation_cifar10`.

Their code has two such scores, of the upright image and of its four turns
(`upright` and `rotation` in `deep_oc.scores`), and their tables do not say
which they show. In ours the published numbers stand beside `upright`.
"""
from ml_collections import ConfigDict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'rotnet_cifar10'
  config.method = 'rotnet'
  config.pretext.head = ()
  return config
