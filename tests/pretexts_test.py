"""Pretext tasks against plain loops written from the definitions."""
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deep_oc import (augment, errors, features, heads, maps, models,
                     orientation, pretexts, scores, sharding, step)
from deep_oc.pretexts import contrastive
from tests import tasks


def _unit_views(n=5, d=3):
  z = np.random.default_rng(0).normal(size=(n, 2, d))
  return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def _create(name, head, **kwargs):
  return pretexts.create(
      name, encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.float32,
      head=head, **kwargs)


def test_the_official_loss_compares_view_one_with_view_two_only():
  z, tau, total, right = _unit_views(), 0.2, 0.0, 0
  for i in range(len(z)):
    similar = [z[i, 0] @ z[j, 1] / tau for j in range(len(z))]
    total -= similar[i] - math.log(sum(math.exp(s) for s in similar))
    right += max(similar) == similar[i]
  loss, accuracy, chance = contrastive.one_directional(jnp.asarray(z), tau)
  np.testing.assert_allclose(loss, total / len(z), rtol=1e-5)
  np.testing.assert_allclose(accuracy, right / len(z))
  assert chance == 1 / len(z)


def test_nt_xent_has_two_n_minus_two_negatives_per_anchor():
  z, tau, total, right = _unit_views(), 0.5, 0.0, 0
  flat = [(i, v) for i in range(len(z)) for v in (0, 1)]
  for i, v in flat:
    positive = math.exp(z[i, v] @ z[i, 1 - v] / tau)
    others = [math.exp(z[i, v] @ z[j, w] / tau)
              for j, w in flat if (j, w) != (i, v)]
    assert len(others) == 2 * len(z) - 1
    total -= math.log(positive / sum(others))
    right += positive >= max(others)
  loss, accuracy, chance = contrastive.nt_xent(jnp.asarray(z), tau)
  np.testing.assert_allclose(loss, total / len(flat), rtol=1e-5)
  np.testing.assert_allclose(accuracy, right / len(flat))
  assert chance == 1 / (2 * len(z) - 1)


@pytest.mark.parametrize('name', contrastive.LOSSES)
def test_a_collapsed_embedding_scores_at_chance_not_at_one(name):
  z = jnp.ones((8, 2, 4)) / 2
  loss, accuracy, chance = contrastive.LOSSES[name](z, 0.2)
  assert accuracy <= 2 / 8
  np.testing.assert_allclose(loss, math.log(1 / chance), rtol=1e-5)


@pytest.mark.parametrize('name', contrastive.LOSSES)
def test_contrastive_gradients_are_finite_even_for_equal_views(name):
  z = jnp.ones((4, 2, 3)) / math.sqrt(3)
  gradient = jax.grad(lambda x: contrastive.LOSSES[name](x, 0.2)[0])(z)
  assert np.isfinite(gradient).all()


def test_alignment_and_uniformity_equal_loops_over_pairs():
  z = _unit_views()
  aligned = np.mean([np.sum((a - b) ** 2) for a, b in z])
  kernel = [math.exp(-2 * np.sum((z[i, 0] - z[j, 0]) ** 2))
            for i in range(len(z)) for j in range(len(z)) if i != j]
  np.testing.assert_allclose(contrastive.alignment(z), aligned, rtol=1e-5)
  np.testing.assert_allclose(
      contrastive.uniformity(jnp.asarray(z)), math.log(np.mean(kernel)),
      rtol=1e-5)


def test_unit_leaves_a_zero_row_finite():
  x = heads.unit(jnp.array([[0., 0.], [3., 4.]]))
  np.testing.assert_allclose(x, [[0, 0], [0.6, 0.8]], rtol=1e-6)
  assert np.isfinite(jax.grad(lambda x: heads.unit(x).sum())(
      jnp.zeros((1, 2)))).all()


