import json

import numpy as np
import pytest
from scipy import stats
from sklearn import covariance, neighbors, svm
from sklearn.utils import estimator_checks

from deep_oc import oneclass

RANDOM = np.random.default_rng(0)
TRAIN = np.maximum(RANDOM.normal(0.3, size=(80, 12)), 0) * 3
TEST = np.maximum(RANDOM.normal(0., size=(50, 12)), 0) * 3


def _unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _score(name, train=TRAIN, test=TEST, **kwargs):
  return oneclass.anomaly_score(oneclass.fit(name, train, **kwargs), test)


def _assert_equal_up_to_a_constant(actual, expected):
  np.testing.assert_allclose(actual - actual.mean(),
                             expected - expected.mean(), atol=1e-9)


def _gamma(x):
  """10 times scikit-learn's gamma='scale'."""
  return 10 / (x.shape[1] * np.square(x - x.mean()).mean())


def test_kde_is_the_published_formula():
  f, g = _unit(TEST), _unit(TRAIN)
  gamma = _gamma(g)
  expected = -np.log(np.exp(2 * gamma * f @ g.T).sum(1)) / gamma
  np.testing.assert_allclose(_score('kde'), expected, rtol=1e-10)


def test_kde_scores_equal_sklearn_up_to_a_constant():
  gamma = _gamma(_unit(TRAIN))
  kde = neighbors.KernelDensity(bandwidth=1 / np.sqrt(2 * gamma))
  expected = -kde.fit(_unit(TRAIN)).score_samples(_unit(TEST)) / gamma
  _assert_equal_up_to_a_constant(_score('kde'), expected)


def test_kde_does_not_overflow_on_collapsed_features():
  collapsed = 1 + 1e-6 * RANDOM.normal(size=(30, 4))
  assert oneclass.fit('kde', collapsed).gamma_ > 1e6
  assert np.isfinite(_score('kde', collapsed, np.eye(4))).all()


def test_gde_is_half_the_squared_mahalanobis_distance_up_to_a_constant():
  f, g = _unit(TEST), _unit(TRAIN)
  covariance = np.cov(g.T, bias=True) + 1e-6 * np.eye(12)
  centred = f - g.mean(0)
  expected = (centred @ np.linalg.inv(covariance) * centred).sum(1) / 2
  _assert_equal_up_to_a_constant(_score('gde'), expected)


# Fewer rows than columns.
FEW = 1 + RANDOM.normal(size=(20, 60)) * np.linspace(0, 1, 60)
WIDE = 1 + RANDOM.normal(size=(9, 60))

_SHRUNK = ['gde_ledoit_wolf', 'gde_oas', 'gde_ridge']
shrunk = pytest.mark.parametrize('name', _SHRUNK)


@pytest.mark.parametrize('rows', [20, 2, 200])
@pytest.mark.parametrize('suffix', ['', '_raw'])
@pytest.mark.parametrize('name, estimator, scale', [
    ('gde_ledoit_wolf', covariance.LedoitWolf(), 1),
    ('gde_oas', covariance.OAS(), 1),
    # S + 0.01 m I is 1.01 times what keeps the trace of S.
    ('gde_ridge', covariance.ShrunkCovariance(shrinkage=0.01 / 1.01), 1.01)])
def test_shrunk_gde_is_sklearns_mahalanobis_distance_up_to_a_constant(
    rows, suffix, name, estimator, scale):
  random = np.random.default_rng(rows)
  train, test = 1 + random.exponential(size=(rows, 60)), WIDE
  actual = _score(name + suffix, train, test)
  if not suffix:
    train, test = _unit(train), _unit(test)
  expected = estimator.fit(train).mahalanobis(test) / 2 / scale
  if rows > 2 or name != 'gde_ledoit_wolf':  # whose shrinkage is 0 there
    np.testing.assert_allclose(actual - actual.mean(),
                               expected - expected.mean(), rtol=1e-5)
  assert np.isfinite(actual).all()


@shrunk
def test_shrunk_gde_is_the_log_density(name):
  fitted = oneclass.fit(name, FEW)
  density = stats.multivariate_normal(fitted.location_, fitted.covariance_)
  np.testing.assert_allclose(fitted.score_samples(WIDE),
                             density.logpdf(_unit(WIDE)), rtol=1e-6)


def test_a_ridge_of_a_millionth_in_all_is_gde():
  ridge = 1e-6 / _unit(FEW).var(axis=0).mean()
  fitted = oneclass.ShrunkGDE('ridge', ridge=ridge).fit(FEW)
  np.testing.assert_allclose(fitted.score_samples(WIDE),
                             oneclass.GDE().fit(FEW).score_samples(WIDE),
                             rtol=1e-4)


@shrunk
def test_the_scale_of_raw_features_changes_no_shrunk_gde(name):
  expected = _score(name + '_raw', FEW, WIDE)
  for scale in (1e-3, 1e3):
    _assert_equal_up_to_a_constant(
        _score(name + '_raw', scale * FEW, scale * WIDE), expected)


@shrunk
@pytest.mark.parametrize('suffix', ['', '_raw'])
def test_shrunk_gde_is_finite_on_rows_that_are_all_one(name, suffix):
  assert np.isfinite(_score(name + suffix, np.full((5, 60), 0.3), WIDE)).all()


