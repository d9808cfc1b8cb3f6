"""Max-pooling against NumPy's windows, its gradient against XLA's own."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import convolution, pooling

CASES = [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 3, 0), (5, 2, 2),
         (4, 3, 1)]


def _images(shape, ties):
  x = np.random.default_rng(0).normal(size=shape)
  return np.float32(np.maximum(np.round(x), 0) if ties else x)


def _windows(x, side, stride, padding):
  """Returns every window f[n, h, w, c, side, side]."""
  around = (padding, padding)
  padded = np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-np.inf)
  view = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
  return view[:, ::stride, ::stride]


@pytest.mark.parametrize('side, stride, padding', CASES)
@pytest.mark.parametrize('ties', [False, True])  # as after ReLU
def test_it_is_the_largest_and_its_gradient_goes_there(
    side, stride, padding, ties):
  x = _images((3, 13, 10, 4), ties)
  pool = functools.partial(
      pooling.max_pool, side=side, stride=stride, padding=padding)
  found, back = jax.vjp(pool, x)
  view = _windows(x, side, stride, padding)
  np.testing.assert_array_equal(found, view.max(axis=(-2, -1)))
  g = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
  wanted = np.zeros((3, 13 + 2 * padding, 10 + 2 * padding, 4))
  first = view.reshape(*view.shape[:4], -1).argmax(axis=-1)  # of several
  for n, y, x_, c in np.ndindex(*found.shape):
    i, j = divmod(first[n, y, x_, c], side)
    wanted[n, y * stride + i, x_ * stride + j, c] += g[n, y, x_, c]
  wanted = wanted[:, padding:padding + 13, padding:padding + 10]
  np.testing.assert_allclose(back(g)[0], wanted, atol=1e-6)


@pytest.mark.parametrize('side, stride, padding', CASES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_both_formulations_are_the_same(side, stride, padding, dtype):
  x = jnp.asarray(_images((2, 12, 11, 3), True), dtype)

  def both(x):
    value, back = jax.vjp(lambda x: pooling.max_pool(
        x, side, stride, padding), x)
    return value, back(jnp.ones_like(value))[0]

  with convolution.straightforward():
    wanted = jax.jit(lambda x: both(x))(x)
  for one, other in zip(jax.jit(both)(x), wanted, strict=True):
    assert one.dtype == dtype
    np.testing.assert_array_equal(one, other)


def test_only_on_the_cpu_it_is_not_xlas():
  def lowered():
    return jax.jit(jax.grad(lambda x: pooling.max_pool(x, 3, 2, 1).sum())
                   ).lower(jnp.zeros((1, 8, 8, 2))).as_text()
  on_cpu = jax.default_backend() == 'cpu'
  assert ('select_and_scatter' in lowered()) != on_cpu
  with convolution.straightforward():
    assert 'select_and_scatter' in lowered()
