"""How fast the train step and the embedding of a config run on this machine.

`python -m deep_oc.benchmark --config=...` prints the table.
"""
import contextlib
import functools
import math
import multiprocessing
import multiprocessing.connection
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm

from deep_oc import (batch_norm, convolution, estimate, experiment, features,
                     maps, pretexts, sharding, step, tables, trace, windows)
from deep_oc.errors import InputError

_IMAGES = 1024  # random images that stand for the training set
_STRAIGHTFORWARD = 'train step, straightforward'


def benchmark(config: ml_collections.ConfigDict, size: tuple[int, int],
              rounds: int, seconds: float, profile: str | None = None
              ) -> list[dict[str, object]]:
  """Returns rows of part, value, unit; writes operations to `profile`.

  The images have height and width `size`, in pixels.
  """
  parts, flops, first_step, memory = _parts(config, size)
  with contextlib.ExitStack() as stack:
    if jax.default_backend() == 'cpu':
      parts[_STRAIGHTFORWARD] = stack.enter_context(
          _straightforward(config, size)), 1
    per_second = _rates(parts, rounds, seconds)
  batch = experiment.plan(config).batch
  inputs = batch * experiment.pretext(config).inputs_per_image
  peak = per_second['matrix product']
  devices = jax.devices()
  achieved = flops * per_second['train step']
  rows = [
      ('device', f'{len(devices)} × {devices[0].device_kind}', ''),
      ('compute dtype', str(experiment.dtype(config.dtype)), ''),
      ('first step, with compilation', first_step, 's'),
      ('train step', 1e3 / per_second['train step'], 'ms'),
      ('train, source images', batch * per_second['train step'], 'images/s'),
      ('train, network inputs', inputs * per_second['train step'], 'images/s'),
      ('augmentation alone', inputs * per_second['augmentation'], 'images/s'),
      ('augmentation / train step', 100 * per_second['train step']
       / per_second['augmentation'], '%'),
      ('embedding', per_second['embedding'], 'images/s'),
      ('embedding / forward pass alone', 100 * per_second['embedding']
       / per_second['forward pass'], '%'),
      ('operations of a step', flops / 1e9, 'GFLOP'),
      ('train step, achieved', achieved / 1e9, 'GFLOP/s'),
      ('matrix-product peak, measured', peak / 1e9, 'GFLOP/s'),
      ('share of the measured peak', 100 * achieved / peak, '%'),
      ('train step, memory', memory / 2**20, 'MiB'),
      *peaks()]
  if _STRAIGHTFORWARD in per_second:
    rate = per_second[_STRAIGHTFORWARD]
    rows += [(_STRAIGHTFORWARD, 1e3 / rate, 'ms'),
             ('train step, speed-up', per_second['train step'] / rate, '×')]
  if 'a window by itself' in per_second:
    alone, all_of_image = (per_second[name] for name in (
        'a window by itself', 'windows of an image'))
    rows += [('a window by itself', alone, 'windows/s'),
             ('windows of an image', all_of_image, 'windows/s'),
             ('speed-up', all_of_image / alone, '×')]
  if profile:
    tables.write(profile, trace.COLUMNS, trace.operations(*parts['train step']))
  return [row(*cells) for cells in rows]


def _parts(config: ml_collections.ConfigDict, size: tuple[int, int]
           ) -> tuple[dict[str, tuple[Callable[[], object], float]], float,
                      float, int]:
  """Returns {part: (call, work per call)}, and of the train step FLOPs, seconds
  to the end of the first, and bytes.
  """
  training = _training(config, size)
  pretext, mesh, images = training.pretext, training.mesh, training.images
  began = time.perf_counter()
  state = training.initial()
  # A train step donates its state.
  variables = jax.tree.map(jnp.copy, state.variables)
  compiled = training.steps().lower(state, *training.inputs).compile()
  train = _trainer(compiled, state, *training.inputs)
  jax.block_until_ready(train())
  first_step = time.perf_counter() - began

  embed = features.embedder(pretext, mesh, features.BATCH)
  on_host = np.asarray(images)
  many = features.at_once(1, *on_host.shape[1:3], mesh)
  there = jax.device_put(step.to_float(on_host[:many]), sharding.split(mesh))
  forward = jax.jit(lambda variables, image: pretext.apply(
      variables, image, method='embed'))
  views = jax.jit(functools.partial(_augmented, pretext))
  product, product_flops = _matrix_product(experiment.dtype(config.dtype))
  parts = {
      'train step': (train, len(training.index)),
      'augmentation': (lambda: views(*training.inputs), len(training.index)),
      'embedding': (lambda: embed(variables, on_host), _IMAGES),
      'forward pass': (lambda: forward(variables, there), many),
      'matrix product': (product, product_flops)}
  parts |= _window_parts(config, pretext, variables, on_host[:1])
  with convolution.precise():  # as features has it
    jax.block_until_ready(forward(variables, there))
  # What is computed, not how.
  with convolution.straightforward(), batch_norm.straightforward():
    flops = _flops(training)
  return parts, flops, first_step, estimate.memory(compiled)


