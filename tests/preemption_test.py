"""Runs that are stopped, killed, or lose the place they write to."""
import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, the_error

from deep_oc import (cli, embed, embeddings, evaluate, files, logs, step,
                     train)
from tests import tiny


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({'data.path': str(digits_npz), **overrides})
  return config


def _wait_for(process, condition):
  deadline = time.time() + 300
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.time() < deadline
    time.sleep(0.002)


def _rows(workdir):
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()]


def _saved(workdir):
  folder = pathlib.Path(workdir) / 'checkpoints'
  return {int(each.name) for each in folder.glob('*') if each.name.isdecimal()}


def _assert_same_state(got, wanted):
  states = [jax.tree.leaves(embed.restore(str(run))[3])
            for run in (got, wanted)]
  for a, b in zip(*states, strict=True):
    np.testing.assert_array_equal(a, b)
  pools = [embeddings.read(run / 'embeddings/test.npz')[0]['pool']
           for run in (got, wanted)]
  np.testing.assert_array_equal(*pools)


def _assert_same_end(got, wanted):
  _assert_same_state(got, wanted)
  for run in (got, wanted):
    evaluate.evaluate(pathlib.Path(run))
  assert (got / 'results.csv').read_bytes() == (
      wanted / 'results.csv').read_bytes()


@pytest.fixture
def sigterm_at(monkeypatch):
  """Sends SIGTERM to this process while the steps in the list are taken."""
  make_steps = step.make_steps

  def use(wanted):
    def make(*args):
      take = make_steps(*args)

      def steps(*args):
        state, metrics = take(*args)
        if int(state.step) in wanted:
          signal.raise_signal(signal.SIGTERM)
        return state, metrics
      return steps
    monkeypatch.setattr(step, 'make_steps', make)
  return use


def test_stops_and_a_damaged_checkpoint_change_no_bit(
    never_stopped, digits_npz, sigterm_at, tmp_path, capfd):
  stops = 13, 60
  sigterm_at(stops)
  for k in stops:
    with pytest.raises(cli.Stopped, match=f'SIGTERM at step {k};.*resumes'):
      train.train(_config(digits_npz), str(tmp_path))
    assert max(_saved(tmp_path)) == k
    assert not (tmp_path / 'embeddings').exists()
  sigterm_at(())
  for file in (tmp_path / 'checkpoints/60').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
  train.train(_config(digits_npz), str(tmp_path))
  out, error = capfd.readouterr()
  assert f'{tmp_path}/checkpoints/60' in error and 'passed over' in error
  assert 'resuming at step 40 of 60' in out
  _assert_same_state(tmp_path, never_stopped)
  assert [row['step'] for row in _rows(tmp_path)] == [
      10, 13, 20, 30, 40, 50, 60]


def test_a_process_told_to_stop_ends_with_the_status_for_again(
    binary, tmp_path):
  run = tmp_path / 'run'
  process = binary('train', f'--workdir={run}', '--config.train.steps=100000',
                   wait=False)
  _wait_for(process, lambda: _saved(run))
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=300)
  assert process.returncode == cli.AGAIN == os.EX_TEMPFAIL
  [k] = re.fullmatch(r'stopped by SIGTERM at step (\d+); the same command '
                     r'resumes\n', error).groups()
  assert max(_saved(run)) == int(k)
  assert int(embed.restore(str(run))[3].step) == int(k)


