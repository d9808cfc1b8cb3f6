import csv
import io
import json
import pathlib
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
from absl import flags
from conftest import peak_memory
from PIL import Image
from scipy import stats
from sklearn import covariance

from deep_oc import (embeddings, evaluate, oneclass, pictures, progress,
                     rendering, run_scores, tables)
from deep_oc.errors import InputError
from deep_oc.scored import Request
from tests import forked

META = {'experiment': 'rotation_cifar10', 'dataset': 'cifar10',
        'protocol': 'one_vs_rest', 'normal_class': 3, 'normal_name': 'cat',
        'seed': 0, 'pretext': 'rotation', 'encoder': 'resnet18', 'step': 7,
        'checkpoint_rule': 'last', 'config_hash': 'abc'}


def _split(seed, n, anomalous=0):
  random = np.random.default_rng(seed)
  anomaly = np.arange(n) < anomalous
  pool = np.abs(random.normal(1, 0.3, (n, 8)))
  pool[anomaly] *= np.arange(8) / 8
  pool = pool.astype(np.float32)
  return {'pool': pool, 'head': pool[:, :4] ** 2, 'random': pool[:, ::-1] + 1,
          'pixels': random.integers(0, 256, (n, 12), np.uint8),
          'label': anomaly.astype(np.int32), 'anomaly': anomaly}


def _write(folder, seed=0, meta=META, **test):
  embeddings.write(folder / 'embeddings/train.npz', _split(seed, 40), meta)
  arrays = _split(seed + 1, 30, 12)
  arrays['score_upright'] = -arrays['pool'][:, 0]
  embeddings.write(folder / 'embeddings/test.npz', arrays | test, meta)
  return folder


def _main(*args, cwd=None):
  """Runs the binary in its own process."""
  return forked.run('deep_oc.evaluate', *args, cwd=cwd, timeout=120)


def _assert_fails(done, *words):
  """Checks status 2 and exactly one line that has the words."""
  assert done.returncode == 2, done.stderr
  line, = done.stderr.splitlines()
  assert line.startswith('error: ')
  for word in words:
    assert word in line


@pytest.fixture
def run(tmp_path):
  return _write(tmp_path / 'runs/rotation_cifar10/3/seed0')


def test_stage_2_needs_no_jax():
  code = ('import sys; from deep_oc import evaluate; '
          "print([m for m in ('jax', 'flax', 'optax', 'orbax', 'pandas') "
          'if m in sys.modules])')
  assert subprocess.check_output([sys.executable, '-c', code],
                                 text=True).strip() == '[]'


def test_the_command_evaluates_every_run_below_runs(run, tmp_path):
  _write(run.parent.parent / '5/seed0', 5, META | {'normal_class': 5})
  done = _main(cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert {row['normal_class'] for row in tables.read(run / 'results.csv')} == {
      '3'}
  summary = tables.read(tmp_path / 'runs/summary.csv', tables.SUMMARY)
  assert {row['normal_class'] for row in summary} == {'3', '5', 'mean'}
  for word in ('pool', 'random', 'pixels', 'upright', '2 of 10', '91.3'):
    assert word in done.stdout
  assert all(x.startswith('warning: ') for x in done.stderr.splitlines())


def test_columns_are_exactly_these(run):
  evaluate.evaluate(run, Request(['nn']))
  assert (run / 'results.csv').read_text().splitlines()[0] == (
      'experiment,dataset,protocol,normal_class,normal_name,seed,pretext,'
      'encoder,step,checkpoint_rule,'
      'feature,classifier,classifier_params,level,auroc,auroc_low,auroc_high,'
      'auprc,auprc_low,auprc_high,fpr95,fpr95_low,fpr95_high,aupro,aupro_low,'
      'aupro_high,false_alarm_rate,false_alarms,false_alarms_low,'
      'false_alarms_high,detected,calibration,n_train,n_test_normal,'
      'n_test_anomalous,config_hash')


def test_every_feature_meets_every_classifier_of_the_paper(run):
  rows = evaluate.evaluate(run)
  pairs = [(row['feature'], row['classifier']) for row in rows]
  assert pairs == [
      (feature, name) for feature in ('pool', 'head', 'random')
      for name in oneclass.PUBLISHED] + [
          ('pixels', 'ocsvm_rbf'), ('pixels', 'kde'), ('score', 'upright')]
  for row in rows:
    assert (row['n_test_normal'], row['n_test_anomalous']) == ('18', '12')
    assert row['n_train'] == ('' if row['feature'] == 'score' else '40')
    assert {key: row[key] for key in META} == {
        key: str(value) for key, value in META.items()}
    json.loads(row['classifier_params'])


def test_every_other_classifier_is_there_for_the_asking(run):
  rows = evaluate.evaluate(run, Request(list(oneclass.CLASSIFIERS), ['head']))
  assert [row['classifier'] for row in rows] == list(oneclass.CLASSIFIERS)
  params = {row['classifier']: json.loads(row['classifier_params'])
            for row in rows}
  assert params['gde_oas_raw']['covariance'] == 'oas'
  assert params['gde_oas_raw']['norm'] is None


def test_numbers_are_percent_with_two_decimals(run):
  row = evaluate.evaluate(run, Request(['kde'], ['pool']))[0]
  for key in ('auroc', 'auprc', 'fpr95'):
    for end in ('', '_low', '_high'):
      assert row[key + end] == f'{float(row[key + end]):.2f}'
  assert 60 < float(row['auroc']) <= 100  # anomalies are far away
  assert float(row['auroc_low']) <= float(row['auroc'])


def test_a_rerun_is_the_same_to_the_byte(run, tmp_path):
  paths = [run / 'results.csv', run / 'results.json'] + [
      tmp_path / f'runs/summary.{suffix}' for suffix in ('csv', 'md', 'tex')]
  assert _main('--noreuse', cwd=tmp_path).returncode == 0
  before = [path.read_bytes() for path in paths]
  assert _main('--noreuse', cwd=tmp_path).returncode == 0
  assert [path.read_bytes() for path in paths] == before


@pytest.fixture
def main(monkeypatch, tmp_path):
  """Runs the binary's `main` in `tmp_path`; returns the runs it fitted to."""
  monkeypatch.chdir(tmp_path)
  fitted, score_run = [], run_scores.score_run

  def counted(workdir, *args):
    fitted.append(str(workdir))
    return score_run(workdir, *args)
  monkeypatch.setattr(run_scores, 'score_run', counted)

  def start(**changed):
    chosen = dict(runs='runs/**', classifiers='nn', features=None, reuse=True,
                  limit=oneclass.LIMIT, false_alarm_rate=None,
                  ensemble=False, pictures=True, output=None) | changed
    monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**chosen))
    fitted.clear()
    evaluate.main()
    return list(fitted)
  return start


