"""Pictures that a run has not seen, made into what its encoder learnt from.

Files are read as `deep_oc.data.folder` reads them, and every picture is brought
to the size of the training images as the run's data source does it.
"""
import collections
import glob
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from deep_oc import files, plugins
from deep_oc.data import _layout, _pictures, cat_vs_dog, celeba
from deep_oc.errors import InputError

# A file, an opened image, or u8[h, w], u8[h, w, 1], [..., 3] or [..., 4].
Picture = str | os.PathLike | Image.Image | np.ndarray

# (u8[h, w, 3], side) -> u8[side, side, 3], by what a data source's `CUT` says.
CUTS = {'square': cat_vs_dog.square, 'face': celeba.face}

_FEATURE = (
    'Of the embeddings: pool, head, pool_flip_rot ...; or windows: the score '
    "is the largest value of an image's heat map, if the run localizes by "
    "windows; or score: the task's own, which --classifier names, calibrated "
    'by images that nothing has learnt from. By default pool, but windows of '
    "an encoder that nothing was trained in, as ImageNet's.")


def define_flags(feature: str = _FEATURE) -> None:
  """Defines arguments of `deep_oc.trained_run.load`, with help on --feature."""
  flags.disclaim_key_flags()  # they are the binary's
  flags.DEFINE_string('feature', None, feature)
  flags.DEFINE_float(
      'false_alarm_rate', None, 'The share of normal images that may be '
      'flagged; by default 0.05, or the lowest that is possible with so few.')
  flags.DEFINE_string(
      'calibration', None, 'Folder, or pattern, of normal images that nothing '
      'has learnt from, to calibrate with; by default what the run held out, '
      'or else training images.')


def calibrating(args: Any) -> list[str] | None:
  """Returns the files that --calibration names, None without it."""
  return find(args.calibration).paths if args.calibration else None


class Found(NamedTuple):
  """Image files, by name alone.

  Attributes:
    root: the folder that all of them are in or below.
    paths: sorted; each begins with the root.
    ignored: how many files were left out, by reason.
  """
  root: str
  paths: list[str]
  ignored: collections.Counter


def find(pattern: str, without: str | os.PathLike | None = None) -> Found:
  """Returns the images in a folder and below, at a pattern, or one file.

  Symbolic links, hidden files and what is not named as an image are left out,
  but a single file is taken by any name; in a folder also the heat maps of
  `deep_oc.predict`, which are in `maps` beside a predictions.json.

  Args:
    pattern: the folder, a pattern of files with * and **, or the file.
    without: a folder that is left out; a remote one is not below any.

  Raises:
    InputError: there is none, or a folder cannot be read.
  """
  given, ignored = pathlib.Path(pattern).expanduser(), collections.Counter()
  if files.is_remote(without):
    without = None
  if given.is_dir():
    root, paths = given, _below(given, without, ignored)
  elif given.exists():
    root, paths = given.parent, [given]
  else:
    paths = [path for each in glob.glob(str(given), recursive=True)
             if _is_image(path := pathlib.Path(each), ignored)]
    root = os.path.commonpath([path.parent for path in paths] or [''])
  paths = sorted(map(str, paths))
  if not paths:
    raise InputError(f'no image at {pattern}{_layout.left_out(ignored)}; '
                     'give a folder of images, one image, or a pattern such as '
                     "'photos/*.png'")
  return Found(str(root), paths, ignored)


def _below(folder: pathlib.Path, without: str | os.PathLike | None,
           ignored: collections.Counter) -> Iterator[pathlib.Path]:
  predicted = (folder / 'predictions.json').exists()
  for entry in _layout.entries(folder, ignored):
    if entry.is_dir() and predicted and entry.name == 'maps':
      ignored['folders of heat maps'] += 1
    elif entry.is_dir():
      if not without or entry.resolve() != pathlib.Path(without).resolve():
        yield from _below(entry, without, ignored)
    elif _is_image(entry, ignored):
      yield entry


def is_image_name(name: str) -> bool:
  return pathlib.PurePath(name).suffix.lower() in _layout.SUFFIXES


def _is_image(path: pathlib.Path, ignored: collections.Counter) -> bool:
  """Says whether it is a file named as an image; counts what is not."""
  if path.is_symlink():
    ignored['symbolic links'] += 1
  elif path.is_file() and is_image_name(path.name):
    return True
  elif not path.is_dir():
    ignored[f'{path.suffix or "other"} files'] += 1
  return False


