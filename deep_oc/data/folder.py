"""Folders of image files: MVTec AD's layout, or normal images and anomalous.

  <path>/train/good/*                           normal images to learn from
  <path>/test/good/*  <path>/test/<defect>/*    images to tell apart
  <path>/ground_truth/<defect>/<name>_mask.*    optional: the abnormal pixels

or, where there is no `train`,

  <path>/good/*                                 normal images
  <path>/<defect>/*                             optional: anomalous ones

or

  <path>/*                                      normal images
  <anomalous_path>/*                            optional: anomalous ones
  <anomalous_path>/<defect>/*                   more of them, by kind

If no folder holds normal images to test on, a fifth of the normal ones is not
trained on but tested on: those whose file names have the greatest SHA-256. So
it is the same fifth for every seed, and adding images hardly changes it.

Images are files directly in these folders, PNG, JPEG, BMP, TIFF or WebP, the
first frame of each. Symbolic links, hidden files, other files and folders
further down are left out. `python -m deep_oc.data <path>` says what is found.
"""
import hashlib
import os
import pathlib

import numpy as np
from absl import logging

from deep_oc import cache, data, errors, files
from deep_oc.data import _layout, _pictures, npz
from deep_oc.data._layout import Found, Item
from deep_oc.errors import InputError

_VERSION = 1  # of the decoding; another one makes caches void


def load(path: str, *, size: int = 256, width: int | None = None,
         anomalous_path: str | None = None, cache_dir: str | None = None,
         skip_corrupt: bool = False, name: str | None = None) -> data.Split:
  """Returns the images, u8[n, size, width, 3]; label 0 is 'good'.

  Labels 1, 2, ... are the defects by name, and anomalies. Masks are those of
  the test split, all False for normal images; None if there is no mask at all.
  An image's path is relative to the folder. Notes tell what was left out, and
  what else is odd.

  Args:
    path: the folder; see the module.
    size: height in pixels, and width, if `width` is not given. Images of
      another shape are squeezed.
    width: in pixels.
    anomalous_path: folder of anomalous images, if there is no `train`.
    cache_dir: for the decoded arrays; $DEEP_OC_CACHE or ~/.cache/deep_oc. A
      cache belongs to the files' names and bytes, wherever they lie.
    skip_corrupt: leave out, with a note each, images that cannot be read
      or whose mask cannot be read or is of another size.
    name: what result rows call the data set; the folder's name by default.

  Raises:
    InputError: the folder is missing, laid out otherwise, or holds a file
      that cannot be used.
  """
  height, width = sides(size, width)
  found = _layout.find(path, anomalous_path)
  _fail_at_first(found.problems, f'`python -m deep_oc.data {path}` lists all')
  image, mask, error = _pixels(found, height, width, cache_dir)
  lines = [say(item, each) for item, each in zip(found.items, error,
                                                 strict=True) if each]
  if not skip_corrupt:
    _fail_at_first(lines, '--config.data.skip_corrupt=True leaves such images '
                   'out')
  notes = [f'left out: {n} {why}' for why, n in sorted(found.ignored.items())
           if why != _layout.HIDDEN] + found.notes
  good = np.array([not each for each in error])
  train, test = (_examples(found, part, good, image, mask)
                 for part in ('train', 'test'))
  return data.Split(name or found.root.resolve().name, train, test,
                    found.class_names, (
                        *(f'{found.root}: {line}' for line in notes),
                        *(f'skipped: {line}' for line in lines)))


def sides(size: int, width: int | None) -> tuple[int, int]:
  """Returns the height and the width of images.

  Raises:
    InputError: they are none.
  """
  errors.check_whole('data.size', size)
  if width is None:
    return size, size
  errors.check_whole('data.width', width)
  return size, width


def say(item: Item, error: str) -> str:
  """Returns the line about an image that cannot be used."""
  return f'{item.path}: {error}'


def _fail_at_first(lines: list[str], hint: str) -> None:
  if lines:
    more = f' (and {len(lines) - 1} more)' if lines[1:] else ''
    raise InputError(f'{lines[0]}{more}; {hint}')


def _examples(found: Found, part: str, good: np.ndarray, image: np.ndarray,
              mask: np.ndarray | None) -> data.Examples:
  row = np.array([i for i, item in enumerate(found.items)
                  if item.part == part and good[i]], int)
  if not len(row):
    raise InputError(f'no image of {found.root} to {part} with can be read')
  items = [found.items[i] for i in row]
  numbers = {name: i for i, name in enumerate(found.class_names)}
  label = np.array([numbers[item.kind] for item in items])
  return data.Examples(
      image[row], label.astype(np.int32), label != 0,
      None if mask is None or part == 'train' else mask[row],
      np.array([_relative(item.path, found.root) for item in items]))


def _relative(path: pathlib.Path, root: pathlib.Path) -> str:
  return pathlib.Path(os.path.relpath(path, root)).as_posix()


def _pixels(found: Found, height: int, width: int, cache_dir: str | None
            ) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
  """Returns images, masks and errors, from the cache if they are there."""
  kept = _cache_path(found, height, width, cache_dir)
  if kept.exists():
    return _read_cache(kept, found, height, width)
  image, mask, seen = _pictures.decode(found, height, width)
  error = [each.error for each in seen]
  arrays = {'image': image, 'error': np.array(error)}
  try:
    with files.replacing(kept, 'wb') as file:
      np.savez(file, **arrays, **({} if mask is None else {'mask': mask}))
  except InputError as problem:  # costs the next run time, not this its data
    logging.warning('%s', problem)
  return image, mask, error


def _cache_path(found: Found, height: int, width: int, cache_dir: str | None
                ) -> pathlib.Path:
  """Returns the name that belongs to the files' names and contents."""
  key = hashlib.sha256(f'{_VERSION} {height} {width}'.encode())
  for item, both in zip(found.items, _pictures.digests(found), strict=True):
    for path, digest in zip((item.path, item.mask), both, strict=True):
      name = os.fsencode(_relative(path, found.root)) if path else b''
      key.update(b'\n' + name + b'\0' + digest.encode())
  return cache.folder(cache_dir) / f'folder-{key.hexdigest()[:16]}.npz'


def _read_cache(kept: pathlib.Path, found: Found, height: int, width: int):
  arrays = npz.read(kept)
  shape = len(found.items), height, width
  wanted = {'image': (*shape, 3), 'error': shape[:1]}
  if found.masked:
    wanted['mask'] = shape
  if {key: array.shape for key, array in arrays.items()} != wanted:
    raise InputError(f'{kept} does not hold the images of {found.root}; '
                     'delete it')
  return arrays['image'], arrays.get('mask'), arrays['error'].tolist()
