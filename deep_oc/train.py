"""Stage 1: trains an encoder on normal images alone.

  python -m deep_oc.train --config=configs/dacl_cifar10.py \\
      --config.protocol.normal=3 --config.seed=1

The same command resumes a run that was stopped, and the result is the same, bit
for bit. SIGTERM stops it after a checkpoint, with exit status 75. A run ends
with what stage 2, `python -m deep_oc.evaluate`, reads: the embeddings, and heat
maps if the config has a group `localize`. Any field of the config can be set on
the command line.
"""
from __future__ import annotations

import contextlib
import datetime
import functools
import time
import zlib
from collections.abc import Mapping

import ml_collections
import numpy as np
import tqdm
from absl import flags

from deep_oc import (cli, config_files, distributed, experiment, logs, monitor,
                     protocols, runs)
from deep_oc.errors import InputError

if cli.works(__name__):
  import flax.linen as nn
  import jax

  from deep_oc import (allocator, checkpoints, distribution, features, localize,
                       sharding, step, storage, weights)

PROBES = 256  # training images whose features are watched
SAVE = 15 * 60  # seconds; so much is lost at most by one process alone
TELL = 60  # seconds between lines where there is no terminal


def define_flags() -> None:
  config_files.define_flag()
  distributed.define_flags()
  flags.DEFINE_string(
      'workdir', None, 'Where the run lives; by default '
      'runs/<experiment>/<normal class>/seed<k>. A run found there is resumed. '
      'May be s3://bucket/folder, gs:// or any other protocol of fsspec.')


def train(config: ml_collections.ConfigDict, workdir: str | None = None
          ) -> str:
  """Trains to the last step, from the newest checkpoint, and embeds.

  Returns the folder of the run.
  """
  experiment.check(config)
  mesh = sharding.mesh()
  plan = experiment.plan(config)
  sharding.check_batch(plan.batch, mesh, plan.accumulate)
  pretext = experiment.pretext(config)
  problem = experiment.problem(config)
  config = experiment.resolved(config, problem)
  workdir = workdir or runs.default_workdir(config, problem.protocol)
  images = distribution.augment(problem.train.image, config.distribution)
  optimizer = experiment.optimizer(config, len(images))
  total = plan.total_steps(len(images))
  like = check(config, pretext, images)
  first = distributed.is_first()
  found = begins_with(config, pretext, like, workdir)
  runs.claim(workdir, config, first, found and found.about)
  distributed.agree('the training images', lambda: zlib.crc32(images))
  distributed.agree('the weights to begin with',
                    lambda: zlib.crc32(str(found and found.about).encode()))

  stored = storage.Storage(
      images, storage.choose(plan.placement, images.nbytes, mesh), mesh)
  take_steps = step.make_steps(
      pretext, optimizer, mesh, plan.batch_norm_groups, plan.accumulate)
  look = features.embedder(pretext, mesh, features.BATCH)
  key = jax.jit(step.root_key, static_argnums=0,
                out_shardings=sharding.replicated(mesh))(config.seed)
  dispatch = step.steps_per_dispatch(plan.log_every)

  with (runs.held(workdir) if first else contextlib.nullcontext(),
        checkpoints.Checkpoints(workdir) as saved):
    if saved.newest() is None:
      state = sharding.put(
          experiment.first_state(config, pretext, optimizer, images, found),
          sharding.replicated(mesh))
    else:
      state = saved.restore(like)
    start = int(state.step)
    distributed.agree(f'the newest checkpoint that they see in {workdir}, '
                      'which must be one folder for all', lambda: start)
    if first:
      announce(config, problem, workdir, len(images), start, total)
      print(stored)
    batches = stored.batches(
        functools.partial(
            step.batch_index, config.seed, len(images), plan.batch),
        start, total, dispatch)
    with (logs.Metrics(workdir, start) if first
          else contextlib.nullcontext()) as log, tqdm.tqdm(
        initial=start, total=total, unit='step', desc='train',
        disable=None if first else True) as bar, cli.between_steps(
            not jax.distributed.is_initialized()) as asked:
      rows, now, pace = [], start, Pace(start)
      saved_at = time.perf_counter()
      for dispatched, batch in enumerate(batches):
        state, metrics = take_steps(state, stored.images, batch, key)
        count = len(batch)
        now += count
        rows.append(metrics)
        keep_up(rows)
        bar.update(count)
        clock = time.perf_counter()
        if first and bar.disable and dispatched and pace.silent():
          jax.block_until_ready(metrics)  # for it tells of what is done
          print(line(now, total, pace.rate(now)), flush=True)
        last = now == total
        watch = last or due(plan.monitor_every, now, count)
        stopped = bool(asked.by) or distributed.stopping(dispatched)
        overdue = jax.process_count() == 1 and clock - saved_at > SAVE
        save = (last or stopped or overdue
                or due(plan.checkpoint_every, now, count))
        if not (watch or save or due(plan.log_every, now, count)):
          if not dispatched:
            jax.block_until_ready(metrics)
            pace.restart(now)  # what follows is compiled
          continue
        means = mean(rows)
        check_loss(means['loss'], now, workdir)
        means['steps_per_second'] = pace.rate(now)
        if watch:
          means |= monitor.statistics(
              look(state.variables, problem.train.image[:PROBES])['pool'])
        if first:
          report(now, total, means, watch, log, bar)
          pace.told()
        if last:
          state = features.concluded(pretext, state, problem.fitted.image)
        if save:
          check_state(state, workdir)
          if first:
            log.flush()
          saved.save(state)
          saved_at = time.perf_counter()
        if stopped:
          raise asked.stopped(now)
        rows = []
        pace.restart(now)
    export(workdir, config, problem, pretext, state)
  if first:
    print(_next(workdir, problem))
  return workdir


