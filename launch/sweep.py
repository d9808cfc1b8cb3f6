"""Runs every point of a config's sweep, here or on a cluster, to one table.

  python -m launch.sweep --config=configs/dacl_cifar10.py --dry_run
  python -m launch.sweep --config=configs/dacl_cifar10.py
  python -m launch.sweep --config=configs/dacl_cifar10.py --engine=slurm \\
      --classes=0,3 --seeds=0,1 --sbatch='--partition=gpu --gres=gpu:1'

A config file's `sweep()` yields its points, overrides of single fields: classes
times seeds. Each is a run, the command that --dry_run prints. Runs that are
finished are skipped, others resumed, failed ones tried again; the same command
goes on after whatever happened. Ctrl-C ends the runs, which save first. What a
run prints is in log.txt in its folder. At the end `deep_oc.evaluate` measures
all runs of the experiment and writes their summary.

launch/README.md tells about the engines.
"""
import glob
import inspect
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_collections
from absl import flags

from deep_oc import (cli, config_files, errors, experiment, files, plugins,
                     protocols, runs)
from deep_oc.errors import InputError
from launch import engines, progress

_REFRESH = 2.0  # seconds


def define_flags() -> None:
  flags.DEFINE_string(
      'config', None, 'File of the experiment, for example '
      'configs/quickstart.py.')
  flags.DEFINE_string(
      'engine', 'local', 'Where the runs go: local, ray, slurm or tpu_vm.')
  flags.DEFINE_multi_string(
      'set', [], 'A field for all runs, for example train.steps=1000; may be '
      'given again.')
  flags.DEFINE_list('classes', None, "Some of the sweep's classes.")
  flags.DEFINE_list('seeds', None, "Instead of the sweep's seeds.")
  flags.DEFINE_string('root', 'runs', 'The folder above all runs.')
  flags.DEFINE_integer('retries', 2, 'Of a run that fails.', 0)
  flags.DEFINE_bool('dry_run', False, 'Only say what would be done.')
  flags.DEFINE_bool(
      'estimate', True, 'With --dry_run, time some steps on this machine.')
  flags.DEFINE_integer(
      'together', 1, 'Runs in one process, which shares data and compiled '
      'programs, spreads them over its devices, and trains several at once on '
      'each if that is faster there (deep_oc.together).', 1)
  flags.DEFINE_bool('evaluate', True, 'Measure the runs at the end.')
  flags.DEFINE_integer(
      'jobs', None, 'local: runs at once; by default one per GPU, or one.', 1)
  flags.DEFINE_integer('gpus', None, 'local: how many to use; default all.', 0)
  flags.DEFINE_string(
      'address', None, "ray: of the cluster, 'auto' for that of this node; by "
      'default one of this machine alone is started.')
  flags.DEFINE_float('cpus_per_run', 1.0, 'ray: CPUs that a run takes.', 0.0)
  flags.DEFINE_float('gpus_per_run', 0.0, 'ray: GPUs that a run takes.', 0.0)
  flags.DEFINE_string(
      'sbatch', '', "slurm: options of sbatch, for example '--partition=gpu "
      "--gres=gpu:1 --time=4:00:00'.")
  flags.DEFINE_string('zone', None, 'tpu_vm: for example us-central2-b.')
  flags.DEFINE_string('accelerator', None, 'tpu_vm: for example v4-8.')
  flags.DEFINE_string('runtime', 'tpu-ubuntu2204-base', 'tpu_vm: its image.')
  flags.DEFINE_integer('slices', 1, 'tpu_vm: how many, a run on each.', 1)
  flags.DEFINE_bool('spot', True, 'tpu_vm: cheaper, and may be preempted.')
  flags.DEFINE_string(
      'setup', '', 'tpu_vm: shell commands that make a new machine ready, in '
      'the folder where runs are then started.')