def test_only_runs_that_changed_are_evaluated_again(run, main, tmp_path):
  other = _write(run.parent.parent / '5/seed0', 5, META | {'normal_class': 5})
  names = [str(path.relative_to(tmp_path)) for path in (run, other)]
  assert main() == names
  summary = (tmp_path / 'runs/summary.csv').read_text()
  assert main() == []
  assert (tmp_path / 'runs/summary.csv').read_text() == summary
  _write(other, 6, META | {'normal_class': 5})
  assert main() == names[1:]
  assert (tmp_path / 'runs/summary.csv').read_text() != summary
  assert main() == []


@pytest.mark.parametrize('flag', [
    {'classifiers': 'kde'}, {'features': ['pool']}, {'reuse': False}])
def test_other_flags_evaluate_again(run, main, flag):
  assert len(main()) == 1
  assert len(main(**flag)) == 1
  assert len(main()) == (0 if 'reuse' in flag else 1)


def test_an_ensemble_needs_scores_and_so_evaluates_again(run, main):
  _write(run.parent / 'seed1', 1, META | {'seed': 1})
  assert len(main(ensemble=True)) == 2
  assert len(main()) == 0
  assert len(main(ensemble=True)) == 2


def test_seeds_of_different_images_are_told_before_anything_is_scored(
    run, main, monkeypatch):
  _write(run.parent / 'seed1', 1, META | {'seed': 1}, index=np.arange(1, 31))
  monkeypatch.delattr(oneclass, 'fit')
  with pytest.raises(InputError, match="different images .'index' differs"):
    main(ensemble=True)


def test_an_ensemble_of_runs_that_name_no_task(tmp_path, main):
  for seed in (0, 1):
    _write(tmp_path / f'runs/{seed}', seed, {'seed': seed})
  main(ensemble=True)
  rows = tables.read(tmp_path / 'runs/ensemble_0/results.csv')
  assert {(row['seed'], row['pretext']) for row in rows} == {
      ('0+1', '_ensemble')}


def test_ensembles_side_by_side_keep_their_results(run, main, tmp_path):
  for seed in (1, 2, 3):
    _write(run.parent / f'seed{seed}', seed, META | {
        'seed': seed, 'pretext': 'rotation' if seed == 1 else 'denoising'})
  main(ensemble=True)
  seeds = {path.parent.name: {row['seed'] for row in tables.read(path)}
           for path in run.parent.glob('ensemble*/results.csv')}
  assert seeds == {'ensemble_seed0': {'0+1'}, 'ensemble_seed2': {'2+3'}}
  summary = tables.read(tmp_path / 'runs/summary.csv', tables.SUMMARY)
  assert {'rotation_ensemble', 'denoising_ensemble'} <= {
      row['pretext'] for row in summary}


def test_where_no_two_runs_differ_in_seeds_only_the_others_have_their_rows(
    run, main, tmp_path, capsys):
  _write(run.parent.parent / '5/seed1', 5, META | {'normal_class': 5,
                                                   'seed': 1})
  main(ensemble=True)
  line, = capsys.readouterr().err.splitlines()
  assert line == ("warning: no ensemble: no two runs at 'runs/**' differ in "
                  'their seeds only')
  summary = tables.read(tmp_path / 'runs/summary.csv', tables.SUMMARY)
  assert {row['normal_class'] for row in summary} == {'3', '5', 'mean'}
  assert {row['pretext'] for row in summary} == {'rotation'}


