"""`python -m deep_oc.export`: real processes; refusals lose nothing."""
import json
import pathlib
import re
import types

import jax
import numpy as np
import pytest
from conftest import the_error
from PIL import Image

import deep_oc
from deep_oc import (bundle, embeddings, export, features, heat_colours,
                     model_card, parity, programs, scored, step)
from deep_oc.errors import InputError
from tests import parallel, untrained


@pytest.fixture(scope='module')
def folder(digits_npz, tmp_path_factory):
  root = tmp_path_factory.mktemp('digits')
  return untrained.run(untrained.digits(digits_npz), root / 'run')


def _content(folder):
  return {path.relative_to(folder): path.read_bytes()
          for path in folder.rglob('*') if path.is_file()}


def test_a_run_is_exported_and_the_card_tells_of_it(folder, binary, tmp_path):
  (folder / 'results.csv').write_text(
      'feature,classifier,level,auroc,auroc_low,auroc_high,auprc,fpr95,'
      'n_test_normal,n_test_anomalous\n'
      'pool,kde,image,12.34,10.00,14.00,50.00,60.00,59,538\n'
      'head,kde,image,98.76,1,2,3,4,5,6\n')
  done = binary('export', f'--workdir={folder}', f'--output={tmp_path}/b')
  assert done.returncode == 0, done.stderr
  taken = bundle.load(tmp_path / 'b')
  assert f'--workdir={folder}' in taken.about['command']
  assert taken.about['parity']['images'] == {'test': 64, 'noise': 14}
  assert taken.about['parity']['batches'] == [1, 2, 7, 68]
  card = (tmp_path / 'b' / 'README.md').read_text()
  for words in ("'3' of digits", '121 training images', '12.34', '59 | 538',
                taken.about['config_hash'], taken.about['command'],
                'predict.py photos', '78 images'):
    assert words in ' '.join(card.split()), words
  assert '98.76' not in card and '{' not in card
  for rule, words in (('last', 'the last one: nothing was chosen by test'),
                      ('chosen', 'an earlier one than the last, asked for')):
    # That of this run is its first, for it is not trained.
    assert (f'step 0, {words}' in ' '.join(card.split())) == (
        rule == 'chosen')
    other = model_card.write(taken.about | {
        'run': taken.about['run'] | {
            'checkpoint_rule': rule,
            'encoder': 'resnet18(mean=[0.5, 0.5, 0.5],weights=/a/r18.pth)'},
        'image_shape': [20, 30, 3], 'feature': 'windows',
        'preprocessing': taken.about['preprocessing'] | {'pad': 0}}, [])
    assert '=predictions.csv --regions=regions.csv\n' in other
    assert f'step 0, {words}' in ' '.join(other.split())
    assert 'are brought to 30×20 pixels' in ' '.join(other.split())
    assert 'Encoder resnet18(mean=0.5,weights=r18.pth), taught' in other
  assert 'as it was given (' in model_card.write(
      taken.about | {'learnt': False}, [])
  lines = card.splitlines()
  assert {line for line in lines if len(line) > 80} <= {
      taken.about['command']}
  assert {'## Parity', '|---|---|---|---|---|---|', taken.about['command'],
          'python predict.py photos --output=predictions.csv'} <= set(lines)
  assert sorted(tmp_path.iterdir()) == [tmp_path / 'b']


@pytest.mark.parametrize('calibration, of_another_fit', [
    ('unseen_20', False), ('left_out_20', False), ('held_out_20', True),
    ('folds_5', True)])
def test_the_card_says_whether_its_results_are_of_another_fit(
    calibration, of_another_fit):
  found = model_card._table([{'auroc': '12.34'}], calibration)
  assert '12.34' in found
  assert ('less those that calibrate' in found) == of_another_fit


