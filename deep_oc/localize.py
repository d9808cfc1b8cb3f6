"""Where an image is abnormal: heat maps of a trained run.

  python -m deep_oc.localize --workdir=runs/cutpaste_patch_mvtec_bottle/0/seed0

writes `embeddings/maps.npz`: a score for every pixel of the test images, by the
trained encoder and, as the baseline, by the same encoder before training.
`deep_oc.train` does the same at its end if the config has a group `localize`,
the arguments of one function below; its fields can be set here with
--set=stride=8. `deep_oc.evaluate` measures the maps and draws them.
"""
import ast
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import tqdm
from absl import flags

from deep_oc import (cli, data, densities, embed, embeddings, errors,
                     experiment, features, gradcam, oneclass, plugins, sharding,
                     step, windows)
from deep_oc.errors import InputError

_MEMORY = 2**30  # bytes of window features held at once, about
_MAPS = 32  # images per forward pass of Grad-CAM

Maps = tuple[np.ndarray, dict[str, object]]


def define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_integer(
      'step', None, 'Step of the checkpoint; the newest by default.')
  flags.DEFINE_string(
      'data_dir', None, 'Where the images lie now, if they moved.')
  flags.DEFINE_multi_string(
      'set', [], 'A field of the group `localize`, for example stride=8 or '
      'name=gradcam.')


def by_windows(pretext: nn.Module, train: np.ndarray, test: np.ndarray,
               seed: int, *, side: int = 32, stride: int = 4,
               positions: str = 'shared', classifier: str = 'gde_ledoit_wolf',
               reg_covar: float = 1e-6, sigma: float | None = None
               ) -> Callable[..., Maps]:
  """Scores every window and spreads the scores over pixels.

  Li et al., 2021, sections 2.4 and A.5. The paper has windows of 32 pixels
  every 4, and a density for each position where objects stand alike in all
  images.

  Args:
    pretext: the task, trained on crops of about `side` pixels.
    train: u8[n, h, w, c], normal images.
    test: u8[m, h, w, c].
    seed: of the training windows that a shared density is fitted to.
    side, stride: of the windows, in pixels.
    positions: 'shared', one density for all, or 'each', one per position.
    classifier: the density, a name of `oneclass.CLASSIFIERS`.
    reg_covar: of the densities of 'each'; see `oneclass.ShrunkGDE`.
    sigma: of the Gaussian that spreads a score, in pixels; see
      `windows.gaussian`.

  Returns:
    (variables, description) -> maps f32[m, h, w] and parameters.
  """
  height, width = test.shape[1:3]
  rows = windows.starts(height, side, stride)
  columns = windows.starts(width, side, stride)
  look = windows.embedder(pretext, side)
  score = {'shared': _shared, 'each': _each}.get(positions)
  if score is None:
    raise errors.unknown('localize.positions', positions, ('shared', 'each'))

  def maps(variables, description=None):
    density = densities.create(positions, classifier, seed, reg_covar)
    grid = score(density, functools.partial(look, variables), train, test, rows,
                 columns, seed, description)
    found = windows.upsample(grid, height, width, side, stride, sigma)
    return found.astype(np.float32), density.parameters() | {
        'classifier': classifier, 'side': side, 'stride': stride,
        'sigma': sigma}

  return maps


def by_gradcam(pretext: nn.Module, train: np.ndarray, test: np.ndarray,
               seed: int, *, classifier: str = 'gde_ledoit_wolf'
               ) -> Callable[..., Maps]:
  """Explains the score of whole images by Grad-CAM on the last feature map.

  Args and returns as `by_windows`; the density is one of pooled features, and
  Gaussian.
  """
  del seed
  if classifier not in densities.GAUSSIANS:
    raise errors.unknown('density for Grad-CAM', classifier,
                         densities.GAUSSIANS)
  if getattr(pretext, 'crop', 0):
    raise InputError('Grad-CAM explains an encoder of whole images; this one '
                     'was trained on crops: localize.name=windows')
  mesh = sharding.mesh()
  look = jax.jit(lambda variables, image: windows.feature_map(
      pretext, variables, step.to_float(image)))
  pool = features.embedder(pretext, mesh, features.BATCH)

  def maps(variables, description=None):
    density = oneclass.fit(classifier, pool(variables, train)['pool'])
    heat = []
    for begin in tqdm.trange(0, len(test), _MAPS, desc=description,
                             disable=None if description else True,
                             leave=False):
      found = np.asarray(look(variables, test[begin:begin + _MAPS]))
      heat.append(gradcam.heat(density, found))
    found = gradcam.resize(np.concatenate(heat), *test.shape[1:3])
    return found.astype(np.float32), oneclass.parameters(density) | {
        'classifier': classifier}

  return maps


METHODS = {'windows': by_windows, 'gradcam': by_gradcam}


