"""Stage 1: trains an encoder on normal images alone.

  python -m deep_oc.train --config=configs/dacl_cifar10.py \\
      --config.protocol.normal=3 --config.seed=1

The same command resumes a run that was stopped, and the result is the same, bit
for bit. It ends with what stage 2, `python -m deep_oc.evaluate`, reads: the
embeddings, and heat maps if the config has a group `localize`. Any field of the
config can be set on the command line.
"""
import datetime
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from absl import flags

from deep_oc import (checkpoints, cli, data, distribution, experiment, features,
                     localize, logs, monitor, runs, sharding, step)
from deep_oc.errors import InputError

_PROBES = 256  # training images whose features are watched


def define_flags() -> None:
  experiment.define_flag()
  flags.DEFINE_string(
      'workdir', None, 'Where the run lives; by default '
      'runs/<experiment>/<normal class>/seed<k>. A run found there is resumed.')


def train(config: ml_collections.ConfigDict, workdir: str | None = None
          ) -> str:
  """Trains to the last step, from the newest checkpoint, and embeds.

  Returns the folder of the run.
  """
  experiment.check(config)
  mesh = sharding.mesh()
  plan = experiment.plan(config)
  sharding.check_batch(plan.batch, mesh)
  pretext = experiment.pretext(config)
  problem = experiment.problem(config)
  config = experiment.resolved(config, problem)
  workdir = workdir or runs.default_workdir(config, problem.protocol)
  images = distribution.augment(problem.train.image, config.distribution)
  optimizer = experiment.optimizer(config, len(images))
  total = plan.total_steps(len(images))
  runs.claim(workdir, config)

  state = jax.device_put(
      step.create_state(pretext, optimizer, config.seed, images.shape[1:]),
      sharding.replicated(mesh))
  on_device = jax.device_put(images, sharding.replicated(mesh))
  take_steps = step.make_steps(pretext, optimizer, mesh)
  look = features.embedder(pretext, mesh, features.BATCH)
  key = step.root_key(config.seed)
  dispatch = step.steps_per_dispatch(plan.log_every)

  with checkpoints.Checkpoints(workdir) as saved:
    if saved.newest() is not None:
      state = saved.restore(state)
    start = int(state.step)
    _announce(config, problem, workdir, len(images), start, total)
    with logs.Metrics(workdir, start) as log, tqdm.tqdm(
        initial=start, total=total, unit='step', desc='train',
        disable=None) as bar:
      rows, since = [], time.perf_counter()
      now = start
      while now < total:
        count = min(dispatch - now % dispatch, total - now)
        index = step.batch_index(
            config.seed, len(images), plan.batch, now, count)
        state, metrics = take_steps(
            state, on_device, jnp.asarray(index), key)
        now += count
        rows.append(metrics)
        bar.update(count)
        last = now == total
        watch = now % plan.monitor_every < count or last
        save = now % plan.checkpoint_every < count or last
        if not (now % plan.log_every < count or watch or save):
          continue
        means = _mean(rows, now, workdir)
        means['steps_per_second'] = sum(
            len(row['loss']) for row in rows) / (time.perf_counter() - since)
        if watch:
          means |= monitor.statistics(
              look(state.variables, problem.train.image[:_PROBES])['pool'])
          for warning in monitor.warnings(means, now / total):
            tqdm.tqdm.write(f'warning: step {now}: {warning}')
        log.write(now, means)
        bar.set_postfix_str(f"loss {means['loss']:.4f}")
        if bar.disable and watch:  # no terminal: a line now and then instead
          print(_line(now, total, means), flush=True)
        if save:
          saved.save(state)
        rows, since = [], time.perf_counter()
  features.export(workdir, config, problem, pretext, state)
  if config.get('localize'):
    localize.export(workdir, config, problem, pretext, state)
  return workdir


def _announce(config: ml_collections.ConfigDict, problem: data.Problem,
              workdir: str, images: int, start: int, total: int) -> None:
  devices = jax.devices()
  print(f'{config.experiment}: {config.method} on {problem.dataset}, normal '
        f'= {problem.normal_name} ({problem.normal_class}), seed '
        f'{config.seed}; {images} training images, {total} steps on '
        f'{len(devices)} × {devices[0].device_kind}; {workdir}')
  if start:
    print(f'resuming at step {start} of {total}')


def _line(now: int, total: int, means: Mapping[str, float]) -> str:
  rate = means['steps_per_second']
  left = datetime.timedelta(seconds=round((total - now) / rate))
  return (f"step {now} of {total}  loss {means['loss']:.4f}  "
          f'{rate:.1f} steps/s  {left} left')


def _mean(rows: list[dict[str, jax.Array]], now: int, workdir: str
          ) -> dict[str, float]:
  """Returns the mean of each metric since the last report."""
  rows = jax.device_get(rows)
  means = {name: float(np.concatenate([row[name] for row in rows]).mean())
           for name in rows[0]}
  if not np.isfinite(means['loss']):
    raise InputError(
        f'the loss became {means["loss"]} before step {now}; the last good '
        f'checkpoint stays in {workdir}; lower optimizer.learning_rate')
  return means


def main() -> None:
  workdir = train(experiment.from_flag(), flags.FLAGS.workdir)
  print(f"stage 2: python -m deep_oc.evaluate --runs='{workdir}'")


if __name__ == '__main__':
  cli.run(main, define_flags)
