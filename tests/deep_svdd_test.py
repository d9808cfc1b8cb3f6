"""Deep SVDD against plain NumPy written from its definition."""
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import (attributions, differentiable, embeddings, errors, gradcam,
                     metrics, monitor, optimizers, pretexts, step, train)
from deep_oc.pretexts import deep_svdd
from tests import tasks, tiny

LENET = dict(name='lenet', channels=(4, 8))


def _create(**kwargs):
  return pretexts.create('deep_svdd', encoder=LENET, dtype=jnp.float32,
                         **{'dim': 6} | kwargs)


def _images(n=10, side=8):
  image = np.random.default_rng(0).integers(0, 256, (n, side, side, 3))
  return jnp.asarray(image, jnp.uint8)


def _outputs(pretext, variables, image, train):
  """Returns phi(x) f64[n, d], by the batch's statistics or the running ones."""
  z, _ = tasks.apply(
      pretext, variables, image / 255., mutable=['batch_stats'],
      method=lambda module, x: module.represent(module.encoder(x, train=train)))
  return np.float64(z)


def _pushed(mean):
  return np.array([c if abs(c) >= 0.1 else -0.1 if c < 0 else 0.1
                   for c in mean])


def _steps(pretext, count, batches=None, **how):
  """Yields (state before, image, state after, metrics) of each step."""
  optimizer = optimizers.create(
      total_steps=9, steps_per_epoch=1, name='adam_l2', learning_rate=1e-3,
      schedule='constant')
  state = step.create_state(pretext, optimizer, 0, (8, 8, 3))
  take = jax.jit(lambda state, image: step.train_step(
      pretext, optimizer, state, image, step.root_key(0), **how))
  for k in range(count):
    image = _images()[::-1 if k % 2 else 1]
    new, metrics = take(state, image)
    yield state, image, new, metrics
    state = new


def test_the_centre_is_the_pushed_mean_of_the_first_batch_and_stays():
  pretext = _create(dim=40)
  for k, (before, image, after, _) in enumerate(_steps(pretext, 3)):
    if not k:
      mean = _outputs(pretext, before.variables, image, True).mean(0)
    np.testing.assert_allclose(
        after.collections['svdd']['centre'], _pushed(mean), rtol=1e-4)
    assert after.collections['svdd']['steps'] == k + 1
  assert 0 < np.sum(np.abs(mean) < 0.1) < len(mean)  # both are seen


def test_a_coordinate_is_pushed_away_from_zero_to_its_own_side():
  z = np.array([[0.3, 0.02, -0.04, -0.5, 0.0, 0.1],
                [0.1, 0.04, -0.02, -0.7, 0.0, 0.1]], np.float32)
  np.testing.assert_allclose(
      deep_svdd.centre_of(z), [0.2, 0.1, -0.1, -0.6, 0.1, 0.1], rtol=1e-6)
  gradient = jax.grad(lambda z: deep_svdd.centre_of(z).sum())(z)
  np.testing.assert_array_equal(gradient, 0)


def test_one_class_is_the_mean_squared_distance():
  pretext = _create()
  for before, image, after, found in _steps(pretext, 3):
    z = _outputs(pretext, before.variables, image, True)
    centre = np.float64(after.collections['svdd']['centre'])
    wanted = np.mean([sum((row - centre) ** 2) for row in z])
    np.testing.assert_allclose(found['loss'], wanted, rtol=1e-4)
    assert after.collections['svdd']['radius'] == 0


def test_a_soft_boundary_follows_the_quantile_after_its_warm_up():
  pretext = _create(objective='soft_boundary', nu=0.25, warmup_steps=2)
  radius, radii = 0., []
  for k, (before, image, after, found) in enumerate(_steps(pretext, 5)):
    z = _outputs(pretext, before.variables, image, True)
    centre = np.float64(after.collections['svdd']['centre'])
    squared = ((z - centre) ** 2).sum(1)
    wanted = radius**2 + np.mean(
        [max(0, each - radius**2) for each in squared]) / 0.25
    np.testing.assert_allclose(found['loss'], wanted, rtol=1e-4)
    np.testing.assert_allclose(found['radius'], radius, rtol=1e-4)
    np.testing.assert_allclose(found['distance'], squared.mean(), rtol=1e-4)
    if k >= 2:
      radius = np.quantile(np.sqrt(squared), 0.75)
    radii.append(radius)
    np.testing.assert_allclose(
        after.collections['svdd']['radius'], radius, rtol=1e-4)
  assert radii[:2] == [0, 0] and len(set(radii)) == 4


