"""Densities of positions against scikit-learn's, one position at a time."""
import copy
import json

import numpy as np
import pytest
import threadpoolctl
from sklearn import covariance, mixture

from deep_oc import classifiers, densities, errors, oneclass

each_gaussian = pytest.mark.parametrize('classifier', densities.GAUSSIANS)
# More images than dimensions, as many, one more, and fewer.
each_size = pytest.mark.parametrize('n', [40, 9, 8, 7, 3])


def _features(n, seed=0):
  """Normal images f32[n, 2, 3, 8] and others f32[5, 2, 3, 8], not centred."""
  rng = np.random.default_rng(seed)
  return [np.float32(1 + rng.exponential(size=(count, 2, 3, 8))
                     * np.arange(1, 9)) for count in (n, 5)]


def _each_position(score, train, test):
  """Returns f[m, gh, gw] of score(f[n, d], f[m, d])."""
  return np.stack([
      np.stack([score(train[:, y, x], test[:, y, x])
                for x in range(train.shape[2])], axis=-1)
      for y in range(train.shape[1])], axis=1)


def _one_class(classifier, train, test):
  fitted = oneclass.CLASSIFIERS[classifier](reg_covar=1e-6).fit(train)
  rows = np.stack([fitted.location_] * 2)
  at_mean = classifiers.ShrunkGDE.score_samples(_unscaled(fitted), rows)[0]
  return at_mean - fitted.score_samples(test)


def _unscaled(fitted):
  """The same density, which leaves its rows as they are."""
  other = copy.copy(fitted)
  other.norm = None
  return other


@each_size
@each_gaussian
def test_a_position_has_the_density_of_its_rows_by_themselves(classifier, n):
  train, test = _features(n)
  got = densities.PositionDensity(classifier).fit(train).score(test)
  wanted = _each_position(
      lambda a, b: _one_class(classifier, a, b), train, test)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


@each_size
def test_a_position_has_the_density_of_scikit_learns_covariance(n):
  train, test = _features(n)

  def distance(a, b):
    fitted = covariance.LedoitWolf().fit(np.float64(a))
    return fitted.mahalanobis(np.float64(b)) / 2

  density = densities.PositionDensity('gde_ledoit_wolf_raw', reg_covar=0.)
  got = density.fit(train).score(test)
  np.testing.assert_allclose(
      got, _each_position(distance, train, test), rtol=1e-6)


@pytest.mark.parametrize('n', [100, 20])
def test_as_many_dimensions_as_an_encoder_has_change_nothing(n):
  rng = np.random.default_rng(n)
  scale = np.geomspace(1e-3, 1, 64)
  train, test = (np.maximum(rng.normal(0.3, scale, (count, 1, 1, 64)), 0)
                 for count in (n, 30))
  for classifier in densities.GAUSSIANS:
    got = densities.PositionDensity(classifier).fit(train).score(test)
    np.testing.assert_allclose(
        got[:, 0, 0], _one_class(classifier, train[:, 0, 0], test[:, 0, 0]),
        rtol=1e-6)


def test_each_position_is_judged_by_its_own_images():
  rng = np.random.default_rng(0)
  train = rng.normal(size=(30, 1, 2, 6)) * 0.1
  train[:, 0, 0, 0] += 5
  train[:, 0, 1, 1] += 5
  test = train[:4, :, ::-1]  # the same windows at each other's positions
  own = densities.PositionDensity().fit(train)
  assert own.score(test).min() > own.score(train).max()
  shared = densities.SharedDensity().fit(train)
  np.testing.assert_allclose(
      shared.score(test), shared.score(train[:4])[:, :, ::-1])


@each_gaussian
def test_equal_training_windows_give_finite_scores(classifier):
  train = np.full((5, 1, 1, 7), 0.3, np.float32)
  test = np.eye(7, dtype=np.float32)[:, None, None]
  density = densities.PositionDensity(classifier).fit(train)
  assert np.isfinite(density.score(test)).all()
  assert density.score(test).min() > density.score(train).max()
  json.dumps(density.parameters(), allow_nan=False)


@pytest.mark.parametrize('classifier, normalised', [
    ('gde_ledoit_wolf', True), ('gde_ridge_raw', False)])
def test_zero_features_and_lengths_are_those_of_the_norm(
    classifier, normalised):
  train, test = _features(12)
  test[0] = 0
  density = densities.PositionDensity(classifier).fit(train)
  score = density.score(test)
  assert np.isfinite(score).all()
  assert np.allclose(density.score(7 * test), score) == normalised


def test_scoring_twice_and_the_features_themselves_are_unchanged():
  train, test = _features(5)
  copies = train.copy(), test.copy()
  density = densities.PositionDensity().fit(train)
  np.testing.assert_array_equal(density.score(test), density.score(test))
  np.testing.assert_array_equal(train, copies[0])
  np.testing.assert_array_equal(test, copies[1])


def test_bands_of_rows_give_the_scores_of_the_grid():
  train, test = _features(12)
  whole = densities.PositionDensity().fit(train).score(test)
  bands = [densities.PositionDensity().fit(train[:, [y]]).score(test[:, [y]])
           for y in range(2)]
  np.testing.assert_array_equal(np.concatenate(bands, axis=1), whole)


