"""The file that joins the two stages: features of one split as plain arrays.

An embeddings file is an `.npz` without pickles:

  pool, head, ...     f32[n, d]  features; every 2-D array is one
  pixels              u8[n, d]   of them the images, small: means of squares,
                                 see `block`
  score_<name>        f32[n]     the pretext task's own anomaly scores
  label               i32[n]     the data set's own labels
  anomaly             bool[n]    False = normal
  index               i64[n]     position in the data set's split
  path                str[n]     where the image came from, if from a file
  meta                str        JSON: what the result rows say of the run; of
                                 test images also class_names, by label
  command             str        that made the file

Under a protocol that contaminates the training images, train.npz also has

  contaminant         bool[n]    the truth, for reports; nothing is fitted to it

and unlabelled.npz, of the same arrays, what only the encoder has seen.
calibration.npz has those of normal images that nothing has learnt from, with
score_<name>, if there are such; they calibrate false alarms.

All rows are taken for normal, but those of test.npz that `anomaly` marks. Only
`anomaly` and one feature or score are needed, so a file written by any
other program can be evaluated too.

`maps.npz` holds the test images with a score for every pixel:

  map_<name>          f32[n, h, w]
  mask                bool[n, h, w]  the abnormal pixels, if known
  image               u8[n, h, w, 3]
  label, anomaly, index, path, meta, command  as above

Its meta has by <name>, as `calibration`, the largest value of the map of each
image of calibration.npz, for maps of windows, whose largest value is a score.
"""
import contextlib
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from deep_oc import files, provenance
from deep_oc.errors import InputError

_PIXELS = 32  # a side of `pixels`, at most


def write(path: object, arrays: Mapping[str, np.ndarray],
          meta: Mapping[str, Any]) -> None:
  """Writes arrays with n rows each, and a JSON-able `meta`."""
  with files.replacing(path, 'wb') as file:
    np.savez(file, meta=np.array(json.dumps(meta, sort_keys=True)),
             command=np.array(provenance.command()), **arrays)


