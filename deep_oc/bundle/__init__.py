"""Predicts from a bundle that `deep_oc.export` wrote, by JAX and NumPy alone.

  python BUNDLE/predict.py photos --output=predictions.csv

or in Python, with the bundle's folder on the path,

  import bundle
  found = bundle.load('.')
  judged = found.judge(np.stack([found.prepare(path) for path in paths]))

A copy of this package makes a bundle complete, so it imports nothing of
deep_oc: only JAX, with the flatbuffers that JAX reads programs by and the SciPy
that comes with it, NumPy and Pillow. Nothing is unpickled.
"""
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import passes, pictures, regions  # wherever it has been copied to
from .errors import BundleError, PictureError, line

__all__ = ['FORMAT', 'Bundle', 'BundleError', 'Judged', 'PictureError',
           'digest', 'load']

FORMAT = 2  # of bundle.json and what it names; readers refuse newer ones


class Judged(NamedTuple):
  """What is said of n images.

  Attributes:
    score: f64[n], higher = more anomalous.
    p_value: f64[n], how often a normal image scores so high.
    anomalous: bool[n], whether that is the false-alarm rate at most.
  """
  score: np.ndarray
  p_value: np.ndarray
  anomalous: np.ndarray


class Bundle:
  """A trained network, its classifier and what calibrates them; see `load`.

  Attributes:
    about: the content of bundle.json.
    image_shape: (h, w, 3) of prepared images.
    threshold: scores above it are anomalous; None if no one score says it.
    false_alarm_rate: the share of normal images that are flagged.
    localizes: the method of `heat_maps`, or None.
    by_maps: whether the score of an image is the largest of its heat map.
    has_regions: whether heat maps are judged, and show all of a picture.
    batch: the most images that go through the network at once.
  """

  def __init__(self, folder: pathlib.Path, about: dict[str, Any]):
    self.about, self._folder = about, folder
    with _well_formed(folder):
      self.image_shape = tuple(about['image_shape'])
      self.threshold = about['threshold']
      self.false_alarm_rate = about['false_alarm_rate']
      self.localizes = about['localizes']
      self.by_maps = about['feature'] == 'windows'
      self.has_regions = self.by_maps and pictures.keeps_all(
          about['preprocessing'])
      self.batch = passes.batch(*self.image_shape[:2])
      calibration = _arrays(self._file('calibration.npz'))
      self._calibration = [np.sort(calibration[name])
                           for name in sorted(calibration, key=int)]
    self._programs: dict[str, _Program] = {}
    self._lock = threading.Lock()

  def prepare(self, picture: pictures.Picture) -> np.ndarray:
    """Brings a picture to what the network learnt from, u8[h, w, 3].

    An array of just this shape is taken as it is.

    Raises:
      PictureError: it is none.
    """
    return pictures.prepare(picture, self.image_shape,
                            self.about['preprocessing'])

  def judge(self, images: np.ndarray) -> Judged:
    """Scores prepared images u8[n, h, w, 3], any number of them."""
    if self.by_maps:
      return self.judge_maps(self.heat_maps(images))
    images = self._checked(images)
    if not len(images):
      return self._judged(np.empty((len(self._calibration), 0)))
    with _well_formed(self._folder):
      scores = self._run('classifier', self._run('model', images)).T
    return self._judged(scores)

  def judge_maps(self, heat: np.ndarray) -> Judged:
    """Returns what `judge` does, of f32[n, h, w] from `heat_maps`.

    Of a bundle that judges `by_maps`.
    """
    return self._judged(heat.max(axis=(1, 2))[None].astype(float))

  def regions(self, heat: np.ndarray) -> list[list[regions.Region]]:
    """Returns where each of f32[n, h, w] from `heat_maps` is anomalous.

    Raises:
      BundleError: it has none.
    """
    if not self.has_regions:
      raise BundleError('this bundle does not judge by heat maps that show all '
                        'of a picture; it has no regions')
    return [regions.find(each, self.threshold) for each in heat]

  def _judged(self, scores: np.ndarray) -> Judged:
    """Calibrates the scores f64[k, n] of k classifiers, or of heat maps."""
    with _well_formed(self._folder):
      if not np.isfinite(scores).all():
        raise BundleError('a score is not finite; the bundle does not fit '
                          'these images')
      above = sum(
          len(each) - np.searchsorted(each, score, 'left') for each, score
          in zip(self._calibration, scores, strict=True))
    p = (1 + above) / (1 + sum(map(len, self._calibration)))
    return Judged(scores.mean(axis=0), p, p <= self.false_alarm_rate)

  def heat_maps(self, images: np.ndarray) -> np.ndarray:
    """Maps prepared images u8[n, h, w, 3] to scores of pixels f32[n, h, w].

    Raises:
      BundleError: the bundle has no heat maps.
    """
    if not self.localizes:
      raise BundleError('this bundle has no heat maps')
    images = self._checked(images)
    if not len(images):
      return np.empty(images.shape[:3], np.float32)
    with _well_formed(self._folder):
      return np.prod([each(images) for each in self._maps], axis=0)

  @functools.cached_property
  def _maps(self):
    """Those that are multiplied, of windows of several sizes."""
    about = self.about
    if about['format'] == 1:
      sizes = [{key: about.get(key) for key in ('window', 'positions')}]
    else:
      sizes = about['heat_maps']
    return [_Maps(self._run, self._file, self.batch, self.localizes, **each)
            for each in sizes]

  def _checked(self, images):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
      raise BundleError(
          f'images are uint8[n, {", ".join(map(str, self.image_shape))}], not '
          f'{images.dtype}{list(images.shape)}; `prepare` makes them so')
    return images

  def _file(self, name):
    """Returns where a file is; of one that is not listed nothing is known."""
    if name not in self.about['files']:
      raise BundleError(f'{self._folder}/bundle.json does not list {name}; '
                        'export the bundle again')
    return self._folder / name

  def _run(self, name, rows, arrays=None):
    with self._lock:
      if name not in self._programs:
        self._programs[name] = _Program(
            self._file, name, **self.about['programs'][name])
    return self._programs[name](rows, arrays)


