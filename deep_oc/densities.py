"""How unusual a window's feature is: one density for all places, or one each.

Li et al., CVPR 2021 (https://arxiv.org/abs/2104.04015), section A.5: where
objects stand alike in all images, each position of the grid has a Gaussian of
its own; textures, and objects that lie anyhow, share one. `create` chooses.
"""
from typing import NamedTuple

import numpy as np
import threadpoolctl
from scipy import linalg

from deep_oc import classifiers, errors, jitted, oneclass

# What PositionDensity can be.
GAUSSIANS = tuple(name for name, new in oneclass.CLASSIFIERS.items()
                  if isinstance(new(), classifiers.ShrunkGDE))

# The matrices of one position are small: threads of BLAS mostly wait for each
# other, and on two busy cores took 20 to 30 times as long as one thread.
_one_thread = threadpoolctl.ThreadpoolController().wrap(
    limits=1, user_api='blas')


class SharedDensity:
  """One density for all positions, by any spec of `oneclass`.

  Fitted to at most `limit` random windows.
  """

  def __init__(self, classifier: str = 'gde_ledoit_wolf', seed: int = 0,
               limit: int = oneclass.LIMIT):
    oneclass.create(classifier)  # an unknown one fails now
    self.classifier = classifier
    self.seed = seed
    self.limit = limit

  def fit(self, feature: np.ndarray) -> 'SharedDensity':
    """Fits f32[n, gh, gw, d] of normal images, or rows of them, f32[k, d]."""
    rows = feature.reshape(-1, feature.shape[-1])
    self.density_ = oneclass.fit(self.classifier, rows, self.seed, self.limit)
    return self

  def score(self, feature: np.ndarray) -> np.ndarray:
    """Maps f32[m, gh, gw, d] to f64[m, gh, gw], higher = more anomalous."""
    rows = feature.reshape(-1, feature.shape[-1])
    scores = oneclass.anomaly_score(self.density_, rows)
    return scores.reshape(feature.shape[:-1])

  @property
  def leaves_out(self) -> bool:
    """Whether it has `left_out`."""
    return jitted.leaves_out(oneclass.create(self.classifier))

  def left_out(self, feature: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Scores images by what is left of the rows that were fitted.

    Args:
      feature: f32[m, gh, gw, d].
      without: bool[m, k], which rows are left out of each image.

    Returns:
      f64[m, gh, gw]; see `jitted.left_out`.
    """
    scores = jitted.left_out(
        self.density_, feature.reshape(len(feature), -1, feature.shape[-1]),
        without)
    return scores.reshape(feature.shape[:-1])

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted density, JSON-able."""
    return {'density': self.classifier, 'positions': 'shared',
            'seed': self.seed} | oneclass.parameters(self.density_, self.limit)


class PositionDensity:
  """A Gaussian for each position, where objects stand alike in all images.

  Each is the `classifiers.ShrunkGDE` of the position's rows, for there are
  fewer images than dimensions. Scores are half the squared Mahalanobis
  distance, as the paper's equation: the determinant, which it leaves out, would
  make positions that vary much score high wherever nothing is wrong. A fitted
  one holds the training features, and min(n, d)² numbers for each position: of
  a large grid, fit and score a band of rows at a time.

  Where all images are alike to the last bit, as on a white background, any
  noise would be infinitely unusual but for `reg_covar`.
  """
  leaves_out = False

  def __init__(self, classifier: str = 'gde_ledoit_wolf',
               reg_covar: float = 1e-6):
    if classifier not in GAUSSIANS:
      raise errors.unknown('density for each position', classifier, GAUSSIANS)
    self.classifier = classifier
    self._shrunk = oneclass.CLASSIFIERS[classifier](reg_covar=reg_covar)

  @_one_thread
  def fit(self, feature: np.ndarray) -> 'PositionDensity':
    """Fits f32[n, gh, gw, d] of normal images, n > 1.

    Raises:
      InputError: there is only one image.
    """
    if len(feature) < 2:
      raise errors.InputError('a density for each position needs two normal '
                              f'images at least, not {len(feature)}')
    self.train_ = feature
    self.gaussians_ = {at: _fit(self._rows(feature, at), self._shrunk)
                       for at in np.ndindex(feature.shape[1:3])}
    self.shrinkage_ = np.reshape(
        [each.shrinkage for each in self.gaussians_.values()],
        feature.shape[1:3])
    return self

  @_one_thread
  def score(self, feature: np.ndarray) -> np.ndarray:
    """Maps f32[m, gh, gw, d] to f64[m, gh, gw], higher = more anomalous."""
    if feature.shape[1:] != self.train_.shape[1:]:
      raise ValueError(f'fitted to {self.train_.shape[1:]} features of each '
                       f'image, not {feature.shape[1:]}')
    scores = np.empty(feature.shape[:-1])
    for at, gaussian in self.gaussians_.items():
      scores[:, *at] = _distance(
          gaussian, self._rows(self.train_, at), self._rows(feature, at))
    return scores

  @_one_thread
  def compact(self, y: int) -> dict[str, np.ndarray]:
    """Returns all that the scores in row y of the grid depend on.

    `mean` f64[gw, d]; `axes` f32[gw, k, d], orthonormal, along which the k + 1
    images spread, or all d; `variance` f64[gw, k], along them; `rest` f64[gw],
    along all else. A window that is z from the mean, and a = axes z, scores

      (sum(a² / variance) + |z - axes' a|² / rest) / 2

    A sum of squares, so that float32 does; it would not for the difference that
    Woodbury's identity is.
    """
    rows = [self._compact((y, x)) for x in range(self.train_.shape[2])]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _compact(self, at):
    rows = self._rows(self.train_, at)
    mean, a, b, *_ = self.gaussians_[at]
    _, spread, axes = linalg.svd(rows - mean, full_matrices=False)
    k = compact_rank(*rows.shape)
    return {'mean': mean, 'axes': axes[:k].astype(np.float32),
            'variance': a * np.square(spread[:k]) + b, 'rest': np.float64(b)}

  @property
  def norm(self) -> str | None:
    """What rows are scaled to, 'l2' or nothing."""
    return self._shrunk.norm

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able.

    The shrinkage is the mean over positions.
    """
    self._shrunk.shrinkage_ = np.mean(self.shrinkage_)
    found = oneclass.parameters(self._shrunk)
    del found['n_limit']  # every image is fitted
    return {'density': self.classifier, 'positions': 'each'} | found

  def _rows(self, feature: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """Returns a copy f64[n, d] of a position's rows, scaled if they are to."""
    rows = feature[:, *at].astype(np.float64)
    if self.norm is None:
      return rows
    length = np.sqrt(_squares(rows))
    rows /= np.where(length > 0, length, 1)[:, None]
    return rows


def create(positions: str, classifier: str = 'gde_ledoit_wolf', seed: int = 0,
           reg_covar: float = 1e-6, limit: int = oneclass.LIMIT
           ) -> SharedDensity | PositionDensity:
  """Returns the density, unfitted.

  Args:
    positions: 'shared', one density for all, or 'each', one per position.
    classifier: a spec of `oneclass`; for 'each', of `GAUSSIANS`.
    seed: of the rows that a shared one is fitted to.
    reg_covar: of `classifiers.ShrunkGDE`, for 'each'.
    limit: how many rows a shared one is fitted to at most.
  """
  if positions == 'shared':
    return SharedDensity(classifier, seed, limit)
  if positions == 'each':
    return PositionDensity(classifier, reg_covar)
  raise errors.unknown('positions', positions, ('shared', 'each'))


def compact_rank(n: int, d: int) -> int:
  """Returns in how many directions n rows of d columns spread around a mean."""
  return min(n - 1, d)


class _Gaussian(NamedTuple):
  """The distribution N(mean, a X'X + b I), X the n centred rows f64[n, d].

  The smaller of X'X and XX' says everything, by Woodbury's identity.
  """
  mean: np.ndarray
  a: float
  b: float
  cholesky: np.ndarray  # of a X'X + b I if n >= d, else of a XX' + b I
  shrinkage: float


def _fit(rows: np.ndarray, shrunk: classifiers.ShrunkGDE) -> _Gaussian:
  """Fits f64[n, d], which it overwrites."""
  n, d = rows.shape
  floor = shrunk.reg_covar * _squares(rows).mean()
  mean = rows.mean(axis=0)
  rows -= mean
  product = rows.T @ rows if n >= d else rows @ rows.T
  a, b, shrinkage = _mix(product, _squares(rows), d, shrunk)
  b += floor or (0. if b else 1.)
  product *= a
  product.flat[::len(product) + 1] += b
  return _Gaussian(mean, a, b, np.linalg.cholesky(product), shrinkage)


def _distance(gaussian: _Gaussian, train: np.ndarray, test: np.ndarray
              ) -> np.ndarray:
  """Maps f64[m, d] to f64[m]; overwrites both, `train` the rows fitted."""
  mean, a, b, cholesky, _ = gaussian
  test -= mean
  if len(train) >= train.shape[1]:
    return _squares(_solve(cholesky, test.T).T) / 2
  train -= mean
  inside = _solve(cholesky, train @ test.T)
  return (_squares(test) - a * _squares(inside.T)) / (2 * b)


def _mix(product: np.ndarray, squares: np.ndarray, d: int,
         shrunk: classifiers.ShrunkGDE) -> tuple[float, float, float]:
  """Returns a and b of the covariance a X'X + b I, and its shrinkage.

  Args:
    product: X'X or XX', X the n centred rows.
    squares: f64[n], of the rows' lengths.
    d: the number of columns.
    shrunk: says which covariance.
  """
  n = len(squares)
  scale = squares.sum() / (n * d)
  if shrunk.covariance == 'ridge':
    shrinkage = shrunk.ridge / (1 + shrunk.ridge)
    a, b = 1 / n, shrunk.ridge * scale
  else:
    shrinkage = _shrinkage(product, squares, d, shrunk.covariance)
    a, b = (1 - shrinkage) / n, shrinkage * scale
  return a, b + 1e-9 * (a * n * scale + b), shrinkage  # as ShrunkGDE


def _shrinkage(product: np.ndarray, squares: np.ndarray, d: int, name: str
               ) -> float:
  """Returns the weight of m I: the error of S, over how far S is from m I.

  scikit-learn's numbers, whose sums over d × d may be over n × n here.
  """
  n = len(squares)
  mean = squares.sum() / (n * d)  # m, the mean eigenvalue of S
  second = np.vdot(product, product) / (n ** 2 * d)  # of its squares
  error = {
      'ledoit_wolf': (np.vdot(squares, squares) / (n * d) - second) / n,
      'oas': (second + d * mean ** 2) / (n + 1)}[name]
  spread = second - mean ** 2
  return min(max(error, 0.) / spread, 1.) if spread > 0 else 1.


def _squares(rows: np.ndarray) -> np.ndarray:
  """Returns the squared lengths of f64[n, d], f64[n]."""
  return np.einsum('nd,nd->n', rows, rows)


def _solve(cholesky: np.ndarray, columns: np.ndarray) -> np.ndarray:
  return linalg.solve_triangular(cholesky, columns, lower=True,
                                 check_finite=False)
