"""Convolutions that XLA's CPU backend runs at the rate of its matrix products.

`convolve` stands in for `jax.lax.conv_general_dilated` in `flax.linen.Conv`. On
an accelerator it is that function. On the CPU others replace XLA's formulation:

  3x3 with stride 1   Winograd's minimal filtering (Lavin and Gray, CVPR 2016,
                      https://arxiv.org/abs/1509.09308): tiles of 4x4 outputs,
                      a quarter of the multiplications, in all three of the
                      forward pass, the input's and the kernel's gradient.
  depthwise           sums of products of shifted images: XLA's has a
                      twentieth of that rate, its gradients less.
  any other           XLA's own, but the kernel's gradient as matrix products.

float32 only; what is not covered is left to XLA, and everything is where the
environment has DEEP_OC_XLA_CONVOLUTIONS=1.
"""
import contextlib
import contextvars
import functools
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_TILE = 4  # outputs a side
_SIDE = _TILE + 2  # inputs a side, and products
_FEWEST_TILES = 48  # below, transforming the kernel costs more than it saves
_NARROW = 64  # channels
_FEWEST_CHANNELS = 16  # below, transforming the images does

# What is left to XLA: nothing, what rounds more than XLA does, or all.
_NOTHING, _ROUNDING, _ALL = range(3)
_left = contextvars.ContextVar('left', default=(
    _NOTHING if os.environ.get('DEEP_OC_XLA_CONVOLUTIONS', '') in ('', '0')
    else _ALL))  # each thread has its own


@contextlib.contextmanager
def _leaving(what: int) -> Iterator[None]:
  before = _left.set(max(what, _left.get()))
  try:
    yield
  finally:
    _left.reset(before)


def straightforward() -> contextlib.AbstractContextManager[None]:
  """Leaves what is traced inside to XLA alone, to compare with."""
  return _leaving(_ALL)


def precise() -> contextlib.AbstractContextManager[None]:
  """Leaves to XLA what would round more than XLA does, Winograd's filtering.

  Only depthwise convolutions differ then: not in how they round.
  """
  return _leaving(_ROUNDING)


def is_reformulated() -> bool:
  """Returns whether `convolve` differs from XLA's on this backend."""
  return jax.default_backend() == 'cpu' and _left.get() == _NOTHING


def compiler_options() -> dict[str, str] | None:
  """Returns the `compiler_options` of a `jax.jit` that convolves.

  XLA's CPU backend drops optimization barriers before it fuses, and would then
  compute every element of a transformed tile from all pixels of the tile.
  Where it keeps them it also compiles in half the time.
  """
  if not is_reformulated():
    return None
  return {'xla_disable_hlo_passes': 'cse_barrier_expander'}


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int],
             padding: Any, lhs_dilation: Sequence[int] | None = None,
             rhs_dilation: Sequence[int] | None = None,
             dimension_numbers: Any = None, feature_group_count: int = 1,
             **kwargs: Any) -> jax.Array:
  """Convolves [n, h, w, c] with [k, l, c, d]; lax.conv_general_dilated."""
  plain = (dimension_numbers == _NHWC
           and x.dtype == kernel.dtype == jnp.float32
           and set(lhs_dilation or (1,)) == set(rhs_dilation or (1,)) == {1})
  depthwise = (plain and kernel.shape[2] == 1 < feature_group_count
               == x.shape[-1] == kernel.shape[3])
  taps = depthwise and jax.default_backend() == 'cpu' and _left.get() < _ALL
  if not taps and not (
      is_reformulated() and plain and feature_group_count == 1):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, **kwargs)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides,
                                  padding)
  padding = tuple(map(tuple, padding))
  if taps:
    return _by_taps(x, kernel, tuple(strides), padding)
  if tuple(strides) == (1, 1) and _pays(x.shape, kernel.shape, padding):
    return _winograd(x, kernel, padding)
  return _direct(x, kernel, tuple(strides), padding)


def _pays(shape: Sequence[int], kernel: Sequence[int], padding: Any) -> bool:
  """Tells whether Winograd's formulation is worth its transforms."""
  if kernel[:2] != (3, 3) or min(kernel[2:]) < _FEWEST_CHANNELS:
    return False
  if any(not 0 <= pad <= 2 for pads in padding for pad in pads):
    return False  # the input's gradient would have to crop
  height, width = _size(shape, padding)
  if min(height, width) < 1:
    return False
  tiles = _tiles(height) * _tiles(width)
  halves = 2 * _SIDE**2 * tiles <= 9 * height * width  # the multiplications
  return halves and shape[0] * tiles >= _FEWEST_TILES


