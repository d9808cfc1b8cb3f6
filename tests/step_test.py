"""The one train step: what it changes, and that it is a function of its step.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deep_oc import optimizers, pretexts, sharding, step
from deep_oc.errors import InputError

TASKS = {'rotation': dict(head=(8, 8)),
         'contrastive': dict(head=(8, 8, 4))}


def make(task):
  """Returns task, optimizer, mesh, state and images."""
  pretext = pretexts.create(
      task, encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.float32,
      augment=dict(crop=0.5, flip=0.5, hue=0.4), **TASKS[task])
  optimizer = optimizers.create(total_steps=10, steps_per_epoch=2)
  mesh = sharding.mesh()
  state = jax.device_put(step.create_state(pretext, optimizer, 0, (16, 16, 3)),
                         sharding.replicated(mesh))
  images = np.random.default_rng(0).integers(
      0, 256, (40, 16, 16, 3), np.uint8)
  return pretext, optimizer, mesh, state, jax.device_put(
      images, sharding.replicated(mesh))


def run(task, steps, at_once):
  """Returns losses f32[steps] and the parameters after so many steps."""
  pretext, optimizer, mesh, state, images = make(task)
  take = step.make_steps(pretext, optimizer, mesh)
  losses = []
  for start in range(0, steps, at_once):
    index = step.batch_index(0, 40, 16, start, at_once)
    state, metrics = take(state, images, jnp.asarray(index), step.root_key(0))
    losses.append(np.asarray(metrics['loss']))
  return np.concatenate(losses), jax.device_get(state.params)


@pytest.mark.parametrize('found, said', [
    (jnp.zeros(()), r'not float32\[\]'),
    ((jnp.zeros(8), {}), r"not \('float32\[8\]', {}\)"),
    ((jnp.zeros(()), {'each': jnp.zeros(8)}), r"'each': 'float32\[8\]'"),
    ((jnp.zeros(()), jnp.zeros(())), 'scalars all, not')])
def test_what_a_task_must_not_return_is_told(found, said):
  class Task(nn.Module):
    @nn.compact
    def __call__(self, image, *, train):
      self.param('w', nn.initializers.ones, ())
      return found
  optimizer, image = optax.sgd(1.), jnp.zeros((4, 8, 8, 3), jnp.uint8)
  state = step.create_state(Task(), optimizer, 0, (8, 8, 3))
  with pytest.raises(InputError, match=f'the pretext task must .*{said}'):
    step.train_step(Task(), optimizer, state, image, step.root_key(0))


@pytest.mark.parametrize('ema', [0.0, 0.9])
def test_a_state_is_like_what_is_created(ema):
  pretext, optimizer, mesh, *_ = make('contrastive')
  state = step.create_state(pretext, optimizer, 0, (16, 16, 3), ema)
  where = sharding.replicated(mesh)
  like = step.state_like(pretext, optimizer, (16, 16, 3), ema, where)
  assert jax.tree.structure(like) == jax.tree.structure(state)
  for shape, array in zip(*map(jax.tree.leaves, (like, state)), strict=True):
    assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    assert isinstance(shape, jax.ShapeDtypeStruct) and shape.sharding == where


def test_a_network_begins_with_the_mean_image_if_it_has_one():
  images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
  optimizer = optimizers.create(total_steps=9, steps_per_epoch=3)
  for centre in (True, False):
    pretext = pretexts.create(
        'patch_svdd', dtype=jnp.float32, centre=centre, encoder=dict(
            name='hierarchical', channels=(4, 6), hidden=5))
    first = step.create_state(pretext, optimizer, 0, images.shape[1:])
    begun = step.begun(first, images)
    if not centre:
      assert begun is first
      continue
    assert np.isnan(first.collections['mean_image']['mean']['value']).all()
    np.testing.assert_allclose(
        begun.collections['mean_image']['mean']['value'],
        images.mean(axis=0) / 255, rtol=1e-6)
    later = step.untrained(pretext, 0, images.shape[1:], begun.variables)
    jax.tree.map(np.testing.assert_array_equal, later, begun.variables)


def test_the_network_is_that_of_flax_by_the_same_key():
  pretext, *_ = make('contrastive')
  params, views = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))
  wanted = jax.jit(lambda: pretext.init({'params': params, 'views': views},
                                        jnp.zeros((2, 16, 16, 3)),
                                        train=False))()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               step.init(pretext, 3, (16, 16, 3)), dict(wanted))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
  got = step.batch_index(7, 20, 5, 0, 8)
  assert got.shape == (8, 5)
  assert sorted(got[:4].ravel()) == sorted(got[4:].ravel()) == list(range(20))
  assert not np.array_equal(got[:4], got[4:])
  assert not np.array_equal(got, step.batch_index(8, 20, 5, 0, 8))


def test_batches_are_a_function_of_the_step_alone():
  whole = step.batch_index(0, 23, 5, 0, 12)
  parts = [step.batch_index(0, 23, 5, k, 1) for k in range(12)]
  np.testing.assert_array_equal(whole, np.concatenate(parts))
  assert len(set(whole[:4].ravel())) == 20  # three images are left out


def test_a_step_moves_every_parameter_and_the_statistics():
  pretext, optimizer, _, state, images = make('contrastive')
  new, metrics = jax.jit(
      lambda state: step.train_step(pretext, optimizer, state, images[:16],
                                    step.root_key(0)))(state)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params,
                       new.params)
  assert all(jax.tree.leaves(moved))
  assert any(jax.tree.leaves(jax.tree.map(
      lambda a, b: bool((a != b).any()), state.collections, new.collections)))
  assert int(new.step) == 1 and np.isfinite(metrics['loss'])


def test_a_step_equals_the_gradient_of_the_loss_written_out():
  pretext, _, _, state, images = make('rotation')
  plain = optax.sgd(0.1)
  state = state.replace(opt_state=plain.init(state.params))
  key = step.root_key(3)
  new, _ = jax.jit(lambda state: step.train_step(
      pretext, plain, state, images[:4], key))(state)

  def loss(params):
    (value, _), _ = pretext.apply(
        {'params': params, **state.collections},
        images[:4].astype(jnp.float32) / 255, train=True,
        rngs={'views': jax.random.fold_in(key, 1)}, mutable=['batch_stats'])
    return value
  wanted = jax.tree.map(lambda p, g: p - 0.1 * g, state.params,
                        jax.jit(jax.grad(loss))(state.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               new.params, wanted)


def test_many_steps_in_one_dispatch_equal_one_by_one():
  one, params_one = run('rotation', 4, 1)
  four, params_four = run('rotation', 4, 4)
  np.testing.assert_allclose(one, four, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               params_one, params_four)


def test_steps_differ_in_their_views():
  pretext, _, _, state, images = make('contrastive')
  still = optax.sgd(0.0)
  state = state.replace(opt_state=still.init(state.params))
  take = jax.jit(lambda state: step.train_step(
      pretext, still, state, images[:4], step.root_key(0)))
  state, first = take(state)
  _, second = take(state)  # the same images and parameters
  assert float(first['loss']) != float(second['loss'])


def test_runs_of_one_network_trace_it_untrained_once(monkeypatch):
  pretext = make('rotation')[0].clone(head=(8, 3))  # no other test's
  traced = []
  variables = step._variables
  monkeypatch.setattr(step, '_variables', lambda *args: (
      traced.append(1), variables(*args))[1])
  one, other, again = (step.init(pretext, seed, (16, 16, 3))
                       for seed in (0, 1, 0))
  for _ in range(2):
    step.state_like(pretext, optax.sgd(1.), (16, 16, 3))
  assert len(traced) == 2  # to be computed, and for the shapes alone
  weights = [jax.tree.leaves(each['params'])[-1]
             for each in (one, other, again)]
  assert (weights[0] == weights[2]).all() and (weights[0] != weights[1]).any()
