"""What a sweep is made of, what of it is left to do, and a real one."""
import contextlib
import fnmatch
import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import types

import numpy as np
import pytest
from conftest import the_error
from configs import cutpaste_mvtec, dacl_cifar10, small_fmnist

from deep_oc import config_files, embeddings, experiment, files, runs
from deep_oc.errors import InputError
from launch import progress, sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = 'configs/small_fmnist.py:dacl'


def launch(*args, **kwargs):
  return subprocess.run(
      [sys.executable, '-m', 'launch.sweep', *args], cwd=ROOT, text=True,
      capture_output=True, check=False, env=os.environ | {
          'JAX_PLATFORMS': 'cpu'}, **kwargs)


def flags_of(run):
  """Returns {flag: value} of a run's command."""
  assert run.job.command[:2] == ('-m', 'deep_oc.train')
  return dict(each.removeprefix('--').split('=', 1)
              for each in run.job.command[2:])


@pytest.mark.parametrize('path, module', [
    (SMALL, small_fmnist), ('configs/dacl_cifar10.py', dacl_cifar10),
    ('configs/cutpaste_mvtec.py', cutpaste_mvtec)])
def test_there_is_a_run_for_every_point_of_the_sweep(path, module):
  found = [{key.removeprefix('config.'): value
            for key, value in flags_of(run).items()
            if key.startswith('config.')} for run in sweep.expand(path)]
  assert found == [{key: str(value) for key, value in point.items()}
                   for point in module.sweep()]


def test_classes_are_chosen_and_seeds_replaced():
  found = sweep.expand(SMALL, classes=['7', '0'], seeds=['5', '6', '7'])
  assert [(flags_of(run)['config.protocol.normal'],
           flags_of(run)['config.seed']) for run in found] == [
               (normal, seed) for normal in '07' for seed in '567']
  [wood] = sweep.expand('configs/cutpaste_mvtec.py', classes=['wood'],
                        seeds=['0'])
  assert wood.workdir == 'runs/cutpaste_mvtec_wood/0/seed0'


def test_a_command_gives_train_the_config_that_the_sweep_knows():
  [run] = sweep.expand(SMALL, ['train.steps=40', 'pretext.head=(8,4)'],
                       ['3'], ['1'], root='/some where/else')
  given = flags_of(run)
  config = config_files.read(given.pop('config'), {
      key.removeprefix('config.'): value for key, value in given.items()
      if key != 'workdir'})
  assert (config.train.steps, config.pretext.head, config.seed) == (
      40, (8, 4), 1)
  assert sweep.resolved(config)[0].to_dict() == run.config.to_dict()
  assert given['workdir'] == '/some where/else/small_fmnist_dacl/3/seed1'
  assert run.job.log == f"{given['workdir']}/log.txt"


@pytest.mark.parametrize('protocol', [
    dict(normal='3'), dict(normal='5+3'),
    dict(name='contaminated', normal='3', contamination=0.1),
    dict(name='semi_supervised', normal='3'),
    dict(normal='3', calibration=0.25), dict(normal='3', calibration=None)])
def test_the_folder_is_the_one_that_train_would_choose(protocol, digits_npz):
  config = config_files.read('tests/tiny.py', {'data.path': digits_npz})
  with config.unlocked():
    config.protocol = dict(name='one_vs_rest') | protocol
  problem = experiment.problem(config)
  wanted = experiment.resolved(config, problem)
  found, title = sweep.resolved(config)
  assert runs.default_workdir(found, title) == runs.default_workdir(
      wanted, problem.protocol)
  assert runs.config_hash(found) == runs.config_hash(wanted)


def end(run, config=None, files=('train.npz', 'test.npz'), rule='last'):
  """Writes what a run has at its end."""
  runs.claim(run.workdir, config or run.config)
  for name in files:
    embeddings.write(f'{run.workdir}/embeddings/{name}',
                     {'pool': np.zeros((2, 1))}, {'checkpoint_rule': rule})


def test_a_run_is_finished_with_its_last_file_and_of_its_own_config(tmp_path):
  a, b, c, d = sweep.expand(SMALL, classes=['0', '1'], root=str(tmp_path))
  end(a)
  end(b, files=['train.npz'])
  other = c.config.copy_and_resolve_references()
  other.train.steps = 7
  end(c, other)
  assert [run.finished for run in (a, b, c, d)] == [True, False, False, False]


