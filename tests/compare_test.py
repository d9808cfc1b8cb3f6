"""Two runs, features or classifiers, on the same images."""
import csv
import subprocess
import sys
import types

import numpy as np
import pytest
from absl import flags

from deep_oc import compare, embeddings, metrics, pixel_metrics, run_scores
from deep_oc.errors import InputError
from deep_oc.scored import Key, Request, Score, Scored
from tests import forked


def _split(seed, n, anomalous=0, noise=0.3):
  random = np.random.default_rng(seed)
  anomaly = np.arange(n) < anomalous
  pool = np.abs(random.normal(1, noise, (n, 8)))
  pool[anomaly] *= np.linspace(0.4, 1, 8)
  return {'pool': pool, 'head': pool[:, :4] ** 2, 'anomaly': anomaly,
          'index': np.arange(n)}


def _write(folder, seed=0, noise=0.3, meta=None, **test):
  meta = {'dataset': 'cifar10', 'seed': seed} | (meta or {})
  embeddings.write(folder / 'embeddings/train.npz',
                   _split(seed, 60, noise=noise), meta)
  arrays = _split(seed + 1, 80, 30, noise)
  arrays['score_upright'] = -arrays['pool'][:, 0]
  arrays['score_rotation'] = -arrays['pool'][:, 1]
  embeddings.write(folder / 'embeddings/test.npz', arrays | test, meta)
  return folder


@pytest.fixture
def runs(tmp_path):
  """The folders of a good run and a worse one."""
  return _write(tmp_path / 'a'), _write(tmp_path / 'b', 5, noise=0.6)


def _main(*args, cwd=None):
  """Runs the binary in its own process."""
  return forked.run('deep_oc.compare', *args, cwd=cwd, timeout=120)