def _next(workdir: str, problem: protocols.Problem) -> str:
  if problem.test.anomaly.any():
    return f"stage 2: python -m deep_oc.evaluate --runs='{workdir}'"
  return ('no test image is anomalous, so there is nothing to evaluate; next: '
          f"python -m deep_oc.predict --workdir='{workdir}' --input=...")


def check(config: ml_collections.ConfigDict, pretext: nn.Module,
          images: np.ndarray) -> step.State:
  """Returns the shapes of a run's state, which take a trace of its network.

  Raises:
    InputError: task, encoder or heat maps do not fit u8[n, h, w, c].
  """
  localize.check(config, pretext, images.shape[1:])
  return experiment.state_like(config, pretext, images.shape[1:])


def begins_with(config: ml_collections.ConfigDict, pretext: nn.Module,
                like: step.State, workdir: str) -> weights.Weights | None:
  """Returns what a run begins with, and says so; None if with nothing.

  Nor is there anything once it has a checkpoint.

  Raises:
    InputError: that is not there, or of another encoder.
  """
  if runs.has_checkpoints(workdir):
    return None
  found = weights.read(config, pretext, like)
  if found and distributed.is_first():
    print(found)
  return found


def report(now: int, total: int, means: Mapping[str, float], watch: bool,
           log: logs.Metrics, bar: tqdm.tqdm, name: str = '') -> None:
  """Logs the metrics of a run, which has a name if it is one of several."""
  name = f'{name}: ' * bool(name)
  if watch:
    for warning in monitor.warnings(means, now / total):
      tqdm.tqdm.write(f'warning: {name}step {now}: {warning}')
  log.write(now, means)
  bar.set_postfix_str(f"loss {means['loss']:.4f}")
  if bar.disable and watch:  # no terminal: a line now and then instead
    print(f"{name}{line(now, total, means['steps_per_second'])}  loss "
          f"{means['loss']:.4f}", flush=True)


def announce(config: ml_collections.ConfigDict, problem: protocols.Problem,
             workdir: str, images: int, start: int, total: int) -> None:
  """Prints what is going to be trained, where, and from which step on."""
  devices = jax.devices()
  print(f'{config.experiment}: {config.method} on {problem.dataset}, normal '
        f'= {problem.normal_name} ({problem.normal_class}), seed '
        f'{config.seed}; {images} training images, {total} steps on '
        f'{len(devices)} × {devices[0].device_kind}; {workdir}')
  held_out = len(problem.calibration)
  if held_out:
    print(f'{held_out} normal images are held out, to calibrate false-alarm '
          f'rates from {100 / (1 + held_out):.3g} % on')
  if start:
    print(f'resuming at step {start} of {total}')


class Pace:
  """How many steps a second there are, and when that was told last."""

  def __init__(self, step: int):
    self.restart(step)
    self._told = self._since

  def restart(self, step: int) -> None:
    """Counts from this step on, and from now."""
    self._step, self._since = step, time.perf_counter()

  def rate(self, step: int) -> float:
    """Returns the steps per second, `step` being done now."""
    return (step - self._step) / (time.perf_counter() - self._since)

  def silent(self) -> bool:
    """Tells, once, that for `TELL` seconds nothing was told."""
    if time.perf_counter() - self._told <= TELL:
      return False
    self.told()
    return True

  def told(self) -> None:
    """Notes that something was told now."""
    self._told = time.perf_counter()


def line(now: int, total: int, rate: float) -> str:
  """Returns how far a run is."""
  left = datetime.timedelta(seconds=round((total - now) / rate))
  digits = 1 if rate > 1 else 4
  return f'step {now} of {total}  {rate:.{digits}f} steps/s  {left} left'


def due(every: int, now: int, count: int) -> bool:
  """Tells whether one of the last `count` steps up to `now` was to be so."""
  return now % every < count


def keep_up(rows: list[dict[str, jax.Array]]) -> None:
  """Waits for the dispatch before the last one of the train step.

  So that not more than two are under way: a signal is heeded soon, and what is
  told is done. The device has work meanwhile.
  """
  if len(rows) > 1:
    jax.block_until_ready(rows[-2])


def mean(rows: list[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
  """Returns the mean over steps of each metric f32[k, ...], f64[...]."""
  rows = jax.device_get(rows)
  return {name: np.concatenate([row[name] for row in rows]).mean(
      0, dtype=np.float64) for name in rows[0]}


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: protocols.Problem, pretext: nn.Module, state: step.State
           ) -> None:
  """Writes what stage 2 reads: embeddings, and heat maps if there are any."""
  features.export(workdir, config, problem, pretext, state)
  if config.get('localize'):
    localize.export(workdir, config, problem, pretext, state)


def check_loss(loss: float, now: int, workdir: str) -> None:
  """Raises InputError if the loss is no number any more."""
  if not np.isfinite(loss):
    raise InputError(
        f'the loss became {loss} before step {now}; the last good checkpoint '
        f'stays in {workdir}; lower optimizer.learning_rate')


def check_state(state: step.State, workdir: str) -> None:
  """Raises InputError if no step could follow, so that none is saved so."""
  if not step.finite(state):
    raise InputError(
        f'a parameter or its velocity became infinite by step '
        f'{int(state.step)}, which is not saved; what was saved before stays '
        f'in {workdir}; lower optimizer.learning_rate')


def main() -> None:
  with distributed.joined():
    allocator.keep_freed_memory()
    train(config_files.from_flag(), flags.FLAGS.workdir)


if __name__ == '__main__':
  cli.run(main, define_flags, resumes=True)