def block(height: int, width: int) -> int:
  """Returns the side of the squares of an image whose means `pixels` holds."""
  return max(-(-max(height, width) // _PIXELS), 1)


def pixels(image: np.ndarray) -> np.ndarray:
  """Flattens u8[n, h, w, c], shrunk by block means to 32 pixels at most."""
  n, h, w, c = image.shape
  side = block(h, w)
  h, w = h // side, w // side
  blocks = image[:, :h * side, :w * side].reshape(n, h, side, w, side, c)
  mean = blocks.mean((2, 4)) if side > 1 else blocks[:, :, 0, :, 0]
  return mean.round().astype(np.uint8).reshape(n, -1)


def check_same(stored: np.ndarray | None, image: np.ndarray, said: str
               ) -> None:
  """Raises InputError if u8[n, h, w, c] are not the images of `pixels`.

  Args:
    stored: what `pixels` once made, if that is known.
    image: the normal images that are there now.
    said: where they are.
  """
  if stored is not None and not np.array_equal(stored, pixels(image)):
    raise InputError(f'{said} holds other normal images than those that were '
                     'embedded; embed again, or say where they lie: data_dir')


def read(path: object, names: Collection[str] | None = None
         ) -> tuple[dict[str, np.ndarray], dict]:
  """Returns the arrays of these names, or all, and the meta of a file.

  Raises:
    InputError: the file is missing, damaged, holds pickles or NaN, or its
      arrays differ in length.
  """
  with _archive(path) as archive:
    arrays = {name: archive[name] for name in archive.files
              if names is None or name in (*names, 'meta')}
    meta = dict(json.loads(str(arrays.pop('meta', '{}'))))
    arrays.pop('command', '')
  lengths = {name: len(array) if array.ndim else None
             for name, array in arrays.items()}
  if len(set(lengths.values())) > 1 or None in lengths.values():
    raise InputError(f'the arrays of {path} differ in length: {lengths}')
  for name, array in arrays.items():
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
      raise InputError(f"'{name}' in {path} holds NaN or infinite values: the "
                       'training diverged; lower its learning rate')
  return arrays, meta


def contents(path: object) -> tuple[list[str], dict]:
  """Returns the names of the arrays and the meta, without reading the arrays.

  Raises:
    InputError: the file is missing or damaged.
  """
  with _archive(path) as archive:
    return archive.files, dict(json.loads(str(archive['meta'])))


@contextlib.contextmanager
def _archive(path: object) -> Iterator[Any]:
  """Opens an embeddings file; says in one line why it cannot be read."""
  try:
    with (files.path(path).open('rb') as file,
          np.load(file, allow_pickle=False) as archive):
      yield archive
  except FileNotFoundError as error:
    raise InputError(
        f'no embeddings at {path}: train the run to its end, or write them '
        'with `python -m deep_oc.embed --workdir=...`') from error
  except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError,
          RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise InputError(f'{path} is not a readable embeddings file of plain '
                     'arrays; delete it and embed again') from error


def read_run(workdir: object, names: Collection[str] | None = None
             ) -> tuple[dict, dict, dict]:
  """Returns the arrays of train and test, and the meta, of a run's folder.

  Args:
    workdir: the folder.
    names: of the arrays, 'anomaly' among them; all by default.

  Raises:
    InputError: a file is missing or damaged, they do not belong together, a
      training row is anomalous, or the test file has not both kinds.
  """
  folder = files.path(workdir) / 'embeddings'
  train, meta = read(folder / 'train.npz', names)
  test, test_meta = read(folder / 'test.npz', names)
  _check_same_run(folder / 'test.npz', test_meta, meta)
  _check_normal(folder / 'train.npz', train)
  _check_anomaly(folder / 'test.npz', test.get('anomaly'))
  return train, test, meta | test_meta


def read_calibration(workdir: object, train: Mapping[str, np.ndarray],
                     meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the arrays of a run's calibration.npz, empty if it has none.

  Args:
    workdir: the run's folder.
    train, meta: the arrays and the meta of its train.npz.

  Raises:
    InputError: the file is damaged, does not belong to train.npz or has an
      anomalous row, or it is missing and the run has held images out.
  """
  path = files.path(workdir) / 'embeddings' / 'calibration.npz'
  if not meta.get('n_calibration') and not files.exists(path):
    return {}
  arrays, found = read(path)
  _check_same_run(path, found, meta)
  _check_normal(path, arrays)
  there = features(arrays)
  for name, array in features(train).items():
    columns = there[name].shape[1] if name in there else 'no'
    if columns != array.shape[1]:
      raise InputError(
          f"'{name}' in {path.parent} has {columns} columns in {path.name}, "
          f'{array.shape[1]} in train.npz; embed again')
  return arrays


def _check_same_run(path, meta, of_train):
  for key in ('config_hash', 'step'):
    if meta.get(key) != of_train.get(key):
      raise InputError(
          f'the files in {path.parent} do not belong together: {key} is '
          f'{of_train.get(key)} in train.npz, {meta.get(key)} in {path.name}; '
          'delete that, and embed again')


def read_maps(workdir: object, meta: Mapping[str, Any] | None = None
              ) -> tuple[dict, dict]:
  """Returns the arrays and the meta of a run's heat maps, empty without any.

  Args:
    workdir: the run's folder.
    meta: of its test file, to check that the maps belong to it.

  Raises:
    InputError: the file is damaged, or of another run or step.
  """
  path = files.path(workdir) / 'embeddings' / 'maps.npz'
  if not files.exists(path):
    return {}, {}
  arrays, found = read(path)
  for key in ('config_hash', 'step') if meta else ():
    if found.get(key) != meta.get(key):
      raise InputError(
          f'{path} is not of what test.npz is: its {key} is {found.get(key)}, '
          f'not {meta.get(key)}; run `python -m deep_oc.localize '
          f'--workdir={workdir}` again')
  return arrays, found


def maps_meta(workdir: object) -> dict[str, Any]:
  """Returns the meta of a run's heat maps, empty if there are none to read."""
  try:
    return contents(files.path(workdir) / 'embeddings' / 'maps.npz')[1]
  except InputError:  # they are not what is asked for
    return {}


def _check_anomaly(path, anomaly):
  if anomaly is None or anomaly.ndim != 1 or anomaly.dtype.kind not in 'biuf':
    raise InputError(f"{path} holds no 'anomaly', bool[n]")
  if anomaly.all() or not anomaly.any():
    kind, hint = ('anomalous', '') if anomaly.any() else (
        'normal', ' (data.anomalous_path names a folder of anomalous images)')
    raise InputError(
        f'all {len(anomaly)} rows of {path} are {kind}; a test set needs both '
        f'kinds{hint}; `python -m deep_oc.predict` works without')


def _check_normal(path, arrays):
  marked = np.count_nonzero(arrays.get('anomaly', ()))
  if marked:
    raise InputError(f"{marked} rows of {path} are anomalous by 'anomaly', and "
                     'all are taken for normal; leave them out')


def features(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the named features, f32[n, d] each."""
  return {name: array for name, array in arrays.items()
          if array.ndim == 2 and array.dtype.kind in 'fiu'}


def task(meta: Mapping[str, object]) -> str:
  """Returns the pretext task of embeddings, '' if they are of no such run."""
  return str(meta.get('task') or meta.get('pretext', ''))


def scores(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the pretext task's own scores by name, f32[n] each."""
  prefix = 'score_'
  return {name.removeprefix(prefix): array for name, array in arrays.items()
          if name.startswith(prefix) and array.ndim == 1}