def test_the_step_follows_the_gradient_at_a_centre_and_radius_held_fixed():
  pretext = _create(objective='soft_boundary', warmup_steps=0, nu=0.5)
  *_, (state, image, after, _) = _steps(pretext, 2)
  centre = after.collections['svdd']['centre']
  radius = state.collections['svdd']['radius']
  assert radius > 0

  def wanted(params):
    z, _ = pretext.apply(
        {**state.variables, 'params': params}, image / 255.,
        mutable=['batch_stats'], method=lambda module, x: module.represent(
            module.encoder(x, train=True)))
    squared = ((z - centre) ** 2).sum(1)
    return radius**2 + jnp.maximum(squared - radius**2, 0).mean() / 0.5

  def loss(params):
    return pretext.apply(
        {**state.variables, 'params': params}, image / 255., train=True,
        rngs={'views': jax.random.key(0)},
        mutable=['batch_stats', 'svdd'])[0][0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-4), *(
          jax.jit(jax.grad(each))(state.params) for each in (loss, wanted)))


def test_parts_of_a_batch_count_as_steps_and_the_first_sets_the_centre():
  pretext = _create()
  (before, image, after, _), = _steps(pretext, 1, accumulate=2)
  mean = _outputs(pretext, before.variables, image[::2], True).mean(0)
  np.testing.assert_allclose(
      after.collections['svdd']['centre'], _pushed(mean), rtol=1e-4)
  assert after.collections['svdd']['steps'] == 2


@pytest.mark.parametrize('objective', deep_svdd.OBJECTIVES)
def test_features_and_scores_are_those_of_evaluation(objective):
  pretext = _create(objective=objective, warmup_steps=0)
  *_, (_, image, state, _) = _steps(pretext, 2)
  variables = state.variables
  image = image / 255.
  found = tasks.apply(pretext, variables, image, method='embed')
  pool = tasks.apply(
      pretext, variables, image,
      method=lambda module, x: module.encoder(x, train=False))
  assert set(found) == {'pool', 'head'} and pool.shape == (10, 2 * 2 * 8)
  np.testing.assert_allclose(found['pool'], pool, rtol=1e-5, atol=1e-6)
  kernel = np.float64(variables['params']['represent']['kernel'])
  np.testing.assert_allclose(
      found['head'], np.float64(pool) @ kernel, rtol=1e-4, atol=1e-5)
  wanted = ((np.float64(pool) @ kernel - variables['svdd']['centre']) ** 2
            ).sum(1)
  if objective == 'soft_boundary':
    assert variables['svdd']['radius'] > 0
    wanted -= np.float64(variables['svdd']['radius']) ** 2
  for log in (False, True):
    scores = tasks.apply(pretext, variables, image, method='scores', log=log)
    assert set(scores) == {'distance'}
    np.testing.assert_allclose(scores['distance'], wanted, rtol=1e-4)
  assert differentiable.task_scores(pretext) == ('distance',)


def test_of_tiles_features_are_the_mean_and_the_score_the_largest():
  image = np.random.default_rng(1).random((2, 19, 16, 3), np.float32)
  pretext = _create(crop=8)
  *_, (_, _, state, _) = _steps(pretext, 1)
  windows = [image[:, y:y + 8, x:x + 8] for y in (1, 9) for x in (0, 8)]
  for method, name, reduce in (
      ('embed', 'pool', np.mean), ('embed', 'head', np.mean),
      ('scores', 'distance', np.max)):
    parts = [tasks.apply(
        pretext.clone(crop=0), state.variables, window, method=method)[name]
             for window in windows]
    np.testing.assert_allclose(
        tasks.apply(pretext, state.variables, image, method=method)[name],
        reduce(parts, axis=0), rtol=1e-4, atol=1e-5)


def test_gradcam_of_a_flattened_map_sums_its_gradient_over_positions():
  pretext = _create()
  *_, (_, _, state, _) = _steps(pretext, 1)
  image = np.float32(_images(3)) / 255
  centre = np.random.default_rng(1).normal(0, 5, 6).astype(np.float32)
  variables = {**state.variables,
               'svdd': state.collections['svdd'] | {'centre': centre}}
  score = differentiable.task(pretext, variables, 'distance')
  feature_map = np.float64(score.look(image).map)
  kernel = np.float64(variables['params']['represent']['kernel'])
  away = feature_map.reshape(3, -1) @ kernel - centre
  gradient = (2 * away @ kernel.T).reshape(feature_map.shape)  # of the map
  heat = np.maximum(np.einsum(
      'nyxk,nk->nyx', feature_map, gradient.sum((1, 2))), 0)
  np.testing.assert_allclose(
      attributions.grad_cam(score, image), gradcam.resize(heat, 8, 8),
      rtol=1e-3, atol=1e-3 * heat.max())
  assert heat.max() > 0


