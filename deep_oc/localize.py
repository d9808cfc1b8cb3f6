"""Where an image is abnormal: heat maps of a trained run.

  python -m deep_oc.localize --workdir=runs/cutpaste_patch_mvtec_bottle/0/seed0

writes `embeddings/maps.npz`: a score for every pixel of the test images, by the
trained encoder and, as the baseline, by the same encoder with random weights.
`deep_oc.train` does the same at its end if the config has a group `localize`,
the arguments of one class of `deep_oc.maps`; its fields can be set here with
--set=stride=8, and without --set the config's apply again. `deep_oc.evaluate`
measures the maps and draws them, and `predict`, `export` and `serve` make such
maps of other images.
"""
from __future__ import annotations

import ast
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from deep_oc import cli, distributed, embeddings, experiment, protocols
from deep_oc.errors import InputError

if cli.works(__name__):
  import flax.linen as nn

  from deep_oc import allocator, embed, features, maps, sharding, step

# Fields of `maps.Windows` and of `maps.Stages` in place of the other's.
_OF_STAGES = 'stages', 'neighbourhood', 'border'
_IN_PLACE = {'stages': ('side', 'stride'), 'side': _OF_STAGES,
             'stride': _OF_STAGES}


def define_flags() -> None:
  distributed.define_flags()
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_integer(
      'step', None, 'Step of the checkpoint; the newest by default.')
  flags.DEFINE_string(
      'data_dir', None, 'Where the images lie now, if they moved.')
  flags.DEFINE_multi_string(
      'set', [], 'A field of the group `localize`, for example stride=8 or '
      'name=gradcam.')


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: protocols.Problem, pretext: nn.Module, state: step.State
           ) -> None:
  """Writes the heat maps of a run, trained and untrained."""
  method = maps.create(config.localize, pretext, config.seed)
  name = maps.name(config.localize)
  test = problem.test
  method.check(*test.image.shape[1:3])
  train, images = problem.fitted.image, test.image
  if name == 'windows':  # whose maxima are scores
    images = np.concatenate([images, problem.calibration.image])

  def found(variables, description):
    learnt = train
    if method.learns_from == 'pool':
      embed = features.embedder(pretext, sharding.mesh())
      learnt = embed(variables, train)['pool']
    return method.fit_maps(variables, learnt, images, description)

  untrained = step.untrained(
      pretext, config.seed, train.shape[1:], state.variables)
  both = {f'random_{name}': found(untrained, 'baseline maps')}
  both[name] = found(state.variables, 'maps')  # its parameters are kept
  arrays = {f'map_{key}': heat[:len(test)] for key, heat in both.items()} | {
      'image': test.image, 'label': test.label, 'anomaly': test.anomaly,
      'index': problem.test_index}
  largest = {key: heat[len(test):].max(axis=(1, 2)).tolist()
             for key, heat in both.items() if len(heat) > len(test)}
  for key in ('mask', 'path'):
    if getattr(test, key) is not None:
      arrays[key] = getattr(test, key)
  left_out = {}
  if method.leaves_out and not largest:
    left_out[name] = maps.left_out(
        method, train, config.seed, 'calibration').tolist()
  meta = experiment.meta(workdir, config, problem, int(state.step)) | {
      'class_names': problem.class_names, 'map_params': method.parameters(),
      'localize': config.localize.to_dict(),
      'n_train': len(problem.fitted), 'calibration': largest,
      'left_out': left_out}
  if distributed.is_first():
    embeddings.write(f'{workdir}/embeddings/maps.npz', arrays, meta)


def check(config: ml_collections.ConfigDict, pretext: nn.Module,
          image_shape: tuple[int, int, int]) -> None:
  """Raises InputError if `export` could make no heat maps, before training."""
  if config.get('localize'):
    method = maps.create(config.localize, pretext, config.seed)
    method.check(*image_shape[:2])


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
    for other in _IN_PLACE.get(key, ()):
      group.pop(other, None)
    group[key] = _literal(value)
  if not group:
    known = ' or --set=name='.join(maps.METHODS)
    raise InputError('the config of this run has no group `localize`; choose '
                     f'one of --set=name={known}')
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
  with distributed.joined():
    allocator.keep_freed_memory()
    asked = overridden(experiment.of_run(args.workdir), args.set)
    maps.create(  # what can be of no image is said before any is read
        asked.localize, experiment.pretext(asked), asked.seed)
    config, *run = embed.restore(args.workdir, args.step, args.data_dir)
    export(args.workdir, overridden(config, args.set), *run)
    if distributed.is_first():
      print(f'wrote {args.workdir}/embeddings/maps.npz; next: python -m '
            f"deep_oc.evaluate --runs='{args.workdir}'")


if __name__ == '__main__':
  cli.run(main, define_flags)
