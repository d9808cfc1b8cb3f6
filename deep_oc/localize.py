"""Where an image is abnormal: a score for every window, spread over pixels.

Li et al., CVPR 2021 (https://arxiv.org/abs/2104.04015), sections 2.4 and A.5:
an encoder trained on crops sees every window of an image, a Gaussian density
says how unusual the window's feature is, and each score is spread over the
pixels that the window saw. The density is one for all positions, or, where
objects stand alike in all images, one per position.
"""
import math
from collections.abc import Callable

import numpy as np
import tqdm
from scipy import linalg
from sklearn import preprocessing

from deep_oc import oneclass
from deep_oc.errors import InputError


def starts(length: int, side: int, stride: int) -> np.ndarray:
  """Returns where windows begin, i64[g]; the last one ends at the edge.

  Raises:
    InputError: the window is larger than the image.
  """
  if not 0 < side <= length or stride < 1:
    raise InputError(f'windows of {side} pixels every {stride} do not fit an '
                     f'image of {length}')
  begin = np.arange(0, length - side + 1, stride)
  last = length - side
  return begin if begin[-1] == last else np.append(begin, last)


def features(embed: Callable[[np.ndarray], np.ndarray], image: np.ndarray,
             side: int, stride: int, batch: int = 512,
             description: str | None = None) -> np.ndarray:
  """Returns the feature of every window, f32[n, gh, gw, d].

  Windows of all images go through in batches of one size, so that the memory
  does not grow with the image, and one program serves all.

  Args:
    embed: u8[batch, side, side, c] -> f32[batch, d].
    image: u8[n, h, w, c].
    side: of the square window, in pixels.
    stride: pixels between windows.
    batch: windows per call of `embed`.
    description: of the progress bar; None shows none.
  """
  n, h, w = image.shape[:3]
  rows, columns = starts(h, side, stride), starts(w, side, stride)
  place = np.stack(np.meshgrid(np.arange(n), rows, columns, indexing='ij'),
                   axis=-1).reshape(-1, 3)
  view = np.lib.stride_tricks.sliding_window_view(image, (side, side), (1, 2))
  found = None
  for begin in tqdm.trange(0, len(place), batch, desc=description,
                           disable=None if description else True, leave=False):
    i, y, x = place[begin:begin + batch].T
    window = np.moveaxis(view[i, y, x], 1, -1)  # the copy is of one batch
    padding = [(0, batch - len(window))] + [(0, 0)] * 3
    feature = np.asarray(embed(np.pad(window, padding)))[:len(window)]
    if found is None:
      found = np.empty((len(place), feature.shape[1]), np.float32)
    found[begin:begin + batch] = feature
  return found.reshape(n, len(rows), len(columns), -1)


class SharedDensity:
  """One Gaussian for all positions: textures, and objects that lie anyhow.

  Fitted to at most `oneclass.LIMIT` random windows.
  """

  def __init__(self, classifier: str = 'gde_ledoit_wolf', seed: int = 0):
    self.classifier = classifier
    self.seed = seed

  def fit(self, feature: np.ndarray) -> 'SharedDensity':
    """Fits f32[n, gh, gw, d] of normal images."""
    rows = feature.reshape(-1, feature.shape[-1])
    self.density_ = oneclass.fit(self.classifier, rows, self.seed)
    return self

  def score(self, feature: np.ndarray) -> np.ndarray:
    """Maps f32[n, gh, gw, d] to f[n, gh, gw], higher = more anomalous."""
    rows = feature.reshape(-1, feature.shape[-1])
    return oneclass.anomaly_score(self.density_, rows).reshape(
        feature.shape[:-1])


