import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import errors, heads


def sizes(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(head, width=512):
  x = jnp.zeros((2, width))
  return jax.eval_shape(
      lambda: head.init(jax.random.key(0), x, train=True))


@pytest.mark.parametrize('dims, bias, classes, expected', [
    ((512,) * 8, True, 4, 2_106_884),
    ((512,) * 8 + (128,), False, 0, 2_170_880),
])
def test_heads_have_the_papers_parameter_counts(dims, bias, classes, expected):
  count = sizes(shapes(heads.MLP(dims, bias))['params'])
  assert count + classes * (dims[-1] + 1) * bool(classes) == expected


def random_variables(head, x):
  variables = head.init(jax.random.key(0), x, train=False)
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype),
      variables)


def test_a_head_equals_plain_numpy():
  x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
  head = heads.MLP((6, 3), bias=True)
  variables = random_variables(head, x)
  params, stats = variables['params'], variables['batch_stats']
  norm, moving = params['BatchNorm_0'], stats['BatchNorm_0']
  hidden = x @ params['Dense_0']['kernel'] - moving['mean']
  hidden = hidden / np.sqrt(moving['var'] + 1e-5) * norm['scale']
  hidden = np.maximum(hidden + norm['bias'], 0)
  expected = hidden @ params['Dense_1']['kernel'] + params['Dense_1']['bias']
  out = head.apply(variables, x, train=False)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_only_the_last_layer_is_linear_and_may_have_a_bias():
  params = shapes(heads.MLP((6, 5, 3), bias=True), 4)['params']
  assert sorted(params) == ['BatchNorm_0', 'BatchNorm_1', 'Dense_0', 'Dense_1',
                            'Dense_2']
  assert [name for name in sorted(params) if 'Dense' in name
          and 'bias' in params[name]] == ['Dense_2']
  params = shapes(heads.MLP((6, 5, 3), bias=False), 4)['params']
  assert set(params['Dense_2']) == {'kernel'}


@pytest.mark.parametrize('dims', [8, None, (8, 2.5), (8, 0)])
def test_widths_that_cannot_be_are_one_line(dims):
  with pytest.raises(errors.InputError, match='pretext.head.* must be'):
    heads.MLP(dims, bias=True)


def test_dense_layers_start_glorot_uniform():
  head = heads.MLP((300, 100), bias=False)
  params = head.init(jax.random.key(0), jnp.zeros((2, 200)),
                     train=True)['params']
  for name, fans in (('Dense_0', 500), ('Dense_1', 400)):
    kernel, limit = np.asarray(params[name]['kernel']), np.sqrt(6 / fans)
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


def test_running_statistics_move_by_a_tenth():
  x = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
  head = heads.MLP((6, 3), bias=False)
  variables = head.init(jax.random.key(0), x, train=True)
  _, new = head.apply(variables, x, train=True, mutable='batch_stats')
  hidden = x @ np.asarray(variables['params']['Dense_0']['kernel'])
  moving = new['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(moving['mean'], 0.1 * hidden.mean(0), atol=1e-5)
  np.testing.assert_allclose(
      moving['var'], 0.9 + 0.1 * hidden.var(0), atol=1e-5)


def test_bfloat16_keeps_parameters_statistics_and_output_in_float32():
  x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
  head = heads.MLP((6, 3), bias=True, dtype=jnp.bfloat16)
  variables = head.init(jax.random.key(0), x, train=True)
  out, new = head.apply(variables, x, train=True, mutable='batch_stats')
  kinds = {leaf.dtype for leaf in jax.tree.leaves((variables, new, out))}
  assert kinds == {jnp.dtype('float32')}
  exact, _ = heads.MLP((6, 3), bias=True).apply(
      variables, x, train=True, mutable='batch_stats')
  assert 0 < np.abs(out - exact).max() < 0.1


def test_a_head_without_layers_is_the_features():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(
      heads.MLP((), bias=False).apply({}, x, train=True), x)
