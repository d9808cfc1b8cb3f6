"""The collapse monitor tells a healthy representation from a dead one."""
import numpy as np
import pytest

from deep_oc import errors, monitor


def _warnings(feature, accuracy=0.9, progress=0.5, chance=1 / 32):
  metrics = monitor.statistics(feature) | {
      'accuracy': accuracy, 'chance': chance}
  return list(monitor.warnings(metrics, progress))


def test_isotropic_features_have_nearly_full_effective_rank():
  feature = np.random.default_rng(0).normal(size=(2000, 8))
  got = monitor.statistics(feature)
  assert 7.9 < got['effective_rank'] <= 8.001
  np.testing.assert_allclose(got['embedding_variance'], 1, atol=0.01)
  assert not _warnings(feature)


def test_effective_rank_equals_the_entropy_written_out():
  centred = np.diag([3., 1., 0.])
  p = np.array([0.75, 0.25])
  np.testing.assert_allclose(monitor.effective_rank(centred),
                             np.exp(-(p * np.log(p)).sum()))


def test_equal_features_are_a_collapse():
  feature = np.ones((50, 8)) + 1e-5 * np.random.default_rng(0).normal(
      size=(50, 8))
  assert 'nearly the same feature' in _warnings(feature)[0]
  assert monitor.effective_rank(np.zeros((4, 3))) == 1


def test_features_on_a_line_are_a_dimensional_collapse():
  angle = np.linspace(0, 0.5, 50)[:, None]
  feature = np.array([1., 0, 0]) + angle * np.array([0, 1., 0])
  assert 'one direction' in _warnings(feature)[0]


def test_guessing_is_reported_only_after_the_first_tenth():
  feature = np.random.default_rng(0).normal(size=(50, 8))
  assert not _warnings(feature, accuracy=1 / 32, progress=0.05)
  assert 'guessing' in _warnings(feature, accuracy=1 / 32, progress=0.1)[0]


@pytest.mark.parametrize('chance, guessing, learning', [
    (1 / 2, 0.54, 0.56), (1 / 4, 0.32, 0.33), (1 / 32, 0.046, 0.048)])
def test_guessing_is_near_chance_however_many_ways_there_are(
    chance, guessing, learning):
  feature = np.random.default_rng(0).normal(size=(50, 8))
  assert _warnings(feature, accuracy=guessing, chance=chance)
  assert not _warnings(feature, accuracy=learning, chance=chance)


def test_an_accuracy_without_a_chance_tells_nothing_of_guessing():
  assert not list(monitor.warnings({'accuracy': 0.0}, progress=0.5))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_features_that_are_no_numbers_are_one_line(value):
  feature = np.ones((4, 3))
  feature[2, 1] = value
  with pytest.raises(errors.InputError, match='not finite numbers; lower'):
    monitor.statistics(feature)
