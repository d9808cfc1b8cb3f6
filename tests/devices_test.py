"""One program on any number of devices and processes, wherever its images lie.
"""
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

from deep_oc import (batch_norm, distributed, embeddings, errors, experiment,
                     models, runs, sharding, step, storage)
from tests import tiny


def _assert_equal(got, wanted):
  """Losses and gradients to 1e-5, of the largest entry if that is above 1."""
  # A batch crossed between the devices, not the 4,096 images it was taken from.
  assert 0 < got.pop('moved') <= 16 * 16 * 16 * 3
  assert set(got) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_allclose(
        got[name], array, err_msg=name, rtol=0,
        atol=1e-5 * max(np.abs(array).max(initial=0), 1))


def _port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def _start(devices, *command, env=None):
  return subprocess.Popen(
      [sys.executable, '-m', *map(str, command)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu',
                        'JAX_NUM_CPU_DEVICES': str(devices)} | (env or {}))


# With LLVM's optimizations sums are in another order on another number of
# devices, and some gradients differ by more.
_AS_WRITTEN = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}


def _pair(devices, *command, env=None):
  """Starts two processes, by flags."""
  port = _port()
  return [_start(devices, *command, f'--coordinator=localhost:{port}',
                 '--processes=2', f'--process={k}', env=env) for k in (0, 1)]


def _slurm_pair(devices, *command):
  """Starts two processes as SLURM's srun does."""
  job = {'SLURM_JOB_ID': str(_port()), 'SLURM_STEP_NODELIST': 'localhost',
         'SLURM_NTASKS': '2', 'SLURM_STEP_NUM_TASKS': '2'}
  return [_start(devices, *command, env=job | {
      'SLURM_PROCID': str(k), 'SLURM_LOCALID': str(k)}) for k in (0, 1)]


def _end(processes, status=0):
  """Waits; returns what the processes printed, out and err together."""
  said = [''.join(process.communicate(timeout=900)) for process in processes]
  assert [process.returncode for process in processes] == [
      status] * len(processes), said
  return said


def _values(path, count):
  """Returns what `tests.parallel` found on so many devices."""
  prefix = f'{count} '
  with np.load(path) as found:
    return {name.removeprefix(prefix): found[name] for name in found.files
            if name.startswith(prefix)}


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
  """The file of some cases on 1 device and on 8 of one process."""
  path = tmp_path_factory.mktemp('parallel') / 'found.npz'
  _end([_start(8, 'tests.parallel', '1,8', 'QUICK', path, env=_AS_WRITTEN)])
  return path


@pytest.fixture(scope='module')
def all_evaluated(tmp_path_factory):
  """The file of all cases on 1, 2 and 8 devices of one process."""
  path = tmp_path_factory.mktemp('parallel') / 'found.npz'
  _end([_start(8, 'tests.parallel', '1,2,8', 'ALL', path, env=_AS_WRITTEN)])
  return path


def test_eight_devices_equal_one(evaluated):
  _assert_equal(_values(evaluated, 8), _values(evaluated, 1))


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 8])
def test_every_task_is_the_same_on_many_devices(all_evaluated, count):
  _assert_equal(_values(all_evaluated, count), _values(all_evaluated, 1))


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_device(
    all_evaluated, tmp_path):
  _end(_pair(4, 'tests.parallel', 8, 'ALL', tmp_path / 'pair.npz',
             env=_AS_WRITTEN))
  _assert_equal(_values(tmp_path / 'pair.npz', 8), _values(all_evaluated, 1))


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('placement', ['sharded', 'streamed'])
def test_where_the_images_lie_changes_no_loss(evaluated, placement, devices):
  found = _values(evaluated, devices)
  np.testing.assert_allclose(
      found[f'{placement} loss'], found['rotation loss'], rtol=1e-6)


def test_the_global_batch_and_eight_groups_differ(evaluated):
  found = _values(evaluated, 8)
  assert abs(found['grouped loss'] - found['rotation loss']) > 1e-4


@pytest.mark.parametrize('kind', [
    dict(name='convnet', channels=(4,)),
    dict(name='patchnet', channels=(4,), strides=(1,))])