class _Training(NamedTuple):
  """What a train step of a config takes."""
  plan: experiment.Plan
  pretext: nn.Module
  optimizer: optax.GradientTransformation
  mesh: jax.sharding.Mesh
  seed: int
  images: jax.Array
  index: jax.Array
  key: jax.Array

  @property
  def inputs(self) -> tuple[jax.Array, ...]:
    """What `steps` takes besides the state."""
    return self.images, self.index, self.key

  def initial(self) -> step.State:
    state = step.create_state(
        self.pretext, self.optimizer, self.seed, self.images.shape[1:],
        self.plan.ema)
    return jax.device_put(step.begun(state, np.asarray(self.images)),
                          sharding.replicated(self.mesh))

  def steps(self) -> Callable:
    """Returns as `step.make_steps` does."""
    return step.make_steps(
        self.pretext, self.optimizer, self.mesh, self.plan.batch_norm_groups,
        self.plan.accumulate)


def _training(config: ml_collections.ConfigDict, size: tuple[int, int]
              ) -> _Training:
  """Returns it for random images."""
  mesh, plan = sharding.mesh(), experiment.plan(config)
  sharding.check_batch(plan.batch, mesh, plan.accumulate)
  optimizer = experiment.optimizer(config, _IMAGES)  # or it raises
  images = np.random.default_rng(0).integers(
      0, 256, (_IMAGES, *size, 3), np.uint8)
  index = step.batch_index(config.seed, _IMAGES, plan.batch, 0,
                           step.steps_per_dispatch(plan.log_every))
  return _Training(
      plan, experiment.pretext(config), optimizer, mesh, config.seed,
      jax.device_put(images, sharding.replicated(mesh)), jnp.asarray(index),
      step.root_key(config.seed))


def _augmented(pretext: nn.Module, images: jax.Array, index: jax.Array,
               key: jax.Array) -> jax.Array:
  """Returns a sum of the views of each step, f32[k], in one dispatch."""
  def one(number, rows):
    return pretexts.views(
        pretext.augment, jax.random.fold_in(key, number),
        step.to_float(images[rows]), pretext.inputs_per_image,
        getattr(pretext, 'crop', 0)).sum()

  if len(index) == 1:  # as in `step.make_steps`
    return one(0, index[0])[None]
  return jax.lax.map(lambda each: one(*each), (jnp.arange(len(index)), index))


@contextlib.contextmanager
def _straightforward(config: ml_collections.ConfigDict, size: tuple[int, int]
                     ) -> Iterator[Callable[[], None]]:
  """Yields a call that takes one straightforward step, in another process.

  Raises:
    InputError: that process has ended, as where memory is short.
  """
  context = multiprocessing.get_context('spawn')
  here, there = context.Pipe()
  process = context.Process(target=_take_steps, daemon=True,
                            args=(there, config.to_dict(), size))
  process.start()
  there.close()  # so that its end is seen

  def wait() -> None:
    try:
      here.recv()
    except (EOFError, OSError):
      raise InputError('the process of the straightforward step has ended; the '
                       'memory may not be enough for both') from None

  def take() -> None:
    with contextlib.suppress(OSError):  # `wait` tells
      here.send(None)
    wait()

  try:
    wait()  # compiled
    yield take
  finally:
    process.terminate()
    process.join()


