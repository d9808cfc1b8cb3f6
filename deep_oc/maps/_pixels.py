"""From the places that were scored to the pixels of an image."""
from collections.abc import Sequence

import numpy as np


def spread(score: np.ndarray, height: int, width: int,
           places: Sequence[np.ndarray], sigma: float) -> np.ndarray:
  """Spreads f[n, gh, gw] over pixels, f64[n, h, w], by a Gaussian.

  `places`, f[gh] and f[gw], are where rows and columns lie, in pixels.
  """
  rows, columns = (_spread(length, place, sigma) for length, place
                   in zip((height, width), places, strict=True))
  return np.einsum('ij,njk,lk->nil', rows, score, columns, optimize=True)


def _spread(length: int, place: np.ndarray, sigma: float) -> np.ndarray:
  """Returns f64[length, cells], rows of sum one, of cells at f[cells]."""
  offset = np.arange(length)[:, None] - place
  nearest = np.abs(offset).min(axis=1, keepdims=True)
  # In terms of the nearest, so that some cell weighs something.
  weight = np.exp(-0.5 * (offset**2 - nearest**2) / sigma**2)
  return weight / weight.sum(axis=1, keepdims=True)