def test_results_that_were_written_otherwise_are_evaluated_again(run, main):
  main()
  evaluate.evaluate(run, Request(['kde']))
  assert len(main()) == 1


def test_a_reused_score_below_50_warns_again(run, main, capsys):
  _write(run, score_upside_down=np.arange(30.))
  main()
  first = capsys.readouterr().err
  assert main() == []
  assert 'score/upside_down' in first and capsys.readouterr().err == first


def test_p_values_that_are_gone_are_made_again(run, main):
  assert len(main(false_alarm_rate=0.1)) == 1
  (run / 'p_values.csv').unlink()
  assert len(main(false_alarm_rate=0.1)) == 1
  assert (run / 'p_values.csv').exists()
  assert len(main(false_alarm_rate=0.1)) == 0


def test_p_values_of_an_evaluation_before_go_with_its_results(run):
  for rate, files in (0.1, 2), (None, 0):
    evaluate.evaluate(run, Request(['nn'], ['pool'], false_alarm_rate=rate))
    assert len(list(run.glob('p_values.*'))) == files


def _write_maps(run, name, maps, **arrays):
  arrays = {
      f'map_{name}': maps, 'image': np.zeros((*maps.shape, 3), np.uint8),
      'label': np.zeros(len(maps), int), 'anomaly': np.arange(len(maps)) < 12,
      'index': np.arange(len(maps))} | arrays
  embeddings.write(
      run / 'embeddings/maps.npz',
      {key: array for key, array in arrays.items() if array is not None},
      META | {'class_names': ['good'],
              'map_params': {'classifier': 'gde_oas'}})


@pytest.mark.parametrize('name', ['image', 'label', 'anomaly'])
def test_maps_that_cannot_be_drawn_are_one_line(run, name):
  _write_maps(run, 'mine', np.ones((30, 8, 8)), **{name: None})
  with pytest.raises(InputError, match=f"lacks '{name}', .* --nopictures"):
    evaluate.draw(run)


@pytest.mark.parametrize('mask, kind', [(np.zeros, 'empty'), (np.ones, 'full')])
def test_masks_of_one_kind_leave_the_pixels_out(run, capsys, mask, kind):
  _write_maps(run, 'windows', np.random.default_rng(0).random((30, 8, 8)),
              mask=mask((30, 8, 8), bool))
  rows = evaluate.evaluate(run, Request(['nn'], ['pool', 'windows']))
  assert [(row['feature'], row['level']) for row in rows] == [
      ('pool', 'image'), ('windows', 'image')]
  assert f'all 30 masks are {kind}' in capsys.readouterr().err


def test_maps_of_a_score_without_its_feature_are_drawn_by_their_maxima(run):
  maps = np.random.default_rng(0).random((30, 8, 8)).astype(np.float32)
  _write_maps(run, 'gradcam', maps)  # by a classifier of `pool`
  _, meta = embeddings.read_maps(run)
  for path in (run / 'embeddings').glob('t*.npz'):
    arrays, about = embeddings.read(path)
    del arrays['pool']
    embeddings.write(path, arrays, about)
  np.testing.assert_array_equal(
      evaluate._explained(run, 'map_gradcam', maps, meta)[0], maps.max((1, 2)))


def test_maps_without_a_classifier_are_titled_by_their_own_name(run):
  maps = np.random.default_rng(0).random((30, 8, 8))
  scores, title = evaluate._explained(run, 'map_mine', maps, {})
  np.testing.assert_array_equal(scores, maps.max((1, 2)))
  assert title == 'mine'


@pytest.mark.parametrize('others, folders', [
    ((), ['']), (('random_mine',), ['']),
    (('a/b', 'a_b'), ['mine', 'a_b', 'a_b_2'])])
def test_each_of_several_maps_has_pictures_of_its_own(
    run, monkeypatch, others, folders):
  maps = np.ones((30, 8, 8), np.float32)
  _write_maps(run, 'mine', maps, **{f'map_{name}': maps for name in others})
  monkeypatch.setattr('deep_oc.pictures.write', lambda folder, within, **_: [
      (folder, within)])
  kept = []
  monkeypatch.setattr('deep_oc.pictures.remove_others',
                      lambda *given: kept.append(given))
  assert evaluate.draw(run) == run / 'pictures'
  assert kept == [(run / 'pictures', [
      (run / 'pictures', name) for name in folders])]


def test_pictures_of_maps_that_are_gone_are_removed(run, monkeypatch):
  def write(folder, within, **_):
    place = f'{within}/roc.png'
    pictures.save(Image.new('L', (1, 1)), folder / place, 'command', place)
    return [folder / place]

  monkeypatch.setattr(pictures, 'write', write)
  (run / 'pictures').mkdir()
  (run / 'pictures/mine.txt').write_text('')
  for name in 'a', 'b', 'a':
    maps = np.ones((30, 8, 8), np.float32)
    _write_maps(run, name, maps, **{f'map_{name}_too': maps})
    evaluate.draw(run)
    assert {path.name for path in (run / 'pictures').iterdir()} == {
        name, f'{name}_too', 'mine.txt'}
  (run / 'embeddings/maps.npz').unlink()
  assert evaluate.draw(run) is None
  assert [path.name for path in (run / 'pictures').iterdir()] == ['mine.txt']


