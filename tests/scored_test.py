import dataclasses
import json
import pathlib
import shutil
import weakref

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from deep_oc import embeddings, metrics, pixel_metrics, scored, tables
from deep_oc.errors import InputError
from deep_oc.scored import Key, Request, Score, Scored

_POOL = Key('pool', 'gde_ledoit_wolf', 'image')
_MAP = Key('windows', 'gde_ledoit_wolf', 'pixel')


def _run(seed, **about):
  rng = np.random.default_rng(seed)
  anomaly = np.arange(20) % 2 == 1
  mask = np.zeros((20, 6, 6), bool)
  mask[anomaly, 2:4, 2:5] = True
  return Scored(
      {'experiment': 'e', 'normal_class': '0', 'pretext': 'cutpaste',
       'seed': str(seed), 'config_hash': f'h{seed}'} | about,
      anomaly, mask, np.arange(20), {
          _POOL: Score(rng.normal(anomaly, 1), '{"a": 1}', '7'),
          _MAP: Score(rng.normal(mask, 1).astype(np.float32))})


def _folder(seed):
  return pathlib.Path(f'runs/e/0/seed{seed}')


def _ensembles(runs):
  found = scored.Ensembles()
  for folder, run in runs.items():
    found.add(folder, run)
  return dict(found.means())


def test_rows_measure_images_by_the_truth_and_pixels_by_the_masks():
  run = _run(0)
  image, pixel = run.rows()
  assert float(image['auroc']) == pytest.approx(100 * float(
      sklearn_metrics.roc_auc_score(run.anomaly, run.scores[_POOL].values)),
      abs=0.005)
  assert (image['level'], image['n_train']) == ('image', '7')
  assert image['aupro'] == ''
  maps = run.scores[_MAP].values
  assert float(pixel['auroc']) == pytest.approx(100 * float(
      sklearn_metrics.roc_auc_score(run.mask.ravel(), maps.ravel())),
      abs=0.005)
  assert float(pixel['aupro']) == pytest.approx(
      pixel_metrics.aupro(maps, run.mask), abs=0.005)
  assert pixel['level'] == 'pixel'
  assert pixel['n_test_normal'] == pixel['n_test_anomalous'] == '10'


def test_an_ensemble_scores_by_the_mean_over_seeds():
  runs = {_folder(seed): _run(seed) for seed in range(3)}
  (folder, mean), = _ensembles(runs).items()
  assert folder == pathlib.Path('runs/e/0/ensemble_seed0')
  for key in (_POOL, _MAP):
    np.testing.assert_allclose(
        mean.scores[key].values,
        np.mean([run.scores[key].values for run in runs.values()], axis=0),
        rtol=1e-6, atol=1e-7)
  row = mean.rows()[0]
  assert (row['seed'], row['pretext']) == ('0+1+2', 'cutpaste_ensemble')
  assert row['classifier_params'] == '{"mean_of": 3}'


def test_a_mean_of_noisy_seeds_is_better_than_one_of_them():
  runs = {_folder(seed): _run(seed) for seed in range(9)}
  mean, = _ensembles(runs).values()
  single = [float(run.rows()[1]['auroc']) for run in runs.values()]
  assert float(mean.rows()[1]['auroc']) > max(single)


def test_only_seeds_are_averaged_not_classes_or_experiments():
  runs = {pathlib.Path('runs/e/0/seed0'): _run(0),
          pathlib.Path('runs/e/1/seed1'): _run(1, normal_class='1'),
          pathlib.Path('runs/f/0/seed1'): _run(1, experiment='f'),
          pathlib.Path('runs/e/0/short'): _run(2, step='7')}
  assert not _ensembles(runs)


@pytest.mark.parametrize('name', scored._ONE_ENSEMBLE)
def test_ensembles_side_by_side_have_a_folder_each(name):
  groups = {1: range(3), 2: range(3, 5)}
  runs = {_folder(seed): _run(seed, **{name: str(value)})
          for value, seeds in groups.items() for seed in seeds}
  found = _ensembles(runs)
  assert {str(folder): mean.about['seed'] for folder, mean in found.items()
          } == {'runs/e/0/ensemble_seed0': '0+1+2',
                'runs/e/0/ensemble_seed3': '3+4'}


@pytest.mark.parametrize('name, other', [
    ('index', np.arange(1, 21)), ('anomaly', np.arange(20) % 2 == 0),
    ('path', np.array([f'{i}.png' for i in range(20)]))])
def test_seeds_that_were_tested_on_different_images_are_one_line(name, other):
  runs = {_folder(0): _run(0),
          _folder(1): dataclasses.replace(_run(1), **{name: other})}
  with pytest.raises(InputError, match=f"different images .'{name}' differs"):
    _ensembles(runs)


def test_of_an_ensemble_the_sum_is_kept_and_not_its_runs():
  found, kept = scored.Ensembles(), []
  for seed in range(3):
    run = _run(seed)
    kept.append(weakref.ref(run.scores[_MAP].values))
    found.add(_folder(seed), run)
  del run
  assert [each() for each in kept] == [None] * 3
  assert len(dict(found.means())) == 1


