"""GOAD, centres of 72 geometric transformations, on CIFAR-10.

  python -m deep_oc.train --config=configs/goad_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/goad_cifar10/**'

Bergman and Hoshen, ICLR 2020: mean AUROC over the ten classes 88.2; 85.1 where
Tack et al., NeurIPS 2020, trained it again. A class takes 20,000 steps of 288
network inputs, four images of 72 transformations each.

Where this is not the published code: its blocks lack the inner BatchNorm and
ReLU, which are overwritten there; from the second epoch on its BatchNorm has
frozen statistics; centres are the mean over the last epoch, here over the
training set as the trained network sees it. Images are in [0, 1], not [-1, 1];
edges reflect without the outermost pixel.
"""
from ml_collections import ConfigDict

from configs import geom_cifar10

sweep = geom_cifar10.sweep


def get_config() -> ConfigDict:
  config = geom_cifar10.get_config()
  config.experiment = 'goad_cifar10'
  config.method = 'goad'
  config.pretext = ConfigDict(dict(
      name='goad',
      head=(),  # the encoder's own 256 features
      shift=0.25,  # 8 of 32 pixels, each way
      margin=0.1,
      triplet_weight=0.1,
      norm_weight=10.0,
      augment=dict()))
  config.optimizer.update(name='adam', weight_decay=0.0)
  config.train.update(batch=4, epochs=16.0, checkpoint_every=5000)
  return config
