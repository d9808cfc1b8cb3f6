"""Cats and dogs at 64 pixels, prepared and divided as Sohn et al. (ICLR 2021).

The photographs, of Asirra (Elson et al., CCS 2007), come in two ways:

Kaggle's "Dogs vs. Cats", which `path` names: its `train.zip`, a folder with
`train/cat.0.jpg ...` in it, or the folder of these images. Of 12,500 cats and
12,500 dogs 10,000 each are trained on and 2,500 each tested on: the split of
the published script, image by image.

TFDS's `cats_vs_dogs`, without `path`. TFDS leaves out 1,738 files as corrupt
and compresses the others once more. Of its 23,262 images 10,000 each are
trained on and the other 3,262 tested on: fewer than in the paper, and others.

As the published script does it, the shorter side becomes 64 pixels and the
longer one is rounded down; a pixel becomes the mean over its area; the central
square is kept. Files are taken in the order of their names as text; each class
is shuffled by NumPy's old generator from seed 0, cats first.

The mean is exact. OpenCV's INTER_AREA, which the script calls, gave the same
bytes except where a side is halved or enlarged; there it rounds otherwise, by
one grey level.
"""
import io
import math
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from deep_oc import data, errors
from deep_oc.data import _cache, _pictures, _records
from deep_oc.errors import InputError

CUT = 'square'  # what becomes of a picture, by `square`

_VERSION = 1  # of the decoding; another one makes caches void
_CLASS_NAMES = 'cat', 'dog'
_FILE = re.compile(r'(cat|dog)\.\d+\.jpg')
_LONGEST = 16  # times the shorter side, of which all pixels are looked at
_SUMMED = 2**20  # pixels at a time


def load(path: str | None = None, *, size: int = 64,
         train_per_class: int = 10_000, data_dir: str | None = None,
         cache_dir: str | None = None) -> data.Split:
  """Returns the images, size × size pixels; label 0 is 'cat', 1 is 'dog'.

  Args:
    path: of Kaggle's `train.zip` or folder; TFDS's set if None.
    size: side in pixels.
    train_per_class: images of each class to train with; all others are tested
      with.
    data_dir: where TFDS prepared its set; TFDS's own default otherwise.
    cache_dir: for the decoded arrays; $DEEP_OC_CACHE or ~/.cache/deep_oc.
      While the images are away (another machine), their cache serves.

  Raises:
    InputError: the images are missing, too few, or one cannot be read.
  """
  errors.check_whole('data.size', size)
  errors.check_whole('data.train_per_class', train_per_class)
  if path:
    place = str(pathlib.Path(path).expanduser().resolve())
    stamp, decode = _cache.stamp(_inside(place), '*.jpg'), _from_kaggle
  else:
    place = _records.folder(data_dir)
    stamp, decode = _records.stamp('cats_vs_dogs', place), _from_tfds
  cache = _cache.path('cat_vs_dog', f'{_VERSION} {size} {not path}\n{place}',
                      cache_dir)
  arrays = _cache.kept(cache, stamp,
                       lambda: decode(place, size, train_per_class))
  whole = data.Examples(arrays['image'], arrays['label'],
                        path=arrays['path'])
  train, test = _divide(whole.label, train_per_class, place)
  return data.Split('cat_vs_dog', whole.take(train), whole.take(test),
                    _CLASS_NAMES)


