"""Rotation prediction with an MLP head on CIFAR-10, one class normal.

  python -m deep_oc.train --config=configs/rotation_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/rotation_cifar10/**'

Sohn et al., ICLR 2021, table 8: mean AUROC over the ten classes 91.3 ± 0.3
(KDE), 90.8 ± 0.3 (RBF OC-SVM), five seeds. A class takes 159,744 steps of 256
network inputs, 0.136 EFLOP.
"""
from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      experiment='rotation_cifar10',  # names the run's folder
      method='rotation',  # what the result rows call it
      seed=0,
      dtype='auto',  # compute: bfloat16 on GPU and TPU, float32 on CPU
      data=dict(
          source='tfds', name='cifar10', pad=0,
          data_dir=config_dict.placeholder(str),  # None: TFDS's own default
          cache_dir=config_dict.placeholder(str)),
      protocol=dict(
          name='one_vs_rest',  # or contaminated, semi_supervised, validation
          normal='0',  # label or name; of several classes, '3+5'
          contamination=config_dict.placeholder(float),  # share; None: 0.05
          clean=config_dict.placeholder(int),  # images; None: 50
          # Share of the normal images that nothing learns from: for alarms.
          calibration=config_dict.placeholder(float)),
      distribution='none',  # copies of the training set: none, rot, ...
      pretext=dict(
          name='rotation',
          head=(512,) * 8,
          augment=dict(
              crop=0.5,  # smallest side of the square crop, as a fraction
              flip=0.5,
              # Additive brightness; factors and hue shift, unclipped.
              brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4,
              jitter_order='fixed',  # or 'random', for each image
              grey=0.2,
              # The official code lists blur at 0.5 but skips it in training.
              blur=0.0)),
      encoder=dict(
          name='resnet', depth=18, width=1.0,
          weights=config_dict.placeholder(str),  # a run or file to begin with
          remat=False),  # True: less memory, a forward pass more a step
      optimizer=dict(
          name='sgd', learning_rate=0.01, momentum=0.9,
          weight_decay=3e-4,  # coupled L2 on all parameters
          schedule='cosine', per='epoch', warmup_epochs=0.0),
      train=dict(
          batch=64,  # source images; four network inputs each
          epochs=2048.0,
          steps=0,  # 0: as many as the epochs give
          batch_norm_groups=1,  # 8: statistics of each of 8 parts of a batch
          accumulate=1,  # parts of a batch, one after the other
          ema=0.0,  # decay of an average of the weights, which then counts
          placement='auto',  # of the images: replicated, sharded or streamed
          log_every=100, monitor_every=1000, checkpoint_every=5000),
      # Another feature, of several views (flip, rot, flip_rot, crop_flip_rot)
      # and of as many of the encoder's last stages.
      embed=dict(views='none', stages=1)))


def sweep():
  """Yields the overrides of the paper's table: ten classes, five seeds."""
  for normal in range(10):
    for seed in range(5):
      yield {'protocol.normal': str(normal), 'seed': seed}