class Run(NamedTuple):
  """A point of the sweep; its job trains it alone."""
  job: engines.Job
  config: ml_collections.ConfigDict  # as far as known without the images
  workdir: str

  @property
  def finished(self) -> bool:
    return runs.finished(self.workdir, self.config,
                         experiment.embed(self.config).feature)


def expand(path: str, settings: Sequence[str] = (),
           classes: Sequence[str] | None = None,
           seeds: Sequence[str] | None = None, root: str = 'runs'
           ) -> list[Run]:
  """Returns the runs of a config's sweep.

  Args:
    path: of the config file, with its argument if it takes one.
    settings: 'key=value' each, for all runs.
    classes: those to keep; None keeps all.
    seeds: in place of the sweep's own; None keeps these.
    root: the folder above all runs.

  Raises:
    InputError: no such file, field, class or seed, a source of images without
      what it needs, or two runs in one folder.
  """
  base = config_files.read(path, {})
  experiment.check(base)
  found = _of_classes(base, config_files.points(path), classes)
  if seeds is not None:
    found = _with_seeds(found, [_seed(seed) for seed in seeds])
  given = dict(_setting(each) for each in settings)
  expanded = [_run(path, point | given, root) for point in found]
  workdirs = [run.workdir for run in expanded]
  for workdir in workdirs:
    if workdirs.count(workdir) > 1:
      raise InputError(f'several runs would be in {workdir}; --set must not '
                       'set what the sweep varies, nor give a value twice')
  return expanded


def _of_classes(base, points, classes):
  if classes is None:
    return points
  known = list(dict.fromkeys(_class(base, point) for point in points))
  for name in classes:
    if name not in known:
      raise errors.unknown('class', name, known)
  return [point for point in points if _class(base, point) in classes]


def _class(base: ml_collections.ConfigDict, point: Mapping[str, object]) -> str:
  """Returns what --classes calls a point: '3', or 'bottle' of MVTec AD."""
  if 'data.name' in point:
    return str(point['data.name']).rsplit('/', 1)[-1]
  return str(point.get('protocol.normal', base.protocol.normal))


def _with_seeds(points, seeds):
  different = []
  for point in points:
    rest = {key: value for key, value in point.items() if key != 'seed'}
    if rest not in different:
      different.append(rest)
  return [point | {'seed': seed} for point in different for seed in seeds]


def _seed(text: str) -> int:
  if not text.strip().isdecimal():
    raise InputError(f"--seeds: '{text}' is not a whole number from 0 on")
  return int(text)


def _setting(text: str) -> tuple[str, str]:
  key, equals, value = text.partition('=')
  if not equals:
    raise InputError(f'--set={text} is not of the form key=value')
  return key, value


def _run(path: str, overrides: Mapping[str, object], root: str) -> Run:
  config, protocol = resolved(config_files.read(path, overrides))
  experiment.check(config)
  _check_source(config.data)
  name = runs.default_workdir(config, protocol).removeprefix('runs/')
  workdir = f'{root.rstrip("/")}/{name}'
  # A bucket has no appending.
  folder = f'runs/{name}' if files.is_remote(root) else workdir
  return Run(
      engines.Job(name, ('-m', 'deep_oc.train',
                         *config_files.arguments(path, overrides),
                         f'--workdir={workdir}'), f'{folder}/log.txt'),
      config, workdir)


def _check_source(group: ml_collections.ConfigDict) -> None:
  """Raises InputError if images cannot be read, as far as known without them.
  """
  read = plugins.find('deep_oc.data', group.source, 'load')
  for name, each in inspect.signature(read).parameters.items():
    if each.default is each.empty and group.get(name) is None:
      raise InputError(f"the source '{group.source}' needs data.{name}; give "
                       f'--set=data.{name}=...')


