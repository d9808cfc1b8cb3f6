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
import functools
import time
import zlib

import ml_collections
import tqdm
from absl import flags

from deep_oc import (cli, config_files, distributed, experiment, logs,
                     protocols, runs)

if cli.works(__name__):
  import jax

  from deep_oc import (allocator, checkpoints, distribution, features, sharding,
                       step, storage, training)


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
  experiment.check_parts(config)
  mesh = sharding.mesh()
  plan = experiment.plan(config)
  sharding.check_batch(plan.batch, mesh, plan.accumulate)
  pretext = experiment.pretext(config)
  problem = experiment.problem(config, training.load(config.data))
  config = experiment.resolved(config, problem)
  workdir = workdir or runs.default_workdir(config, problem.protocol)
  images = distribution.augment(problem.train.image, config.distribution)
  optimizer = experiment.optimizer(config, len(images))
  total = plan.total_steps(len(images))
  like = training.check(config, pretext, images)
  first = distributed.is_first()
  found = training.begins_with(config, pretext, like, workdir)
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
      training.announce(config, problem, workdir, len(images), start, total)
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
      rows, now, pace = [], start, training.Pace(start)
      saved_at = time.perf_counter()
      for dispatched, batch in enumerate(batches):
        state, metrics = take_steps(state, stored.images, batch, key)
        count = len(batch)
        now += count
        rows.append(metrics)
        training.keep_up(rows)
        bar.update(count)
        clock = time.perf_counter()
        if first and bar.disable and dispatched and pace.silent():
          jax.block_until_ready(metrics)  # for it tells of what is done
          print(training.line(now, total, pace.rate(now)), flush=True)
        last = now == total
        watch = last or training.due(plan.monitor_every, now, count)
        stopped = bool(asked.by) or distributed.stopping(dispatched)
        overdue = jax.process_count() == 1 and clock - saved_at > training.SAVE
        save = (last or stopped or overdue
                or training.due(plan.checkpoint_every, now, count))
        if not (watch or save or training.due(plan.log_every, now, count)):
          if not dispatched:
            jax.block_until_ready(metrics)
            pace.restart(now)  # what follows is compiled
          continue
        means = training.mean(rows)
        training.check_loss(means['loss'], now, workdir)
        means['steps_per_second'] = pace.rate(now)
        if watch:
          means |= training.watched(look, state, problem)
        if first:
          training.report(now, total, means, watch, log, bar)
          pace.told()
        if last:
          state = features.concluded(pretext, state, problem.fitted.image)
        if save:
          training.check_state(state, workdir)
          if first:
            log.flush()
          saved.save(state)
          saved_at = time.perf_counter()
        if stopped:
          raise asked.stopped(now)
        rows = []
        pace.restart(now)
    training.export(workdir, config, problem, pretext, state)
  if first:
    print(_next(workdir, problem))
  return workdir


def _next(workdir: str, problem: protocols.Problem) -> str:
  if problem.test.anomaly.any():
    return f"stage 2: python -m deep_oc.evaluate --runs='{workdir}'"
  return ('no test image is anomalous, so there is nothing to evaluate; next: '
          f"python -m deep_oc.predict --workdir='{workdir}' --input=...")


def main() -> None:
  with distributed.joined():
    allocator.keep_freed_memory()
    train(config_files.from_flag(), flags.FLAGS.workdir)


if __name__ == '__main__':
  cli.run(main, define_flags, resumes=True)
