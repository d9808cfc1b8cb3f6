import time

import numpy as np
import pytest
from scipy import stats
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


@pytest.mark.parametrize('m, n', [(2, 2), (4, 8), (8, 4), (20, 63)])
def test_where_all_are_told_apart_the_interval_is_newcombes(m, n):
  """The AUROC of which 1 is 1.96 standard errors off."""
  anomaly = np.arange(m + n) < m
  low, high = metrics.auroc_interval(anomaly * 1., anomaly)
  x, more = low / 100, (m + n) / 2 - 1
  variance = x * (1 - x) / (m * n) * (
      1 + more * (1 - x) / (2 - x) + more * x / (1 + x))
  assert (1 - x) / np.sqrt(variance) == pytest.approx(1.959964, abs=1e-6)
  assert high == 100
  assert metrics.auroc_interval(anomaly * -1., anomaly) == pytest.approx(
      (0, 100 - low))


def test_few_images_that_are_told_apart_do_not_rule_out_that_more_are_not():
  """By DeLong alone, 31 times in 100 the truth is in the interval."""
  random = np.random.default_rng(0)
  anomaly = np.arange(12) < 8
  shift = np.sqrt(2) * stats.norm.ppf(0.98)  # an AUROC of 98
  covered = 0
  for _ in range(200):
    low, high = metrics.auroc_interval(
        random.normal(size=12) + shift * anomaly, anomaly)
    covered += low <= 98 <= high
  assert covered / 200 > 0.92


def test_one_anomaly_has_no_interval():
  score, anomaly = np.arange(10.), np.arange(10) == 7
  assert metrics.auroc(score, anomaly) == pytest.approx(100 * 7 / 9)
  assert np.isnan(metrics.auroc_interval(score, anomaly)).all()


def test_one_kind_alone_is_an_error():
  with pytest.raises(ValueError, match='both'):
    metrics.auroc(np.arange(3.), np.zeros(3, bool))


def test_a_score_that_is_none_is_an_error():
  for metric in (metrics.auroc, metrics.fpr95, metrics.fpr95_interval):
    with pytest.raises(ValueError, match='NaN'):
      metric(np.array([0., np.nan, 2., 3.]), np.arange(4) > 1)


def _pair(seed, ties, n=60):
  """Two scores of the same images that go together, and the truth."""
  score, anomaly = _case(seed, False, n)
  other = score + np.random.default_rng(seed + 100).normal(size=n)
  return (score.round(), other.round(), anomaly) if ties else (
      score, other, anomaly)


@pytest.mark.parametrize('score, other, anomaly', [
    _pair(seed, ties) for seed in range(3) for ties in (False, True)])
def test_the_paired_test_equals_delong_by_brute_force(score, other, anomaly):
  wins, other_wins = _wins(score, anomaly), _wins(other, anomaly)
  m, n = wins.shape
  error = np.sqrt(sum(
      (np.cov(wins.mean(axis), other_wins.mean(axis)) @ [1, -1]) @ [1, -1] / k
      for axis, k in ((1, m), (0, n))))
  difference = wins.mean() - other_wins.mean()
  found, low, high, p = metrics.paired(score, other, anomaly)
  assert found == pytest.approx(100 * difference)
  assert low == pytest.approx(100 * (difference - 1.959964 * error), abs=1e-4)
  assert high == pytest.approx(100 * (difference + 1.959964 * error), abs=1e-4)
  assert p == pytest.approx(2 * stats.norm.cdf(-abs(difference / error)))
  assert (p < 0.05) == (not low <= 0 <= high)


def test_the_paired_test_is_the_other_way_round_the_other_way_round():
  score, other, anomaly = _pair(0, ties=True)
  difference, low, high, p = metrics.paired(score, other, anomaly)
  assert metrics.paired(other, score, anomaly) == pytest.approx(
      (-difference, -high, -low, p))


def _equally_good(random, anomaly):
  """Two scores with something in common, of one true AUROC."""
  shared = random.normal(size=len(anomaly)) + anomaly
  return (shared + random.normal(size=len(anomaly)),
          shared + random.normal(size=len(anomaly)))


def test_p_values_are_uniform_where_nothing_differs():
  random = np.random.default_rng(0)
  anomaly = np.arange(200) < 80
  ps = [metrics.paired(*_equally_good(random, anomaly), anomaly)[3]
        for _ in range(500)]
  assert stats.kstest(ps, 'uniform').pvalue > 0.01
  assert 0.03 < np.mean(np.array(ps) < 0.05) < 0.08


def test_the_paired_interval_covers_the_true_difference_19_times_in_20():
  random = np.random.default_rng(0)
  anomaly = np.arange(200) < 80
  truth = 100 * (stats.norm.cdf(1 / np.sqrt(2)) - stats.norm.cdf(1 / 2))
  covered = 0
  for _ in range(500):
    score = random.normal(size=200) + anomaly
    _, low, high, _ = metrics.paired(
        score, score + random.normal(size=200), anomaly)
    covered += low <= truth <= high
  assert 0.92 < covered / 500 < 0.98