def test_rotation_loss_is_cross_entropy_over_four_turned_copies():
  image = jax.random.uniform(jax.random.key(2), (3, 8, 8, 3))
  pretext = _create('rotation', (5, 6))
  variables = tasks.init(pretext, image)
  (loss, metrics), _ = tasks.apply(
      pretext, variables, image, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])

  copies = np.stack([np.rot90(np.asarray(image[i]), k)
                     for i in range(3) for k in range(4)])

  def logits(module, view):  # one pass, so that the copies share statistics
    pool = module.encoder(view, train=True)
    return module.classifier(module.mlp(pool, train=True))
  out, _ = tasks.apply(pretext, variables, jnp.asarray(copies), method=logits,
                       mutable=['batch_stats'])
  out = np.asarray(out, np.float64)
  log_p = out - np.log(np.exp(out).sum(1, keepdims=True))
  target = np.tile(np.arange(4), 3)
  np.testing.assert_allclose(
      loss, -log_p[np.arange(12), target].mean(), rtol=1e-4)
  np.testing.assert_allclose(
      metrics['accuracy'], (out.argmax(1) == target).mean())


def test_each_of_the_four_turns_is_augmented_on_its_own():
  image = jnp.zeros((2, 4, 4, 3))
  view = pretexts.views(augment.Chain(brightness=0.4), jax.random.key(0),
                        image, 4)
  assert view.shape == (2, 4, 4, 4, 3)
  assert len(np.unique(np.asarray(view[..., 0, 0, 0]))) == 8


def test_rotation_scores_equal_the_products_of_probabilities():
  logits = np.random.default_rng(0).normal(size=(6, 4, 4))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(
      scores.upright(jnp.asarray(logits[:, 0])), 1 - p[:, 0, 0], rtol=1e-5)
  product = [1 - p[i, 0, 0] * p[i, 1, 1] * p[i, 2, 2] * p[i, 3, 3]
             for i in range(6)]
  np.testing.assert_allclose(
      scores.rotation(jnp.asarray(logits)), product, rtol=1e-5)


def test_rotation_scores_of_an_image_use_its_four_turns():
  image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
  pretext = _create('rotation', (5,))
  variables = tasks.init(pretext, image)

  def logits(module, x):
    return module.classifier(module.mlp(
        module.encoder(x, train=False), train=False))
  product = np.ones(2)
  for k in range(4):
    out = np.asarray(tasks.apply(
        pretext, variables, jnp.rot90(image, k, (1, 2)), method=logits),
                     np.float64)
    product *= np.exp(out[:, k]) / np.exp(out).sum(1)
  got = tasks.apply(pretext, variables, image, method='scores')
  np.testing.assert_allclose(got['rotation'], 1 - product, rtol=1e-4)


def test_rotnet_classifies_the_encoders_own_features():
  image = jnp.zeros((2, 8, 8, 3))
  pretext = _create('rotation', ())
  variables = tasks.init(pretext, image)
  assert set(variables['params']) == {'encoder', 'classifier'}
  assert set(tasks.apply(pretext, variables, image, method='embed')) == {'pool'}


