"""One train step for every pretext task, and many steps in one dispatch."""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from deep_oc import batch_norm, convolution, sharding
from deep_oc.errors import InputError


class State(flax.struct.PyTreeNode):
  """All that training changes. Randomness is a function of (seed, step)."""
  step: jax.Array
  params: Any
  collections: Any  # Linen's other collections: batch_stats, targets, queues
  opt_state: Any
  average: Any = None  # of parameters and batch_stats over the steps, if any
  decay: float = flax.struct.field(pytree_node=False, default=0.0)  # average's

  @property
  def variables(self) -> dict:
    """What is evaluated: the average, where there is one."""
    return {'params': self.params, **self.collections, **(self.average or {})}


def create_state(pretext: nn.Module, optimizer: optax.GradientTransformation,
                 seed: int, image_shape: tuple[int, ...], ema: float = 0.0
                 ) -> State:
  """Returns the state at step 0, for images of shape [h, w, c].

  With `ema`, a decay, it also holds the exponential moving average.
  """
  return _state(optimizer, init(pretext, seed, image_shape), ema)


def state_like(pretext: nn.Module, optimizer: optax.GradientTransformation,
               image_shape: tuple[int, ...], ema: float = 0.0,
               where: jax.sharding.Sharding | None = None) -> State:
  """Returns shapes, dtypes and placement of a state; nothing is computed."""
  shapes = jax.eval_shape(lambda variables: _state(optimizer, variables, ema),
                          _shapes(pretext, image_shape))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=where), shapes)


def begun(state: State, images: np.ndarray) -> State:
  """Returns the state at step 0 with the mean of the training images.

  u8[n, h, w, c], where the task has a `pretexts.MeanImage`; else it returns the
  state as it is.
  """
  if 'mean_image' not in state.collections:
    return state
  mean = jnp.float32(images.mean(axis=0, dtype=np.float64) / 255)
  return state.replace(collections=state.collections | {
      'mean_image': jax.tree.map(
          lambda _: mean, state.collections['mean_image'])})


def untrained(pretext: nn.Module, seed: int, image_shape: tuple[int, ...],
              trained: Mapping[str, Any]) -> dict:
  """Returns the variables of a trained network with random weights.

  Those that it had at step 0, unless it began with others' (`encoder.weights`).
  """
  kept = {name: trained[name] for name in ('mean_image',) if name in trained}
  return init(pretext, seed, image_shape) | kept


def _state(optimizer, variables, ema):
  params = variables.pop('params')
  state = State(jnp.zeros((), jnp.int32), params, variables,
                jax.jit(optimizer.init)(params), decay=ema)
  # A copy: the train step donates every buffer, and each but once.
  return state.replace(
      average=jax.tree.map(jnp.copy, _averaged(state))) if ema else state


def init(pretext: nn.Module, seed: int, image_shape: tuple[int, ...]) -> dict:
  """Returns the variables of the untrained network."""
  return _initializer(pretext, image_shape)(root_key(seed))


@functools.cache  # for all runs of a process, and before and after each
def _initializer(pretext, image_shape):
  # It is compiled in half the time so: the numbers are the same.
  options = ({'xla_backend_optimization_level': 1}
             if jax.default_backend() == 'cpu' else None)
  return jax.jit(functools.partial(_variables, pretext, image_shape),
                 compiler_options=options)


@functools.cache
def _shapes(pretext, image_shape):
  return jax.eval_shape(
      functools.partial(_variables, pretext, image_shape), root_key(0))


def _variables(pretext, image_shape, key):
  params, views = jax.random.split(jax.random.fold_in(key, 0))
  image = jnp.zeros((2, *image_shape), jnp.float32)
  return dict(pretext.init({'params': params, 'views': views}, image,
                           train=False))


@jax.jit
def finite(state: State) -> jax.Array:
  """Returns whether all that is trained is finite, bool[]."""
  return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(
      (state.params, state.opt_state))]))


def root_key(seed: int) -> jax.Array:
  """Returns the key from which everything random in a run is drawn."""
  return jax.random.key(seed)


