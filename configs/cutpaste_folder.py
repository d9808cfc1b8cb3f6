"""CutPaste, 3-way, on a folder of your own images.

  python -m deep_oc.train --config=configs/cutpaste_folder.py \\
      --config.data.path=my_parts
  python -m deep_oc.evaluate --runs='runs/cutpaste_folder/**'

The method of Li et al., CVPR 2021, as `cutpaste_mvtec`, with half of its steps:
table 7 has 95.4 ± 0.5 for them, 95.2 ± 0.6 for all. 32,768 steps of 96 network
inputs of 256 pixels, 0.05 EFLOP: for a GPU. On CPUs

  --config=configs/cutpaste_folder.py:small

takes ten to thirty minutes on two cores: 128 pixels, half of the width, one
hidden layer, 800 steps of 48 network inputs, in runs/cutpaste_folder_small.
What it finds on MVTec AD, `results/mvtec_cpu.sh` measures.

A second set of images needs a name of its own:
--config.experiment=my_other_parts. `deep_oc/data/folder.py` tells how a folder
may be laid out.
"""
from ml_collections import ConfigDict, config_dict

from configs import cutpaste_mvtec
from deep_oc import errors


def get_config(schedule: str = 'published') -> ConfigDict:
  config = cutpaste_mvtec.get_config()
  config.experiment = 'cutpaste_folder'
  config.data = ConfigDict(dict(
      source='folder',
      path=config_dict.placeholder(str),  # needed
      # Where the anomalous ones are, if `path` holds normal ones only.
      anomalous_path=config_dict.placeholder(str),
      size=256,  # height in pixels, and width, where that is not given
      width=config_dict.placeholder(int),
      # Whether images that cannot be read are left out, with a note each.
      skip_corrupt=config_dict.placeholder(bool),
      cache_dir=config_dict.placeholder(str)))
  config.train.steps = 32_768
  if schedule == 'small':
    config.experiment = 'cutpaste_folder_small'
    # Scars stay those of 256 pixels, 2 to 16 by 10 to 25: in the image twice as
    # large as the paper's. Patches are parts of its area.
    config.data.size = 128
    config.encoder.width = 0.5
    config.pretext.head = (128,)
    config.train.update(batch=16, steps=800, log_every=50, monitor_every=200,
                        checkpoint_every=200)
  elif schedule != 'published':
    raise errors.unknown('schedule', schedule, ('published', 'small'))
  return config


def sweep():
  """Yields five seeds."""
  for seed in range(5):
    yield {'seed': seed}
