"""CelebA (Liu et al., ICCV 2015): faces, with or without one attribute.

TFDS's `celeb_a`, its splits 'train' and 'test': 162,770 and 19,962 faces of
218 × 178 pixels, each with 40 attributes. As Sohn et al. (ICLR 2021) prepare
them: rows 40 to -20 and columns 10 to -10 are kept, which is a square of 158,
and resized to 64 pixels by Pillow's default filter, in the version that they
name (8.0.0) and now: bicubic.

They train on faces without eyeglasses and test on the whole test split. Their
published loader cannot be run, and reads another attribute than it is told;
here the attributes are those of TFDS, by name.
"""
import numpy as np
from PIL import Image

from deep_oc import data, errors, progress
from deep_oc.data import _cache, _records

CUT = 'face'  # what becomes of a picture, by `face`
PICTURE = 178, 218  # pixels that it must have

_VERSION = 1  # of the decoding; another one makes caches void
_PAPERS = 'Eyeglasses'


def load(attribute: str = _PAPERS, *, size: int = 64,
         data_dir: str | None = None, cache_dir: str | None = None
         ) -> data.Split:
  """Returns the faces, size × size pixels; label 1 has the attribute.

  Label 0 has it not, and is what the paper calls normal.

  Args:
    attribute: as CelebA writes it, 'Eyeglasses'. Result rows call the data set
      'celeba' with this one, 'celeba_smiling' with 'Smiling'.
    size: side in pixels.
    data_dir: where TFDS prepared it; TFDS's own default otherwise. While the
      folder is away (another machine), its cache serves.
    cache_dir: for the decoded arrays, 2.2 GB at 64 pixels and one file for all
      attributes; $DEEP_OC_CACHE or ~/.cache/deep_oc.

  Raises:
    InputError: no such attribute, not prepared, or damaged.
  """
  errors.check_whole('data.size', size)
  place = _records.folder(data_dir)
  cache = _cache.path('celeba', f'{_VERSION} {size}\n{place}', cache_dir)
  arrays = _cache.kept(cache, _records.stamp('celeb_a', place),
                       lambda: _decode(place, size, attribute))
  column = _column(attribute, arrays['attributes'].tolist())
  train, test = (
      data.Examples(arrays[f'x_{part}'],
                    arrays[f'has_{part}'][:, column].astype(np.int32))
      for part in ('train', 'test'))
  kind = attribute.lower()
  return data.Split('celeba' if attribute == _PAPERS else f'celeba_{kind}',
                    train, test, (f'no_{kind}', kind))


def _column(attribute: str, known: list[str]) -> int:
  if attribute not in known:
    raise errors.unknown('data.attribute', attribute, known)
  return known.index(attribute)


def _decode(place: str, size: int, attribute: str) -> dict[str, np.ndarray]:
  builder = _records.builder('celeb_a', place)
  known = sorted(builder.info.features['attributes'])
  _column(attribute, known)  # fails before minutes of decoding
  arrays = {'attributes': np.array(known)}
  for part in ('train', 'test'):
    source = _records.source(builder, part, 'celeb_a', place)
    arrays[f'x_{part}'], arrays[f'has_{part}'] = _read(
        source, size, known, f'celeb_a {part} in {place}')
  return arrays


def _read(source, size: int, known: list[str], what: str
          ) -> tuple[np.ndarray, np.ndarray]:
  """Returns u8[n, size, size, 3] faces and bool[n, 40] attributes."""
  image = np.empty((len(source), size, size, 3), np.uint8)
  has = np.empty((len(source), len(known)), bool)
  for i in progress.bar(range(len(source)), f'decode {what}', unit='images'):
    example = _records.example(source, i, what)
    image[i] = face(example['image'], size)
    has[i] = [example['attributes'][name] for name in known]
  return image, has


def face(image: np.ndarray, size: int) -> np.ndarray:
  """Cuts the face out of u8[218, 178, 3]; returns u8[size, size, 3]."""
  return np.asarray(Image.fromarray(image[40:-20, 10:-10]).resize(
      (size, size), Image.Resampling.BICUBIC))
