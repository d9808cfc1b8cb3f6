"""The one-class classifiers, as scikit-learn's estimators.

`fit` takes normal features f[n, d]; `score_samples` is higher for the more
normal. `norm` says how rows are scaled, 'l2' to length 1, None not at all.
`deep_oc.oneclass` has them by name.
"""
import numpy as np
from scipy import linalg
from sklearn import (
    base,
    cluster,
    covariance,
    decomposition,
    ensemble,
    mixture,
    neighbors,
    preprocessing,
    svm,
)
from sklearn.metrics import pairwise
from sklearn.utils import gen_batches, validation

from deep_oc import errors
from deep_oc.errors import InputError

# A kernel matrix given to libsvm makes fitting up to 100 times faster than its
# own kernel; from 2^31 bytes on (16,384 rows) libsvm crashes on it.
_GRAM_ROWS = 12_000
_TOLERANCE = 1e-3  # scikit-learn's, of an SVM
_RELATIVE = 1e-5, 1e-3  # between which it lies, to rows of length 1
_CHUNK = 1024  # rows of a kernel matrix at once; bounds the memory

_SHRINKAGE = {'ledoit_wolf': covariance.LedoitWolf, 'oas': covariance.OAS}


class OneClass(base.BaseEstimator):
  """What all of them are; `norm` is how their rows are scaled."""


class OneClassSVM(OneClass):
  """nu-one-class SVM: scikit-learn's solution, scored by matrix products."""

  def __init__(self, kernel: str = 'rbf', nu: float = 0.5,
               gamma_scale: float = 10., norm: str | None = 'l2'):
    self.kernel = kernel
    self.nu = nu
    self.gamma_scale = gamma_scale
    self.norm = norm

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    if self.kernel not in ('linear', 'rbf'):
      raise errors.unknown('kernel', self.kernel, ('linear', 'rbf'))
    X = rows(self, X, self.norm, reset=True)
    if self.kernel != 'linear':
      self.gamma_ = gamma(X, self.gamma_scale)
    solution = self._solve(X)
    self.support_vectors_ = X[solution.support_]
    self.dual_coef_ = solution.dual_coef_[0]
    return self

  def score_samples(self, X):
    """Maps f[n, d] to sum_i alpha_i k(x, x_i), f[n]."""
    X = rows(self, X, self.norm)
    if self.kernel == 'linear':
      return X @ (self.dual_coef_ @ self.support_vectors_)
    return self._gram(X, self.support_vectors_) @ self.dual_coef_

  def _solve(self, X):
    # alpha is the same however long the rows are, but libsvm's tolerance is
    # absolute: beyond its rounding it would go on and on.
    length = _length(X) if self.kernel == 'linear' else 1.
    X = X / length
    tol = np.clip(_TOLERANCE / length**2, *_RELATIVE)
    if len(X) <= _GRAM_ROWS:
      solver = svm.OneClassSVM(kernel='precomputed', nu=self.nu, tol=tol)
      return solver.fit(self._gram(X, X))
    return svm.OneClassSVM(
        kernel=self.kernel, gamma=getattr(self, 'gamma_', 1.), nu=self.nu,
        tol=tol, cache_size=500).fit(X)

  def _gram(self, X, Y):
    if self.kernel == 'linear':
      return X @ Y.T
    return pairwise.rbf_kernel(X, Y, gamma=self.gamma_)


class SVDD(OneClassSVM):
  """Support vector data description: the squared distance to a ball's centre.

  Tax & Duin, 2004 (https://doi.org/10.1023/B:MACH.0000008084.60811.49), with
  C = 1 / (nu n). Its dual has the term sum_i alpha_i k(x_i, x_i), which the
  RBF kernel makes constant: the solution is that of the nu-one-class SVM, and
  so is the order of the scores. Of the linear kernel neither is true, unless
  all rows are of one length; there is only the RBF one here.
  """
  kernel = 'rbf'

  def __init__(self, nu: float = 0.5, gamma_scale: float = 10.,
               norm: str | None = 'l2'):
    self.nu = nu
    self.gamma_scale = gamma_scale
    self.norm = norm

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    super().fit(X)
    alpha = self.dual_coef_ / self.dual_coef_.sum()  # libsvm's sum is nu n
    self.dual_coef_ = alpha
    self.centre_ = sum(  # its squared length, in the kernel's space
        alpha[rows] @ self._gram(self.support_vectors_[rows],
                                 self.support_vectors_) @ alpha
        for rows in gen_batches(len(alpha), _CHUNK))
    return self

  def score_samples(self, X):
    """Maps f[n, d] to -|phi(x) - centre|^2, f[n]."""
    return 2 * super().score_samples(X) - 1 - self.centre_


