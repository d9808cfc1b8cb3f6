"""Writes a bundle: a trained run that predicts without the training code.

  python -m deep_oc.export --workdir=runs/dacl_cifar10/0/seed0
  pip install -r runs/dacl_cifar10/0/seed0/bundle/requirements.txt
  python runs/dacl_cifar10/0/seed0/bundle/predict.py photos

The bundle, `bundle` in the run's folder by default, needs JAX, NumPy and Pillow
alone:

  model.stablehlo       u8[n, h, w, 3] to features, any n, and its weights.npz
  classifier.stablehlo  features to scores, and its classifier.npz; where
                        heat maps are judged they score, and neither is there
  calibration.npz       scores of normal images, for p-values and the threshold
  map.stablehlo, heat.stablehlo, heat.npz, enlarge.npz
                        heat maps, if the run localizes; heat/<row>.npz, if each
                        position of their grid has a density of its own; names
                        with _0, _1 and so on, if windows have several sizes;
                        without heat.*, if what the network says are scores
  bundle.json           input, preprocessing, threshold, colours of heat maps,
                        checksums, parity
  README.md             the model card
  predict.py, bundle/   what reads it
  model.onnx            with --onnx: scores and heat maps in float32, see
                        `deep_oc.onnx_model`

It is read back by another process, without Flax and this package, and compared
with the trainer's scores of test images and noise in batches of several sizes.
If they differ by more than 1e-5, those by heat maps by more than 1e-4, nothing
is written, and a bundle that was there stays. Everything is computed on the
CPU, whose float32 is not rounded further.
"""
from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from deep_oc import bundle, cli, files, heat_colours, provenance, unseen
from deep_oc.errors import InputError

if cli.works(__name__):
  import jax

  from deep_oc import (detector, model_card, onnx_model, parity, portable_maps,
                       programs, trained_run)

_PREDICT = '''"""python predict.py photos --output=predictions.csv"""
from bundle import __main__

if __name__ == '__main__':
  __main__.main()
'''
_READER = pathlib.Path(bundle.__file__).parent
_RUN = ('dataset', 'protocol', 'normal_class', 'normal_name', 'seed', 'pretext',
        'encoder', 'step', 'checkpoint_rule', 'config_hash')


def define_flags() -> None:
  unseen.define_flags()
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_string(
      'output', None, "Folder of the bundle; by default `bundle` in the run's "
      'folder.')
  flags.DEFINE_string(
      'classifier', None, 'One whose scores have a program; an error names '
      'them. By default kde, of CutPaste and of fewer images than dimensions '
      'gde_ledoit_wolf.')
  flags.DEFINE_bool(
      'onnx', False, 'Add model.onnx; takes the extra `onnx`, and jax2onnx.')
  flags.DEFINE_string(
      'data_dir', None, 'Where the images lie now, if they moved; to compare '
      'with, and for heat maps of windows.')


def export(found: detector.Detector, output: pathlib.Path,
           results: list[dict[str, str]], command: str, onnx: bool = False,
           limits: heat_colours.Scale | None = None) -> dict[str, Any]:
  """Writes the bundle of a detector; returns what bundle.json says.

  Args:
    found: the detector.
    output: the folder.
    results: rows of results.csv, for the model card.
    command: that asked for it.
    onnx: whether to add an ONNX model, see `onnx_model`.
    limits: of the heat maps' colours in the run's own pictures, if it has any.

  Raises:
    InputError: it cannot be exported, or the bundle does not say the same.
  """
  _check_free(output)
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f'.{output.name}.') as aside:
      folder = pathlib.Path(aside) / 'bundle'
      folder.mkdir()
      examples = parity.examples(found)
      print(f'trace the programs for {", ".join(programs.PLATFORMS)}',
            flush=True)
      scores = _pooled(found)
      sizes = _heat_maps(found, examples.images[:parity.MAPS], folder)
      maps = portable_maps.product(sizes)
      about = _about(found, command) | _write(found, folder, scores, sizes)
      about['heat_colours'] = _colours(limits) if sizes else None
      _seal(folder, about | {'parity': None})
      print('compare with the trainer', flush=True)
      about['parity'] = parity.check(folder, found, examples, maps)
      if onnx:
        print('convert to ONNX', flush=True)
        about['onnx'] = onnx_model.write(
            found, folder, examples.images, scores, sizes)
      (folder / 'README.md').write_text(
          model_card.write(about, results), encoding='utf-8')
      about = _seal(folder, about)
      _replace(output, folder)
  except BrokenPipeError:
    raise  # of what was printed meanwhile: a folder is no pipe
  except OSError as error:
    raise files.unwritable(output, error) from error
  return about