def test_nothing_in_it_can_make_a_constant():
  """Every parameter is the kernel of a product with what is seen."""
  pretext = pretexts.create(
      'deep_svdd', encoder=dict(name='lenet'), dtype=jnp.float32)
  shapes = jax.eval_shape(lambda: pretext.init(
      {'params': jax.random.key(0), 'views': jax.random.key(1)},
      jnp.zeros((2, 32, 32, 3)), train=False))
  paths = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _
           in jax.tree_util.tree_leaves_with_path(shapes['params'])]
  assert paths == ['encoder/Conv_0/kernel', 'encoder/Conv_1/kernel',
                   'encoder/Conv_2/kernel', 'represent/kernel']
  assert shapes['params']['represent']['kernel'].shape == (2048, 128)
  assert set(shapes) == {'params', 'batch_stats', 'svdd'}


@pytest.mark.parametrize('kwargs, said', [
    (dict(objective='one-class'), "unknown pretext.objective 'one-class'; did "
                                  "you mean 'one_class'?"),
    (dict(nu=0.0), 'pretext.nu=0.0 must be above 0 and at most 1'),
    (dict(nu=1.5), 'pretext.nu=1.5 must be above 0 and at most 1'),
    (dict(warmup_steps=-1), 'pretext.warmup_steps=-1 must be a whole '
                            'number from 0 on'),
    (dict(dim=0), 'pretext.dim=0 must be a whole number from 1 on'),
    (dict(dim=8.0), 'pretext.dim=8.0 must be a whole number from 1 on'),
    (dict(crop=-8), 'pretext.crop=-8 must be a whole number from 0 on')])
def test_fields_that_cannot_be_are_one_line(kwargs, said):
  with pytest.raises(errors.InputError) as error:
    _create(**kwargs)
  assert str(error.value) == said


def config(path, **pretext):
  """Returns tests/tiny.py for this task."""
  config = tiny.get_config()
  config.update(method='deep_svdd', encoder=dict(
      name='lenet', channels=(8, 16, 32)))
  config.pretext = {'name': 'deep_svdd', 'dim': 32, **pretext}
  config.optimizer.update(name='adam_l2', learning_rate=1e-3)
  config.data.path = str(path)
  config.protocol.normal = '0'
  config.train.update(steps=80, batch=40)
  return config


@pytest.fixture(scope='module')
def finished(digits_npz, tmp_path_factory):
  return pathlib.Path(train.train(
      config(digits_npz), str(tmp_path_factory.mktemp('run'))))


def test_it_learns_to_keep_zeros_nearer_than_other_digits(finished):
  rows = [json.loads(line)
          for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['loss'] < 0.1 * rows[0]['loss']
  test, _ = embeddings.read(finished / 'embeddings/test.npz')
  score = test['score_distance']
  assert len(np.unique(score)) > 0.9 * len(score)
  assert metrics.auroc(score, test['anomaly']) > 80


def test_distances_that_shrink_are_not_called_a_collapse(finished):
  rows = [json.loads(line)
          for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  watched = [row for row in rows if 'embedding_variance' in row]
  assert len(watched) == 4
  assert not [each for row in watched for each in monitor.warnings(row, 1)]


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_centre_and_radius(
    digits_npz, tmp_path):
  """From its checkpoint at step 20, as if it had been killed after it."""
  settings = config(digits_npz, objective='soft_boundary', warmup_steps=10)
  settings.train.steps = 40
  whole = pathlib.Path(train.train(settings, str(tmp_path / 'whole')))
  part = tmp_path / 'part'
  shutil.copytree(whole, part)
  shutil.rmtree(part / 'checkpoints/40')
  shutil.rmtree(part / 'embeddings')
  train.train(settings, str(part))
  rows = [(path / 'metrics.jsonl').read_text().splitlines()
          for path in (whole, part)]
  resumed, alone = (
      [{**json.loads(row), 'steps_per_second': 0} for row in each]
      for each in rows)
  assert resumed == alone and resumed[-1]['radius'] > 0
  one, other = (embeddings.read(path / 'embeddings/test.npz')[0]
                for path in (whole, part))
  for name in ('pool', 'head', 'score_distance'):
    np.testing.assert_array_equal(one[name], other[name])
