"""Batch normalisation (Ioffe and Szegedy, ICML 2015), in fewer passes.

`BatchNorm` is Flax's module, variable for variable. Only its train step is
written out: what XLA made of the automatic gradient stored several arrays of
float32 as large as the activations, and took two fifths of a step on a GPU.
The sums below are as they are for XLA to read the activations once and store
nothing but the result; `tests/gpu_program_test.py` compiles them for a GPU.

Under `jax.jit` a batch is one array, so statistics are the global batch's. The
published code of Sohn et al. normalises on each device by itself. Here that is
a number of groups, not of devices, so that 8 groups are the same on one device
as on 8, where no statistic crosses from one to another. It is a property of
the train step: no network or task says anything of it.
"""
import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

_straightforward = contextvars.ContextVar('straightforward', default=False)


@contextlib.contextmanager
def straightforward() -> Iterator[None]:
  """Leaves the train step inside to Flax and the automatic gradient."""
  before = _straightforward.set(True)
  try:
    yield
  finally:
    _straightforward.reset(before)


class BatchNorm(nn.BatchNorm):
  """Flax's BatchNorm over all axes but the last.

  In training no gradient passes through the running statistics.
  """

  @nn.compact
  def __call__(self, x: jax.Array,
               use_running_average: bool | None = None) -> jax.Array:
    """Maps [..., c] to the same shape in `dtype`."""
    if _straightforward.get() or nn.merge_param(
        'use_running_average', self.use_running_average, use_running_average):
      return super().__call__(x, use_running_average=use_running_average)
    channels = x.shape[-1:]
    running = {
        'mean': self.variable('batch_stats', 'mean', jnp.zeros, channels),
        'var': self.variable('batch_stats', 'var', jnp.ones, channels)}
    scale, bias = jnp.ones(channels), jnp.zeros(channels)
    if self.use_scale:
      scale = self.param('scale', self.scale_init, channels, self.param_dtype)
    if self.use_bias:
      bias = self.param('bias', self.bias_init, channels, self.param_dtype)
    y, mean, var = normalise(x, scale, bias, self.epsilon)
    if not self.is_initializing():
      for name, new in (('mean', mean), ('var', var)):
        running[name].value = (self.momentum * running[name].value
                               + (1 - self.momentum) * lax.stop_gradient(new))
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array,
              epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns scale (x - mean) / sqrt(var + epsilon) + bias, mean and var.

  Moments are those of [..., c] over all axes but the last, in float32, and so
  are [c] scale and bias; the first result has the dtype of x. Moments have no
  gradient.
  """
  return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
  wide = x.astype(jnp.float32)
  total, squares = _sums(wide, jnp.square(wide))
  count = x.size // x.shape[-1]
  mean = total / count
  var = jnp.maximum(squares / count - jnp.square(mean), 0)
  inverse = lax.rsqrt(var + epsilon)
  y = (wide - mean) * (inverse * scale) + bias
  return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def _backward(epsilon, kept, gradients):
  del epsilon
  x, scale, mean, inverse = kept
  dy, wide = gradients[0].astype(jnp.float32), x.astype(jnp.float32)
  # The plain product: one of dy with `unit` XLA would store, in float32.
  dbias, product = _sums(dy, dy * wide)
  dscale = inverse * (product - mean * dbias)
  unit = (wide - mean) * inverse
  count = x.size // x.shape[-1]
  dx = scale * inverse * (dy - (dbias + unit * dscale) / count)
  return dx.astype(x.dtype), dscale, dbias


normalise.defvjp(_forward, _backward)


def _sums(*terms: jax.Array) -> jax.Array:
  """Sums each f32[..., c] over all axes but the last, f32[k, c].

  First over the pixels of an image, all terms in one pass, and then over
  images, which may be spread over devices: in one sum, a GPU has few channels
  to share among its many processors. The barrier keeps XLA from making one of
  them.
  """
  if terms[0].ndim > 2:
    zeros = (jnp.zeros((), jnp.float32),) * len(terms)
    terms = lax.optimization_barrier(lax.reduce(
        terms, zeros, lambda x, y: tuple(map(jnp.add, x, y)),
        tuple(range(1, terms[0].ndim - 1))))
  return jnp.stack(terms).sum(1)


def in_groups(groups: int) -> contextlib.AbstractContextManager:
  """Makes every BatchNorm that is called inside normalise so many groups apart.

  Group k is the k-th of `groups` equal parts of the rows; views of an image are
  neighbours and stay together. The running statistics are the mean over groups.
  Nothing changes where running statistics are used, or with one group.
  """
  if groups == 1:
    return contextlib.nullcontext()
  return nn.intercept_methods(functools.partial(_apart, groups))


def _apart(groups, call, args, kwargs, context):
  norm = context.module
  if (not isinstance(norm, nn.BatchNorm) or context.method_name != '__call__'
      or not norm.path  # the copy below, which comes here too
      or nn.merge_param('use_running_average', norm.use_running_average,
                        kwargs.get('use_running_average'))):
    return call(*args, **kwargs)
  x, = args
  one = functools.partial(norm.clone(parent=None, name=None).apply,
                          norm.variables, mutable=['batch_stats'], **kwargs)
  y, new = jax.vmap(one)(x.reshape(groups, -1, *x.shape[1:]))
  for name, value in new['batch_stats'].items():
    norm.put_variable('batch_stats', name, value.mean(0))
  return y.reshape(x.shape)