class PositionDensity:
  """A Gaussian for each position, where objects stand alike in all images.

  Its covariance is shrunk as Ledoit and Wolf (2004) say, for there are fewer
  images than dimensions. With n images and (1 - s) S + s m I, everything
  follows from the n × n products of centred rows (Woodbury's identity), so no
  d × d matrix is ever made: 57 × 57 of them would take 6.8 GB.
  """

  def __init__(self, norm: str | None = 'l2'):
    self.norm = norm

  def fit(self, feature: np.ndarray) -> 'PositionDensity':
    """Fits f32[n, gh, gw, d] of normal images, n > 1.

    Raises:
      InputError: there is only one image.
    """
    n = len(feature)
    if n < 2:
      raise InputError('a density for each position needs two normal images '
                       f'at least, not {n}')
    self.train_ = feature
    return self

  def score(self, feature: np.ndarray) -> np.ndarray:
    """Maps f32[m, gh, gw, d] to f64[m, gh, gw], higher = more anomalous."""
    scores = np.empty(feature.shape[:-1])
    for y in range(feature.shape[1]):
      for x in range(feature.shape[2]):
        scores[:, y, x] = _negative_log_density(
            self._rows(self.train_, y, x), self._rows(feature, y, x))
    return scores

  def _rows(self, feature: np.ndarray, y: int, x: int) -> np.ndarray:
    rows = feature[:, y, x].astype(np.float64)
    return preprocessing.normalize(rows, self.norm) if self.norm else rows


def _negative_log_density(train: np.ndarray, test: np.ndarray) -> np.ndarray:
  """Maps f64[n, d] and f64[m, d] to -log p, f64[m], of a shrunk Gaussian."""
  n, d = train.shape
  mean = train.mean(0)
  train, test = train - mean, test - mean
  gram = train @ train.T
  shrinkage, scale = _ledoit_wolf(gram, d)
  a, b = (1 - shrinkage) / n, max(shrinkage * scale, 1e-9 * max(scale, 1e-12))
  inner = np.linalg.cholesky(b * np.eye(n) + a * gram)
  projected = linalg.solve_triangular(
      inner, train @ test.T, lower=True)
  mahalanobis = ((test ** 2).sum(1) - a * (projected ** 2).sum(0)) / b
  log_det = (d - n) * math.log(b) + 2 * np.log(np.diag(inner)).sum()
  return 0.5 * (mahalanobis + log_det + d * math.log(2 * math.pi))


def _ledoit_wolf(gram: np.ndarray, d: int) -> tuple[float, float]:
  """Returns shrinkage and mean variance from f64[n, n] centred products.

  The same number as `sklearn.covariance.ledoit_wolf_shrinkage`, whose sums
  over d × d are here sums over n × n.
  """
  n = len(gram)
  scale = np.trace(gram) / (n * d)
  squared = (gram ** 2).sum() / n ** 2
  beta = ((np.diag(gram) ** 2).sum() / n - squared) / (n * d)
  delta = squared / d - scale ** 2
  return (min(beta, delta) / delta if delta > 0 and beta > 0 else 0.0), scale


def upsample(score: np.ndarray, height: int, width: int, side: int,
             stride: int, sigma: float | None = None) -> np.ndarray:
  """Spreads window scores over pixels, f[n, gh, gw] to f[n, h, w].

  The receptive-field upsampling of Liznerski et al. (FCDD, ICLR 2021): each
  score is spread by a Gaussian as wide as its window. A pixel's weights are
  scaled to sum to one, or the edges, where fewer windows overlap, would stand
  out wherever scores are not around zero.
  """
  rows = _weights(height, side, stride, sigma)
  columns = _weights(width, side, stride, sigma)
  return np.einsum('ij,njk,lk->nil', rows, score, columns, optimize=True)


def _weights(length: int, side: int, stride: int, sigma: float | None
             ) -> np.ndarray:
  """Returns f64[length, g], rows of sum one."""
  offset = np.arange(length)[:, None] - starts(length, side, stride)
  inside = (offset >= 0) & (offset < side)
  kernel = gaussian(side, sigma)[np.clip(offset, 0, side - 1)] * inside
  return kernel / kernel.sum(1, keepdims=True)


def gaussian(side: int, sigma: float | None = None) -> np.ndarray:
  """Returns the taps f64[side] of FCDD's kernel.

  An even one is the next smaller odd one with its centre twice. The default
  sigma is that of the published code: 10 from 32 pixels on.
  """
  if sigma is None:
    sigma = 10.0 if side >= 32 else math.log10(0.45 * side + 1) + 0.25
  half = (side - 1) // 2
  taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
  return taps if side % 2 else np.insert(taps, half, taps[half])