@pytest.mark.parametrize('loss', contrastive.LOSSES)
def test_csi_contrasts_four_turns_as_four_images_and_classifies_them(loss):
  image = jax.random.uniform(jax.random.key(2), (3, 8, 8, 3))
  pretext = _create('csi', (6, 5), turn_weight=3.0, loss=loss, temperature=0.3)
  variables = tasks.init(pretext, image)
  (total, metrics), _ = tasks.apply(
      pretext, variables, image, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])

  # Without augmentation both views of a turned image are the image.
  turned = np.stack([np.rot90(np.asarray(image[i]), k)
                     for i in range(3) for k in range(4) for _ in range(2)])

  def forward(module, view):  # one pass, so that all share statistics
    pool = module.encoder(view, train=True)
    return module.mlp(pool, train=True), module.classifier(pool)
  (z, logits), _ = tasks.apply(
      pretext, variables, jnp.asarray(turned), method=forward,
      mutable=['batch_stats'])
  z, logits = np.asarray(z, np.float64), np.asarray(logits, np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  similar = np.exp(z @ z.T / 0.3)
  if loss == 'nt_xent':
    np.fill_diagonal(similar, 0)
    contrast = -np.mean([np.log(similar[i, i ^ 1] / similar[i].sum())
                         for i in range(24)])
  else:
    contrast = -np.mean([np.log(similar[i, i + 1] / similar[i, 1::2].sum())
                         for i in range(0, 24, 2)])
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  turn = np.tile(np.repeat(np.arange(4), 2), 3)
  cross_entropy = -np.log(p[np.arange(24), turn]).mean()
  np.testing.assert_allclose(metrics['contrastive_loss'], contrast, rtol=1e-4)
  np.testing.assert_allclose(metrics['turn_loss'], cross_entropy, rtol=1e-4)
  np.testing.assert_allclose(total, contrast + 3 * cross_entropy, rtol=1e-4)
  np.testing.assert_allclose(
      metrics['turn_accuracy'], (p.argmax(1) == turn).mean())


@pytest.mark.parametrize('weight', [-1.0, float('nan')])
def test_csi_refuses_a_weight_that_is_none(weight):
  with pytest.raises(errors.InputError) as error:
    _create('csi', (5,), turn_weight=weight)
  assert str(error.value) == (
      f'pretext.turn_weight={weight} must be a number from 0 on')


def test_csi_scores_an_image_by_its_classifier_of_four_turns():
  image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
  pretext = _create('csi', (5,))
  variables = tasks.init(pretext, image)
  p = []
  for k in range(4):
    logits = np.asarray(tasks.apply(
        pretext, variables, jnp.rot90(image, k, (1, 2)),
        method=lambda module, x: module.classifier(
            module.encoder(x, train=False))), np.float64)
    p.append(np.exp(logits[:, k]) / np.exp(logits).sum(1))
  found = tasks.apply(pretext, variables, image, method='scores')
  np.testing.assert_allclose(found['upright'], 1 - p[0], rtol=1e-4)
  np.testing.assert_allclose(found['rotation'], 1 - np.prod(p, 0), rtol=1e-4)


@pytest.mark.parametrize('name, head, count', [
    ('rotation', (512,) * 8, 2_106_884),
    ('contrastive', (512,) * 8 + (128,), 2_170_880)])
def test_the_papers_networks_have_their_number_of_parameters(
    name, head, count):
  pretext = pretexts.create(
      name, encoder=dict(name='resnet'), dtype=jnp.float32, head=head)
  shapes = jax.eval_shape(
      lambda: tasks.init(pretext, jnp.zeros((2, 32, 32, 3))))
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes['params']))
  assert total == 11_168_832 + count


@pytest.mark.parametrize('name, head', [
    ('rotation', (6, 5)), ('contrastive', (6, 5))])
def test_features_are_float32_and_named(name, head):
  image = jnp.ones((3, 16, 16, 3))
  pretext = pretexts.create(
      name, encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.bfloat16,
      head=head)
  got = tasks.apply(pretext, tasks.init(pretext, image), image, method='embed')
  assert {key: (x.shape, x.dtype.name) for key, x in got.items()} == {
      'pool': ((3, 8), 'float32'), 'head': ((3, 5), 'float32')}


def test_misspelt_names_and_keys_offer_the_nearest():
  with pytest.raises(errors.InputError, match="did you mean 'rotation'"):
    _create('rotaton', (4,))
  with pytest.raises(errors.InputError, match="'pretext.temperature'"):
    _create('contrastive', (4,), temprature=0.1)
  with pytest.raises(errors.InputError, match="'pretext.augment.grey'"):
    _create('contrastive', (4,), augment={'gray': 0.2})
  with pytest.raises(errors.InputError, match="'nt_xent'"):
    _create('contrastive', (4,), loss='nt_xnt')
  for wrong in (0, -0.1, float('nan'), float('inf')):
    with pytest.raises(errors.InputError, match='temperature=.* above 0'):
      _create('csi', (4,), temperature=wrong)
  assert models.create('convnet').channels


TASKS = [('rotation', (6, 5)), ('rotation', ()), ('contrastive', (6, 5)),
         ('csi', (6, 5))]


def _places(n, side):
  """Returns f32[n, side, side, 3]: each pixel's row, column and image."""
  i, y, x = np.mgrid[:n, :side, :side]
  return jnp.asarray(np.stack([y, x, i], axis=-1), jnp.float32)


