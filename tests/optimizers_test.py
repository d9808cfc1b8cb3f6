"""The update rule, written out."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deep_oc import errors, optimizers


def test_three_steps_equal_keras_sgd_written_out():
  rng = np.random.default_rng(0)
  w = {'kernel': rng.normal(size=3), 'bias': rng.normal(size=2)}
  gradients = [{name: rng.normal(size=x.shape) for name, x in w.items()}
               for _ in range(3)]
  optimizer = optimizers.create(
      total_steps=10, steps_per_epoch=2, learning_rate=0.1, momentum=0.9,
      weight_decay=0.01, per='step')
  got = {name: jnp.asarray(x, jnp.float32) for name, x in w.items()}
  state = optimizer.init(got)
  v = {name: np.zeros_like(x) for name, x in w.items()}
  for k, gradient in enumerate(gradients):
    rate = 0.1 * 0.5 * (1 + math.cos(math.pi * k / 10))
    for name in w:  # biases are decayed too
      v[name] = 0.9 * v[name] - rate * (gradient[name] + 0.01 * w[name])
      w[name] = w[name] + v[name]
    updates, state = optimizer.update(gradient, state, got)
    got = optax.apply_updates(got, updates)
  for name in w:
    np.testing.assert_allclose(got[name], w[name], rtol=1e-5)


@pytest.mark.parametrize('per', ['step', 'epoch'])
@pytest.mark.parametrize('schedule', optimizers.SCHEDULES)
@pytest.mark.parametrize('name', ['sgd', 'nesterov', 'adam', 'adam_l2'])
def test_each_rule_is_its_equation_on_every_schedule(name, schedule, per):
  optimizer = optimizers.create(
      total_steps=12, steps_per_epoch=4, name=name, learning_rate=0.1,
      momentum=0.8, weight_decay=0.1, schedule=schedule, per=per,
      warmup_epochs=1.5, milestones=(1.0, 2.5))
  update = jax.jit(optimizer.update)
  w, v, mean, square = np.array([1., -2., 3.]), 0., 0., 0.
  got = jnp.asarray(w)
  state = optimizer.init(got)
  gradients = np.random.default_rng(0).normal(size=(12, 3))
  for k, g in enumerate(gradients):
    rate = 0.1 * min((k + 1) / 6, 1)  # six steps of warm-up
    start = k if per == 'step' else k // 4 * 4
    if schedule == 'cosine':
      rate *= 0.5 * (1 + math.cos(math.pi * max(start - 6, 0) / 6))
    if schedule == 'step':
      rate /= 100 if start >= 10 else 10 if start >= 4 else 1
    if schedule == 'exponential':
      rate /= 10 ** (start / 12)
    if name in ('adam', 'adam_l2'):
      coupled, decay = (0.1 * w, 0) if name == 'adam_l2' else (0, 0.1 * w)
      mean = 0.9 * mean + 0.1 * (g + coupled)
      square = 0.999 * square + 0.001 * (g + coupled) ** 2
      root = np.sqrt(square / (1 - 0.999 ** (k + 1))) + 1e-8
      w = w - rate * (mean / (1 - 0.9 ** (k + 1)) / root + decay)
    else:  # Keras' SGD: it is coupled
      descent = -rate * (g + 0.1 * w)
      v = 0.8 * v + descent
      w = w + (0.8 * v + descent if name == 'nesterov' else v)
    updates, state = update(jnp.asarray(g), state, got)
    got = optax.apply_updates(got, updates)
    np.testing.assert_allclose(got, w, atol=1e-5)


def test_the_rate_is_held_through_each_epoch():
  rate = optimizers.learning_rate_schedule(
      0.01, 'cosine', 'epoch', total_steps=2048 * 78, steps_per_epoch=78,
      warmup_steps=0)
  assert float(rate(jnp.array(0))) == float(rate(jnp.array(77)))
  assert float(rate(jnp.array(78))) < float(rate(jnp.array(77)))
  last = 0.01 * 0.5 * (1 + math.cos(math.pi * 2047 / 2048))
  np.testing.assert_allclose(rate(jnp.array(2048 * 78 - 1)), last, rtol=2e-2)
  np.testing.assert_allclose(last, 5.9e-9, rtol=1e-2)


def test_warm_up_grows_linearly_to_the_peak():
  rate = optimizers.learning_rate_schedule(
      1.0, 'constant', 'step', total_steps=100, steps_per_epoch=10,
      warmup_steps=4)
  np.testing.assert_allclose(
      [rate(jnp.array(k)) for k in range(6)], [.25, .5, .75, 1, 1, 1])


def test_deep_svdds_rate_is_a_tenth_from_epoch_fifty_on():
  rate = optimizers.learning_rate_schedule(
      1e-4, 'step', 'epoch', total_steps=150 * 25, steps_per_epoch=25,
      warmup_steps=0, milestones=(50.0,))
  np.testing.assert_allclose(
      [rate(jnp.array(k)) for k in (0, 1249, 1250, 3749)],
      [1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)


def test_a_rate_is_lowered_by_its_factor_at_each_milestone():
  rate = optimizers.learning_rate_schedule(
      0.1, 'step', 'step', total_steps=100, steps_per_epoch=10, warmup_steps=0,
      milestones=(2.0, 2.5), factor=0.5)
  np.testing.assert_allclose(
      [rate(jnp.array(k)) for k in (19, 20, 24, 25, 99)],
      [0.1, 0.05, 0.05, 0.025, 0.025], rtol=1e-6)


@pytest.mark.parametrize('factor', [0, 1, 2., float('nan'), 'a'])
def test_a_factor_that_does_not_lower_the_rate_is_one_line(factor):
  with pytest.raises(errors.InputError, match=f'factor={factor} must be betw'):
    optimizers.create(total_steps=1, steps_per_epoch=1, schedule='step',
                      milestones=(1.0,), factor=factor)


def test_steps_without_milestones_are_one_line():
  with pytest.raises(errors.InputError) as error:
    optimizers.create(total_steps=1, steps_per_epoch=1, schedule='step')
  assert str(error.value) == (
      "optimizer.schedule='step' needs optimizer.milestones, the epochs from "
      'which on the rate is lower')


@pytest.mark.parametrize('field, value', [
    ('name', 'sdg'), ('schedule', 'cosin'), ('per', 'stp')])
def test_a_misspelt_name_offers_the_nearest(field, value):
  with pytest.raises(errors.InputError, match='did you mean'):
    optimizers.create(total_steps=1, steps_per_epoch=1, **{field: value})


@pytest.mark.parametrize('name', ['sgd', 'adam_l2'])
def test_the_head_learns_first_and_then_all_as_from_a_first_step(name):
  optimizer = optimizers.create(
      total_steps=8, steps_per_epoch=4, name=name, learning_rate=0.01,
      momentum=0.9, weight_decay=0.1, per='step', head_steps=3,
      head_learning_rate=0.5)
  alone = [optimizers.create(
      total_steps=5, steps_per_epoch=4, name=name, learning_rate=rate,
      momentum=0.9, weight_decay=0.1, per='step', schedule=schedule)
           for rate, schedule in ((0.5, 'constant'), (0.01, 'cosine'))]
  rng = np.random.default_rng(0)
  got = {'encoder': {'kernel': jnp.asarray(rng.normal(size=3))},
         'mlp': {'kernel': jnp.asarray(rng.normal(size=2))}}
  wanted = got
  state = optimizer.init(got)
  update = jax.jit(optimizer.update)
  others = [alone[0].init({'mlp': wanted['mlp']}), None]
  for k in range(8):
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)),
                            got)
    updates, state = update(gradient, state, got)
    got = optax.apply_updates(got, updates)
    if k < 3:
      updates, others[0] = alone[0].update(
          {'mlp': gradient['mlp']}, others[0], {'mlp': wanted['mlp']})
      wanted = wanted | optax.apply_updates({'mlp': wanted['mlp']}, updates)
    else:
      others[1] = others[1] or alone[1].init(wanted)
      updates, others[1] = alone[1].update(gradient, others[1], wanted)
      wanted = optax.apply_updates(wanted, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5),
                 got, wanted)


@pytest.mark.parametrize('steps', [-1, 8, 9, 2.5, '3', True])
def test_a_head_that_takes_all_steps_is_refused(steps):
  with pytest.raises(errors.InputError, match=f'head_steps={steps!r} must be f'
                     'rom 0 to less than the 8 steps of the run'):
    optimizers.create(total_steps=8, steps_per_epoch=4, head_steps=steps)


@pytest.mark.parametrize('rate', [-1, 0, '3', True, float('nan'), None])
def test_a_head_that_does_not_descend_is_refused(rate):
  with pytest.raises(errors.InputError, match='head_learning_rate=.* above 0'):
    optimizers.create(total_steps=8, steps_per_epoch=4, head_steps=2,
                      head_learning_rate=rate)
