"""A run's folder as training leaves it, at step 0: made in seconds."""
import pathlib

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from deep_oc import (checkpoints, experiment, features, runs, sharding, step)
from tests import tiny


def digits(path: pathlib.Path) -> ConfigDict:
  """Returns a config of the digits in an .npz of 16 pixels, padded to 20."""
  config = tiny.get_config()
  config.data = ConfigDict(dict(source='npz', path=str(path), pad=2))
  return config


def parts(folder: pathlib.Path) -> ConfigDict:
  """Writes 30 grey parts as a data set, two of them scratched."""
  rng = np.random.default_rng(0)
  for i in range(30):
    image = np.uint8(rng.normal(120, 12, (20, 20, 3)).clip(0, 255))
    image[5:15, 5:15] //= 2
    where = 'train/good' if i < 24 else 'test/good'
    if i >= 28:
      where, image[8:10, 2:18] = 'test/scratch', 255
    (folder / where).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / where / f'{i:02d}.png')
  config = tiny.get_config()
  config.data = ConfigDict(dict(source='folder', path=str(folder), size=20,
                                cache_dir=str(folder.parent / 'cache')))
  config.protocol.normal = 'good'
  with config.unlocked():
    config.localize = ConfigDict(dict(name='gradcam'))
  return config


def run(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
  """Writes config, checkpoint and embeddings; returns the folder."""
  problem = experiment.problem(config)
  config = experiment.resolved(config, problem)
  runs.claim(str(workdir), config)
  pretext = experiment.pretext(config)
  state = sharding.put(
      step.create_state(
          pretext, experiment.optimizer(config, len(problem.train)),
          config.seed, problem.train.image.shape[1:]),
      sharding.replicated(sharding.mesh()))
  with checkpoints.Checkpoints(workdir) as saved:
    saved.save(state)
  features.export(str(workdir), config, problem, pretext, state)
  return workdir