def test_a_small_difference_shows_where_the_intervals_overlap():
  random = np.random.default_rng(0)
  anomaly = np.arange(400) < 200
  score = random.normal(size=400) + anomaly
  worse = score - 0.1 * anomaly + 0.05 * random.normal(size=400)
  assert metrics.auroc_interval(worse, anomaly)[1] > (
      metrics.auroc_interval(score, anomaly)[0])
  assert metrics.paired(score, worse, anomaly)[3] < 1e-6


def test_a_score_does_not_differ_from_one_of_the_same_order():
  score, anomaly = _case(0, ties=True)
  assert metrics.paired(score, 2 * score + 1, anomaly) == (0, 0, 0, 1)


def test_a_perfect_score_and_an_inverted_one_differ_for_sure():
  anomaly = np.arange(10) < 3
  assert metrics.paired(anomaly * 1., anomaly * -1., anomaly) == (
      100, 100, 100, 0)


def test_one_anomaly_has_a_difference_without_an_interval():
  score, anomaly = np.arange(10.), np.arange(10) == 7
  difference, *others = metrics.paired(score, -score, anomaly)
  assert difference == pytest.approx(100 * (7 - 2) / 9)
  assert np.isnan(others).all()


INTERVALS = {metrics.auprc: metrics.auprc_interval,
             metrics.fpr95: metrics.fpr95_interval}
intervals = pytest.mark.parametrize('metric', INTERVALS,
                                    ids=lambda metric: metric.__name__)


def _bootstrap(metric, score, anomaly, times=1000):
  """The bootstrap as the textbook has it: draw images, measure, repeat."""
  random = np.random.default_rng(1)
  kinds = np.flatnonzero(anomaly), np.flatnonzero(~anomaly)
  drawn = (np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
           for _ in range(times))
  return np.array([metric(score[each], anomaly[each]) for each in drawn])


@intervals
@cases
def test_bootstrap_intervals_equal_the_textbooks(metric, score, anomaly):
  """To the noise of 1,000 resamples, in the share that is below."""
  values = _bootstrap(metric, score, anomaly)
  for limit, share in zip(INTERVALS[metric](score, anomaly), (0.025, 0.975),
                          strict=True):
    assert (values < limit - 1e-9).mean() < share + 0.02
    assert (values <= limit + 1e-9).mean() > share - 0.02


def test_one_in_27_resamples_of_three_anomalies_is_the_best_thrice():
  score = np.r_[3., 2, 1, np.full(100, 2.5)]
  assert metrics.fpr95_interval(score, np.arange(103) < 3) == (0, 100)


@intervals
def test_bootstrap_intervals_cover_the_truth_19_times_in_20(metric):
  random = np.random.default_rng(0)
  truth = {metrics.auprc: 67.69,  # of 40 % anomalies; from 4,000,000 images
           metrics.fpr95: 100 * stats.norm.cdf(stats.norm.ppf(0.95) - 1)}
  anomaly = np.arange(200) < 80
  covered = 0
  for seed in range(100):
    low, high = INTERVALS[metric](random.normal(size=200) + anomaly, anomaly,
                                  seed)
    covered += low <= truth[metric] <= high
  assert 0.87 < covered / 100 < 0.99


@intervals
def test_a_bootstrap_is_the_same_again_and_differs_by_seed(metric):
  score, anomaly = _case(0, ties=False, n=500)
  first = INTERVALS[metric](score, anomaly)
  assert INTERVALS[metric](score, anomaly) == first
  assert INTERVALS[metric](score, anomaly, seed=1) != first


@intervals
def test_a_bootstrap_of_scores_is_one_of_their_order(metric):
  score, anomaly = _case(0, ties=True)
  assert INTERVALS[metric](score, anomaly) == (
      INTERVALS[metric](np.exp(score), anomaly))


@intervals
@pytest.mark.parametrize('kind', [bool, np.uint8, np.float16])
def test_scores_of_any_numbers_have_the_same_interval(metric, kind):
  score, anomaly = _case(0, ties=True)
  score = np.round(score - score.min()).astype(kind)
  assert INTERVALS[metric](score, anomaly) == (
      INTERVALS[metric](score.astype(float), anomaly))


@intervals
def test_without_doubt_the_bootstrap_has_none(metric):
  anomaly = np.arange(10) < 3
  best = metric(anomaly * 1., anomaly)
  assert INTERVALS[metric](anomaly * 1., anomaly) == (best, best)
  same = metric(np.ones(10), anomaly)
  assert INTERVALS[metric](np.ones(10), anomaly) == (
      pytest.approx(same), pytest.approx(same))


@intervals
def test_one_normal_image_has_no_bootstrap(metric):
  score, anomaly = np.arange(10.), np.arange(10) != 7
  assert np.isnan(INTERVALS[metric](score, anomaly)).all()


def test_ten_thousand_images_take_less_than_two_seconds_each():
  score, anomaly = _case(0, ties=False, n=10_000)
  for interval in INTERVALS.values():
    start = time.process_time()
    interval(score, anomaly)
    assert time.process_time() - start < 2
