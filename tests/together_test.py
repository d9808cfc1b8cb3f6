"""Runs that are trained together are what they would have been alone."""
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from conftest import ROOT, the_error

from deep_oc import (embeddings, errors, features, files, fleets, together,
                     train, training)
from tests import tiny

# At a higher one, rounding grows to a percent of the loss within 60 steps.
RATE = 2e-3
RUNS = [f'--run=protocol.normal={normal} seed={seed}'
        for normal in (3, 4) for seed in (0, 1)]


def start(root, digits, *args, devices=1):
  return subprocess.Popen(
      [sys.executable, '-m', 'deep_oc.together', '--config=tests/tiny.py',
       f'--set=data.path={digits}', f'--root={root}',
       f'--set=optimizer.learning_rate={RATE}', *args], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu',
                        'JAX_NUM_CPU_DEVICES': str(devices)})


def finish(process):
  out, err = process.communicate(timeout=300)
  return subprocess.CompletedProcess(
      process.args, process.returncode, out, err)


def losses(workdir):
  rows = [json.loads(line) for line in
          (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {row['step']: row['loss'] for row in rows}


def files_of(workdir):
  """Returns the names below a run's folder, checkpoints as their steps."""
  found = {str(path.relative_to(workdir)) for path in workdir.rglob('*')}
  return {name for name in found if name.count('/') < 2
          and not name.startswith('tensorboard/')}


@pytest.fixture(scope='module')
def crew(digits_npz, tmp_path_factory):
  """Four runs on two devices, of which one has two models at a time."""
  root = tmp_path_factory.mktemp('together')
  done = finish(start(root, digits_npz, *RUNS, '--at_once=2', devices=2))
  assert done.returncode == 0, done.stderr
  return root / 'tiny', done


@pytest.fixture(scope='module')
def alone(digits_npz, tmp_path_factory):
  """Two of these runs, each trained by itself."""
  root = tmp_path_factory.mktemp('alone')
  for normal, seed in ((3, 1), (4, 0)):
    config = tiny.get_config()
    config.data.path = str(digits_npz)
    config.update(seed=seed)
    config.optimizer.learning_rate = RATE
    config.protocol.normal = str(normal)
    train.train(config, str(root / str(normal) / f'seed{seed}'))
  return root


@pytest.mark.parametrize('name', ['3/seed1', '4/seed0'])
def test_each_run_has_the_losses_and_features_that_it_has_alone(
    name, crew, alone):
  one, other = crew[0] / name, alone / name
  found, wanted = losses(one), losses(other)
  assert found.keys() == wanted.keys() and len(wanted) == 6
  np.testing.assert_allclose(
      list(found.values()), list(wanted.values()), rtol=1e-4)
  for split in ('train', 'test'):
    x, meta = embeddings.read(one / 'embeddings' / f'{split}.npz')
    y, same = embeddings.read(other / 'embeddings' / f'{split}.npz')
    assert x.keys() == y.keys() and meta == same
    np.testing.assert_array_equal(x['index'], y['index'])
    spread = y['pool'].std()
    assert np.abs(x['pool'] - y['pool']).max() < 1e-2 * spread
  assert files_of(one) == files_of(other)


def test_runs_differ_from_each_other(crew):
  ends = [list(losses(path).values())[-1] for path in crew[0].glob('*/seed*')]
  assert len(set(ends)) == 4


def test_what_is_finished_is_not_trained_again(crew, digits_npz):
  root, _ = crew
  before = (root / '3/seed0/embeddings/test.npz').stat().st_mtime_ns
  again = finish(start(root.parent, digits_npz, *RUNS))
  assert again.returncode == 0 and 'steps on' not in again.stdout
  assert before == (root / '3/seed0/embeddings/test.npz').stat().st_mtime_ns


@pytest.mark.slow
def test_a_run_that_was_begun_together_is_resumed_alone(
    binary, digits_npz, alone, tmp_path):
  process = start(tmp_path, digits_npz, *RUNS, '--at_once=1',
                  '--set=train.log_every=1')
  checkpoint = tmp_path / 'tiny/3/seed0/checkpoints/20'
  while not checkpoint.exists() and process.poll() is None:
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  stopped = finish(process)
  assert stopped.returncode == 75, stopped.stderr
  assert 'the same command resumes' in stopped.stderr
  one = binary(
      'train', '--config.protocol.normal=3', '--config.seed=1',
      '--config.train.log_every=1', f'--config.optimizer.learning_rate={RATE}',
      f'--workdir={tmp_path}/tiny/3/seed1')
  assert one.returncode == 0, one.stderr
  done = finish(start(tmp_path, digits_npz, *RUNS, '--at_once=1',
                      '--set=train.log_every=1'))
  assert done.returncode == 0, done.stderr
  assert 'resuming at step' in done.stdout
  for name in ('3/seed1', '4/seed0'):
    found = losses(tmp_path / 'tiny' / name)
    wanted = losses(alone / name)
    assert list(found) == list(range(1, 61))
    last = [found[step] for step in range(51, 61)]
    np.testing.assert_allclose(np.mean(last), wanted[60], rtol=1e-4)


def test_it_is_measured_how_many_at_once_pay(digits_npz, tmp_path):
  done = finish(start(tmp_path, digits_npz, *RUNS[:2]))
  assert done.returncode == 0, done.stderr
  [line] = [line for line in done.stdout.splitlines() if '(1.00 ×)' in line]
  assert '2: ' in line and 'at once' in line


def test_more_models_than_fit_are_not_tried_again(monkeypatch, capsys):
  rates = {1: 10., 2: 18., 4: jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory'), 8: 99.}

  def rate(program, of, count):
    if isinstance(rates[count], Exception):
      raise rates[count]
    return rates[count]
  monkeypatch.setattr(together, '_rate', rate)
  of = types.SimpleNamespace(start=0, total=60)
  assert together.what_pays(None, of, 8) == 2
  assert '2: 18 (1.80 ×); training 2 at once' in capsys.readouterr().out
  rates[1] = rates[4]
  with pytest.raises(jax.errors.JaxRuntimeError):
    together.what_pays(None, of, 8)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_no_ones_matter_but_its_run_s(
    digits_npz, tmp_path):
  runs_ = [*RUNS[:2], '--at_once=1', '--set=train.steps=20',
           '--set=train.checkpoint_every=10']
  assert finish(start(tmp_path, digits_npz, *runs_)).returncode == 0
  for seed in range(2):
    shutil.rmtree(tmp_path / f'tiny/3/seed{seed}/embeddings')
  for path in (tmp_path / 'tiny/3/seed1/checkpoints/20').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  done = finish(start(tmp_path, digits_npz, *runs_))
  assert done.returncode == 0, done.stderr
  assert 'seed1/checkpoints/20' in done.stderr and 'passed over' in done.stderr
  assert 'resuming at step 10' in done.stdout
  for seed in range(2):
    assert (tmp_path / f'tiny/3/seed{seed}/embeddings/test.npz').exists()


def test_several_runs_too_are_saved_and_told_of_by_the_clock(
    digits_npz, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(training, 'SAVE', -1)
  monkeypatch.setattr(training, 'TELL', -1)
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  config.train.update(steps=3, log_every=100)
  members = []
  for config.seed in range(2):
    members.append(together.member(config, str(tmp_path)))
  assert together.train_together(members, at_once=2) == []
  for seed in range(2):
    saved = (tmp_path / f'tiny/3/seed{seed}/checkpoints').iterdir()
    assert {path.name for path in saved} == {'2', '3'}  # the newest two
  assert '3, seed 0 and 1 others: step 2 of 3' in capsys.readouterr().out


def test_one_run_that_cannot_be_leaves_the_others(digits_npz, tmp_path):
  done = finish(start(
      tmp_path, digits_npz, *RUNS[:2], '--at_once=1',
      '--run=protocol.normal=5 seed=0 train.batch=5000',
      '--run=protocol.normal=6 seed=0 optimizer.weight_decay=1e30 '
      'train.steps=1000000'))
  said = the_error(done)
  assert 'fewer than train.batch=5000' in said and 'the loss became' in said
  for seed in range(2):
    assert (tmp_path / f'tiny/3/seed{seed}/embeddings/test.npz').exists()
  assert not (tmp_path / 'tiny/6/seed0/embeddings/test.npz').exists()


def _members(digits_npz, root, **train_fields):
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  config.train.update(steps=3, **train_fields)
  members = []
  for config.seed in range(2):
    members.append(together.member(config, str(root)))
  return members


def test_a_run_that_cannot_be_embedded_leaves_the_others(
    digits_npz, tmp_path, monkeypatch):
  members = _members(digits_npz, tmp_path)
  export = features.export

  def refuse(workdir, *args):
    if workdir == members[0].workdir:
      raise errors.InputError('no embeddings today')
    export(workdir, *args)
  monkeypatch.setattr(features, 'export', refuse)
  failed, = together.train_together(members, at_once=2)
  assert str(failed) == '3, seed 0: no embeddings today'
  assert not (tmp_path / 'tiny/3/seed0/embeddings').exists()
  assert (tmp_path / 'tiny/3/seed1/embeddings/test.npz').exists()

  def full(workdir, *args):
    raise files.WriteError('the disk is full')
  monkeypatch.setattr(features, 'export', full)
  with pytest.raises(files.WriteError):
    together.train_together(
        _members(digits_npz, tmp_path / 'full'), at_once=1)


@pytest.mark.parametrize('at_once', [0, 2])
def test_runs_that_cannot_be_trained_leave_those_of_other_shapes(
    at_once, digits_npz, tmp_path, monkeypatch):
  monkeypatch.setattr(together, '_MOST', 1)  # and soon measured
  members = _members(digits_npz, tmp_path / 'a') + _members(
      digits_npz, tmp_path / 'b', accumulate=2)
  choose = fleets.storage.choose
  monkeypatch.setattr(fleets.storage, 'choose', lambda *args: (
      'streamed' if len(chosen) == 0 and not chosen.append(1) else
      choose(*args)))
  chosen = []
  failed = together.train_together(members, at_once)
  assert len(failed) == 2 and all(
      'take more than half' in str(each) for each in failed)
  assert not (tmp_path / 'a/tiny/3/seed0/embeddings').exists()
  assert (tmp_path / 'b/tiny/3/seed0/embeddings/test.npz').exists()


def test_a_full_device_leaves_the_runs_that_it_has_room_for(monkeypatch):
  run = collections.namedtuple('Run', 'shape name')
  shapes = {'a': 'too large', 'b': 'small', 'c': 'small', 'd': 'larger'}
  trained = []

  def use(needed):
    if needed:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return 1
  monkeypatch.setattr(fleets, 'Program', lambda of: of)
  monkeypatch.setattr(together, 'what_pays',
                      lambda program, of, most: use(of.shape == 'too large'))
  monkeypatch.setattr(together, '_train', lambda program, chunk: use(
      chunk[0].name == 'b') and trained.extend(chunk) or {})
  failed = together.train_together(
      [run(shape, name) for name, shape in shapes.items()])
  assert [str(each)[:3] for each in failed] == ['a: ', 'b: ']
  assert {type(each) for each in failed} == {errors.OutOfMemory}
  assert [each.name for each in trained] == ['c', 'd']


@pytest.mark.parametrize('kind', [errors.InputError, errors.OutOfMemory])
def test_what_a_full_device_ends_may_be_tried_again(
    kind, digits_npz, tmp_path, monkeypatch):
  args = types.SimpleNamespace(
      config=f'{ROOT}/tests/tiny.py', run=['seed=0'], root=str(tmp_path),
      set=[f'data.path={digits_npz}'], at_once=1)
  monkeypatch.setattr(together, 'flags', types.SimpleNamespace(FLAGS=args))
  monkeypatch.setattr(together, 'train_together', lambda *_: [
      errors.InputError('bad'), kind('short')])
  with pytest.raises(errors.InputError, match='bad; short') as ended:
    together.main()
  assert type(ended.value) is kind


@pytest.mark.parametrize('args, said', [
    ((), '--run are required'),
    (('--run=seed',), 'not of the form key=value'),
    (('--run=sed=0',), "unknown config key"),
    (('--run=seed=0', '--run=seed=0'), 'in one folder')])
def test_bad_input_is_one_line(args, said, digits_npz, tmp_path):
  assert said in the_error(finish(start(tmp_path, digits_npz, *args)))


@pytest.mark.parametrize('members, devices, at_once, wanted', [
    (5, 1, 1, [1] * 5), (5, 1, 2, [2, 2, 1]), (10, 8, 1, [8, 2]),
    (9, 4, 2, [8, 1]), (7, 4, 2, [4, 3]), (16, 8, 4, [16])])
def test_chunks_fill_the_devices_evenly(members, devices, at_once, wanted):
  found = list(together.chunks(range(members), devices, at_once))
  assert [len(chunk) for chunk in found] == wanted
  assert sum(map(list, found), []) == list(range(members))
  for chunk in found:
    assert len(chunk) % min(len(chunk), devices) == 0


def test_devices_exchange_nothing():
  code = '''
import jax, numpy as np, optax, re
from deep_oc import step
from tests import parallel
mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
module, descent = parallel.pretext('contrastive'), optax.sgd(1.)
image = np.stack([parallel.images('contrastive')] * 4)
one = parallel.state(module, descent, image.shape[2:])
states = jax.tree.map(lambda x: np.stack([x] * 4), one)
keys = jax.vmap(jax.random.key)(np.arange(4))
text = step.make_steps_together(module, descent, mesh).lower(
    states, image, np.zeros((3, 4, 16), np.int32), keys).compile().as_text()
print(len(text), re.findall(r'all-[a-z]+|collective-|reduce-scatter', text))
'''
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
      check=True, env=os.environ | {'JAX_PLATFORMS': 'cpu',
                                    'JAX_NUM_CPU_DEVICES': '2'})
  size, _, found = done.stdout.partition(' ')
  assert int(size) > 10_000 and found.strip() == '[]'


def test_folder_is_the_one_of_train(crew):
  assert sorted(str(path.relative_to(crew[0])) for path in
                pathlib.Path(crew[0]).glob('*/*')) == [
                    '3/seed0', '3/seed1', '4/seed0', '4/seed1']
