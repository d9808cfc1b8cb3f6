"""How fast one-class classifiers are: by scikit-learn, by NumPy and jitted.

`python -m deep_oc.benchmark --classifiers=all` prints the table.
"""
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn import covariance, neighbors, preprocessing, svm

from deep_oc import classifiers, jitted, oneclass, progress

COLUMNS = ('classifier', 'fit', 'score', 'CPU', 'scikit-learn', 'NumPy',
           'jitted first', 'jitted', 'scikit-learn / jitted', 'NumPy / jitted')

_RANK = 128  # dimensions that the features are made of


def features(n_train: int, n_test: int, columns: int
             ) -> tuple[np.ndarray, np.ndarray]:
  """Returns f32[n_train, columns] and f32[n_test, columns], like an encoder's.

  They are correlated, few directions vary much, and a ReLU made many of them 0;
  the second half of the test rows is shifted.
  """
  random = np.random.default_rng(0)
  scale = np.arange(1, _RANK + 1)[:, None] ** -0.5
  mix = scale * random.normal(size=(_RANK, columns))
  bias = random.normal(size=columns) / 2

  def draw(rows, shift):
    inner = random.normal(size=(rows, _RANK)) + shift
    return np.maximum(inner @ mix + bias, 0).astype(np.float32)
  return draw(n_train, 0), np.concatenate([
      draw(n_test - n_test // 2, 0), draw(n_test // 2, 0.3)])


def benchmark(specs: Sequence[str], train: np.ndarray, test: np.ndarray,
              rounds: int) -> list[dict[str, str | float]]:
  """Fits to f[n, d] and scores f[m, d].

  Returns:
    A row per spec, in seconds: `fit` and `score` as `evaluate` does it, and
    `CPU`, of all cores, for both. Where there is a jitted score, then scoring
    alone: once by scikit-learn's own estimator; by NumPy and jitted, the first
    time with compilation, then the median over rounds in which the two take
    turns. The last row is the sum.
  """
  rows = []
  for spec in progress.bar(specs, 'classifiers', leave=False):
    cpu = time.process_time()
    fit, fitted = _seconds(lambda spec=spec: oneclass.fit(spec, train))
    score, _ = _seconds(lambda fitted=fitted: oneclass.anomaly_score(
        fitted, test))
    row = {'classifier': spec, 'fit': fit, 'score': score,
           'CPU': time.process_time() - cpu}
    rows.append(row | _ways(fitted, train, test, rounds))
  return rows + [{'classifier': 'all'} | {
      key: sum(row[key] for row in rows) for key in ('fit', 'score', 'CPU')}]


def _ways(fitted: Any, train: np.ndarray, test: np.ndarray, rounds: int
          ) -> dict[str, float]:
  """Returns the seconds of each way to score; nothing if not jitted."""
  if jitted.twin(fitted) is None:
    return {}
  first, _ = _seconds(lambda: jitted.anomaly_score(fitted, test))
  taken = {'NumPy': [], 'jitted': []}
  for _ in range(rounds):
    for name, jit in (('NumPy', False), ('jitted', True)):
      taken[name].append(_seconds(lambda jit=jit: oneclass.anomaly_score(
          fitted, test, jit))[0])
  found = {name: statistics.median(each) for name, each in taken.items()}
  library, _ = _seconds(own(fitted, train, test))
  return found | {
      'jitted first': first, 'scikit-learn': library,
      'scikit-learn / jitted': library / found['jitted'],
      'NumPy / jitted': found['NumPy'] / found['jitted']}


def own(fitted: Any, train: np.ndarray, test: np.ndarray
         ) -> Callable[[], object]:
  """Returns what scores by scikit-learn's own estimator, which it fits."""
  train, test = (classifiers.checked(fitted, rows) for rows in (train, test))
  if fitted.norm:
    train, test = map(preprocessing.normalize, (train, test))
  estimator, method = _estimator(fitted)
  score = getattr(estimator.fit(train), method)
  return lambda: score(test)


def _estimator(fitted: Any) -> tuple[Any, str]:
  """Returns scikit-learn's counterpart, and the method that scores."""
  match fitted:
    case classifiers.KDE():
      width = 1 / np.sqrt(2 * fitted.gamma_)
      return neighbors.KernelDensity(bandwidth=width), 'score_samples'
    case classifiers.OneClassSVM():
      return svm.OneClassSVM(
          kernel=fitted.kernel, nu=fitted.nu,
          gamma=getattr(fitted, 'gamma_', 1.)), 'score_samples'
    case classifiers.GDE() | classifiers.GMM():
      return fitted.mixture_, 'score_samples'
    case classifiers.NearestNeighbor():
      return neighbors.NearestNeighbors(
          n_neighbors=1, metric='cosine'), 'kneighbors'
    case classifiers.KNN():
      return fitted.neighbors_, 'kneighbors'
    case classifiers.ShrunkGDE():
      return covariance.ShrunkCovariance(
          shrinkage=fitted.shrinkage_), 'mahalanobis'
    case classifiers.Mahalanobis():
      return covariance.EmpiricalCovariance(), 'mahalanobis'


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
  """Returns how long a call takes, and what it returns."""
  began = time.perf_counter()
  found = call()
  return time.perf_counter() - began, found