def test_two_runs_are_compared_by_the_paired_test(runs, tmp_path):
  a, b = runs
  output = tmp_path / 'out/compared.csv'
  done = _main(f'--a={a}', f'--b={b}', '--feature=pool', '--classifier=kde,nn',
               f'--output={output}')
  assert done.returncode == 0, done.stderr
  with open(output, encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == list(compare.COLUMNS)
  assert [(row['feature'], row['classifier'], row['other_feature'],
           row['other_classifier']) for row in rows] == [
               ('pool', name, 'pool', name) for name in ('kde', 'nn')]
  asked = Request(['kde'], ['pool'])
  ours, theirs = (run_scores.score_run(run, asked) for run in runs)
  key = Key('pool', 'kde', 'image')
  expected = metrics.paired(ours.scores[key].values, theirs.scores[key].values,
                            ours.anomaly)
  found = [float(rows[0][name]) for name in ('difference', 'low', 'high', 'p')]
  assert found == pytest.approx(expected, abs=0.006)
  assert float(rows[0]['auroc_a']) == pytest.approx(
      metrics.auroc(ours.scores[key].values, ours.anomaly), abs=0.006)
  assert (rows[0]['n_test_normal'], rows[0]['n_test_anomalous']) == ('50', '30')
  for word in ('pool kde', 'pool nn', rows[0]['difference'], rows[0]['p'],
               str(a), str(b), str(output)):
    assert word in done.stdout


def test_two_classifiers_of_one_run_are_compared(runs):
  done = _main(f'--a={runs[0]}', '--feature=head', '--classifier=kde',
               '--other_classifier=kde(gamma_scale=1|3)')
  assert done.returncode == 0, done.stderr
  assert [line.split()[:4] for line in done.stdout.splitlines()[4:]] == [
      ['head', 'kde', 'head', 'kde(gamma_scale=1)'],
      ['head', 'kde', 'head', 'kde(gamma_scale=3)']]


def test_jax_is_not_needed():
  code = ('import sys; from deep_oc import compare; '
          "print([m for m in ('jax', 'flax', 'pandas') if m in sys.modules])")
  assert subprocess.check_output([sys.executable, '-c', code],
                                 text=True).strip() == '[]'


def test_what_is_asked_for_is_fitted_and_nothing_else(runs):
  def names(*asked):
    return [key[:2] for key in compare.fit(runs[0], *asked).scores]
  assert names('pool', 'nn') == [('pool', 'nn')]
  assert names(None, 'nn') == [('pool', 'nn'), ('head', 'nn')]
  assert names('score', None) == [('score', 'upright'), ('score', 'rotation')]
  assert names('score', 'rotation') == [('score', 'rotation')]
  assert ('score', 'upright') in names(None, None)


def _pairs(*others):
  a = [Key(feature, name, 'image') for feature in ('pool', 'head')
       for name in ('kde', 'nn')]
  b = [Key('random', 'kde', 'image'), Key('pool', 'kde', 'image'),
       Key('pool', 'gde', 'image')]
  return [(key[:2], other[:2]) for key, other in compare.pairs(a, b, *others)]


def test_what_goes_by_one_name_is_compared_but_for_what_is_another():
  assert _pairs(False, False) == [(('pool', 'kde'), ('pool', 'kde'))]
  assert _pairs(True, False) == [
      ((feature, 'kde'), (other, 'kde')) for feature in ('pool', 'head')
      for other in ('random', 'pool')]
  assert _pairs(False, True) == [
      (('pool', name), ('pool', other)) for name in ('kde', 'nn')
      for other in ('kde', 'gde')]


def test_one_anomaly_has_a_difference_but_no_p_value():
  key = Key('pool', 'kde', 'image')
  a, b = (Scored({}, np.arange(9) == 3, None, np.arange(9), {
      key: Score(sign * np.arange(9.))}) for sign in (1, -1))
  found = compare.compare(a, key, b, key)
  assert found['difference'] == '-25.00' and 'p' not in found
  assert '-25.00' in compare.show([found])


def _localized(folder, seed, side=6):
  """Adds heat maps of windows to a run, and what they should find."""
  mask = np.zeros((80, side, side), bool)
  mask[:30, 2:4, 1:3] = True
  random = np.random.default_rng(seed)
  maps = random.normal(0, 1 + seed, mask.shape) + mask
  embeddings.write(folder / 'embeddings/maps.npz', {
      'map_windows': maps, 'mask': mask}, embeddings.read(
          folder / 'embeddings/test.npz')[1] | {
              'map_params': {'classifier': 'knn(k=1)'}})
  return maps, mask


def test_heat_maps_are_compared_by_their_maxima_and_by_their_pixels(runs):
  (maps, mask), (other, _) = (
      _localized(run, seed) for seed, run in enumerate(runs))
  done = _main(f'--a={runs[0]}', f'--b={runs[1]}', '--feature=windows',
               '--output=compared.csv', cwd=runs[0].parent)
  assert done.returncode == 0, done.stderr
  assert 'windows knn(k=1), pixels' in done.stdout
  image, pixel = csv.DictReader((runs[0].parent / 'compared.csv').open())
  for row, test, auroc, maps_a, maps_b, truth in (
      (image, metrics.paired, metrics.auroc, maps.max(axis=(1, 2)),
       other.max(axis=(1, 2)), np.arange(80) < 30),
      (pixel, pixel_metrics.paired, pixel_metrics.pixel_auroc, maps, other,
       mask)):
    found = [float(row[name]) for name in ('difference', 'low', 'high', 'p')]
    assert found == pytest.approx(test(maps_a, maps_b, truth), abs=0.006)
    assert float(row['auroc_b']) == pytest.approx(
        auroc(maps_b, truth), abs=0.006)
  assert (image['level'], pixel['level']) == ('image', 'pixel')
  assert pixel['n_test_anomalous'] == '30'


def test_images_are_not_compared_with_pixels(runs):
  _localized(runs[0], 0)
  maps = runs[0] / 'embeddings/maps.npz'
  arrays, meta = embeddings.read(maps)
  embeddings.write(maps, {'map_gradcam': arrays['map_windows'],
                          'mask': arrays['mask']}, meta)
  done = _main(f'--a={runs[0]}', '--feature=pool', '--other_feature=gradcam')
  assert done.returncode == 2
  assert 'both of images or both of pixels' in done.stderr


def test_heat_maps_of_two_sizes_are_not_compared(runs):
  for side, run in zip((6, 8), runs, strict=True):
    _localized(run, 0, side)
  done = _main(f'--a={runs[0]}', f'--b={runs[1]}', '--feature=windows')
  assert done.returncode == 2
  assert 'of 6×6 and 8×8 pixels' in done.stderr


@pytest.mark.parametrize('change, word', [
    ({'index': np.arange(1, 81)}, 'index'),
    ({'path': np.arange(80).astype(str)}, 'path'),
    ({'anomaly': np.arange(80) % 2 == 1}, 'anomaly'),
    ({'meta': {'dataset': 'fashion_mnist'}}, 'dataset')])
def test_runs_that_were_tested_on_different_images_are_one_line(
    runs, change, word):
  _write(runs[1], 5, **change)
  with pytest.raises(InputError, match=f"not tested on the same .*'{word}'"):
    compare.check(*runs)


def test_the_binary_fails_in_one_line(runs):
  _write(runs[1], 5, index=np.arange(1, 81))
  done = _main(f'--a={runs[0]}', f'--b={runs[1]}')
  assert done.returncode == 2
  line, = done.stderr.splitlines()
  assert line.startswith('error: ') and 'same images' in line


@pytest.mark.parametrize('given, words', [
    ({'b': 'b'}, '--a is required'),
    ({'a': 'a'}, '--b, .* --other_classifier'),
    ({'a': 'nowhere', 'b': 'b'}, 'nowhere/embeddings/train.npz'),
    ({'a': 'a', 'b': 'b', 'feature': 'pol'}, "'pol'; .* 'pool'"),
    ({'a': 'a', 'b': 'b', 'classifier': 'kdee'}, "'kdee'; .* 'kde'"),
    ({'a': 'a', 'b': 'b', 'feature': 'score', 'classifier': 'uprigt'},
     "'uprigt'; .* 'upright'"),
    ({'a': 'a', 'feature': 'pool', 'classifier': 'kde',
      'other_classifier': 'kde'}, 'nothing to compare: a with itself')])
def test_bad_input_is_said_in_words(runs, monkeypatch, given, words):
  monkeypatch.chdir(runs[0].parent)
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**dict.fromkeys(
      ('a', 'b', 'feature', 'classifier', 'other_feature', 'other_classifier',
       'output')) | given))
  with pytest.raises(InputError, match=words):
    compare.main()