class KDE(OneClass):
  """Gaussian kernel density on the unit sphere, up to a constant.

  The bandwidth is 1 / sqrt(2 gamma).
  """
  norm = 'l2'

  def __init__(self, gamma_scale: float = 10.):
    self.gamma_scale = gamma_scale

  def fit(self, X, y=None):
    """Keeps f[n, d], as unit rows."""
    self.train_ = rows(self, X, self.norm, reset=True)
    self.gamma_ = gamma(self.train_, self.gamma_scale)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to logsumexp_i(2 gamma x.x_i) / gamma, f[n]."""
    power = rows(self, X, self.norm) @ self.train_.T
    power *= 2 * self.gamma_
    top = power.max(axis=1, keepdims=True)
    power -= top
    np.exp(power, out=power)  # in place: twice as fast as scipy's logsumexp
    return (np.log(power.sum(axis=1)) + top[:, 0]) / self.gamma_


class GDE(OneClass):
  """Gaussian density with a full covariance, the same as Mahalanobis."""
  norm = 'l2'

  def __init__(self, reg_covar: float = 1e-6):
    self.reg_covar = reg_covar

  def fit(self, X, y=None):
    """Fits mean and covariance of f[n, d], as unit rows."""
    X = rows(self, X, self.norm, reset=True)
    self.mixture_ = mixture.GaussianMixture(
        reg_covar=self.reg_covar, init_params='random', random_state=0).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to the log density, f[n]."""
    return self.mixture_.score_samples(rows(self, X, self.norm))


class ShrunkGDE(OneClass):
  """Gaussian density that is sound with fewer rows than columns.

  The covariance S of n rows in d > n dimensions has no inverse. GDE adds 1e-6
  to its diagonal, whatever the features' scale; here m I, m the mean variance
  tr(S) / d, sets the scale of what the rows say nothing about:

    'ledoit_wolf'  (1 - s) S + s m I, s by Ledoit & Wolf, 2004
    'oas'          the same, s by Chen et al., 2010 (https://arxiv.org/abs/0907.4698)
    'ridge'        S + ridge m I

  The paper of CutPaste (Li et al., 2021) says neither which it has nor whether
  its features are of length 1; `norm=None` leaves them as they are.

  `reg_covar` times the rows' mean squared length is added to the diagonal: on
  rows of length 1, what scikit-learn's GaussianMixture adds. It says that no
  direction is known better than that, however alike the rows are.
  """

  def __init__(self, covariance: str = 'ledoit_wolf', ridge: float = 0.01,
               norm: str | None = 'l2', reg_covar: float = 0.):
    self.covariance = covariance
    self.ridge = ridge
    self.norm = norm
    self.reg_covar = reg_covar

  def fit(self, X, y=None):
    """Fits mean and covariance of f[n, d]."""
    X = rows(self, X, self.norm, reset=True)
    # So that rows that are all one are their mean: what a sum of them rounds
    # would be taken for how far they spread.
    self.location_ = X[0] + (X - X[0]).mean(axis=0)
    self.covariance_, self.shrinkage_ = self._estimate(X - self.location_)
    # For an estimate of s = 0; and for rows that are all one.
    floor = (1e-9 * self.covariance_.diagonal().mean()
             + self.reg_covar * np.square(X).sum(axis=1).mean()) or 1.
    self.cholesky_ = linalg.cholesky(
        self.covariance_ + floor * np.eye(len(self.covariance_)), lower=True)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to the log density, f[n]."""
    X = rows(self, X, self.norm) - self.location_
    white = linalg.solve_triangular(self.cholesky_, X.T, lower=True)
    constant = (np.log(self.cholesky_.diagonal()).sum() +
                X.shape[1] * np.log(2 * np.pi) / 2)
    return -np.square(white).sum(axis=0) / 2 - constant

  def _estimate(self, X):
    """Returns the covariance of centred rows, and the weight s of m I."""
    if self.covariance == 'ridge':
      S = covariance.empirical_covariance(X, assume_centered=True)
      S += self.ridge * S.diagonal().mean() * np.eye(len(S))
      return S, self.ridge / (1 + self.ridge)
    if self.covariance not in _SHRINKAGE:
      raise errors.unknown('covariance', self.covariance,
                           [*_SHRINKAGE, 'ridge'])
    # scikit-learn would also invert the matrix: most of the time.
    found = _SHRINKAGE[self.covariance](
        assume_centered=True, store_precision=False).fit(X)
    return found.covariance_, found.shrinkage_


class GMM(OneClass):
  """Mixture of at most k Gaussians, sound with few rows.

  `ridge` times the mean variance is added to the diagonal of each covariance,
  as in ShrunkGDE.
  """

  def __init__(self, k: int = 5, covariance_type: str = 'full',
               ridge: float = 0.01, norm: str | None = 'l2',
               random_state: int | None = None):
    self.k = k
    self.covariance_type = covariance_type
    self.ridge = ridge
    self.norm = norm
    self.random_state = random_state

  def fit(self, X, y=None):
    """Fits the mixture to f[n, d]."""
    X = rows(self, X, self.norm, reset=True)
    floor = (self.ridge * X.var(axis=0).mean()
             + 1e-9 * np.square(X).mean()) or 1.  # for rows that are all one
    self.mixture_ = mixture.GaussianMixture(
        _clusters(self.k, X), covariance_type=self.covariance_type,
        reg_covar=floor, random_state=self.random_state).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to the log density, f[n]."""
    return self.mixture_.score_samples(rows(self, X, self.norm))


