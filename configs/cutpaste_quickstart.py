"""Defects and where they are, in two minutes on two cores, offline.

  python -m deep_oc.train --config=configs/cutpaste_quickstart.py
  python -m deep_oc.evaluate --runs='runs/cutpaste_quickstart/**'

CutPaste, 3-way, on crops of generated pictures of woven fabric: holes, stains,
broken threads and the like are in the test images only, with their masks. A
demonstration, not a benchmark: that a window is a quarter of the image was
chosen after the maps of one run with windows of a half. For real defects see
`cutpaste_mvtec` and `cutpaste_folder`.
"""
from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      experiment='cutpaste_quickstart',
      method='cutpaste_3way_patch',
      seed=0,
      dtype='float32',
      data=dict(source='builtin', name='woven_fabric'),
      protocol=dict(
          name='one_vs_rest', normal='good',
          # Share of the normal images that nothing learns from: for alarms.
          calibration=config_dict.placeholder(float)),
      distribution='none',
      pretext=dict(
          name='cutpaste', task='3way',
          crop=16,  # pixels, a quarter of the image's side
          head=(),
          augment=dict(brightness=0.1, contrast=0.1, clip=True),
          defects=dict(scar_width=(1, 3), scar_length=(4, 10))),
      encoder=dict(
          name='patchnet', channels=(32, 32, 64, 64), strides=(1, 1, 2, 1),
          weights=config_dict.placeholder(str)),  # a run to begin with
      optimizer=dict(
          name='sgd', learning_rate=0.03, momentum=0.9, weight_decay=3e-5,
          schedule='cosine', per='step', warmup_epochs=0.0),
      train=dict(
          batch=32, epochs=1.0, steps=1000, log_every=100, monitor_every=500,
          checkpoint_every=500, batch_norm_groups=1, accumulate=1, ema=0.0,
          placement='auto'),
      localize=dict(name='windows', side=16, stride=2, positions='shared'),
      embed=dict(views='none', stages=1)))


def sweep():
  """Yields five seeds."""
  for seed in range(5):
    yield {'seed': seed}