@pytest.fixture
def heard():
  """Processes that are begun here hear of SIGINT, as not in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_after_the_step_and_another_one_ends_at_once(
    heard, binary, tmp_path):
  run = tmp_path / 'run'
  process = binary('train', f'--workdir={run}', '--config.train.steps=100000',
                   '--config.train.checkpoint_every=1000000', wait=False)
  _wait_for(process, (run / 'metrics.jsonl').exists)
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=300)
  assert process.returncode == 130
  [k] = re.fullmatch(r'\nstopping after this step; Ctrl-C again: at once\n'
                     r'stopped by SIGINT at step (\d+); the same command '
                     r'resumes\n', error).groups()
  assert _saved(run) == {int(k)}
  process = _script('steps', tmp_path)
  for line in ('ready\n', 'asked\n'):
    assert process.stdout.readline() == line
    process.send_signal(signal.SIGINT)
  process.communicate(timeout=60)
  assert process.returncode == 130


def test_what_is_to_ignore_ctrl_c_does():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with cli.between_steps() as asked:
      signal.raise_signal(signal.SIGINT)
      assert not asked.by
      signal.raise_signal(signal.SIGTERM)
      assert asked.by == 'SIGTERM'
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_steps_are_not_taken_long_before_they_are_done(
    digits_npz, tmp_path, monkeypatch):
  make_steps, ahead = step.make_steps, []

  def make(*args):
    take, given = make_steps(*args), []

    def steps(*args):
      ahead.append(sum(not each.is_ready() for each in given))
      state, metrics = take(*args)
      given.append(metrics['loss'])
      return state, metrics
    return steps
  monkeypatch.setattr(step, 'make_steps', make)
  train.train(_config(digits_npz, **{
      'train.steps': 40, 'train.log_every': 40, 'train.monitor_every': 40,
      'train.checkpoint_every': 40, 'train.batch': 64,
      'encoder.channels': (64, 64)}), str(tmp_path))
  assert len(ahead) == 40 and max(ahead) <= 1


_SCRIPT = """
import pathlib, sys, time
from deep_oc import cli, files, logs

def writes():
  with files.replacing(sys.argv[1] + '/new') as file:
    file.write('half')
    file.flush()
    print('ready', flush=True)
    time.sleep(300)

def steps():
  with cli.between_steps() as asked:
    print('ready', flush=True)
    while not asked.by:
      time.sleep(0.01)
    print('asked', flush=True)
    time.sleep(300)

def rows():
  import resource
  resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
  with logs.Metrics(sys.argv[1], 0) as log:
    for step in range(100000):
      log.write(step, {'loss': 1.})

