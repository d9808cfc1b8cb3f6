"""Trains several runs in one process, several at once where that pays.

  python -m deep_oc.together --config=configs/dacl_cifar10.py \\
      --run='protocol.normal=0 seed=0' --run='protocol.normal=1 seed=0'

Every run gets the folder and the files that `deep_oc.train` would give it, to
rounding, and either of the two resumes what the other began. Runs of one shape
(all but the images and the seed is the same) are spread over the devices, one
on each or `--at_once` on each, and nothing goes between them; the rest comes
after. `launch.sweep --together` starts this binary.

By default it is measured whether two, four, ... models on a device take more
steps per second than one, and what is fastest is done.
"""
from __future__ import annotations

import contextlib
import functools
import json
import shlex
import time
from collections.abc import Iterator, Sequence

import ml_collections
import tqdm
from absl import flags

from deep_oc import (cli, config_files, data, errors, experiment, files, logs,
                     runs)
from deep_oc.errors import InputError

if cli.works(__name__):
  import jax

  from deep_oc import (allocator, checkpoints, distribution, features, fleets,
                       sharding, step, training)

_MOST = 16  # models on a device that are tried
_SECONDS = 1.0  # for which each number of models is timed
_ENOUGH = 1.05  # times as fast, or fewer models at once are taken


def define_flags() -> None:
  flags.DEFINE_string(
      'config', None, 'File of the experiment, for example '
      'configs/dacl_cifar10.py.')
  flags.DEFINE_multi_string(
      'run', [], "The fields that make a run, 'protocol.normal=3 seed=1', and "
      'its folder, workdir=..., if it is to be another than `train` takes '
      'below --root; one flag for each run.')
  flags.DEFINE_multi_string('set', [], 'A field for all runs, key=value.')
  flags.DEFINE_string('root', 'runs', 'The folder above all runs.')
  flags.DEFINE_integer(
      'at_once', 0, 'Models on each device; 0: as many as a measurement on '
      'this machine says.', 0)


def member(config: ml_collections.ConfigDict, root: str,
           workdir: str | None = None) -> fleets.Member | None:
  """Returns a run with its images; None if it is finished.

  Args:
    config: of the run.
    root: the folder above all runs.
    workdir: its own, if it is to be another.

  Raises:
    InputError: the config cannot be, or its folder holds another run.
  """
  experiment.check(config)
  experiment.check_parts(config)
  problem = experiment.problem(config, _split(json.dumps(
      config.data.to_dict(), sort_keys=True)))
  config = experiment.resolved(config, problem)
  name = runs.default_workdir(config, problem.protocol).removeprefix('runs/')
  workdir = workdir or f'{root.rstrip("/")}/{name}'
  if runs.finished(workdir, config, experiment.embed(config).feature):
    return None
  images = distribution.augment(problem.train.image, config.distribution)
  experiment.optimizer(config, len(images))  # or it raises
  pretext = experiment.pretext(config)
  like = training.check(config, pretext, images)
  found = training.begins_with(config, pretext, like, workdir)
  runs.claim(workdir, config, weights=found and found.about)
  return fleets.Member(config, problem, images, workdir, like, found)


@functools.lru_cache(maxsize=1)  # classes and seeds share it
def _split(arguments: str) -> data.Split:
  return training.load(json.loads(arguments))


