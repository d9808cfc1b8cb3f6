"""Thresholds from normal images alone: how many false alarms they will raise.

Scores of normal images that the classifier was not fitted to, the calibration
scores, turn any score into a p-value, and a false-alarm rate into a threshold.
All that is assumed is that the normal images to come are like those of the
calibration; nothing is known of anomalies. Higher = more anomalous.

  fitted, calibration = thresholds.calibrate(train, 'kde', seed=0)
  scores = oneclass.anomaly_score(fitted, test)
  flagged = scores > thresholds.threshold(calibration, alpha=0.05)
  flagged = thresholds.p_values(calibration, scores) <= 0.05  # the same ones

To a network that has learnt its training images by heart, new ones are not like
them: of those, more are flagged than alpha. Then images that the network, too,
has not seen must calibrate, and `calibrated` takes them.

Vovk et al., 2005; with outliers Bates et al., 2023
(https://arxiv.org/abs/2104.08279).
"""
import dataclasses
import decimal
import fractions
import numbers
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn import model_selection

from deep_oc import oneclass
from deep_oc.errors import InputError


RATE = 0.05  # of false alarms, where none is asked for
FOLDS = 5
SHARE = 0.2  # of the normal rows that are held out


class Alarms(NamedTuple):
  """Test rows flagged as often as chosen, were they normal.

  Attributes:
    rate: the chosen false-alarm rate, alpha.
    p: p-values f[n]; flagged is what has p <= alpha.
    held_out: how many normal rows calibrate; 0 if they do in turn.
    calibration: which ones, as `Calibrated` says it.
  """
  rate: float
  p: np.ndarray
  held_out: int
  calibration: str

  @property
  def flagged(self) -> np.ndarray:
    """bool[n]."""
    return self.p <= self.rate


