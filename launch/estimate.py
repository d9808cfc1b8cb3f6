"""What a step of a config costs on this machine, with its real images.

  python -m launch.estimate --config=configs/dacl_cifar10.py

prints the seconds of a step, after compilation, and the steps of the run as a
line of JSON. `deep_oc.benchmark` tells more.
"""
import json
import time

import jax
import jax.numpy as jnp
import ml_collections
from absl import flags

from deep_oc import cli, distribution, experiment, sharding, step


def define_flags() -> None:
  experiment.define_flag()
  flags.DEFINE_float('seconds', 2.0, 'How long to time steps, at least.', 0.0)


def estimate(config: ml_collections.ConfigDict, seconds: float
             ) -> dict[str, object]:
  """Returns 'seconds_per_step', 'steps' and 'device'."""
  mesh = sharding.mesh()
  everywhere = sharding.replicated(mesh)
  plan, pretext = experiment.plan(config), experiment.pretext(config)
  problem = experiment.problem(config)
  images = distribution.augment(problem.train.image, config.distribution)
  optimizer = experiment.optimizer(config, len(images))
  count = step.steps_per_dispatch(plan.log_every)
  index = jnp.asarray(step.batch_index(
      config.seed, len(images), plan.batch, 0, count))
  state = jax.device_put(step.create_state(
      pretext, optimizer, config.seed, images.shape[1:]), everywhere)
  take_steps = step.make_steps(pretext, optimizer, mesh)
  on_device, key = jax.device_put(images, everywhere), step.root_key(
      config.seed)

  def take(state):
    return jax.block_until_ready(
        take_steps(state, on_device, index, key)[0])

  state = take(state)  # compiles
  began, taken = time.perf_counter(), 0
  while not taken or time.perf_counter() - began < seconds:
    state, taken = take(state), taken + count
  devices = jax.devices()
  return {'seconds_per_step': (time.perf_counter() - began) / taken,
          'steps': plan.total_steps(len(images)),
          'device': f'{len(devices)} × {devices[0].device_kind}'}


def main() -> None:
  print(json.dumps(estimate(experiment.from_flag(), flags.FLAGS.seconds)))


if __name__ == '__main__':
  cli.run(main, define_flags)
