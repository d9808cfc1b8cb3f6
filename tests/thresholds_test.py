import fractions
import re

import numpy as np
import pytest
from scipy import stats
from sklearn import datasets

from deep_oc import oneclass, thresholds
from deep_oc.errors import InputError

ALPHAS = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.29, 0.5, 0.9)


def _scores(m, n, seed=0, decimals=9):
  """Returns calibration f[m] and scores f[n]; few decimals make ties."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=m).round(decimals), rng.normal(size=n).round(decimals)


def _brute_force(calibration, scores):
  return [(1 + sum(c >= s for c in calibration)) / (1 + len(calibration))
          for s in scores]


def _digits(digit):
  """Returns the images of one digit as features, f[n, 64]."""
  digits = datasets.load_digits()
  return digits.data[digits.target == digit]


def _false_alarms(digit, seed, alpha):
  """Returns how many of how many fresh normals are flagged, and m."""
  row = _digits(digit)
  row = row[np.random.default_rng([digit, seed]).permutation(len(row))]
  fitted, calibration = thresholds.calibrate(row[:120], 'kde', seed, share=0.5)
  flagged = (oneclass.anomaly_score(fitted, row[120:])
             > thresholds.threshold(calibration, alpha))
  return flagged.sum(), len(flagged), len(calibration)


@pytest.mark.parametrize('m', [1, 2, 19, 200])
@pytest.mark.parametrize('decimals', [9, 1, 0])
def test_p_values_equal_a_loop(m, decimals):
  calibration, scores = _scores(m, 50, decimals=decimals)
  np.testing.assert_array_equal(thresholds.p_values(calibration, scores),
                                _brute_force(calibration, scores))


def test_p_values_fall_as_scores_rise_and_stay_in_their_range():
  calibration, scores = _scores(99, 500)
  p = thresholds.p_values(calibration, np.sort(scores))
  assert (np.diff(p) <= 0).all()
  assert thresholds.p_values(calibration, [-np.inf, np.inf]).tolist() == [
      1, 0.01]


def test_a_tie_counts_against_flagging():
  assert thresholds.p_values(np.array([1., 2., 2., 3.]), [2.]).tolist() == [0.8]
  assert thresholds.p_values(np.ones(9), np.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize('decimals', [9, 1])
@pytest.mark.parametrize('m', [5, 38, 99])
def test_p_values_of_normals_are_super_uniform(m, decimals):
  rng = np.random.default_rng(m)
  p = np.array([thresholds.p_values(*np.split(
      rng.normal(size=m + 1).round(decimals), [m]))[0] for _ in range(4000)])
  for alpha in ALPHAS:
    assert (p <= alpha).mean() <= alpha + 4 * np.sqrt(alpha / 4000)


@pytest.mark.parametrize('decimals', [9, 1, 0])
@pytest.mark.parametrize('m', [99, 100, 137, 1000])
def test_above_the_threshold_is_exactly_what_has_a_small_p_value(m, decimals):
  calibration, scores = _scores(m, 300, decimals=decimals)
  scores = np.concatenate([scores, calibration])
  for alpha in ALPHAS:
    np.testing.assert_array_equal(
        scores > thresholds.threshold(calibration, alpha),
        thresholds.p_values(calibration, scores) <= alpha, str(alpha))


def test_a_lower_false_alarm_rate_has_a_higher_threshold():
  calibration, _ = _scores(99, 1)
  found = [thresholds.threshold(calibration, alpha) for alpha in ALPHAS]
  assert found == sorted(found, reverse=True)
  assert found[0] == calibration.max()


@pytest.mark.parametrize('alpha, needed', [
    (0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999), (0.07, 14)])
def test_too_few_images_for_a_false_alarm_rate_are_told_how_many_it_takes(
    alpha, needed):
  calibration = np.arange(float(needed))
  assert thresholds.threshold(calibration, alpha) == needed - 1
  with pytest.raises(InputError, match=(
      f'of {100 * alpha:g} % takes {needed} normal .* there are {needed - 1}')):
    thresholds.interval(alpha, needed - 1, 10)


@pytest.mark.parametrize('alpha, shown', [
    (1e-300, '1.00000e+300'), (1e-309, '1.00000e+309'),
    (5e-324, '2.02402e+323')])
def test_false_alarm_rates_may_be_as_small_as_floats(alpha, shown):
  needed = thresholds.needed(alpha)
  assert needed * fractions.Fraction(alpha) == pytest.approx(1, rel=1e-12)
  words = f'% takes {re.escape(shown)} normal images .* 9'
  with pytest.raises(InputError, match=words):
    thresholds.rank(alpha, 9)
  with pytest.raises(InputError, match=words):
    thresholds.parted(9, alpha, 0)


@pytest.mark.parametrize('alpha', [
    0, 1, -0.1, 5, float('nan'), True, '0.05', None, [0.05]])
def test_a_false_alarm_rate_that_is_no_share_is_an_error(alpha):
  with pytest.raises(InputError, match='must lie between 0 and 1'):
    thresholds.threshold(np.arange(200.), alpha)


def test_nothing_to_calibrate_with_and_what_is_no_number_are_errors():
  with pytest.raises(InputError, match='no calibration score'):
    thresholds.p_values(np.array([]), np.ones(2))
  with pytest.raises(InputError, match='calibration score is not a number'):
    thresholds.p_values(np.array([1, np.nan]), np.ones(2))
  with pytest.raises(InputError, match='a score is not a number'):
    thresholds.p_values(np.ones(2), np.array([1, np.nan]))


@pytest.mark.parametrize('alpha, m, n', [
    (0.05, 19, 50), (0.05, 200, 1000), (0.1, 60, 60), (0.5, 1, 30)])
def test_the_interval_holds_so_many_false_alarms_as_it_says(alpha, m, n):
  low, high = thresholds.interval(alpha, m, n, confidence=0.9)
  rng = np.random.default_rng(0)
  alarms = np.array([
      (rng.random(n) > thresholds.threshold(rng.random(m), alpha)).sum()
      for _ in range(2000)])
  assert ((low <= alarms) & (alarms <= high)).mean() > 0.9 - 0.02
  assert max((alarms < low).mean(), (alarms > high).mean()) < 0.05 + 0.015


def test_with_many_calibration_images_the_interval_is_the_binomial_one():
  low, high = thresholds.interval(0.05, 10**7 - 1, 1000)
  wanted = stats.binom(1000, 0.05).interval(0.95)
  assert (low, high) == wanted
  wide = thresholds.interval(0.05, 100, 1000)
  assert wide[0] < low and high < wide[1]


@pytest.mark.parametrize('alpha', [0.02, 0.05, 0.1, 0.2])
def test_false_alarms_on_fresh_digits_lie_in_the_interval(alpha):
  inside, rates = [], []
  for digit in range(10):
    for seed in range(4):
      alarms, n, m = _false_alarms(digit, seed, alpha)
      low, high = thresholds.interval(alpha, m, n, confidence=0.999)
      inside.append(low <= alarms <= high)
      rates.append(alarms / n)
  assert all(inside)
  # In the mean, what exchangeable images have.
  expected = np.floor(alpha * (m + 1)) / (m + 1)
  spread = np.sqrt(expected * (1 - expected) * (1 / m + 1 / n) / len(rates))
  assert abs(np.mean(rates) - expected) < 3.5 * spread


def test_other_digits_have_small_p_values():
  fitted, calibration = thresholds.calibrate(_digits(3), 'kde')
  p = thresholds.p_values(
      calibration, oneclass.anomaly_score(fitted, _digits(0)))
  assert (p <= 0.05).mean() > 0.95


def test_calibration_scores_are_of_rows_that_were_not_fitted():
  train = _digits(3)
  fitted, calibration = thresholds.calibrate(train, 'nn', seed=1, share=0.3)
  assert len(calibration) == round(0.3 * len(train))
  assert len(fitted.train_) == len(train) - len(calibration)
  own = oneclass.anomaly_score(fitted, train)
  # A row is its own nearest neighbour if, and only if, it was fitted.
  assert sorted(own[own > 1e-9]) == pytest.approx(sorted(calibration))


def test_calibration_depends_on_the_seed_alone():
  train = _digits(3)
  first, again, other = (thresholds.calibrate(train, 'kde', seed)[1]
                         for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize('n, share, words', [
    (2, 0.5, '2 normal images are too few'),
    (3, 0.1, 'too few to hold out 10%'),
    (9, 0., 'a share of 0.0'), (9, 1., 'between 0 and 1')])
def test_too_few_rows_to_calibrate_with_are_an_error(n, share, words):
  with pytest.raises(InputError, match=words):
    thresholds.calibrate(_digits(3)[:n], 'kde', share=share)


def test_three_rows_are_enough_to_calibrate_with_one():
  fitted, calibration = thresholds.calibrate(_digits(3)[:3], 'kde', share=0.3)
  assert len(calibration) == 1 and len(fitted.train_) == 2


def test_cross_conformal_p_values_add_the_counts_of_the_folds():
  train, test = _digits(3)[:40], _digits(8)[:20]
  above = 0
  for kept, held_out in thresholds.split(40, 4, seed=2):
    fitted = oneclass.fit('kde', train[kept])
    above += np.array([
        (oneclass.anomaly_score(fitted, train[held_out]) >= score).sum()
        for score in oneclass.anomaly_score(fitted, test)])
  found = thresholds.cross_calibrated(train, 'kde', seed=2, folds=4)
  np.testing.assert_array_equal(found.judge(test)[1], (1 + above) / 41)


@pytest.mark.parametrize('alpha', [0.05, 0.1, 0.2])
def test_cross_conformal_false_alarms_are_near_the_chosen_rate(alpha):
  rates = []
  for digit in range(10):
    row = np.random.default_rng(digit).permutation(_digits(digit))
    _, p = thresholds.cross_calibrated(row[:120], 'kde').judge(row[120:])
    rates.append((p <= alpha).mean())
  assert 0.5 * alpha < np.mean(rates) < 1.5 * alpha


def test_folds_score_every_row_once_and_never_fit_what_they_score():
  folds = thresholds.split(11, 3, seed=0)
  assert sorted(np.concatenate([held for _, held in folds])) == [*range(11)]
  for kept, held_out in folds:
    assert sorted([*kept, *held_out]) == [*range(11)]


@pytest.mark.parametrize('n, folds', [(4, 5), (3, 2), (9, 1)])
def test_rows_that_cannot_be_divided_are_an_error(n, folds):
  with pytest.raises(InputError, match=f'{n} rows .* into {folds} folds'):
    thresholds.split(n, folds, seed=0)


def test_alarms_hold_out_a_fifth_or_where_that_is_too_few_fold():
  row = _digits(0)
  train, test = row[:100], row[100:]
  found = thresholds.alarms(train, test, 'kde', 0.1, seed=1)
  assert found.held_out == 20
  fitted, calibration = thresholds.calibrate(train, 'kde', seed=1, share=0.2)
  np.testing.assert_array_equal(found.p, _brute_force(
      calibration, oneclass.anomaly_score(fitted, test)))
  np.testing.assert_array_equal(found.flagged, found.p <= 0.1)
  folded = thresholds.alarms(train, test, 'kde', 0.02, seed=1)
  assert folded.held_out == 0
  np.testing.assert_array_equal(
      folded.p,
      thresholds.cross_calibrated(train, 'kde', seed=1).judge(test)[1])
  with pytest.raises(InputError, match='takes 999 normal .* there are 100'):
    thresholds.alarms(train, test, 'kde', 0.001)


def test_what_was_calibrated_once_judges_rows_as_they_come():
  train, test = _digits(0)[:100], _digits(8)[:30]
  for alpha, held_out in ((0.1, 20), (0.02, 0)):
    found = thresholds.calibrated(train, 'kde', alpha, seed=1)
    assert found.held_out == held_out
    score, p = found.judge(test)
    np.testing.assert_array_equal(
        p, thresholds.alarms(train, test, 'kde', alpha, seed=1).p)
    parts = [found.judge(test[i:i + 7]) for i in range(0, 30, 7)]
    for whole, pieces in zip((score, p), zip(*parts, strict=True),
                             strict=True):
      np.testing.assert_allclose(np.concatenate(pieces), whole)


def test_a_score_is_above_the_threshold_where_its_p_value_is_small():
  train, test = _digits(0)[:100], _digits(8)[:30]
  found = thresholds.calibrated(train, 'kde', 0.1)
  score, p = found.judge(np.concatenate([train, test]))
  np.testing.assert_array_equal(score > found.threshold(0.1), p <= 0.1)
  assert thresholds.calibrated(train, 'kde', 0.02).threshold(0.02) is None


def test_by_folds_a_score_is_the_mean_of_those_of_the_folds():
  train, test = _digits(0)[:40], _digits(8)[:10]
  scores = [oneclass.anomaly_score(oneclass.fit('kde', train[kept]), test)
            for kept, _ in thresholds.split(40, 4, seed=2)]
  found = thresholds.cross_calibrated(train, 'kde', seed=2, folds=4)
  np.testing.assert_allclose(found.judge(test)[0], np.mean(scores, axis=0))
  assert found.calibration == 'folds_4'


def test_images_that_nothing_learnt_from_calibrate_what_is_fitted_to_all():
  rows = _digits(0)
  train, unseen, test = rows[:100], rows[100:130], _digits(8)[:30]
  found = thresholds.calibrated(train, 'kde', 0.1, seed=1, unseen=unseen)
  fitted = oneclass.fit('kde', train, 1)
  calibration, wanted = (oneclass.anomaly_score(fitted, each)
                         for each in (unseen, test))
  score, p = found.judge(test)
  np.testing.assert_array_equal(score, wanted)
  np.testing.assert_array_equal(p, _brute_force(calibration, wanted))
  assert (found.held_out, found.calibration) == (30, 'unseen_30')
  assert found.threshold(0.1) == np.sort(calibration)[-3]  # 3 / 31 <= 0.1
  alarms = thresholds.alarms_by(calibration, wanted, 0.1)
  np.testing.assert_array_equal(alarms.p, p)
  assert (alarms.held_out, alarms.calibration) == (30, 'unseen_30')


def test_each_row_left_out_of_the_fit_may_calibrate_it():
  rows = _digits(0)[:60]
  nearest = np.sort(np.linalg.norm(rows[:, None] - rows, axis=2), axis=1)[:, 1]
  found = thresholds.by_scores(
      oneclass.fit('knn(k=1)', rows), nearest, 0.1, 'left_out')
  score, p = found.judge(_digits(8)[:30])
  np.testing.assert_array_equal(p, _brute_force(nearest, score))
  assert found.threshold(0.1) == np.sort(nearest)[-6]  # 6 / 61 <= 0.1
  # Of rows in turn it is not known how false alarms spread.
  assert (found.held_out, found.calibration) == (0, 'left_out_60')
  alarms = thresholds.alarms_by(nearest, score, 0.1, 'left_out')
  np.testing.assert_array_equal(alarms.p, p)
  assert (alarms.held_out, alarms.calibration) == (0, 'left_out_60')


@pytest.mark.parametrize('m, shown', [
    (1, '50'), (12, '7.7'), (16, '5.9'), (400, '0.25'), (998, '0.11')])
def test_for_which_rate_so_few_are_enough_is_said(m, shown):
  with pytest.raises(InputError, match=f'there are {m}, enough for {shown} %'):
    thresholds.rank(1e-4, m)
  assert thresholds.rank(float(shown) / 100, m) == 1
  with pytest.raises(InputError, match='there are 0$'):
    thresholds.rank(1e-4, 0)


@pytest.mark.parametrize('m, rate', [
    (1, 0.5), (2, 0.34), (16, 0.059), (18, 0.053), (19, 0.05), (500, 0.05)])
def test_the_usual_rate_is_as_low_as_so_few_images_allow(m, rate):
  assert thresholds.default_rate(m) == rate
  assert thresholds.rank(rate, m) >= 1


def test_too_few_images_that_nothing_learnt_from_are_an_error():
  rows = _digits(0)
  with pytest.raises(InputError, match='5 % takes 19 normal .* there are 18'):
    thresholds.calibrated(rows[:100], 'kde', 0.05, unseen=rows[100:118])
  with pytest.raises(InputError, match='5 % takes 19 normal .* there are 18'):
    thresholds.alarms_by(np.arange(18.), np.arange(3.), 0.05)


@pytest.mark.parametrize('calibration, words, seen', [
    ('unseen_20', '20 normal images that neither', False),
    ('held_out_200', '200 training images that the classifier', True),
    ('left_out_60', '60 training images calibrate this, each by', True),
    ('folds_5', 'Every training image', True)])
def test_words_say_whether_the_encoder_has_seen_what_calibrates(
    calibration, words, seen):
  found, not_learnt = (
      thresholds.described(calibration, learnt) for learnt in (True, False))
  assert found.startswith(words) and not_learnt.startswith(words)
  assert ('protocol.calibration' in found) == seen
  assert ('The encoder has not learnt from them' in not_learnt) == seen
  assert 'by heart' not in not_learnt
