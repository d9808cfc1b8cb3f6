"""Pictures from bytes of which nothing is known, at a bounded cost.

What would be too large is refused before anything of it is decoded: by the size
in its header and, as tiles of TIFF files are decompressed whole, by theirs. As
each scan of a JPEG file may go through all of the picture, so is one of many,
and a large one of fewer. So is a header of many steps, each of which Pillow
takes in Python: a chunk, a segment, a byte between two. So are pixels that it
would decode in Python: runs of a BMP file. Nothing is completed that was cut
off, and of several frames none is chosen.
"""
import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile

from deep_oc import bundle
from deep_oc.service.limits import Refused

ImageFile.LOAD_TRUNCATED_IMAGES = False  # whatever other packages set

KNOWN = 'PNG, JPEG, WebP, BMP or TIFF'
_BEGINNINGS = {b'\x89PNG\r\n\x1a\n': 'PNG', b'\xff\xd8\xff': 'JPEG',
               b'BM': 'BMP', b'II*\0': 'TIFF', b'MM\0*': 'TIFF',
               b'II+\0': 'TIFF', b'MM\0+': 'TIFF'}
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SCAN = b'\xff\xda'
_SCANS = 500  # cameras write 10; by chance, 16 MiB of a film behind have 256
_SCANNED = 2**32  # pixels that all scans go through: two seconds of one core
_READS = 10_000  # photographs take 100; each fill byte of a JPEG file is one


class _Header(io.BytesIO):
  """A file that may be read so often, enough to open a picture."""
  left = _READS

  def read(self, size: int | None = -1, /) -> bytes:
    self.left -= 1
    if self.left < 0:
      raise Refused(413, 'the header of the picture takes more than '
                    f'{_READS:,} reads')
    return super().read(size)


def read(content: bytes, found: bundle.Bundle, max_pixels: int) -> np.ndarray:
  """Returns what a bundle sees of an uploaded picture, u8[h, w, 3].

  Raises:
    Refused: it is empty (422), of another type or a BMP of runs (415), too
      large (413), damaged, cut off, animated, or not what the bundle takes
      (422).
  """
  if not content:
    raise Refused(422, 'the file is empty')
  kind = _kind(content)
  if not kind:
    raise Refused(415, f'the file is no {KNOWN} picture')
  if kind == 'JPEG':
    _check_scans(content)
  with _refusing():
    with _open(_Header(content), kind) as file:
      _check_size(file, max_pixels)
      _check_scanned(file, content)
      _check_decoder(file)
      _check_frames(file)
    with _open(io.BytesIO(content), kind) as file:
      file.verify()  # the checksums of PNG, after which it cannot be read
    with _open(io.BytesIO(content), kind) as file:
      file.load()
      return found.prepare(file)


def _kind(content: bytes) -> str | None:
  if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
    return 'WEBP'
  return next((kind for begin, kind in _BEGINNINGS.items()
               if content.startswith(begin)), None)


def _open(file: io.BytesIO, kind: str) -> Image.Image:
  return Image.open(file, formats=(kind,))


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
  """Turns whatever decoders raise into a reason."""
  try:
    yield
  except Refused:
    raise
  except bundle.PictureError as error:
    raise Refused(422, f'the picture cannot be used: {_line(error)}') from error
  except (Image.DecompressionBombError, MemoryError) as error:
    raise Refused(413, 'the picture has too many pixels') from error
  except Exception as error:  # decoders raise anything on damaged bytes
    raise Refused(422, 'the file is damaged or cut off') from error


def _line(error: Exception) -> str:
  """Returns the reason alone, without how Python prints the picture."""
  return ' '.join(str(error.__cause__ or error).split())[:200]


def _check_scans(content: bytes) -> None:
  """By the marker that begins one, which entropy-coded data cannot hold."""
  scans = content.count(_SCAN)
  if scans > _SCANS:
    raise Refused(413, f'the picture has {scans:,} scans, more than {_SCANS}')


def _check_scanned(file: Image.Image, content: bytes) -> None:
  """Of a progressive picture, whose scans may be a few bytes each."""
  width, height = file.size
  scans = content.count(_SCAN)
  if file.info.get('progressive') and scans * width * height > _SCANNED:
    raise Refused(413, f'the picture has {scans:,} scans of {width}×{height} '
                  f'pixels, more than {_SCANNED:,} in all')


def _check_size(file: Image.Image, most: int) -> None:
  width, height = file.size
  if width * height > most:
    raise Refused(413, f'the picture has {width}×{height} pixels, more than '
                  f'{most:,} in all')
  tags = getattr(file, 'tag_v2', {})
  tile = [tags.get(each, 0) for each in (_TILE_WIDTH, _TILE_LENGTH)]
  if np.prod(tile, dtype=float) > most:
    raise Refused(413, 'the tiles of the picture have {}×{} pixels, more than '
                  '{:,} in all'.format(*tile, most))


def _check_decoder(file: Image.Image) -> None:
  """Not by one in Python: each byte of a run may take it a microsecond."""
  slow = {tile[0] for tile in getattr(file, 'tile', ())} & set(Image.DECODERS)
  if slow:
    raise Refused(415, f'pixels of a {file.format} file packed as '
                  f'{", ".join(slow)} are not read; send it unpacked, or as '
                  'PNG')


def _check_frames(file: Image.Image) -> None:
  """Not by n_frames, for which Pillow may walk through millions of them."""
  if file.format == 'MPO':
    return  # a photograph of a phone: the first is it, others serve its depth
  with contextlib.suppress(EOFError):
    file.seek(1)
    raise Refused(422, 'the file has several frames or pages; send one picture')
