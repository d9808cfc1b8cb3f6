"""The CPU's convolutions are XLA's, to rounding, and so is what they train."""
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configs import dacl_cifar10
from flax import linen as nn
from jax import lax

from deep_oc import convolution, experiment, sharding, step
from deep_oc.models import resnet

NHWC = ('NHWC', 'HWIO', 'NHWC')

# Images, kernel, stride, padding, and whether in Winograd's formulation.
SHAPES = {
    'stem': ((4, 32, 32, 3), (3, 3, 3, 64), 1, 1, False),
    'large stem': ((2, 66, 70, 3), (7, 7, 3, 64), 2, 3, False),
    'first stage': ((2, 32, 32, 64), (3, 3, 64, 64), 1, 1, True),
    'narrow': ((2, 32, 32, 16), (3, 3, 16, 16), 1, 1, True),
    'last stage': ((64, 4, 4, 512), (3, 3, 512, 512), 1, 1, True),
    'one image': ((1, 4, 4, 512), (3, 3, 512, 512), 1, 1, False),
    'one large image': ((1, 64, 64, 32), (3, 3, 32, 64), 1, 1, True),
    'odd, not square': ((5, 15, 22, 32), (3, 3, 32, 48), 1, 1, True),
    'no padding': ((9, 17, 14, 32), (3, 3, 32, 64), 1, 0, True),
    'full padding': ((9, 10, 14, 32), (3, 3, 32, 64), 1, 2, True),
    'map of one': ((64, 1, 1, 32), (3, 3, 32, 32), 1, 1, False),
    'strided': ((4, 16, 16, 64), (3, 3, 64, 128), 2, 1, False),
    'strided, odd': ((4, 15, 17, 32), (3, 3, 32, 64), 2, 1, False),
    'strided, no padding': ((4, 13, 13, 32), (3, 3, 32, 64), 2, 0, False),
    'shortcut': ((4, 16, 16, 64), (1, 1, 64, 128), 2, 0, False),
    'bottleneck': ((4, 8, 8, 64), (1, 1, 64, 256), 1, 0, False)}


def operands(image, kernel, dtype=np.float32):
  rng = np.random.default_rng(0)
  scale = np.sqrt(np.prod(kernel[:3]))
  return (rng.normal(size=image).astype(dtype),
          (rng.normal(size=kernel) / scale).astype(dtype))


def with_gradients(x, kernel, stride, padding):
  """Returns the convolution and both gradients of something along it."""
  def convolve(x, kernel):
    return convolution.convolve(
        x, kernel, (stride, stride), ((padding, padding),) * 2,
        dimension_numbers=lax.conv_dimension_numbers(
            x.shape, kernel.shape, NHWC))

  def all_three(x, kernel):
    y, transpose = jax.vjp(convolve, x, kernel)
    g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return y, *transpose(g.astype(y.dtype))

  return jax.jit(all_three, compiler_options=convolution.compiler_options())(
      x, kernel)


def difference(found, expected):
  """Returns the root mean square difference, relative."""
  found, expected = (np.asarray(x, np.float64) for x in (found, expected))
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('name', SHAPES)
def test_a_convolution_and_its_gradients_are_xlas(name):
  image, kernel, stride, padding, winograd = SHAPES[name]
  assert (stride == 1 and convolution._pays(
      image, kernel, ((padding, padding),) * 2)) == winograd
  x, w = operands(image, kernel)
  found = with_gradients(x, w, stride, padding)
  with convolution.straightforward():
    expected = with_gradients(x, w, stride, padding)
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert difference(a, b) < 5e-6


def exact(x, kernel, stride, padding):
  """Computes the convolution and its gradients in float64 with NumPy."""
  x, kernel = np.float64(x), np.float64(kernel)
  padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  height, width = ((length - kernel.shape[0]) // stride + 1
                   for length in padded.shape[1:3])
  g = np.cos(np.arange(len(x) * height * width * kernel.shape[3],
                       dtype=np.float32)).astype(np.float64)
  g = g.reshape(len(x), height, width, -1)
  y, dx, dw = 0, np.zeros_like(padded), np.empty_like(kernel)
  for i, j in np.ndindex(kernel.shape[:2]):
    seen = (slice(None), slice(i, i + stride * (height - 1) + 1, stride),
            slice(j, j + stride * (width - 1) + 1, stride))
    y = y + padded[seen] @ kernel[i, j]
    dx[seen] += g @ kernel[i, j].T
    dw[i, j] = np.tensordot(padded[seen], g, ((0, 1, 2), (0, 1, 2)))
  inside = slice(padding, padded.shape[1] - padding), slice(
      padding, padded.shape[2] - padding)
  return y, dx[:, inside[0], inside[1]], dw


@pytest.mark.parametrize('name', [
    'first stage', 'odd, not square', 'no padding', 'strided', 'stem',
    pytest.param('last stage', marks=pytest.mark.slow)])