def test_maps_of_fewer_images_are_an_error(run):
  _write_maps(run, 'windows', np.ones((20, 8, 8), np.float32))
  with pytest.raises(InputError, match='maps of .* are of other images than'):
    evaluate.evaluate(run, Request(['nn'], ['windows']))


def test_maps_that_changed_are_drawn_even_after_nopictures(
    run, main, monkeypatch):
  drawn = []

  def write(folder, maps, **given):
    folder.mkdir(exist_ok=True)
    drawn.append(maps.mean())
    return []
  monkeypatch.setattr('deep_oc.pictures.write', write)
  for value in 1, 2:
    _write_maps(run, 'windows', np.full((30, 8, 8), value, np.float32))
    main(pictures=value == 1)
  assert drawn == [1]
  main()
  assert drawn == [1, 2]
  assert not main() and not main(pictures=False) and drawn == [1, 2]


def test_test_labels_change_no_score(run):
  train, test, _ = embeddings.read_run(run)
  features = run_scores.choose(train, test, (), run)

  def scores():
    return [x().values for _, x in run_scores.score_features(
        train, test, features, Request(false_alarm_rate=0.1), 0)]
  before = scores()
  for name in ('anomaly', 'label'):
    test[name] = np.roll(test[name], 5)
  np.testing.assert_array_equal(scores(), before)
  del test['anomaly'], test['label'], train['anomaly'], train['label']
  np.testing.assert_array_equal(scores(), before)


def test_flagged_images_are_counted_and_have_p_values(run):
  """40 training rows, of which 8 calibrate; 18 of 30 test rows are normal."""
  plain, = evaluate.evaluate(run, Request(['kde'], ['pool']))
  assert not (run / 'p_values.csv').exists()
  row, = evaluate.evaluate(run, Request(['kde'], ['pool'],
                                        false_alarm_rate=0.25))
  with open(run / 'p_values.csv', newline='') as file:
    images = list(csv.DictReader(file))
  flagged = {'0': [], '1': []}
  for image in images:
    flagged[image['anomaly']].append(float(image['pool kde']) <= 0.25)
  assert [len(each) for each in flagged.values()] == [18, 12]
  # Of 8 the second largest is the threshold: 2 / (8 + 1) <= 0.25 < 3 / (8 + 1).
  low, high = stats.betabinom(18, 2, 7).interval(0.95) / np.array(18)
  alarms = {
      'false_alarm_rate': '25.00', 'calibration': 'held_out_8',
      'false_alarms': f"{100 * np.mean(flagged['0']):.2f}",
      'detected': f"{100 * np.mean(flagged['1']):.2f}",
      'false_alarms_low': f'{100 * low:.2f}',
      'false_alarms_high': f'{100 * high:.2f}'}
  assert row == plain | alarms
  assert float(row['detected']) > 90


def _hold_out(run, meta=META, **changed):
  """Adds 20 normal images that nothing has learnt from."""
  arrays = _split(7, 20)
  arrays['score_upright'] = -arrays['pool'][:, 0]
  written = {name: array for name, array in (arrays | changed).items()
             if array is not None}
  embeddings.write(run / 'embeddings/calibration.npz', written, meta)
  return arrays


def test_images_that_nothing_learnt_from_calibrate_classifiers_and_scores(run):
  held_out = _hold_out(run)
  plain = evaluate.evaluate(run, Request(['kde'], ['pool', 'score']))
  rows = evaluate.evaluate(
      run, Request(['kde'], ['pool', 'score'], false_alarm_rate=0.1))
  train, test, _ = embeddings.read_run(run)
  fitted = oneclass.fit('kde', train['pool'], 0)
  scores = {'pool kde': [oneclass.anomaly_score(fitted, each['pool'])
                         for each in (held_out, test)],
            'score upright': [each['score_upright']
                              for each in (held_out, test)]}
  with open(run / 'p_values.csv', newline='') as file:
    images = list(csv.DictReader(file))
  low, high = stats.betabinom(18, 2, 19).interval(0.95) / np.array(18)
  for row, before, (name, (calibration, tested)) in zip(
      rows, plain, scores.items(), strict=True):
    p = np.array([(1 + (calibration >= each).sum()) / 21 for each in tested])
    np.testing.assert_allclose(
        [float(image[name]) for image in images], p, atol=1e-6)
    flagged, anomaly = p <= 0.1, test['anomaly']
    assert row == before | {
        'false_alarm_rate': '10.00', 'calibration': 'unseen_20',
        'false_alarms': f'{100 * flagged[~anomaly].mean():.2f}',
        'detected': f'{100 * flagged[anomaly].mean():.2f}',
        'false_alarms_low': f'{100 * low:.2f}',
        'false_alarms_high': f'{100 * high:.2f}'}
  assert {row['feature'] for row in rows} == {'pool', 'score'}