def _shared(density, look, train, test, rows, columns, seed, description):
  """Fits one density to windows of all positions, then scores f[m, gh, gw]."""
  seen = min(oneclass.LIMIT, len(train) * len(rows) * len(columns))
  across = max(round((seen / len(train)) ** 0.5), 1)
  rng = np.random.default_rng(seed)
  sample = np.concatenate([
      windows.places(1, _some(rng, rows, across), _some(rng, columns, across))
      + [i, 0, 0] for i in range(len(train))])
  density.fit(np.concatenate([
      look(train, part) for part in _parts(sample, 32, description, 'fit')]))
  grid = [density.score(
      look(test, windows.places(1, rows, columns) + [i, 0, 0]).reshape(
          1, len(rows), len(columns), -1))
          for i in _bar(range(len(test)), description, 'score')]
  return np.concatenate(grid)


def _some(rng, values, count):
  count = min(count, len(values))
  return np.sort(rng.choice(values, count, replace=False))


def _parts(place, count, description, what):
  return _bar(np.array_split(place, min(count, len(place))), description, what)


def _each(density, look, train, test, rows, columns, seed, description):
  """Fits and scores position by position, a band of rows at a time."""
  del seed  # nothing is drawn
  # One window tells how wide a feature is, and how many rows fit.
  d = look(train[:1], windows.places(1, rows[:1], columns[:1])).shape[1]
  row_bytes = 4 * d * len(columns) * (len(train) + len(test))
  bands = np.array_split(rows, min(len(rows), -(-len(rows) * row_bytes
                                                // _MEMORY)))

  def grid(image, band):
    return look(image, windows.places(len(image), band, columns)).reshape(
        len(image), len(band), len(columns), -1)

  scores, shrinkage = [], []
  for band in _bar(bands, description, 'bands'):
    scores.append(density.fit(grid(train, band)).score(grid(test, band)))
    shrinkage.append(density.shrinkage_)
  density.shrinkage_ = np.concatenate(shrinkage)  # of the whole grid
  return np.concatenate(scores, axis=1)


def _bar(each, description, what):
  return tqdm.tqdm(each, desc=f'{description} {what}', leave=False,
                   disable=None if description else True)


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: data.Problem, pretext: nn.Module, state: step.State
           ) -> None:
  """Writes the heat maps of a run, trained and untrained."""
  group = dict(config.localize)
  name = group.pop('name', 'windows')
  if name not in METHODS:
    raise errors.unknown('localize.name', name, METHODS)
  test = problem.test
  maps = plugins.call(
      METHODS[name], group, 'localize', pretext=pretext,
      train=problem.fitted.image, test=test.image, seed=config.seed)
  untrained = step.init(pretext, config.seed, problem.train.image.shape[1:])
  trained, params = maps(state.variables, 'maps')
  baseline, _ = maps(untrained, 'baseline maps')
  arrays = {f'map_{name}': trained, f'map_random_{name}': baseline,
            'image': test.image, 'label': test.label, 'anomaly': test.anomaly,
            'index': problem.test_index}
  for key in ('mask', 'path'):
    if getattr(test, key) is not None:
      arrays[key] = getattr(test, key)
  meta = experiment.meta(config, problem, int(state.step)) | {
      'class_names': problem.class_names, 'map_params': params,
      'n_train': len(problem.fitted)}
  embeddings.write(pathlib.Path(workdir) / 'embeddings' / 'maps.npz', arrays,
                   meta)


def overridden(config: ml_collections.ConfigDict, settings: list[str]
               ) -> ml_collections.ConfigDict:
  """Returns the config with fields of `localize` set by 'key=value' each."""
  group: dict[str, Any] = dict(config.get('localize') or {})
  for setting in settings:
    key, equals, value = setting.partition('=')
    if not equals:
      raise InputError(f'--set={setting} is not of the form key=value')
    if key == 'name' and value != group.get('name'):
      group = {}  # another method has other fields
    group[key] = _literal(value)
  if not group:
    raise InputError('the config of this run has no group `localize`; choose '
                     f"one of --set=name={' or --set=name='.join(METHODS)}")
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.localize = group
  return config


def _literal(value: str) -> object:
  try:
    return ast.literal_eval(value)
  except (SyntaxError, ValueError):
    return value


def main() -> None:
  args = flags.FLAGS
  if not args.workdir:
    raise InputError('--workdir is required: the folder of a trained run')
  config, *run = embed.restore(args.workdir, args.step, args.data_dir)
  export(args.workdir, overridden(config, args.set), *run)
  print(f'wrote {args.workdir}/embeddings/maps.npz; next: python -m '
        f"deep_oc.evaluate --runs='{args.workdir}'")


if __name__ == '__main__':
  cli.run(main, define_flags)