class Mahalanobis(OneClass):
  """Squared Mahalanobis distance to the nearest of at most k clusters.

  SSD (Sehwag et al., 2021, https://arxiv.org/abs/2103.12051): rows of length 1
  are standardised and clustered by k-means; each cluster has its biased
  covariance, of which the pseudo-inverse is taken.

  With no more rows than columns a pseudo-inverse sees the rows' span only:
  `gde_ledoit_wolf` sees everything. SSD's distance to such a small cluster is
  less than to any large one, down to 0 if it is of one row, so here it takes
  the covariance within all clusters. With k = 1 nothing differs.
  """
  norm = 'l2'

  def __init__(self, k: int = 1, random_state: int | None = None):
    self.k = k
    self.random_state = random_state

  def fit(self, X, y=None):
    """Fits means and covariances to f[n, d], as unit rows."""
    X = rows(self, X, self.norm, reset=True)
    self.scaler_ = preprocessing.StandardScaler().fit(X)
    X = self.scaler_.transform(X)
    label = cluster.KMeans(_clusters(self.k, X), max_iter=100,
                           random_state=self.random_state).fit_predict(X)
    clusters = [X[label == each] for each in np.unique(label)]
    self.means_ = [rows.mean(axis=0) for rows in clusters]
    centred = [rows - mean for rows, mean in
               zip(clusters, self.means_, strict=True)]
    large = [len(rows) > X.shape[1] for rows in centred]
    shared = None if all(large) else _precision(np.concatenate(centred))
    self.precisions_ = [_precision(rows) if enough else shared
                        for rows, enough in zip(centred, large, strict=True)]
    return self

  def score_samples(self, X):
    """Maps f[n, d] to minus the smallest squared distance, f[n]."""
    X = self.scaler_.transform(rows(self, X, self.norm))
    return -np.min([((X - mean) @ precision * (X - mean)).sum(axis=1)
                    for mean, precision in
                    zip(self.means_, self.precisions_, strict=True)], axis=0)


class KNN(OneClass):
  """Distance to the k nearest training rows: their mean, or the k-th.

  Not normalised: of unit rows, the Euclidean distance says what the cosine
  does. `nn` is the cosine with k = 1.
  """
  norm = None

  def __init__(self, k: int = 5, metric: str = 'euclidean',
               distance: str = 'mean'):
    self.k = k
    self.metric = metric
    self.distance = distance

  def fit(self, X, y=None):
    """Keeps f[n, d]."""
    if self.distance not in ('mean', 'kth'):
      raise errors.unknown('distance', self.distance, ('mean', 'kth'))
    self.train_ = rows(self, X, self.norm, reset=True)
    self.neighbors_ = neighbors.NearestNeighbors(
        n_neighbors=min(self.k, len(X)), metric=self.metric,
        algorithm='brute').fit(self.train_)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to minus the distance, f[n]."""
    found, _ = self.neighbors_.kneighbors(rows(self, X, self.norm))
    return -(found[:, -1] if self.distance == 'kth' else found.mean(axis=1))


class LOF(OneClass):
  """Local outlier factor (Breunig et al., 2000), by k Euclidean neighbours."""

  def __init__(self, k: int = 20, norm: str | None = 'l2'):
    self.k = k
    self.norm = norm

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    X = rows(self, X, self.norm, reset=True)
    self.lof_ = neighbors.LocalOutlierFactor(
        n_neighbors=min(self.k, len(X) - 1), novelty=True).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to minus the factor, f[n]; about -1 is normal."""
    return self.lof_.score_samples(rows(self, X, self.norm))


