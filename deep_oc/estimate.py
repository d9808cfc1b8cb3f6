"""What a run of a config costs on this machine, with its real images.

  python -m deep_oc.estimate --config=configs/dacl_cifar10.py

prints a line of JSON: the seconds of a step, after compilation, the steps of
the run, and the bytes that it needs on a device. `deep_oc.doctor` says it in
words, `deep_oc.benchmark` tells more.
"""
from __future__ import annotations

import json
import time

import ml_collections
import numpy as np
from absl import flags

from deep_oc import cli, config_files, experiment

if cli.works(__name__):
  import jax
  import jax.numpy as jnp

  from deep_oc import distribution, sharding, step, storage


_LONG = 4  # times as long as steps are to be timed


def define_flags() -> None:
  config_files.define_flag()
  flags.DEFINE_float('seconds', 2.0, 'How long to time steps, at least.', 0.0)


def estimate(config: ml_collections.ConfigDict, seconds: float
             ) -> dict[str, object]:
  """Takes some steps and says what they cost.

  Returns:
    'seconds_per_step', 'steps' of the run, whether it 'trains' at all, 'images'
    in the training set, how many 'copies' they are of each, its 'placement',
    'bytes' that a device needs for state, images and temporaries by XLA's own
    account, and 'device'.

  Raises:
    InputError: the config cannot be, or its images are not there.
  """
  mesh = sharding.mesh()
  plan, pretext = experiment.plan(config), experiment.pretext(config)
  sharding.check_batch(plan.batch, mesh, plan.accumulate)
  problem = experiment.problem(config)
  images = distribution.augment(problem.train.image, config.distribution)
  optimizer = experiment.optimizer(config, len(images))
  state = sharding.put(
      experiment.first_state(experiment.resolved(config, problem), pretext,
                             optimizer, images), sharding.replicated(mesh))
  placement = storage.choose(plan.placement, images.nbytes, mesh)
  stored = storage.Storage(images, placement, mesh)
  count = step.steps_per_dispatch(plan.log_every)
  batch = next(iter(stored.batches(
      lambda begin, many: step.batch_index(
          config.seed, len(images), plan.batch, begin, many), 0, count, count)))
  key = step.root_key(config.seed)
  take_steps = step.make_steps(
      pretext, optimizer, mesh, plan.batch_norm_groups, plan.accumulate)
  compiled = take_steps.lower(
      state, stored.images, jnp.asarray(batch), key).compile()

  took = []  # the first call is slower, and counts only if it is very long
  while not took or (sum(took[1:]) < seconds
                     and sum(took) < _LONG * seconds):
    began = time.perf_counter()
    state = jax.block_until_ready(
        compiled(state, stored.images, jnp.asarray(batch), key)[0])
    took.append(time.perf_counter() - began)
  devices = jax.devices()
  return {'seconds_per_step': np.mean(took[1:] or took).item() / len(batch),
          'steps': plan.total_steps(len(images)),
          'trains': getattr(pretext, 'trains', True), 'images': len(images),
          'copies': distribution.copies(config.distribution),
          'placement': placement, 'bytes': memory(compiled),
          'device': f'{len(devices)} × {devices[0].device_kind}'}


def memory(compiled: jax.stages.Compiled) -> int:
  """Returns the bytes that a program needs on a device.

  Arguments, results and temporaries; what is donated counts once.
  """
  found = compiled.memory_analysis()
  return (found.argument_size_in_bytes + found.temp_size_in_bytes
          + found.output_size_in_bytes - found.alias_size_in_bytes)


def main() -> None:
  print(json.dumps(estimate(config_files.from_flag(), flags.FLAGS.seconds)))


if __name__ == '__main__':
  cli.run(main, define_flags)