def test_what_one_seed_lacks_the_ensemble_lacks():
  runs = {_folder(seed): _run(seed) for seed in range(2)}
  del runs[_folder(1)].scores[_MAP]
  mean, = _ensembles(runs).values()
  assert list(mean.scores) == [_POOL]


def test_images_and_pixels_have_intervals():
  run = _run(0)
  image, pixel = run.rows()
  of_image = run.scores[_POOL].values, run.anomaly
  of_pixel = run.scores[_MAP].values, run.mask
  for row, given, name, interval in (
      (image, of_image, 'auroc', metrics.auroc_interval),
      (image, of_image, 'auprc', metrics.auprc_interval),
      (image, of_image, 'fpr95', metrics.fpr95_interval),
      (pixel, of_pixel, 'auroc', pixel_metrics.pixel_auroc_interval),
      (pixel, of_pixel, 'aupro', pixel_metrics.aupro_interval)):
    found = [float(row[f'{name}_{end}']) for end in ('low', 'high')]
    assert found == pytest.approx(interval(*given), abs=0.005)
    assert found[0] <= float(row[name]) <= found[1]
  assert image['aupro_low'] == pixel['auprc_low'] == pixel['fpr95_low'] == ''


@pytest.fixture
def evaluated(tmp_path):
  """The folder of a run that has results and knows where they are from."""
  for name in ('train', 'test'):
    _embed(tmp_path, name, 0)
  tables.write(tmp_path / 'results.csv', tables.RESULTS, _run(0).rows())
  scored.remember(tmp_path, scored.origin(tmp_path))
  return tmp_path


def _embed(folder, name, seed, **meta):
  pool = np.random.default_rng(seed).normal(size=(20, 3))
  embeddings.write(folder / f'embeddings/{name}.npz',
                   {'pool': pool, 'anomaly': np.arange(20) % 2 == 1}, meta)


def _recalled(folder, asked=scored.EVERYTHING):
  return scored.recall(folder, scored.origin(folder, asked))


def test_results_are_recalled_as_they_were_written(evaluated):
  assert _recalled(evaluated) == [
      row | {'run': str(evaluated)} for row in _run(0).rows()]


def test_results_are_recalled_from_a_copy_and_after_an_equal_embedding(
    evaluated, tmp_path_factory):
  folder = tmp_path_factory.mktemp('copy') / 'run'
  shutil.copytree(evaluated, folder, copy_function=shutil.copyfile)
  assert len(_recalled(folder)) == 2
  _embed(folder, 'test', 0)
  assert len(_recalled(folder)) == 2


def _another_embedding(folder):
  _embed(folder, 'test', 1)


def _another_training(folder):
  _embed(folder, 'train', 0, config_hash='other')


def _maps(folder):
  _embed(folder, 'maps', 0)


def _damage(folder):
  path = folder / 'embeddings/test.npz'
  path.write_bytes(path.read_bytes()[:99])


def _of_no_zip_version(folder):
  path = folder / 'embeddings/test.npz'
  data = bytearray(path.read_bytes())
  data[data.index(b'PK\1\2') + 6] = 82  # 8.2
  path.write_bytes(data)


def _edited_results(folder):
  path = folder / 'results.csv'
  path.write_text(path.read_text().replace('cutpaste', 'other'))


def _without_results(folder):
  (folder / 'results.csv').unlink()


def _without_note(folder):
  (folder / 'results.json').unlink()


def _half_a_note(folder):
  path = folder / 'results.json'
  path.write_text(path.read_text()[:99])


def _note_of_other_code(folder):
  path = folder / 'results.json'
  note = json.loads(path.read_text())
  note['source']['code'] = 'old'
  path.write_text(json.dumps(note))


@pytest.mark.parametrize('change', [
    _another_embedding, _another_training, _maps, _damage, _of_no_zip_version,
    _edited_results, _without_results, _without_note, _half_a_note,
    _note_of_other_code])
def test_results_of_anything_else_are_not_recalled(evaluated, change):
  assert _recalled(evaluated) is not None
  change(evaluated)
  assert _recalled(evaluated) is None


@pytest.mark.parametrize('asked', [
    Request(['kde']), Request(features=['pool']), Request(limit=10),
    Request(false_alarm_rate=0.1)])
def test_results_of_another_request_are_not_recalled(evaluated, asked):
  assert _recalled(evaluated, asked) is None
  scored.remember(evaluated, scored.origin(evaluated, asked))
  assert _recalled(evaluated, asked) is not None
  assert _recalled(evaluated) is None


@pytest.mark.parametrize('spec, known', [
    ('kde(gamma_scale=.5)', True), ('sklearn.svm.OneClassSVM(nu=.5)', True),
    ('pyod.models.ecod.ECOD', False), ('mine.C(nu=.5)', False)])
def test_the_code_of_other_libraries_is_not_known(evaluated, spec, known):
  assert (scored.origin(evaluated, Request([spec])) is not None) == known


def test_results_with_old_columns_are_not_recalled(evaluated, monkeypatch):
  old = tuple(name for name in tables.RESULTS if name != 'auprc_low')
  monkeypatch.setattr(tables, 'RESULTS', old)
  tables.write(evaluated / 'results.csv', old, _run(0).rows())
  scored.remember(evaluated, scored.origin(evaluated))
  monkeypatch.undo()
  assert _recalled(evaluated) is None
