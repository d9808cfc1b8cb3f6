"""One-class classifiers: fitted on normal features, by scikit-learn's contract.

`CLASSIFIERS` names them; adding one is adding a line. As in scikit-learn,
`score_samples` is higher for the more normal; `anomaly_score` is the one place
that flips the sign. Definitions: Sohn et al., 2021 (https://arxiv.org/abs/2011.02578)
and its released code, from which the choice of gamma is.
"""
import functools
import numbers

import numpy as np
from scipy import linalg
from sklearn import base, covariance, mixture, preprocessing, svm
from sklearn.metrics import pairwise
from sklearn.utils import validation

LIMIT = 20_000  # training rows; of more, a random subset is fitted, as in DROC

# A kernel matrix given to libsvm makes fitting up to 100 times faster than its
# own kernel; from 2^31 bytes on (16,384 rows) libsvm crashes on it.
_GRAM_ROWS = 12_000
_CHUNK = 1024  # test rows scored at once; bounds the memory


class OneClassSVM(base.BaseEstimator):
  """nu-one-class SVM: scikit-learn's solution, scored by matrix products."""

  def __init__(self, kernel: str = 'rbf', nu: float = 0.5,
               gamma_scale: float = 10., norm: str | None = 'l2'):
    self.kernel = kernel
    self.nu = nu
    self.gamma_scale = gamma_scale
    self.norm = norm

  def fit(self, X, y=None):
    """Fits f[n, d]."""
    X = _rows(self, X, self.norm, reset=True)
    if self.kernel != 'linear':
      self.gamma_ = gamma(X, self.gamma_scale)
    solution = self._solve(X)
    self.support_vectors_ = X[solution.support_]
    self.dual_coef_ = solution.dual_coef_[0]
    return self

  def score_samples(self, X):
    """Maps f[n, d] to sum_i alpha_i k(x, x_i), f[n]."""
    X = _rows(self, X, self.norm)
    if self.kernel == 'linear':
      return X @ (self.dual_coef_ @ self.support_vectors_)
    return self._gram(X, self.support_vectors_) @ self.dual_coef_

  def _solve(self, X):
    if len(X) <= _GRAM_ROWS:
      solver = svm.OneClassSVM(kernel='precomputed', nu=self.nu)
      return solver.fit(self._gram(X, X))
    return svm.OneClassSVM(
        kernel=self.kernel, gamma=getattr(self, 'gamma_', 1.), nu=self.nu,
        cache_size=500).fit(X)

  def _gram(self, X, Y):
    if self.kernel == 'linear':
      return X @ Y.T
    return pairwise.rbf_kernel(X, Y, gamma=self.gamma_)


class KDE(base.BaseEstimator):
  """Gaussian kernel density on the unit sphere, up to a constant.

  The bandwidth is 1 / sqrt(2 gamma).
  """
  norm = 'l2'

  def __init__(self, gamma_scale: float = 10.):
    self.gamma_scale = gamma_scale

  def fit(self, X, y=None):
    """Keeps f[n, d], as unit rows."""
    self.train_ = _rows(self, X, self.norm, reset=True)
    self.gamma_ = gamma(self.train_, self.gamma_scale)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to logsumexp_i(2 gamma x.x_i) / gamma, f[n]."""
    power = _rows(self, X, self.norm) @ self.train_.T
    power *= 2 * self.gamma_
    top = power.max(axis=1, keepdims=True)
    power -= top
    np.exp(power, out=power)  # in place: twice as fast as scipy's logsumexp
    return (np.log(power.sum(axis=1)) + top[:, 0]) / self.gamma_


class GDE(base.BaseEstimator):
  """Gaussian density with a full covariance, the same as Mahalanobis."""
  norm = 'l2'

  def __init__(self, reg_covar: float = 1e-6):
    self.reg_covar = reg_covar

  def fit(self, X, y=None):
    """Fits mean and covariance of f[n, d], as unit rows."""
    X = _rows(self, X, self.norm, reset=True)
    self.mixture_ = mixture.GaussianMixture(
        reg_covar=self.reg_covar, init_params='random', random_state=0).fit(X)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to the log density, f[n]."""
    return self.mixture_.score_samples(_rows(self, X, self.norm))