def chunks(members: Sequence[fleets.Member], devices: int, at_once: int
           ) -> Iterator[Sequence[fleets.Member]]:
  """Divides members into those that are trained at the same time.

  As many as `at_once` times the devices; what is left over goes evenly to all
  devices, and at last one to each of some.
  """
  members = list(members)
  while members:
    local = min(at_once, max(len(members) // devices, 1))
    count = min(local * devices, len(members))
    yield members[:count]
    members = members[count:]


def train_together(members: Sequence[fleets.Member], at_once: int = 0
                   ) -> list[InputError]:
  """Trains members of any shapes to their ends, and embeds.

  Args:
    members: the runs.
    at_once: models on each device; 0 measures.

  Returns:
    What went wrong, one of each run that failed.
  """
  failed, shapes = {}, {}
  for each in members:
    shapes.setdefault(each.shape, []).append(each)
  for alike in shapes.values():
    most = -(-len(alike) // jax.device_count())
    with _alone(alike, failed):
      program = fleets.Program(alike[0])
      local = min(at_once or what_pays(program, alike[0], most), most)
      for chunk in chunks(alike, jax.device_count(), local):
        with _alone(chunk, failed):
          failed |= _train(program, chunk)
  return list(failed.values())


def what_pays(program: fleets.Program, of: fleets.Member, most: int) -> int:
  """Returns how many models on a device train fastest, and prints why.

  Args:
    program: of its shape.
    of: a member, on whose images it is measured.
    most: how many there could be.
  """
  best, rates = 1, {}
  count = 1
  while count <= min(most, _MOST) and most > 1 and of.start < of.total:
    try:
      rates[count] = _rate(program, of, count)
    except Exception as error:
      if count == 1 or errors.explained(error) is None:
        raise
      break  # so many do not fit
    if rates[count] < rates[best] * (_ENOUGH if count > 1 else 1):
      break
    best, count = count, 2 * count
  if rates:
    print('models on a device, and their steps/s: ' + ', '.join(
        f'{count}: {rate:.3g} ({rate / rates[1]:.2f} ×)'
        for count, rate in rates.items()) + f'; training {best} at once',
          flush=True)
  return best


def _rate(program: fleets.Program, of: fleets.Member, count: int) -> float:
  """Returns the steps per second of all models, `count` on one device."""
  fleet = fleets.Fleet(program, [of] * count, 1)
  index = fleet.batches(of.start, 1)
  take = lambda states: fleet.take_steps(  # noqa: E731
      states, fleet.images, index, fleet.keys)[0]
  states = jax.block_until_ready(take(fleet.initial()))
  began, taken = time.perf_counter(), 0
  while time.perf_counter() - began < _SECONDS:
    states = jax.block_until_ready(take(states))
    taken += count
  return taken / (time.perf_counter() - began)


def _train(program: fleets.Program, members: Sequence[fleets.Member]
           ) -> dict[fleets.Member, InputError]:
  """Trains members of one shape at the same time; returns what failed."""
  first = members[0]
  plan, start, total = first.plan, first.start, first.total
  fleet = fleets.Fleet(program, members, min(len(members), jax.device_count()))
  whole = sharding.replicated(sharding.mesh())
  look = features.embedder(fleet.pretext, sharding.mesh(), features.BATCH)
  failed, ended = {}, {}
  name = first.name + f' and {len(members) - 1} others' * (len(members) > 1)
  with contextlib.ExitStack() as stack:
    saved = [stack.enter_context(checkpoints.Checkpoints(each.workdir))
             for each in members]
    log = [stack.enter_context(logs.Metrics(each.workdir, start))
           for each in members]
    states = fleet.stack([
        each.restore(of.like) if start
        else fleet.one(of) for of, each in zip(members, saved, strict=True)])
    for each in members:
      training.announce(each.config, each.problem, each.workdir,
                        len(each.images), start, total)
    dispatch = step.steps_per_dispatch(plan.log_every)
    bar = stack.enter_context(tqdm.tqdm(
        initial=start, total=total, unit='step', disable=None,
        desc=f'train {len(members)}'))
    asked = stack.enter_context(cli.between_steps())
    rows, now, pace = [], start, training.Pace(start)
    saved_at = time.perf_counter()
    while now < total and len(failed) < len(members):
      count = min(dispatch - now % dispatch, total - now)
      states, metrics = fleet.take_steps(
          states, fleet.images, fleet.batches(now, count), fleet.keys)
      now += count
      rows.append(metrics)
      training.keep_up(rows)
      bar.update(count)
      clock = time.perf_counter()
      if bar.disable and now > start + count and pace.silent():
        jax.block_until_ready(metrics)
        print(f'{name}: {training.line(now, total, pace.rate(now))}',
              flush=True)
      last = now == total
      watch = last or training.due(plan.monitor_every, now, count)
      stopped = bool(asked.by)  # a signal may come while it is saved
      save = (last or stopped or clock - saved_at > training.SAVE
              or training.due(plan.checkpoint_every, now, count))
      if not (watch or save or training.due(plan.log_every, now, count)):
        if now == start + count:
          jax.block_until_ready(metrics)
          pace.restart(now)  # what follows is compiled
        continue
      means, rate = training.mean(rows), pace.rate(now)
      host = jax.device_get(states) if watch or save else None
      for i, each in enumerate(members):
        if each in failed:
          continue
        with _alone([each], failed):
          found = {name: value[i] for name, value in means.items()}
          training.check_loss(found['loss'], now, each.workdir)
          found['steps_per_second'] = rate
          state = jax.tree.map(lambda x, i=i: x[i], host)
          if watch:
            found |= training.watched(look, state, each.problem)
          training.report(now, total, found, watch, log[i], bar, each.name)
          pace.told()
          if save:
            state = sharding.put(state, whole)
            training.check_state(state, each.workdir)
            log[i].flush()
            if last:
              state = features.concluded(
                  fleet.pretext, state, each.problem.fitted.image)
              ended[each] = jax.device_get(state)
            saved[i].save(state)
            saved_at = time.perf_counter()
      if stopped:
        raise asked.stopped(now)
      rows = []
      pace.restart(now)
  if start == total:  # trained before, but not embedded
    host = jax.device_get(states)
    ended = {each: jax.tree.map(lambda x, i=i: x[i], host)
             for i, each in enumerate(members)}
  for each, state in ended.items():
    with _alone([each], failed):
      training.export(each.workdir, each.config, each.problem, fleet.pretext,
                      sharding.put(state, whole))
  return failed


@contextlib.contextmanager
def _alone(of: Sequence[fleets.Member],
           failed: dict[fleets.Member, InputError]) -> Iterator[None]:
  """Keeps to some runs what is wrong with them, too little memory as well.

  What cannot be written ends all.
  """
  try:
    yield
  except files.WriteError:
    raise
  except Exception as error:
    said = errors.explained(error)
    if said is None:
      raise
    failed.update((each, _of(each.name, said)) for each in of)


def _of(name: str, error: InputError) -> InputError:
  """Returns the error with the name of the run before it."""
  return type(error)(f'{name}: {error}')


def _overrides(text: str) -> dict[str, str]:
  """Parses 'key=value key=value'."""
  found = {}
  for each in shlex.split(text):
    key, equals, value = each.partition('=')
    if not equals:
      raise InputError(f"'{each}' is not of the form key=value")
    found[key] = value
  return found


def main() -> None:
  args = flags.FLAGS
  if not args.config or not args.run:
    raise InputError("--config and --run are required; --run='seed=0' for each "
                     'run')
  shared = {}
  for each in args.set:
    shared |= _overrides(shlex.quote(each))
  asked = [_overrides(each) | shared for each in args.run]
  folders = [each.pop('workdir', None) for each in asked]
  configs = [config_files.read(args.config, each) for each in asked]
  if jax.process_count() > 1:
    raise InputError('several processes train one run; without --together each '
                     'run is trained by all of them')
  allocator.keep_freed_memory()
  members, failed = [], []
  for config, workdir in zip(configs, folders, strict=True):
    try:
      members.append(member(config, args.root, workdir))
    except InputError as error:
      failed.append(
          _of(f'{config.protocol.normal}, seed {config.seed}', error))
  members = [each for each in members if each]
  workdirs = [each.workdir for each in members]
  if len(set(workdirs)) < len(workdirs):
    raise InputError('two of the runs would be in one folder')
  with contextlib.ExitStack() as stack:
    ready = []
    for each in members:
      try:
        stack.enter_context(runs.held(each.workdir))
        _ = each.start  # kept; what cannot be read fails this run alone
        ready.append(each)
      except InputError as error:
        failed.append(_of(each.name, error))
    failed += train_together(ready, args.at_once)
  if failed:
    kinds = {type(each) for each in failed}
    raise (errors.OutOfMemory if errors.OutOfMemory in kinds else InputError)(
        '; '.join(map(str, failed)))


if __name__ == '__main__':
  cli.run(main, define_flags, resumes=True)