def test_the_tasks_own_score_has_no_alarms_by_images_that_were_learnt(run):
  row, = evaluate.evaluate(run, Request((), ['score'], false_alarm_rate=0.1))
  assert row['false_alarm_rate'] == row['calibration'] == ''


@pytest.mark.parametrize('changed, words', [
    (dict(meta=META | {'step': 8}), 'step is 7 in train.npz, 8 in calibration'),
    (dict(meta=META | {'config_hash': 'd'}), 'abc in train.npz, d in calib'),
    (dict(pool=np.ones((20, 7), np.float32)),
     "'pool' .* 7 columns in calibration.npz, 8 in train.npz"),
    (dict(head=None), "'head' .* no columns in calibration.npz, 4 in train"),
    (dict(anomaly=np.arange(20) < 3),
     r"3 rows of .*calibration.npz are anomalous by 'anomaly'")])
def test_a_calibration_file_of_another_run_is_an_error(run, changed, words):
  _hold_out(run, **changed)
  done = _main(f'--runs={run}', '--false_alarm_rate=0.1')
  assert done.returncode == 2 and re.search(words, done.stderr), done.stderr


def test_a_run_that_lost_its_calibration_file_is_not_calibrated_otherwise(
    tmp_path):
  run = _write(tmp_path / 'run', meta=META | {'n_calibration': 20})
  with pytest.raises(InputError, match='no embeddings at .*calibration.npz'):
    evaluate.evaluate(run, Request(['nn'], ['pool'], false_alarm_rate=0.1))
  assert evaluate.evaluate(run, Request(['nn'], ['pool']))


def test_too_few_images_that_nothing_learnt_from_end_it_before_a_fit(
    run, monkeypatch):
  _hold_out(run)
  monkeypatch.delattr(oneclass, 'fit')
  with pytest.raises(
      InputError, match=f'{run}: .* 1 % takes 99 normal .* there are 20'):
    evaluate.evaluate(run, Request(['nn'], ['pool'], false_alarm_rate=0.01))


def test_every_score_is_calibrated_by_its_own(run):
  random = np.random.default_rng(0)
  own = {name: random.random((2, 20)) for name in ('score', 'windows')}
  arrays = _hold_out(run, score_rotation=own['score'][0],
                     score_upright=own['score'][1])
  tested = random.random((4, 30))
  path = run / 'embeddings/test.npz'
  test, meta = embeddings.read(path)
  embeddings.write(path, test | {
      'score_rotation': tested[0], 'score_upright': tested[1]}, meta)
  names = 'windows', 'random_windows'
  embeddings.write(run / 'embeddings/maps.npz', {
      f'map_{name}': each[:, None, None] * np.array([[1, 0.5]])
      for name, each in zip(names, tested[2:], strict=True)}, meta | {
          'calibration': dict(zip(names, own['windows'].tolist(),
                                  strict=True))})
  scores = run_scores.score_run(
      run, Request(['kde'], (), false_alarm_rate=0.1)).scores
  train, _, _ = embeddings.read_run(run)
  for (feature, name, _), score in scores.items():
    calibration = (
        own['score'][int(name == 'upright')] if feature == 'score' else
        own['windows'][names.index(feature)] if feature in names else
        oneclass.anomaly_score(oneclass.fit(name, train[feature]),
                               arrays[feature]))
    np.testing.assert_array_equal(score.alarms.p, [
        (1 + (calibration >= each).sum()) / 21 for each in score.values])
  assert {feature for feature, *_ in scores} == {
      'pool', 'head', 'random', 'pixels', 'score', *names}


def test_maxima_are_calibrated_by_training_images_that_were_left_out(run):
  random = np.random.default_rng(0)
  left_out, tested = random.random(20), random.random(30)
  _, meta = embeddings.read(run / 'embeddings/test.npz')
  embeddings.write(run / 'embeddings/maps.npz', {
      f'map_{name}': tested[:, None, None]
      for name in ('windows', 'random_windows')}, meta | {
          'calibration': {}, 'left_out': {'windows': left_out.tolist()}})
  scores = run_scores.score_run(run, Request(
      (), ('windows', 'random_windows'), false_alarm_rate=0.1)).scores
  found, other = (scores[name, '', 'image'].alarms
                  for name in ('windows', 'random_windows'))
  np.testing.assert_array_equal(found.p, [
      (1 + (left_out >= each).sum()) / 21 for each in tested])
  assert found.calibration == 'left_out_20' and other is None


def test_how_many_scores_there_will_be_is_known_first(run, monkeypatch):
  known = []
  monkeypatch.setattr(progress, 'bar', lambda each, *_, **__: (
      known.append(len(each)) or each))
  found = run_scores.score_run(run, Request(['nn', 'kde'], ['pool', 'head']))
  assert known == [len(found.scores)] == [4]


def test_anomalous_training_rows_are_not_fitted_in_silence(run):
  arrays = _split(0, 40) | {'anomaly': np.arange(40) < 5}
  embeddings.write(run / 'embeddings/train.npz', arrays, META)
  _assert_fails(_main(f'--runs={run}'), "5 rows of ", "by 'anomaly'", 'leave')