class ShrunkGDE(base.BaseEstimator):
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
    X = _rows(self, X, self.norm, reset=True)
    self.location_ = X.mean(axis=0)
    self.covariance_, self.shrinkage_ = self._estimate(X - self.location_)
    # For an estimate of s = 0; and for rows that are all one.
    floor = (1e-9 * self.covariance_.diagonal().mean()
             + self.reg_covar * np.square(X).sum(axis=1).mean()) or 1.
    self.cholesky_ = linalg.cholesky(
        self.covariance_ + floor * np.eye(len(self.covariance_)), lower=True)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to the log density, f[n]."""
    X = _rows(self, X, self.norm) - self.location_
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
    # scikit-learn would also invert the matrix: most of the time.
    found = _SHRINKAGE[self.covariance](
        assume_centered=True, store_precision=False).fit(X)
    return found.covariance_, found.shrinkage_


class NearestNeighbor(base.BaseEstimator):
  """Cosine to the nearest training row, less one."""
  norm = 'l2'

  def fit(self, X, y=None):
    """Keeps f[n, d], as unit rows."""
    self.train_ = _rows(self, X, self.norm, reset=True)
    return self

  def score_samples(self, X):
    """Maps f[n, d] to max_i cos(x, x_i) - 1, f[n]."""
    return (_rows(self, X, self.norm) @ self.train_.T).max(axis=1) - 1


_SHRINKAGE = {'ledoit_wolf': covariance.LedoitWolf, 'oas': covariance.OAS}

# The paper's five; what `evaluate` fits unless it is told otherwise.
PUBLISHED = ('ocsvm_linear', 'ocsvm_rbf', 'kde', 'gde', 'nn')

CLASSIFIERS = {
    # Un-normalised in the published code, unlike the other four.
    'ocsvm_linear': functools.partial(OneClassSVM, 'linear', norm=None),
    'ocsvm_rbf': OneClassSVM,
    'kde': KDE,
    'gde': GDE,
    'nn': NearestNeighbor,
    'gde_ledoit_wolf': ShrunkGDE,
    'gde_ledoit_wolf_raw': functools.partial(ShrunkGDE, norm=None),
    'gde_oas': functools.partial(ShrunkGDE, 'oas'),
    'gde_oas_raw': functools.partial(ShrunkGDE, 'oas', norm=None),
    'gde_ridge': functools.partial(ShrunkGDE, 'ridge'),
    'gde_ridge_raw': functools.partial(ShrunkGDE, 'ridge', norm=None),
}


def gamma(X: np.ndarray, scale: float = 10.) -> float:
  """Returns scale / (d Var(X)), the variance over all elements of f[n, d]."""
  variance = X.var()
  # Rows that are all one value: 1, as scikit-learn's gamma='scale'.
  return float(scale / (X.shape[1] * variance)) if variance > 1e-16 else 1.


def fit(name: str, train: np.ndarray, seed: int = 0,
        limit: int = LIMIT) -> base.BaseEstimator:
  """Fits the named classifier to at most `limit` random rows of f[n, d]."""
  if len(train) > limit:
    random = np.random.default_rng(seed)
    train = train[np.sort(random.choice(len(train), limit, replace=False))]
  return CLASSIFIERS[name]().fit(_real(train))


def anomaly_score(classifier: base.BaseEstimator,
                  test: np.ndarray) -> np.ndarray:
  """Maps f[n, d] to f[n], higher = more anomalous."""
  return -np.concatenate([
      classifier.score_samples(_real(test[start:start + _CHUNK]))
      for start in range(0, len(test), _CHUNK)])


def parameters(classifier: base.BaseEstimator) -> dict[str, object]:
  """Returns what defines a fitted classifier, JSON-able."""
  found = classifier.get_params()
  found = {key: value for key, value in found.items()
           if value is None or isinstance(value, (numbers.Number, str))}
  if hasattr(classifier, 'norm'):
    found['norm'] = classifier.norm
  if hasattr(classifier, 'gamma_'):
    found['gamma'] = float(f'{classifier.gamma_:.6g}')
  else:
    found.pop('gamma_scale', None)
  if hasattr(classifier, 'shrinkage_'):
    found['shrinkage'] = float(f'{classifier.shrinkage_:.6g}')
    if classifier.covariance != 'ridge':
      del found['ridge']
  return found | {'n_limit': LIMIT}


def _rows(classifier, X, norm, reset=False):
  """Checks f[n, d] as scikit-learn does, and scales its rows to length 1."""
  if not reset:
    validation.check_is_fitted(classifier)
  X = validation.validate_data(classifier, X, reset=reset, dtype=np.float64,
                               ensure_min_samples=2 if reset else 1)
  return preprocessing.normalize(X, norm) if norm else X


def _real(X: np.ndarray) -> np.ndarray:
  """Returns f64[n, d]; bytes, which are pixels, as fractions of 255."""
  return X / 255. if X.dtype == np.uint8 else X.astype(np.float64)
