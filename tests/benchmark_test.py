"""The benchmark counts what it says it counts."""
import csv
import math
import multiprocessing
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from conftest import the_error
from ml_collections import ConfigDict
from scipy import stats
from tests import tiny

from deep_oc import (allocator, batch_norm, benchmark, bundle_benchmark,
                     classifier_benchmark, config_files, convolution, jitted,
                     oneclass, pretexts, step, step_benchmark, trace)
from deep_oc.errors import InputError


def _config():
  config = tiny.get_config()
  config.data.path = 'not read'
  return config


def test_the_work_of_a_call_is_what_it_does(monkeypatch):
  """Here many steps, as on an accelerator."""
  monkeypatch.setattr(step, 'steps_per_dispatch', lambda _: 3)
  parts, *_ = step_benchmark._parts(_config(), (16, 16))
  for name, count in {
      'train step': lambda found: len(found['loss']), 'augmentation': len,
      'embedding': lambda found: len(found['pool']),
      'forward pass': lambda found: len(found['pool'])}.items():
    call, work = parts[name]
    assert count(call()) == work > 1, name


@pytest.fixture(scope='module')
def measured(binary, tmp_path_factory):
  """What the binary printed, the rows of its table and of its profile."""
  folder, files = tmp_path_factory.mktemp('measured'), []
  done = binary('benchmark', '--config=tests/tiny.py', '--size=16',
                '--rounds=1', '--seconds=0.01', f'--output={folder}/output.csv',
                f'--profile={folder}/profile.csv')
  assert not done.returncode, done.stderr
  for name in ('output', 'profile'):
    with (folder / f'{name}.csv').open(newline='') as file:
      files.append(list(csv.DictReader(file)))
  return done.stdout, *files


def test_every_rate_is_positive_and_the_shares_agree(measured):
  _, rows, _ = measured
  value = {row['part']: float(row['value']) for row in rows if row['unit']}
  assert all(each > 0 and math.isfinite(each) for each in value.values())
  step_seconds = value['train step'] / 1e3
  ratio = value['train, network inputs'] / value['train, source images']
  assert math.isclose(ratio, 4, rel_tol=1e-2)
  assert math.isclose(value['train, source images'], 16 / step_seconds,
                      rel_tol=1e-2)
  share = 100 * value['train step, achieved'] / value[
      'matrix-product peak, measured']
  assert math.isclose(value['share of the measured peak'], share, rel_tol=1e-2)


def test_in_no_time_each_part_is_called_once():
  called = []
  rates = step_benchmark._rates({'part': (lambda: called.append(0), 3)}, 2, 0.0)
  assert len(called) == 2 + 2 and rates['part'] > 0  # two to see how long


class _Pipe:
  """Tells the process to take one step more, and then is closed."""

  def __init__(self):
    self.said = 0

  def send(self, _):
    self.said += 1

  def recv(self):
    if self.said == 2:
      raise EOFError


@pytest.mark.parametrize('module, name', [
    (batch_norm, 'normalise'), (convolution, '_direct'),
    (convolution, '_winograd')])
def test_the_straightforward_step_has_nothing_of_ours(
    monkeypatch, module, name):
  def ours(*_, **__):
    raise AssertionError('ours')

  monkeypatch.setattr(module, name, ours)
  config = _config()
  config.encoder.channels = (8, 16, 16)  # Winograd's from 16 to 16
  training = step_benchmark._training(config, (16, 16))
  with pytest.raises(AssertionError, match='ours'):
    training.steps()(training.initial(), *training.inputs)
  pipe = _Pipe()
  step_benchmark._take_steps(pipe, config.to_dict(), (16, 16))
  assert pipe.said == 2


def test_its_process_takes_steps_and_ends():
  with step_benchmark._straightforward(_config(), (16, 16)) as take:
    process, = multiprocessing.active_children()
    take()
    assert process.is_alive()
  assert not process.is_alive() and not multiprocessing.active_children()


def test_the_end_of_its_process_is_told():
  with pytest.raises(InputError, match='has ended'), \
      step_benchmark._straightforward(_config(), (16, 16)) as take:
    process, = multiprocessing.active_children()
    process.kill()
    process.join()
    take()