def to_float(image: jax.Array) -> jax.Array:
  """u8 in [0, 255] to f32 in [0, 1]; no other normalisation.

  What is f32 stays as it is.
  """
  return image if image.dtype == jnp.float32 else image.astype(
      jnp.float32) / 255


def train_step(pretext: nn.Module, optimizer: optax.GradientTransformation,
               state: State, image: jax.Array, key: jax.Array, groups: int = 1,
               accumulate: int = 1) -> tuple[State, dict[str, jax.Array]]:
  """Takes one step on u8[n, h, w, c] images; returns state and metrics.

  Args:
    pretext, optimizer, state, image: as their names say.
    key: of the run.
    groups: BatchNorm's statistics are those of each of so many parts.
    accumulate: passes, one after the other, whose gradients are averaged.
  """
  views = jax.random.fold_in(key, state.step + 1)  # 0 drew the parameters

  def loss_fn(params, collections, image, views):
    with batch_norm.in_groups(groups):
      found, collections = pretext.apply(
          {'params': params, **collections}, to_float(image), train=True,
          rngs={'views': views}, mutable=list(collections))
    loss, metrics = _checked(found)
    metrics = jax.tree.map(jnp.asarray, {**metrics, 'loss': loss})
    return loss, (metrics, collections)

  gradient = functools.partial(jax.grad(loss_fn, has_aux=True), state.params)
  if accumulate > 1:
    gradient = functools.partial(_in_parts, gradient, accumulate)
  gradients, (metrics, collections) = gradient(
      state.collections, image, views)
  updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params)
  return _average(state.replace(
      step=state.step + 1, params=optax.apply_updates(state.params, updates),
      collections=collections, opt_state=opt_state)), metrics


def _checked(found: Any) -> tuple[jax.Array, dict[str, Any]]:
  """Returns what a task's `__call__` did, if that is a loss and metrics."""
  if (isinstance(found, tuple) and len(found) == 2
      and isinstance(found[1], Mapping)
      and all(jnp.ndim(each) == 0 for each in (found[0], *found[1].values()))):
    return found
  raise InputError(
      'the pretext task must return (loss, {name: metric}), scalars all, not '
      f'{jax.tree.map(lambda x: str(jax.typeof(x)), found)}')


def _in_parts(gradient: Callable, count: int, collections: dict,
              image: jax.Array, key: jax.Array) -> tuple[Any, Any]:
  """Returns what `gradient` does, as means over `count` parts of the images.

  A part is a small batch of its own: its negatives are of the part, and so are
  BatchNorm's statistics, whose running ones are the mean over parts. What else
  is in `collections` goes from one part to the next.
  """
  # Part k has every count-th image, so that none leaves its device.
  parts = image.reshape(-1, count, *image.shape[1:]).swapaxes(0, 1)
  stats = {'batch_stats': collections.get('batch_stats', {})}

  def add(carry, part):
    others, total = carry
    number, image = part
    gradients, (metrics, new) = gradient(
        others | stats, image, jax.random.fold_in(key, number))
    others = {name: new[name] for name in others}
    found = gradients, metrics, new.get('batch_stats', {})
    total = jax.tree.map(lambda x, y: x + y / count, total, found)
    return (others, total), None

  others = {name: value for name, value in collections.items()
            if name != 'batch_stats'}
  gradients, (metrics, new) = jax.eval_shape(
      gradient, collections, parts[0], key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (
      gradients, metrics, new.get('batch_stats', {})))
  # XLA's CPU backend is slow in loops, see `steps_per_dispatch`.
  (others, (gradients, metrics, means)), _ = jax.lax.scan(
      add, (others, zeros), (jnp.arange(count), parts),
      unroll=jax.default_backend() == 'cpu')
  means = {'batch_stats': means} if 'batch_stats' in collections else {}
  return gradients, (metrics, others | means)


def _averaged(state: State) -> dict:
  """Returns what is averaged over the steps: what is a mean itself."""
  return {'params': state.params} | {
      name: state.collections[name] for name in ('batch_stats',)
      if name in state.collections}


