"""How well an explanation says what a score rests on, without any mask.

Deletion and insertion (Petsiuk et al., BMVC 2018, RISE,
https://arxiv.org/abs/1806.07421): the area under the score as pixels are taken
from an image, the most attributed first, or put into a baseline. RISE's score
is a probability; an anomaly score has any scale, so here it is a share of the
rise s(x) - s(x0) since the baseline: of the image 1, of the baseline 0. Less is
better for deletion, more for insertion, and neither need be between 0 and 1:
half of an image may be more anomalous than all of it. One explanation is
compared with another of the same score, image and baseline.

An explanation should also depend on what was learnt (Adebayo et al., NeurIPS
2018, https://arxiv.org/abs/1810.03292): `similarity` to that of a network with
random weights should be near 0.
"""
import numpy as np
from scipy import stats

from deep_oc import attributions
from deep_oc.attributions import Score

POINTS = 32  # of a curve, beyond the first


def deletion_curve(score: Score, image: np.ndarray, attribution: np.ndarray,
                   baseline: np.ndarray, points: int = POINTS) -> np.ndarray:
  """Returns scores as pixels give way to the baseline's, f64[points + 1].

  Args:
    score: maps f32[n, h, w, c] to f[n].
    image: x, f32[h, w, c].
    attribution: f[h, w]; the pixels of the highest go first, of equal ones in
      an order that does not depend on where they are.
    baseline: x0, f32[h, w, c].
    points: after point k, round(k / points * h w) pixels have gone.
  """
  rank = _rank(attribution)
  gone = np.rint(np.arange(points + 1) / points * rank.size)
  keep = (rank >= gone[:, None, None])[..., None]
  return attributions.values(score, np.where(keep, image, baseline))


def insertion_curve(score: Score, image: np.ndarray, attribution: np.ndarray,
                    baseline: np.ndarray, points: int = POINTS) -> np.ndarray:
  """Returns scores as pixels come into the baseline, f64[points + 1].

  Arguments as those of `deletion_curve`.
  """
  return deletion_curve(score, baseline, attribution, image, points)


def deletion(curve: np.ndarray) -> float:
  """Returns the area under f[k], `deletion_curve`, as a share of its fall.

  By the trapezoid rule. NaN if the image is not above the baseline: then there
  is nothing for the most attributed pixels to take away.
  """
  fall = curve[0] - curve[-1]
  if not fall > 0:
    return float('nan')
  share = (curve - curve[-1]) / fall
  return float(np.trapezoid(share, dx=1 / (len(curve) - 1)))


def insertion(curve: np.ndarray) -> float:
  """Returns the area under f[k], `insertion_curve`, as a share of its rise."""
  return deletion(curve[::-1])


def similarity(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the rank correlation of two maps f[h, w], from -1 to 1.

  Spearman's; NaN if one of them is flat.
  """
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan')
  return float(stats.spearmanr(a, b, axis=None).statistic)


def _rank(attribution):
  """Returns each pixel's place, 0 the highest, i64[h, w]."""
  flat = np.ravel(attribution)
  shuffled = np.random.default_rng(0).permutation(flat.size)
  order = shuffled[np.argsort(-flat[shuffled], kind='stable')]
  rank = np.empty(flat.size, int)
  rank[order] = np.arange(flat.size)
  return rank.reshape(attribution.shape)
