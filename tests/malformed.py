"""Uploads that are no pictures, or too much of one; the same every time."""
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_KINDS = (('png', {}), ('jpeg', {}), ('jpeg', {'progressive': True}),
          ('webp', {}), ('webp', {'lossless': True}), ('bmp', {}), ('tiff', {}),
          ('tiff', {'compression': 'tiff_lzw'}))
_OTHERS = (b'GIF89a', b'%PDF-1.7\n', b'<svg xmlns="http://www.w3.org/2000/svg">',
           b'<!doctype html><script>alert(1)</script>', b'PK\3\4', b'MZ\x90\0',
           b'\x7fELF', b'\0\0\0\x18ftypheic', b'{"image": 1}', b'\x1f\x8b\x08',
           b'RIFF\0\0\0\0WAVE', b'\x80\x04\x95cos\nsystem\n', b'# text\n',
           b'\xff\x0a', b'8BPS\0\1', b'P6\n9 9\n255\n', b'\xff', b'\0' * 99,
           b'%!PS-Adobe-3.0 EPSF-3.0\n', b'\0\0\1\0\1\0')


def picture(seed: int = 0, size: tuple[int, int] = (48, 40), kind: str = 'png',
            **options: object) -> bytes:
  """Returns a file of noise on a slope, which no format shortens to nothing."""
  rng = np.random.default_rng(seed)
  image = np.uint8(rng.normal(128, 40, (size[1], size[0], 3)).clip(0, 255))
  file = io.BytesIO()
  Image.fromarray(image).save(file, kind, **options)
  return file.getvalue()


def uploads() -> Iterator[tuple[str, bytes]]:
  """Yields 200 of them, with what is wrong."""
  rng = np.random.default_rng(0)
  for kind, options in _KINDS:  # 8 × 15
    whole = picture(1, kind=kind, **options)
    for share in np.linspace(0.01, 0.97, 15):
      yield f'{kind} cut off', whole[:max(int(share * len(whole)), 1)]
  for begin in _OTHERS:  # 20 × 2
    yield 'wrong type', begin
    yield 'wrong type', begin + rng.bytes(5000)
  for i in range(3):
    yield 'empty', b''
    yield 'noise', b'\1' + rng.bytes(10 ** (i + 3))
  for i in range(10):
    yield 'damaged png', _damaged(picture(i), 60 + 40 * i)
  for side in (6000, 10000, 30000, 40000):
    yield 'png bomb', png_bomb(side)
    yield 'huge bmp', bmp(side)
  for side in (8192, 12000, 20000):
    yield 'tiff bomb', tiff_bomb(side)
  yield 'webp bomb', webp_bomb()
  for frames in (2, 500):
    yield 'gif', animated('gif', frames)
    yield 'apng', animated('png', frames)
    yield 'animated webp', animated('webp', frames)
    yield 'pages of tiff', animated('tiff', frames)
  for seed in range(4):
    yield 'huge', picture(seed, (900, 900), 'bmp')


def _damaged(png: bytes, at: int) -> bytes:
  return png[:at] + bytes(byte ^ 255 for byte in png[at:at + 8]) + png[at + 8:]


def zeros(count: int) -> bytes:
  """Returns `count` zeros as zlib packs them, a thousandth of their size."""
  packer, block = zlib.compressobj(9), bytes(2**20)
  parts = [packer.compress(block) for _ in range(count >> 20)]
  return b''.join(
      [*parts, packer.compress(bytes(count & 2**20 - 1)), packer.flush()])


def png_bomb(side: int) -> bytes:
  """Returns a grey PNG of side × side pixels, complete."""
  header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)  # 1 bit a pixel
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*each) for each in (
      (b'IHDR', header), (b'IDAT', zeros((side // 8 + 1) * side)),
      (b'IEND', b'')))


def strip(length: int) -> bytes:
  """Returns a PNG of length × 1 pixels, complete."""
  file = io.BytesIO()
  Image.new('L', (length, 1), 200).save(file, 'png')
  return file.getvalue()


def bmp(side: int) -> bytes:
  """Returns the header of a BMP of side × side pixels, and some of them."""
  return (b'BM' + struct.pack('<IHHI', 54 + 3 * side * side & 2**32 - 1, 0, 0,
                              54) +
          struct.pack('<IiiHHIIiiII', 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) +
          bytes(1000))


def bmp_of_runs(bits: int) -> bytes:
  """Returns a BMP of 64 × 64 pixels of 4 or 8 bits in runs, complete."""
  palette, runs = bytes(4 * 2**bits), b'\x40\x01\0\0' * 64 + b'\0\1'
  begin = 54 + len(palette)
  return (b'BM' + struct.pack('<IHHI', begin + len(runs), 0, 0, begin) +
          struct.pack('<IiiHHIIiiII', 40, 64, 64, 1, bits, {8: 1, 4: 2}[bits],
                      len(runs), 0, 0, 0, 0) + palette + runs)


def tiff_bomb(side: int) -> bytes:
  """Returns a TIFF of 16×16 pixels in one tile of side × side."""
  data = zeros(side * side)
  tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side,
          323: side, 324: 0, 325: len(data)}
  tags[324] = 8 + 2 + 12 * len(tags) + 4
  entries = b''.join(struct.pack('<HHII', tag, 4, 1, value)
                     for tag, value in tags.items())
  return (b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries +
          struct.pack('<I', 0) + data)


def scans(count: int, side: int = 8) -> bytes:
  """Returns a JPEG of at least so many scans, complete; of a black square."""
  file = io.BytesIO()
  Image.new('RGB', (side, side)).save(file, 'jpeg', progressive=True)
  whole = file.getvalue()
  at = whole.rindex(b'\xff\xda')
  return whole[:at] + whole[at:-2] * count + whole[-2:]


def headed(kind: str, part: bytes, size: int) -> bytes:
  """Returns a JPEG or PNG with so many bytes of a part early in its header."""
  whole, at = picture(kind=kind), {'jpeg': 2, 'png': 33}[kind]
  return whole[:at] + part * (size // len(part)) + whole[at:]


def chunk(name: bytes, data: bytes = b'') -> bytes:
  """Returns a part of a PNG."""
  return (struct.pack('>I', len(data)) + name + data +
          struct.pack('>I', zlib.crc32(name + data)))


def webp_bomb() -> bytes:
  """Returns a WebP of 16383 × 16383 pixels of one colour, as its header says.

  All of them are in a bit stream of a few bytes.
  """
  size = 16382 | 16382 << 14
  stream = b'\x2f' + struct.pack('<I', size) + bytes(60)
  return (b'RIFF' + struct.pack('<I', 12 + len(stream)) + b'WEBPVP8L' +
          struct.pack('<I', len(stream)) + stream)


def animated(kind: str, frames: int) -> bytes:
  """Returns a picture that moves, or a document of several pages."""
  rng = np.random.default_rng(frames)
  images = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            for _ in range(frames)]
  file = io.BytesIO()
  images[0].save(file, kind, save_all=True, append_images=images[1:])
  return file.getvalue()


def floats() -> bytes:
  """Returns a TIFF of 32-bit pixels."""
  file = io.BytesIO()
  Image.new('F', (8, 8)).save(file, 'tiff')
  return file.getvalue()