def _take_steps(pipe: multiprocessing.connection.Connection,
                config: dict[str, Any], size: tuple[int, int]) -> None:
  """Takes a straightforward step, says so, and another when it is told to."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one ends this one
  jax.config.update('jax_platforms', 'cpu')
  with (convolution.straightforward(), batch_norm.straightforward(),
        contextlib.suppress(EOFError, OSError)):
    training = _training(ml_collections.ConfigDict(config), size)
    train = _trainer(training.steps(), training.initial(), *training.inputs)
    while True:
      jax.block_until_ready(train())
      pipe.send(None)
      pipe.recv()


def _trainer(take_steps: Callable, state: step.State, *args: jax.Array
             ) -> Callable[[], object]:
  """Returns a call that goes on with training and returns metrics."""
  def train():
    nonlocal state
    state, metrics = take_steps(state, *args)
    return metrics

  return train


def peaks() -> Iterator[tuple[str, float, str]]:
  """Yields rows of the most memory there has been, compilation included."""
  unit = 1 if sys.platform == 'darwin' else 2**10
  yield ('peak memory of the process', resource.getrusage(
      resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 'MiB')
  found = jax.devices()[0].memory_stats() or {}  # the CPU has none
  if 'peak_bytes_in_use' in found:
    yield 'peak memory of a device', found['peak_bytes_in_use'] / 2**20, 'MiB'


def _window_parts(config: ml_collections.ConfigDict, pretext: nn.Module,
                  variables: Mapping[str, Any], image: np.ndarray
                  ) -> dict[str, tuple[Callable[[], object], float]]:
  """Returns calls for one window, and for all of u8[1, h, w, c]."""
  group = config.get('localize')
  if not group or maps.name(group) != 'windows' or 'stages' in group:
    return {}
  side, stride = min(zip(*(np.atleast_1d(group.get(key, default)).tolist()
                           for key, default in (('side', 32), ('stride', 4))),
                         strict=True))  # the smallest
  place = windows.places(1, *(windows.starts(length, side, stride)
                              for length in image.shape[1:3]))
  window = image[:, :side, :side]
  by_itself = features.embedder(  # nothing is shared
      windows.of_windows(pretext, side), sharding.mesh(), 1)
  together = windows.embedder(pretext, side)
  return {'a window by itself': (lambda: by_itself(variables, window), 1),
          'windows of an image': (
              lambda: together(variables, image, place), len(place))}


def _flops(training: _Training) -> float:
  """Returns the floating-point operations of one train step.

  XLA's count before it optimizes: afterwards, on a GPU, convolutions are calls
  into a library that it cannot count. By the CPU's backend, which counts for
  all: those of GPUs do not count.
  """
  mesh = jax.sharding.Mesh(np.array(jax.local_devices(backend='cpu')[:1]),
                           ('data',))
  images, index, key = training.inputs
  state = step.state_like(
      training.pretext, training.optimizer, images.shape[1:], training.plan.ema)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (
      images, index[:1], key))
  lowered = step.make_steps(
      training.pretext, training.optimizer, mesh).lower(state, *shapes)
  return float(lowered.cost_analysis()['flops'])


def _matrix_product(dtype: jnp.dtype) -> tuple[Callable[[], object], float]:
  """Returns a large product on all devices, and its FLOPs."""
  mesh = sharding.mesh()
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  # Random factors: of equal ones a GPU's product is faster.
  draw = np.random.default_rng(0).standard_normal
  a = jax.device_put(draw((n * mesh.size, n), np.float32).astype(dtype),
                     sharding.split(mesh))
  b = jax.device_put(draw((n, n), np.float32).astype(dtype),
                     sharding.replicated(mesh))
  product = jax.jit(jnp.matmul)
  return lambda: product(a, b), 2 * n ** 3 * mesh.size


def _rates(parts: dict[str, tuple[Callable[[], object], float]], rounds: int,
           seconds: float) -> dict[str, float]:
  """Returns the median work per second of each part, in turns."""
  calls = {name: max(1, math.ceil(
      seconds / min(_seconds(call, 1), _seconds(call, 1))))
           for name, (call, _) in parts.items()}
  seen = {name: [] for name in parts}
  for _ in tqdm.trange(rounds, desc='rounds', leave=False):
    for name, (call, work) in parts.items():
      seen[name].append(calls[name] * work / _seconds(call, calls[name]))
  return {name: statistics.median(rates) for name, rates in seen.items()}


def _seconds(call: Callable[[], object], count: int) -> float:
  """Returns how long so many calls take, to the end of the last."""
  began = time.perf_counter()
  for _ in range(count):
    result = call()
  jax.block_until_ready(result)
  return time.perf_counter() - began


def row(part: str, value: object, unit: str) -> dict[str, object]:
  """Returns a row of the table, the value in four digits."""
  if isinstance(value, float):
    value = f'{value:.4g}' if abs(value) < 1000 else f'{value:.0f}'
  return {'part': part, 'value': value, 'unit': unit}
