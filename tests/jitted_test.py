"""Jitted scores are scikit-learn's, whatever the rows are like."""
import csv
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn import (
    covariance,
    metrics,
    mixture,
    neighbors,
    preprocessing,
    svm,
)

from deep_oc import classifiers, jitted, oneclass
from tests import conftest

N, FEW, D = 120, 20, 24  # rows to train, where they are few; columns
ANOMALY = np.arange(64) >= 32


def _rows(rows, seed=0):
  """Returns f64[rows, D] to train and f64[64, D] to test, as a ReLU's."""
  random = np.random.default_rng(seed)
  mix = random.normal(size=(8, D))

  def draw(n, shift):
    inner = random.normal(size=(n, 8)) + shift
    return np.maximum(
        inner @ mix + random.normal(0.5, 0.2, size=(n, D)), 0)
  return draw(rows, 0), np.concatenate([draw(32, 0), draw(32, 0.8)])


def _twice(train, test):
  """Of each row there are two; half of the normal rows were fitted."""
  test = test.copy()
  test[:16] = train[:16]
  return np.tile(train[:N // 2], (2, 1)), test


CASES = {
    'features': _rows(N),
    # Cosines of 0.999, the centre along no axis and not along the diagonal.
    'a narrow cone': [5 * np.linspace(1, 3, D) + each / 5
                      for each in _rows(N)],
    'few rows': _rows(FEW),
    'rows twice': _twice(*_rows(N)),
    'long rows of float32': [np.float32(1e3 * each) for each in _rows(N)]}


@pytest.fixture(autouse=True)
def same_solver(monkeypatch):
  """SVMs are solved as scikit-learn's are, not from the kernel matrix."""
  monkeypatch.setattr(classifiers, '_GRAM_ROWS', 0)


def _unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _gamma(x):
  return 10 / (D * x.var())


def _kde(train, test):
  """Scaled by gamma, without the normaliser of the kernel and the rows."""
  f, g = _unit(test), _unit(train)
  gamma = _gamma(g)
  log = neighbors.KernelDensity(bandwidth=1 / np.sqrt(2 * gamma)).fit(
      g).score_samples(f)
  return -(log + np.log(len(g)) + D / 2 * np.log(np.pi / gamma)) / gamma - 2


def _gde(train, test):
  return -mixture.GaussianMixture(random_state=0).fit(
      _unit(train)).score_samples(_unit(test))


def _gmm(train, test):
  x = _unit(train)
  floor = 0.01 * x.var(axis=0).mean() + 1e-9 * np.square(x).mean()
  return -mixture.GaussianMixture(3, reg_covar=floor, random_state=0).fit(
      x).score_samples(_unit(test))


def _shrunk(train, test):
  found = covariance.OAS().fit(train)
  constant = np.linalg.slogdet(2 * np.pi * found.covariance_)[1] / 2
  return found.mahalanobis(test) / 2 + constant


def _mahalanobis(train, test):
  scaler = preprocessing.StandardScaler().fit(_unit(train))
  found = covariance.EmpiricalCovariance().fit(scaler.transform(_unit(train)))
  return found.mahalanobis(scaler.transform(_unit(test)))


def _knn(train, test):
  """By a tree: the brute way has an error of 1e-8 where rows are one."""
  found = neighbors.NearestNeighbors(algorithm='ball_tree').fit(train)
  return found.kneighbors(test)[0].mean(axis=1)


def _knn_cosine(train, test, k=4):
  found = neighbors.NearestNeighbors(n_neighbors=k, metric='cosine').fit(train)
  return found.kneighbors(test)[0][:, -1]


def _nn(train, test):
  return _knn_cosine(train, test, 1)


def _ocsvm_rbf(train, test):
  g = _unit(train)
  return -svm.OneClassSVM(gamma=_gamma(g)).fit(g).score_samples(_unit(test))


def _ocsvm_linear(train, test):
  return -svm.OneClassSVM(kernel='linear').fit(train).score_samples(test)


def _svdd(train, test):
  g = _unit(train)
  found = svm.OneClassSVM(gamma=_gamma(g)).fit(g)
  scale, y = found.dual_coef_.sum(), found.support_vectors_
  centre = found.dual_coef_[0] @ found.score_samples(y) / scale ** 2
  return 1 - 2 * found.score_samples(_unit(test)) / scale + centre


REFERENCES = {
    'kde': _kde, 'gde': _gde, 'gmm(k=3)': _gmm, 'gde_oas_raw': _shrunk,
    'mahalanobis': _mahalanobis, 'knn': _knn,
    "knn_cosine(k=4,distance='kth')": _knn_cosine, 'nn': _nn,
    'ocsvm_rbf': _ocsvm_rbf, 'ocsvm_linear': _ocsvm_linear, 'svdd': _svdd}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('spec', REFERENCES)
def test_jitted_scores_are_scikit_learns(spec, case):
  if spec == 'mahalanobis' and case == 'few rows':
    pytest.skip('scikit-learn inverts what is 0 but for rounding')
  train, test = CASES[case]
  fitted = oneclass.fit(spec, train)
  scores = oneclass.anomaly_score(fitted, test, jit=True)
  expected = REFERENCES[spec](np.float64(train), np.float64(test))
  np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-14)
  # Where the rows lie close together a constant may be most of a score.
  assert np.abs(scores - expected).max() < 1e-4 * expected.std()
  assert metrics.roc_auc_score(ANOMALY, scores) == pytest.approx(
      metrics.roc_auc_score(ANOMALY, expected), abs=1e-6)


@pytest.mark.parametrize('spec', ['mahalanobis', 'mahalanobis(k=3)'])
def test_pseudo_inverses_and_clusters_are_those_of_numpy(spec):
  train, test = CASES['few rows']
  fitted = oneclass.fit(spec, train)
  np.testing.assert_allclose(oneclass.anomaly_score(fitted, test, jit=True),
                             -fitted.score_samples(test), rtol=1e-9)


def test_chunks_change_no_jitted_score(monkeypatch):
  train, test = CASES['features']
  fitted = oneclass.fit('kde', train)
  whole = oneclass.anomaly_score(fitted, test[:61], jit=True)
  monkeypatch.setattr(jitted, '_BYTES', 16 * 8 * N)
  np.testing.assert_allclose(
      oneclass.anomaly_score(fitted, test[:61], jit=True), whole, rtol=1e-6)
  assert jitted._rows_at_once(N, D) == 32


@pytest.mark.parametrize('columns', [8, 512, 4096])
@pytest.mark.parametrize('rows', [1, 5_000, 50_000, 10 ** 6])
def test_a_chunk_is_of_bounded_size(rows, columns):
  at_once = jitted._rows_at_once(rows, columns)
  assert 4 * at_once * rows <= 2 ** 26 and 8 * at_once * columns <= 2 ** 26


def test_spare_candidates_restore_an_order_that_float32_cannot_see():
  """Five rows at distances of 5e-9 to 1e-9, and one far away."""
  train = np.zeros((6, D))
  train[:5, 0] = 1 + 1e-9 * np.arange(5, 0, -1)
  train[5] = 5
  fitted = oneclass.fit('knn(k=1)', train)
  test = np.eye(1, D)
  assert oneclass.anomaly_score(fitted, test, jit=True) == pytest.approx(
      [1e-9], rel=1e-6)


@pytest.mark.parametrize('m', [2047, 2048, 2051, 4096])
def test_the_largest_of_many_are_found_by_blocks(m):
  x = np.float32(np.random.default_rng(m).normal(size=(5, m)))
  x[0, 7:20] = 9  # all in one block
  x[1, -1] = x[1, 0] = 9
  x[2, 40:] = -np.inf  # there are too few of them
  found, at = map(np.asarray, jitted._top_k(jax.device_put(x), 12))
  wanted = -np.sort(-x, axis=1)[:, :12]
  np.testing.assert_array_equal(found, wanted)
  np.testing.assert_array_equal(np.take_along_axis(x, at, axis=1), wanted)
  assert all(len(set(row)) == 12 for row in at.tolist())


@pytest.mark.parametrize('spec, score', [('knn', _knn), ('nn', _nn)])
def test_the_nearest_of_many_rows_are_those_of_scikit_learn(spec, score):
  rng = np.random.default_rng(0)
  train, test = rng.normal(3, 1, (2500, 6)), rng.normal(3, 2, (40, 6))
  found = oneclass.anomaly_score(oneclass.fit(spec, train), test, jit=True)
  np.testing.assert_allclose(found, score(train, test), rtol=1e-9, atol=1e-12)


def _nearly_one():
  """Returns f64[60, D] twice; more are alike than there are candidates."""
  random = np.random.default_rng(0)
  rows = (np.repeat(random.normal(size=(2, D)), 60, axis=0)
          + 1e-5 * random.normal(size=(120, D)))
  return rows[::2], rows[1::2]


@pytest.mark.parametrize('spec', ['nn', 'knn', 'knn_cosine'])
def test_the_nearest_of_rows_that_are_nearly_one_is_found(spec):
  train, test = _nearly_one()
  fitted = oneclass.fit(spec, train)
  np.testing.assert_allclose(
      oneclass.anomaly_score(fitted, test, jit=True),
      oneclass.anomaly_score(fitted, test, jit=False), rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize('spec, case', [
    ('nn', 'features'), ('knn', 'rows twice'), ('knn', 'long rows of float32'),
    ("knn_cosine(k=4,distance='kth')", 'few rows')])
def test_rows_that_are_left_out_are_nobodys_neighbours(spec, case):
  train, test = CASES[case]
  fitted = oneclass.fit(spec, train)
  random = np.random.default_rng(0)
  without = random.permuted(np.tile(np.arange(len(train)) < 12, (2, 1)), axis=1)
  found = jitted.left_out(fitted, np.stack([test, test[::-1]]), without)
  for scores, absent, rows in zip(found, without, (test, test[::-1]),
                                  strict=True):
    np.testing.assert_allclose(
        scores, REFERENCES[spec](np.float64(train[~absent]), np.float64(rows)),
        rtol=1e-5, atol=1e-14)
  assert (found[0] != found[1][::-1]).any()


def test_rows_that_are_nearly_one_are_left_out_too():
  """The nearest, more than there are candidates; as many others are alike."""
  train, (test, *_) = _nearly_one()
  apart = np.linalg.norm(train - test, axis=1)
  order = np.argsort(apart)
  found = jitted.left_out(oneclass.fit('knn(k=1)', train), test[None, None],
                          np.isin(np.arange(60), order[:15])[None])
  np.testing.assert_allclose(found, [[apart[order[15]]]], rtol=1e-4)


@pytest.mark.parametrize('spec', [
    'kde', 'gde', 'lof', "knn(metric='manhattan')", 'ocsvm_rbf'])
def test_only_what_looks_for_neighbours_leaves_rows_out(spec):
  assert not jitted.leaves_out(oneclass.create(spec))
  assert jitted.leaves_out(oneclass.create('knn_cosine'))


@pytest.mark.parametrize('count', [1, 16, 500, 512, 513, 784, 1025, 99_999])
def test_chunks_are_even_and_of_few_sizes(count):
  size = jitted._size(count, 512)
  chunks = -(-count // size)
  assert chunks == -(-count // 512) and size <= 512
  assert size == count or size % 32 == 0 and size - count / chunks < 32


def _slope(twin, x):
  with jax.enable_x64(True):
    return jax.jit(jax.grad(
        lambda arrays, x: twin.function(arrays, x).sum(), 1))(twin.arrays, x)


@pytest.mark.parametrize('spec', [
    'kde', 'gmm(k=2)', 'mahalanobis', 'knn_cosine', 'svdd'])
def test_a_twin_can_be_differentiated_by_the_rows(spec):
  train, test = CASES['features']
  x, step = test[40:42], 1e-4
  fitted = oneclass.fit(spec, train)
  twin = jitted.twin(fitted)
  slope = _slope(twin, x)
  expected = np.stack([
      fitted.score_samples(x + step * unit)
      - fitted.score_samples(x - step * unit) for unit in np.eye(D)], axis=1)
  np.testing.assert_allclose(slope, expected / (2 * step), rtol=1e-3,
                             atol=1e-4 * np.abs(slope).max())


@pytest.mark.parametrize('spec', ['knn', 'kde'])
def test_slopes_are_finite_at_rows_that_were_fitted_and_at_zero(spec):
  train, _ = CASES['rows twice']
  twin = jitted.twin(oneclass.fit(spec, train))
  x = np.concatenate([train[:1], np.zeros((1, D))])
  slope = _slope(twin, x)
  assert np.isfinite(slope).all()


@pytest.mark.parametrize('spec', ['kde', 'nn', 'ocsvm_rbf'])
def test_jax_scores_many_rows_unless_it_is_told_not_to(spec, monkeypatch):
  train, test = CASES['features']
  fitted = oneclass.fit(spec, train)
  scored, original = [], jitted.anomaly_score

  def counted(classifier, rows):
    scored.append(len(rows))
    return original(classifier, rows)
  monkeypatch.setattr(jitted, 'anomaly_score', counted)
  met = len(getattr(fitted, 'support_vectors_', train))
  monkeypatch.setattr(oneclass, '_MANY', met * 64)
  oneclass.anomaly_score(fitted, test[1:])
  oneclass.anomaly_score(fitted, test, jit=False)
  assert not scored
  oneclass.anomaly_score(fitted, test)
  assert scored == [64]


def test_a_classifier_without_a_jitted_score_is_scored_by_scikit_learn(
    monkeypatch):
  monkeypatch.setattr(oneclass, '_MANY', 0)
  train, test = CASES['features']
  tied = "gmm(covariance_type='tied')"
  for spec in ("knn(metric='manhattan')", 'lof', 'pca', tied):
    fitted = oneclass.fit(spec, train)
    np.testing.assert_allclose(oneclass.anomaly_score(fitted, test),
                               -fitted.score_samples(test))
    with pytest.raises(ValueError, match='no jitted score'):
      oneclass.anomaly_score(fitted, test, jit=True)
  assert set(oneclass.CLASSIFIERS) - set(oneclass.with_twins()) == {
      'lof', 'isolation_forest', 'pca'}


@pytest.mark.parametrize('spoil', [
    lambda x: x[:, 1:], lambda x: np.where(x > 2, np.nan, x)])
def test_rows_unlike_those_that_were_fitted_are_an_error(spoil):
  train, test = CASES['features']
  fitted = oneclass.fit('kde', train)
  with pytest.raises(ValueError, match='expecting 24|contains NaN'):
    oneclass.anomaly_score(fitted, spoil(test), jit=True)


def test_the_largest_of_a_row_is_its_score():
  rows = np.random.default_rng(0).normal(size=(40, 5))
  wanted = [max(row) for row in rows.tolist()]
  np.testing.assert_array_equal(
      oneclass.anomaly_score(classifiers.Largest(), rows), wanted)
  found = jitted.twin(classifiers.Largest())
  np.testing.assert_allclose(-found.function(found.arrays, rows), wanted)


def test_jitted_scores_of_bytes_are_those_of_fractions():
  random = np.random.default_rng(0)
  train, test = (random.integers(0, 256, (n, D), np.uint8) for n in (N, 64))
  fitted = oneclass.fit('ocsvm_linear', train)
  np.testing.assert_allclose(oneclass.anomaly_score(fitted, test, jit=True),
                             oneclass.anomaly_score(fitted, test / 255.))


@pytest.fixture
def embeddings(tmp_path):
  """Writes the embeddings of a run."""
  folder = tmp_path / 'runs/digits/0/seed0/embeddings'
  folder.mkdir(parents=True)
  train, test = _rows(N)
  np.savez(folder / 'train.npz', pool=np.float32(train))
  np.savez(folder / 'test.npz', pool=np.float32(test), anomaly=ANOMALY)
  return folder


def _evaluate(folder, *first, flags=()):
  """Runs the binary after the statements; returns its rows and output."""
  code = '; '.join([
      'import runpy, sys', *first,
      "runpy.run_module('deep_oc.evaluate', run_name='__main__')"])
  done = subprocess.run(
      [sys.executable, '-c', code, '--runs=runs/**', *flags,
       '--classifiers=kde,nn,knn,ocsvm_rbf'],
      cwd=folder.parents[4], capture_output=True, text=True, timeout=300,
      env=os.environ | {'PYTHONPATH': str(conftest.ROOT)})
  assert not done.returncode, done.stderr
  with (folder.parent / 'results.csv').open(newline='') as file:
    return list(csv.DictReader(file)), done.stdout


def test_without_jax_many_rows_get_the_same_results(embeddings):
  rows, _ = _evaluate(embeddings, "sys.modules['jax'] = None",
                      'from deep_oc import oneclass', 'oneclass._MANY = 0')
  train, test = map(np.float32, _rows(N))
  for row in rows:
    scores = oneclass.anomaly_score(
        oneclass.fit(row['classifier'], train), test, jit=True)
    assert row['auroc'] == f'{100 * metrics.roc_auc_score(ANOMALY, scores):.2f}'
    assert row['n_train'] == str(N)
  assert len(rows) == 4


def test_few_rows_start_no_jax_and_the_limit_is_recorded(embeddings):
  rows, output = _evaluate(
      embeddings, 'import atexit', 'atexit.register(lambda: print("JAX:", '
      '"jax" in sys.modules))', flags=['--limit=30'])
  assert 'JAX: False' in output
  assert len(rows) == 4
  for row in rows:
    assert row['n_train'] == '30'
    assert json.loads(row['classifier_params'])['n_limit'] == 30


@pytest.mark.slow
@pytest.mark.parametrize('spec', ['kde', 'knn'])
def test_100000_rows_meet_50000_in_less_than_3_gib(spec):
  code = f"""
import numpy as np
from deep_oc import oneclass
random = np.random.default_rng(0)
train, test = (random.random((n, 512), np.float32) for n in (50_000, 100_000))
fitted = oneclass.fit('{spec}', train, limit=50_000)
assert len(fitted.train_) == 50_000
assert oneclass.anomaly_score(fitted, test).shape == (100_000,)
"""
  assert conftest.peak_memory('-c', code) < 3 * 2 ** 20
