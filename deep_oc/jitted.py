"""JAX twins of the scores of fitted one-class classifiers, for large sets.

`TWINS` names the classes that have one; adding one is adding an entry. A twin
is what `score_samples` of `deep_oc.classifiers` is, higher = more normal, with
the scaling of rows to length 1, as a pure function of arrays and rows: it can
be jitted, and differentiated by the rows.

A matrix of test rows by training rows is the cost. It is a product in float32,
of rows less their mean: rounding is relative to how far they spread, not to
where they lie. All else is in float64: the scaling, what is added to the
product, sums, the distances of the nearest rows once found, and Gaussians,
whose covariances may be as good as singular; so is the product where the
nearest rows are too nearly one for float32.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import linalg
from sklearn import preprocessing
from sklearn.utils import gen_batches

from deep_oc import classifiers

_BYTES = 64 * 2 ** 20  # of the largest array of a chunk
_SPARE = 8  # candidates beyond k, should float32 have them in another order
_BLOCK = 32  # columns of which the largest is found first
_MANY = 2048  # columns from which on that pays
_METRICS = ('euclidean', 'cosine')  # of nearest neighbours

Arrays = Mapping[str, np.ndarray]


class Twin(NamedTuple):
  """A score in two parts, of which one can be jitted for all classifiers.

  Attributes:
    function: maps arrays and f[n, d] to f[n], higher = more normal. Equal ones
      are compiled once. In float64 only under `jax.enable_x64(True)`.
    arrays: what was learnt.
    rows: how many rows or columns each test row meets; for the memory.
  """
  function: Callable[[Arrays, jax.Array], jax.Array]
  arrays: Arrays
  rows: int


def twin(classifier: Any) -> Twin | None:
  """Returns the twin of a fitted classifier, None if there is none."""
  make = TWINS.get(type(classifier))
  return make(classifier) if make else None


def anomaly_score(classifier: Any, test: np.ndarray) -> np.ndarray | None:
  """Maps f[n, d] to f64[n], higher = more anomalous, some rows at a time.

  None if the classifier has no twin.

  Raises:
    ValueError: the rows are not like those that were fitted.
  """
  found = twin(classifier)
  if found is None:
    return None
  with jax.enable_x64(True):
    return _anomaly_score(
        found._replace(arrays=jax.device_put(found.arrays)), classifier, test)


def leaves_out(classifier: Any) -> bool:
  """Tells whether a classifier has `left_out`: by nearest neighbours."""
  return (isinstance(classifier, classifiers.NearestNeighbor)
          or isinstance(classifier, classifiers.KNN)
          and classifier.metric in _METRICS)


def left_out(classifier: Any, test: np.ndarray, without: np.ndarray
             ) -> np.ndarray:
  """Maps f[m, n, d] to f64[m, n], by what is left of the fitted rows.

  Args:
    classifier: fitted; see `leaves_out`.
    test: m times n rows.
    without: bool[m, k], which of the k fitted rows are left out of each; as
      many as the classifier takes for neighbours must remain.
  """
  found = twin(classifier)
  more = -without.shape[1] % _BLOCK
  with jax.enable_x64(True):
    arrays = jax.device_put(found.arrays)
    scores = np.empty(test.shape[:2])
    for i, absent in enumerate(np.pad(without, ((0, 0), (0, more)))):
      bias = jnp.where(absent, -jnp.inf, arrays['bias'])
      scores[i] = _anomaly_score(
          found._replace(arrays=arrays | {'bias': bias}), classifier, test[i])
  return scores


def _anomaly_score(found, classifier, test):
  """Does what `anomaly_score` does, by a twin whose arrays are in place."""
  size = _size(len(test), _rows_at_once(found.rows, test.shape[1]))
  scores = np.empty(len(test))
  for rows in gen_batches(len(test), size):
    chunk = classifiers.checked(classifier, test[rows])
    padded = np.pad(chunk, ((0, size - len(chunk)), (0, 0)), 'edge')
    scores[rows] = _score(found.function, found.arrays, padded)[:len(chunk)]
  return -scores


@functools.partial(jax.jit, static_argnums=0)
def _score(function, arrays, x):
  return function(arrays, x)


def _rows_at_once(rows: int, columns: int) -> int:
  """Returns how many test rows fill `_BYTES`, a power of two."""
  most = _BYTES // max(4 * rows, 8 * columns)
  return 2 ** max(most.bit_length() - 1, 4)


def _size(count: int, most: int) -> int:
  """Returns of how many rows chunks are, all padded to one size.

  Of few sizes, for each is compiled, that leave little to pad.
  """
  if count <= most:
    return count
  even, step = -(-count // -(-count // most)), most // 16
  return -(-even // step) * step


@dataclasses.dataclass(frozen=True)
class _Linear:
  """x.w"""
  norm: str | None

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    return _scaled(x, self.norm) @ arrays['weight']


@dataclasses.dataclass(frozen=True)
class _Kernel:
  """sum_i alpha_i exp(-gamma |x - x_i|^2), times `slope`, plus `offset`."""
  norm: str | None

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    z = (_scaled(x, self.norm) - arrays['mean']) * arrays['root']
    log = _log_sum(_products(arrays, z)) - jnp.square(z).sum(axis=1)
    return arrays['slope'] * jnp.exp(log) + arrays['offset']


@dataclasses.dataclass(frozen=True)
class _Density:
  """log sum_i exp(2 gamma x.x_i) / gamma"""
  norm: str | None

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    x = _scaled(x, self.norm)
    z = (x - arrays['mean']) * arrays['root']
    log = _log_sum(_products(arrays, z))
    return log / jnp.square(arrays['root']) + 2 * (x @ arrays['mean'])


@dataclasses.dataclass(frozen=True)
class _Neighbors:
  """Minus the distance of the k nearest rows: their mean, or the k-th.

  Where `bias` is -inf a row is infinitely far away.
  """
  norm: str | None
  cosine: bool
  k: int
  kth: bool

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    x = _scaled(x, self.norm)
    near = self._candidates(arrays, x)
    found = lax.map(lambda index: jnp.where(
        arrays['bias'][index] == -jnp.inf, jnp.inf, self._distance(
            x, jnp.take(arrays['train'], index, axis=0, mode='clip'))), near.T)
    found = jnp.sort(found, axis=0)[:self.k]
    return -(found[-1] if self.kth else found.mean(axis=0))

  @property
  def bias(self) -> Callable[..., np.ndarray]:
    """What `_centred` adds to the products of rows."""
    return _along if self.cosine else _squares

  def _candidates(self, arrays, x):
    """Returns the indices of the k nearest rows, and some more.

    By float32 if that is sure that all others are farther than these k; of
    rows that are nearly one it might take any.
    """
    z = lax.stop_gradient(x - arrays['mean']) * arrays['root']
    most = min(self.k + _SPARE, len(arrays['train']))
    # The barrier because XLA knows no fast top_k of what is sliced again.
    found, near = lax.optimization_barrier(
        _top_k(_products(arrays, z), most))
    if most == len(arrays['train']) or z.dtype == found.dtype:
      return near
    sure = found[:, self.k - 1] - found[:, -1] > _rounding(arrays, z)
    return lax.cond(sure.all(), lambda: near,
                    lambda: self._in_float64(arrays, z, most))

  def _in_float64(self, arrays, z, most):
    """Returns the candidates by products in float64."""
    rows = (arrays['train'] - arrays['mean']) * arrays['root']
    bias = jnp.where(arrays['bias'][:len(rows)] == -jnp.inf, -jnp.inf,
                     self.bias(rows, arrays['mean'] * arrays['root']))
    found = _products({'rows': rows, 'bias': bias}, z)
    found -= found.max(axis=1, keepdims=True)  # exact near 0 in float32 too,
    return lax.top_k(found.astype(jnp.float32), most)[1]  # which is fast

  def _distance(self, x, y):
    if self.cosine:
      return jnp.clip(1 - (x * y).sum(axis=1), 0, 2)
    return _length(x - y)


@dataclasses.dataclass(frozen=True)
class _Gaussians:
  """The log density of a mixture of normal distributions."""
  norm: str | None

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    x = _scaled(x, self.norm)

    def log_density(gaussian):
      white = (x - gaussian['mean']) @ gaussian['whitener']
      return gaussian['log_weight'] - jnp.square(white).sum(axis=1) / 2
    return jax.nn.logsumexp(lax.map(log_density, dict(arrays)), axis=0)


@dataclasses.dataclass(frozen=True)
class _Mahalanobis:
  """Minus the squared distance to the nearest mean."""
  norm: str | None

  def __call__(self, arrays: Arrays, x: jax.Array) -> jax.Array:
    x = (_scaled(x, self.norm) - arrays['centre']) / arrays['scale']

    def distance(cluster):
      mean, precision = cluster
      return ((x - mean) @ precision * (x - mean)).sum(axis=1)
    return -lax.map(distance, (arrays['mean'], arrays['precision'])).min(axis=0)


def _scaled(x, norm):
  """Returns f64[n, d], scaled to length 1 if `norm` is 'l2'; never by 0."""
  x = x.astype(jnp.result_type(float))
  if norm is None:
    return x
  length = _length(x)
  return x / jnp.where(length > 0, length, 1.)[:, None]


def _length(x):
  """Returns the lengths of f[n, d]; their gradient at 0 is 0, not NaN."""
  square = jnp.square(x).sum(axis=1)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.)), 0.)


def _products(arrays, z):
  """Returns 2 z.z_i + b_i, f32[n, k], of the centred rows z_i.

  HIGHEST, because GPUs would otherwise round to 10 bits.
  """
  rows = arrays['rows']
  return 2 * jnp.matmul(z.astype(rows.dtype), rows.T,
                        precision=lax.Precision.HIGHEST) + arrays['bias']


def _rounding(arrays, z):
  """Returns by how much rounding may change the difference of two products.

  Each is off by eps / 2 (2 (d + 3) |z| |z_i| + 2 |b_i|) at most: a sum of d
  terms, of rounded numbers. `largest` is the largest |b_i|.
  """
  longest = _length(arrays['rows']).max()
  return 2 * jnp.finfo(jnp.float32).eps * (
      (z.shape[1] + 3) * longest * _length(z) + arrays['largest'])


def _top_k(x, k):
  """Does what `lax.top_k` does, of f[n, m]; sooner, if m is many whole blocks.

  The k largest lie in the k blocks whose largest are largest: one pass over x,
  and a search in few of its columns.
  """
  n, m = x.shape
  if m < max(_MANY, k * _BLOCK) or m % _BLOCK:
    return lax.top_k(x, k)
  _, block = lax.top_k(x.reshape(n, -1, _BLOCK).max(axis=2), k)
  index = (block[:, :, None] * _BLOCK
           + jnp.arange(_BLOCK, dtype=block.dtype)).reshape(n, -1)
  some = lax.optimization_barrier(jnp.take_along_axis(x, index, axis=1))
  found, at = lax.top_k(some, k)
  return found, jnp.take_along_axis(index, at, axis=1)


def _log_sum(power):
  """Maps f32[n, k] to log(sum(exp)), f64[n]."""
  top = lax.stop_gradient(power.max(axis=1, keepdims=True))
  total = jnp.exp(power - top).sum(axis=1, dtype=jnp.result_type(float))
  return jnp.log(total) + top[:, 0]


def _centred(X: np.ndarray, root: float, bias: Callable[..., np.ndarray]
             ) -> dict[str, np.ndarray]:
  """Returns what `_products` needs of f[k, d].

  Args:
    X: the rows.
    root: what they are multiplied with once centred.
    bias: maps the rows z_i, and the mean times root, to b_i.
  """
  mean = X.mean(axis=0)
  z = (X - mean) * root
  return {'mean': mean, 'root': np.float64(root),
          'rows': z.astype(np.float32),
          'bias': bias(z, mean * root).astype(np.float32)}


def _squares(z, mean):
  return -(z * z).sum(axis=1)


def _along(z, mean):
  return 2 * z @ mean


def _kde(fitted: classifiers.KDE) -> Twin:
  return Twin(_Density(fitted.norm), _centred(
      fitted.train_, np.sqrt(fitted.gamma_), _along), len(fitted.train_))


def _svm(fitted: classifiers.OneClassSVM, slope: float = 1., offset: float = 0.
         ) -> Twin:
  X, alpha = fitted.support_vectors_, fitted.dual_coef_
  if fitted.kernel == 'linear':
    return Twin(_Linear(fitted.norm), {'weight': alpha @ X}, 1)
  arrays = _centred(X, np.sqrt(fitted.gamma_),
                    lambda z, mean: _squares(z, mean) + np.log(alpha))
  arrays |= {'slope': np.float64(slope), 'offset': np.float64(offset)}
  return Twin(_Kernel(fitted.norm), arrays, len(X))


def _svdd(fitted: classifiers.SVDD) -> Twin:
  return _svm(fitted, 2., -1. - fitted.centre_)


def _nearest(fitted: classifiers.NearestNeighbor) -> Twin:
  return _neighbors(fitted.train_, _Neighbors(fitted.norm, True, 1, True))


def _knn(fitted: classifiers.KNN) -> Twin | None:
  """Returns the twin of two metrics; scikit-learn has more."""
  if fitted.metric not in _METRICS:
    return None
  cosine = fitted.metric == 'cosine'
  train = fitted.train_
  return _neighbors(
      preprocessing.normalize(train) if cosine else train,
      _Neighbors('l2' if cosine else fitted.norm, cosine,
                 fitted.neighbors_.n_neighbors, fitted.distance == 'kth'))


def _neighbors(train: np.ndarray, function: _Neighbors) -> Twin:
  """Rows are divided by their spread, whose square might be no float32.

  To whole blocks of them others are added that are infinitely far away.
  """
  spread = np.sqrt(train.shape[1] * train.var(axis=0).mean())
  arrays = _centred(train, 1 / (spread or 1.), function.bias)
  more = (0, -len(train) % _BLOCK)
  arrays |= {
      'train': train, 'largest': np.abs(arrays['bias']).max(),
      'rows': np.pad(arrays['rows'], (more, (0, 0))),
      'bias': np.pad(arrays['bias'], more, constant_values=-np.inf)}
  return Twin(function, arrays, len(train))


def _largest(unfitted: classifiers.Largest) -> Twin:
  del unfitted
  return Twin(_minus_largest, {}, 1)


def _minus_largest(arrays: Arrays, x: jax.Array) -> jax.Array:
  del arrays
  return -x.max(axis=1)


def whitener(fitted: classifiers.ShrunkGDE) -> np.ndarray:
  """Returns f64[d, d], by which rows times it are uncorrelated."""
  cholesky = fitted.cholesky_
  return linalg.solve_triangular(
      cholesky, np.eye(len(cholesky)), lower=True).T


def _shrunk_gde(fitted: classifiers.ShrunkGDE) -> Twin:
  return _gaussians(
      fitted.norm, fitted.location_[None], whitener(fitted)[None])


def _mixture(fitted: classifiers.GDE | classifiers.GMM) -> Twin | None:
  """Returns the twin of full covariances."""
  found = fitted.mixture_
  if found.covariance_type != 'full':
    return None
  return _gaussians(fitted.norm, found.means_, found.precisions_cholesky_,
                    found.weights_)


def _gaussians(norm: str | None, mean: np.ndarray, whitener: np.ndarray,
               weight: np.ndarray | float = 1.) -> Twin:
  """Returns the twin of k normal distributions.

  Args:
    norm: of the rows.
    mean: f[k, d].
    whitener: f[k, d, d], triangular; with its transpose, the precision.
    weight: f[k], of the distributions.
  """
  diagonal = np.diagonal(whitener, axis1=1, axis2=2)
  log_weight = (np.log(weight) + np.log(diagonal).sum(axis=1)
                - mean.shape[1] * np.log(2 * np.pi) / 2)
  return Twin(_Gaussians(norm), {'mean': mean, 'whitener': whitener,
                                 'log_weight': log_weight}, mean.shape[1])


def _mahalanobis(fitted: classifiers.Mahalanobis) -> Twin:
  return Twin(_Mahalanobis(fitted.norm), {
      'centre': fitted.scaler_.mean_, 'scale': fitted.scaler_.scale_,
      'mean': np.stack(fitted.means_),
      'precision': np.stack(fitted.precisions_)}, len(fitted.means_[0]))


TWINS = {
    classifiers.OneClassSVM: _svm,
    classifiers.SVDD: _svdd,
    classifiers.KDE: _kde,
    classifiers.GDE: _mixture,
    classifiers.ShrunkGDE: _shrunk_gde,
    classifiers.GMM: _mixture,
    classifiers.Mahalanobis: _mahalanobis,
    classifiers.NearestNeighbor: _nearest,
    classifiers.KNN: _knn,
    classifiers.Largest: _largest,
}
