import pathlib

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from deep_oc import pixel_metrics, scored
from deep_oc.errors import InputError
from deep_oc.scored import Key, Score, Scored

_POOL = Key('pool', 'gde_ledoit_wolf', 'image')
_MAP = Key('windows', 'gde_ledoit_wolf', 'pixel')


def _run(seed, index=None, **about):
  rng = np.random.default_rng(seed)
  anomaly = np.arange(20) % 2 == 1
  mask = np.zeros((20, 6, 6), bool)
  mask[anomaly, 2:4, 2:5] = True
  return Scored(
      {'experiment': 'e', 'normal_class': '0', 'pretext': 'cutpaste',
       'seed': str(seed), 'config_hash': f'h{seed}'} | about,
      anomaly, mask, np.arange(20) if index is None else index, {
          _POOL: Score(rng.normal(anomaly, 1), '{"a": 1}', '7'),
          _MAP: Score(rng.normal(mask, 1).astype(np.float32))})


def _folder(seed):
  return pathlib.Path(f'runs/e/0/seed{seed}')


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
  assert (pixel['level'], pixel['auroc_low']) == ('pixel', '')
  assert pixel['n_test_normal'] == pixel['n_test_anomalous'] == '10'


def test_an_ensemble_scores_by_the_mean_over_seeds():
  runs = {_folder(seed): _run(seed) for seed in range(3)}
  (folder, mean), = scored.ensembles(runs).items()
  assert folder == pathlib.Path('runs/e/0/ensemble')
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
  mean, = scored.ensembles(runs).values()
  single = [float(run.rows()[1]['auroc']) for run in runs.values()]
  assert float(mean.rows()[1]['auroc']) > max(single)


def test_only_seeds_are_averaged_not_classes_or_experiments():
  runs = {pathlib.Path('runs/e/0/seed0'): _run(0),
          pathlib.Path('runs/e/1/seed1'): _run(1, normal_class='1'),
          pathlib.Path('runs/f/0/seed1'): _run(1, experiment='f')}
  assert not scored.ensembles(runs)


def test_seeds_that_were_tested_on_different_images_are_one_line():
  runs = {_folder(0): _run(0), _folder(1): _run(1, index=np.arange(1, 21))}
  with pytest.raises(InputError, match='different images'):
    scored.ensembles(runs)


def test_what_one_seed_lacks_the_ensemble_lacks():
  runs = {_folder(seed): _run(seed) for seed in range(2)}
  del runs[_folder(1)].scores[_MAP]
  mean, = scored.ensembles(runs).values()
  assert list(mean.scores) == [_POOL]