@pytest.mark.parametrize('count', [2, 4])
def test_all_views_of_an_image_are_of_one_patch_of_it(count):
  image = _places(50, 24)
  view = np.asarray(pretexts.views(
      augment.Chain(), jax.random.key(0), image, count, crop=8))
  assert view.shape == (50, count, 8, 8, 3)
  np.testing.assert_array_equal(view, view[:, :1].repeat(count, axis=1))
  starts = view[:, 0, 0, 0, :2].astype(int)
  for i, (y, x) in enumerate(starts):
    np.testing.assert_array_equal(view[i, 0], image[i, y:y + 8, x:x + 8])
  assert len(np.unique(starts, axis=0)) > 40  # of 289 places


def test_views_of_a_patch_are_augmented_on_their_own():
  view = pretexts.views(augment.Chain(brightness=0.4), jax.random.key(0),
                        jnp.zeros((3, 8, 8, 3)), 4, crop=4)
  assert len(np.unique(np.asarray(view[..., 0, 0, 0]))) == 12


@pytest.mark.parametrize('name, count', [
    ('rotation', 4), pytest.param('contrastive', 2, marks=pytest.mark.slow),
    pytest.param('csi', 8, marks=pytest.mark.slow)])
def test_without_a_crop_views_are_drawn_from_the_keys_as_before(name, count):
  """One key per view, split from the one of the task: of a batch, by hand."""
  image = jax.random.uniform(jax.random.key(2), (3, 8, 8, 3))
  pretext = _create(name, (5,), augment=dict(brightness=0.4, crop=0.5))
  rngs = {'views': jax.random.key(3)}
  keys = jax.random.split(pretext.apply(
      {}, rngs=rngs, method=lambda module: module.make_rng('views')),
                          (3, count))
  views = [[pretext.augment(keys[i, v], image[i]) for v in range(count)]
           for i in range(3)]
  if name in ('rotation', 'csi'):  # CSI has two views of each turn
    views = [[jnp.rot90(each, 4 * v // count) for v, each in enumerate(of)]
             for of in views]

  seen = []
  def spy(next_fun, args, kwargs, context):
    if context.module.name == 'encoder' and context.method_name == '__call__':
      seen.append(args[0])
    return next_fun(*args, **kwargs)
  with nn.intercept_methods(spy):
    pretext.apply(tasks.init(pretext, image), image, train=False, rngs=rngs)
  np.testing.assert_allclose(
      seen[-1], np.stack([each for of in views for each in of]), atol=1e-6)


@pytest.mark.parametrize('name, head', TASKS)
def test_features_are_means_and_scores_maxima_over_the_windows_of_an_image(
    name, head):
  image = jax.random.uniform(jax.random.key(0), (3, 19, 16, 3))
  pretext = _create(name, head, crop=8)
  variables = tasks.init(pretext, image)
  of_window = pretext.clone(crop=0)
  # Nineteen rows: one is left over above, two below.
  windows = [image[:, y:y + 8, x:x + 8] for y in (1, 9) for x in (0, 8)]
  for method, reduce in [('embed', np.mean), ('scores', np.max)]:
    if not hasattr(pretext, method):
      continue
    found = tasks.apply(pretext, variables, image, method=method)
    parts = [tasks.apply(of_window, variables, window, method=method)
             for window in windows]
    for key, value in found.items():
      assert len(value) == 3
      np.testing.assert_allclose(
          value, reduce([part[key] for part in parts], axis=0), atol=1e-5)


@pytest.mark.parametrize('name, head', [*TASKS, ('cutpaste', (6, 5))])
def test_a_window_as_large_as_the_crop_is_its_only_tile(name, head):
  window = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))
  pretext = _create(name, head, crop=8)
  variables = pretext.init(jax.random.key(0), window, method='embed')
  found = tasks.apply(pretext, variables, window, method='embed')
  alone = tasks.apply(pretext.clone(crop=0), variables, window, method='embed')
  for key in found:
    np.testing.assert_array_equal(found[key], alone[key])


