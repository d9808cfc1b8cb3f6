"""A config that trains in seconds, for the tests of whole binaries."""
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      experiment='tiny', method='rotation', seed=0, dtype='float32',
      data=dict(source='npz', path='', name='digits'),
      protocol=dict(name='one_vs_rest', normal='3'),
      distribution='none',
      pretext=dict(name='rotation', head=(16, 16),
                   augment=dict(crop=0.75, brightness=0.1)),
      encoder=dict(name='convnet', channels=(8, 16)),
      optimizer=dict(name='sgd', learning_rate=0.05, momentum=0.9,
                     weight_decay=3e-4, schedule='cosine', per='step'),
      train=dict(batch=16, epochs=1.0, steps=60, log_every=10,
                 monitor_every=20, checkpoint_every=20)))
