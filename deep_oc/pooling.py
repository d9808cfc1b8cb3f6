"""Max-pooling whose gradient XLA's CPU backend computes at memory's rate.

XLA looks for the largest pixel of each window again, one window after the
other. Here the forward pass keeps which one it was, and the gradient asks each
pixel in which of the windows over it it was the one: whole images at a time,
for each place that a pixel may have in a window. Elsewhere than on the CPU, and
where `deep_oc.convolution` leaves all to XLA, it is XLA's.
"""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from deep_oc import convolution


def max_pool(x: jax.Array, side: int, stride: int, padding: int = 0
             ) -> jax.Array:
  """Returns the largest value of each window of each channel.

  The gradient is that of the first of them, row by row, where several are.

  Args:
    x: f[n, h, w, c].
    side: of windows, in pixels, 16 at most.
    stride: pixels between windows.
    padding: pixels of minus infinity on all sides, less than a window's.
  """
  if convolution.is_reformulated():
    return _max_pool(x, side, stride, padding)
  # Padded first, and by names, for a converter to ONNX knows no more; XLA makes
  # the same program of it.
  return nn.max_pool(_padded(x, padding), window_shape=(side, side),
                     strides=(stride, stride))


def _padded(x, padding):
  around = (padding, padding)
  return jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, side, stride, padding):
  return _forward(x, side, stride, padding)[0]


def _forward(x, side, stride, padding):
  # What makes x would be computed again for each window that it is in.
  seen = _padded(lax.optimization_barrier(x), padding)
  height, width = ((length - side) // stride for length in seen.shape[1:3])
  largest = place = None
  for number in range(side**2):
    i, j = divmod(number, side)
    value = seen[:, i:i + stride * height + 1:stride,
                 j:j + stride * width + 1:stride]
    if number:
      larger = value > largest
      largest = jnp.where(larger, value, largest)
      place = jnp.where(larger, jnp.uint8(number), place)
    else:
      largest, place = value, jnp.zeros(value.shape, jnp.uint8)
  return largest, (place, x)


def _backward(side, stride, padding, saved, g):
  place, x = saved
  n, height, width, c = x.shape
  # Windows that begin above or left of a pixel's own may have it, too.
  before = (side - 1) // stride
  rows, columns = (-(-(length + 2 * padding) // stride)
                   for length in (height, width))
  edge = ((0, 0), (before, rows - g.shape[1]), (before, columns - g.shape[2]),
          (0, 0))
  g, place = (jnp.pad(each, edge) for each in (g, place))

  def arrived(top, left):
    """Returns the gradient of pixels that lie there from a window's begin."""
    total = jnp.zeros((n, rows, columns, c), g.dtype)
    for i in range(top, side, stride):
      for j in range(left, side, stride):
        y, x = before - i // stride, before - j // stride
        own = slice(None), slice(y, y + rows), slice(x, x + columns)
        total += jnp.where(place[own] == i * side + j, g[own], 0)
    return total

  # Each is computed, and then all are copied to where they belong.
  lines = [jnp.concatenate(lax.optimization_barrier(
      [arrived(top, left) for left in range(stride)]), axis=-1).reshape(
          n, rows, 1, columns * stride, c) for top in range(stride)]
  whole = jnp.concatenate(lax.optimization_barrier(lines), axis=2).reshape(
      n, rows * stride, columns * stride, c)
  return whole[:, padding:padding + height, padding:padding + width],


_max_pool.defvjp(_forward, _backward)
