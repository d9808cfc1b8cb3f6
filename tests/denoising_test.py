"""The denoising autoencoder against loops written from its definition."""
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import differentiable, embeddings, errors, metrics, pretexts, train
from deep_oc.pretexts import denoising
from tests import tasks, tiny


def _create(**kwargs):
  return pretexts.create(
      'denoising', encoder=dict(name='convnet', channels=(4, 8)),
      dtype=jnp.float32, **{'decoder': (6, 5)} | kwargs)


def _random(shapes, seed=0):
  """Returns variables of usual scale, none of them neutral."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape) if x.ndim == 1
                      else rng.normal(0, 0.3, x.shape), shapes)


def _images(n=3, side=8):
  return jax.random.uniform(jax.random.key(2), (n, side, side, 3))


def _conv(x, kernel):
  x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  return np.einsum('nhwcij,ijcd->nhwd', windows, kernel)


@pytest.mark.parametrize('shape', [(8, 8, 3), (7, 11, 1), (1, 2, 3)])
def test_the_decoder_equals_numpy(shape):
  height, width, colours = shape
  feature = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
  decoder = denoising.Decoder((4, 3))
  variables = _random(jax.eval_shape(lambda: decoder.init(
      jax.random.key(0), feature, shape, train=False)))
  params, stats = variables['params'], variables['batch_stats']

  def normalised(x, name):
    x = (x - stats[name]['mean']) / np.sqrt(stats[name]['var'] + 1e-5)
    return np.maximum(x * params[name]['scale'] + params[name]['bias'], 0)

  def doubled(x, height, width):
    i, j = np.arange(height) // 2, np.arange(width) // 2
    return x[:, i][:, :, j]

  half, quarter = ([-(-side // k) for side in (height, width)] for k in (2, 4))
  x = feature @ params['Dense_0']['kernel']
  x = normalised(x.reshape(2, *quarter, 4), 'BatchNorm_0')
  x = normalised(_conv(doubled(x, *half), params['Conv_0']['kernel']),
                 'BatchNorm_1')
  x = _conv(doubled(x, height, width), params['Conv_1']['kernel'])
  got = tasks.apply(decoder, variables, feature, shape, train=False)
  assert got.shape == (2, height, width, colours)
  np.testing.assert_allclose(got, x + params['Conv_1']['bias'], rtol=1e-4,
                             atol=1e-4)


def test_the_loss_is_the_error_to_the_view_without_the_noise(monkeypatch):
  image, noise = _images(), 0.3 * np.asarray(_images()[::-1])
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: noise / 0.3)
  pretext = _create(noise=0.3)
  variables = tasks.init(pretext, image)
  (loss, _), _ = tasks.apply(
      pretext, variables, image, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])
  restored, _ = tasks.apply(
      pretext, variables, image + noise, mutable=['batch_stats'],
      method=lambda module, seen: module.decode(
          module.encoder(seen, train=True), seen.shape[1:], train=True))
  wanted = np.mean((np.float64(restored) - np.asarray(image)) ** 2)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_the_noise_is_gaussian_of_its_deviation_and_other_for_each_pixel():
  seen = []

  class Encoder(denoising.nn.Module):
    @denoising.nn.compact
    def __call__(self, image, *, train):
      seen.append(np.asarray(image))
      return jnp.zeros((len(image), 1))

  image = jnp.full((50, 16, 16, 3), 0.5)
  pretext = denoising.Pretext(
      Encoder(), lambda key, image: 2 * image, noise=0.25, decoder=(2,))
  variables = pretext.init(jax.random.key(0), image, method='embed')
  for step in range(2):
    pretext.apply(variables, image, train=True, mutable=True, rngs={
        'params': jax.random.key(0), 'views': jax.random.key(step)})
  noise = np.stack(seen[-2:]) - 1  # of a view that is twice the image
  assert abs(noise.mean()) < 3e-3
  assert noise.std() == pytest.approx(0.25, rel=0.01)
  assert (noise**4).mean() == pytest.approx(3 * 0.25**4, rel=0.05)
  assert len(np.unique(noise)) > 0.9 * noise.size


def test_features_and_scores_are_of_the_image_without_noise():
  image = _images()
  pretext = _create(noise=5.0)
  variables = _random(jax.eval_shape(lambda: tasks.init(pretext, image)))
  pool = tasks.apply(
      pretext, variables, image,
      method=lambda module, x: module.encoder(x, train=False))
  found = tasks.apply(pretext, variables, image, method='embed')
  assert set(found) == {'pool'}
  np.testing.assert_allclose(found['pool'], pool, rtol=1e-5, atol=1e-6)
  restored = tasks.apply(
      pretext, variables, pool, method=lambda module, x: module.decode(
          x, (8, 8, 3), train=False))
  wanted = ((np.float64(restored) - np.asarray(image)) ** 2).mean((1, 2, 3))
  assert np.ptp(wanted) > 1e-3
  for log in (False, True):
    scores = tasks.apply(pretext, variables, image, method='scores', log=log)
    assert set(scores) == {'reconstruction'}
    np.testing.assert_allclose(scores['reconstruction'], wanted, rtol=1e-4)
  assert differentiable.task_scores(pretext) == ('reconstruction',)


def test_of_tiles_features_are_the_mean_and_the_score_the_largest():
  image = jax.random.uniform(jax.random.key(0), (2, 19, 16, 3))
  pretext = _create(crop=8)
  variables = _random(jax.eval_shape(lambda: tasks.init(pretext, image)))
  windows = [image[:, y:y + 8, x:x + 8] for y in (1, 9) for x in (0, 8)]
  for method, name, reduce in (
      ('embed', 'pool', np.mean), ('scores', 'reconstruction', np.max)):
    parts = [tasks.apply(
        pretext.clone(crop=0), variables, window, method=method)[name]
             for window in windows]
    np.testing.assert_allclose(
        tasks.apply(pretext, variables, image, method=method)[name],
        reduce(parts, axis=0), rtol=1e-4)


@pytest.mark.parametrize('crop', [0, 4])
def test_every_parameter_has_a_gradient(crop):
  image = _images(6)
  pretext = _create(crop=crop)
  variables = tasks.init(pretext, image)

  def loss(params):
    return pretext.apply(
        variables | {'params': params}, image, train=True,
        rngs={'views': jax.random.key(1)}, mutable=['batch_stats'])[0][0]
  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(variables['params'])):
    assert np.isfinite(gradient).all() and np.any(gradient != 0)


def test_bfloat16_leaves_loss_scores_and_parameters_in_float32():
  image = _images()
  pretext = pretexts.create(
      'denoising', encoder=dict(name='convnet', channels=(4, 8)),
      dtype=jnp.bfloat16, decoder=(6, 5))
  variables = tasks.init(pretext, image)
  (loss, _), new = tasks.apply(
      pretext, variables, image, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])
  found = tasks.apply(pretext, variables, image, method='scores')
  restored = tasks.apply(
      pretext, variables, jnp.ones((2, 8)),
      method=lambda module, feature: module.decode(
          feature, (8, 8, 3), train=False))
  assert {x.dtype for x in jax.tree.leaves(
      (variables, loss, new, found, restored))} == {jnp.dtype('float32')}


@pytest.mark.parametrize('kwargs, said', [
    (dict(noise=-0.1), 'pretext.noise=-0.1 must be a number from 0 on'),
    (dict(noise=np.inf), 'pretext.noise=inf must be a number from 0 on'),
    (dict(decoder=()), 'pretext.decoder=() must be whole numbers'),
    (dict(decoder=(8, 0)), 'one of pretext.decoder=0 must be a whole number '
                           'from 1 on'),
    (dict(crop=-8), 'pretext.crop=-8 must be a whole number from 0 on')])
def test_fields_that_cannot_be_are_one_line(kwargs, said):
  with pytest.raises(errors.InputError) as error:
    _create(**kwargs)
  assert str(error.value) == said


def config(path):
  """Returns tests/tiny.py for this task."""
  config = tiny.get_config()
  config.update(method='denoising', pretext=dict(
      name='denoising', noise=0.1, decoder=(16, 8)))
  del config.pretext.head
  config.pretext.augment.brightness = 0.0
  config.data.path = str(path)
  config.protocol.normal = '0'
  config.train.update(steps=120)
  return config


@pytest.fixture(scope='module')
def finished(digits_npz, tmp_path_factory):
  return pathlib.Path(train.train(
      config(digits_npz), str(tmp_path_factory.mktemp('run'))))


def test_it_learns_to_restore_zeros_better_than_other_digits(finished):
  rows = [json.loads(line)
          for line in (finished / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['loss'] < 0.5 * rows[0]['loss']
  test, _ = embeddings.read(finished / 'embeddings/test.npz')
  score = test['score_reconstruction']
  assert len(np.unique(score)) > 0.9 * len(score)
  assert metrics.auroc(score, test['anomaly']) > 80
