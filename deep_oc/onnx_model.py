"""A bundle's scores as one ONNX file, for runtimes that know nothing of JAX.

  pip install 'deep_oc[onnx]' && pip install --no-deps jax2onnx
  python -m deep_oc.export --workdir=runs/dacl_cifar10/0/seed0 --onnx

adds `model.onnx`: `image` f32[n, h, w, 3], prepared, of values 0 to 255 and any
n, to `score` f32[n], higher = more anomalous, and, if the bundle has heat maps,
to `heat_map` f32[n, h, w]. All of it is float32, so they are compared by ONNX
Runtime to 1e-4 only; above the bundle's `threshold`, where it has one, an image
is anomalous.

jax2onnx is asked for without its dependencies because it says that it needs an
older Orbax than checkpoints are read by here. It converts without any Orbax.
"""
import contextlib
import importlib
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import detector, parity, portable_maps, programs
from deep_oc.errors import InputError

TOLERANCE = 1e-4  # of a score; see `parity.relative`
NAME = 'model.onnx'
_MOST = 2**30  # bytes of densities for each position; a file is less than 2 GiB


def check_installed() -> None:
  """Raises InputError if anything is missing."""
  for name in ('onnx', 'onnxruntime', 'jax2onnx'):
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise InputError(
          f"--onnx needs {name} ({error}): pip install 'deep_oc[onnx]' && pip "
          'install --no-deps jax2onnx') from error


def check_passes(side: int | None) -> None:
  """Raises InputError if windows, of this side if any, have a pass each."""
  if side is not None:
    raise InputError(
        f'each window of {side} pixels has a pass of its own, too many for '
        f'{NAME}; only windows of encoders that do not pad share one, if the '
        'stride is a multiple of theirs')


def write(found: detector.Detector, folder: pathlib.Path, images: np.ndarray,
          scores: Mapping[str, programs.Program],
          sizes: Sequence[portable_maps.Portable]) -> dict[str, Any]:
  """Writes the model beside a bundle and returns how far off its scores are.

  Args:
    found: what is converted.
    folder: of the bundle, where the densities of positions lie.
    images: u8[n, h, w, 3] to compare with; the first have maps in `sizes`.
    scores: the programs `model` and `classifier`, none where heat maps score.
    sizes: the heat maps that are multiplied.

  Raises:
    InputError: it cannot be converted, or differs.
  """
  if sizes:
    try:
      return _write(found, folder, images, scores, sizes)
    except InputError as error:
      if not scores:
        raise
      print(f'{NAME} has no heat maps: {error}')
  return _write(found, folder, images, scores, [])


def _write(found, folder, images, scores, sizes):
  outputs = ['score', 'heat_map'][:1 + bool(sizes)]
  maps = [_heat_map(each, folder) for each in sizes]
  try:
    (folder / NAME).write_bytes(_converted(
        _function(scores, maps), found.image_shape, outputs))
    got, *drawn = _run(folder / NAME, images, outputs)
  except Exception as error:  # the converter and the runtime raise any
    raise InputError(f'this run cannot be converted to ONNX ('
                     f'{" ".join(str(error).split())[:200]}); leave --onnx out'
                     ) from error
  about = {'input': 'image f32[n, h, w, 3], 0 to 255', 'output': 'score f32[n]',
           'tolerance': TOLERANCE}
  about |= _compared(found.judge(images).score, got, found)
  if drawn:
    about |= {'heat_map': 'heat_map f32[n, h, w]'} | _compared_maps(
        portable_maps.product(sizes), drawn[0])
  return about


def _function(scores: Mapping[str, programs.Program],
              maps: Sequence[Callable[[jax.Array], jax.Array]]) -> Callable:
  """Returns the function f32[n, h, w, 3] -> score f32[n], heat map."""
  weights, learnt = (_single(scores[name].arrays) if scores else {}
                     for name in ('model', 'classifier'))

  def function(image):
    image = image / 255
    heat = 1.
    for each in maps:
      heat = heat * each(image)
    if not scores:
      return heat.max(axis=(1, 2)), heat
    feature = scores['model'].function(weights, image)
    score = scores['classifier'].function(learnt, feature).mean(axis=1)
    return (score, heat) if maps else score

  return function


