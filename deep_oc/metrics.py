"""How well a score tells anomalies from normals: higher = more anomalous.

Every function takes scores f[n] and `anomaly` bool[n] with both kinds in it,
and returns percent.
"""
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats
from sklearn import metrics as sklearn_metrics

RESAMPLES = 1000  # of a bootstrap

_HALF = stats.norm.ppf(0.975)  # a 95 % interval, in standard errors


def auroc(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns how often an anomaly scores above a normal; a tie counts half."""
  above, _ = _placements(score, anomaly)
  return float(100 * above.mean())


def auroc_interval(score: np.ndarray, anomaly: np.ndarray
                   ) -> tuple[float, float]:
  """Returns the 95 % interval of `auroc` by DeLong et al., 1988.

  Computed with midranks (Sun & Xu, 2014). Where all anomalies are above all
  normals, or below, the placements do not vary, which tells nothing of those to
  come; then by Newcombe. NaN with fewer than two of a kind.
  """
  above, below = _placements(score, anomaly)
  error = _standard_error(above, below)
  if error == 0 and above[0] == 1:
    return 100 * _least(len(above), len(below)), 100.
  if error == 0 and above[0] == 0:
    return 0., 100 - 100 * _least(len(above), len(below))
  return interval(above.mean(), error)


def _least(m: int, n: int) -> float:
  """Returns the lower end of the interval of an AUROC of 1, of m and n images.

  From which 1 is 1.96 standard errors off: Newcombe, 2006
  (https://doi.org/10.1002/sim.2324), method 5.
  """
  more = (m + n) / 2 - 1

  def off(x):
    return (1 - x) - _HALF**2 * x / (m * n) * (
        1 + more * ((1 - x) / (2 - x) + x / (1 + x)))
  return float(optimize.brentq(off, 0, 1))


def paired(score_a: np.ndarray, score_b: np.ndarray, anomaly: np.ndarray
           ) -> tuple[float, float, float, float]:
  """Compares the `auroc` of two scores of the same images, by DeLong et al.

  Two scores that agree on most images can differ beyond doubt where the two
  intervals of `auroc_interval` overlap.

  Returns:
    The AUROC of a less that of b, its 95 % interval, low and high, and the
    two-sided p-value of there being no difference; NaN, but for the first,
    with fewer than two of a kind.
  """
  (above, below), (other_above, other_below) = (
      _placements(score_a, anomaly), _placements(score_b, anomaly))
  return tested(
      (above - other_above).mean(),
      _standard_error(above - other_above, below - other_below))


def interval(mean: float, error: float, least: float = 0.
             ) -> tuple[float, float]:
  """Returns 95 % of a normal distribution, low and high, in percent.

  Args:
    mean: of it, from `least` to 1, to which the interval is kept.
    error: its standard deviation; NaN makes NaN.
    least: the smallest value that there can be.
  """
  low, high = np.clip([mean - _HALF * error, mean + _HALF * error], least, 1)
  return float(100 * low), float(100 * high)


def tested(difference: float, error: float
           ) -> tuple[float, float, float, float]:
  """Returns a difference of two AUROCs as `paired` does, given its error."""
  if difference == error == 0:  # the same order
    p = 1.
  else:
    with np.errstate(divide='ignore'):
      p = 2 * stats.norm.sf(np.abs(difference) / error)
  return (float(100 * difference), *interval(difference, error, -1.), float(p))


def auprc(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns the average precision at finding the anomalies."""
  return float(100 * sklearn_metrics.average_precision_score(anomaly, score))


def auprc_interval(score: np.ndarray, anomaly: np.ndarray, seed: int = 0
                   ) -> tuple[float, float]:
  """Returns the 95 % bootstrap interval of `auprc`.

  Percentiles over resampled anomalies and resampled normals, as many of each as
  there are. NaN with fewer than two of a kind. With few it is too narrow: in
  simulations it held the truth 92 times in 100 with a hundred, 86 with twenty.
  """
  positive, negative = _split(score, anomaly)
  if min(len(positive), len(negative)) < 2:
    return np.nan, np.nan
  # Equal scores share a level, 0 the highest; a resample is a count of each.
  _, levels = np.unique(-np.concatenate([positive, negative]),
                        return_inverse=True)
  positive, negative = np.split(levels, [len(positive)])
  random, size = np.random.default_rng(seed), levels.max() + 1
  return percentiles([_average_precision(_resample(random, positive, size),
                                          _resample(random, negative, size))
                       for _ in range(RESAMPLES)])


def fpr95(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns the share of normals flagged when 95 % of anomalies are."""
  positive, negative = _split(score, anomaly)
  threshold = np.sort(positive)[-_flagged(positive)]
  return float(100 * (negative >= threshold).mean())


def fpr95_interval(score: np.ndarray, anomaly: np.ndarray, seed: int = 0
                   ) -> tuple[float, float]:
  """Returns the 95 % bootstrap interval of `fpr95`, as `auprc_interval`.

  Of a resample only what decides is drawn. Its m anomalies have places
  floor(m u), m uniform u, the highest score at place 0. The threshold is the
  k-th of them, and the k-th smallest u has the law Beta(k, m + 1 - k). How many
  of n resampled normals reach it is binomial.
  """
  positive, negative = _split(score, anomaly)
  m, n, k = len(positive), len(negative), _flagged(positive)
  if min(m, n) < 2:
    return np.nan, np.nan
  random = np.random.default_rng(seed)
  place = (m * random.beta(k, m + 1 - k, RESAMPLES)).astype(int)
  threshold = np.sort(positive)[::-1][np.minimum(place, m - 1)]
  above = n - np.searchsorted(np.sort(negative), threshold)
  return percentiles(random.binomial(n, above / n) / n)


def _flagged(positive):
  """Returns how many anomalies are 95 %; ceil, without rounding errors."""
  return -(-95 * len(positive) // 100)


def _resample(random, levels, size):
  """Returns how many of as many draws from i[n] fall on each level."""
  drawn = levels[random.integers(len(levels), size=len(levels))]
  return np.bincount(drawn, minlength=size)


def _average_precision(positive, negative):
  """Returns `auprc` / 100 from the counts at each level, the highest first."""
  found = np.cumsum(positive)
  flagged = np.maximum(found + np.cumsum(negative), 1)  # none: found is 0
  return positive @ (found / flagged) / found[-1]


def percentiles(values: Sequence[float]) -> tuple[float, float]:
  """Returns what 95 % of resampled values lie between, in percent."""
  low, high = 100 * np.percentile(values, [2.5, 97.5])
  return float(low), float(high)


def _split(score: np.ndarray, anomaly: np.ndarray):
  # Of unsigned integers the negative would be another order.
  score, anomaly = np.asarray(score, np.float64), np.asarray(anomaly, bool)
  if np.isnan(score).any():
    raise ValueError('a score is NaN')
  if not (anomaly.any() and (~anomaly).any()):
    raise ValueError('needs anomalies and normals, both')
  return score[anomaly], score[~anomaly]


def _placements(score: np.ndarray, anomaly: np.ndarray):
  """Returns for each anomaly the share of normals that it is above, and for
  each normal the share of anomalies that it is below."""
  positive, negative = _split(score, anomaly)
  n = len(positive)
  rank = stats.rankdata(np.concatenate([positive, negative]))
  above = (rank[:n] - stats.rankdata(positive)) / len(negative)
  below = 1 - (rank[n:] - stats.rankdata(negative)) / n
  return above, below


def _standard_error(above, below):
  """Returns DeLong's, of the mean placement; NaN with fewer than two."""
  if min(len(above), len(below)) < 2:
    return np.nan
  return np.sqrt(above.var(ddof=1) / len(above) +
                 below.var(ddof=1) / len(below))