def test_so_is_its_end_before_the_first_step(monkeypatch):
  monkeypatch.setattr(step_benchmark, '_take_steps', slice)  # takes none
  with pytest.raises(InputError, match='has ended'), \
      step_benchmark._straightforward(_config(), (16, 16)):
    pass


def test_what_goes_wrong_beside_its_process_is_not_blamed_on_it():
  with pytest.raises(FileNotFoundError), \
      step_benchmark._straightforward(_config(), (16, 16)):
    raise FileNotFoundError
  assert not multiprocessing.active_children()


def test_too_large_a_batch_is_one_line(binary):
  done = binary('benchmark', '--config=tests/tiny.py', '--size=16',
                '--config.train.batch=4096')
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: ')
  assert 'Warning' not in done.stderr


@pytest.mark.parametrize('args, said', [
    (['--bundle=a', '--classifiers=kde'],
     'give one of --classifiers and --bundle'),
    (['--bundle=a', '--config=tests/tiny.py'],
     'give one of --config and --bundle'),
    (['--bundle=a', '--size=32'], '--size does not apply to --bundle'),
    (['--classifiers=kde', '--seconds=2'],
     '--seconds does not apply to --classifiers'),
    (['--config=tests/tiny.py', '--columns=8'],
     '--columns does not apply to --config')])
def test_one_thing_is_timed_and_no_flag_is_of_another(binary, args, said):
  assert the_error(binary('benchmark', *args)) == f'error: {said}'


def test_seconds_are_not_negative(binary):
  done = binary('benchmark', '--seconds=-1')
  assert done.returncode == 2 and '--seconds=-1' in done.stderr


@pytest.mark.parametrize('given, wanted', [
    ({}, (32, 32)), ({'size': 16}, (16, 16)), ({'width': 24}, (32, 24)),
    ({'size': 16, 'width': 24}, (16, 24))])
def test_the_images_are_of_the_size_of_those_that_are_trained_on(
    monkeypatch, given, wanted):
  config, sizes = _config(), []
  with config.unlocked():
    config.data.update(given)

  def measure(config, size, *_):
    sizes.append(size)
    return []

  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(benchmark, '_check_asked', lambda _: None)
  monkeypatch.setattr(allocator, 'keep_freed_memory', lambda: None)
  monkeypatch.setattr(config_files, 'from_flag', lambda: config)
  monkeypatch.setattr(step_benchmark, 'benchmark', measure)
  for size in (None, 64):
    monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(
        bundle=None, classifiers=None, size=size, rounds=1, seconds=0.,
        profile=None, output=None))
    benchmark.main()
  assert sizes == [wanted, (64, 64)]
  training = step_benchmark._training(config, wanted)
  assert training.images.shape[1:] == (*wanted, 3)


def test_a_bundle_is_timed_as_asked_with_its_memory_as_it_comes(monkeypatch):
  asked = []
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(benchmark, '_check_asked', lambda _: None)
  monkeypatch.setattr(allocator, 'keep_freed_memory', lambda: asked.append(
      'memory is kept'))
  monkeypatch.setattr(bundle_benchmark, 'benchmark', lambda *args: (
      asked.append(args), [])[1])
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(
      bundle='bundle', classifiers=None, rounds=3, seconds=0.5, output=None))
  benchmark.main()
  assert asked == [('bundle', 3, 0.5)]


def test_each_step_of_a_dispatch_has_its_own_augmentation():
  training = step_benchmark._training(_config(), (16, 16))
  images, index, key = training.inputs
  index = jnp.concatenate([index, index, index[:, ::-1]])
  sums = jax.jit(step_benchmark._augmented, static_argnums=0)(
      training.pretext, images, index, key)
  alone = step_benchmark._augmented(training.pretext, images, index[:1], key)
  assert sums.shape == (3,) and len(set(sums.tolist())) == 3
  assert sums[0] == pytest.approx(float(alone[0]), rel=1e-5)


def test_the_operations_of_a_step_are_three_forward_passes(measured):
  rows = {row['part']: row for row in measured[1]}
  # Multiply-adds of a 16 px image: 8x8 maps of 8, 4x4 of 16, the dense layers.
  macs = 64 * 27 * 8 + 16 * 72 * 16 + 16 * 16 + 16 * 16 + 16 * 4
  wanted = 2 * macs * 3 * 64 / 1e9
  assert 0.6 * wanted < float(rows['operations of a step']['value']) \
      < 2 * wanted  # the first layer needs no input gradient; views are extra