@pytest.mark.parametrize('name, head', TASKS)
def test_a_crop_changes_no_parameter_and_every_one_has_a_gradient(name, head):
  image = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
  whole, pretext = (_create(name, head, crop=crop) for crop in (0, 8))
  variables = tasks.init(pretext, image)
  for a, b in zip(jax.tree.leaves(variables),
                  jax.tree.leaves(tasks.init(whole, image)), strict=True):
    np.testing.assert_array_equal(a, b)

  def loss(params):
    return pretext.apply(
        variables | {'params': params}, image, train=True,
        rngs={'views': jax.random.key(1)}, mutable=['batch_stats'])[0][0]
  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(variables['params'])):
    assert np.isfinite(gradient).all() and np.any(gradient != 0)


@pytest.mark.parametrize('name, head', TASKS)
def test_a_crop_that_cannot_be_is_one_error(name, head):
  with pytest.raises(errors.InputError, match='pretext.crop=-8 must be'):
    _create(name, head, crop=-8)
  pretext, image = _create(name, head, crop=32), jnp.zeros((2, 16, 24, 3))
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  for method, kwargs in [('__call__', {'train': True}), ('embed', {})]:
    with pytest.raises(errors.InputError) as error:
      pretext.init(keys, image, method=method, **kwargs)
    assert str(error.value) == (
        'pretext.crop=32 is larger than the images, 16x24')


@pytest.mark.parametrize('method, found, said', [
    ('embed', {'feature': jnp.zeros((3, 4))}, "not {'feature': 'float32"),
    ('embed', jnp.zeros((3, 4)), r'not float32\[3,4\]'),
    ('embed', {'pool': jnp.zeros((3, 2, 2, 4))}, r"'float32\[3,2,2,4\]'"),
    ('scores', {'own': jnp.zeros((3, 1))}, r'must return {name: f32\[n\]}'),
    ('scores', jnp.zeros(3), r'not float32\[3\]'),
    ('statistics', jnp.zeros(()), r'must return {name: f32\[n, ...\]}'),
    ('statistics', {'own': jnp.zeros(())}, r"not {'own': 'float32\[\]'}")])
def test_features_and_scores_that_cannot_be_are_told(method, found, said):
  class Task(nn.Module):
    encoder: nn.Module

    def embed(self, image):
      return found

    def scores(self, image):
      return found

    statistics = scores

  task = Task(models.create('convnet'))
  if method != 'statistics':
    with pytest.raises(errors.InputError, match=f"task's `{method}` .*{said}"):
      pretexts.look(task, {}, jnp.zeros((3, 8, 8, 3)), method)
  if method != 'embed':  # or a column of them would be taken for a feature
    embed = features.embedder(
        task, sharding.mesh(), feature=method.replace('scores', 'score'))
    with pytest.raises(errors.InputError, match=f"task's `{method}` .*{said}"):
      embed({}, np.zeros((3, 8, 8, 3), np.uint8))


class Counting(nn.Module):
  """A task that keeps f32[2, 3], with statistics of these names and shapes."""
  encoder: nn.Module
  told: tuple = (('grey', (2, 3)),)

  def setup(self):
    self.grey = pretexts.Fitted()

  def __call__(self, image, *, train):
    self.grey((2, 3))
    return self.encoder(image, train=train).mean(), {}

  def statistics(self, image):
    mean = self.encoder(image, train=False).mean(1)
    return {name: jnp.einsum('n,...->n...', mean, jnp.arange(
        float(np.prod(shape))).reshape(shape)) for name, shape in self.told}


@pytest.mark.parametrize('count', [1, 5, 8])
def test_statistics_are_means_over_all_images(count, monkeypatch):
  monkeypatch.setattr(features, '_SUMMED', 4)
  task, optimizer = Counting(models.create('convnet')), optax.sgd(30.)
  state = step.create_state(task, optimizer, 0, (8, 8, 3), ema=0.5)
  assert np.isnan(state.variables['statistics']['grey']['value']).all()
  image = np.random.default_rng(0).integers(
      0, 256, (count, 8, 8, 3), np.uint8)
  taught, _ = jax.jit(lambda state: step.train_step(
      task, optimizer, state, image, step.root_key(0)))(state)
  assert np.isnan(taught.variables['statistics']['grey']['value']).all()
  average = tasks.apply(  # which is what is evaluated
      task, taught.variables, np.float32(image / 255), method='statistics')
  other = tasks.apply(task, {'params': taught.params, **taught.collections},
                      np.float32(image / 255), method='statistics')
  wanted = average['grey'][:, 0, 1].mean()
  assert abs(other['grey'][:, 0, 1].mean() / wanted - 1) > 1e-3
  for batch in (3, 256):
    done = features.concluded(task, taught, image, batch)
    np.testing.assert_allclose(
        done.variables['statistics']['grey']['value'],
        wanted * np.arange(6).reshape(2, 3), rtol=1e-5)
    for name in ('step', 'params', 'opt_state', 'average'):
      assert getattr(done, name) is getattr(taught, name)