# Depthwise convolutions as sums over the kernel's taps.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_taps(x, kernel, strides, padding):
  weights = kernel.reshape(-1, kernel.shape[3])
  return sum(seen * weight for seen, weight in zip(
      _seen(x, kernel.shape, strides, padding), weights, strict=True))


def _by_taps_forward(x, kernel, strides, padding):
  return _by_taps(x, kernel, strides, padding), (x, kernel)


def _by_taps_backward(strides, padding, saved, g):
  x, kernel = saved
  # All taps in one pass over an image, and then over images.
  products = tuple(g * seen for seen in _seen(
      x, kernel.shape, strides, padding))
  zeros = (jnp.zeros((), jnp.float32),) * len(products)
  sums = lax.reduce(products, zeros, lambda x, y: tuple(map(jnp.add, x, y)),
                    (1, 2))
  # The same with the kernel turned, of what has zeros between its pixels.
  around = [(side - 1 - low, before + low - 1 - stride * (after - 1),
             stride - 1) for (low, _), side, stride, before, after
            in zip(padding, kernel.shape, strides, x.shape[1:3], g.shape[1:3],
                   strict=False)]
  g = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *around, (0, 0, 0)))
  return (_by_taps(g, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0))),
          jnp.stack(sums).sum(1).reshape(kernel.shape))


_by_taps.defvjp(_by_taps_forward, _by_taps_backward)


def _seen(x, kernel, strides, padding):
  """Returns what each tap of a kernel of a shape sees, row by row."""
  x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), (
      (0, 0, 0), *((*each, 0) for each in padding), (0, 0, 0))))
  height, width = (
      (length - side) // stride for length, side, stride
      in zip(x.shape[1:3], kernel, strides, strict=False))
  return [x[:, i:i + strides[0] * height + 1:strides[0],
            j:j + strides[1] * width + 1:strides[1]]
          for i in range(kernel[0]) for j in range(kernel[1])]


# Convolutions as XLA has them, kernel gradients as matrix products.


def _xla(x, kernel, strides, padding):
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=_NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _direct(x, kernel, strides, padding):
  return _xla(x, kernel, strides, padding)


def _direct_forward(x, kernel, strides, padding):
  return _xla(x, kernel, strides, padding), (x, kernel)


def _direct_backward(strides, padding, saved, g):
  x, kernel = saved
  _, transpose = jax.vjp(lambda x: _xla(x, kernel, strides, padding), x)
  return *transpose(g), _kernel_gradient(x, kernel.shape, strides, padding, g)


_direct.defvjp(_direct_forward, _direct_backward)


def _kernel_gradient(x, shape, strides, padding, g):
  """Returns the sum over positions of what a tap saw times the gradient.

  A product per row of the kernel: all rows at once would write the images nine
  times, a product per tap would be too narrow where there are few channels.
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  (n, height, width, d), (rows, columns, c, _) = g.shape, shape
  g = g.reshape(-1, d)

  def seen(i, j):
    return x[:, i:i + strides[0] * (height - 1) + 1:strides[0],
             j:j + strides[1] * (width - 1) + 1:strides[1]]

  taps = [jnp.concatenate([seen(i, j) for j in range(columns)], -1)
          for i in range(rows)]
  return jnp.stack([_product(tap.reshape(n * height * width, columns * c), g,
                             0, 0) for tap in taps]).reshape(shape)


def _product(a, b, i, j):
  """Sums over axis i of one matrix and j of the other."""
  return lax.dot_general(a, b, (((i,), (j,)), ((), ())))


# Winograd's formulation. With the matrices below, for a tile d of 6x6 pixels
# and a kernel w, in each channel: 4x4 outputs = A'((G w G') * (B d B'))A. Tiles
# are rows of matrices, so that each of the 36 products of transformed elements
# is one matrix product over the channels. The gradients follow from the same
# form: the input's is the same convolution with the kernel turned around, the
# kernel's is G'((B d B') * (A g A'))G summed over tiles.


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns A f64[6, 4], G f64[6, 3] and B f64[6, 6] (Toom and Cook).

  Polynomials are multiplied where they are evaluated: at five points and at
  infinity. Opposite points and their inverses keep the numbers near one.
  """
  points = np.array([0, 1, -1, 0.5, -2])

  def evaluate(terms):
    infinity = np.eye(terms)[-1:]
    return np.concatenate([points[:, None]**np.arange(terms), infinity])

  # Moves the denominators from the images to the kernel, which is smaller.
  scale = np.array([np.prod([p - q for q in points if q != p])
                    for p in points] + [1])[:, None]
  return (evaluate(_TILE), evaluate(3) / scale,
          np.round(np.linalg.inv(evaluate(_SIDE)).T * scale, 9))


