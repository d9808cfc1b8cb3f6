import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from deep_oc import metrics


def _case(seed, ties, n=60):
  random = np.random.default_rng(seed)
  anomaly = random.random(n) < 0.4
  score = random.normal(size=n) + anomaly
  return (score.round() if ties else score), anomaly


def _wins(score, anomaly):
  """Pairs (anomaly, normal): 1 for a win, 1/2 for a tie."""
  return np.array([[(a > b) + (a == b) / 2 for b in score[~anomaly]]
                   for a in score[anomaly]])


cases = pytest.mark.parametrize(
    'score, anomaly', [_case(seed, ties) for seed in range(3)
                       for ties in (False, True)])


@cases
def test_auroc_equals_the_share_of_pairs_won(score, anomaly):
  assert metrics.auroc(score, anomaly) == pytest.approx(
      100 * _wins(score, anomaly).mean())


@cases
def test_auroc_equals_sklearn(score, anomaly):
  assert metrics.auroc(score, anomaly) == pytest.approx(
      100 * sklearn_metrics.roc_auc_score(anomaly, score))


@cases
def test_interval_equals_delong_by_brute_force(score, anomaly):
  wins = _wins(score, anomaly)
  m, n = wins.shape
  variance = (((wins.mean(1) - wins.mean()) ** 2).sum() / (m - 1) / m +
              ((wins.mean(0) - wins.mean()) ** 2).sum() / (n - 1) / n)
  half = 1.959964 * np.sqrt(variance)
  low, high = metrics.auroc_interval(score, anomaly)
  assert low == pytest.approx(100 * (wins.mean() - half), abs=1e-4)
  assert high == pytest.approx(100 * min(wins.mean() + half, 1), abs=1e-4)


def test_interval_covers_the_truth_19_times_in_20():
  random = np.random.default_rng(0)
  anomaly = np.arange(200) < 80
  truth = 76.02  # Phi(1 / sqrt(2))
  covered = 0
  for _ in range(400):
    low, high = metrics.auroc_interval(
        random.normal(size=200) + anomaly, anomaly)
    covered += low <= truth <= high
  assert 0.92 < covered / 400 < 0.98


@cases
def test_auprc_is_the_precision_averaged_over_recall(score, anomaly):
  total, recall = 0., 0.
  for threshold in sorted(set(score), reverse=True):
    flagged = score >= threshold
    gained = anomaly[flagged].sum() / anomaly.sum()
    total += (gained - recall) * anomaly[flagged].mean()
    recall = gained
  assert metrics.auprc(score, anomaly) == pytest.approx(100 * total)


@cases
def test_fpr95_is_the_best_threshold_with_95_percent_recall(score, anomaly):
  found = min((score[~anomaly] >= threshold).mean() for threshold in score
              if (score[anomaly] >= threshold).mean() >= 0.95)
  assert metrics.fpr95(score, anomaly) == pytest.approx(100 * found)


@cases
def test_fpr95_equals_sklearns_curve(score, anomaly):
  fpr, tpr, _ = sklearn_metrics.roc_curve(anomaly, score,
                                          drop_intermediate=False)
  assert metrics.fpr95(score, anomaly) == pytest.approx(
      100 * fpr[np.argmax(tpr >= 0.95)])


def test_fpr95_of_20_anomalies_may_miss_one():
  anomaly = np.arange(30) < 20
  score = np.where(anomaly, 2., 1.)
  score[0] = 0.
  assert metrics.fpr95(score, anomaly) == 0
  score[1] = 0.
  assert metrics.fpr95(score, anomaly) == 100


def test_equal_scores_give_50():
  score, anomaly = np.ones(10), np.arange(10) < 3
  assert metrics.auroc(score, anomaly) == 50
  assert metrics.auroc_interval(score, anomaly) == (50, 50)
  assert metrics.fpr95(score, anomaly) == 100
  assert metrics.auprc(score, anomaly) == pytest.approx(30)


def test_a_perfect_score_gives_100_and_an_inverted_one_0():
  anomaly = np.arange(10) < 3
  assert metrics.auroc(anomaly * 1., anomaly) == 100
  assert metrics.auroc(anomaly * -1., anomaly) == 0


def test_one_anomaly_has_no_interval():
  score, anomaly = np.arange(10.), np.arange(10) == 7
  assert metrics.auroc(score, anomaly) == pytest.approx(100 * 7 / 9)
  assert np.isnan(metrics.auroc_interval(score, anomaly)).all()


def test_one_kind_alone_is_an_error():
  with pytest.raises(ValueError, match='both'):
    metrics.auroc(np.arange(3.), np.zeros(3, bool))