def _check_free(output: pathlib.Path) -> None:
  """Raises InputError if something else than a bundle would be lost."""
  if output.exists() and not (output / 'bundle.json').is_file() and (
      not output.is_dir() or any(output.iterdir())):
    raise InputError(f'{output} is there and is no bundle; choose another '
                     '--output')


def _replace(output: pathlib.Path, folder: pathlib.Path) -> None:
  """Puts the folder in the place of the output, which is moved beside it."""
  former = folder.with_name('former')
  try:
    if output.exists():
      output.rename(former)
    folder.rename(output)
  except BaseException:  # SIGTERM and Ctrl-C, too: the former would be removed
    if former.exists() and not output.exists():
      former.rename(output)
    raise


def _about(found: detector.Detector, command: str) -> dict[str, Any]:
  """Returns what bundle.json says of the detector and of who asked."""
  parts = found.parts()
  run = {key: found.about.get(key) for key in _RUN}
  height, width, _ = found.image_shape
  return run | {
      'format': bundle.FORMAT, 'run': run, 'name': _name(run),
      'command': command, 'versions': provenance.versions(),
      'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
      'image_shape': list(found.image_shape),
      'input': f'uint8[n, {height}, {width}, 3], RGB, 0 to 255, any n',
      'preprocessing': unseen.described(parts.config.data),
      'classifier': found.classifier, 'feature': found.feature,
      'false_alarm_rate': found.false_alarm_rate,
      'threshold': found.threshold_, 'calibration': found.calibration,
      'learnt': found.learnt,
      'n_train': parts.rows}


def _colours(limits: heat_colours.Scale | None) -> dict[str, Any] | None:
  return limits and limits._asdict() | {
      'knee': None if math.isinf(limits.knee) else limits.knee}


def _name(run: Mapping[str, Any]) -> str:
  return '{dataset} {normal_name}, {pretext}, seed {seed}'.format(**run)


def _write(found: detector.Detector, folder: pathlib.Path,
           scores: Mapping[str, programs.Program],
           sizes: Sequence[portable_maps.Portable]) -> dict[str, Any]:
  """Writes programs, arrays and reader; returns what is said of them.

  Args:
    found: the detector.
    folder: of the bundle.
    scores: as `_pooled` returns them.
    sizes: as `_heat_maps` does.
  """
  traced = dict(scores)
  kept = {
      'weights': dict(traced['model'].arrays) if traced else {},
      'calibration': {str(i): calibrating for i, (_, calibrating)
                      in enumerate(found.parts().calibrated.parts)}}
  if traced:
    kept['classifier'] = traced['classifier'].arrays
  stored = {'model': 'weights'}  # of others, as their name
  for each in sizes:
    seen, heat, enlarge = (
        f'{name}{each.suffix}' for name in ('map', 'heat', 'enlarge'))
    traced[seen] = each.seen
    kept['weights'] |= each.seen.arrays
    kept[enlarge] = each.enlarge
    stored[seen] = 'weights'
    if each.heat is None:
      continue
    traced[heat] = each.heat
    if each.positions == 'each':
      stored[heat] = f'{heat}/0'  # and the other rows, all written by now
    else:
      kept[heat] = each.heat.arrays
  for name, program in traced.items():
    (folder / f'{name}.stablehlo').write_bytes(program.content)
  for name, arrays in kept.items():
    np.savez(folder / f'{name}.npz', **arrays)
  _write_reader(folder)
  return {
      'localizes': found.localizes if sizes else None,
      'heat_maps': [each.about for each in sizes],
      'programs': {
          name: {'arrays': f'{stored.get(name, name)}.npz',
                 'double': program.double, 'names': sorted(program.arrays)}
          for name, program in traced.items()}}


