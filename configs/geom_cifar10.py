"""GEOM, which of 72 geometric transformations it was, on CIFAR-10.

  python -m deep_oc.train --config=configs/geom_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/geom_cifar10/**'

Golan and El-Yaniv, NeurIPS 2018: mean AUROC over the ten classes 86.0, five
runs. A class takes 8,424 steps of 128 network inputs: three passes over 72
copies of each image.

The published numbers are of the score `dirichlet`, a density of the softmax
vectors of each transformation; `transformation`, the mean probability of what
was applied, is the paper's simple one. Different from the published code:
copies are drawn, each image once a pass, where the code shuffles all; images
are in [0, 1], not [-1, 1]; edges reflect without the outermost pixel;
convolutions with stride 2 are padded on all sides, and begin with a deviation
of sqrt(2 / outputs), not sqrt(2 / inputs); the classifier begins by Glorot and
Bengio's rule, not uniformly within 1 / sqrt(inputs).
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'geom_cifar10'
  config.method = 'geom'
  config.pretext = ConfigDict(dict(
      name='transformations',
      head=(),
      flip=True,  # or 36 without
      shift=0.25,  # 8 of 32 pixels, each way
      factorised=False,  # one softmax over all
      inputs_per_image=1,  # transformations drawn of an image in a step
      augment=dict()))
  config.encoder = ConfigDict(dict(
      name='wide_resnet', depth=10, width=4,
      weights=config_dict.placeholder(str)))  # a run to begin with
  config.optimizer.update(
      name='adam_l2', learning_rate=1e-3, weight_decay=5e-4,
      schedule='constant', per='step')
  config.train.update(batch=128, epochs=3 * 72.0, checkpoint_every=2000)
  return config
