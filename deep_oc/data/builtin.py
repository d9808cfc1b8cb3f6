"""Images that come with the package: no download, no file.

'digits_on_photos', of real images that come with scikit-learn: one of the 1,797
handwritten digits of the UCI test set (8x8, Alpaydin and Kaynak 1998), enlarged
and drawn at a random place, size and strength on a random patch of one of two
photographs. Where a digit stands and what lies behind it says nothing about its
class, so distances between pixels say little either: what is normal has to be
learnt.

Nothing is shared between the splits: training images take two thirds of the
digits and the left of the photographs, test images the rest and the right.

'woven_fabric', generated: a fabric, and flaws in it with their pixels; see
`_surfaces`.
"""
import numpy as np
from PIL import Image

from deep_oc import data, errors
from deep_oc.data import _surfaces

_SIDE = 32  # of the images, in pixels
_TRAIN, _TEST = 600, 200  # images per class
_PATCH = 32, 64  # side in the photograph; larger ones are shrunk
_DIGIT = 18, 26  # side of the drawn digit's 8x8 frame
_OPACITY = 0.5, 0.9


def load(name: str = 'digits_on_photos') -> data.Split:
  """Returns a set by name; equal arrays on every call.

  Raises:
    InputError: an unknown name.
  """
  if name not in _SETS:
    raise errors.unknown('builtin set', name, _SETS)
  return _SETS[name]()


def _digits_on_photos() -> data.Split:
  rng = np.random.default_rng(0)
  digits, label, photos = _sources()
  train_row, test_row = _divide(label, rng)
  train, test = (
      _examples(digits, label, _draw_rows(label, row, n, rng), part, rng)
      for row, n, part in (
          (train_row, _TRAIN, [photo[:, :304] for photo in photos]),
          (test_row, _TEST, [photo[:, 336:] for photo in photos])))
  return data.Split('digits_on_photos', train, test,
                    tuple(str(digit) for digit in range(10)))


def _sources():
  """Returns digits f32[1797, 8, 8] in [0, 1], labels, two u8[427, 640, 3]."""
  from sklearn import datasets  # a second that other sources need not wait
  digits = datasets.load_digits()
  return (np.float32(digits.images / 16), digits.target,
          datasets.load_sample_images().images)


def _divide(label, rng):
  """Returns the rows of two thirds of every class, and the other rows."""
  train, test = [], []
  for digit in range(10):
    row = rng.permutation(np.flatnonzero(label == digit))
    cut = len(row) * 2 // 3
    train.append(row[:cut])
    test.append(row[cut:])
  return np.concatenate(train), np.concatenate(test)


def _draw_rows(label, row, n, rng):
  """Returns n of the rows per class; each about equally often."""
  return np.concatenate([
      rng.permutation(np.resize(row[label[row] == digit], n))
      for digit in range(10)])


def _examples(digits, label, row, photos, rng) -> data.Examples:
  image = np.stack([
      _draw(_patch(photos[rng.integers(len(photos))], rng), digits[each], rng)
      for each in row])
  return data.Examples(image, label[row].astype(np.int32))


def _patch(photo, rng) -> np.ndarray:
  """Returns a random square of the photograph, f32[32, 32, 3].

  Turned and mirrored at random: only the digit has an upright position.
  """
  side = rng.integers(_PATCH[0], _PATCH[1] + 1)
  y, x = (rng.integers(size - side + 1) for size in photo.shape[:2])
  patch = Image.fromarray(photo[y:y + side, x:x + side]).resize(
      (_SIDE, _SIDE), Image.Resampling.BILINEAR)
  patch = np.rot90(np.float32(patch), rng.integers(4))
  return patch[:, ::rng.choice((1, -1))].copy()


def _draw(image, digit, rng) -> np.ndarray:
  """Draws f32[8, 8] onto f32[32, 32, 3]; returns u8[32, 32, 3]."""
  side = rng.integers(_DIGIT[0], _DIGIT[1] + 1)
  ink = Image.fromarray(np.uint8(255 * digit)).resize(
      (side, side), Image.Resampling.BICUBIC)
  alpha = np.float32(ink)[..., None] / 255 * rng.uniform(*_OPACITY)
  y, x = rng.integers(_SIDE - side + 1, size=2)
  under = image[y:y + side, x:x + side]
  contrary = 255 if under.mean() < 128 else 0  # or it could not be seen
  colour = 0.75 * contrary + 0.25 * rng.integers(256, size=3)
  under += alpha * (colour - under)
  return np.uint8(np.rint(image))


_SETS = {'digits_on_photos': _digits_on_photos,
         'woven_fabric': _surfaces.create}
