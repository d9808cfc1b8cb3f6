"""What is in image files and in their masks, as arrays of one size."""
import concurrent.futures
import hashlib
import io
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deep_oc import progress
from deep_oc.data._layout import Found, Item
from deep_oc.errors import InputError

_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')


class Seen(NamedTuple):
  """What an image file and its mask are, or why they cannot be used."""
  format: str = ''
  mode: str = ''
  size: tuple[int, int] = (0, 0)  # width, height
  mask_mode: str = ''
  error: str = ''


class Unusable(Exception):
  """Why one image, or its mask, cannot be used."""


def decode(found: Found, height: int, width: int
           ) -> tuple[np.ndarray, np.ndarray | None, list[Seen]]:
  """Decodes every image and mask.

  Returns:
    u8[n, height, width, 3]; bool[n, height, width], None without masks; and
    what each file is. Rows with an error are black.
  """
  shape = len(found.items), height, width
  image = np.zeros((*shape, 3), np.uint8)
  mask = np.zeros(shape, bool) if found.masked else None

  def fill(i: int) -> Seen:
    item = found.items[i]
    try:
      picture, seen = read_image(read_bytes(item.path))
      if item.mask:
        marked, mode = _read_mask(item, seen.size)
        mask[i] = _nearest(marked, height, width)
        seen = seen._replace(mask_mode=mode)
      image[i] = squeeze(picture, height, width)
      return seen
    except Unusable as error:
      return Seen(error=str(error))

  rows = range(len(found.items))
  return image, mask, in_parallel(fill, rows, f'decode {found.root}')


def in_parallel(function: Callable, values: Iterable, what: str) -> list:
  """Returns the function of each value; shows progress, in files."""
  values = list(values)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(progress.bar(pool.map(function, values), what, len(values),
                             unit='files', leave=False))


def read_image(content: io.BytesIO) -> tuple[Image.Image, Seen]:
  """Returns the image in RGB, turned as its file says, and what the file is.

  Raises:
    Unusable: it cannot be read.
  """
  try:
    with Image.open(content, formats=_FORMATS) as file:
      return as_rgb(file)
  except MemoryError:
    raise
  except Exception as error:  # decoders raise anything on damaged bytes
    raise Unusable(f'cannot be read as an image ({_why(error)})') from error


def as_rgb(file: Image.Image) -> tuple[Image.Image, Seen]:
  """Returns an opened image in RGB, turned as its file says, and what it is.

  Raises whatever Pillow's decoders raise.
  """
  upright = ImageOps.exif_transpose(file)
  seen = Seen(file.format or '', file.mode, upright.size)
  return _rgb(upright, seen.format), seen


def squeeze(picture: Image.Image, height: int, width: int) -> np.ndarray:
  """Resizes an RGB image to u8[height, width, 3], whatever its shape."""
  return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _read_mask(item: Item, size: tuple[int, int]) -> tuple[np.ndarray, str]:
  """Returns bool[h, w], True where the mask is not 0, and the file's mode."""
  where = f"its mask {'/'.join(item.mask.parts[-3:])}"
  content = read_bytes(item.mask)
  try:
    with Image.open(content, formats=_FORMATS) as file:
      mode, marked = file.mode, np.asarray(file) != 0
  except MemoryError:
    raise
  except Exception as error:  # as above
    raise Unusable(f'{where} cannot be read ({_why(error)})') from error
  if mode not in ('1', 'L', 'P'):
    raise Unusable(f'{where} has mode {mode}; masks have one channel of 1 '
                   'or 8 bits')
  if marked.shape[::-1] != size:
    raise Unusable(f'{where} is {pixels(marked.shape[::-1])} pixels large, '
                   f'the image {pixels(size)}')
  return marked, mode


def read_bytes(path: pathlib.Path) -> io.BytesIO:
  """Returns the content; a disk that fails is no corrupt image to skip."""
  try:
    return io.BytesIO(path.read_bytes())
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error


def _why(error: Exception) -> str:
  if isinstance(error, UnidentifiedImageError):
    return 'no PNG, JPEG, BMP, TIFF or WebP file'
  return ' '.join(str(error).split()).rstrip('.') or type(error).__name__


def pixels(size: tuple[int, int]) -> str:
  return f'{size[0]}×{size[1]}'


def _rgb(image: Image.Image, format: str) -> Image.Image:
  """Makes 8-bit RGB of any mode.

  16-bit grey is divided by 257, so that 65535 becomes 255 and nothing is cut
  off (of 16-bit colour Pillow itself keeps the upper 8 bits). Transparent
  pixels are laid over black: the colour that a file hides under them is not
  part of the picture.
  """
  if image.mode.startswith('I;16') or (image.mode, format) == ('I', 'PNG'):
    wide = np.asarray(image).astype(np.uint32)
    image = Image.fromarray(np.uint8((wide + 128) // 257))
  if image.mode in ('I', 'F'):
    raise ValueError('32-bit pixels, whose range nobody knows; save it with 8 '
                     'or 16 bits')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    black = Image.new('RGBA', image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(black, image)
  return image.convert('RGB')


def _nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes bool[h, w] to another; no pixel becomes half abnormal."""
  y, x = (np.int64((np.arange(count) + 0.5) * side / count)
          for count, side in zip((height, width), mask.shape, strict=True))
  return mask[y[:, None], x]


def digests(found: Found) -> list[tuple[str, str]]:
  """Returns the SHA-256 of each image file and of its mask."""
  def digest(item: Item) -> tuple[str, str]:
    return tuple(hashlib.sha256(read_bytes(path).getbuffer()).hexdigest()
                 if path else '' for path in (item.path, item.mask))
  return in_parallel(digest, found.items, f'read {found.root}')
