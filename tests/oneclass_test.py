import json

import numpy as np
import pytest
from sklearn import neighbors, svm
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


@pytest.mark.parametrize('name', ['ocsvm_rbf', 'kde', 'gde', 'nn'])
def test_all_but_the_linear_svm_ignore_the_length_of_a_feature(name):
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
  assert parameters['norm'] == (None if name == 'ocsvm_linear' else 'l2')
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
