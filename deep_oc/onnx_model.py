"""A bundle's scores as one ONNX file, for runtimes that know nothing of JAX.

  pip install 'deep_oc[onnx]' && pip install --no-deps jax2onnx
  python -m deep_oc.export --workdir=runs/dacl_cifar10/0/seed0 --onnx

adds `model.onnx`: `image` f32[n, h, w, 3], prepared, of values 0 to 255 and any
n, to `score` f32[n], higher = more anomalous. All of it is float32, so scores
are compared by ONNX Runtime to 1e-4 only; above the bundle's `threshold`, where
it has one, an image is anomalous.

jax2onnx is asked for without its dependencies because it says that it needs an
older Orbax than checkpoints are read by here. It converts without any Orbax.
"""
import contextlib
import importlib
import pathlib
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from deep_oc import detector, jitted, parity, programs
from deep_oc.errors import InputError

TOLERANCE = 1e-4  # of a score; see `parity.relative`
NAME = 'model.onnx'


def check_installed() -> None:
  """Raises InputError if anything is missing."""
  for name in ('onnx', 'onnxruntime', 'jax2onnx'):
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise InputError(
          f"--onnx needs {name} ({error}): pip install 'deep_oc[onnx]' && pip "
          'install --no-deps jax2onnx') from error


def write(found: detector.Detector, folder: pathlib.Path, images: np.ndarray
          ) -> dict[str, Any]:
  """Writes the model beside a bundle and returns how far off its scores are.

  Args:
    found: what is converted.
    folder: of the bundle.
    images: u8[n, h, w, 3] to compare with.

  Raises:
    InputError: it cannot be converted, or differs.
  """
  try:
    import jax2onnx
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of float64, which is not meant here
      model = jax2onnx.to_onnx(
          _score(found), [('n', *found.image_shape)], model_name='deep_oc',
          input_names=['image'], output_names=['score'])
    (folder / NAME).write_bytes(model.SerializeToString())
    got = _run(folder / NAME, images)
  except Exception as error:  # the converter and the runtime raise any
    raise InputError(f'this run cannot be converted to ONNX ('
                     f'{" ".join(str(error).split())[:200]}); leave --onnx out'
                     ) from error
  return _compared(found.judge(images).score, got, found)


def _score(found):
  """Returns the function f32[n, h, w, 3] -> f32[n]."""
  parts = found.parts()
  look = programs.judged(parts.pretext, found.feature, found.classifier)
  twins = [jitted.twin(fitted) for fitted, _ in parts.calibrated.parts]
  arrays = [{name: jnp.asarray(array, jnp.float32)
             for name, array in twin.arrays.items()} for twin in twins]

  def score(image):
    feature = look(parts.variables, image / 255)
    return -sum(twin.function(each, feature) for twin, each
                in zip(twins, arrays, strict=True)) / len(twins)

  return score


def _run(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
  """Returns f[n], from batches of 1, of 2, and of the rest."""
  import onnxruntime
  session = onnxruntime.InferenceSession(
      str(path), providers=['CPUExecutionProvider'])
  return np.concatenate([
      session.run(['score'], {'image': each.astype(np.float32)})[0].reshape(-1)
      for each in np.split(images, (1, 3))])


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
  return {'input': 'image f32[n, h, w, 3], 0 to 255', 'output': 'score f32[n]',
          'tolerance': TOLERANCE, 'max_relative_difference': float(off.max())}