def resolved(config: ml_collections.ConfigDict
             ) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the config and the protocol's title as they will be in the run.

  `experiment.resolved` without the images, which may be elsewhere. A class by
  its name stays so; only of 'good' is the label known.
  """
  protocol = {key: value for key, value in config.protocol.items()
              if value is not None}
  name = protocol.pop('name', 'one_vs_rest')
  normal = str(protocol.pop('normal', 0))
  if config.data.source in ('folder', 'builtin') and normal == 'good':
    normal = '0'
  several = normal.split('+')
  if all(each.isdecimal() for each in several):
    normal = '+'.join(map(str, sorted(map(int, several))))
  if name not in protocols.PROTOCOLS:
    raise errors.unknown('protocol', name, protocols.PROTOCOLS)
  settings = protocols.settings_of(name, **protocol)
  return (experiment.with_protocol(config, normal, settings),
          protocols.title(name, settings, len(several)))


class Cost(NamedTuple):
  """What a step takes, in seconds, and how that is known."""
  seconds: float | None = None
  steps: int | None = None  # of a run, for those that do not say
  source: str = ''

  def hours(self, steps: int | None, start: int) -> float | None:
    """Returns the hours from a step to the last one; None is unknown."""
    if self.seconds is None or steps is None:
      return None
    return self.seconds * (steps - start) / 3600


def cost(sweep: Sequence[Run], measure: bool = True) -> Cost:
  """Returns what the runs that were started tell, or else a measurement."""
  rates = [progress.read(run.workdir).rate for run in sweep]
  if any(rates):
    return Cost(1 / statistics.median(filter(None, rates)),
                source='as in the runs so far')
  return _measured(sweep[0]) if measure else Cost()


def _measured(run: Run) -> Cost:
  """Times some steps on this machine, in a process that JAX has for itself."""
  print(f'timing some steps of {run.job.name}; --noestimate does without',
        file=sys.stderr)
  config = [each for each in run.job.command if each.startswith('--config')]
  done = subprocess.run(
      [sys.executable, '-m', 'deep_oc.estimate', *config],
      capture_output=True, text=True, check=False)
  if done.returncode:
    print('no estimate:', *done.stderr.strip().splitlines()[-1:],
          file=sys.stderr)
    return Cost()
  found = json.loads(done.stdout.splitlines()[-1])
  return Cost(found['seconds_per_step'], found['steps'],
              f"as {run.job.name} on {found['device']}")


def jobs(todo: Sequence[Run], together: int = 1
         ) -> dict[engines.Job, Sequence[Run]]:
  """Returns the jobs that carry out runs, `together` at most in each."""
  if together == 1:
    return {run.job: [run] for run in todo}
  return {_joined(part): part for part in (
      todo[i:i + together] for i in range(0, len(todo), together))}


def _joined(part: Sequence[Run]) -> engines.Job:
  """Returns a job for several runs, with the log of the first."""
  first = part[0]
  path = first.job.command[2]
  others = f' and {len(part) - 1} more' * (len(part) > 1)
  return engines.Job(first.job.name + others, (
      '-m', 'deep_oc.together', path,
      *(f'--run={_fields(run)}' for run in part)), first.job.log)


def _fields(run: Run) -> str:
  """Returns what --run of `deep_oc.together` takes: 'key=value key=value'."""
  return shlex.join([*(
      each.removeprefix('--config.') for each in run.job.command
      if each.startswith('--config.')), f'workdir={run.workdir}'])


def show_plan(sweep: Sequence[Run], cost: Cost, together: int = 1) -> None:
  """Prints the runs, how long they would train, and their commands."""
  rows, hours = [], []
  for run in sweep:
    steps = _steps(run) or cost.steps
    at = progress.checkpoint(run.workdir)
    state = f"resume at step {at} of {steps or '?'}" if at else 'new'
    hours.append(0.0 if run.finished else cost.hours(steps, at))
    rows.append((run.job.name, 'done' if run.finished else state,
                 '?' if hours[-1] is None else f'{hours[-1]:.3g}'))
  progress.console().print(progress.table(('run', 'state', 'hours'), rows))
  todo = [run for run in sweep if not run.finished]
  print(f'\n{len(todo)} of {len(sweep)} runs to do')
  if None not in hours:
    print(f'{sum(hours):.3g} hours of training, {cost.seconds:.4g} s per step '
          f'{cost.source}')
  print()
  for job in jobs(todo, together):
    print(shlex.join(['python', *job.command]))


def _steps(run: Run) -> int | None:
  return run.config.train.get('steps') or progress.total(run.job.log)


def carry_out(sweep: Sequence[Run], engine: str,
              options: Mapping[str, object], together: int = 1
              ) -> dict[str, str]:
  """Runs what is not finished, `together` at most in a job, and shows it.

  Returns the final state of every run, 'done' or 'failed', by its name.
  """
  submit = plugins.find('launch.engines', engine, 'submit')
  taken = inspect.signature(submit).parameters
  todo = [run for run in sweep if not run.finished]
  parts = jobs(todo, together)
  logs = {run.job.name: job.log for job, part in parts.items() for run in part}
  with progress.Board({run.job.name: run.workdir for run in todo},
                      logs) as board:
    events = submit(list(parts), **{
        name: value for name, value in options.items() if name in taken})
    shown = 0.0
    try:
      for event in events:
        if event:
          for run in parts[event.job]:
            done = event.state == 'failed' and run.finished
            board.update(run.job.name, 'done' if done else event.state,
                         '' if done else event.note)
        if time.monotonic() - shown > _REFRESH:
          board.refresh()
          shown = time.monotonic()
      board.refresh()
    except (KeyboardInterrupt, cli.Stopped):
      print('ending the runs, which save first; once more ends them at once',
            file=sys.stderr)
      raise
    finally:
      events.close()
  for name, (state, note) in board.states.items():
    if state == 'failed':
      print(f'{name} failed ({note}): {_last_line(logs[name])} [{logs[name]}]',
            file=sys.stderr)
  return {run.job.name: 'done' for run in sweep} | {
      name: state for name, (state, _) in board.states.items()}


def _last_line(path: str) -> str:
  try:
    with open(path, encoding='utf-8', errors='replace') as file:
      return ([''] + file.read().split('\n')[:-1])[-1]
  except OSError:
    return ''


def pattern(sweep: Sequence[Run], root: str) -> str:
  """Returns what `evaluate` finds these runs by: runs/<experiment>/**."""
  names = {run.config.experiment for run in sweep}
  several = '*' if len(names) > 1 else ''
  folder = glob.escape(root.rstrip('/'))
  return f'{folder}/{os.path.commonprefix(list(names))}{several}/**'


def main() -> None:
  args = flags.FLAGS
  if not args.config:
    raise InputError('--config is required, for example '
                     '--config=configs/quickstart.py')
  plugins.find('launch.engines', args.engine, 'submit')  # or it raises
  sweep = expand(args.config, args.set, args.classes, args.seeds, args.root)
  for run in sweep:  # what each would refuse when it has read its images
    experiment.check_parts(run.config)
  if args.dry_run:
    todo = [run for run in sweep if not run.finished]
    show_plan(sweep, cost(todo or sweep, args.estimate and bool(todo)),
              args.together)
    return
  folder = 'runs' if files.is_remote(args.root) else args.root
  states = carry_out(sweep, args.engine, args.flag_values_dict() | {
      'folder': f'{folder}/.launch'}, args.together)
  done = list(states.values()).count('done')
  print(f'{done} of {len(states)} runs done')
  status = int(done < len(states))
  if args.evaluate and done:
    evaluated = subprocess.run([
        sys.executable, '-m', 'deep_oc.evaluate',
        f'--runs={pattern(sweep, args.root)}'], check=False).returncode
    if evaluated:
      print(f'deep_oc.evaluate ended with status {evaluated}: the table is '
            'missing or not of all runs', file=sys.stderr)
    status = status or evaluated
  if status:
    sys.exit(status)


if __name__ == '__main__':
  cli.run(main, define_flags, resumes=True)