def test_few_images_calibrate_in_turn(run):
  row, = evaluate.evaluate(run, Request(['nn'], ['pool'],
                                        false_alarm_rate=0.05))
  assert row['calibration'] == 'folds_5'
  assert row['false_alarms_low'] == row['false_alarms_high'] == ''
  assert float(row['detected']) > 90


@pytest.mark.parametrize('rate, words', [
    ('5', 'false-alarm rate of 5.0 must lie between'),
    ('0.001', 'takes 999 normal images to calibrate with; there are 40')])
def test_a_false_alarm_rate_that_cannot_be_held_is_an_error(run, rate, words):
  _assert_fails(_main(f'--runs={run}', f'--false_alarm_rate={rate}'), words)


def test_what_a_run_is_too_small_for_names_it(run, main):
  _write(run.parent / 'seed1', 1, META | {'seed': 1})
  small = {name: array[:5] for name, array in _split(0, 40).items()}
  embeddings.write(run / 'embeddings/train.npz', small, META)
  with pytest.raises(InputError, match=(
      '^1 of 2 runs failed: runs/rotation_cifar10/3/seed0: .* there are 5, ')):
    main(false_alarm_rate=0.1)


def test_a_file_without_meta_has_empty_columns(tmp_path):
  row = evaluate.evaluate(_write(tmp_path, meta={}), Request(['nn']))[0]
  assert row['dataset'] == row['config_hash'] == row['seed'] == ''
  assert row['auroc'] != ''
  assert 'results' in rendering.text(tables.summarize([row]))


def test_flags_choose_classifiers_features_and_output(run, tmp_path):
  output = tmp_path / 'elsewhere/out.csv'
  done = _main(f'--runs={run}', '--classifiers=nn,kde', '--features=head,score',
               f'--output={output}')
  assert done.returncode == 0, done.stderr
  rows = tables.read(run / 'results.csv')
  assert [(row['feature'], row['classifier']) for row in rows] == [
      ('head', 'nn'), ('head', 'kde'), ('score', 'upright')]
  assert tables.read(output, tables.SUMMARY)


