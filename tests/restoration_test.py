"""Attribute restoration against NumPy, written from the definitions."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import the_error
from ml_collections import ConfigDict

from deep_oc import (differentiable, embed, embeddings, experiment, metrics,
                     models, pretexts, train)
from deep_oc.errors import InputError
from deep_oc.pretexts import restoration
from tests import tasks, tiny

IMAGE = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)


def create(channels=(2, 3, 4), **kwargs):
  return pretexts.create(
      'restoration', encoder=dict(name='unet', channels=channels),
      dtype=jnp.float32, **kwargs)


def init(pretext, image=IMAGE):
  """Returns variables of usual scale, none of them neutral."""
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  shapes = jax.eval_shape(lambda: pretext.init(keys, image, train=False))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: np.float32(
      rng.uniform(0.5, 1.5, x.shape) if x.ndim == 1
      else rng.normal(0, 0.3, x.shape)), shapes)


def conv(x, layer):
  x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  return np.einsum('nhwcij,ijcd->nhwd', windows, np.float64(
      layer['kernel'])) + layer.get('bias', 0)


def level(x, params, stats):
  for k in range(2):
    x = conv(x, params[f'Conv_{k}'])
    norm, running = params[f'BatchNorm_{k}'], stats[f'BatchNorm_{k}']
    x = (x - running['mean']) / np.sqrt(running['var'] + 1e-5)
    x = np.maximum(x * norm['scale'] + norm['bias'], 0)
  return x


def enlarged(x, size):
  """Enlarges an axis of f[n, size', ...] by linear interpolation."""
  old = x.shape[1]
  place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
  low = np.minimum(place.astype(int), max(old - 2, 0))
  high = np.minimum(low + 1, old - 1)
  share = (place - low).reshape(-1, *[1] * (x.ndim - 2))
  return x[:, low] * (1 - share) + x[:, high] * share


def restored(variables, seen):
  """Maps f[n, h, w, c] to what is restored of it, f[n, h, w, c]."""
  params, stats = variables['params'], variables['batch_stats']
  x = (2 * np.float64(seen) - 1).mean(-1, keepdims=True)
  maps = []
  for k in range(3):
    if k:
      n, h, w, d = x.shape
      x = x[:, :h // 2 * 2, :w // 2 * 2].reshape(
          n, h // 2, 2, w // 2, 2, d).max((2, 4))
    x = level(x, params['encoder'][f'levels_{k}'],
              stats['encoder'][f'levels_{k}'])
    maps.append(x)
  for k, beside in enumerate((maps[1], maps[0])):
    h, w = beside.shape[1:3]
    x = enlarged(enlarged(x, h).swapaxes(1, 2), w).swapaxes(1, 2)
    x = level(np.concatenate([beside, x], -1), params['decode'][f'Level_{k}'],
              stats['decode'][f'Level_{k}'])
  return np.tanh(conv(x, params['decode']['Conv_0'])), maps[-1].mean((1, 2))


def errors_of(variables, image):
  """Returns the mean absolute error f[n, 4] of each turn."""
  wanted = 2 * np.float64(image) - 1
  return np.stack([np.abs(restored(
      variables, np.rot90(image, k, axes=(1, 2)))[0] - wanted).mean((1, 2, 3))
                   for k in range(4)], axis=1)


@pytest.mark.parametrize('height, width', [(8, 8), (7, 11), (4, 5)])
def test_what_is_restored_equals_numpy(height, width):
  pretext = create()
  variables = init(pretext)
  image = np.random.default_rng(2).uniform(
      size=(2, height, width, 3)).astype(np.float32)
  found = tasks.apply(
      pretext, variables, image,
      method=lambda module, seen: module._restored(seen, 3, train=False))
  wanted, pool = restored(variables, image)
  assert found.shape == image.shape and np.ptp(wanted) > 0.1
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  np.testing.assert_allclose(tasks.apply(
      pretext, variables, image, method='embed')['pool'], pool, rtol=1e-4)


def test_the_loss_is_the_square_error_to_the_view_before_it_was_turned(
    monkeypatch):
  turn = np.array([2, 0, 3])
  monkeypatch.setattr(jax.random, 'randint', lambda *_: jnp.asarray(turn))
  pretext = create().clone(augment=lambda key, image: image / 2)
  variables = init(pretext)
  (loss, told), _ = tasks.apply(
      pretext, variables, IMAGE, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])
  view = IMAGE / 2
  seen = np.stack([np.rot90(each, k) for each, k in zip(
      view, turn, strict=True)])
  found, _ = tasks.apply(
      pretext, variables, seen, mutable=['batch_stats'],
      method=lambda module, seen: module._restored(seen, 3, train=True))
  np.testing.assert_allclose(
      loss, np.mean((np.float64(found) - (2 * view - 1)) ** 2), rtol=1e-5)
  assert told == {}


def test_the_network_sees_no_colours_and_each_image_turned_its_own_way():
  seen = []

  class Encoder(restoration.nn.Module):
    channels: tuple = (2, 2)

    def maps(self, image, *, train):
      seen.append(np.asarray(image))
      return [image, image[:, ::2, ::2]]

  pretext = restoration.Pretext(Encoder(), lambda key, image: image)
  image = np.broadcast_to(np.arange(4.).reshape(1, 2, 2, 1) / 8, (400, 2, 2, 3))
  image = image + np.array([0., 0.1, 0.2])
  pretext.init({'params': jax.random.key(0), 'views': jax.random.key(0)},
               jnp.asarray(image), train=True)
  grey = seen[-1]
  assert grey.shape == (400, 2, 2, 1)
  upright = 2 * image[0].mean(-1) - 1
  which = [[np.allclose(each[..., 0], np.rot90(upright, k), atol=1e-6)
            for k in range(4)] for each in grey]
  assert np.sum(which, axis=1).min() == np.sum(which, axis=1).max() == 1
  count = np.sum(which, axis=0)
  assert count.min() > 65 and count.max() < 140  # 100 of each


def test_the_score_is_the_mean_error_of_turns_in_terms_of_the_training_images():
  pretext = create()
  variables = init(pretext)
  told = tasks.apply(pretext, variables, IMAGE, method='statistics')
  errors = errors_of(variables, IMAGE)
  assert np.ptp(errors.mean(0)) > 1e-3
  np.testing.assert_allclose(told['error'], errors, rtol=1e-4)
  mean = np.float32([0.2, 0.5, 1, 2])
  variables['statistics'] = {'error': {'value': mean}}
  for log in (False, True):
    found = tasks.apply(pretext, variables, IMAGE, log=log, method='scores')
    assert set(found) == {'restoration'}
    np.testing.assert_allclose(
        found['restoration'], (errors / mean).mean(1), rtol=1e-4)
  assert differentiable.task_scores(pretext) == ('restoration',)


def test_of_tiles_features_and_errors_are_means_and_the_score_the_largest():
  image = np.random.default_rng(3).uniform(
      size=(2, 19, 16, 3)).astype(np.float32)
  pretext = create(crop=8)
  variables = init(pretext, image)
  windows = [image[:, y:y + 8, x:x + 8] for y in (1, 9) for x in (0, 8)]
  for method, name, reduce in (
      ('embed', 'pool', np.mean), ('statistics', 'error', np.mean),
      ('scores', 'restoration', np.max)):
    parts = [tasks.apply(
        pretext.clone(crop=0), variables, window, method=method)[name]
             for window in windows]
    np.testing.assert_allclose(
        tasks.apply(pretext, variables, image, method=method)[name],
        reduce(parts, axis=0), rtol=1e-4)


@pytest.mark.parametrize('crop', [0, 4])
def test_every_parameter_has_a_gradient(crop):
  pretext = create(crop=crop)
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  variables = jax.jit(lambda: pretext.init(keys, IMAGE, train=False))()

  def loss(params):
    return pretext.apply(
        variables | {'params': params}, IMAGE, train=True,
        rngs={'views': jax.random.key(1)}, mutable=['batch_stats'])[0][0]
  gradients = jax.jit(jax.grad(loss))(variables['params'])
  for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    assert np.isfinite(gradient).all(), path
    # BatchNorm takes away what a bias before it adds.
    if not (path[-1].key == 'bias' and 'Conv' in path[-2].key):
      assert np.any(gradient != 0), path


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  config.pretext = ConfigDict(dict(name='restoration', augment={}))
  config.encoder = ConfigDict(dict(name='unet', channels=(8, 16, 32)))
  config.optimizer.update(learning_rate=0.1)
  config.train.update(batch=16, steps=200)
  config.update_from_flattened_dict(overrides)
  return config


def test_an_encoder_without_maps_is_one_line(digits_npz):
  config = _config(digits_npz)
  config.encoder = ConfigDict(dict(name='lenet', channels=(8, 16)))
  with pytest.raises(InputError, match="'restoration' needs an encoder that "
                     'has `maps`'):
    experiment.pretext(config)


@pytest.mark.parametrize('overrides, words', [
    ({'distribution': 'rot'}, "distribution='rot' turns the images whose turn"),
    ({'pretext': {'augment': {'turn': True}}}, 'pretext.augment.turn turns'),
    ({'encoder': {'channels': ()}}, r'channels=\(\) must be whole numbers'),
    ({'encoder': {'channels': (4, 0)}}, 'one of encoder.channels=0 must be'),
    ({'pretext': {'crop': -1}}, 'pretext.crop=-1 must'),
    ({'embed': {'stages': 4}}, "the encoder 'unet' has 3")])
def test_what_cannot_be_is_one_line(overrides, words, digits_npz):
  config = _config(digits_npz)
  config.update(overrides)
  with pytest.raises(InputError, match=words):
    experiment.pretext(config)


@pytest.mark.parametrize('shape, words', [
    ((2, 8, 9, 3), 'square images, not 8x9'),
    ((2, 3, 3, 3), '3 levels take images of 4 pixels at least, not 3x3')])
def test_images_that_cannot_be_are_one_line(shape, words):
  with pytest.raises(InputError, match=words):
    init(create(), np.zeros(shape, np.float32))


@pytest.fixture(scope='module')
def learnt(digits_npz, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('restoration')
  train.train(_config(digits_npz), str(workdir))
  return workdir


def test_what_it_learns_of_real_digits_tells_other_digits_apart(learnt):
  first, *_, last = map(json.loads, (
      learnt / 'metrics.jsonl').read_text().splitlines())
  assert last['loss'] < first['loss'] / 3
  test, _ = embeddings.read(learnt / 'embeddings/test.npz')
  assert metrics.auroc(test['score_restoration'], test['anomaly']) > 80
  normal = test['score_restoration'][~test['anomaly']]
  assert 0.8 < normal.mean() < 1.5  # in terms of the training images


def test_its_score_is_explained_but_not_by_a_last_map(learnt, binary):
  _, problem, pretext, state = embed.restore(str(learnt))
  score = differentiable.task(pretext, state.variables, 'restoration')
  image = jnp.asarray(problem.test.image[:2] / 255, jnp.float32)
  gradient = jax.jit(jax.grad(lambda x: score(x).sum()))(image)
  assert np.isfinite(gradient).all() and np.ptp(gradient) > 0
  done = binary('explain', f'--workdir={learnt}', '--score=restoration',
                '--method=gradcam')
  assert 'this encoder sows none' in the_error(done)


def test_the_encoder_is_one_as_all_others():
  encoder = models.create('unet', channels=(2, 3))
  assert pretexts.shapes(encoder, 16, 24) == ((1, 3), None)
  variables = encoder.init(jax.random.key(0), IMAGE, train=False)
  maps = encoder.apply(variables, IMAGE, train=False, method='maps')
  pool, extra = encoder.apply(
      variables, IMAGE, train=False, mutable='intermediates')
  stages = extra['intermediates']['stage']
  assert len(stages) == encoder.stages == len(maps) == 2
  for stage, each in zip(stages, maps, strict=True):
    np.testing.assert_allclose(stage, np.mean(each, (1, 2)), rtol=1e-5)
  np.testing.assert_array_equal(pool, stages[-1])
