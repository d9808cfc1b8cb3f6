"""Deep SVDD (one class) on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/deep_svdd_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/deep_svdd_cifar10/**'

Ruff et al., ICML 2018, table 1, read second-hand: mean AUROC over the ten
classes 64.8, of the distance to the centre: rows with the feature 'score'. So
Sohn et al., ICLR 2021, quote it. A class takes 3,750 steps of 200 images.

As the authors' PyTorch code, but without its autoencoder, trained first; see
`deep_oc.pretexts.deep_svdd` for the centre and `deep_oc.models.lenet` for the
images. Soft boundary: --config.pretext.objective=soft_boundary.
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      experiment='deep_svdd_cifar10',  # names the run's folder
      method='deep_svdd',  # what the result rows call it
      seed=0,
      # Not bfloat16: it rounds distances that training makes ever smaller.
      dtype='float32',
      data=dict(
          source='tfds', name='cifar10', pad=0,
          data_dir=config_dict.placeholder(str),  # None: TFDS's own default
          cache_dir=config_dict.placeholder(str)),
      protocol=dict(
          name='one_vs_rest',  # or contaminated, semi_supervised, validation
          normal='0',  # label or name; of several classes, '3+5'
          contamination=config_dict.placeholder(float),  # share; None: 0.05
          clean=config_dict.placeholder(int)),  # images; None: 50
      distribution='none',  # copies of the training set: none, rot, ...
      pretext=dict(
          name='deep_svdd',
          objective='one_class',  # or soft_boundary
          nu=0.1,  # share outside of a soft boundary
          warmup_steps=250,  # before its radius is found: ten epochs
          dim=128,  # of the representation
          augment=dict(crop=1.0, flip=0.0)),  # none
      encoder=dict(
          name='lenet', channels=(32, 64, 128),
          gcn=True),  # global contrast normalisation of each image
      optimizer=dict(
          name='adam_l2', learning_rate=1e-4,
          weight_decay=5e-7,  # coupled L2, as in PyTorch's Adam
          schedule='step', milestones=(50.0,),  # epochs: a tenth from here on
          per='epoch', warmup_epochs=0.0),
      train=dict(
          batch=200,  # images
          epochs=150.0,
          steps=0,  # 0: as many as the epochs give
          batch_norm_groups=1,  # 8: statistics of each of 8 parts of a batch
          accumulate=1,  # parts of a batch, one after the other
          ema=0.0,  # decay of an average of the weights, which then counts
          placement='auto',  # of the images: replicated, sharded or streamed
          log_every=100, monitor_every=1000, checkpoint_every=5000),
      # Another feature, of several views (flip, rot, flip_rot, crop_flip_rot)
      # and of as many of the encoder's last stages.
      embed=dict(views='none', stages=1)))