def test_groups_are_normalised_as_if_each_were_alone(kind):
  encoder = models.create(**kind)
  x = np.random.default_rng(0).random((12, 8, 8, 3), np.float32)
  variables = encoder.init(jax.random.key(0), x, train=False)
  call = functools.partial(encoder.apply, variables, train=True,
                           mutable=['batch_stats'])
  with batch_norm.in_groups(3):
    got, stats = call(x)
    still = encoder.apply(variables, x, train=False)
  alone = [call(x[k:k + 4]) for k in (0, 4, 8)]
  np.testing.assert_allclose(
      got, np.concatenate([each for each, _ in alone]), atol=1e-5)
  jax.tree.map(lambda a, *b: np.testing.assert_allclose(
      a, np.mean(b, 0), atol=1e-6), stats, *[new for _, new in alone])
  assert np.abs(got - call(x)[0]).max() > 1e-3  # the whole batch's differ
  np.testing.assert_array_equal(
      still, encoder.apply(variables, x, train=False))


def test_groups_that_do_not_divide_the_batch_are_refused():
  with pytest.raises(errors.InputError,
                     match='batch=16 does not divide .*groups=5'):
    experiment.Plan(batch=16, batch_norm_groups=5)


@pytest.mark.parametrize('batch, near', [(12, '8 or 16'), (3, '8 would')])
def test_a_batch_that_does_not_divide_names_those_that_would(batch, near):
  mesh = jax.sharding.AbstractMesh((8,), ('data',))
  with pytest.raises(errors.InputError, match=f'batch={batch} .*{near}'):
    sharding.check_batch(batch, mesh)


@pytest.mark.parametrize('placement', storage.PLACEMENTS)
def test_a_set_that_is_a_mapped_file_is_read_step_by_step(placement, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
  np.save(tmp_path / 'image.npy', image)
  mapped = np.load(tmp_path / 'image.npy', mmap_mode='r')
  index = functools.partial(step.batch_index, 3, 11, 4)
  stored = storage.Storage(mapped, placement, sharding.mesh())
  batches = list(stored.batches(index, 3, 10, 5))
  got = [row for batch in batches for row in np.asarray(batch)]
  if stored.images is not None:
    assert [len(batch) for batch in batches] == [2, 5]
    got = [np.asarray(stored.images)[row] for row in got]
  np.testing.assert_array_equal(got, image[index(3, 7)])
  assert not list(stored.batches(index, 10, 10, 5))


class _Device:
  def __init__(self, limit):
    self.limit = limit

  def memory_stats(self):
    return self.limit and {'bytes_limit': self.limit}


@pytest.mark.parametrize('limits, size, wanted', [
    ([None] * 4, 10**15, 'replicated'), ([1000] * 4, 500, 'replicated'),
    ([1000] * 4, 501, 'sharded'), ([1000] * 4, 2000, 'sharded'),
    ([1000, 1000, 1000, 900], 500, 'sharded'),
    ([1000] * 4, 2001, 'streamed'), ([1000], 501, 'streamed')])
def test_the_first_placement_that_fits_half_of_the_memory_is_chosen(
    limits, size, wanted):
  class Mesh:
    size = len(limits)
    local_devices = [_Device(limit) for limit in limits]
  assert storage.choose('auto', size, Mesh) == wanted
  assert storage.choose('streamed', size, Mesh) == 'streamed'


def test_an_unknown_placement_offers_the_nearest():
  with pytest.raises(errors.InputError, match="did you mean 'sharded'"):
    storage.choose('shard', 1, sharding.mesh())


def test_where_the_images_lie_is_no_part_of_a_configs_hash():
  config = tiny.get_config()
  plain = runs.config_hash(config)
  config.train.placement = 'streamed'
  assert runs.config_hash(config) == plain
  config.train.batch_norm_groups = 2
  assert runs.config_hash(config) != plain


@pytest.mark.parametrize('given', [
    ('host:1', None, None), (None, 2, None), ('host:1', 2, 2), (None, 2, 0)])
def test_half_of_the_flags_of_several_processes_is_an_error(given):
  with pytest.raises(errors.InputError, match='--coordinator=host:port'):
    distributed._initialize(*given)


@pytest.mark.parametrize('env, processes, joins', [
    ({}, None, False),
    ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4'}, None, False),  # sbatch's shell
    ({'SLURM_JOB_ID': '7', 'SLURM_STEP_NUM_TASKS': '1'}, None, False),
    ({'SLURM_JOB_ID': '7', 'SLURM_STEP_NUM_TASKS': '4'}, None, True),
    ({'SLURM_JOB_ID': '7', 'SLURM_STEP_NUM_TASKS': '4'}, 1, False),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None, False),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '1'},
     None, True)])
