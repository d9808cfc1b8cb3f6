"""BatchNorm is Flax's, and so is its gradient."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deep_oc import batch_norm

_SHAPES = {'images': (6, 5, 4, 8), 'rows': (16, 8), 'one channel': (3, 4, 4, 1)}


@pytest.fixture(params=_SHAPES, ids=str)
def x(request):
  draw = np.random.default_rng(0).standard_normal(_SHAPES[request.param])
  return (2 + 3 * draw).astype(np.float32)


def _made(cls, x, **kwargs):
  """Returns a module and variables that are not those of the start."""
  norm = cls(momentum=0.9, epsilon=1e-5, **kwargs)
  variables = norm.init(jax.random.key(0), x, use_running_average=False)
  return norm, jax.tree.map(
      lambda v: v + 0.3 * jnp.arange(len(v)) + 0.1, variables)


def _train(cls, x, **kwargs):
  """Returns what a step gives, and the gradients of all that goes in."""
  norm, variables = _made(cls, x, **kwargs)
  weight = np.random.default_rng(1).standard_normal(x.shape)

  def loss(params, x):
    y, new = norm.apply(variables | {'params': params}, x,
                        use_running_average=False, mutable=['batch_stats'])
    return jnp.sum(jnp.tanh(y.astype(jnp.float32)) * weight), (y, new)
  return jax.value_and_grad(loss, (0, 1), has_aux=True)(
      variables.get('params', {}), x)


def test_a_training_step_normalises_by_the_moments_of_the_batch(x):
  norm, variables = _made(batch_norm.BatchNorm, x)
  y, new = norm.apply(variables, x, use_running_average=False,
                      mutable=['batch_stats'])
  wide, axes = x.astype(np.float64), tuple(range(x.ndim - 1))
  mean, var = wide.mean(axes), wide.var(axes)
  params, old = variables['params'], variables['batch_stats']
  np.testing.assert_allclose(
      y, (wide - mean) / np.sqrt(var + 1e-5) * params['scale'] + params['bias'],
      rtol=1e-5, atol=1e-5)
  for name, moment in (('mean', mean), ('var', var)):
    np.testing.assert_allclose(new['batch_stats'][name],
                               0.9 * old[name] + 0.1 * moment, rtol=1e-5)


@pytest.mark.parametrize('scale, bias', [
    (True, True), (False, False), (True, False), (False, True)])
def test_gradients_are_those_that_flax_has_automatically(x, scale, bias):
  own, flax = (_train(cls, x, use_scale=scale, use_bias=bias)
               for cls in (batch_norm.BatchNorm, nn.BatchNorm))
  assert len(own[1][0]) == scale + bias
  assert jax.tree.structure(own) == jax.tree.structure(flax)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5), own, flax)
  assert np.abs(own[1][1]).max() > 1e-3


def test_the_gradient_of_the_input_is_that_of_finite_differences():
  x = np.random.default_rng(2).standard_normal((4, 3, 2))
  weight = np.random.default_rng(3).standard_normal(x.shape)
  scale, bias = np.array([1.5, -0.5]), np.array([0.2, 0.4])

  def loss(x):
    y = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-3) * scale + bias
    return (np.tanh(y) * weight).sum()
  wanted = np.array([(loss(x + e) - loss(x - e)) / 2e-6 for e in 1e-6 * np.eye(
      x.size).reshape(-1, *x.shape)]).reshape(x.shape)
  found = jax.grad(lambda x: jnp.sum(jnp.tanh(batch_norm.normalise(
      x, jnp.float32(scale), jnp.float32(bias), 1e-3)[0]) * weight))(
          jnp.float32(x))
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_bfloat16_stays_what_flax_makes_of_it():
  x = jnp.asarray(2 + 3 * np.random.default_rng(0).standard_normal(
      (6, 5, 4, 8)), jnp.bfloat16)
  (_, (y, new)), (params, dx) = _train(
      batch_norm.BatchNorm, x, dtype=jnp.bfloat16)
  (_, (flax_y, flax_new)), (flax_params, flax_dx) = _train(
      nn.BatchNorm, x, dtype=jnp.bfloat16)
  assert y.dtype == dx.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(y), np.float32(flax_y))
  assert {each.dtype.name for each in jax.tree.leaves((new, params))} == {
      'float32'}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.float32(a), np.float32(b), rtol=1e-2, atol=1e-2),
               (new, params, dx), (flax_new, flax_params, flax_dx))


def test_evaluation_is_flaxs_own(x):
  norm, variables = _made(batch_norm.BatchNorm, x)
  flax, same = _made(nn.BatchNorm, x)
  np.testing.assert_array_equal(
      norm.apply(variables, x, use_running_average=True),
      flax.apply(same, x, use_running_average=True))


def test_straightforward_leaves_the_train_step_to_flax(x):
  with batch_norm.straightforward():
    own = _train(batch_norm.BatchNorm, x)
  jax.tree.map(np.testing.assert_array_equal, own, _train(nn.BatchNorm, x))

  def program():
    return str(jax.make_jaxpr(lambda: _train(batch_norm.BatchNorm, x))())
  with batch_norm.straightforward():
    assert 'optimization_barrier' not in program()
  assert x.ndim == 2 or 'optimization_barrier' in program()


def test_no_gradient_passes_through_the_moments():
  x = jnp.arange(12.).reshape(6, 2)
  gradient = jax.grad(lambda x: sum(each.sum() for each in batch_norm.normalise(
      x, jnp.ones(2), jnp.zeros(2), 1e-5)[1:]))(x)
  np.testing.assert_array_equal(gradient, 0)