def test_a_run_whose_embeddings_are_of_an_earlier_step_is_not_finished(
    tmp_path):
  run, other = sweep.expand(SMALL, classes=['0'], root=str(tmp_path))
  end(run, rule='chosen')
  end(other)
  assert (run.finished, other.finished) == (False, True)


def test_a_run_is_finished_with_the_feature_that_is_asked_for(tmp_path):
  [run], [more] = (sweep.expand(
      SMALL, [f'embed.views={views}'], ['0'], ['0'], root=str(tmp_path))
                   for views in ('none', 'rot'))
  end(run)
  assert (run.finished, more.finished) == (True, False)


def test_a_run_that_localizes_is_finished_with_its_maps(tmp_path):
  [run] = sweep.expand('configs/cutpaste_mvtec.py', classes=['wood'],
                       seeds=['0'], root=str(tmp_path))
  end(run)
  assert not run.finished
  (pathlib.Path(run.workdir) / 'embeddings' / 'maps.npz').touch()
  assert run.finished


def test_a_class_by_its_name_is_that_of_the_run(tmp_path):
  [run] = sweep.expand('configs/quickstart.py', ['protocol.normal=three'],
                       ['3'], ['0'], root=str(tmp_path))
  config = run.config.copy_and_resolve_references()
  config.protocol.normal = '3'
  end(run, config)
  assert run.finished


def test_a_dry_run_tells_states_hours_and_commands(tmp_path, capsys):
  done, begun, new, other = found = sweep.expand(
      SMALL, ['train.steps=40'], ['0', '1'], root=str(tmp_path))
  end(done)
  folder = pathlib.Path(begun.workdir)
  (folder / 'checkpoints' / '20').mkdir(parents=True)
  (folder / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': step, 'loss': 1.5, 'steps_per_second': 0.01}) + '\n'
      for step in (10, 20, 30)) + '{"step": 4')
  sweep.show_plan(found, sweep.cost(found))
  out = capsys.readouterr().out
  rows = {line.split()[0]: ' '.join(line.split()[1:])
          for line in out.splitlines() if line.startswith(' small')}
  # 0.01 steps/s: 20 steps take 2,000 s, 40 take 4,000 s.
  assert rows == {done.job.name: 'done 0',
                  begun.job.name: 'resume at step 20 of 40 0.556',
                  new.job.name: 'new 1.11', other.job.name: 'new 1.11'}
  assert '3 of 4 runs to do' in out and '2.78 hours' in out
  commands = [shlex.split(line) for line in out.splitlines()
              if line.startswith('python')]
  assert commands == [['python', *run.job.command]
                      for run in (begun, new, other)]


def test_bad_input_is_one_line_and_status_2():
  found = launch(f'--config={SMALL}', '--engine=slrum')
  assert "unknown engine 'slrum'; did you mean 'slurm'" in the_error(found)


def test_what_runs_would_refuse_is_said_before_the_first(tmp_path):
  found = launch(f'--config={SMALL}', f'--root={tmp_path}',
                 '--set=optimizer.learning_rate=-1')
  assert 'learning_rate=-1.0 must be a number' in the_error(found)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('args, said', [
    (dict(path='configs/small_fmnist.py:rotatoin'), "did you mean 'rotation'"),
    (dict(path='configs/small_fmnis.py'), "did you mean 'small_fmnist'"),
    (dict(classes=['0', '12']), "unknown class '12'"),
    (dict(seeds=['0', 'one']), "'one' is not a whole number"),
    (dict(settings=['train.step=3']), 'train.*|step'),
    (dict(settings=['train.steps=many']), "steps=many"),
    (dict(settings=['train.steps']), 'not of the form key=value'),
    (dict(settings=['train.batch=0']), 'train.batch=0 must be a whole'),
    (dict(settings=['train.accumulate=3']), 'does not divide into train'),
    (dict(settings=['seed=3']), 'several runs would be in runs/.*/0/seed3'),
    (dict(seeds=['1', '1']), 'several runs would be in'),
    (dict(settings=['protocol.name=contaminate']), "mean 'contaminated'"),
    (dict(settings=['protocol.calibration=0.7']), 'calibration=0.7 must be'),
    (dict(settings=['data.source=tfd']), "unknown data 'tfd'"),
    (dict(path='configs/cutpaste_folder.py'), 'give --set=data.path=')])
def test_what_is_misspelt_is_said(args, said):
  with pytest.raises(InputError, match=said):
    sweep.expand(**{'path': SMALL, **args})