def test_rounding_is_that_of_float32(name):
  image, kernel, stride, padding, _ = SHAPES[name]
  x, w = operands(image, kernel)
  for found, expected in zip(with_gradients(x, w, stride, padding),
                             exact(x, w, stride, padding), strict=True):
    assert difference(found, expected) < 5e-6


# Images, side of the kernel, strides and paddings of depthwise ones.
DEPTHWISE = {
    'odd': ((3, 13, 11, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),
    'strided': ((3, 12, 15, 5), (5, 5), (2, 2), ((1, 2), (2, 2))),
    'what is left over': ((2, 10, 12, 4), (3, 3), (2, 2), ((0, 0), (0, 0))),
    'not square': ((2, 9, 12, 4), (3, 5), (2, 1), ((0, 3), (4, 0))),
    'one pixel': ((2, 1, 1, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    'cropped': ((2, 9, 9, 4), (3, 3), (2, 2), ((-1, 2), (1, -2)))}


def depthwise(x, kernel, strides, padding):
  """Returns the convolution of each channel by itself, and both gradients."""
  def convolve(x, kernel):
    return convolution.convolve(
        x, kernel, strides, padding, feature_group_count=x.shape[-1],
        dimension_numbers=lax.conv_dimension_numbers(
            x.shape, kernel.shape, NHWC))

  def all_three(x, kernel):
    y, transpose = jax.vjp(convolve, x, kernel)
    g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return y, *transpose(g)

  return jax.jit(all_three)(x, kernel)


def exact_depthwise(x, kernel, strides, padding):
  """Computes the same in float64 with NumPy."""
  x, kernel = np.float64(x), np.float64(kernel)
  padded = np.asarray(lax.pad(x, 0., (
      (0, 0, 0), *((*each, 0) for each in padding), (0, 0, 0))))
  size = [(length - side) // stride + 1 for length, side, stride
          in zip(padded.shape[1:3], kernel.shape, strides, strict=False)]
  y = np.zeros((len(x), *size, x.shape[-1]))
  g = np.cos(np.arange(y.size, dtype=np.float32)).astype(float).reshape(y.shape)
  dx, dw = np.zeros_like(padded), np.zeros_like(kernel)
  for i, j in np.ndindex(kernel.shape[:2]):
    seen = (slice(None), *(
        slice(begin, begin + stride * (length - 1) + 1, stride)
        for begin, stride, length in zip((i, j), strides, size, strict=True)))
    y += padded[seen] * kernel[i, j, 0]
    dx[seen] += g * kernel[i, j, 0]
    dw[i, j, 0] = (padded[seen] * g).sum((0, 1, 2))
  return y, np.asarray(lax.pad(dx, 0., (  # what was cropped has no gradient
      (0, 0, 0), *((-low, -high, 0) for low, high in padding),
      (0, 0, 0)))), dw


@pytest.mark.parametrize('name', DEPTHWISE)
def test_a_depthwise_convolution_is_what_it_is_by_definition(name):
  image, side, strides, padding = DEPTHWISE[name]
  x, w = operands(image, (*side, 1, image[-1]))
  wanted = exact_depthwise(x, w, strides, padding)
  for found, expected in zip(depthwise(x, w, strides, padding), wanted,
                             strict=True):
    assert found.shape == expected.shape
    assert difference(found, expected) < 2e-6


def formulations(group, kernel=(3, 3, 1, 4)):
  """Returns which convolutions XLA is given, of one that has groups."""
  jaxpr = str(jax.make_jaxpr(lambda x, w: convolution.convolve(
      x, w, (1, 1), 'SAME', feature_group_count=group,
      dimension_numbers=lax.conv_dimension_numbers(
          x.shape, w.shape, NHWC)))(jnp.zeros((64, 8, 8, 4)),
                                    jnp.zeros(kernel)))
  return 'conv_general_dilated' in jaxpr


def test_only_what_rounds_more_is_left_to_xla_where_it_matters(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  assert not formulations(4)
  assert formulations(2, (3, 3, 2, 4))  # groups of two are no depthwise ones
  assert formulations(4, (3, 3, 1, 8))  # nor are two kernels a channel
  with convolution.precise():
    assert not formulations(4)
    assert not convolution.is_reformulated()
    with convolution.straightforward():
      assert formulations(4)
      with convolution.precise():
        assert formulations(4)
    assert not formulations(4)
  assert convolution.is_reformulated()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert formulations(4)


def test_what_one_thread_leaves_to_xla_another_does_not(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  found = []

  def leave(entered, go):
    with convolution.precise():
      found.append(convolution.is_reformulated())
      entered.set()
      go.wait(60)
    found.append(convolution.is_reformulated())
  threads = []
  for _ in range(2):  # the second enters before the first has left
    entered, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=leave, args=(entered, go))
    thread.start()
    assert entered.wait(60) and convolution.is_reformulated()
    threads.append((thread, go))
  for thread, go in threads:
    go.set()
    thread.join()
  assert found == [False, False, True, True]
  assert convolution.is_reformulated()


def test_winograds_filtering_is_left_to_xla_where_rounding_matters():
  image, kernel, stride, padding, _ = SHAPES['first stage']
  x, w = operands(image, kernel)
  with convolution.precise():
    found = with_gradients(x, w, stride, padding)
  with convolution.straightforward():
    expected = with_gradients(x, w, stride, padding)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_bfloat16_is_left_to_xla():
  image, kernel, *_ = SHAPES['first stage']
  x, w = operands(image, kernel, jnp.bfloat16)
  found = with_gradients(x, w, 1, 1)
  with convolution.straightforward():
    expected = with_gradients(x, w, 1, 1)
  for a, b in zip(found, expected, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_array_equal(a, b)


def test_an_accelerator_gets_xlas_convolution(monkeypatch):
  model = resnet.Model(depth=10)
  image = jnp.zeros((64, 32, 32, 3))
  variables = jax.eval_shape(
      lambda: model.init(jax.random.key(0), image, train=True))

  def operations():
    return str(jax.make_jaxpr(
        lambda variables: model.apply(variables, image, train=False))(
            variables))

  here = operations()
  with convolution.straightforward():
    straightforward = operations()
    assert convolution.compiler_options() is None
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert convolution.compiler_options() is None
  assert operations() == straightforward != here
  assert 'optimization_barrier' not in straightforward


@pytest.mark.parametrize('name', ['first stage', 'strided'])
def test_mapped_over_models_is_one_by_one(name):
  image, kernel, stride, padding, _ = SHAPES[name]
  x, w = operands((3, *image), kernel)
  w = np.stack([w, -2 * w, w[..., ::-1]])
  together = jax.vmap(lambda x, w: with_gradients(x, w, stride, padding))(x, w)
  for i in range(3):
    for a, b in zip(together, with_gradients(x[i], w[i], stride, padding),
                    strict=True):
      assert difference(a[i], b) < 2e-6


class Small(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(24, (3, 3), padding='VALID',
                conv_general_dilated=convolution.convolve)(x)
    return nn.Conv(32, (3, 3), strides=2, padding='SAME', use_bias=False,
                   conv_general_dilated=convolution.convolve)(nn.relu(x))


def test_flaxs_names_of_paddings_mean_what_they_mean_there():
  x = operands((20, 13, 14, 16), (3, 3, 16, 24))[0]
  variables = Small().init(jax.random.key(0), x)
  found = jax.jit(Small().apply)(variables, x)
  with convolution.straightforward():
    expected = jax.jit(lambda v, x: Small().apply(v, x))(variables, x)
  assert difference(found, expected) < 2e-6


def losses(width, batch, head, rate, apart):
  """Returns 50 losses of DACL in both formulations, f64[2, 50].

  Each takes its own course, or both begin every step where XLA's has come to.
  """
  config = dacl_cifar10.get_config()
  config.encoder.width, config.pretext.head = width, head
  image = np.random.default_rng(0).integers(0, 256, (128, 8, 8, 3), np.uint8)
  image = image.repeat(4, 1).repeat(4, 2)
  pretext, optimizer = experiment.pretext(config), optax.sgd(rate, momentum=0.9)
  ours = xlas = step.create_state(pretext, optimizer, 0, image.shape[1:])
  take_step = step.make_steps(pretext, optimizer, sharding.mesh())
  index = step.batch_index(0, len(image), batch, 0, 50)
  found = []
  with convolution.straightforward():
    take_xlas = step.make_steps(pretext, optimizer, sharding.mesh())
  for row in index:
    ours, a = take_step(jax.tree.map(jnp.copy, ours if apart else xlas), image,
                        row[None], step.root_key(0))
    with convolution.straightforward():
      xlas, b = take_xlas(xlas, image, row[None], step.root_key(0))
    found.append([a['loss'][0], b['loss'][0]])
  return np.transpose(found)


@pytest.mark.parametrize('value, here', [('1', False), ('0', True), ('', True)])
def test_the_environment_may_leave_all_to_xla(value, here):
  said = subprocess.run(
      [sys.executable, '-c', 'from deep_oc import convolution; '
       'print(convolution.is_reformulated())'],
      env=os.environ | {'DEEP_OC_XLA_CONVOLUTIONS': value,
                        'JAX_PLATFORMS': 'cpu'},
      text=True, capture_output=True, check=True)
  assert said.stdout == f'{here}\n'


@pytest.mark.slow
@pytest.mark.parametrize('width, batch, head', [
    (0.25, 16, (512,) * 8), (1.0, 32, (512,) * 8)])
def test_every_loss_of_fifty_steps_is_xlas(width, batch, head):
  # As published, on one course: two courses in float32 part within a few
  # steps, whatever the difference they start from. XLA's own part as soon when
  # it computes matrix products by another of its libraries.
  found, expected = losses(width, batch, head, 0.01, apart=False)
  assert len(set(expected)) == 50
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_fifty_small_steps_take_the_same_course():
  found, expected = losses(0.25, 32, (128,), 1e-5, apart=True)
  assert len(set(expected)) == 50
  np.testing.assert_allclose(found, expected, rtol=1e-4)
