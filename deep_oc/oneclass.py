"""One-class classifiers: fitted on normal features, by scikit-learn's contract.

`CLASSIFIERS` names them; adding one is adding a line. `fit` takes a spec, a
name with or without parameters or the import path of any other class; see
`deep_oc.estimators`. A class that is not ours gets the features as they are.

As in scikit-learn, `score_samples` is higher for the more normal;
`anomaly_score` is the one place that flips the sign. The first five are by Sohn
et al., 2021 (https://arxiv.org/abs/2011.02578) and its released code, from
which the choice of gamma is.
"""
import functools
import importlib.util
import numbers
from typing import Any

import numpy as np
from sklearn.utils import gen_batches

from deep_oc import classifiers, estimators
from deep_oc.errors import InputError

LIMIT = 20_000  # training rows; of more, a random subset is fitted, as in DROC

_CHUNK = 1024  # test rows scored at once; bounds the memory

# Test rows times training rows from which on JAX is worth its start.
_MANY = 50_000_000

# The paper's five; what `evaluate` fits unless it is told otherwise.
PUBLISHED = ('ocsvm_linear', 'ocsvm_rbf', 'kde', 'gde', 'nn')

CLASSIFIERS = {
    # Un-normalised in the published code, unlike the other four.
    'ocsvm_linear': functools.partial(
        classifiers.OneClassSVM, kernel='linear', norm=None),
    'ocsvm_rbf': classifiers.OneClassSVM,
    'kde': classifiers.KDE,
    'gde': classifiers.GDE,
    'nn': classifiers.NearestNeighbor,
    'gde_ledoit_wolf': classifiers.ShrunkGDE,
    'gde_ledoit_wolf_raw': functools.partial(classifiers.ShrunkGDE, norm=None),
    'gde_oas': functools.partial(classifiers.ShrunkGDE, covariance='oas'),
    'gde_oas_raw': functools.partial(
        classifiers.ShrunkGDE, covariance='oas', norm=None),
    'gde_ridge': functools.partial(classifiers.ShrunkGDE, covariance='ridge'),
    'gde_ridge_raw': functools.partial(
        classifiers.ShrunkGDE, covariance='ridge', norm=None),
    'gmm': classifiers.GMM,
    'svdd': classifiers.SVDD,
    'mahalanobis': classifiers.Mahalanobis,
    'knn': classifiers.KNN,
    'knn_cosine': functools.partial(classifiers.KNN, metric='cosine'),
    'lof': classifiers.LOF,
    'isolation_forest': classifiers.IsolationForest,
    'pca': classifiers.PCA,
}


def recommended(task: str, n: int, d: int) -> str:
  """Returns the classifier of features f[n, d] where none is asked for.

  'kde', which Sohn et al. report for rotation prediction and which follows
  their OC-SVM closely; for CutPaste, as its paper, and of fewer rows than
  columns a Gaussian, 'gde_ledoit_wolf'.

  Args:
    task: the name of the pretext task, or of what is made of it:
      'cutpaste', 'cutpaste_3way'.
    n: rows to fit.
    d: columns.
  """
  return ('gde_ledoit_wolf' if n < d or task.startswith('cutpaste') else 'kde')


def specs(text: str) -> list[str]:
  """Splits a list of specs at its commas, and writes sweeps out.

  'nn, kde(gamma_scale=1|3)' is nn, kde(gamma_scale=1) and kde(gamma_scale=3);
  nothing is [].

  Raises:
    InputError: it cannot be read, or `create` cannot do what it says.
  """
  found = estimators.split(text)
  for spec in found:
    create(spec)
  return found


def create(spec: str, seed: int = 0) -> Any:
  """Returns the classifier of a spec, unfitted; the random ones get the seed.

  Raises:
    InputError: no such classifier or parameter, or no one-class classifier.
  """
  return estimators.create(spec, CLASSIFIERS, seed)