def test_a_folder_of_normal_photos_calibrates_a_bundle(
    folder, binary, tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'normal').mkdir()
  for i in range(19):
    Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).save(
        tmp_path / f'normal/{i}.png')
  done = binary('export', f'--workdir={folder}', f'--output={tmp_path}/b',
                f'--calibration={tmp_path}/normal')
  assert done.returncode == 0, done.stderr
  taken = bundle.load(tmp_path / 'b')
  found = deep_oc.load(folder)
  normal = np.stack([found.prepare(path) for path in sorted(
      (tmp_path / 'normal').iterdir())])
  judged = taken.judge(normal)
  assert taken.about['calibration'] == 'unseen_19'
  # Each of 19 by all of them, itself among them.
  np.testing.assert_allclose(
      np.sort(judged.p_value), np.arange(2, 21) / 20, atol=0.051)
  assert taken.threshold == pytest.approx(judged.score.max())


@pytest.mark.parametrize('args, words', [
    (['--workdir=nowhere'], 'no run in'),
    (['--workdir={run}', '--calibration=nowhere'], 'no image at nowhere'),
    (['--workdir={run}', '--classifier=lof'],
     'LOF cannot be exported.*these can: ocsvm_linear, .*kde'),
    (['--workdir={run}', '--feature=windows'], "unknown feature .*'windows'"),
    (['--workdir={run}', '--output=gs://bucket/b'], 'is not on this disk')])
def test_bad_input_is_one_line(folder, binary, args, words):
  before = _content(folder)
  done = binary('export', *(each.format(run=folder) for each in args))
  assert re.search(words, the_error(done))
  assert _content(folder) == before


@pytest.mark.parametrize('feature, classifier, wanted', [
    (None, None, 'windows'), (None, 'kde', 'pool'),
    ('windows', None, 'windows'), ('head', None, 'head')])