def test_the_table_goes_to_a_csv(measured):
  said, rows, _ = measured
  assert [row['part'] for row in rows] == [
      line[:32].strip() for line in said.splitlines()]


def test_a_profile_has_each_operation_and_their_sum(measured):
  total, *each = measured[2]
  assert tuple(total) == trace.COLUMNS and total['operation'] == 'all'
  assert len(each) == len({row['operation'] for row in each}) > 30
  for name in ('calls', 'µs', 'share'):
    values = [float(row[name]) for row in each]
    assert math.isclose(sum(values), float(total[name]), rel_tol=1e-2)
  spent = [float(row['µs']) for row in each]
  assert spent == sorted(spent, reverse=True) and spent[0] > 0


def test_operations_are_counted_for_each_unit_of_work():
  product = jax.jit(lambda x: x @ x)
  x = product(jnp.full((500, 500), 1e-3))
  total, *_ = trace.operations(
      lambda: [product(x) for _ in range(6)], work=3)
  # Twice each; a CPU may put an operation off, and both parts count.
  assert 2 <= float(total['calls']) <= 4


@pytest.mark.slow
def test_windows_of_an_image_are_counted_where_a_config_has_them():
  config = _config()
  with config.unlocked():
    config.encoder = dict(name='patchnet', channels=(8, 8), strides=(2, 2))
    config.localize = dict(name='windows', side=16, stride=2)
  rows = {row['part']: row for row in step_benchmark.benchmark(
      config, size=(32, 32), rounds=1, seconds=0.01)}
  alone, together, ratio = (float(rows[name]['value']) for name in (
      'a window by itself', 'windows of an image', 'speed-up'))
  assert alone > 0 and math.isclose(ratio, together / alone, rel_tol=1e-2)


def test_of_several_sizes_the_windows_counted_are_the_smallest():
  pretext = pretexts.create('patch_svdd', dtype=np.float32, encoder=dict(
      name='hierarchical', channels=(4, 8), hidden=8))
  variables = step.init(pretext, 0, (32, 32, 3))
  image = np.zeros((1, 32, 32, 3), np.uint8)
  group = dict(name='windows', side=(16, 8), stride=(4, 12))
  parts = step_benchmark._window_parts(
      ConfigDict(dict(localize=group)), pretext, variables, image)
  assert [count for _, count in parts.values()] == [1, 9]
  for call, count in parts.values():
    np.testing.assert_equal(np.shape(jax.tree.leaves(call())[0]), (count, 8))


def test_classifiers_need_no_config_and_their_ratios_agree(binary, tmp_path):
  done = binary('benchmark', '--classifiers=kde,lof', '--columns=24',
                '--train_rows=200', '--test_rows=150', '--rounds=1',
                f'--output={tmp_path}/b.csv')
  assert not done.returncode, done.stderr
  with (tmp_path / 'b.csv').open(newline='') as file:
    kde, lof, total = csv.DictReader(file)
  assert [line.split()[0] for line in done.stdout.splitlines()] == [
      'classifier', 'kde', 'lof', 'all']
  for name in ('scikit-learn', 'NumPy'):
    assert float(kde[f'{name} / jitted']) == pytest.approx(
        float(kde[name]) / float(kde['jitted']), rel=2e-3)
  assert lof['jitted'] == total['jitted'] == ''
  for key in ('fit', 'score', 'CPU'):
    assert float(total[key]) == pytest.approx(
        sum(float(row[key]) for row in (kde, lof)), rel=2e-3)


@pytest.mark.parametrize('spec', oneclass.CLASSIFIERS)
def test_scikit_learns_side_ranks_the_rows_alike(spec):
  """So that it is the same work whose speed is compared."""
  train, test = classifier_benchmark.features(200, 100, 24)
  fitted = oneclass.fit(spec, train)
  if jitted.twin(fitted) is None:
    pytest.skip('nothing is compared')
  found = classifier_benchmark.own(fitted, train, test)()
  found = found[0].mean(axis=1) if isinstance(found, tuple) else found
  ours = oneclass.anomaly_score(fitted, test)
  assert abs(stats.spearmanr(ours, found).statistic) > 0.999
