"""Features of whole splits, and the files that stage 2 reads."""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from deep_oc import (convolution, data, distributed, embeddings, experiment,
                     orientation, pretexts, progress, protocols, sharding, step)
from deep_oc.bundle import passes
from deep_oc.errors import InputError

BATCH = 256  # images per forward pass, fewer if they are large
_METHODS = {'score': 'scores', 'statistics': 'statistics'}  # of a task
_SUMMED = 1024  # images whose statistics are held at once


@functools.cache  # compiled once, for the monitor and for the export
def embedder(pretext: nn.Module, mesh: jax.sharding.Mesh, batch: int = BATCH,
             feature: str = 'pool') -> Callable:
  """Returns (variables, images u8[n, h, w, c]) -> {name: f32[n, ...]}.

  Images may also be f32, in [0, 1] or what a task has made of such. With 'pool'
  that is what `embed` of the task returns, its 'head' too; with the name of one
  of `deep_oc.orientation` that feature; with 'score' the task's own scores,
  with 'statistics' its statistics.

  Images of one size go through in batches of one size, the last one padded,
  so that one program serves all: at most `batch` images and the pixels that
  `passes.pixels_at_once` allows, of all views, rounded up to what the devices
  share. Every process gets all features. They come from XLA's own convolutions,
  which round less than those of training and are those of a bundle: a density
  may stretch a rounding a thousandfold.
  """
  spread = sharding.split(mesh)
  method = _METHODS.get(feature)
  views = len(orientation.of_scores(pretext) if method
              else orientation.members(feature))

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def forward(variables, image):
    image = step.to_float(image)
    with convolution.precise():
      if method:
        found = pretext.apply(variables, image, method=method)
        pretexts.check_arrays(found, method)
        return found
      return orientation.look(pretext, variables, image, feature)[0]

  def embed(variables: Mapping[str, Any], images: np.ndarray,
            description: str | None = None) -> dict[str, np.ndarray]:
    size = at_once(views, *pretexts.extent(pretext, *images.shape[1:3]), mesh,
                   batch)
    parts = []
    for start in progress.batches(range(0, len(images), size), description):
      image = images[start:start + size]
      padding = [(0, size - len(image))] + [(0, 0)] * (image.ndim - 1)
      parts.append(forward(
          variables, sharding.put(np.pad(image, padding), spread)))
      if len(parts) > 1:  # fetched while the device computes the next
        parts[-2] = jax.device_get(parts[-2])
    parts[-1] = jax.device_get(parts[-1])
    return {name: np.concatenate([part[name] for part in parts])[:len(images)]
            for name in parts[0]}

  return embed


def at_once(views: int, height: int, width: int, mesh: jax.sharding.Mesh,
            batch: int = BATCH) -> int:
  """Returns how many images go through a network at once, at most."""
  size = min(
      batch, max(passes.pixels_at_once() // (views * height * width), 1))
  return size + -size % mesh.size


def concluded(pretext: nn.Module, state: step.State, images: np.ndarray,
              batch: int = BATCH) -> step.State:
  """Returns the state with what the task's scores need of the training images.

  These are u8[n, h, w, c], those that classifiers are fitted to. The state is
  as it was if the scores need nothing of them.
  """
  return state.replace(collections=state.collections | statistics(
      pretext, state.variables, images, batch))


def statistics(pretext: nn.Module, variables: Mapping[str, Any],
               images: np.ndarray, batch: int = BATCH) -> dict[str, Any]:
  """Returns the collection that the task's `statistics` make.

  Of u8[n, h, w, c], as the network of the variables sees them; {} if the task
  has none.

  Raises:
    InputError: it does not fit what the task has `pretexts.Fitted` of.
  """
  if 'statistics' not in variables:
    return {}
  if not hasattr(pretext, 'statistics'):
    raise InputError('the pretext task has pretexts.Fitted, and no method '
                     '`statistics` that it could come from')
  mesh = sharding.mesh()
  look = embedder(pretext, mesh, batch, 'statistics')
  total = {}
  for start in progress.bar(range(0, len(images), _SUMMED), 'statistics',
                            unit='parts', leave=False):
    found = look(variables, images[start:start + _SUMMED])
    for name, values in found.items():
      total[name] = total.get(name, 0) + values.sum(axis=0, dtype=np.float64)
  means = {name: value / len(images) for name, value in total.items()}
  found = pretext.fitted(means) if hasattr(pretext, 'fitted') else means
  found = {name: {'value': np.float32(each)} for name, each in found.items()}
  wanted = variables['statistics']
  if _shapes(found) != _shapes(wanted):
    raise InputError(f"the pretext task's `statistics` make {_shapes(found)}, "
                     f'and it has pretexts.Fitted of {_shapes(wanted)}')
  return {'statistics': sharding.put(found, sharding.replicated(mesh))}


def _shapes(collection):
  return {name: list(each['value'].shape)
          for name, each in collection.items()}


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: protocols.Problem, pretext: nn.Module, state: step.State,
           batch: int = BATCH) -> None:
  """Writes the embeddings files of a run.

  `train.npz` holds what classifiers are fitted to, `unlabelled.npz`, under the
  protocol 'semi_supervised', what only the encoder has seen, `calibration.npz`
  what nothing has learnt from, if images are held out. All their rows have
  `anomaly` False, for so they are taken; where the protocol contaminates them,
  `contaminant` bool[n] is the truth, which nothing is fitted to.
  """
  mesh = sharding.mesh()
  untrained = step.untrained(
      pretext, config.seed, problem.train.image.shape[1:], state.variables)
  meta = experiment.meta(workdir, config, problem, int(state.step))
  more = {'test': {'class_names': problem.class_names}}
  embed = embedder(pretext, mesh, batch)
  other = experiment.embed(config).feature
  embed_other = embedder(pretext, mesh, batch, other) \
      if other != 'pool' else None
  score = embedder(pretext, mesh, batch, 'score') \
      if hasattr(pretext, 'scores') else None
  for split, (examples, about) in _files(problem).items():
    say = functools.partial('{} {}'.format, split)
    arrays = embed(state.variables, examples.image, say('features'))
    if embed_other:
      arrays |= embed_other(state.variables, examples.image, say(other))
    arrays['random'] = embed(untrained, examples.image, say('baseline'))['pool']
    arrays['pixels'] = embeddings.pixels(examples.image)
    if score and split in ('test', 'calibration'):
      arrays |= {f'score_{name}': value for name, value in score(
          state.variables, examples.image, say('scores')).items()}
    arrays |= {'label': examples.label} | about
    if examples.path is not None:
      arrays['path'] = examples.path
    if distributed.is_first():
      embeddings.write(f'{workdir}/embeddings/{split}.npz', arrays,
                       meta | more.get(split, {}))


def _files(problem: protocols.Problem
           ) -> dict[str, tuple[data.Examples, dict[str, np.ndarray]]]:
  """Returns by file name its images and what is written of each."""
  taken = {'train': (problem.fitted, problem.fitted_index)}
  if len(problem.unlabelled):
    taken['unlabelled'] = (problem.train.take(problem.unlabelled),
                           problem.train_index[problem.unlabelled])
  if len(problem.calibration):
    taken['calibration'] = problem.calibration, problem.calibration_index
  files = {}
  for name, (examples, index) in taken.items():
    about = {'anomaly': np.zeros(len(index), bool), 'index': index}
    if 'contamination' in problem.settings:
      about['contaminant'] = examples.anomaly
    files[name] = examples, about
  return files | {'test': (problem.test, {'anomaly': problem.test.anomaly,
                                          'index': problem.test_index})}