@dataclasses.dataclass(frozen=True)
class Calibrated:
  """Fitted once, says of any rows what they score and how unusual that is.

  Attributes:
    parts: classifiers, each with the scores f[m] of normal rows that it was not
      fitted to. Of several, by folds, a score is the mean of theirs.
    kind: of a single part's rows: 'held_out' of the fit, 'unseen' by the
      network too, or 'left_out', each of a fit to all others.
  """
  parts: tuple[tuple[Any, np.ndarray], ...]
  kind: str = 'held_out'

  @property
  def held_out(self) -> int:
    """How many normal rows calibrate; 0 if they do in turn."""
    in_turn = len(self.parts) > 1 or self.kind == 'left_out'
    return 0 if in_turn else len(self.parts[0][1])

  @property
  def calibration(self) -> str:
    """Which rows: 'unseen_20', 'held_out_200', 'left_out_200', 'folds_5'."""
    if len(self.parts) > 1:
      return f'folds_{len(self.parts)}'
    return f'{self.kind}_{len(self.parts[0][1])}'

  def judge(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps f[n, d] to scores f[n] and p-values f[n]."""
    scores = [oneclass.anomaly_score(fitted, rows) for fitted, _ in self.parts]
    above = sum(_at_least(calibration, score) for (_, calibration), score
                in zip(self.parts, scores, strict=True))
    normals = sum(len(calibration) for _, calibration in self.parts)
    return np.mean(scores, axis=0), (1 + above) / (1 + normals)

  def threshold(self, alpha: float) -> float | None:
    """Returns the score above which p <= alpha; None by folds, for want of one.

    Raises:
      InputError: too few calibration scores for alpha.
    """
    if len(self.parts) > 1:
      return None
    return threshold(self.parts[0][1], alpha)


def calibrated(train: np.ndarray, classifier: str, alpha: float, seed: int = 0,
               limit: int = oneclass.LIMIT, unseen: np.ndarray | None = None
               ) -> Calibrated:
  """Fits to normal f[n, d] and calibrates for a false-alarm rate.

  By normal rows f[m, d] that nothing has learnt from, `unseen`, if there are
  such. Otherwise a fifth of the rows is held out; where that is too few for
  alpha, each row is held out in turn (`cross_calibrated`).

  Raises:
    InputError: too few rows even so.
  """
  if unseen is not None:
    rank(alpha, len(unseen))  # before the fit
    fitted = oneclass.fit(classifier, train, seed, limit)
    return by_scores(fitted, oneclass.anomaly_score(fitted, unseen), alpha)
  if round(SHARE * len(train)) >= needed(alpha):
    return Calibrated((calibrate(train, classifier, seed, limit=limit),))
  rank(alpha, len(train))  # raises if these are too few as well
  return cross_calibrated(train, classifier, seed, limit=limit)


def by_scores(fitted: Any, scores: np.ndarray, alpha: float,
              kind: str = 'unseen') -> Calibrated:
  """Returns what is calibrated by scores of images that it was not fitted to.

  Args:
    fitted: what scores.
    scores: of those images, f[m].
    alpha: a false-alarm rate.
    kind: see `Calibrated`.

  Raises:
    InputError: too few scores for alpha.
  """
  rank(alpha, len(scores))
  return Calibrated(((fitted, scores),), kind)


def alarms(train: np.ndarray, test: np.ndarray, classifier: str, alpha: float,
           seed: int = 0, limit: int = oneclass.LIMIT) -> Alarms:
  """Calibrates on normal f[n, d], as `calibrated`, and tests f[k, d].

  Raises:
    InputError: too few rows.
  """
  found = calibrated(train, classifier, alpha, seed, limit)
  return Alarms(alpha, found.judge(test)[1], found.held_out, found.calibration)


def alarms_by(calibration: np.ndarray, scores: np.ndarray, alpha: float,
              kind: str = 'unseen') -> Alarms:
  """Tests scores f[k] by those f[m] of images that nothing was fitted to.

  Args:
    calibration: scores of normal images.
    scores: of the images to test.
    alpha: a false-alarm rate.
    kind: of the normal images, see `Calibrated`.

  Raises:
    InputError: too few calibration scores for alpha.
  """
  found = by_scores(None, calibration, alpha, kind)
  return Alarms(alpha, p_values(calibration, scores), found.held_out,
                found.calibration)


def p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Maps calibration f[m] and scores f[n] to (1 + #{c >= s}) / (m + 1), f[n].

  For a normal image P(p <= alpha) is alpha at most, for every alpha. A tie
  counts against flagging.

  Raises:
    InputError: no calibration score, or one that is no number.
  """
  return (1 + _at_least(calibration, scores)) / (1 + len(calibration))


def threshold(calibration: np.ndarray, alpha: float) -> float:
  """Returns the score above which a normal image lies with P <= alpha.

  The r-th largest of the m calibration scores, r = floor(alpha (m + 1)): above
  it is what has p <= alpha, neither more nor less. P is over the calibration
  too; `interval` tells what one calibration may bring.

  Raises:
    InputError: fewer than 1 / alpha - 1 calibration scores.
  """
  ordered = _ordered(calibration)
  return float(ordered[len(ordered) - rank(alpha, len(ordered))])


def interval(alpha: float, m: int, n: int, confidence: float = 0.95
             ) -> tuple[int, int]:
  """Returns the least and the most false alarms to expect of n normal images.

  Above the r-th largest of m calibration scores a normal image lies with a
  probability that is Beta(r, m + 1 - r) over calibrations, if no two scores are
  equal; so many of n images is beta-binomial. At least `confidence` of it is
  in the interval. With ties there are fewer false alarms.

  Raises:
    InputError: fewer than 1 / alpha - 1 calibration scores.
  """
  r = rank(alpha, m)
  alarms = stats.betabinom(n, r, m + 1 - r)
  tail = (1 - confidence) / 2
  return int(alarms.ppf(tail)), int(alarms.ppf(1 - tail))


def calibrate(train: np.ndarray, classifier: str, seed: int = 0,
              share: float = SHARE, limit: int = oneclass.LIMIT
              ) -> tuple[Any, np.ndarray]:
  """Fits to a part of normal f[n, d] and scores the rest, drawn by the seed.

  Args:
    train: normal rows only; anomalies among them raise the threshold.
    classifier: what `oneclass.fit` takes, 'kde' for example.
    seed: of the part.
    share: of the rows that are held out, rounded to whole rows.
    limit: how many rows are fitted at most.

  Returns:
    The fitted classifier, and the scores of what it was not fitted to.

  Raises:
    InputError: too few rows.
  """
  if not 0 < share < 1:
    raise InputError(f'a share of {share} cannot be held out; it must lie '
                     'between 0 and 1')
  held_out = round(share * len(train))
  if held_out < 1 or len(train) - held_out < 2:
    raise InputError(f'{len(train)} normal images are too few to hold out '
                     f'{share:.0%}: one must remain to calibrate with, and two '
                     'to fit to')
  order = np.random.default_rng([seed, 3]).permutation(len(train))
  fitted = oneclass.fit(classifier, train[order[held_out:]], seed, limit)
  return fitted, oneclass.anomaly_score(fitted, train[order[:held_out]])


def cross_calibrated(train: np.ndarray, classifier: str, seed: int = 0,
                     folds: int = FOLDS, limit: int = oneclass.LIMIT
                     ) -> Calibrated:
  """Calibrates with every row of normal f[n, d]; none is given up.

  Each fold calibrates the classifier that is fitted to the others, and the
  counts are added (Vovk, 2015, https://arxiv.org/abs/1208.0806). The smallest
  p-value is 1 / (n + 1). For few images; the price is that about 2 alpha is
  what is guaranteed, though alpha is what is usually seen.

  Raises:
    InputError: fewer rows than folds, or too few to fit to.
  """
  parts = []
  for kept, held_out in split(len(train), folds, seed):
    fitted = oneclass.fit(classifier, train[kept], seed, limit)
    parts.append((fitted, oneclass.anomaly_score(fitted, train[held_out])))
  return Calibrated(tuple(parts))


def parted(n: int, alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows of n to fit to, and those that calibrate, drawn by the seed.

  A fifth, or as many as alpha takes; for what costs too much for folds.

  Raises:
    InputError: not even half of them would remain to fit to.
  """
  held_out = max(round(SHARE * n), needed(alpha))
  if held_out > n // 2:
    raise InputError(f'{_takes(alpha)}, and as many to fit to; there are {n}')
  order = np.random.default_rng([seed, 3]).permutation(n)
  return order[held_out:], order[:held_out]


def split(n: int, folds: int, seed: int
          ) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns (rows to fit to, rows to score) of n, each scored once.

  Raises:
    InputError: fewer rows than folds, or too few to fit to.
  """
  if not 2 <= folds <= n or n - -(-n // folds) < 2:
    raise InputError(f'{n} rows cannot be divided into {folds} folds that '
                     'leave two rows at least to fit to')
  return list(model_selection.KFold(
      folds, shuffle=True, random_state=seed).split(np.empty(n)))


def needed(alpha: float) -> int:
  """Returns how many calibration scores a false-alarm rate takes.

  Raises:
    InputError: it is no rate.
  """
  if not isinstance(alpha, numbers.Real) or not 0 < alpha < 1:
    raise InputError(f'a false-alarm rate of {alpha!r} must lie between 0 and '
                     '1')
  found = round(1 / fractions.Fraction(float(alpha)))  # may exceed all floats
  return found + (1 / found > alpha) - 1


def rank(alpha: float, m: int) -> int:
  """Returns the largest r with r / (m + 1) <= alpha; rounding errors aside.

  Raises:
    InputError: m calibration scores are too few for there to be one.
  """
  needed(alpha)  # raises unless it is a rate
  r = round(alpha * (m + 1))
  r -= r / (m + 1) > alpha
  if r < 1:
    raise InputError(f'{_takes(alpha)}; there are {m}'
                     + f', enough for {_least(m)} %' * bool(m))
  return r


def default_rate(m: int) -> float:
  """Returns `RATE`, or the lowest that m calibration scores, m > 0, allow."""
  return max(RATE, float(_least(m).scaleb(-2)))


def _takes(alpha: float) -> str:
  """Says how many images a rate takes: of 300 digits the first six."""
  return (f'a false-alarm rate of {100 * alpha:g} % takes '
          f'{decimal.Decimal(needed(alpha)):.6g} normal images to calibrate '
          'with')


def _least(m: int) -> decimal.Decimal:
  """Returns the lowest rate for m images, in percent, rounded up."""
  return decimal.Context(2, decimal.ROUND_CEILING).divide(100, m + 1)


def described(calibration: str, learnt: bool) -> str:
  """Returns what `Calibrated.calibration` means, in words.

  And whether images that the encoder has not seen may be flagged more often:
  only if it has `learnt` from the training images.
  """
  kind, _, count = calibration.rpartition('_')
  if kind == 'unseen':
    return (f'{count} normal images that neither encoder nor classifier has '
            'seen calibrate this.')
  who = {
      'held_out': f'{count} training images that the classifier was not fitted '
                  'to calibrate this.',
      'left_out': f'{count} training images calibrate this, each by what all '
                  'others are like.',
      'folds': 'Every training image calibrates this in its turn, with the '
               'classifiers fitted to the others.'}[kind]
  if not learnt:
    return f'{who} The encoder has not learnt from them.'
  return (f'{who} An encoder that has learnt from them, and knows them by '
          'heart, flags more of other normal images; --calibration=FOLDER '
          'takes such, and --config.protocol.calibration=0.1 holds some out.')


def _at_least(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Returns how many calibration scores are not below each score."""
  ordered = _ordered(calibration)
  if np.isnan(scores).any():
    raise InputError('a score is not a number')
  return len(ordered) - np.searchsorted(ordered, scores, 'left')


def _ordered(calibration: np.ndarray) -> np.ndarray:
  if not len(calibration):
    raise InputError('no calibration score; hold out some normal images')
  if np.isnan(calibration).any():
    raise InputError('a calibration score is not a number')
  return np.sort(calibration)