_A, _G, _B = _matrices()


def _tiles(length: int) -> int:
  return -(-length // _TILE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x, kernel, padding):
  return _filtered(x, kernel, padding)


def _winograd_forward(x, kernel, padding):
  return _filtered(x, kernel, padding), (x, kernel)


def _winograd_backward(padding, saved, g):
  x, kernel = saved
  around = tuple((2 - low, 2 - high) for low, high in padding)
  return (_filtered(g, kernel, around, transposed=True),
          _filter_gradient(x, padding, g))


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _filtered(x, kernel, padding, transposed=False):
  """Convolves, or convolves with the kernel turned and its channels swapped."""
  n, (height, width) = x.shape[0], _size(x.shape, padding)
  kernel = kernel[::-1, ::-1] if transposed else kernel
  kernel = _transform(_G, [list(row) for row in kernel])
  product = [[_product(a, b, 1, 1 if transposed else 0)
              for a, b in zip(*rows, strict=True)]
             for rows in zip(_pixels(x, padding), kernel, strict=True)]
  tile = _transform(_A.T, product)
  shape = n, _tiles(height), _tiles(width), -1
  y = lax.optimization_barrier(jnp.stack(
      [jnp.stack([each.reshape(shape) for each in row], 3) for row in tile], 2))
  y = y.reshape(n, _TILE * shape[1], _TILE * shape[2], -1)
  return y[:, :height, :width]


def _filter_gradient(x, padding, g):
  height, width = _size(x.shape, padding)
  g = jnp.pad(g, ((0, 0), (0, -height % _TILE), (0, -width % _TILE), (0, 0)))
  product = [[_tall_product(a, b) for a, b in zip(*rows, strict=True)]
             for rows in zip(_pixels(x, padding), _to_tiles(_A, g),
                             strict=True)]
  return lax.optimization_barrier(jnp.stack(
      [jnp.stack(row) for row in _transform(_G.T, product)]))


def _tall_product(a, b):
  """Sums over the first axis of both.

  Where the result is small, XLA is faster at it if one is transposed for good.
  """
  if a.shape[1] > _NARROW:
    return _product(a, b, 0, 0)
  return _product(lax.optimization_barrier(a.T), b, 1, 0)


def _size(shape, padding):
  """Returns the height and width of what a 3x3 kernel makes of images."""
  return tuple(length + sum(pads) - 2 for length, pads
               in zip(shape[1:3], padding, strict=True))


def _pixels(x, padding):
  """Returns the transformed tiles of images, padded to whole tiles."""
  (top, bottom), (left, right) = padding
  height, width = _size(x.shape, padding)
  return _to_tiles(_B, jnp.pad(x, (
      (0, 0), (top, bottom + 2 + -height % _TILE),
      (left, right + 2 + -width % _TILE), (0, 0))))


def _to_tiles(matrix, x):
  """Transforms tiles of [n, h, w, c] images: 6 lists of 6 f32[tiles, c].

  Tiles are as large as the matrix is wide, and begin every 4 pixels.
  """
  rows = _combine(matrix, _split(x, 1, matrix.shape[1]))
  return [[element.reshape(-1, x.shape[-1]) for element
           in _combine(matrix, _split(row, 2, matrix.shape[1]))]
          for row in rows]


def _split(x, axis, size):
  """Returns the first elements of all tiles along an axis, the second, ..."""
  end = x.shape[axis] - size + 1
  return [lax.slice_in_dim(x, k, k + end, _TILE, axis) for k in range(size)]


def _transform(matrix, grid):
  """Returns matrix @ grid @ matrix' of a nested list of arrays."""
  columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
  return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix, arrays):
  """Returns the matrix times a list of arrays.

  The barrier keeps XLA from computing each array again for all that use it.
  """
  return lax.optimization_barrier([
      functools.reduce(operator.add, (
          x if c == 1 else -x if c == -1 else np.float32(c) * x
          for c, x in zip(row, arrays, strict=True) if c))
      for row in matrix])
