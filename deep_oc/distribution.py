"""Distribution augmentation: turned and flipped copies as further instances.

Contrastive learning spreads one class over the whole sphere, outliers and
all; with copies added, the originals fill only a part of it (Sohn et al., ICLR
2021, https://arxiv.org/abs/2011.02578). It happens once, before training, and
only the encoder sees it: classifiers are fitted on the originals.
"""
import numpy as np

from deep_oc import errors
from deep_oc.errors import InputError

# Each copy is (quarter turns counter-clockwise, axis flipped after turning).
_UP, _ACROSS = 1, 2
_GEOMETRIC = [(k, axis) for k in range(4) for axis in (None, _ACROSS)]
FAMILIES = {
    'none': [(0, None)],
    'rot': [(k, None) for k in range(4)],
    'hflip': [(0, None), (0, _ACROSS)],
    'vflip': [(0, None), (0, _UP)],
    **{f'geometric{k}': _GEOMETRIC[:k] for k in range(1, 9)},
}


def copies(family: str) -> int:
  """Returns how many instances `family` makes of one image."""
  return len(_members(family))


def upright(family: str) -> bool:
  """Returns whether no copy stands on its side or its head."""
  return all(k == 0 and axis != _UP for k, axis in _members(family))


def mirrors(family: str) -> bool:
  """Returns whether a copy is mirrored."""
  return any(axis is not None for _, axis in _members(family))


def augment(image: np.ndarray, family: str) -> np.ndarray:
  """Returns u8[m * n, h, w, c] for u8[n, h, w, c]: all originals come first.

  Row `i` is copy `i // n` of image `i % n`.
  """
  members = _members(family)
  height, width = image.shape[1:3]
  if height != width and any(k % 2 for k, _ in members):
    raise InputError(f"distribution augmentation '{family}' turns images by "
                     f'90 degrees: they must be square, not {height}x{width}')
  return np.concatenate([_copy(image, *member) for member in members])


def _members(family: str) -> list[tuple[int, int | None]]:
  if family not in FAMILIES:
    raise errors.unknown('distribution augmentation', family, FAMILIES)
  return FAMILIES[family]


def _copy(image: np.ndarray, turns: int, axis: int | None) -> np.ndarray:
  image = np.rot90(image, turns, axes=(1, 2))
  return image if axis is None else np.flip(image, axis)