def fit(spec: str, train: np.ndarray, seed: int = 0, limit: int = LIMIT) -> Any:
  """Fits the classifier of a spec to at most `limit` random rows of f[n, d].

  Raises:
    InputError: no such classifier, or its parameters cannot be.
  """
  train = train[drawn(len(train), limit, seed)]
  classifier = create(spec, seed)
  try:
    classifier.fit(classifiers.real(train))
  except (TypeError, ValueError) as error:
    if spec in CLASSIFIERS:  # with nothing in it that could be wrong
      raise
    raise InputError(f'cannot fit {spec}: {error}') from error
  return classifier


def drawn(n: int, limit: int, seed: int = 0) -> np.ndarray:
  """Returns which of n rows `fit` takes, i64[m], sorted; m is `limit` at most.
  """
  if n <= limit:
    return np.arange(n)
  random = np.random.default_rng(seed)
  return np.sort(random.choice(n, limit, replace=False))


def anomaly_score(classifier: Any, test: np.ndarray, jit: bool | None = None
                  ) -> np.ndarray:
  """Maps f[n, d] to f[n], higher = more anomalous.

  Args:
    classifier: fitted.
    test: the rows.
    jit: whether JAX computes the scores, by `deep_oc.jitted`; by default where
      many rows meet many and JAX is installed. They are equal up to rounding.

  Raises:
    InputError: a score is not finite.
    ValueError: `jit`, but the classifier has no jitted score.
  """
  scores = None
  if jit or jit is None and _pays(classifier, len(test)):
    from deep_oc import jitted  # and JAX, which stage 2 can do without
    scores = jitted.anomaly_score(classifier, test)
    if jit and scores is None:
      raise ValueError(f'{classifier} has no jitted score')
  if scores is None:
    scores = _anomaly_score(classifier, test)
  if scores.shape != (len(test),) or not np.isfinite(scores).all():
    raise InputError(f'the scores that {type(classifier).__name__} gives to '
                     f'{len(test)} rows are not {len(test)} finite numbers')
  return scores


def _anomaly_score(classifier: Any, test: np.ndarray) -> np.ndarray:
  method, sign = estimators.scoring(classifier)
  # Some of PyOD's, as ECOD, rank a row among those it is scored with.
  chunk = len(test) if sign > 0 else _CHUNK
  return sign * np.concatenate([
      getattr(classifier, method)(classifiers.real(test[rows]))
      for rows in gen_batches(len(test), chunk)])


def _pays(classifier: Any, count: int) -> bool:
  """Says whether so many test rows are worth JAX's start, and JAX is there."""
  if (not isinstance(classifier, classifiers.OneClass)
      or getattr(classifier, 'kernel', None) == 'linear'):
    return False
  met = getattr(classifier, 'train_', None)
  met = getattr(classifier, 'support_vectors_', ()) if met is None else met
  return (len(met) * count >= _MANY
          and importlib.util.find_spec('jax') is not None)


def with_twins() -> list[str]:
  """Returns the names of those whose scores `deep_oc.jitted` has."""
  from deep_oc import jitted
  return [name for name, new in CLASSIFIERS.items()
          if type(new()) in jitted.TWINS]


def parameters(classifier: Any, limit: int = LIMIT) -> dict[str, object]:
  """Returns what defines a fitted classifier, JSON-able.

  `limit` is what `fit` was given.
  """
  found = getattr(classifier, 'get_params', dict)()
  found = {key: value for key, value in found.items()
           if value is None or isinstance(value, (numbers.Number, str))}
  if isinstance(classifier, classifiers.OneClass):
    found |= {'norm': classifier.norm}
  if isinstance(classifier, classifiers.OneClassSVM | classifiers.KDE):
    if hasattr(classifier, 'gamma_'):
      found['gamma'] = float(f'{classifier.gamma_:.6g}')
    else:
      del found['gamma_scale']
  if isinstance(classifier, classifiers.ShrunkGDE):
    found['shrinkage'] = float(f'{classifier.shrinkage_:.6g}')
    if classifier.covariance != 'ridge':
      del found['ridge']
  return found | {'n_limit': limit}
