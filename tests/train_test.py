"""Stage 1 and 2 end to end, as a user starts them, on real small images."""
import json
import pathlib
import shutil
import signal
import time
import types

import jax
import numpy as np
import pytest
from conftest import the_error

from deep_oc import (embed, embeddings, evaluate, experiment, features, step,
                     together, train, training)
from deep_oc.bundle import passes
from deep_oc.errors import InputError
from deep_oc.scored import Request
from tests import tiny, untrained


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({'data.path': str(digits_npz), **overrides})
  return config


@pytest.fixture(scope='module')
def finished(digits_npz, tmp_path_factory):
  """A run that was never stopped, evaluated."""
  workdir = str(tmp_path_factory.mktemp('run'))
  train.train(_config(digits_npz), workdir)
  evaluate.evaluate(pathlib.Path(workdir))
  return pathlib.Path(workdir)


def _csv(workdir):
  evaluate.evaluate(pathlib.Path(workdir))
  return (pathlib.Path(workdir) / 'results.csv').read_bytes()


@pytest.mark.parametrize('trains', [
    train.train, lambda config: together.member(config, 'runs')])
def test_who_trains_is_told_what_to_note_of_the_images_and_nobody_after(
    tmp_path, caplog, trains):
  config = untrained.parts(tmp_path / 'parts')
  (tmp_path / 'parts/train/good/Thumbs.db').write_text('')
  config.train.batch = 500  # to stop there
  with pytest.raises(InputError, match='fewer than train.batch'):
    trains(config)
  assert [each.getMessage() for each in caplog.records] == [
      f'{tmp_path}/parts: left out: 1 .db files']
  caplog.clear()
  assert len(experiment.problem(config).train) == 24
  assert not caplog.records