name, sys.argv = sys.argv[1], sys.argv[1:]
cli.run(lambda _: globals()[name](), lambda: None, ['folder'])
"""


def _script(name, folder):
  return subprocess.Popen(
      [sys.executable, '-c', _SCRIPT, name, str(folder)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_sigterm_between_files_ends_at_once_and_leaves_no_half_file(tmp_path):
  process = _script('writes', tmp_path)
  assert process.stdout.readline() == 'ready\n'
  process.terminate()
  _, error = process.communicate(timeout=60)
  assert process.returncode == cli.AGAIN
  assert error == 'stopped by SIGTERM\n'
  assert not list(tmp_path.iterdir())


def test_a_second_sigterm_does_not_wait_for_the_step(tmp_path):
  process = _script('steps', tmp_path)
  for line in ('ready\n', 'asked\n'):
    assert process.stdout.readline() == line
    process.terminate()
  process.communicate(timeout=60)
  assert process.returncode == cli.AGAIN


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path):
  pytest.importorskip('resource')
  process = _script('rows', tmp_path)
  _, error = process.communicate(timeout=120)
  line = the_error(subprocess.CompletedProcess(
      '', process.returncode, '', error))
  assert 'cannot write' in line and os.strerror(errno.EFBIG) in line
  steps = [row['step'] for row in _rows_that_are_whole(tmp_path)]
  assert steps == list(range(len(steps))) and steps


def _rows_that_are_whole(workdir):
  with contextlib.suppress(ValueError):
    for line in (workdir / 'metrics.jsonl').open():
      yield json.loads(line)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of a few megabytes of its own."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)]
  if shutil.which('mount') is None or subprocess.run(
      command, capture_output=True).returncode:
    pytest.skip('mounting needs root')
  yield folder
  subprocess.run(['umount', '--lazy', str(folder)], check=True)


def _fill(folder, left=0):
  """Leaves so many bytes free."""
  free = shutil.disk_usage(folder).free - left
  with contextlib.suppress(OSError), (folder / 'ballast').open('wb') as file:
    file.write(bytes(free))


def test_no_room_for_embeddings_keeps_the_old_ones(small_disk):
  path = small_disk / 'test.npz'
  embeddings.write(path, {'pool': np.ones((2, 3))}, {'step': 1})
  _fill(small_disk)
  with pytest.raises(files.WriteError, match='test.npz: No space left.*room'):
    embeddings.write(path, {'pool': np.ones((100, 300))}, {'step': 2})
  assert embeddings.read(path)[1] == {'step': 1}
  assert {each.name for each in small_disk.iterdir()} == {
      'test.npz', 'ballast'}


def test_no_room_for_metrics_is_an_error_and_no_thread_waits(small_disk):
  with pytest.raises(files.WriteError, match='cannot write .*No space left'), \
      logs.Metrics(small_disk, 0) as log:
    log.write(10, {'loss': 1.})
    _fill(small_disk)
    for k in range(20, 100_000, 10):
      log.write(k, {'loss': 1.})
  (small_disk / 'ballast').unlink()
  with logs.Metrics(small_disk, 10) as log:
    log.write(20, {'loss': 2.})
  assert _rows(small_disk) == [{'step': 10, 'loss': 1.},
                               {'step': 20, 'loss': 2.}]


def test_a_full_disk_stops_the_run_and_leaves_a_good_checkpoint(
    binary, digits_npz, small_disk):
  run = small_disk / 'run'
  process = binary('train', f'--workdir={run}', '--config.train.steps=100000',
                   wait=False)
  _wait_for(process, lambda: _saved(run))
  _fill(small_disk, left=32_768)  # rows fit for a while, a checkpoint does not
  out, error = process.communicate(timeout=300)
  line = the_error(subprocess.CompletedProcess(
      '', process.returncode, out, error))
  assert len(error.splitlines()) == 1
  assert f'cannot write {run}/' in line and 'No space left' in line
  [k] = re.search(r'checkpoint of step (\d+) is good, and the same command '
                  'resumes', line).groups()
  (small_disk / 'ballast').unlink()
  assert int(embed.restore(str(run))[3].step) == int(k)


@pytest.mark.slow
def test_a_folder_that_loses_its_permission_stops_the_run(binary, tmp_path):
  # Root may write anywhere, unless it does without that capability.
  wrapper = [] if os.geteuid() else [
      'setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override']
  if wrapper and not shutil.which('setpriv'):
    pytest.skip('root, without setpriv')
  run = tmp_path / 'run'
  process = binary('train', f'--workdir={run}', '--config.train.steps=100000',
                   wait=False, wrapper=wrapper)
  _wait_for(process, lambda: _saved(run))
  (run / 'checkpoints').chmod(0o555)
  out, error = process.communicate(timeout=120)
  (run / 'checkpoints').chmod(0o755)
  line = the_error(subprocess.CompletedProcess(
      '', process.returncode, out, error))
  assert re.search(r'cannot write .*checkpoints/\d+: Permission denied; .* '
                   r'checkpoint of step \d+ is good', line), line
  assert _saved(run) and embed.restore(str(run))


@pytest.mark.slow
def test_five_kills_at_random_steps_change_no_bit(binary, tmp_path):
  arguments = [
      f'--config.{each}' for each in (
          'train.steps=400', 'train.log_every=5', 'train.checkpoint_every=10',
          'train.monitor_every=50', 'encoder.channels=(8,16)')]
  seed = time.time_ns()
  kills = np.sort(np.random.default_rng(seed).choice(380, 5, replace=False))
  print(f'seed {seed}: kills at {kills}')
  run, whole = tmp_path / 'run', tmp_path / 'whole'
  for k in kills:
    process = binary('train', f'--workdir={run}', *arguments, wait=False,
                     config='configs/quickstart.py')
    _wait_for(process, lambda k=k: _last_step(run) >= k)
    process.kill()
    process.communicate()
    assert not (run / 'embeddings').exists()
  for workdir in (run, whole):
    done = binary('train', f'--workdir={workdir}', *arguments,
                  config='configs/quickstart.py')
    assert not done.returncode, done.stderr
  _assert_same_end(run, whole)
  losses = [{row['step']: row['loss'] for row in _rows(workdir)}
            for workdir in (run, whole)]
  assert losses[0] == losses[1] and len(_rows(run)) == 80


def _last_step(workdir):
  try:
    return _rows(workdir)[-1]['step']
  except (OSError, ValueError, IndexError):
    return -1
