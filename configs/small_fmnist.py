"""Rotation, SimCLR or DACL on Fashion-MNIST, small, for two CPU cores.

  python -m deep_oc.train --config=configs/small_fmnist.py:rotation \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/small_fmnist_*/**'

For questions that need many trainings, not for a published number: 500 steps of
64 network inputs, half a minute each. Encoder, head, rate and steps were
guessed once and kept; no test score chose them.
"""
from ml_collections import ConfigDict

from configs import dacl_fmnist, rotation_fmnist, simclr_fmnist
from deep_oc import errors

_METHODS = {'rotation': (rotation_fmnist, 16, (256,)),
            'simclr': (simclr_fmnist, 32, (256, 128)),
            'dacl': (dacl_fmnist, 32, (256, 128))}


def get_config(method: str = 'rotation') -> ConfigDict:
  if method not in _METHODS:
    raise errors.unknown('method', method, _METHODS)
  published, batch, head = _METHODS[method]
  config = published.get_config()
  config.experiment = f'small_fmnist_{method}'
  config.encoder = ConfigDict(dict(
      name='convnet', channels=(32, 64, 128, 128)))
  config.pretext.head = head
  config.optimizer.update(learning_rate=0.03, per='step')
  config.train.update(batch=batch, steps=500, checkpoint_every=500)
  return config


def sweep():
  """Yields all ten classes, two seeds each."""
  for normal in range(10):
    for seed in range(2):
      yield {'protocol.normal': str(normal), 'seed': seed}