def test_the_choice_of_covariance_is_recorded():
  found = {name: oneclass.parameters(oneclass.fit(name, FEW))
           for name in _SHRUNK}
  assert found['gde_oas'] == {
      'covariance': 'oas', 'norm': 'l2', 'reg_covar': 0., 'n_limit': 20_000,
      'shrinkage': pytest.approx(covariance.oas(_unit(FEW))[1], rel=1e-5)}
  assert found['gde_ledoit_wolf']['shrinkage'] == pytest.approx(
      covariance.ledoit_wolf_shrinkage(_unit(FEW)), rel=1e-5)
  assert found['gde_ridge']['ridge'] == 0.01


def test_nn_is_one_less_the_highest_cosine():
  expected = [1 - max(a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                      for b in TRAIN) for a in TEST]
  np.testing.assert_allclose(_score('nn'), expected, atol=1e-12)


@pytest.mark.parametrize('rows', [80, 10])
def test_rbf_svm_scores_equal_sklearns(rows, monkeypatch):
  """With the kernel matrix given, and with libsvm's own kernel."""
  monkeypatch.setattr(oneclass, '_GRAM_ROWS', rows)
  reference = svm.OneClassSVM(gamma=_gamma(_unit(TRAIN)), nu=0.5)
  reference.fit(_unit(TRAIN))
  np.testing.assert_allclose(
      _score('ocsvm_rbf'), -reference.score_samples(_unit(TEST)), rtol=1e-6)


@pytest.mark.parametrize('rows', [80, 10])
def test_linear_svm_scores_equal_sklearns_without_normalisation(
    rows, monkeypatch):
  monkeypatch.setattr(oneclass, '_GRAM_ROWS', rows)
  reference = svm.OneClassSVM(kernel='linear', nu=0.5).fit(TRAIN)
  expected = -reference.score_samples(TEST)
  np.testing.assert_allclose(_score('ocsvm_linear'), expected, rtol=1e-6)
  other = svm.OneClassSVM(kernel='linear', nu=0.5).fit(_unit(TRAIN))
  assert not np.allclose(expected, -other.score_samples(_unit(TEST)))


@pytest.mark.parametrize('name', ['ocsvm_rbf', 'kde', 'gde', 'nn', *_SHRUNK])
def test_all_but_the_linear_svm_and_raw_ones_ignore_a_features_length(name):
  np.testing.assert_allclose(_score(name, 7 * TRAIN, 0.1 * TEST), _score(name),
                             atol=1e-8)


@pytest.mark.parametrize('shift', [0., 0.5, 3.])
def test_gamma_of_unit_rows_is_at_least_ten(shift):
  x = _unit(RANDOM.normal(shift, size=(200, 30)))
  assert oneclass.gamma(x) == pytest.approx(10 / (1 - 30 * x.mean() ** 2))
  assert oneclass.gamma(x) >= 10


def test_gamma_of_equal_values_is_finite():
  assert oneclass.gamma(np.full((5, 4), 0.5)) == 1


@pytest.mark.filterwarnings('ignore::sklearn.exceptions.SkipTestWarning')
@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_every_classifier_is_a_scikit_learn_estimator(name):
  estimator_checks.check_estimator(oneclass.CLASSIFIERS[name]())


@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_anomalies_score_above_normals(name):
  centre = np.full(12, 3.)
  train, normal = (centre + RANDOM.normal(size=(n, 12)) for n in (100, 50))
  anomaly = centre * np.linspace(0, 0.5, 12) + RANDOM.normal(size=(50, 12))
  classifier = oneclass.fit(name, train)
  assert (oneclass.anomaly_score(classifier, anomaly).mean() >
          oneclass.anomaly_score(classifier, normal).mean())


@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_chunks_do_not_change_scores(name, monkeypatch):
  whole = _score(name)
  monkeypatch.setattr(oneclass, '_CHUNK', 7)
  np.testing.assert_allclose(_score(name), whole, atol=1e-10)


@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_parameters_are_json_with_the_normalisation(name):
  parameters = oneclass.parameters(oneclass.fit(name, TRAIN))
  assert json.loads(json.dumps(parameters)) == parameters
  assert parameters['norm'] == (
      None if name == 'ocsvm_linear' or name.endswith('_raw') else 'l2')
  if name in ('ocsvm_rbf', 'kde'):
    assert parameters['gamma'] == pytest.approx(_gamma(_unit(TRAIN)), rel=1e-5)
  else:
    assert 'gamma' not in parameters and 'gamma_scale' not in parameters


def test_more_rows_than_the_limit_are_thinned_by_the_seed():
  def fitted(seed):
    return oneclass.fit('nn', TRAIN, seed, limit=20).train_.round(9)
  assert len(fitted(0)) == 20
  known = {tuple(row) for row in _unit(TRAIN).round(9)}
  assert {tuple(row) for row in fitted(0)} < known
  np.testing.assert_array_equal(fitted(0), fitted(0))
  assert (fitted(0) != fitted(1)).any()


def test_the_limit_is_20000_rows():
  many = RANDOM.normal(size=(20_001, 2))
  assert len(oneclass.fit('nn', many).train_) == 20_000
  assert len(oneclass.fit('nn', many[:-1]).train_) == 20_000


def test_bytes_are_fractions_of_255():
  train, test = (RANDOM.integers(0, 256, (n, 12), np.uint8) for n in (30, 9))
  np.testing.assert_allclose(_score('ocsvm_linear', train, test),
                             _score('ocsvm_linear', train / 255, test / 255))
