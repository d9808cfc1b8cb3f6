"""RotNet (rotation prediction, linear head) on patches of MVTec AD.

  export MVTEC_AD=/where/mvtec_ad/lies
  python -m deep_oc.train --config=configs/rotnet_mvtec.py:bottle
  python -m deep_oc.evaluate --runs='runs/rotnet_mvtec_*/**'

Sohn et al., ICLR 2021, mean AUROC over the 15 categories: detection 71.0,
localization 92.6, as table 3 of UniCon-HA (ICCV 2023) quotes them. Their
spreads, 3.5 and 1.0, are recalled and unverified. What is not known, and the
cost, are those of `rotation_mvtec`.
"""
from ml_collections import ConfigDict

from configs import rotation_mvtec, rotnet_cifar10


def get_config(category: str = 'bottle') -> ConfigDict:
  config = rotation_mvtec.on_patches(
      rotnet_cifar10.get_config(), 'rotnet_mvtec', category)
  config.train.batch = rotation_mvtec.batch(category)
  return config


def sweep():
  """Yields the overrides of the paper's mean: 15 categories, five seeds."""
  yield from rotation_mvtec.points('rotnet_mvtec')
