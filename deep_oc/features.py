"""Features of whole splits, and the files that stage 2 reads."""
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import tqdm

from deep_oc import data, embeddings, experiment, sharding, step

# Larger images are shrunk for the raw-pixel baseline.
PIXEL_SIDE = 32

BATCH = 256  # images per forward pass, fewer if they are large
_PIXELS = 2**20  # of a forward pass; bounds the memory


@functools.cache  # compiled once, for the monitor and for the export
def embedder(pretext: nn.Module, mesh: jax.sharding.Mesh, batch: int = BATCH,
             method: str = 'embed') -> Callable:
  """Returns (variables, images u8[n, h, w, c]) -> {name: f32[n, ...]}.

  Images of one size go through in batches of one size, the last one padded,
  so that one program serves all: at most `batch` images and _PIXELS pixels,
  rounded up to what the devices share.
  """
  spread = sharding.split(mesh)

  @jax.jit
  def forward(variables, image):
    image = jax.lax.with_sharding_constraint(image, spread)
    return pretext.apply(variables, step.to_float(image), method=method)

  def embed(variables: Mapping[str, Any], images: np.ndarray,
            description: str | None = None) -> dict[str, np.ndarray]:
    size = min(batch, max(_PIXELS // (images.shape[1] * images.shape[2]), 1))
    size += -size % mesh.size
    parts = []
    for start in tqdm.trange(0, len(images), size, desc=description,
                             disable=None if description else True,
                             leave=False):
      image = images[start:start + size]
      padding = [(0, size - len(image))] + [(0, 0)] * (image.ndim - 1)
      feature = forward(variables, np.pad(image, padding))
      parts.append({name: np.asarray(x)[:len(image)]
                    for name, x in feature.items()})
    return {name: np.concatenate([part[name] for part in parts])
            for name in parts[0]}

  return embed


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: data.Problem, pretext: nn.Module, state: step.State,
           batch: int = BATCH) -> None:
  """Writes both embeddings files of a run."""
  mesh = sharding.mesh()
  untrained = step.init(pretext, config.seed, problem.train.image.shape[1:])
  meta = experiment.meta(config, problem, int(state.step))
  embed = embedder(pretext, mesh, batch)
  score = embedder(pretext, mesh, batch, method='scores') \
      if hasattr(pretext, 'scores') else None
  for split, examples, index in (
      ('train', problem.train, problem.train_index),
      ('test', problem.test, problem.test_index)):
    say = functools.partial('{} {}'.format, split)
    arrays = embed(state.variables, examples.image, say('features'))
    arrays['random'] = embed(untrained, examples.image, say('baseline'))['pool']
    arrays['pixels'] = pixels(examples.image)
    if score and split == 'test':
      arrays |= {f'score_{name}': value for name, value in score(
          state.variables, examples.image, say('scores')).items()}
    anomaly = examples.anomaly
    if anomaly is None:
      anomaly = np.zeros(len(index), bool)  # the normals of the training set
    arrays |= {'label': examples.label, 'anomaly': anomaly, 'index': index}
    if examples.path is not None:
      arrays['path'] = examples.path
    embeddings.write(pathlib.Path(workdir) / 'embeddings' / f'{split}.npz',
                     arrays, meta)


def pixels(image: np.ndarray) -> np.ndarray:
  """Flattens u8[n, h, w, c], shrunk to about PIXEL_SIDE by block means."""
  n, h, w, c = image.shape
  block = max(-(-max(h, w) // PIXEL_SIDE), 1)
  h, w = h // block, w // block
  blocks = image[:, :h * block, :w * block].reshape(n, h, block, w, block, c)
  mean = blocks.mean((2, 4)) if block > 1 else blocks[:, :, 0, :, 0]
  return mean.round().astype(np.uint8).reshape(n, -1)
