"""A batch in parts: the gradient is the mean of theirs."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deep_oc import errors, experiment, pretexts, sharding, step
from deep_oc.pretexts import cutpaste

_SCAR = dict(scar_length=(2, 4), scar_width=(1, 2))  # of 8 pixels
TASKS = {'rotation': dict(head=(8, 8)),
         'cutpaste': dict(head=(8, 8), defects=_SCAR),
         'contrastive': dict(head=(8, 4))}


def _make(task):
  """Returns a task that draws nothing, a state and images u8[12, 8, 8, 3]."""
  pretext = pretexts.create(
      task, encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.float32,
      **TASKS[task])
  image = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
  optimizer = optax.sgd(1.)
  state = step.create_state(pretext, optimizer, 0, (8, 8, 3))
  return pretext, optimizer, state, jnp.asarray(image)


def _step(made, image, **how):
  pretext, optimizer, state, _ = made
  new, metrics = jax.jit(lambda state: step.train_step(
      pretext, optimizer, state, image, step.root_key(0), **how))(state)
  return {'params': new.params, **new.collections}, metrics


def _assert_close(got, wanted):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
               got, wanted)


@pytest.mark.parametrize('task', [
    'rotation', pytest.param('cutpaste', marks=pytest.mark.slow)])
@pytest.mark.parametrize('count', [
    2, pytest.param(3, marks=pytest.mark.slow)])
def test_parts_equal_groups_of_batch_norm(task, count, monkeypatch):
  # A defect that depends on the image alone.
  monkeypatch.setattr(cutpaste.Pretext, 'views', lambda self, key, image: (
      jnp.stack([image, image[:, ::-1], 1 - image], axis=1)))
  made = _make(task)
  image = made[3]
  # Group k has the k-th images of all; part k every count-th one.
  grouped = image.reshape(-1, count, *image.shape[1:]).swapaxes(0, 1).reshape(
      image.shape)
  _assert_close(_step(made, image, accumulate=count),
                _step(made, grouped, groups=count))
  whole, _ = _step(made, image)
  parts, _ = _step(made, image, accumulate=count)
  assert np.abs(whole['params']['classifier']['kernel'] - parts['params'][
      'classifier']['kernel']).max() > 1e-5  # another normalisation


@pytest.mark.parametrize('task', [
    pytest.param(task, marks=[pytest.mark.slow] * (task == 'cutpaste'))
    for task in TASKS])
def test_a_step_follows_the_mean_of_the_parts_gradients(task):
  made = _make(task)
  pretext, _, state, image = made
  key = jax.random.fold_in(step.root_key(0), 1)

  def loss(params, k, image):
    (value, _), new = pretext.apply(
        {'params': params, **state.collections}, image / 255., train=True,
        rngs={'views': jax.random.fold_in(key, k)}, mutable=['batch_stats'])
    return value, new
  one = jax.jit(jax.value_and_grad(loss, has_aux=True))
  found = [one(state.params, k, image[k::3]) for k in range(3)]
  mean = jax.tree.map(lambda *each: sum(each) / 3, *found)
  (value, new), gradient = mean
  got, metrics = _step(made, image, accumulate=3)
  _assert_close(got['params'], jax.tree.map(
      jnp.subtract, state.params, gradient))
  _assert_close(got['batch_stats'], new['batch_stats'])
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)


class Drawn(nn.Module):
  """A task whose loss is what it draws, times a parameter."""

  @nn.compact
  def __call__(self, image, *, train):
    del image, train
    loss = self.param('w', nn.initializers.ones, ()) * jax.random.uniform(
        self.make_rng('views'))
    return loss, {}


def test_each_part_has_draws_of_its_own():
  pretext, optimizer = Drawn(), optax.sgd(1.)
  state = step.create_state(pretext, optimizer, 0, (8, 8, 3))
  image = jnp.zeros((12, 8, 8, 3), jnp.uint8)
  key = jax.random.fold_in(step.root_key(0), 1)
  draws = [pretext.apply(state.variables, image, train=True, rngs={
      'views': jax.random.fold_in(key, k)})[0] for k in range(3)]
  got, metrics = _step((pretext, optimizer, state, image), image, accumulate=3)
  np.testing.assert_allclose(metrics['loss'], np.mean(draws), rtol=1e-5)
  np.testing.assert_allclose(got['params']['w'], 1 - np.mean(draws), rtol=1e-5)


def test_parts_take_less_memory():
  pretext, optimizer, state, _ = _make('rotation')
  image = jnp.zeros((48, 32, 32, 3), jnp.uint8)
  size = [jax.jit(lambda state, count=count: step.train_step(
      pretext, optimizer, state, image, step.root_key(0), accumulate=count)
                  ).lower(state).compile().memory_analysis(
                      ).temp_size_in_bytes for count in (1, 6)]
  assert size[1] < size[0] / 2


@pytest.mark.parametrize('plan, said', [
    (dict(batch=16, accumulate=3), 'batch=16 .*accumulate=3 parts'),
    (dict(batch=16, accumulate=4, batch_norm_groups=3),
     'batch=16 .*groups=3 of each of train.accumulate=4 parts')])
def test_parts_that_do_not_divide_the_batch_are_refused(plan, said):
  with pytest.raises(errors.InputError, match=said):
    experiment.Plan(**plan)


def test_devices_share_each_part():
  mesh = jax.sharding.AbstractMesh((8,), ('data',))
  sharding.check_batch(64, mesh, 4)
  with pytest.raises(errors.InputError, match='batch=40 .*4 parts; 32 or 64'):
    sharding.check_batch(40, mesh, 4)
