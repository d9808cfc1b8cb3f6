"""Which colours the scores of a heat map have.

One scale serves all maps of a run: equal scores have equal colours. These,
matplotlib's inferno, grow lighter with the score, evenly to the eye, so that
they are read alike by the colour-blind and in grey print.
"""
import functools
import math
import os
from typing import NamedTuple

import numpy as np

from deep_oc import embeddings
from deep_oc.errors import InputError


class Scale(NamedTuple):
  """How scores become colours.

  Attributes:
    low, high: the scores that are drawn darkest and lightest.
    knee: distance from low up to which colours follow the score, and from which
      on its logarithm: one glaring defect leaves room for faint ones.
  """
  low: float
  high: float
  knee: float = math.inf

  def share(self, values: np.ndarray) -> np.ndarray:
    """Maps scores to where on the colour bar they are, f[...] in [0, 1]."""
    values, span = np.asarray(values, float) - self.low, self.high - self.low
    if not math.isinf(self.knee):
      values, span = (np.arcsinh(x / self.knee) for x in (values, span))
    return np.clip(values / (span or 1), 0, 1)

  def middle(self) -> float:
    """Returns the score in the middle of the colour bar."""
    if math.isinf(self.knee):
      return (self.low + self.high) / 2
    half = np.arcsinh((self.high - self.low) / self.knee) / 2
    return self.low + self.knee * float(np.sinh(half))


def scale(maps: np.ndarray, anomaly: np.ndarray | None = None) -> Scale:
  """Returns the scale of all of a run's maps f[n, h, w].

  Low is the median of the normal images' medians: most of what is normal is
  dark. High is what the peaks of nine in ten anomalies stay under, and of 99
  in 100 normal images: a scale of normal images alone would show all defects
  alike. The knee is at twice the usual peak of normal images. Where all are
  known to be normal, high is twice as far at least, or they would glow. Only
  pictures depend on it, no number does, so it may see test labels. Without
  `anomaly` bool[n], all images count as normal, but none is known to be.
  """
  all_normal = anomaly is not None and not np.any(anomaly)
  anomaly = np.zeros(len(maps), bool) if anomaly is None else anomaly
  peak = np.array([np.max(each) for each in maps])
  normal = np.flatnonzero(~anomaly) if not np.all(anomaly) else range(len(maps))
  low = np.median([np.median(maps[i]) for i in normal])
  high = [np.quantile(peak[part], q) for part, q in (
      (anomaly, 0.9), (~anomaly, 0.99)) if part.any()]
  knee = 2 * (np.median(peak[normal]) - low)
  if all_normal:
    high.append(low + 2 * knee)
  return Scale(float(low), float(max(*high, low)), float(knee) or math.inf)


def of_run(workdir: str | os.PathLike, method: str) -> Scale | None:
  """Returns the scale of a run's own pictures, None if it has none.

  Args:
    workdir: the run's folder.
    method: of the maps, 'windows' or 'gradcam'.

  Raises:
    InputError: its maps cannot be read.
  """
  arrays, _ = embeddings.read_maps(workdir)
  if f'map_{method}' not in arrays:
    return None
  return scale(arrays[f'map_{method}'], arrays['anomaly'] != 0)


def colours(values: np.ndarray, limits: Scale) -> np.ndarray:
  """Returns the colours u8[..., 3] of f[...]; beyond the scale, its ends'."""
  return _table()[np.rint(255 * limits.share(values)).astype(np.uint8)]


def overlay(image: np.ndarray, heat: np.ndarray, limits: Scale,
            alpha: float | np.ndarray = 0.65) -> np.ndarray:
  """Lays the colours of f[h, w] over u8[h, w, 3].

  So much colour that white where it is normal stays darker than black where
  it is as anomalous as can be.

  Args:
    image: the input.
    heat: its scores.
    limits: from `scale`.
    alpha: share of the colour, for all pixels or f[h, w]; 0 keeps the input.
  """
  alpha = np.asarray(alpha, np.float32)[..., None]
  mixed = (1 - alpha) * image + alpha * colours(heat, limits)
  return np.rint(mixed).astype(np.uint8)


@functools.cache
def _table():
  """Returns the colour map, u8[256, 3].

  Raises:
    InputError: matplotlib, which has it, is not installed.
  """
  try:
    from matplotlib import colormaps
  except ImportError as error:
    raise InputError(f'heat maps need matplotlib ({error}): '
                     '`pip install matplotlib`') from error
  return colormaps['inferno'](np.arange(256), bytes=True)[:, :3]