def test_a_run_leaves_the_files_of_the_design(finished):
  assert {path.name for path in finished.iterdir()} == {
      'config.json', 'checkpoints', 'metrics.jsonl', 'tensorboard',
      'embeddings', 'results.csv', 'results.json'}
  rows = [json.loads(line)
          for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == [10, 20, 30, 40, 50, 60]
  assert {'loss', 'accuracy', 'steps_per_second'} <= set(rows[0])
  assert {'embedding_variance', 'effective_rank'} <= set(rows[1])
  assert list((finished / 'tensorboard').glob('events*'))
  assert sorted(path.name for path in (finished / 'checkpoints').iterdir()) == [
      '40', '60']


def test_the_embeddings_are_of_the_un_augmented_normals_and_the_test_set(
    finished, digits_npz):
  train_file, meta = embeddings.read(finished / 'embeddings/train.npz')
  test_file, test_meta = embeddings.read(finished / 'embeddings/test.npz')
  data = np.load(digits_npz)
  normal = np.flatnonzero(data['y_train'] == 3)
  np.testing.assert_array_equal(train_file['index'], normal)
  np.testing.assert_array_equal(test_file['label'], data['y_test'])
  np.testing.assert_array_equal(test_file['anomaly'], data['y_test'] != 3)
  assert not train_file['anomaly'].any()
  grey = data['x_train'][normal].reshape(len(normal), -1)
  np.testing.assert_array_equal(train_file['pixels'][:, ::3], grey)
  for name, d in (('pool', 16), ('head', 16), ('random', 16)):
    assert train_file[name].shape == (len(normal), d)
    assert test_file[name].shape == (597, d)
  assert {'score_upright', 'score_rotation'} <= set(test_file)
  assert (meta['step'], meta['checkpoint_rule'], meta['normal_name']) == (
      60, 'last', '3')
  assert test_meta == meta | {'class_names': list('0123456789')}


def test_the_baseline_is_the_untrained_network_of_the_runs_seed(
    digits_npz, tmp_path):
  found = []
  for seed in (0, 1):
    run = untrained.run(_config(digits_npz, seed=seed), tmp_path / str(seed))
    found.append(embeddings.read(run / 'embeddings/test.npz')[0])
    # At step 0 the run itself is still untrained.
    np.testing.assert_array_equal(found[seed]['random'], found[seed]['pool'])
  assert not np.allclose(found[0]['random'], found[1]['random'])


def test_features_do_not_depend_on_how_the_last_batch_is_filled(finished):
  from deep_oc import sharding
  _, problem, pretext, state = embed.restore(str(finished))
  got = features.embedder(pretext, sharding.mesh(), batch=50)(
      state.variables, problem.test.image[:120])['pool']
  whole = embeddings.read(finished / 'embeddings/test.npz')[0]['pool']
  np.testing.assert_allclose(got, whole[:120], rtol=1e-4, atol=1e-5)


def test_large_images_go_through_a_few_at_a_time(finished, monkeypatch):
  from deep_oc import sharding
  _, problem, pretext, state = embed.restore(str(finished))
  images = problem.test.image[:70]
  whole = features.embedder(pretext, sharding.mesh(), 64)(
      state.variables, images)['pool']
  monkeypatch.setattr(passes, '_PIXELS', 3 * 16 * 16)
  seen = []
  monkeypatch.setattr(np, 'pad', lambda image, padding, pad=np.pad: (
      seen.append(pad(image, padding)), seen[-1])[1])
  few = features.embedder(pretext, sharding.mesh(), 65)(
      state.variables, images)['pool']
  assert {len(each) for each in seen} == {3 + -3 % sharding.mesh().size}
  np.testing.assert_allclose(few, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('views, side, devices, batch, wanted', [
    (1, 256, 1, 256, 2), (8, 64, 1, 256, 4), (8, 64, 3, 256, 6),
    (1, 8, 1, 100, 100), (1, 1999, 1, 256, 1)])
def test_views_and_devices_are_counted_in_what_passes_at_once(
    monkeypatch, views, side, devices, batch, wanted):
  monkeypatch.setattr(passes, 'pixels_at_once', lambda: 2**17)
  mesh = types.SimpleNamespace(size=devices)
  assert features.at_once(views, side, side, mesh, batch) == wanted


def test_seed_zero_twice_gives_the_same_csv_and_seed_one_another(
    finished, digits_npz, tmp_path):
  again, other = tmp_path / 'again', tmp_path / 'other'
  train.train(_config(digits_npz), str(again))
  train.train(_config(digits_npz, seed=1), str(other))
  wanted = (finished / 'results.csv').read_bytes()
  assert _csv(again) == wanted
  pool = 'embeddings/test.npz', 'pool'
  one, two = (embeddings.read(run / pool[0])[0][pool[1]]
              for run in (finished, other))
  assert not np.allclose(one, two)
  assert _csv(other) != wanted


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(binary, finished, tmp_path):
  workdir = tmp_path / 'killed'
  arguments = 'train', f'--workdir={workdir}'
  process = binary(*arguments, wait=False)
  deadline = time.time() + 200
  while not (workdir / 'checkpoints' / '20').exists():
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (workdir / 'embeddings').exists()  # it was not done
  done = binary(*arguments)
  assert not done.returncode, done.stderr
  assert 'resuming at step' in done.stdout
  for name in ('train', 'test'):
    got = embeddings.read(workdir / f'embeddings/{name}.npz')[0]
    wanted = embeddings.read(finished / f'embeddings/{name}.npz')[0]
    for key, array in wanted.items():
      np.testing.assert_array_equal(got[key], array, err_msg=key)
  assert _csv(workdir) == (finished / 'results.csv').read_bytes()
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [10, 20, 30, 40, 50, 60]


def test_a_process_alone_saves_and_tells_by_the_clock_too(
    digits_npz, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(training, 'SAVE', -1)
  monkeypatch.setattr(training, 'TELL', -1)
  train.train(_config(digits_npz, **{
      'train.steps': 3, 'train.log_every': 100}), str(tmp_path))
  saved = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert saved == {'2', '3'}  # every step, and two are kept
  out = capsys.readouterr().out  # of the first it is known how long it took
  assert 'step 2 of 3' in out and 'step 1 of 3' not in out


def test_the_steps_that_it_tells_of_are_done(
    digits_npz, tmp_path, monkeypatch):
  monkeypatch.setattr(training, 'TELL', -1)
  given, told, make = [], [], step.make_steps

  def make_steps(*args):
    take = make(*args)

    def seen(*args):
      state, metrics = take(*args)
      given.append(metrics['loss'])
      return state, metrics
    return seen

  monkeypatch.setattr(step, 'make_steps', make_steps)
  monkeypatch.setattr(training, 'line', lambda now, *_: told.append(
      (now, all(each.is_ready() for each in given))) or '')
  train.train(_config(digits_npz, **{
      'train.steps': 60, 'train.batch': 64, 'train.log_every': 20,
      'encoder.channels': (64, 64)}), str(tmp_path))
  assert (20, True) in told and all(done for _, done in told)


def test_without_anomalies_to_test_the_next_command_is_predict(
    digits_npz, tmp_path, capsys):
  data = dict(np.load(digits_npz))
  normal = data['y_test'] == 3
  np.savez(tmp_path / 'normal.npz', **data | {
      'x_test': data['x_test'][normal], 'y_test': data['y_test'][normal]})
  train.train(_config(tmp_path / 'normal.npz', **{'train.steps': 1}),
              str(tmp_path / 'run'))
  out = capsys.readouterr().out
  assert 'deep_oc.predict' in out and 'deep_oc.evaluate' not in out


def test_a_finished_run_started_again_only_embeds(
    finished, digits_npz, monkeypatch):
  before = (finished / 'metrics.jsonl').read_text()
  monkeypatch.setattr(step, 'create_state', None)  # its own is on disk
  train.train(_config(digits_npz), str(finished))
  assert (finished / 'metrics.jsonl').read_text() == before


@pytest.mark.parametrize('overrides', [
    dict(), {'pretext': dict(name='contrastive', head=(32, 16),
                             augment=dict(crop=0.5, brightness=0.4)),
             'distribution': 'rot', 'method': 'dacl'}])
def test_learning_beats_the_untrained_encoder_on_real_digits(
    overrides, digits_npz, tmp_path):
  config = _config(digits_npz, **{
      'train.steps': 400, 'train.batch': 32, 'encoder.channels': (16, 32)})
  for key, value in overrides.items():
    del config[key]
    config[key] = value
  train.train(config, str(tmp_path))
  rows = {(row['feature'], row['classifier']): float(row['auroc'])
          for row in evaluate.evaluate(tmp_path, Request(['kde']))}
  assert rows['pool', 'kde'] > 85
  assert rows['pool', 'kde'] > rows['random', 'kde'] + 3
  scores = embeddings.read(tmp_path / 'embeddings/test.npz')[0]['pool']
  assert len(np.unique(scores, axis=0)) > 500  # images are told apart


def test_a_checkpoint_of_another_config_is_refused(finished, digits_npz):
  with pytest.raises(InputError, match='another config .*seed=0 there'):
    train.train(_config(digits_npz, seed=1), str(finished))
  assert (finished / 'results.csv').exists()


def test_the_time_of_the_first_step_is_not_in_the_rate(
    digits_npz, tmp_path, monkeypatch):
  make_steps, clock = step.make_steps, [0.0]

  def make(*args):
    take, taken = make_steps(*args), []

    def steps(*args):
      taken.append(1)
      clock[0] += 1 if taken[1:] else 100
      return take(*args)
    return steps
  monkeypatch.setattr(step, 'make_steps', make)
  monkeypatch.setattr(train.time, 'perf_counter', lambda: clock[0])
  train.train(_config(digits_npz, **{
      'train.steps': 20, 'train.log_every': 10}), str(tmp_path))
  rows = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['steps_per_second'] for row in rows] == [1, 1]


def test_a_checkpoint_of_another_network_names_the_array(
    finished, digits_npz, tmp_path):
  shutil.copytree(finished / 'checkpoints', tmp_path / 'checkpoints')
  with pytest.raises(InputError,
                     match='another config: .* there and .* here'):
    train.train(_config(digits_npz, **{'encoder.channels': (8, 24)}),
                str(tmp_path))


def test_a_damaged_checkpoint_that_is_asked_for_names_its_folder(
    finished, tmp_path):
  shutil.copytree(finished, tmp_path / 'run')
  for path in (tmp_path / 'run/checkpoints/60').rglob('*'):
    if path.is_file() and '/d/' in str(path):
      path.write_bytes(b'broken')
  with pytest.raises(InputError, match='checkpoints/60 .*one before'):
    embed.restore(str(tmp_path / 'run'), 60)


def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(finished):
  with pytest.raises(InputError, match=r'of step 77 in .*: 40, 60$'):
    embed.restore(str(finished), 77)


def test_too_few_images_for_the_batch(digits_npz, tmp_path):
  with pytest.raises(InputError, match=r'\d+ normal images.*batch=500'):
    train.train(_config(digits_npz, **{'train.batch': 500}), str(tmp_path))


def test_a_diverging_loss_stops_and_keeps_the_last_good_checkpoint(
    digits_npz, tmp_path):
  config = _config(digits_npz, **{'optimizer.learning_rate': 1e30})
  with pytest.raises(InputError, match='loss became nan.*learning_rate'):
    train.train(config, str(tmp_path))
  assert not (tmp_path / 'embeddings').exists()
  saved = list((tmp_path / 'checkpoints').iterdir())
  assert not saved  # the first would have been of step 20


@pytest.mark.parametrize('part', ['params', 'opt_state'])
def test_a_state_from_which_no_step_could_follow_is_not_saved(
    part, digits_npz, tmp_path, monkeypatch):
  finite = step.finite

  def spoilt(state):
    assert finite(state)
    leaves, tree = jax.tree.flatten(getattr(state, part))
    leaves[-1] = leaves[-1].at[0].set(np.inf)
    return finite(state.replace(**{part: tree.unflatten(leaves)}))
  monkeypatch.setattr(step, 'finite', spoilt)
  with pytest.raises(InputError, match='infinite by step 20, which'):
    train.train(_config(digits_npz), str(tmp_path))
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_a_collapse_is_reported(digits_npz, tmp_path, capfd):
  config = _config(digits_npz, **{'optimizer.learning_rate': 1e-9})
  train.train(config, str(tmp_path))
  out = capfd.readouterr()
  assert 'no better than guessing' in out.out + out.err


@pytest.mark.parametrize('arguments, words', [
    (['--config.pretext.augment.crp=1'], ['crp']),
    (['--config.protocol.normal=11'], ["normal class", '11']),
    (['--config.data.name=x', '--config.data.source=npy'], ["'npz'"]),
    (['--config.train.batch=0'], ['train.batch=0', 'a whole number from 1 on']),
    (['--config.seed=x'], ['seed', "'x' is not a whole number"]),
    (['--config.pretext.head=(8'], ["pretext.head='(8'", 'whole number']),
    (['--train.steps=3'], ["'train.steps'", '--config.train.steps']),
    (['surplus'], ["'surplus'"])])
def test_bad_flags_give_one_line_and_status_two(binary, arguments, words,
                                                tmp_path):
  line = the_error(binary('train', f'--workdir={tmp_path}/r', *arguments))
  assert all(word in line for word in words), line
  assert not (tmp_path / 'r').exists()


def test_a_missing_config_file_gives_one_line(binary):
  assert "'nowhere'" in the_error(binary('train', config='nowhere.py'))


def test_a_set_that_is_not_prepared_names_command_and_extra(binary, tmp_path):
  line = the_error(binary(
      'train', f'--workdir={tmp_path}/r', config='configs/dacl_cifar10.py',
      env={'TFDS_DATA_DIR': str(tmp_path), 'DEEP_OC_CACHE': str(tmp_path)}))
  assert '.[prepare]' in line and 'download_and_prepare' in line


def test_a_place_that_cannot_be_written_to_gives_one_line(binary, tmp_path):
  (tmp_path / 'file').write_text('')
  line = the_error(binary('train', f'--workdir={tmp_path}/file/run'))
  assert 'cannot write' in line and str(tmp_path) in line


def test_embedding_again_gives_the_same_files(binary, finished, tmp_path):
  shutil.copytree(finished, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/embeddings')
  done = binary('embed', f'--workdir={tmp_path}/run')
  assert not done.returncode, done.stderr
  for name in ('train', 'test'):
    got = embeddings.read(tmp_path / f'run/embeddings/{name}.npz')
    wanted = embeddings.read(finished / f'embeddings/{name}.npz')
    assert got[1] == wanted[1]
    np.testing.assert_array_equal(got[0]['pool'], wanted[0]['pool'])


def test_images_that_moved_are_found_by_data_dir(
    binary, finished, digits_npz, tmp_path):
  run, moved = tmp_path / 'run', tmp_path / 'moved.npz'
  shutil.copytree(finished, run)
  config = json.loads((run / 'config.json').read_text())
  config['config']['data']['path'] = str(tmp_path / 'gone.npz')
  (run / 'config.json').write_text(json.dumps(config))
  assert 'gone.npz' in the_error(binary('embed', f'--workdir={run}'))
  shutil.copy(digits_npz, moved)
  done = binary('embed', f'--workdir={run}', f'--data_dir={moved}')
  assert done.returncode == 0, done.stderr
  np.testing.assert_array_equal(*(
      embeddings.read(each / 'embeddings/test.npz')[0]['pool']
      for each in (run, finished)))


def test_images_are_the_same_if_their_small_pictures_are_or_none_are_known():
  image = np.random.default_rng(0).integers(0, 256, (2, 70, 65, 3), np.uint8)
  stored = embeddings.pixels(image)
  squares = image[:, :69, :63].reshape(2, 23, 3, 21, 3, 3)  # from the corner
  np.testing.assert_array_equal(
      stored.reshape(2, 23, 21, 3), squares.mean((2, 4)).round())
  for known in stored, None:
    embeddings.check_same(known, image, 'here')
  with pytest.raises(InputError, match='here holds other normal images'):
    embeddings.check_same(stored, image[::-1], 'here')


def test_other_images_are_not_embedded_in_a_runs_place(
    finished, digits_npz, tmp_path):
  shutil.copytree(finished, tmp_path / 'run')
  data = dict(np.load(digits_npz))
  np.savez(tmp_path / 'other.npz', **data | {'x_train': 255 - data['x_train']})
  with pytest.raises(InputError,
                     match='--data_dir=.*/other.npz holds other normal'):
    embed.restore(str(tmp_path / 'run'), data_dir=str(tmp_path / 'other.npz'))


def test_a_moved_run_keeps_the_hash_of_its_config(
    finished, digits_npz, tmp_path):
  run, moved = tmp_path / 'run', tmp_path / 'moved.npz'
  shutil.copytree(finished, run)
  shutil.copy(digits_npz, moved)
  features.export(str(run), *embed.restore(str(run), data_dir=str(moved)))
  assert embeddings.read(run / 'embeddings/test.npz')[1] == embeddings.read(
      finished / 'embeddings/test.npz')[1]


def test_embeddings_of_an_earlier_step_say_that_it_was_chosen(
    finished, tmp_path):
  shutil.copytree(finished, tmp_path / 'run')
  features.export(str(tmp_path / 'run'),
                  *embed.restore(str(tmp_path / 'run'), at=40))
  _, meta = embeddings.read(tmp_path / 'run/embeddings/test.npz')
  assert (meta['step'], meta['checkpoint_rule']) == (40, 'chosen')


def test_embedding_a_folder_without_a_run_gives_one_line(binary, tmp_path):
  assert 'no run in' in the_error(binary('embed', f'--workdir={tmp_path}'))


def test_the_folder_says_what_made_it(finished):
  content = json.loads((finished / 'config.json').read_text())
  assert content['versions']['jax'] == jax.__version__
  assert content['config']['train']['steps'] == 60


def test_bfloat16_compute_learns_too_and_keeps_float32_state(
    digits_npz, tmp_path):
  config = _config(digits_npz, **{
      'dtype': 'bfloat16', 'train.steps': 200, 'train.batch': 32})
  train.train(config, str(tmp_path))
  rows = [json.loads(line)
          for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['accuracy'] > rows[0]['accuracy'] + 0.2
  _, _, pretext, state = embed.restore(str(tmp_path))
  assert pretext.dtype == pretext.encoder.dtype == 'bfloat16'
  assert {x.dtype.name for x in jax.tree.leaves(state.variables)} == {'float32'}


def test_without_a_terminal_progress_is_told_in_lines(binary, tmp_path):
  done = binary('train', f'--workdir={tmp_path}/run')
  assert 'step 40 of 60' in done.stdout and 'steps/s' in done.stdout
  assert not done.stderr