def _heat_map(size: portable_maps.Portable, folder: pathlib.Path) -> Callable:
  """Returns the function f32[n, h, w, 3] -> f32[n, h, w] of one size.

  Raises:
    InputError: it is not fit for one file, or for one pass.
  """
  check_passes(size.window)
  weights, rows, columns = map(_single, (
      size.seen.arrays, size.enlarge['rows'], size.enlarge['columns']))
  score = _score_of(size, folder)

  def function(image):
    grid = score(size.seen.function(weights, image))
    return jnp.einsum('ij,njk,lk->nil', rows, grid, columns)

  return function


def _score_of(size, folder):
  """Returns the function of features f32[n, gh, gw, d] to f32[n, gh, gw]."""
  if size.heat is None:  # what the network says are scores
    return lambda seen: seen
  if size.positions == 'each':
    learnt = _single(_positions(folder / f'heat{size.suffix}'))
    return lambda seen: size.heat.function(learnt, seen.reshape(
        -1, seen.shape[1] * seen.shape[2], seen.shape[3])).reshape(
            -1, *seen.shape[1:3])
  learnt = _single(size.heat.arrays)
  if size.positions is None:  # Grad-CAM
    return lambda seen: size.heat.function(learnt, seen)
  return lambda seen: size.heat.function(learnt, seen.reshape(
      -1, seen.shape[3])).reshape(-1, *seen.shape[1:3])


def _positions(folder: pathlib.Path) -> programs.Arrays:
  """Returns the densities of all rows of a grid, one after the other."""
  paths = sorted(folder.glob('*.npz'), key=lambda path: int(path.stem))
  total = sum(path.stat().st_size for path in paths)
  if total > _MOST:
    raise InputError(
        f'densities for each position take {total / 2**30:.1f} GiB, too much '
        f'for {NAME}; `deep_oc.localize` with a larger --set=stride=..., or '
        'with --set=positions=shared, makes maps that fit')
  kept = [np.load(path, allow_pickle=False) for path in paths]
  return {name: np.concatenate([each[name] for each in kept])
          for name in kept[0]}


def _single(arrays):
  """Returns arrays in float32."""
  return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)


def _converted(function: Callable, shape: Sequence[int],
               outputs: Sequence[str]) -> bytes:
  """Returns the model of a function of images f32[n, *shape], for any n."""
  import jax2onnx
  import onnx_ir
  with contextlib.redirect_stdout(None), _quiet():
    model = jax2onnx.to_onnx(
        function, [('n', *shape)], model_name='deep_oc', input_names=['image'],
        output_names=list(outputs))
    del model.graph.value_info[:]  # of some layouts it is wrong
    model = onnx_ir.from_proto(model)
    for graph in model.graph.subgraphs():
      for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
          del graph.initializers[name]  # a runtime would complain of it
    return onnx_ir.to_proto(model).SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Leaves out what the converter has to say of itself."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of float64, which is not meant here
      yield
  finally:
    logging.disable(before)


def _run(path: pathlib.Path, images: np.ndarray, outputs: Sequence[str]
         ) -> list[np.ndarray]:
  """Returns each output, from batches of 1, of 2, and of up to 4."""
  import onnxruntime
  session = onnxruntime.InferenceSession(
      str(path), providers=['CPUExecutionProvider'])
  ends = [1, *range(3, len(images), 4)]
  return [np.concatenate(parts) for parts in zip(*(
      session.run(list(outputs), {'image': each.astype(np.float32)})
      for each in np.split(images, ends)), strict=True)]


def _compared(wanted: np.ndarray, got: np.ndarray, found: detector.Detector
              ) -> dict[str, Any]:
  if got.shape != wanted.shape:
    raise InputError(f'scores by ONNX are of shape {got.shape}, not '
                     f'{wanted.shape}; leave --onnx out')
  off = parity.relative(wanted, got, found)
  if not off.max() <= TOLERANCE:
    raise InputError(
        f'scores by ONNX, in float32, are {off.max():.2g} off, more than '
        f'{TOLERANCE:g}; leave --onnx out, or choose another --classifier')
  return {'max_relative_difference': float(off.max())}


def _compared_maps(wanted: np.ndarray, got: np.ndarray) -> dict[str, Any]:
  off = float(np.abs(got[:len(wanted)] - wanted).max()
              / (np.abs(wanted).max() or 1))
  if not off <= parity.MAP_TOLERANCE:
    raise InputError(
        f'heat maps by ONNX, in float32, are {off:.2g} of the largest value '
        f'off, more than {parity.MAP_TOLERANCE:g}; leave --onnx out')
  return {'max_map_difference': off}