def test_the_pattern_finds_these_experiments_only(tmp_path):
  from deep_oc import evaluate
  root = str(tmp_path / 'runs[1]')
  wanted = sweep.expand('configs/cutpaste_mvtec.py', seeds=['0'],
                        classes=['bottle', 'wood'], root=root)
  others = sweep.expand(SMALL, classes=['0'], root=root)
  for run in (*wanted, *others):
    end(run)
  for found in wanted, others:
    pattern = sweep.pattern(found, root)
    assert evaluate.find_runs(pattern) == [
        pathlib.Path(run.workdir) for run in found]
    assert evaluate.root(pattern).is_relative_to(root)


def test_a_checkpoint_on_gs_counts_once_orbax_says_so(monkeypatch):
  there = [f'gs://bucket/run/checkpoints/{name}' for name in (
      '20/commit_success.txt', '40/metadata')]
  monkeypatch.setattr(files, 'glob', lambda pattern: fnmatch.filter(
      there, pattern))
  assert progress.checkpoint('gs://bucket/run') == 20


def test_progress_is_the_last_whole_row(tmp_path):
  assert progress.read(str(tmp_path)) == progress.Progress(0, None, None)
  rows = [{'step': i, 'loss': 1 / i, 'steps_per_second': 2.0, 'x': 'y' * 99}
          for i in range(1, 200)]
  (tmp_path / 'metrics.jsonl').write_text(
      '\n'.join(map(json.dumps, rows)) + '\n{"step": 200, "lo')
  now = progress.read(str(tmp_path))
  assert now == progress.Progress(199, 1 / 199, 2.0)
  assert now.left(399) == 100.0 and now.left(None) is None


def test_without_a_terminal_a_line_now_and_then_says_how_far_runs_are(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(progress, '_WORDS', -1)
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a/metrics.jsonl').write_text(
      '{"step": 30, "loss": 0.25, "steps_per_second": 2.0}\n')
  log = tmp_path / 'log.txt'
  log.write_text('x: 9 training images, 150 steps on 1 × cpu')
  names = {name: f'{tmp_path}/{name}' for name in 'abc'}
  board = progress.Board(names, dict.fromkeys(names, str(log)))
  for name in 'ab':
    board.update(name, 'running', '')
  capsys.readouterr()
  board.refresh()
  said = [line.partition(' ')[2]
          for line in capsys.readouterr().out.splitlines()]
  assert said == ['a: step 30 / 150, loss 0.2500, 2.0 steps/s, 0:01:00 left',
                  'b: begins']


CONFIG = textwrap.dedent('''
    import runpy
    get_config = runpy.run_path('tests/tiny.py')['get_config']
    def sweep():
      for seed in range(2):
        yield {'protocol.normal': '3', 'seed': seed}
      yield {'protocol.normal': '4', 'train.batch': 5000}
    ''')


@pytest.fixture
def tiny_sweep(digits_npz, tmp_path):
  """The flags of a sweep of two short runs."""
  path = tmp_path / 'tiny_sweep.py'
  path.write_text(CONFIG)
  return [f'--config={path}', f'--set=data.path={digits_npz}',
          '--set=train.steps=20', f'--root={tmp_path}/runs']


def test_what_is_done_is_skipped_and_what_fails_is_named(tiny_sweep, tmp_path):
  skipped, good, _ = sweep.expand(
      tiny_sweep[0].removeprefix('--config='),
      [each.removeprefix('--set=') for each in tiny_sweep
       if each.startswith('--set')], root=str(tmp_path / 'runs'))
  end(skipped)
  found = launch(*tiny_sweep, '--noevaluate', '--jobs=2')
  assert found.returncode == 1
  assert f'{skipped.job.name}: running' not in found.stdout
  assert f'{good.job.name}: done' in found.stdout and good.finished
  assert '2 of 3 runs done' in found.stdout
  assert 'tiny/4/seed0 failed (status 2): error: the training set has' in (
      found.stderr)
  assert not pathlib.Path(skipped.job.log).exists()


@pytest.mark.parametrize('states, evaluated, status', [
    (['done', 'done'], 2, 2), (['done', 'failed'], 2, 1),
    (['done', 'failed'], 0, 1), (['done', 'done'], 0, 0)])
