"""How well a score tells anomalies from normals: higher = more anomalous.

Every function takes scores f[n] and `anomaly` bool[n] with both kinds in it,
and returns percent.
"""
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics


def auroc(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns how often an anomaly scores above a normal; a tie counts half."""
  above, _ = _placements(score, anomaly)
  return float(100 * above.mean())


def auroc_interval(score: np.ndarray, anomaly: np.ndarray
                   ) -> tuple[float, float]:
  """Returns the 95 % interval of `auroc` by DeLong et al., 1988.

  Computed with midranks (Sun & Xu, 2014). NaN with fewer than two of a kind.
  """
  above, below = _placements(score, anomaly)
  if min(len(above), len(below)) < 2:
    return np.nan, np.nan
  variance = (above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
  half = stats.norm.ppf(0.975) * np.sqrt(variance)
  low, high = np.clip([above.mean() - half, above.mean() + half], 0, 1)
  return float(100 * low), float(100 * high)


def auprc(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns the average precision at finding the anomalies."""
  return float(100 * sklearn_metrics.average_precision_score(anomaly, score))


def fpr95(score: np.ndarray, anomaly: np.ndarray) -> float:
  """Returns the share of normals flagged when 95 % of anomalies are."""
  positive, negative = _split(score, anomaly)
  flagged = -(-95 * len(positive) // 100)  # ceil, without rounding errors
  threshold = np.sort(positive)[-flagged]
  return float(100 * (negative >= threshold).mean())


def _split(score: np.ndarray, anomaly: np.ndarray):
  score, anomaly = np.asarray(score), np.asarray(anomaly, bool)
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
