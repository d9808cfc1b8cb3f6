import json
import sys
import types

import numpy as np
import pytest
import threadpoolctl
from scipy import optimize, special, stats
from sklearn import base, covariance, ensemble, neighbors, svm
from sklearn.utils import estimator_checks

from deep_oc import classifiers, oneclass
from deep_oc.errors import InputError

RANDOM = np.random.default_rng(0)
TRAIN = np.maximum(RANDOM.normal(0.3, size=(80, 12)), 0) * 3
TEST = np.maximum(RANDOM.normal(0., size=(50, 12)), 0) * 3


@pytest.fixture(autouse=True, scope='module')
def one_thread():
  """On so few rows, threads on busy cores mostly wait for each other."""
  with threadpoolctl.threadpool_limits(1):
    yield


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
  fitted = classifiers.ShrunkGDE('ridge', ridge=ridge).fit(FEW)
  np.testing.assert_allclose(fitted.score_samples(WIDE),
                             classifiers.GDE().fit(FEW).score_samples(WIDE),
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


@shrunk
@pytest.mark.parametrize('suffix', ['', '_raw'])
def test_rows_that_are_all_one_score_the_same_however_many_they_are(
    name, suffix):
  few, more = (_score(name + suffix, np.repeat(WIDE[:1], n, axis=0), WIDE)
               for n in (2, 5))
  np.testing.assert_allclose(more, few)


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
  monkeypatch.setattr(classifiers, '_GRAM_ROWS', rows)
  reference = svm.OneClassSVM(gamma=_gamma(_unit(TRAIN)), nu=0.5)
  reference.fit(_unit(TRAIN))
  np.testing.assert_allclose(
      _score('ocsvm_rbf'), -reference.score_samples(_unit(TEST)), rtol=1e-6)


@pytest.mark.parametrize('rows', [80, 10])
def test_linear_svm_scores_equal_sklearns_without_normalisation(
    rows, monkeypatch):
  monkeypatch.setattr(classifiers, '_GRAM_ROWS', rows)
  reference = svm.OneClassSVM(kernel='linear', nu=0.5).fit(TRAIN)
  expected = -reference.score_samples(TEST)
  np.testing.assert_allclose(_score('ocsvm_linear'), expected, rtol=1e-6)
  other = svm.OneClassSVM(kernel='linear', nu=0.5).fit(_unit(TRAIN))
  assert not np.allclose(expected, -other.score_samples(_unit(TEST)))


@pytest.mark.parametrize('rows', [500, 10])
@pytest.mark.parametrize('scale', [1e-9, 30., 1e30])
def test_the_scale_of_rows_around_0_changes_no_linear_svm(
    scale, rows, monkeypatch):
  monkeypatch.setattr(classifiers, '_GRAM_ROWS', rows)
  X = np.random.default_rng(0).normal(size=(500, 16))
  found = oneclass.fit('ocsvm_linear', scale * X)
  expected = svm.OneClassSVM(kernel='linear', tol=1e-5).fit(X)
  alpha = np.zeros(500)
  alpha[expected.support_] = expected.dual_coef_[0]
  weight = found.dual_coef_ @ found.support_vectors_ / scale
  np.testing.assert_allclose(weight, alpha @ X, atol=0.01)


# Three clusters of 40 rows, and rows between them.
LABEL = np.repeat(np.arange(3), 40)
CLUSTERED = 5 * np.eye(3, 6)[LABEL] + RANDOM.normal(size=(120, 6)) / 3
BETWEEN = RANDOM.normal(size=(30, 6))


def test_svdd_is_the_ball_that_a_quadratic_program_finds():
  """Minimise a'Ka - sum_i a_i K_ii over sum(a) = 1, 0 <= a <= 1 / (nu n)."""
  f, g, n = _unit(TEST), _unit(TRAIN[:30]), 30

  def kernel(x, y):
    square = np.square(x[:, None] - y[None]).sum(axis=2)
    return np.exp(-_gamma(g) / 10 * square)
  K = kernel(g, g)
  found = optimize.minimize(
      lambda a: a @ K @ a - a @ K.diagonal(), np.full(n, 1 / n),
      jac=lambda a: 2 * K @ a - K.diagonal(), method='SLSQP',
      bounds=[(0, 1 / (0.3 * n))] * n, options={'ftol': 1e-13, 'maxiter': 999},
      constraints={'type': 'eq', 'fun': lambda a: a.sum() - 1})
  assert found.success
  expected = 1 - 2 * kernel(f, g) @ found.x + found.x @ K @ found.x
  np.testing.assert_allclose(_score('svdd(nu=0.3,gamma_scale=1)', TRAIN[:30]),
                             expected, atol=1e-3)
  assert expected.max() - expected.min() > 0.2


@pytest.mark.parametrize('chunk', [1024, 7])
def test_svdd_orders_rows_as_the_one_class_svm(chunk, monkeypatch):
  for module in (classifiers, oneclass):
    monkeypatch.setattr(module, '_CHUNK', chunk)
  ball, plane = _score('svdd'), _score('ocsvm_rbf')
  assert np.corrcoef(ball, plane)[0, 1] == pytest.approx(1, abs=1e-12)
  assert (ball > 0).all() and (np.argsort(ball) == np.argsort(plane)).all()


def test_a_linear_svdd_would_not_be_the_linear_one_class_svm():
  """Of rows that differ in length; why SVDD has the RBF kernel only."""
  K, n = TRAIN[:30] @ TRAIN[:30].T, 30
  start = {'x0': np.full(n, 1 / n), 'method': 'SLSQP',
           'bounds': [(0, 2 / n)] * n,
           'constraints': {'type': 'eq', 'fun': lambda a: a.sum() - 1}}
  ball = optimize.minimize(lambda a: a @ K @ a - a @ K.diagonal(), **start).x
  plane = optimize.minimize(lambda a: a @ K @ a, **start).x
  assert np.abs(ball - plane).max() > 0.01


def test_gmm_is_the_log_density_of_a_mixture_of_normals():
  """Of clusters far apart, whose rows are known."""
  x, z = _unit(CLUSTERED), _unit(BETWEEN)
  floor = (0.01 * x.var(axis=0).mean() + 1e-9 * np.square(x).mean()) * np.eye(6)
  logs = [stats.multivariate_normal(
      x[k == LABEL].mean(axis=0),
      np.cov(x[k == LABEL].T, bias=True) + floor).logpdf(z) for k in range(3)]
  expected = -special.logsumexp(logs, axis=0) + np.log(3)
  np.testing.assert_allclose(_score('gmm(k=3)', CLUSTERED, BETWEEN), expected,
                             rtol=1e-5)


def _mahalanobis(x, z, labels, rcond=1e-15):
  """SSD's squared distance, from its definition."""
  x, z = _unit(x), _unit(z)
  mean, sd = x.mean(axis=0), x.std(axis=0)
  x, z = (x - mean) / sd, (z - mean) / sd
  distances = []
  for label in np.unique(labels):
    rows = x[labels == label]
    inverse = np.linalg.pinv(np.cov(rows.T, bias=True), rcond)
    centred = z - rows.mean(axis=0)
    distances.append([row @ inverse @ row for row in centred])
  return np.min(distances, axis=0)


@pytest.mark.parametrize('spec, labels', [
    ('mahalanobis', np.zeros(120)), ('mahalanobis(k=3)', LABEL)])
def test_mahalanobis_is_the_distance_to_the_nearest_cluster(spec, labels):
  np.testing.assert_allclose(
      _score(spec, CLUSTERED, BETWEEN),
      _mahalanobis(CLUSTERED, BETWEEN, labels), rtol=1e-6)


def test_mahalanobis_of_few_rows_has_the_pseudo_inverse():
  np.testing.assert_allclose(
      _score('mahalanobis', FEW[:, 1:], WIDE[:, 1:]),
      _mahalanobis(FEW[:, 1:], WIDE[:, 1:], np.zeros(20), 1e-12), rtol=1e-6)


def test_a_cluster_of_few_rows_has_the_covariance_within_all():
  """Of its own, all else would be near in most directions."""
  x = _unit(CLUSTERED[:44])
  mean, sd = x.mean(axis=0), x.std(axis=0)
  x, z = (x - mean) / sd, (_unit(BETWEEN) - mean) / sd
  large, small = x[:40].mean(axis=0), x[40:].mean(axis=0)
  within = np.cov(np.r_[x[:40] - large, x[40:] - small].T, bias=True)

  def distance(rows, covariance):
    return (rows @ np.linalg.inv(covariance) * rows).sum(axis=1)
  expected = np.minimum(distance(z - large, np.cov(x[:40].T, bias=True)),
                        distance(z - small, within))
  np.testing.assert_allclose(
      _score('mahalanobis(k=2)', CLUSTERED[:44], BETWEEN), expected, rtol=1e-6)


@pytest.mark.parametrize('k', [1, 4, 200])
@pytest.mark.parametrize('name, metric', [
    ('knn', lambda a, b: np.sqrt(((a - b) ** 2).sum())),
    ('knn_cosine', lambda a, b: 1 - (a @ b) / np.sqrt((a @ a) * (b @ b)))])
def test_knn_is_the_distance_to_the_nearest_rows(name, metric, k):
  near = np.sort([[metric(a, b) for b in TRAIN] for a in TEST])[:, :k]
  np.testing.assert_allclose(_score(f'{name}(k={k})'), near.mean(axis=1),
                             atol=1e-7)
  np.testing.assert_allclose(_score(f"{name}(k={k},distance='kth')"),
                             near[:, -1], atol=1e-7)


def test_lof_is_sklearns():
  reference = neighbors.LocalOutlierFactor(n_neighbors=20, novelty=True)
  expected = -reference.fit(_unit(TRAIN)).score_samples(_unit(TEST))
  np.testing.assert_allclose(_score('lof'), expected)
  assert np.median(expected) > 0.9  # a factor, not its negative


def test_isolation_forest_is_sklearns_with_the_seed():
  reference = ensemble.IsolationForest(random_state=3).fit(_unit(TRAIN))
  expected = -reference.score_samples(_unit(TEST))
  np.testing.assert_allclose(_score('isolation_forest', seed=3), expected)
  assert (_score('isolation_forest', seed=4) != expected).any()
  np.testing.assert_allclose(
      _score('isolation_forest(random_state=3)', seed=4), expected)


@pytest.mark.parametrize('train, test', [(TRAIN, TEST), (FEW, WIDE)])
def test_pca_is_the_error_of_reconstruction_with_95_percent_variance(
    train, test):
  x, z = _unit(train), _unit(test)
  mean = x.mean(axis=0)
  _, s, axes = np.linalg.svd(x - mean)
  share = np.cumsum(s ** 2) / np.sum(s ** 2)
  axes = axes[:np.flatnonzero(share > 0.95)[0] + 1]
  error = (z - mean) - (z - mean) @ axes.T @ axes
  np.testing.assert_allclose(_score('pca', train, test),
                             (error ** 2).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize('name', [
    'ocsvm_rbf', 'kde', 'gde', 'nn', 'svdd', 'gmm', 'mahalanobis', 'knn_cosine',
    'lof', 'pca', *_SHRUNK])
def test_all_but_the_linear_svm_knn_and_raw_ones_ignore_a_features_length(name):
  np.testing.assert_allclose(_score(name, 7 * TRAIN, 0.1 * TEST), _score(name),
                             atol=1e-8)


@pytest.mark.parametrize('shift', [0., 0.5, 3.])
def test_gamma_of_unit_rows_is_at_least_ten(shift):
  x = _unit(RANDOM.normal(shift, size=(200, 30)))
  assert classifiers.gamma(x) == pytest.approx(10 / (1 - 30 * x.mean() ** 2))
  assert classifiers.gamma(x) >= 10


def test_gamma_of_equal_values_is_finite():
  assert classifiers.gamma(np.full((5, 4), 0.5)) == 1


_OTHERS = ('mahalanobis(k=3)', "knn(distance='kth')",
           "gmm(covariance_type='tied')", 'isolation_forest(n_estimators=5)')


@estimator_checks.parametrize_with_checks([
    oneclass.create(spec) for spec in (*oneclass.CLASSIFIERS, *_OTHERS)
    if spec != 'isolation_forest'])  # its 100 trees take too long
def test_every_classifier_is_a_scikit_learn_estimator(estimator, check):
  check(estimator)


@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_anomalies_score_above_normals(name):
  centre = np.full(12, 3.)
  train, normal = (centre + RANDOM.normal(size=(n, 12)) for n in (100, 50))
  anomaly = centre * np.linspace(0, 0.5, 12) + RANDOM.normal(size=(50, 12))
  classifier = oneclass.fit(name, train)
  assert (oneclass.anomaly_score(classifier, anomaly).mean() >
          oneclass.anomaly_score(classifier, normal).mean())


@pytest.mark.parametrize('name', oneclass.CLASSIFIERS)
def test_a_planted_outlier_scores_highest(name):
  random = np.random.default_rng(1)
  train, test = 3 + random.normal(size=(2, 200, 12)) / 2
  test[7] = np.tile([4, -4], 6)
  assert np.argmax(_score(name, train, test)) == 7


_ODD = {
    'fewer rows than columns': FEW,
    'two rows': FEW[:2],
    'rows that are thrice there': np.repeat(FEW[:7], 3, axis=0),
    'rows that are all one': np.full((9, 60), 0.3),
    'no features': np.zeros((9, 60)),
    'constant features': np.where(np.arange(60) % 2, 2., FEW)}


@pytest.mark.filterwarnings('ignore:Duplicate values:UserWarning')
@pytest.mark.filterwarnings('ignore::sklearn.exceptions.ConvergenceWarning')
@pytest.mark.parametrize('case', _ODD)
@pytest.mark.parametrize('name', [*oneclass.CLASSIFIERS, *_OTHERS])
def test_scores_are_finite_on_odd_rows(name, case):
  assert np.isfinite(_score(name, _ODD[case], np.r_[_ODD[case], WIDE])).all()


@pytest.mark.parametrize('name', [*oneclass.CLASSIFIERS, *_OTHERS])
def test_a_seed_gives_the_same_scores_again(name):
  np.testing.assert_array_equal(_score(name, CLUSTERED, BETWEEN, seed=5),
                                _score(name, CLUSTERED, BETWEEN, seed=5))


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
      None if name in ('ocsvm_linear', 'knn', 'knn_cosine')
      or name.endswith('_raw') else 'l2')
  if name in ('ocsvm_rbf', 'kde', 'svdd'):
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


@pytest.mark.parametrize('text, expected', [
    ('', []),
    ('nn', ['nn']),
    (' nn, kde ,nn,', ['nn', 'kde']),
    ('nn,kde( gamma_scale = 5 ),gde',
     ['nn', 'kde(gamma_scale=5)', 'gde']),
    ('kde(gamma_scale=1|3e0 | 10)', ['kde(gamma_scale=1)',
                                     'kde(gamma_scale=3e0)',
                                     'kde(gamma_scale=10)']),
    ("gmm(k=1|2,norm='l2'|None)",
     ["gmm(k=1,norm='l2')", 'gmm(k=1,norm=None)',
      "gmm(k=2,norm='l2')", 'gmm(k=2,norm=None)']),
    ("knn(metric='no such one, or |')", ["knn(metric='no such one, or |')"]),
    ('sklearn.decomposition.PCA(n_components=1|2)',
     ['sklearn.decomposition.PCA(n_components=1)',
      'sklearn.decomposition.PCA(n_components=2)'])])
def test_lists_of_specs_are_split_and_sweeps_written_out(text, expected):
  assert oneclass.specs(text) == expected


@pytest.mark.parametrize('spec, message', [
    ('kdee', "unknown classifier 'kdee'; did you mean 'kde'"),
    ('kde(gama_scale=1)',
     "parameter of kde 'gama_scale'; did you mean 'gamma_scale'"),
    ('nn(k=3)', "unknown parameter 'k'; nn has none"),
    ('kde(3)', 'needs its name'),
    ('kde(**{})', 'needs its name'),
    ('kde(gamma_scale=1,gamma_scale=2)', 'needs its name, once'),
    ('kde(gamma_scale=1', 'cannot read the classifiers'),
    ('nn],[nn', 'cannot read the classifiers'),
    ('knn(metric=cosine)', 'metric=cosine of knn is no literal; text needs'),
    ('kde(gamma_scale=exit(9))', r'gamma_scale=exit\(9\) of kde is no literal'),
    ('no.such_module.Class', r"cannot import 'no.such_module' \(No module"),
    ('sklearn.ensemble.IsolationForst', "did you mean 'IsolationForest'"),
    ('sklearn.ensemble.IsolationForest(n_estimator=5)',
     "did you mean 'n_estimators'"),
    ('sklearn.ensemble', "unknown class of sklearn 'ensemble'"),
    ('sklearn.svm.SVC', 'SVC needs y to be fitted'),
    ('sklearn.model_selection.GridSearchCV', "missing .* 'estimator'"),
    ('sklearn.neighbors.LocalOutlierFactor', 'no `score_samples` for new rows'),
    ('sklearn.cluster.KMeans', 'no `score_samples`'),
    ('pathlib.Path', 'no method `fit`'),
    ('builtins.dict', 'no method `fit`')])
def test_a_spec_that_cannot_be_is_one_line(spec, message):
  with pytest.raises(InputError, match=message) as caught:
    oneclass.specs(spec)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('spec', ['', 'nn,kde', 'kde(gamma_scale=1|3)'])
def test_one_classifier_is_one_spec(spec):
  with pytest.raises(InputError):
    oneclass.create(spec)


@pytest.mark.parametrize('spec', [
    'knn(k=0)', "knn(distance='far')", "knn(metric='far')", 'ocsvm_rbf(nu=2)',
    "ocsvm_rbf(kernel='poly')", 'kde(gamma_scale=-1)', "gmm(k='all')",
    "gde_oas(covariance='full')", 'pca(n_components=99)', "lof(norm='l7')",
    'sklearn.decomposition.PCA(n_components=99)'])
def test_a_value_that_cannot_be_is_named_with_its_spec(spec):
  with pytest.raises(InputError, match='cannot fit ') as caught:
    oneclass.fit(spec, TRAIN)
  assert spec in str(caught.value)


def test_parameters_of_a_spec_reach_the_classifier():
  np.testing.assert_array_equal(_score('ocsvm_rbf(kernel="linear",norm=None)'),
                                _score('ocsvm_linear'))
  fitted = oneclass.fit('kde(gamma_scale=5)', TRAIN)
  assert fitted.gamma_ == pytest.approx(_gamma(_unit(TRAIN)) / 2)
  assert oneclass.parameters(fitted)['gamma_scale'] == 5


@pytest.mark.parametrize('spec', [
    'sklearn.ensemble.IsolationForest(n_estimators=9)',
    'sklearn.svm.OneClassSVM', 'sklearn.covariance.EllipticEnvelope',
    'sklearn.neighbors.LocalOutlierFactor(novelty=True)',
    'sklearn.mixture.BayesianGaussianMixture(n_components=2)'])
def test_scikit_learns_classes_score_by_their_paths(spec):
  fitted = oneclass.fit(spec, TRAIN, seed=3)
  scores = oneclass.anomaly_score(fitted, np.r_[TEST, [[99] * 12]])
  np.testing.assert_allclose(-scores[:-1], fitted.score_samples(TEST))
  assert np.argmax(scores) == len(TEST)
  parameters = oneclass.parameters(fitted)
  assert json.loads(json.dumps(parameters)) == parameters
  assert parameters.get('random_state', 3) == 3


class _Far:
  """Its decision function is the distance from the training mean."""

  def fit(self, X, y=None):
    self.mean = X.mean(axis=0)

  def decision_function(self, X):
    self.seen = len(X)
    return np.linalg.norm(X - self.mean, axis=1)


class _Near(_Far, base.BaseEstimator):

  def decision_function(self, X):
    return -super().decision_function(X)


class _Density(_Far):
  decision_function = None

  def score_samples(self, X):
    return -np.linalg.norm(X - self.mean, axis=1)


@pytest.fixture
def other(monkeypatch):
  """Puts a class into a module, as if it had been written there."""
  def add(module, kind):
    kind = type('Other', (kind,), {'__module__': module})
    made = types.ModuleType(module)
    made.Other = kind
    monkeypatch.setitem(sys.modules, module, made)
    return f'{module}.Other'
  return add


@pytest.mark.parametrize('module, kind', [
    ('pyod.models.other', _Far), ('mine', _Near), ('mine', _Density)])
def test_each_librarys_sign_is_resolved(module, kind, other):
  expected = np.linalg.norm(TEST - TRAIN.mean(axis=0), axis=1)
  np.testing.assert_allclose(_score(other(module, kind)), expected)


def test_a_subclass_of_pyods_has_its_sign(other):
  other('pyod.models.other', _Far)
  path = other('mine', sys.modules['pyod.models.other'].Other)
  np.testing.assert_allclose(_score(path),
                             np.linalg.norm(TEST - TRAIN.mean(axis=0), axis=1))


def test_pyods_classes_see_all_rows_at_once(other, monkeypatch):
  monkeypatch.setattr(oneclass, '_CHUNK', 7)
  fitted = oneclass.fit(other('pyod.models.other', _Far), TRAIN)
  oneclass.anomaly_score(fitted, TEST)
  assert fitted.seen == len(TEST)
  assert oneclass.parameters(fitted) == {'n_limit': 20_000}


def test_a_decision_function_of_unknown_sign_is_an_error(other):
  with pytest.raises(InputError, match='mine.Other as given has no'):
    oneclass.create(other('mine', _Far))


def test_a_score_that_is_no_number_is_an_error():
  with pytest.raises(InputError, match='KernelDensity .* 50 finite'):
    _score("sklearn.neighbors.KernelDensity(kernel='tophat',bandwidth=0.01)")


def test_pyods_own_classes_score_an_outlier_highest():
  pytest.importorskip('pyod')
  test = np.r_[TEST, [[99] * 12]]
  for spec in ('pyod.models.ecod.ECOD', 'pyod.models.knn.KNN(n_neighbors=3)'):
    assert np.argmax(_score(spec, TRAIN, test)) == len(TEST)


@pytest.mark.parametrize('task, n, wanted', [
    ('dacl', 10, 'kde'), ('dacl', 9, 'gde_ledoit_wolf'), ('', 10, 'kde'),
    ('cutpaste_3way', 10, 'gde_ledoit_wolf'),
    ('cutpaste_3way', 9, 'gde_ledoit_wolf')])
def test_a_gaussian_is_recommended_for_cutpaste_and_for_few_images(
    task, n, wanted):
  assert oneclass.recommended(task, n, 10) == wanted