def test_others_are_joined_only_where_a_cluster_tells_of_several(
    env, processes, joins, monkeypatch):
  for name in list(os.environ):
    if name.startswith(('SLURM_', 'KUBERNETES_', 'JOB_')):
      monkeypatch.delenv(name)
  for name, value in env.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setattr(socket, 'getfqdn', lambda: 'job-1.pods.ns.svc')
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize',
                      lambda *args, **kwargs: calls.append(args))
  distributed._initialize(None, processes, None)
  assert calls == [(None, None, None)] * joins


def _train(digits_npz, workdir, *overrides):
  return ('deep_oc.train', '--config=tests/tiny.py', f'--workdir={workdir}',
          f'--config.data.path={digits_npz}', *overrides)


def _losses(workdir):
  return [json.loads(row)['loss'] for row in
          (workdir / 'metrics.jsonl').read_text().splitlines()]


def _wait_for(path, processes):
  deadline = time.time() + 600
  while not path.exists():
    assert time.time() < deadline
    assert [process.poll() for process in processes] == [None, None]
    time.sleep(0.05)


@pytest.fixture(scope='module')
def pair(digits_npz, tmp_path_factory):
  """A run of two processes that was never stopped, and what they said."""
  workdir = tmp_path_factory.mktemp('pair')
  return workdir, _end(_slurm_pair(1, *_train(digits_npz, workdir)))


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_the_first_writes(
    pair, digits_npz, tmp_path):
  workdir, said = pair
  assert '2 devices of 2 processes' in said[0] and 'stage 2:' in said[0]
  assert 'tiny' not in said[1] and 'stage 2:' not in said[1]
  _end([_start(2, *_train(digits_npz, tmp_path))])
  np.testing.assert_allclose(
      _losses(workdir)[:3], _losses(tmp_path)[:3], rtol=1e-3)
  assert len(_losses(workdir)) == 6
  for name in 'train', 'test':
    got, wanted = (embeddings.read(run / f'embeddings/{name}.npz')[0]
                   for run in (workdir, tmp_path))
    np.testing.assert_allclose(got['random'], wanted['random'], atol=1e-5)
    assert got['pool'].shape == wanted['pool'].shape


@pytest.mark.slow
@pytest.mark.parametrize('command, file', [
    (('deep_oc.embed',), 'test.npz'),
    (('deep_oc.localize', '--set=name=windows', '--set=side=12'), 'maps.npz'),
    (('deep_oc.localize', '--set=name=gradcam'), 'maps.npz')])
def test_two_processes_embed_and_localize_as_one_does(
    command, file, pair, tmp_path):
  shutil.copytree(pair[0], tmp_path, dirs_exist_ok=True)
  command = *command, f'--workdir={tmp_path}'
  _end([_start(1, *command)])
  wanted, meta = embeddings.read(tmp_path / 'embeddings' / file)
  (tmp_path / 'embeddings' / file).unlink()
  said = _end(_pair(1, *command))
  assert 'wrote' in said[0] and 'wrote' not in said[1]
  got, found = embeddings.read(tmp_path / 'embeddings' / file)
  assert found == meta and set(got) == set(wanted)
  for name, array in wanted.items():
    if array.dtype.kind == 'f':
      np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_stops_both_after_one_step_and_both_resume(
    pair, digits_npz, tmp_path):
  workdir, _ = pair
  command = _train(digits_npz, tmp_path)
  processes = _pair(1, *command)
  _wait_for(tmp_path / 'checkpoints', processes)
  processes[1].send_signal(signal.SIGTERM)
  said = _end(processes, 75)
  assert all('stopped by SIGTERM at step' in each for each in said)
  assert len({each.split('at step ')[-1] for each in said}) == 1
  assert not (tmp_path / 'embeddings').exists()
  said = _end(_pair(1, *command))
  assert 'resuming at step' in said[0]
  for name in 'train', 'test':
    got, wanted = (embeddings.read(run / f'embeddings/{name}.npz')[0]
                   for run in (tmp_path, workdir))
    for key, array in wanted.items():
      np.testing.assert_array_equal(got[key], array, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1])
def test_a_lost_process_ends_the_other_within_a_minute_and_it_says_why(
    lost, digits_npz, tmp_path):
  processes = _pair(1, *_train(
      digits_npz, tmp_path, '--config.train.steps=1000000'))
  _wait_for(tmp_path / 'checkpoints' / '20', processes)
  processes[lost].kill()
  out, err = processes[1 - lost].communicate(timeout=60)
  assert processes[1 - lost].returncode not in (0, 2, 75)
  assert ('one of them has ended' in err
          or 'indicates that another task died' in err), err
  processes[lost].communicate()