def test_a_task_without_statistics_keeps_its_state():
  task = _create('rotation', (6, 5))
  state = step.create_state(task, optax.sgd(0.1), 0, (8, 8, 3))
  done = features.concluded(task, state, np.zeros((2, 8, 8, 3), np.uint8))
  assert jax.tree.leaves(done) == jax.tree.leaves(state)


@pytest.mark.parametrize('told, said', [
    ((('grey', (3,)),), r"make {'grey': \[3\]}, .* of {'grey': \[2, 3\]}"),
    ((('gray', (2, 3)),), "make {'gray': .* of {'grey'"),
    ((), "make {}, .* of {'grey'")])
def test_statistics_without_a_place_of_theirs_are_told(told, said):
  task = Counting(models.create('convnet'), told)
  variables = step.init(task, 0, (8, 8, 3))
  with pytest.raises(errors.InputError, match=said):
    features.statistics(task, variables, np.zeros((2, 8, 8, 3), np.uint8))


def test_what_nothing_is_told_of_is_one_line():
  class Task(nn.Module):
    @nn.compact
    def __call__(self, image, *, train):
      return pretexts.Fitted(name='grey')((2,)).sum(), {}

  variables = step.init(Task(), 0, (8, 8, 3))
  with pytest.raises(errors.InputError, match='and no method `statistics`'):
    features.statistics(Task(), variables, np.zeros((2, 8, 8, 3), np.uint8))


def test_what_is_fitted_to_the_means_is_kept_in_their_place():
  class Task(Counting):
    @staticmethod
    def fitted(means):
      assert means['grey'].dtype == np.float64
      return {'grey': means['grey'].T ** 2}

  task = Task(models.create('convnet'), (('grey', (3, 2)),))
  variables = step.init(task, 0, (8, 8, 3))
  image = np.full((2, 8, 8, 3), 51, np.uint8)
  mean = tasks.apply(
      task, variables, np.float32(image / 255), method='statistics')
  found = features.statistics(task, variables, image)
  np.testing.assert_allclose(found['statistics']['grey']['value'],
                             np.mean(mean['grey'], 0).T ** 2, rtol=1e-5)


class Blind(nn.Module):
  """An encoder that sows no map and no stages."""

  @nn.compact
  def __call__(self, image, *, train):
    return nn.Dense(4)(image.mean((1, 2)))


def test_an_encoder_says_what_it_sows():
  assert pretexts.shapes(Blind(), 16, 24) == ((1, 4), None)
  convnet = models.create('convnet', channels=(4, 6))
  features, found = pretexts.shapes(convnet, 16, 24)
  assert features == (1, 6) and found[3] == 6 and len(found) == 4


@pytest.mark.parametrize('encoder, said', [
    (Blind(), 'no map'), (models.create('lenet'), 'another')])
def test_heat_maps_by_gradcam_need_a_map_before_the_training(encoder, said):
  task = types.SimpleNamespace(encoder=encoder, crop=0)
  with pytest.raises(errors.InputError, match=f'this encoder sows {said}'):
    maps.GradCam(task, 0).check(32, 32)


def test_stages_that_were_not_sown_are_told():
  task = pretexts.create('rotation', head=(), encoder=dict(name='convnet'),
                         dtype=jnp.float32).clone(encoder=Blind())
  image = jnp.zeros((3, 8, 8, 3))
  variables = step.init(task, 0, (8, 8, 3))
  with pytest.raises(errors.InputError, match='2 stages are asked for; as'):
    orientation.look(task, variables, image, 'stages2')