def test_threads_of_blas_are_as_before_after_fitting():
  def threads():
    return [each['num_threads'] for each in threadpoolctl.threadpool_info()]
  before = threads()
  train, test = _features(5)
  densities.PositionDensity().fit(train).score(test)
  assert threads() == before


def test_a_single_normal_image_is_one_line():
  with pytest.raises(errors.InputError, match='two normal images'):
    densities.PositionDensity().fit(np.ones((1, 2, 2, 3)))


def test_a_grid_other_than_the_fitted_one_is_an_error():
  train, test = _features(5)
  with pytest.raises(ValueError, match=r'fitted to \(2, 3, 8\)'):
    densities.PositionDensity().fit(train).score(test[:, :1])


@pytest.mark.parametrize('classifier', oneclass.CLASSIFIERS)
def test_a_shared_density_is_the_classifier_of_all_windows(classifier):
  train, test = _features(20)
  got = densities.SharedDensity(classifier).fit(train).score(test)
  wanted = oneclass.anomaly_score(
      oneclass.fit(classifier, train.reshape(-1, 8)), test.reshape(-1, 8))
  assert got.shape == (5, 2, 3) and got.dtype == np.float64
  np.testing.assert_array_equal(got.ravel(), wanted)


def test_a_shared_density_may_be_fitted_to_rows():
  train, test = _features(20)
  rows = densities.SharedDensity().fit(train.reshape(-1, 8))
  np.testing.assert_array_equal(
      rows.score(test), densities.SharedDensity().fit(train).score(test))


def test_the_seed_draws_the_windows_of_a_shared_density():
  rows = np.random.default_rng(0).normal(size=(25_000, 2))
  seen = [densities.create('shared', 'nn', seed).fit(rows).density_.train_
          for seed in (0, 0, 1)]
  assert len(seen[0]) == oneclass.LIMIT
  np.testing.assert_array_equal(seen[0], seen[1])
  assert (seen[0] != seen[2]).any()


def test_create_gives_the_density_of_the_named_positions():
  shared = densities.create('shared', 'kde', seed=3)
  assert isinstance(shared, densities.SharedDensity)
  assert (shared.classifier, shared.seed) == ('kde', 3)
  own = densities.create('each', 'gde_oas')
  assert isinstance(own, densities.PositionDensity)
  assert own.classifier == 'gde_oas'


@pytest.mark.parametrize('positions, classifier, message', [
    ('all', 'gde_oas', "unknown positions 'all'"),
    ('each', 'kde', "each position 'kde'; known: gde_ledoit_wolf, "),
    ('each', 'gde_oaz', "did you mean 'gde_oas'"),
    ('shared', 'gde_oaz', "did you mean 'gde_oas'")])
def test_a_density_that_there_is_not_is_one_line(
    positions, classifier, message):
  with pytest.raises(errors.InputError, match=message):
    densities.create(positions, classifier)


@pytest.mark.parametrize('positions', ['shared', 'each'])
@each_gaussian
def test_parameters_are_json_with_all_that_was_chosen(positions, classifier):
  train, _ = _features(20)
  found = densities.create(positions, classifier).fit(train).parameters()
  assert json.loads(json.dumps(found)) == found
  assert (found['density'], found['positions']) == (classifier, positions)
  assert found['covariance'] in classifier
  assert found['norm'] == (None if classifier.endswith('_raw') else 'l2')
  assert 0 < found['shrinkage'] < 1


def test_the_shrinkage_of_positions_is_their_mean():
  train, _ = _features(20)
  density = densities.PositionDensity('gde_oas_raw').fit(train)
  wanted = [[covariance.oas(np.float64(train[:, y, x]))[1] for x in range(3)]
            for y in range(2)]
  np.testing.assert_allclose(density.shrinkage_, wanted, rtol=1e-6)
  assert density.parameters()['shrinkage'] == pytest.approx(
      np.mean(wanted), rel=1e-5)


def test_noise_where_all_images_are_alike_is_not_infinitely_unusual():
  rng = np.random.default_rng(0)
  train = (0.3 + rng.normal(0, 1e-9, (20, 1, 1, 7))).astype(np.float32)
  test = train[:1] + np.float32([1e-3, *[0] * 6])
  loose = densities.PositionDensity(reg_covar=0.).fit(train).score(test)
  floored = densities.PositionDensity().fit(train).score(test)
  assert loose.max() > 1e4 and floored.max() < 100


def test_the_floor_of_unit_rows_is_that_of_scikit_learns_mixture():
  rng = np.random.default_rng(0)
  train = np.repeat(rng.normal(size=(1, 6)), 20, axis=0)
  train /= np.linalg.norm(train[0])
  test = train[:3] + rng.normal(0, 1e-3, (3, 6))
  mixed = mixture.GaussianMixture().fit(train)
  density = classifiers.ShrunkGDE(norm=None, reg_covar=1e-6).fit(train)
  np.testing.assert_allclose(
      np.diff(density.score_samples(test)), np.diff(mixed.score_samples(test)),
      rtol=1e-5)