class IsolationForest(OneClass):
  """How soon random splits isolate a row (Liu et al., 2008)."""

  def __init__(self, n_estimators: int = 100,
               max_samples: int | float | str = 'auto',
               norm: str | None = 'l2', random_state: int | None = None):
    self.n_estimators = n_estimators
    self.max_samples = max_samples
    self.norm = norm
    self.random_state = random_state

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    X = rows(self, X, self.norm, reset=True)
    self.forest_ = ensemble.IsolationForest(
        n_estimators=self.n_estimators, max_samples=self.max_samples,
        random_state=self.random_state).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to minus the anomaly score of the paper, f[n]."""
    return self.forest_.score_samples(rows(self, X, self.norm))


class PCA(OneClass):
  """Squared error of reconstruction from the principal components.

  `n_components` is scikit-learn's: the share of variance to keep, or how many.
  """

  def __init__(self, n_components: float | int = 0.95,
               norm: str | None = 'l2'):
    self.n_components = n_components
    self.norm = norm

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    X = rows(self, X, self.norm, reset=True)
    # Of many rows, the covariance's eigenvectors take a fifth of the time.
    solver = 'covariance_eigh' if len(X) >= X.shape[1] else 'full'
    with np.errstate(invalid='ignore'):  # 0 / 0, if all rows are one
      self.pca_ = decomposition.PCA(
          self.n_components, svd_solver=solver, random_state=0).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to -|x - reconstruction|^2, f[n]."""
    X = rows(self, X, self.norm)
    rebuilt = self.pca_.inverse_transform(self.pca_.transform(X))
    return -np.square(X - rebuilt).sum(axis=1)


class NearestNeighbor(OneClass):
  """Cosine to the nearest training row, less one."""
  norm = 'l2'

  def fit(self, X, y=None):
    """Keeps f[n, d], as unit rows."""
    self.train_ = rows(self, X, self.norm, reset=True)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to max_i cos(x, x_i) - 1, f[n]."""
    return (rows(self, X, self.norm) @ self.train_.T).max(axis=1) - 1


class Largest:
  """Scores rows by their largest value; nothing is fitted.

  Of a heat map that is its image's score. A score by itself is a row of one.
  """

  def score_samples(self, X: np.ndarray) -> np.ndarray:
    """Maps f[n, d] to f[n], higher = more normal, as scikit-learn has it."""
    return -X.max(axis=1)


def gamma(X: np.ndarray, scale: float = 10.) -> float:
  """Returns scale / (d Var(X)), the variance over all elements of f[n, d]."""
  if scale <= 0:
    raise InputError(f'gamma_scale is {scale}; it must be above 0')
  variance = X.var()
  # Rows that are all one value: 1, as scikit-learn's gamma='scale'.
  return float(scale / (X.shape[1] * variance)) if variance > 1e-16 else 1.


def real(X: np.ndarray) -> np.ndarray:
  """Returns f64[n, d]; bytes, which are pixels, as fractions of 255."""
  return X / 255. if X.dtype == np.uint8 else X.astype(np.float64)


def checked(classifier: OneClass, X: np.ndarray) -> np.ndarray:
  """Returns f64[n, d] of what is like the rows that were fitted.

  Raises:
    ValueError: it is not, or not finite.
  """
  return rows(classifier, real(X), None)


def rows(classifier, X, norm, reset=False):
  """Checks f[n, d] as scikit-learn does, and scales its rows to length 1."""
  if not reset:
    validation.check_is_fitted(classifier)
  X = validation.validate_data(classifier, X, reset=reset, dtype=np.float64,
                               ensure_min_samples=2 if reset else 1)
  return preprocessing.normalize(X, norm) if norm else X


def _length(X: np.ndarray) -> float:
  """Returns about how long the rows of f[n, d] are, 1 if they are 0.

  A power of two: to divide by it rounds nothing.
  """
  square = np.square(X).sum(axis=1).mean()
  return 2. ** np.round(np.log2(square) / 2) if square else 1.


def _clusters(k: int, X: np.ndarray) -> int:
  """Returns k, or how many rows of f[n, d] differ if these are fewer."""
  return k if k == 1 else min(k, len(np.unique(X, axis=0)))


def _precision(X: np.ndarray) -> np.ndarray:
  """Returns the pseudo-inverse of the covariance of centred rows, f[n, d].

  What is 0 against the unit variance of standardised features is cut off; of
  rows that are all one, the identity is left.
  """
  found = linalg.pinvh(X.T @ X / len(X), atol=1e-12)
  return found if found.any() else np.eye(len(found))
