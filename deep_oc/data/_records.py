"""Sets that TFDS has prepared, example by example and without TensorFlow.

`tfds.data_source` reads array_record files at random and decodes one example
at a time.
"""
import os
import pathlib
from typing import Any

from deep_oc import errors
from deep_oc.data import _cache
from deep_oc.errors import InputError


def folder(data_dir: str | None) -> str:
  """Returns where sets were prepared: `data_dir`, or TFDS's own default."""
  place = (data_dir or os.environ.get('TFDS_DATA_DIR')
           or '~/tensorflow_datasets')
  if '://' in place:  # a bucket
    return place
  return str(pathlib.Path(place).expanduser().resolve())


def stamp(name: str, folder: str) -> str:
  """Returns what changes when the set is prepared anew; '' if it is away."""
  return _cache.stamp(
      pathlib.Path(folder) / name.split(':')[0].split('/')[0])


def builder(name: str, folder: str):
  """Returns TFDS's builder.

  Raises:
    InputError: TFDS is missing, or does not know the set.
  """
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


def source(builder, part: str, name: str, folder: str):
  """Returns the examples of a split.

  Raises:
    InputError: there is no such split, or the set is not prepared.
  """
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


def example(source, i: int, what: str) -> dict[str, Any]:
  """Returns example `i`; `what` it is an example of, for the message.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return source[i]
  except (RuntimeError, OSError, ValueError) as error:
    raise InputError(f'cannot read image {i} of {what} ({error}); delete '
                     'the set and prepare it again') from error
