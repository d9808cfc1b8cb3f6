"""What the train step's program does, read from what XLA makes of it.

  JAX_NUM_CPU_DEVICES=8 python -m tests.compiled

prints for each task, on all devices, a line of JSON.
"""
import collections
import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import augment, optimizers, pretexts, sharding, step
from tests import parallel

_ACROSS = (r'\s(all-\w+(?:-\w+)?|collective-[a-z]+|reduce-scatter|infeed|'
           r'outfeed|send|recv|custom-call)(?:-start)?\(')


def traced(task: str, mesh, *, dtype: str = 'float32', steps: int = 3,
           accumulate: int = 1, encoder: dict | None = None, size: int = 16):
  """Returns the state's shapes and `steps` steps of 16 images, traced."""
  pretext = pretexts.create(
      **parallel._TASKS[task], encoder=encoder or parallel.encoder(task),
      dtype=jnp.dtype(dtype), augment=augment.DROC)
  optimizer = optimizers.create(total_steps=10, steps_per_epoch=2)
  everywhere = sharding.replicated(mesh)
  state = step.state_like(
      pretext, optimizer, (size, size, 3), 0.9, everywhere)
  images, key = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
      jax.eval_shape(lambda: (
          jnp.zeros((64, size, size, 3), jnp.uint8), step.root_key(0))))
  batch = jax.ShapeDtypeStruct((steps, 16), jnp.int32)
  return state, step.make_steps(pretext, optimizer, mesh, 1, accumulate).trace(
      state, images, batch, key)


def facts(task: str, mesh, **how) -> dict[str, object]:
  """Returns what is said across devices or to the host, and what is aliased."""
  state, program = traced(task, mesh, **how)
  text = program.lower().compile().as_text()
  across = re.findall(  # of many arrays, every fifth has its number beside it
      rf'= ([^=\n]*?){_ACROSS}', re.sub(r'/\*index=\d+\*/', '', text))
  return {
      'across': collections.Counter(name for _, name in across),
      'gathered': max((_elements(shape) for shape, name in across
                       if name == 'all-gather'), default=0),
      'aliased': len(re.findall(r'\{\d*\}: \(\d+, \{\}', text.split('\n')[0])),
      'copied': len(re.findall(r'= u8\[64,16,16,3\]\S* copy\(', text)),
      'leaves': len(jax.tree.leaves(state))}


def _elements(shape: str) -> int:
  sizes = re.search(r'\[([\d,]*)\]', shape)[1]
  return int(np.prod([int(each) for each in sizes.split(',') if each]))


def main() -> None:
  mesh = sharding.mesh()
  for task in parallel._TASKS:
    print(json.dumps({'task': task} | facts(task, mesh)))
  print(json.dumps({'task': 'parts'} | facts('rotation', mesh, accumulate=2)))


if __name__ == '__main__':
  main()