def test_what_judges_by_default_is_known_before_anything_is_fitted(
    monkeypatch, feature, classifier, wanted):
  checked = []
  monkeypatch.setattr(export.flags, 'FLAGS', types.SimpleNamespace(
      workdir='run', output='bundle', classifier=classifier, feature=feature,
      onnx=True, false_alarm_rate=0.05, data_dir=None, calibration=None))
  monkeypatch.setattr(export.jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(export.onnx_model, 'check_installed', lambda: None)
  monkeypatch.setattr(export.onnx_model, 'check_passes', checked.append)
  monkeypatch.setattr(export.portable_maps, 'apart', lambda *maps: maps)
  monkeypatch.setattr(export.trained_run, 'windows', lambda workdir: [workdir])
  monkeypatch.setattr(export.trained_run, 'recommended', lambda workdir, named:
                      scored.recommended('frozen', 'windows', named))

  def load(workdir, *, feature, classifier, **_):
    raise InputError(f'{feature} by {classifier}')

  monkeypatch.setattr(export.trained_run, 'load', load)
  with pytest.raises(InputError, match=f'{wanted} by {classifier}'):
    export.main()
  assert len(checked) == (wanted == 'windows')


def test_a_bundle_gets_the_colours_of_the_runs_pictures(tmp_path, monkeypatch):
  maps = np.random.default_rng(0).random((9, 4, 6), np.float32)
  anomaly = np.arange(9) > 5
  embeddings.write(tmp_path / 'embeddings/maps.npz', {
      'map_windows': maps, 'anomaly': anomaly}, {})
  monkeypatch.setattr(export.flags, 'FLAGS', types.SimpleNamespace(
      workdir=str(tmp_path), output=None, classifier=None, feature='windows',
      onnx=False, false_alarm_rate=0.05, data_dir=None, calibration=None))
  monkeypatch.setattr(export.jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(export.trained_run, 'load', lambda *_, **__:
                      types.SimpleNamespace(
                          classifier='knn', feature='windows',
                          about={'step': 1}, localizes='windows'))
  monkeypatch.setattr(export.model_card, 'results', lambda *_: [])
  given = []

  def take(found, output, results, command, onnx, limits):
    given.append(limits)
    raise InputError('enough')

  monkeypatch.setattr(export, 'export', take)
  with pytest.raises(InputError, match='enough'):
    export.main()
  assert given == [heat_colours.scale(maps, anomaly)]


def test_a_folder_that_is_no_bundle_is_not_replaced(folder):
  before = _content(folder)
  with pytest.raises(InputError, match='is there and is no bundle'):
    export.export(deep_oc.load(folder), folder, [], '')
  assert _content(folder) == before


def test_a_bundle_that_differs_is_refused_and_the_old_one_stays(
    folder, tmp_path, monkeypatch):
  found, output = deep_oc.load(folder), tmp_path / 'bundle'
  export.export(found, output, [], 'the first')
  before = _content(output)
  made = programs.classifier

  def off(*args):
    program = made(*args)
    arrays = {name: array * (1 + 1e-3) if name.endswith('rows') else array
              for name, array in program.arrays.items()}
    return program._replace(arrays=arrays)

  monkeypatch.setattr(programs, 'classifier', off)
  with pytest.raises(InputError, match='score of an image is .*1e-05 apart'):
    export.export(found, output, [], 'the second')
  assert _content(output) == before
  assert sorted(tmp_path.iterdir()) == [output]
  with pytest.raises(InputError, match='apart'):
    export.export(found, tmp_path / 'new', [], '')
  assert sorted(tmp_path.iterdir()) == [output]


def test_a_bundle_is_not_blamed_for_what_nobody_reads(
    folder, tmp_path, monkeypatch):
  def unread(*_):
    raise BrokenPipeError
  monkeypatch.setattr(export, '_write', unread)
  with pytest.raises(BrokenPipeError):
    export.export(deep_oc.load(folder), tmp_path / 'bundle', [], '')
  assert not list(tmp_path.iterdir())


def test_a_bundle_takes_the_place_of_an_older_one(folder, tmp_path):
  found, output = deep_oc.load(folder), tmp_path / 'bundle'
  export.export(found, output, [], 'the first')
  (output / 'left').write_text('over')
  export.export(found, output, [], 'the second')
  assert bundle.load(output).about['command'] == 'the second'
  assert not (output / 'left').exists()
  assert sorted(tmp_path.iterdir()) == [output]


def test_an_interruption_between_two_renames_loses_no_bundle(
    tmp_path, monkeypatch):
  output, folder = tmp_path / 'bundle', tmp_path / 'aside' / 'bundle'
  for each in (output, folder):
    each.mkdir(parents=True)
  (output / 'old').touch()
  rename = pathlib.Path.rename

  def interrupted(path, target):
    rename(path, target)
    if target.name == 'former':
      raise KeyboardInterrupt
  monkeypatch.setattr(pathlib.Path, 'rename', interrupted)
  with pytest.raises(KeyboardInterrupt):
    export._replace(output, folder)
  assert (output / 'old').exists()


def test_pictures_that_are_prepared_otherwise_are_refused(
    folder, tmp_path, monkeypatch):
  found = deep_oc.load(folder)
  prepare = found.prepare
  monkeypatch.setattr(found, 'prepare', lambda picture: prepare(picture) ^ 1)
  with pytest.raises(InputError, match='prepares 6 of 6 pictures otherwise'):
    export.export(found, tmp_path / 'bundle', [], '')


def test_a_reader_that_fails_is_refused(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(export, '_READER', tmp_path)  # nothing to copy
  with pytest.raises(InputError, match='cannot be used by itself: .*bundle'):
    export.export(deep_oc.load(folder), tmp_path / 'out' / 'b', [], '')
  assert not list((tmp_path / 'out').iterdir())


def test_without_its_images_a_run_is_compared_by_noise(
    folder, tmp_path, capsys):
  found = deep_oc.load(folder)
  found._config.data.path = '/not/there.npz'
  about = export.export(found, tmp_path / 'bundle', [], '')
  assert about['parity']['images'] == {'noise': 14}
  assert 'noise only' in capsys.readouterr().out


def test_unused_weights_are_left_out(folder):
  found = deep_oc.load(folder)
  parts = found.parts()
  pool, head = (programs.network(programs.pooled(parts.pretext, name),
                                 parts.variables, found.image_shape)
                for name in ('pool', 'head'))
  assert not any('mlp' in name or 'classifier' in name for name in pool.arrays)
  assert {name for name in head.arrays if 'mlp' in name}
  assert (pool.shape, head.shape) == ((16,), (16,))


@pytest.mark.parametrize('task', [
    task for task in parallel._TASKS
    if hasattr(parallel.pretext(task), 'scores')])
def test_scores_of_every_task_are_exported_for_any_number_of_images(task):
  pretext, images = parallel.pretext(task), parallel.images(task)[:3]
  variables = step.init(pretext, 0, images.shape[1:])
  variables['statistics'] = jax.tree.map(  # which training would tell
      lambda x: np.random.default_rng(0).uniform(1, 3, x.shape).astype(x.dtype),
      variables.get('statistics', {}))
  wanted = pretext.apply(variables, np.float32(images) / 255, method='scores')
  for name, score in wanted.items():
    assert np.isfinite(score).all()
    found = programs.network(programs.judged(pretext, 'score', name),
                             variables, images.shape[1:])
    got = jax.export.deserialize(found.content).call(found.arrays, images)
    np.testing.assert_allclose(got[:, 0], score, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('feature, wanted', [
    ('pool', [1e-3, 5e-4, 5e-6]), ('score', [5e-6, 5e-6, 5e-6]),
    ('windows', [5e-6, 5e-6, 5e-6])])
def test_scores_are_compared_by_their_size_or_by_the_largest(feature, wanted):
  score = np.array([0.5, -2, 200])
  found = types.SimpleNamespace(feature=feature)
  np.testing.assert_allclose(
      parity.relative(score, score + 1e-3, found), wanted, rtol=1e-6)


def test_a_score_that_is_no_number_is_never_close(folder):
  found = deep_oc.load(folder)
  judged = found.judge(np.zeros((4, *found.image_shape), np.uint8))
  got = judged._asdict() | {'score': np.full(4, np.nan)}
  with pytest.raises(InputError, match='nan'):
    parity._scores(judged, got, found)


@pytest.mark.slow
def test_few_images_of_many_dimensions_are_scored_alike(tmp_path):
  config = untrained.parts(tmp_path / 'data')
  with config.unlocked():
    config.encoder = dict(name='resnet', depth=18, width=0.5)
  found = deep_oc.load(untrained.run(config, tmp_path / 'run'),
                       false_alarm_rate=0.2)
  about = export.export(found, tmp_path / 'bundle', [], '')
  # Sums in another order: 3e-7 of scores, 2e-5 of Grad-CAM's maps.
  assert about['parity']['max_relative_difference'] < 1e-9
  assert about['parity']['max_map_difference'] < 1e-9
  assert 0 < about['parity']['max_batch_difference'] < 1e-5
  images = parity.examples(found).images
  apart = [found.judge(each[None], 1).score[0] for each in images[:10]]
  together = found.judge(images).score[:10]
  assert about['parity']['max_batch_difference'] >= (
      np.abs(apart[0] - together[0]) / max(1, np.abs(apart[0])))


def test_the_trainer_is_asked_with_the_batches_of_the_bundle(
    folder, tmp_path, monkeypatch):
  found = deep_oc.load(folder)
  export.export(found, tmp_path / 'bundle', [], '')
  taken = bundle.load(tmp_path / 'bundle')
  images, _ = parity.examples(found)
  batches, asked = [], []
  taken.judge(images[:1])
  program = taken._programs['model']
  call = program._call
  monkeypatch.setattr(program, '_call', lambda arrays, rows: (
      batches.append(len(rows)), call(arrays, rows))[1])
  for each in np.split(images, np.cumsum(parity.SIZES)):
    taken.judge(each)
  made = features.embedder
  monkeypatch.setattr(features, 'embedder', lambda pretext, mesh, batch, *of: (
      asked.append(batch), made(pretext, mesh, batch, *of))[1])
  parity._wanted(images, found)
  assert asked == batches == [1, 2, 8, 128]


def test_without_results_the_card_says_so(tmp_path):
  assert model_card.results(str(tmp_path), 'pool', 'kde') == []
  assert 'deep_oc.evaluate' in model_card._table([], 'unseen_20')


def test_the_files_of_a_bundle_are_listed_with_their_checksums(
    folder, tmp_path):
  export.export(deep_oc.load(folder), tmp_path / 'b', [], '')
  about = json.loads((tmp_path / 'b' / 'bundle.json').read_text())
  assert set(about['files']) | {'bundle.json'} == {
      str(path) for path in _content(tmp_path / 'b')}