def _pooled(found: detector.Detector) -> dict[str, programs.Program]:
  """Returns what scores features, and nothing where heat maps do."""
  if found.feature == detector.WINDOWS:
    return {}
  parts = found.parts()
  model = programs.network(
      programs.judged(parts.pretext, found.feature, found.classifier),
      parts.variables, found.image_shape)
  fitted = [each for each, _ in parts.calibrated.parts]
  return {'model': model,
          'classifier': programs.classifier(fitted, *model.shape)}


def _heat_maps(found, images, folder) -> list[portable_maps.Portable]:
  """Returns the heat maps that are multiplied, [] if there are none."""
  if found.localizes:
    try:
      print(found.about_maps(), flush=True)
      return portable_maps.portable(found, images, folder)
    except InputError as error:
      if found.feature == detector.WINDOWS:
        raise
      print(f'the bundle has no heat maps: {error}')
  return []


def _write_reader(folder: pathlib.Path) -> None:
  """Copies the code that reads a bundle, and says what it needs."""
  (folder / 'bundle').mkdir()
  for path in sorted(_READER.glob('*.py')):
    shutil.copyfile(path, folder / 'bundle' / path.name)
  (folder / 'predict.py').write_text(_PREDICT, encoding='utf-8')
  (folder / 'requirements.txt').write_text(
      f'jax>={jax.__version__}\nflatbuffers\nnumpy>=2.0\npillow>=10.1\n',
      encoding='utf-8')


def _seal(folder: pathlib.Path, about: dict[str, Any]) -> dict[str, Any]:
  """Writes bundle.json with the checksums of all other files."""
  names = sorted(path.relative_to(folder).as_posix()
                 for path in folder.rglob('*') if path.is_file()
                 and path.suffix != '.pyc' and path.name != 'bundle.json')
  about = about | {'files': {name: {
      'sha256': hashlib.sha256((folder / name).read_bytes()).hexdigest(),
      'bytes': os.path.getsize(folder / name)} for name in names}}
  about = json.loads(json.dumps(about))  # as it will be read
  about['digest'] = bundle.digest(about)
  (folder / 'bundle.json').write_text(
      json.dumps(about, indent=2) + '\n', encoding='utf-8')
  return about


def main() -> None:
  args = flags.FLAGS
  if not args.workdir:
    raise InputError('--workdir is required: the folder of a trained run')
  output = args.output or f'{args.workdir}/bundle'
  if files.is_remote(output):
    raise InputError(f'{output} is not on this disk; give --output=FOLDER, and '
                     'copy it from there')
  jax.config.update('jax_platforms', 'cpu')
  feature = args.feature or trained_run.recommended(
      args.workdir, args.classifier)
  if args.onnx:
    onnx_model.check_installed()  # before minutes of anything else
    if feature == detector.WINDOWS:
      onnx_model.check_passes(
          portable_maps.apart(*trained_run.windows(args.workdir)))
  found = trained_run.load_as_asked(
      args, args.classifier, feature, unseen.calibrating(args))
  print(f"{found.classifier} on '{found.feature}' of {args.workdir}, step "
        f'{found.about["step"]}', flush=True)
  about = export(
      found, pathlib.Path(output),
      model_card.results(args.workdir, found.feature, found.classifier),
      provenance.command(), args.onnx,
      heat_colours.of_run(args.workdir, found.localizes))
  print(f"{parity.shown(about['parity'])}\nwrote {output}; next: "
        f'python {output}/predict.py photos')


if __name__ == '__main__':
  cli.run(main, define_flags)