def several(images: Iterable[Picture]) -> Iterable[Picture]:
  """Returns the pictures: a collection of them, perhaps an empty one.

  Raises:
    InputError: it is a single picture, an array of another shape, or nothing
      that holds pictures.
  """
  if isinstance(images, str | os.PathLike) and os.path.isdir(images):
    raise InputError(f'{images} is a folder; give a list of pictures, as '
                     f"glob.glob('{os.path.join(images, '*')}')")
  if isinstance(images, str | os.PathLike | Image.Image):
    raise InputError('this is a single picture; give a list of pictures: [it]')
  if not hasattr(images, '__array__'):
    if not isinstance(images, Iterable):
      raise InputError(f'{images!r} is not an iterable of pictures')
    return images
  images = np.asarray(images)
  if images.ndim == 3 and images.shape[-1] in (3, 4):
    raise InputError(f'an array of shape {images.shape} is a single picture; '
                     'give a list of pictures: [it]')
  if images.ndim not in (3, 4):
    raise InputError(f'images are u8[n, h, w] or u8[n, h, w, c], not an array '
                     f'of shape {images.shape}')
  return images


def reader(config: Mapping[str, Any], shape: tuple[int, int, int]
           ) -> Callable[[Picture], np.ndarray]:
  """Returns picture -> u8[h, w, 3], as the data source of the config makes it.

  A u8 array of just this shape is taken as it is, for so the source's own
  images are. The function raises InputError for what is no picture.

  Args:
    config: the group `data`.
    shape: h, w and 3, padding included.
  """
  pad = config.get('pad', 0)
  height, width = (side - 2 * pad for side in shape[:2])
  method, size = _how(config)

  def read(picture: Picture) -> np.ndarray:
    if isinstance(picture, np.ndarray) and picture.shape == shape \
        and picture.dtype == np.uint8:
      return picture
    rgb = _opened(picture)
    if size and rgb.size != size:
      raise InputError(f"images of '{config['source']}' have "
                       f'{_pictures.pixels(size)} pixels, this one '
                       f'{_pictures.pixels(rgb.size)}')
    image = (CUTS[method](np.asarray(rgb), height) if method in CUTS else
             _pictures.squeeze(rgb, height, width))
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))

  return read


def size(picture: Picture) -> tuple[int, int]:
  """Returns the width and the height of a picture, as it stands upright.

  Raises:
    InputError: it is none.
  """
  return _opened(picture).size


def described(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what `reader` does, as `deep_oc.bundle.pictures` takes it."""
  method, size = _how(config)
  return {'method': method, 'pad': config.get('pad', 0), 'size': size}


def _how(config: Mapping[str, Any]) -> tuple[str, tuple[int, int] | None]:
  """Returns how pictures are brought to size, and the one they must have."""
  source = plugins.module('deep_oc.data', config['source'])
  method = getattr(source, 'CUT', 'squeeze')
  if method not in ('squeeze', *CUTS):
    raise InputError(f"{source.__file__} has CUT='{method}', which is none of "
                     f'deep_oc.unseen.CUTS: {", ".join(CUTS)}')
  return method, getattr(source, 'PICTURE', None)


def _opened(picture: Picture) -> Image.Image:
  """Returns the picture in RGB."""
  if isinstance(picture, str | os.PathLike):
    try:
      content = _pictures.read_bytes(pathlib.Path(picture))
      return _pictures.read_image(content)[0]
    except _pictures.Unusable as error:
      raise InputError(f'{picture}: {error}') from error
  if not isinstance(picture, Image.Image):
    picture = _from_array(np.asarray(picture))
  try:
    return _pictures.as_rgb(picture)[0]
  except (OSError, ValueError, SyntaxError) as error:
    raise InputError(f'{picture} cannot be used ({error})') from error


def _from_array(array: np.ndarray) -> Image.Image:
  if array.dtype != np.uint8:
    hint = ('; of values from 0 to 1, make np.uint8(255 * images)'
            if array.dtype.kind == 'f' else '')
    raise InputError(f'pictures are uint8, 0 to 255, not {array.dtype}{hint}')
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if not array.size or array.ndim != 2 and (
      array.ndim != 3 or array.shape[-1] not in (3, 4)):
    raise InputError(f'a picture of shape {array.shape} is neither grey [h, w] '
                     'nor [h, w, c] with 1, 3 or 4 channels')
  return Image.fromarray(array)
