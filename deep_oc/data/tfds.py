"""TensorFlow Datasets, read without TensorFlow.

`tfds.data_source` reads array_record files and decodes image by image, which
takes half a minute for CIFAR-10; the decoded arrays are therefore kept in one
`.npz` file, which the source 'npz' reads too.
"""
import hashlib
import os
import pathlib

import numpy as np
import tqdm
from absl import logging

from deep_oc import data, errors, files
from deep_oc.data import npz
from deep_oc.errors import InputError

# TFDS learns these only from the archive that it downloads.
_CLASS_NAMES = {'cifar10': (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse',
    'ship', 'truck')}


def load(name: str, *, data_dir: str | None = None,
         cache_dir: str | None = None) -> data.Split:
  """Returns the splits 'train' and 'test' of a set with image and label.

  Args:
    name: as TFDS writes it: 'cifar10', 'fashion_mnist', 'cifar10:3.0.2'.
    data_dir: where it was prepared; TFDS's own default otherwise. While the
      folder is away (another machine), its cache serves.
    cache_dir: for the decoded arrays; $DEEP_OC_CACHE or ~/.cache/deep_oc.

  Raises:
    InputError: no such set, not prepared, damaged, or not one of images and
      labels.
  """
  folder = _data_dir(data_dir)
  cache = _cache_path(name, folder, cache_dir)
  stamp = _stamp(name, folder)
  if cache.exists():
    arrays = npz.read(cache)
    if stamp in ('', str(arrays.get('stamp'))):
      return npz.parse(arrays, cache, name)
  arrays = _decode(name, folder)
  try:
    with files.replacing(cache, 'wb') as file:
      np.savez(file, stamp=stamp, **arrays)
  except InputError as error:  # costs the next run time, not this run its data
    logging.warning('%s', error)
  return npz.parse(arrays, cache, name)


def _data_dir(data_dir: str | None) -> str:
  folder = (data_dir or os.environ.get('TFDS_DATA_DIR')
            or '~/tensorflow_datasets')
  if '://' in folder:  # a bucket
    return folder
  return str(pathlib.Path(folder).expanduser().resolve())


def _cache_path(name: str, folder: str, cache_dir: str | None) -> pathlib.Path:
  """Returns a name of its own for every set and folder."""
  root = cache_dir or os.environ.get('DEEP_OC_CACHE') or '~/.cache/deep_oc'
  key = hashlib.sha256(f'{name}\n{folder}'.encode()).hexdigest()[:12]
  return (pathlib.Path(root).expanduser()
          / f'{name.replace("/", "-").replace(":", "-")}-{key}.npz')


def _stamp(name: str, folder: str) -> str:
  """Returns what changes when the set is prepared anew; '' if it is away."""
  root = pathlib.Path(folder) / name.split(':')[0].split('/')[0]
  seen = [f'{path.relative_to(root)} {path.stat().st_size} '
          f'{path.stat().st_mtime_ns}'
          for path in sorted(root.rglob('*')) if path.is_file()]
  return hashlib.sha256('\n'.join(seen).encode()).hexdigest() if seen else ''


def _decode(name: str, folder: str) -> dict[str, np.ndarray]:
  """Reads the set from its records into the arrays that `npz` describes."""
  builder = _builder(name, folder)
  features = dict(builder.info.features or {})
  if (getattr(features.get('image'), 'np_dtype', None) != np.uint8
      or not hasattr(features.get('label'), 'names')):
    raise InputError(f"TFDS set '{name}' is not one of 8-bit images with a "
                     f'class label; its features: {features}')
  arrays = {}
  for part in ('train', 'test'):
    source = _source(builder, part, name, folder)
    arrays[f'x_{part}'], arrays[f'y_{part}'] = _read(
        source, f'{name} {part} in {folder}')
  class_names = tuple(features['label'].names)
  if class_names == tuple(map(str, range(len(class_names)))):
    class_names = _CLASS_NAMES.get(builder.name, class_names)
  return arrays | {'class_names': np.array(class_names)}


def _builder(name: str, folder: str):
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise InputError(
        f"reading '{name}' needs TFDS ({error}): pip install "
        'tensorflow-datasets array_record importlib_resources') from error
  try:
    return tfds.builder(name, data_dir=folder)
  except tfds.core.DatasetNotFoundError as error:
    known = tfds.list_builders(with_community_datasets=False)
    raise errors.unknown('TFDS set', name, known) from error
  except (AssertionError, ValueError) as error:
    raise InputError(f"TFDS cannot open '{name}': "
                     f'{str(error).strip().splitlines()[0]}') from error


def _source(builder, part: str, name: str, folder: str):
  splits = builder.info.splits
  if splits and part not in splits:
    raise InputError(f"TFDS set '{name}' has no split '{part}'; it has "
                     + ', '.join(splits))
  try:
    return builder.as_data_source(part)
  except (AssertionError, NotImplementedError) as error:
    # TFDS's own way on would be an hour of failing downloads.
    raise InputError(
        f"TFDS set '{name}' is not prepared for reading in {folder}; set "
        'data.data_dir to where it is, or prepare it once: pip install '
        "'.[prepare]' && python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', data_dir='{folder}', "
        "file_format='array_record').download_and_prepare()\"") from error


def _read(source, what: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns u8[n, h, w, c] images and i32[n] labels."""
  image, label = None, np.empty(len(source), np.int32)
  for i in tqdm.trange(len(source), desc=f'decode {what}', disable=None):
    try:
      example = source[i]
    except (RuntimeError, OSError, ValueError) as error:
      raise InputError(f'cannot read image {i} of {what} ({error}); delete '
                       'the set and prepare it again') from error
    if image is None:
      image = np.empty((len(source), *example['image'].shape), np.uint8)
    if example['image'].shape != image.shape[1:]:
      raise InputError(
          f'images of {what} differ in size: {image.shape[1:]} and '
          f'{example["image"].shape}; write one size to an .npz file and use '
          "the source 'npz'")
    image[i], label[i] = example['image'], example['label']
  return image, label