def test_one_call_sweeps_layers_and_parameters(run, tmp_path):
  done = _main(
      '--features=head,pool', '--classifiers=kde(gamma_scale=1|3), knn( k=2 ),'
      'sklearn.ensemble.IsolationForest(n_estimators=5)', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  rows = tables.read(run / 'results.csv')
  assert [(row['feature'], row['classifier']) for row in rows] == [
      (feature, spec) for feature in ('pool', 'head') for spec in (
          'kde(gamma_scale=1)', 'kde(gamma_scale=3)', 'knn(k=2)',
          'sklearn.ensemble.IsolationForest(n_estimators=5)')]
  params = [json.loads(row['classifier_params']) for row in rows]
  assert params[1]['gamma'] == pytest.approx(3 * params[0]['gamma'], rel=1e-5)
  assert params[2]['k'] == 2
  assert (params[3]['n_estimators'], params[3]['random_state']) == (5, 0)
  assert 'kde(gamma_scale=3)' in done.stdout


def test_the_random_classifiers_get_the_seed_of_the_run(run):
  _write(run, meta=META | {'seed': 6})
  row, = evaluate.evaluate(
      run, Request(['isolation_forest(n_estimators=5)'], ['head']))
  assert json.loads(row['classifier_params'])['random_state'] == 6


@pytest.mark.parametrize('given, seed', [
    (3, 3), ('3', 3), ('best', 0), (None, 0), (-1, 0), ('', 0), ('0+1', 0)])
def test_a_seed_is_a_number_however_it_is_written(given, seed):
  assert run_scores.seed_of({'seed': given}) == seed


def test_an_auroc_below_50_warns_but_not_of_a_baseline(run, capsys):
  rows = [{'feature': 'pool', 'classifier': 'kde', 'auroc': '49.99'},
          {'feature': 'head', 'classifier': 'kde', 'auroc': '50.00'},
          {'feature': 'random', 'classifier': 'kde', 'auroc': '10.00'}]
  evaluate.warn(run, rows)
  line, = capsys.readouterr().err.splitlines()
  assert 'pool/kde 49.99' in line
  assert 'head' not in line and 'random' not in line
  evaluate.warn(run, rows[1:])
  assert not capsys.readouterr().err


def test_an_encoder_that_has_unlearnt_warns(run, capsys):
  rows = [{'feature': feature, 'classifier': name, 'level': level,
           'auroc': auroc} for feature, name, level, auroc in (
               ('pool', 'kde', 'image', '86.5'), ('pool', 'nn', 'image', '90'),
               ('pool', 'gde', 'image', '60'), ('head', 'kde', 'image', '51'),
               ('random', 'kde', 'image', '100'), ('random', 'nn', 'image',
                                                   '90'))]
  evaluate.warn(run, rows)
  line, = capsys.readouterr().err.splitlines()
  assert 'AUROC 88.2 against 95.0, mean of 2 classifiers' in line
  rows[4]['auroc'] = '88.5'  # a point more in the mean, no less
  evaluate.warn(run, rows)
  assert not capsys.readouterr().err


@pytest.mark.parametrize('pattern, expected', [
    ('runs/**', 'runs'), ('/a/b*/c', '/a'), ('**', '.'), ('a/b', 'a/b'),
    ('a[[]1]/b*/c', 'a[1]'), ('a[1]/b', '.')])
def test_the_summary_stands_before_the_first_wildcard(pattern, expected):
  assert evaluate.root(pattern) == pathlib.Path(expected)


def test_runs_are_found_by_folder_pattern_and_parent(run, tmp_path):
  for pattern in (run, tmp_path / 'runs', tmp_path / '**',
                  tmp_path / 'runs/*/3/seed?'):
    assert evaluate.find_runs(str(pattern)) == [run]


def _truncated(data):
  return data[:len(data) // 2]


def _flipped(data):
  at = data.index(b'pool.npy') + 300
  return data[:at] + bytes([data[at] ^ 255]) + data[at + 1:]


def _pickled(data):
  del data
  buffer = io.BytesIO()
  np.savez(buffer, pool=np.array([{'a': 1}], dtype=object))
  return buffer.getvalue()


def _marked(offset, value):
  """Returns what sets a byte of the first entry of a zip file's directory."""
  def damage(data):
    at = data.index(b'PK\1\2') + offset
    return data[:at] + bytes([value]) + data[at + 1:]
  return damage


@pytest.mark.parametrize('damage', [
    _truncated, _flipped, _pickled, lambda data: b'', lambda data: b'no zip',
    _marked(6, 82), _marked(8, 1), _marked(10, 99)],
    ids=['truncated', 'flipped', 'pickled', 'empty', 'no zip', 'of version 8.2',
         'encrypted', 'of another compression'])
@pytest.mark.parametrize('name', ['train.npz', 'test.npz'])
def test_a_damaged_file_is_named(run, name, damage):
  path = run / 'embeddings' / name
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(InputError, match=f'{name} is not a readable'):
    evaluate.evaluate(run)


def test_a_damaged_compressed_file_is_named(run):
  path = run / 'embeddings/train.npz'
  with open(path, 'wb') as file:
    np.savez_compressed(file, pool=np.random.default_rng(0).random((99, 9)))
  with zipfile.ZipFile(path) as archive:
    start = archive.getinfo('pool.npy').header_offset + 60
  data = bytearray(path.read_bytes())
  data[start:start + 40] = b'\xff' * 40
  path.write_bytes(data)
  with pytest.raises(InputError, match='train.npz is not a readable'):
    evaluate.evaluate(run)


def test_a_damaged_run_fails_in_one_line_and_the_others_are_kept(
    run, tmp_path):
  bad = _write(run.parent.parent / '1/seed0')
  path = bad / 'embeddings/test.npz'
  path.write_bytes(path.read_bytes()[:99])
  old = bad / 'results.csv'
  old.write_text('old')
  done = _main('--classifiers=nn', cwd=tmp_path)
  _assert_fails(done, '1 of 2 runs', '1/seed0/embeddings/test.npz')
  assert tables.read(run / 'results.csv')
  assert tables.read(tmp_path / 'runs/summary.csv', tables.SUMMARY)
  assert old.read_text() == 'old'


@pytest.mark.parametrize('args, words', [
    (['--classifiers=kdee'], ["'kdee'", "'kde'"]),
    (['--classifiers=nn,knn(n=3|5)'], ["'n'", 'knn', 'k, metric']),
    (['--classifiers=nn,sklearn.svm.OneClasSVM'], ["'OneClassSVM'"]),
    (['--classifiers=kde(gamma_scale=1'], ['cannot read', 'gamma_scale=1|3']),
    (['--features=pol'], ["'pol'", "'pool'"]),
    (['--runs=nowhere/**'], ["'nowhere/**'", 'train one']),
    (['--clasifiers=kde'], ['clasifiers', 'classifiers']),
    (['--output=here/summary.md'], ['--output', 'names the CSV']),
    (['--output=here/summary.json'], ['--output', 'names the CSV']),
    (['more'], ["'more'"])])
def test_unknown_names_fail_with_the_nearest(run, tmp_path, args, words):
  _assert_fails(_main(*args, cwd=tmp_path), *words)
  assert not (run / 'results.csv').exists()


def test_a_place_that_cannot_be_written_to_is_named(run, tmp_path):
  (tmp_path / 'file').touch()
  output = tmp_path / 'file/summary.csv'
  done = _main('--classifiers=nn', f'--output={output}', cwd=tmp_path)
  _assert_fails(done, 'cannot write', str(output))
  assert tables.read(run / 'results.csv')  # what was computed is kept


@pytest.mark.parametrize('name', ['train.npz', 'test.npz'])
def test_a_missing_file_is_named(run, name):
  (run / 'embeddings' / name).unlink()
  workdir, = evaluate.find_runs(str(run))
  with pytest.raises(InputError, match=f'no embeddings at .*{name}'):
    evaluate.evaluate(workdir)


@pytest.mark.parametrize('key', ['config_hash', 'step'])
def test_files_of_different_runs_are_an_error(run, key):
  embeddings.write(run / 'embeddings/train.npz', _split(0, 40),
                   META | {key: 'other'})
  with pytest.raises(InputError, match=f'{key} is other'):
    evaluate.evaluate(run)


@pytest.mark.parametrize('anomaly, kind', [(0, 'normal'), (1, 'anomalous')])
def test_a_test_set_of_one_kind_is_an_error(run, anomaly, kind):
  _write(run, anomaly=np.full(30, anomaly, bool))
  with pytest.raises(InputError, match=f'all 30 rows .* are {kind}') as caught:
    evaluate.evaluate(run)
  assert 'deep_oc.predict` works without' in str(caught.value)
  assert ('data.anomalous_path' in str(caught.value)) == (kind == 'normal')


def test_features_of_different_width_are_an_error(run):
  _write(run, pool=np.ones((30, 9), np.float32))
  with pytest.raises(InputError, match="'pool' .* 8 columns .* 9 in"):
    evaluate.evaluate(run)


def test_a_feature_without_training_rows_is_an_error(run):
  _write(run, other=np.ones((30, 9), np.float32))
  with pytest.raises(InputError, match="'other' .* not in train.npz"):
    evaluate.evaluate(run)


def test_nan_is_an_error_that_names_the_array(run):
  _write(run, head=np.full((30, 4), np.nan, np.float32))
  with pytest.raises(InputError, match="'head' in .*test.npz"):
    evaluate.evaluate(run)


def test_no_feature_at_all_is_an_error(run):
  meta = {}
  for name, count in (('train', 0), ('test', 2)):
    embeddings.write(run / f'embeddings/{name}.npz',
                     {'anomaly': np.arange(4) < count}, meta)
  with pytest.raises(InputError, match='holds no feature'):
    evaluate.evaluate(run)


_BIG = """
import sys
from deep_oc import evaluate
evaluate.evaluate(evaluate.pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_20000_rows_take_less_than_4_gib(tmp_path):
  random = np.random.default_rng(0)
  mix = random.normal(size=(32, 512))
  for name in ('train', 'test'):
    pool = random.normal(size=(20_000, 32)) @ mix
    pool = np.maximum(pool + random.normal(size=pool.shape), 0)
    embeddings.write(tmp_path / f'embeddings/{name}.npz', {
        'pool': pool.astype(np.float32),
        'anomaly': (np.arange(20_000) % 2 == 1) & (name == 'test')}, {})
  kilobytes = peak_memory('-c', _BIG, str(tmp_path))
  print(f'{kilobytes / 2 ** 20:.2f} GiB')
  assert kilobytes < 4 * 2 ** 20


def test_features_without_any_score_leave_the_results_as_they_are(run):
  evaluate.evaluate(run, Request(('kde',)))
  before = (run / 'results.csv').read_bytes()
  embeddings.write(run / 'embeddings/maps.npz', {
      'map_gradcam': np.ones((30, 4, 4), np.float32)}, META)  # and no masks
  with pytest.raises(InputError, match=f'{run}: gradcam score neither images'):
    evaluate.evaluate(run, Request(features=('gradcam',)))
  assert (run / 'results.csv').read_bytes() == before


@pytest.mark.parametrize('name', ['gradcam', 'windows'])
def test_pictures_show_the_score_that_the_map_explains(run, monkeypatch, name):
  maps = np.random.default_rng(0).random((30, 8, 8), np.float32)
  _write_maps(run, name, maps, **{f'map_random_{name}': maps})
  drawn = []
  monkeypatch.setattr('deep_oc.pictures.write', lambda folder, **given: (
      drawn.append((given['scores'], given['title'])), [])[1])
  evaluate.draw(run)
  (scores, title), = drawn
  assert title == {'windows': 'windows, gde_oas', 'gradcam': 'pool, gde_oas'}[
      name]
  train, test = (_split(0, 40)['pool'], _split(1, 30, 12)['pool'])
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
  density = covariance.OAS().fit(unit[0])
  wanted = {'windows': maps.max(axis=(1, 2)),
            'gradcam': density.mahalanobis(unit[1]) / 2}[name]
  difference = scores - wanted
  np.testing.assert_allclose(difference, difference.mean(), rtol=1e-4)
  assert name == 'gradcam' or abs(difference).max() == 0


def test_without_a_pattern_nothing_is_looked_for(monkeypatch):
  monkeypatch.setattr(evaluate.files, 'glob', lambda _: pytest.fail('looked'))
  with pytest.raises(InputError, match='--runs is empty'):
    evaluate.find_runs('')


def test_a_run_that_has_not_ended_is_told_from_none(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text('{}')
  for pattern in (tmp_path / 'run', f'{tmp_path}/**'):
    with pytest.raises(InputError, match='not been trained to its end'):
      evaluate.find_runs(str(pattern))


@pytest.mark.parametrize('task, n, more', [
    ('rotation', 8, ()), ('rotation', 7, ('gde_ledoit_wolf',)),
    ('cutpaste', 8, ('gde_ledoit_wolf',))])
def test_the_recommended_classifier_is_among_those_fitted(task, n, more):
  assert run_scores._default('pool', np.zeros((n, 8)), task) == (
      *oneclass.PUBLISHED, *more)