def _divide(label: np.ndarray, train_per_class: int, place: str
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns the rows to train and to test with, cats first."""
  rng = np.random.RandomState(0)
  train, test = [], []
  for kind, name in enumerate(_CLASS_NAMES):
    row = np.flatnonzero(label == kind)
    if len(row) <= train_per_class:
      raise InputError(
          f'{place} holds {len(row)} images of a {name}; {train_per_class} to '
          'train with (data.train_per_class) and one to test with are needed')
    row = row[rng.permutation(len(row))]
    train.append(row[:train_per_class])
    test.append(row[train_per_class:])
  return np.concatenate(train), np.concatenate(test)


def _from_kaggle(place: str, size: int, train_per_class: int
                 ) -> dict[str, np.ndarray]:
  """Decodes Kaggle's files in the order of their names."""
  names, read = _files(place)
  label = np.array([_CLASS_NAMES.index(name[:3]) for name in names], np.int32)
  _divide(label, train_per_class, place)  # fails before minutes of decoding
  image = np.empty((len(names), size, size, 3), np.uint8)

  def fill(i: int) -> str:
    try:
      picture, _ = _pictures.read_image(read(names[i]))
    except _pictures.Unusable as error:
      return f'{names[i]} in {place} {error}'
    image[i] = square(np.asarray(picture), size)
    return ''

  lines = list(filter(None, _pictures.in_parallel(
      fill, range(len(names)), f'decode {place}')))
  if lines:
    more = f' (and {len(lines) - 1} more)' if lines[1:] else ''
    raise InputError(f"{lines[0]}{more}; get Kaggle's train.zip again")
  return {'image': image, 'label': label, 'path': np.array(names)}


def _inside(place: str) -> pathlib.Path:
  """Returns the folder that the images are in, or the file."""
  train = pathlib.Path(place) / 'train'
  return train if train.is_dir() else pathlib.Path(place)


def _files(place: str) -> tuple[list[str], Callable[[str], io.BytesIO]]:
  """Returns the images' names in order, and what returns the bytes of one."""
  inside = _inside(place)
  try:
    if inside.is_dir():
      names = _in_order((each.name for each in inside.iterdir()), place)
      return names, lambda name: _pictures.read_bytes(inside / name)
    archive = zipfile.ZipFile(inside)
  except OSError as error:
    raise InputError(f'cannot read {place}: {error.strerror or error}; check '
                     'data.path') from error
  except zipfile.BadZipFile as error:
    raise InputError(f'{place} is neither a folder nor a .zip file') from error
  member = {each.rsplit('/', 1)[-1]: each for each in archive.namelist()}
  return _in_order(member, place), lambda name: _unzip(archive, member[name])


def _in_order(names: Iterable[str], place: str) -> list[str]:
  names = sorted(filter(_FILE.fullmatch, names))
  for kind in _CLASS_NAMES:
    if not any(name.startswith(kind) for name in names):
      raise InputError(f"no {kind}.<number>.jpg in {place}; data.path is "
                       "Kaggle's train.zip, or a folder with train in it")
  return names


def _unzip(archive: zipfile.ZipFile, member: str) -> io.BytesIO:
  try:
    return io.BytesIO(archive.read(member))
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
          NotImplementedError) as error:
    raise _pictures.Unusable(f'cannot be unpacked ({error})') from error


def _from_tfds(place: str, size: int, train_per_class: int
               ) -> dict[str, np.ndarray]:
  """Decodes TFDS's records; the order is again that of file names."""
  del train_per_class
  builder = _records.builder('cats_vs_dogs', place)
  source = _records.source(builder, 'train', 'cats_vs_dogs', place)
  image = np.empty((len(source), size, size, 3), np.uint8)
  what = f'cats_vs_dogs train in {place}'

  def fill(i: int) -> tuple[int, str]:
    example = _records.example(source, i, what)
    image[i] = square(example['image'], size)
    name = example['image/filename']
    return example['label'], name if isinstance(name, str) else name.decode()

  label, path = map(np.array, zip(*_pictures.in_parallel(
      fill, range(len(source)), f'decode {what}'), strict=True))
  row = np.argsort(path, kind='stable')
  return {'image': image[row], 'label': label[row].astype(np.int32),
          'path': path[row]}


def square(image: np.ndarray, size: int) -> np.ndarray:
  """Shrinks u8[h, w, 3] and cuts out the centre, u8[size, size, 3].

  Of one that is more than 16 times as long as it is wide, the ends, which are
  cut off anyway, are not looked at.
  """
  shape, shorter = image.shape[:2], min(image.shape[:2])
  sides = [size * count // shorter for count in shape]
  edges = [((side - size) // 2 + np.arange(size + 1)) * count / side
           for side, count in zip(sides, shape, strict=True)]
  if max(shape) > _LONGEST * shorter:
    first = [int(edge[0]) for edge in edges]
    image = image[tuple(slice(begin, math.ceil(edge[-1])) for begin, edge
                        in zip(first, edges, strict=True))]
    edges = [edge - begin for edge, begin in zip(edges, first, strict=True)]
  for axis in (0, 1):
    image = _average(image, edges[axis], sides[axis] / shape[axis], axis)
  return np.uint8(np.rint(image))


def _average(image: np.ndarray, edge: np.ndarray, share: float, axis: int
             ) -> np.ndarray:
  """Returns the means between edges f[n + 1] along an axis, pixels divided.

  Sums take 48 bytes of a pixel, so they are made of some pixels at a time.

  Args:
    image: [h, w, 3].
    edge: equally far from each other.
    share: one part of that distance.
    axis: 0 or 1.
  """
  image = np.moveaxis(image, axis, 0)
  n = len(image)
  whole = edge.astype(int)
  part = (edge - whole)[:, None, None]
  step = max(_SUMMED // n, 1)
  found = np.empty((len(edge) - 1, *image.shape[1:]))
  for begin in range(0, image.shape[1], step):
    some = image[:, begin:begin + step]
    total = np.zeros((n + 1, *some.shape[1:]))
    np.cumsum(some, axis=0, out=total[1:])
    below = total[whole] + part * some[np.minimum(whole, n - 1)]
    found[:, begin:begin + step] = np.diff(below, axis=0) * share
  return np.moveaxis(found, 0, axis)
