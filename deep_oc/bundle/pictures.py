"""Brings any picture to what a network learnt from.

As `deep_oc.unseen` does it, to the last bit, which tests hold it to.
"""
import io
import math
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import PictureError, line

_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')
_LONGEST = 16  # times the shorter side, of which all pixels are looked at
_SUMMED = 2**20  # pixels at a time

# A file or its content, an opened image, or u8[h, w] or u8[h, w, 1, 3 or 4].
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray


def prepare(picture: Picture, shape: tuple[int, int, int],
             how: dict[str, Any]) -> np.ndarray:
  """Returns u8[h, w, 3], as the run's data source makes it.

  Args:
    picture: of any size.
    shape: h, w, 3, padding included.
    how: `method`, 'squeeze', 'square' or 'face'; `pad`, zeros on each side;
      `size`, the width and height that a picture must have, or None.
  """
  if (isinstance(picture, np.ndarray) and picture.shape == shape
      and picture.dtype == np.uint8):
    return picture
  image, pad, wanted = _opened(picture), how['pad'], how['size']
  if wanted and image.size != tuple(wanted):
    raise PictureError('pictures have {}×{} pixels, this one {}×{}'.format(
        *wanted, *image.size))
  image = _METHODS[how['method']](
      image, *(side - 2 * pad for side in shape[:2]))
  return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))


def size(picture: Picture) -> tuple[int, int]:
  """Returns the width and the height of a picture, as it stands upright.

  Raises:
    PictureError: it is none.
  """
  return _opened(picture).size


def keeps_all(how: dict[str, Any]) -> bool:
  """Says whether `prepare` leaves nothing out, and adds nothing."""
  return how['method'] == 'squeeze' and not how['pad']


def _squeeze(image: Image.Image, height: int, width: int) -> np.ndarray:
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _square(image: Image.Image, height: int, width: int) -> np.ndarray:
  """Averages pixels until the shorter side fits, and cuts out the centre.

  Of one that is more than 16 times as long as it is wide, the ends, which are
  cut off anyway, are not looked at.
  """
  array = np.asarray(image)
  shape, shorter = array.shape[:2], min(array.shape[:2])
  sides = [height * count // shorter for count in shape]
  edges = [((side - want) // 2 + np.arange(want + 1)) * count / side
           for side, want, count in zip(sides, (height, width), shape,
                                        strict=True)]
  if max(shape) > _LONGEST * shorter:
    first = [int(edge[0]) for edge in edges]
    array = array[tuple(slice(begin, math.ceil(edge[-1])) for begin, edge
                        in zip(first, edges, strict=True))]
    edges = [edge - begin for edge, begin in zip(edges, first, strict=True)]
  for axis in (0, 1):
    array = _averages(array, edges[axis], sides[axis] / shape[axis], axis)
  return np.uint8(np.rint(array))


def _averages(array, edge, share, axis):
  """Returns the means between edges f[n + 1] along an axis; pixels are divided.

  Sums take 48 bytes of a pixel, so they are made of some pixels at a time.
  """
  array = np.moveaxis(array, axis, 0)
  count = len(array)
  whole = edge.astype(int)
  part = (edge - whole)[:, None, None]
  step = max(_SUMMED // count, 1)
  found = np.empty((len(edge) - 1, *array.shape[1:]))
  for begin in range(0, array.shape[1], step):
    some = array[:, begin:begin + step]
    total = np.zeros((count + 1, *some.shape[1:]))
    np.cumsum(some, axis=0, out=total[1:])
    total = total[whole] + part * some[np.minimum(whole, count - 1)]
    found[:, begin:begin + step] = np.diff(total, axis=0) * share
  return np.moveaxis(found, 0, axis)


def _face(image: Image.Image, height: int, width: int) -> np.ndarray:
  """Cuts the face out of a picture of CelebA, 178×218 pixels."""
  face = Image.fromarray(np.asarray(image)[40:-20, 10:-10])
  return np.asarray(face.resize((width, height), Image.Resampling.BICUBIC))


_METHODS = {'squeeze': _squeeze, 'square': _square, 'face': _face}


def _opened(picture: Picture) -> Image.Image:
  """Returns the picture in RGB, upright, transparent pixels over black."""
  if isinstance(picture, str | os.PathLike | bytes):
    return _from_file(picture)
  try:
    if not isinstance(picture, Image.Image):
      picture = _from_array(np.asarray(picture))
    return _rgb(picture)
  except PictureError:
    raise
  except (OSError, ValueError, SyntaxError) as error:
    raise PictureError(f'{picture} cannot be used ({line(error)})') from error


def _from_file(picture: str | os.PathLike | bytes) -> Image.Image:
  given = isinstance(picture, bytes)
  name = 'the picture' if given else picture
  try:
    content = picture if given else pathlib.Path(picture).read_bytes()
  except OSError as error:
    raise PictureError(f'cannot read {name}: {error.strerror}') from error
  try:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
      return _rgb(file)
  except MemoryError:
    raise
  except UnidentifiedImageError as error:
    raise PictureError(f'{name}: cannot be read as an image (no PNG, JPEG, '
                       'BMP, TIFF or WebP file)') from error
  except Exception as error:  # decoders raise anything on damaged bytes
    raise PictureError(f'{name}: cannot be read as an image ({line(error)})'
                       ) from error


def _from_array(array: np.ndarray) -> Image.Image:
  if array.dtype != np.uint8:
    raise PictureError(f'pictures are uint8, 0 to 255, not {array.dtype}')
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if not array.size or array.ndim != 2 and (
      array.ndim != 3 or array.shape[-1] not in (3, 4)):
    raise PictureError(f'a picture of shape {array.shape} is neither grey '
                       '[h, w] nor [h, w, c] with 1, 3 or 4 channels')
  return Image.fromarray(array)


def _rgb(file: Image.Image) -> Image.Image:
  image = ImageOps.exif_transpose(file)
  if image.mode.startswith('I;16') or (image.mode, file.format) == ('I', 'PNG'):
    wide = np.asarray(image).astype(np.uint32)  # 65535 becomes 255
    image = Image.fromarray(np.uint8((wide + 128) // 257))
  if image.mode in ('I', 'F'):
    raise ValueError('32-bit pixels, whose range nobody knows; save it with 8 '
                     'or 16 bits')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    black = Image.new('RGBA', image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(black, image)
  return image.convert('RGB')