class _Maps:
  """Heat maps by windows of one size, by Grad-CAM, or by the network alone."""

  def __init__(self, run: Callable, file: Callable[[str], pathlib.Path],
               batch: int, method: str, window: int | None,
               positions: str | None, suffix: str = ''):
    """Notes what there is.

    Args:
      run: passes rows through the program of a name.
      file: returns where a file of the bundle is.
      batch: how many images at once.
      method: 'windows', 'gradcam', or 'task': what the network says are scores.
      window: the side of windows, each of which is passed by itself; None where
        they share a pass.
      positions: 'each' if each has a density of its own.
      suffix: of the names of programs and files.
    """
    self._run, self._batch, self._method = run, batch, method
    self._side, self._each = window, positions == 'each'
    self._map, self._heat = f'map{suffix}', f'heat{suffix}'
    self._enlarge = _arrays(file(f'enlarge{suffix}.npz'))

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps u8[n, h, w, 3] to scores of pixels f32[n, h, w]."""
    grid = np.concatenate([
        self._score(self._features(images[begin:begin + self._batch]))
        for begin in range(0, len(images), self._batch)])
    rows, columns = (self._enlarge[name] for name in ('rows', 'columns'))
    return (rows @ grid @ columns.T).astype(np.float32)

  def _features(self, images):
    """Maps a batch of images to what is scored, f32[n, gh, gw, d]."""
    side = self._side
    if side is None:
      return self._run(self._map, images)
    view = np.lib.stride_tricks.sliding_window_view(
        images, (side, side), (1, 2))
    return np.stack([self._windows(np.moveaxis(each, 2, -1)) for each in view])

  def _windows(self, view):
    """Maps all windows u8[h, w, side, side, 3] to features f32[gh, gw, d]."""
    top, left = self._enlarge['top'], self._enlarge['left']
    windows = view[np.ix_(top, left)].reshape(-1, *view.shape[2:])
    return self._run(self._map, windows).reshape(len(top), len(left), -1)

  def _score(self, features):
    """Maps f32[n, gh, gw, d] to f64[n, gh, gw]; what are scores, stay."""
    if self._method == 'task':
      return features
    if self._method == 'gradcam':
      return self._run(self._heat, features)
    if not self._each:
      rows = features.reshape(-1, features.shape[-1])
      return self._run(self._heat, rows).reshape(features.shape[:3])
    # Together they may be more than memory has; the system caches the files.
    return np.stack([self._run(self._heat, features[:, y],
                               f'{self._heat}/{y}.npz')
                     for y in range(features.shape[1])], axis=1)


class _Program:
  """A function of arrays and of rows, any number of them."""

  def __init__(self, file: Callable[[str], pathlib.Path], name: str,
               arrays: str, names: list[str], double: bool):
    """Reads the program.

    Args:
      file: returns where a file of the bundle is.
      name: of the program.
      arrays: the file that has its arrays, perhaps with others.
      names: of its arrays.
      double: whether it computes in float64.
    """
    path = file(f'{name}.stablehlo')
    needs = path.with_name('requirements.txt')
    try:
      import jax
      from jax import export
      self._call = export.deserialize(bytearray(path.read_bytes())).call
    except ImportError as error:
      raise BundleError(f'{error}; pip install -r {needs}') from error
    except Exception as error:  # of whichever version of JAX it is
      raise BundleError(f'JAX {jax.__version__} cannot read {path} '
                        f'({line(error)}); pip install -r {needs}') from error
    self._scope = functools.partial(jax.enable_x64, double)
    self._call = jax.jit(self._call)
    self._file, self._names = file, names
    self._arrays = self._read(arrays)

  def _read(self, arrays):
    import jax
    kept = _arrays(self._file(arrays))
    with self._scope():
      return jax.device_put({name: kept[name] for name in self._names})

  def __call__(self, rows: np.ndarray, arrays: str | None = None
               ) -> np.ndarray:
    """Passes a batch of rows at once, padded to few different numbers.

    Args:
      rows: any number of them.
      arrays: a file of others than its own.
    """
    kept = self._read(arrays) if arrays else self._arrays
    size = passes.padded(len(rows), *rows.shape[1:3] if rows.ndim == 4 else ())
    parts = []
    with self._scope():
      for begin in range(0, len(rows), size):
        part = rows[begin:begin + size]
        padding = [(0, size - len(part))] + [(0, 0)] * (rows.ndim - 1)
        found = self._call(kept, np.pad(part, padding))
        parts.append(np.asarray(found)[:len(part)])
    return np.concatenate(parts)


def load(path: str | os.PathLike) -> Bundle:
  """Returns the bundle in a folder, once all its files have been checked.

  Raises:
    BundleError: there is none, it is of a newer format or malformed, or a file
      of it is missing or not as it was written.
  """
  folder = pathlib.Path(path)
  about = _read_about(folder)
  with _well_formed(folder):
    for name, wanted in about['files'].items():
      _check_file(folder, name, wanted['sha256'])
  return Bundle(folder, about)


def _check_file(folder: pathlib.Path, name: str, wanted: str) -> None:
  if not (folder / name).resolve().is_relative_to(folder.resolve()):
    raise BundleError(f'{folder}/bundle.json names a file elsewhere: {name}')
  try:
    found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
  except OSError as error:
    raise BundleError(f'the bundle {folder} lacks {name} ({error.strerror}); '
                      'copy or export it again') from error
  if found != wanted:
    raise BundleError(f'{folder}/{name} is not as it was written; copy or '
                      'export the bundle again')


@contextlib.contextmanager
def _well_formed(folder: pathlib.Path) -> Iterator[None]:
  """Says in one line what a bundle raises that `export` did not write."""
  try:
    yield
  except BundleError:
    raise
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError
          ) as error:
    raise BundleError(f'the bundle {folder} is malformed '
                      f'({type(error).__name__}: {line(error)}); export it '
                      'again') from error


def digest(about: dict[str, Any]) -> str:
  """Returns what bundle.json says of itself under 'digest', and so of all."""
  rest = {key: value for key, value in about.items() if key != 'digest'}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_about(folder):
  path = folder / 'bundle.json'
  try:
    about = dict(json.loads(path.read_text(encoding='utf-8')))
  except OSError as error:
    raise BundleError(f'no bundle in {folder}: cannot read {path} '
                      f'({error.strerror})') from error
  except (ValueError, TypeError) as error:
    raise BundleError(f'{path} is damaged ({line(error)})') from error
  version = about.get('format')
  if isinstance(version, int) and version > FORMAT:
    raise BundleError(f'{path} has format {version}, newer than {FORMAT}, '
                      'which is read here; update deep_oc, or use the '
                      'predict.py that lies in the bundle')
  if (version not in range(1, FORMAT + 1)
      or about.get('digest') != digest(about)):
    raise BundleError(f'{path} is not as it was written; copy or export the '
                      'bundle again')
  return about


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file; pickled ones are refused."""
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError,
          zipfile.BadZipFile, zlib.error) as error:
    raise BundleError(f'{path} is not a readable .npz file of plain arrays '
                      f'({line(error)})') from error