def _average(state: State) -> State:
  """Moves the average, if there is one, towards what a step has left.

  The decay grows to its value, or the untrained network would be remembered.
  """
  if state.average is None:
    return state
  decay = jnp.minimum(state.decay, (1 + state.step) / (10 + state.step))
  return state.replace(average=jax.tree.map(
      lambda old, new: old + (1 - decay) * (new - old), state.average,
      _averaged(state)))


def make_steps(pretext: nn.Module, optimizer: optax.GradientTransformation,
               mesh: jax.sharding.Mesh, groups: int = 1, accumulate: int = 1
               ) -> Callable:
  """Returns (state, images, batch, key) -> (state, metrics), compiled.

  It takes k steps in one dispatch; one program per k. `deep_oc.storage` makes
  `images` and `batch`.

    state: donated.
    images: u8[N, h, w, c] on the devices, or None.
    batch: i32[k, n], rows of `images`; without, the batches u8[k, n, h, w, c].
    metrics: f32[k] each.
  """
  spread = sharding.split(mesh)

  def body(images, key, state, batch):
    image = batch if images is None else images[batch]
    image = jax.lax.with_sharding_constraint(image, spread)
    return train_step(
        pretext, optimizer, state, image, key, groups, accumulate)

  @functools.partial(jax.jit, donate_argnums=0,
                     out_shardings=sharding.replicated(mesh),
                     compiler_options=convolution.compiler_options())
  def steps(state, images, batch, key):
    one = functools.partial(body, images, key)
    if len(batch) == 1:  # a scan of one is not free on the CPU, see below
      state, metrics = one(state, batch[0])
      return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, batch)

  return steps


def make_steps_together(pretext: nn.Module,
                        optimizer: optax.GradientTransformation,
                        mesh: jax.sharding.Mesh, groups: int = 1,
                        accumulate: int = 1) -> Callable:
  """Returns (states, images, batches, keys) -> (states, metrics), compiled.

  As `make_steps`, of m models at once, of which each of the d devices has m/d.
  The devices exchange nothing.

    states: arrays [m, ...], donated.
    images: u8[m, N, h, w, c], of each model its own.
    batches: i32[k, m, n], rows of the images.
    keys: key[m].
    metrics: f32[k, m] each.
  """
  def one(images, key, state, batch):
    return train_step(
        pretext, optimizer, state, images[batch], key, groups, accumulate)

  def all_of_device(images, keys, states, batch):
    args = images, keys, states, batch
    if len(keys) > 1:
      return jax.vmap(one)(*args)
    # The very program of a model alone; a batch of one may be another.
    return jax.tree.map(lambda x: x[None], one(
        *jax.tree.map(lambda x: x[0], args)))

  def steps(states, images, batches, keys):
    take = functools.partial(all_of_device, images, keys)
    if len(batches) == 1:  # as in `make_steps`
      states, metrics = take(states, batches[0])
      return states, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(take, states, batches)

  model, later = jax.P('data'), jax.P(None, 'data')
  return jax.jit(jax.shard_map(
      steps, mesh=mesh, in_specs=(model, model, later, model),
      out_specs=(model, later), check_vma=False), donate_argnums=0,
                 compiler_options=convolution.compiler_options())


def steps_per_dispatch(wanted: int) -> int:
  """Returns how many steps to compile into one program.

  XLA's CPU backend runs convolutions inside a loop more than ten times slower
  than outside.
  """
  return 1 if jax.default_backend() == 'cpu' else wanted


def batch_index(seed: int, images: int, batch: int, step: int, count: int
                ) -> np.ndarray:
  """Returns the batches of `count` steps from `step` on, i32[count, batch].

  Each epoch is one permutation of the images; what does not fill a batch is
  left out. A function of its arguments, so a resumed run sees the same.
  """
  per_epoch = images // batch
  rows = np.arange(step, step + count)
  return np.stack([
      _order(seed, images, epoch)[start:start + batch]
      for epoch, start in zip(rows // per_epoch, rows % per_epoch * batch,
                              strict=True)])


@functools.lru_cache(maxsize=2)
def _order(seed: int, images: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(images).astype(
      np.int32)
