"""What the machine has, and what a config costs on it."""
import itertools
import json
import types

import jax
import pytest
from conftest import the_error

from deep_oc import doctor, estimate, experiment, step, weights
from tests import tiny

SMALL = ('--config=configs/quickstart.py', '--config.train.batch=8',
         '--config.encoder.channels=(8,256)')


def _said(done):
  assert done.returncode == 0, done.stderr
  return {line[:14].strip(): line[14:] for line in done.stdout.splitlines()}


def test_it_tells_the_machine_and_what_a_run_and_the_sweep_cost(binary):
  said = _said(binary('doctor', *SMALL, '--config.train.steps=7200',
                      '--seconds=0.1'))
  assert f'jax {jax.__version__}' in said['versions']
  assert said['devices'].startswith('1 × ')
  assert said['training set'].endswith('images, replicated')
  rate = float(said['speed'].split()[0])
  steps, _, hours = said['one run'].partition(' steps, ')
  assert int(steps) == 7200
  assert abs(_seconds(hours) - 7200 / rate) < 0.01 * 7200 / rate + 1
  of_sweep = said['30 runs'].removesuffix(' one after the other')
  assert abs(_seconds(of_sweep) / (30 * 7200 / rate) - 1) < 0.05


def _seconds(text):
  if text.endswith(' hours'):
    return 3600 * float(text.removesuffix(' hours'))
  hours, minutes, seconds = map(int, text.split(':'))
  return 3600 * hours + 60 * minutes + seconds


def test_the_estimate_counts_at_least_parameters_twice_and_images(binary):
  done = binary('estimate', *SMALL, '--seconds=0')
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  # SGD keeps a momentum beside every parameter: 3x3 convolutions of 3, 8 and
  # 256 channels.
  convolutions = 9 * (3 * 8 + 8 * 256)
  assert found['bytes'] > 2 * 4 * convolutions + found['images'] * 32 * 32 * 3
  assert found['bytes'] < 2**30
  assert found['steps'] == 1000 and found['seconds_per_step'] > 0


def test_a_step_costs_its_share_of_a_call_and_the_first_call_does_not_count(
    digits_npz, monkeypatch):
  config, times = tiny.get_config(), itertools.accumulate([0, 7, 0, 2, 0, 2])
  config.data.path = str(digits_npz)
  monkeypatch.setattr(
      estimate, 'time', types.SimpleNamespace(perf_counter=times.__next__))
  monkeypatch.setattr(step, 'steps_per_dispatch', lambda wanted: 4)
  task = type(experiment.pretext(config))
  monkeypatch.setattr(task, 'trains', False, raising=False)
  monkeypatch.setattr(weights, '_check_untrained', lambda task: None)
  config.distribution, config.optimizer.learning_rate = 'hflip', 0.
  found = estimate.estimate(config, seconds=3)
  assert found['seconds_per_step'] == 2 / 4
  assert (found['trains'], found['copies']) == (False, 2)


def test_no_time_is_told_where_nothing_is_trained():
  found = dict(seconds_per_step=0.5, steps=10, trains=True, images=80, copies=4,
               placement='replicated', bytes=2**30, device='1 × cpu')
  said = dict(doctor.cost(found, 3))
  assert said['training set'] == '80 images with their copies, replicated'
  assert said['3 runs'] == '0:00:15 one after the other'
  said = dict(doctor.cost(found | dict(trains=False, copies=1), 3))
  assert said.pop('training set') == '80 images, replicated'
  assert said.pop('one run').startswith('nothing is trained') and not said


def test_absent_data_is_said_with_the_way_to_get_it(binary, tmp_path):
  done = binary('doctor', '--config=configs/rotation_celeba.py',
                f'--config.data.data_dir={tmp_path}')
  assert done.returncode == 1
  assert 'versions' in done.stdout
  line, = done.stderr.splitlines()
  assert line.startswith('missing: ') and 'celeb_a' in line
  assert 'prepare' in line


@pytest.mark.slow
def test_too_little_memory_is_one_line(binary):
  # Activations of 100 GiB and more; the parameters are small.
  args = '--config=configs/quickstart.py', '--config.encoder.channels=(400000,)'
  done = binary('doctor', *args)
  assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
  assert done.stderr.startswith("missing: a device's memory is not enough")
  done = binary('estimate', *args)  # as any other binary
  assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
  assert done.stderr.startswith("error: a device's memory is not enough")


def test_a_misspelt_field_is_one_line(binary):
  done = binary('doctor', '--config=configs/quickstart.py',
                '--config.train.stps=3')
  assert done.returncode == 2 and 'stps' in the_error(done)


def test_absent_packages_name_their_extra(monkeypatch):
  monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda _: None)
  monkeypatch.setattr(doctor.shutil, 'which', lambda _: None)
  said = dict(doctor.extras())
  assert said.pop('sbatch') == 'launch.sweep --engine=slurm: absent'
  assert said.pop('gcloud') == 'launch.sweep --engine=tpu_vm: absent'
  for extra, text in said.items():
    assert f"absent; pip install 'deep_oc[{extra}]'" in text
  monkeypatch.undo()
