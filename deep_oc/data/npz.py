"""One `.npz` file with a whole data set; the way in for images of one's own.

  x_train, x_test   u8[n, h, w], u8[n, h, w, 1] or u8[n, h, w, 3]
  y_train, y_test   integers [n], from 0
  class_names       str[k], optional
"""
import os
import pathlib
import zipfile
import zlib

import numpy as np

from deep_oc import data
from deep_oc.errors import InputError

_KEYS = ('x_train', 'y_train', 'x_test', 'y_test')


def load(path: str, *, name: str | None = None) -> data.Split:
  """Returns the data set in the file.

  Args:
    path: of the file.
    name: what result rows call the data set; the file's name by default.

  Raises:
    InputError: the file is missing or damaged, or an array of it is not as
      this module says.
  """
  if not path:
    raise InputError("the source 'npz' needs data.path: the .npz file")
  path = pathlib.Path(path).expanduser()
  return parse(read(path), path, name or path.stem)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the arrays of an `.npz` file; pickled ones are refused."""
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {key: archive[key] for key in archive.files}
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror or error}; check '
                     'the path') from error
  except (ValueError, EOFError, AttributeError, TypeError, KeyError,
          RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise InputError(f'{path} is not a readable .npz file of plain arrays; '
                     'delete it and make it again') from error


def parse(arrays: dict[str, np.ndarray], path: str | os.PathLike,
          name: str) -> data.Split:
  """Checks the arrays of the file `path` and returns them as a split."""
  for key in _KEYS:
    if key not in arrays:
      raise InputError(f"{path} lacks '{key}'; it needs " + ', '.join(_KEYS))
  train, test = (
      data.Examples(_image(arrays, f'x_{part}', path),
                    _label(arrays, f'x_{part}', f'y_{part}', path))
      for part in ('train', 'test'))
  classes = 1 + max(train.label.max(), test.label.max())
  names = arrays.get('class_names', np.arange(classes).astype(str))
  if names.ndim != 1 or names.dtype.kind != 'U' or len(names) < classes:
    raise InputError(f"'class_names' in {path} must be {classes} strings, "
                     f'not {names.dtype}{list(names.shape)}')
  return data.Split(name, train, test, tuple(names.tolist()))


def _image(arrays, key, path) -> np.ndarray:
  image = arrays[key]
  channels = image.shape[3] if image.ndim == 4 else 1
  if (image.dtype != np.uint8 or image.ndim not in (3, 4)
      or channels not in (1, 3) or not image.size):
    raise InputError(
        f"'{key}' in {path} must be uint8[n, h, w] or [n, h, w, 1 or 3] with "
        f'n > 0, not {image.dtype}{list(image.shape)}')
  return image


def _label(arrays, image_key, key, path) -> np.ndarray:
  label, n = arrays[key], len(arrays[image_key])
  if label.dtype.kind not in 'iu' or label.shape != (n,):
    raise InputError(f"'{key}' in {path} must be integers [{n}], one for each "
                     f"of '{image_key}', not {label.dtype}{list(label.shape)}")
  if label.min() < 0:
    raise InputError(f"'{key}' in {path} holds {label.min()}; labels count "
                     'from 0')
  return label.astype(np.int32)
