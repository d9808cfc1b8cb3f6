"""Deep SVDD (one class) on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/deep_svdd_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/deep_svdd_cifar10/**'

Ruff et al., ICML 2018, table 1, read second-hand: mean AUROC over the ten
classes 64.8, of the distance to the centre: rows with the feature 'score'. So
Sohn et al., ICLR 2021, quote it. A class takes 3,750 steps of 200 images.

As the authors' PyTorch code; see `deep_oc.pretexts.deep_svdd` for the centre
and `deep_oc.models.lenet` for the images. That code first trains an
autoencoder, their Theano scripts for CIFAR-10 do not, nor does this by default;
after `autoencoder_cifar10`, all seeds and classes of it or one:

  --config.encoder.weights='runs/autoencoder_cifar10/{normal}/seed{seed}'

Soft boundary: --config.pretext.objective=soft_boundary.
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'deep_svdd_cifar10'
  config.method = 'deep_svdd'
  # Not bfloat16: it rounds distances that training makes ever smaller.
  config.dtype = 'float32'
  config.pretext = ConfigDict(dict(
      name='deep_svdd',
      objective='one_class',  # or soft_boundary
      nu=0.1,  # share outside of a soft boundary
      warmup_steps=250,  # before its radius is found: ten epochs
      dim=128,  # of the representation
      augment=dict(crop=1.0, flip=0.0)))  # none
  config.encoder = ConfigDict(dict(
      name='lenet', channels=(32, 64, 128),
      weights=config_dict.placeholder(str),  # None: it begins with random ones
      gcn=True))  # global contrast normalisation of each image
  config.optimizer = ConfigDict(dict(
      name='adam_l2', learning_rate=1e-4,
      weight_decay=5e-7,  # coupled L2, as in PyTorch's Adam
      schedule='step', milestones=(50.0,),  # epochs: a tenth from here on
      per='epoch', warmup_epochs=0.0))
  config.train.update(batch=200, epochs=150.0)
  return config