def test_a_table_that_fails_is_no_success(
    states, evaluated, status, tmp_path, monkeypatch, capsys):
  args = dict(config=SMALL, engine='local', set=[], classes=['0'], seeds=None,
              root=str(tmp_path), dry_run=False, together=1, evaluate=True)
  monkeypatch.setattr(sweep, 'flags', types.SimpleNamespace(
      FLAGS=types.SimpleNamespace(**args, flag_values_dict=lambda: args)))
  monkeypatch.setattr(sweep, 'carry_out', lambda *_: dict(enumerate(states)))
  monkeypatch.setattr(subprocess, 'run', lambda command, **_:
                      subprocess.CompletedProcess(command, evaluated))
  with pytest.raises(SystemExit) if status else contextlib.nullcontext() as end:
    sweep.main()
  assert not status or end.value.code == status
  said = capsys.readouterr().err.splitlines()
  assert len(said) == (evaluated != 0)
  assert not said or 'deep_oc.evaluate ended with status 2' in said[0]


def test_runs_of_one_job_are_all_of_the_sweep():
  found = sweep.expand(SMALL, ['pretext.head=(8, 4)'], root='/a b')
  parts = sweep.jobs(found, 8)
  assert [len(part) for part in parts.values()] == [8, 8, 4]
  assert sum(map(list, parts.values()), []) == found
  job = list(parts)[1]
  assert job.command[:3] == ('-m', 'deep_oc.together', f'--config={SMALL}')
  assert job.command[3] == (
      "--run=protocol.normal=4 seed=0 'pretext.head=(8, 4)' "
      "'workdir=/a b/small_fmnist_dacl/4/seed0'")
  assert sweep.jobs(found) == {run.job: [run] for run in found}


@pytest.mark.slow
def test_runs_together_that_fail_leave_the_others_done(tiny_sweep):
  found = launch(*tiny_sweep, '--noevaluate', '--together=9')
  assert found.returncode == 1
  assert 'tiny/3/seed0: done' in found.stdout
  assert 'tiny/3/seed1: done' in found.stdout
  assert '2 of 3 runs done' in found.stdout
  assert 'tiny/4/seed0 failed (status 2): error: 4, seed 0: the training set' \
      in found.stderr


@pytest.mark.slow
def test_a_sweep_ends_with_the_table_and_does_nothing_twice(
    tiny_sweep, tmp_path):
  root = tmp_path / 'runs' / 'tiny' / '3'
  first = launch(*tiny_sweep, '--classes=3', '--seeds=0', '--noevaluate')
  assert first.returncode == 0, first.stderr
  before = (root / 'seed0' / 'embeddings' / 'test.npz').stat().st_mtime_ns
  second = launch(*tiny_sweep, '--classes=3')
  assert second.returncode == 0, second.stderr
  assert 'seed0: running' not in second.stdout
  assert 'seed1: running' in second.stdout
  assert before == (
      root / 'seed0' / 'embeddings' / 'test.npz').stat().st_mtime_ns
  assert (tmp_path / 'runs' / 'tiny' / 'summary.csv').exists()
  assert 'ocsvm_rbf' in second.stdout  # the table


@pytest.mark.slow
def test_a_sweep_killed_at_any_time_goes_on(tiny_sweep, tmp_path):
  args = [*tiny_sweep, '--classes=3', '--set=train.log_every=1']
  args[2] = '--set=train.steps=400'
  root = tmp_path / 'runs' / 'tiny' / '3'
  log = root / 'seed0' / 'log.txt'
  for i, (name, status) in enumerate(
      [('SIGKILL', -9), ('SIGTERM', 75), ('SIGINT', 130)]):
    process = subprocess.Popen(
        [sys.executable, '-m', 'launch.sweep', *args], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=functools.partial(  # a job in the background ignores it
            signal.signal, signal.SIGINT, signal.SIG_DFL))
    while not log.exists() or log.read_text().count('steps on') <= i:
      assert process.poll() is None
      time.sleep(0.1)
    newest = progress.checkpoint(str(root / 'seed0'))
    while progress.checkpoint(str(root / 'seed0')) == newest:
      assert process.poll() is None
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert name == 'SIGKILL' or 'the same command resumes' in err
  done = launch(*args)
  assert done.returncode == 0, done.stderr
  for workdir in root.glob('seed*'):
    steps = [json.loads(line)['step'] for line in
             (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert steps == list(range(1, 401))
    assert (workdir / 'results.csv').exists()
  assert (root / 'seed0' / 'log.txt').read_text().count('resuming at') == 3
