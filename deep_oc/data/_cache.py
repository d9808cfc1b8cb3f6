"""Decoded images, kept in a file so that they are decoded once."""
import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np
from absl import logging

from deep_oc import cache, files
from deep_oc.data import npz
from deep_oc.errors import InputError


def path(name: str, key: str, cache_dir: str | None) -> pathlib.Path:
  """Returns a file of its own for every key; `name` is for whoever looks."""
  digest = hashlib.sha256(key.encode()).hexdigest()[:12]
  return (cache.folder(cache_dir)
          / f'{name.replace("/", "-").replace(":", "-")}-{digest}.npz')


def stamp(root: str | os.PathLike, pattern: str = '**/*') -> str:
  """Returns what changes when the file or the folder's files do; '' of none."""
  root = pathlib.Path(root)
  paths = [root] if root.is_file() else sorted(
      each for each in root.glob(pattern) if each.is_file())
  seen = [f'{each.relative_to(root)} {each.stat().st_size} '
          f'{each.stat().st_mtime_ns}' for each in paths]
  return hashlib.sha256('\n'.join(seen).encode()).hexdigest() if seen else ''


def kept(path: pathlib.Path, stamp: str,
         decode: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the arrays of the file, or decodes them and writes it.

  Args:
    path: of the file.
    stamp: of what is decoded. The file serves if it was made of the same, and
      if `stamp` is '': the images are away, on another machine perhaps.
    decode: returns the arrays.
  """
  if path.exists():
    arrays = npz.read(path)
    if stamp in ('', str(arrays.pop('stamp', None))):
      return arrays
    del arrays  # gigabytes, some of them
  arrays = decode()
  try:
    with files.replacing(path, 'wb') as file:
      np.savez(file, stamp=stamp, **arrays)
  except InputError as error:  # costs the next run time, not this run its data
    logging.warning('%s', error)
  return arrays
