"""FCDD, its encoder and its maps against NumPy and SciPy, by definition."""
import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import cutpaste_quickstart
from conftest import the_error
from ml_collections import ConfigDict
from scipy import signal

from deep_oc import (bundle, embeddings, errors, evaluate, experiment, maps,
                     metrics, models, pretexts, step, train, trained_run)
from deep_oc.pretexts import fcdd
from tests import tasks

SMALL = dict(name='fcdd', channels=(4, 6, 5), kernels=(5, 3, 3),
             pools=(True, False, True))


def _create(**kwargs):
  return pretexts.create(
      'fcdd', dtype=jnp.float32, encoder=SMALL,
      **dict(defects=dict(confetti_side=(3, 9))) | kwargs)


def _images(n=3, height=18, width=21):
  return np.random.default_rng(0).random((n, height, width, 3), np.float32)


def _variables(module, *shape):
  """Returns variables as if trained, statistics included."""
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  shapes = jax.eval_shape(lambda: module.init(
      keys, jnp.zeros((1, *shape, 3)), train=False))
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: np.float32(rng.uniform(0.2, 1, x.shape)) if x.ndim == 1 else
      np.float32(rng.normal(0, 1 / np.sqrt(np.prod(x.shape[:-1])), x.shape)),
      shapes)


def _layer(x, params, side):
  """Correlates f[h, w, c] with a kernel, zeros around it."""
  kernel, bias = np.float64(params['kernel']), np.float64(params['bias'])
  x = np.pad(x, ((side // 2,) * 2,) * 2 + ((0, 0),))
  return np.stack([
      sum(signal.correlate2d(x[..., c], kernel[..., c, d], 'valid')
          for c in range(kernel.shape[2])) for d in range(kernel.shape[3])
  ], axis=-1) + bias


def _pooled(x):
  """Returns the largest of each second 3x3 pixels of f[h, w, c]."""
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
  return view[::2, ::2].max(axis=(-2, -1))


def _map(variables, image):
  """Returns the last map f64[gh, gw, d] of f[h, w, c]."""
  params, stats = variables['params'], variables['batch_stats']
  x = np.float64(image) - np.float64(image).mean()
  x /= np.abs(x).mean()
  for number, side in enumerate(SMALL['kernels']):
    x = _layer(x, params[f'convolutions_{number}'], side)
    if number < 2:
      how, seen = params[f'norms_{number}'], stats[f'norms_{number}']
      x = (x - seen['mean']) / np.sqrt(seen['var'] + 1e-4)
      x = x * how['scale'] + how['bias']
      x = np.where(x > 0, x, 0.01 * x)
    if SMALL['pools'][number]:
      x = _pooled(x)
  return x


def test_the_encoder_is_convolutions_and_pooling_of_three_pixels():
  encoder = models.create(**SMALL)
  variables = _variables(encoder, 18, 21)
  image = _images()
  found = tasks.apply(encoder, variables, image, train=False, method='maps')
  assert [each.shape[1:] for each in found] == [
      (9, 11, 4), (9, 11, 6), (5, 6, 5)]
  assert encoder.stride == 4 and encoder.stages == 3
  for each, last in zip(image, found[-1], strict=True):
    np.testing.assert_allclose(last, _map(variables, each), rtol=1e-3,
                               atol=1e-4)
  pool, sown = tasks.apply(
      encoder, variables, image, train=False, mutable=['intermediates'])
  np.testing.assert_allclose(pool, found[-1].mean((1, 2)), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(sown['intermediates']['map'][0], found[-1])
  assert len(sown['intermediates']['stage']) == 3


def test_the_published_networks_layers():
  encoder = models.create('fcdd')
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: encoder.init_with_output(
      jax.random.key(0), x, train=False, method='maps'), image)
  assert shapes[0][-1].shape == (1, 28, 28, 128) and encoder.stride == 8
  weights = sum(x.size for x in jax.tree.leaves(shapes[1]['params']))
  assert weights == sum(
      (k * k * m + 1) * n for k, m, n in zip(
          (5, 5, 3, 3, 3), (3, 32, 128, 256, 256), (32, 128, 256, 256, 128),
          strict=True)) + 2 * (32 + 128 + 256 + 256)


def _seen(pretext, variables, image, share):
  """Returns loss, metrics, the views and which have a defect."""
  seen = []

  class Seen(type(pretext)):
    def _spoilt(self, key, image):
      seen.append(super()._spoilt(key, image))
      return seen[0]

  spy = Seen(pretext.encoder, pretext.augment, share=share,
             defects=pretext.defects)

  @jax.jit
  def found(variables, image):
    (loss, told), _ = spy.apply(
        variables, image, train=True, rngs={'views': jax.random.key(3)},
        mutable=['batch_stats'])
    return loss, told, *seen[0]

  loss, told, *drawn = found(variables, image)
  return loss, told, *map(np.asarray, drawn)


def test_the_loss_is_small_where_maps_tell_defects():
  pretext, image = _create(), _images(40)
  variables = _variables(pretext, 18, 21)
  loss, told, view, defective = _seen(pretext, variables, image, 0.3)
  changed = (view != image).any(axis=(1, 2, 3))
  np.testing.assert_array_equal(changed, defective)
  assert 4 < defective.sum() < 20
  last, _ = tasks.apply(
      pretext, variables, view, mutable=['batch_stats'],
      method=lambda task, x: task.encoder.maps(x, train=True)[-1])
  phi = np.float64(last) @ np.float64(variables['params']['phi']['kernel'])
  phi = phi[..., 0] + variables['params']['phi']['bias']
  far = (np.sqrt(phi**2 + 1) - 1).mean(axis=(1, 2))
  wanted = np.where(defective, -np.log(1 - np.exp(-far)), far)
  np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-4)
  right = (1 - np.exp(-far) > 0.5) == defective
  np.testing.assert_allclose(told['accuracy'], right.mean(), rtol=1e-6)
  assert told['chance'] == 0.7


def test_a_map_of_zeros_has_a_loss_and_a_gradient():
  pretext, image = _create(share=0.99), _images(4)
  variables = _variables(pretext, 18, 21)
  variables['params']['phi'] = jax.tree.map(
      jnp.zeros_like, variables['params']['phi'])

  def loss(params):
    found, _ = pretext.apply(
        variables | {'params': params}, image, train=True,
        rngs={'views': jax.random.key(0)}, mutable=['batch_stats'])
    return found[0]

  value, gradient = jax.jit(jax.value_and_grad(loss))(variables['params'])
  assert np.isfinite(value) and value > 5
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_its_score_is_the_mean_of_its_map():
  pretext, image = _create(), _images()
  variables = _variables(pretext, 18, 21)
  encoder = {name: each['encoder'] for name, each in variables.items()}
  phi = variables['params']['phi']
  wanted = np.array([_map(encoder, each) @ np.float64(phi['kernel'])
                     for each in image])[..., 0] + phi['bias']
  wanted = np.sqrt(wanted**2 + 1) - 1
  found = tasks.apply(pretext, variables, image, method='score_map')
  assert set(found) == {'deviation'}
  np.testing.assert_allclose(found['deviation'], wanted, rtol=1e-3, atol=1e-5)
  for log in (False, True):
    score = tasks.apply(pretext, variables, image, log=log, method='scores')
    np.testing.assert_allclose(
        score['deviation'], wanted.mean(axis=(1, 2)), rtol=1e-3)


def test_a_map_is_spread_over_pixels_by_gaussians_of_sum_one():
  pretext = _create()
  method = maps.create(dict(name='task', sigma=3.), pretext, 0)
  score = np.random.default_rng(2).random((2, 5, 6))
  wanted = np.zeros((2, 18, 21))
  for y in range(18):
    for x in range(21):
      weight = np.array([[np.exp(-((y - 4 * i)**2 + (x - 4 * j)**2) / 18)
                          for j in range(6)] for i in range(5)])
      wanted[:, y, x] = (weight * score).sum((1, 2)) / weight.sum()
  np.testing.assert_allclose(method.enlarge(score, 18, 21), wanted, rtol=1e-9)
  sharp = maps.create(dict(name='task', sigma=1e-3), pretext, 0)
  np.testing.assert_allclose(sharp.enlarge(score, 18, 21)[:, ::4, ::4], score)
  variables, image = _variables(pretext, 18, 21), np.uint8(255 * _images(35))
  found = method.fit_maps(variables, image, image)
  score = tasks.apply(
      pretext, variables, image / np.float32(255), method='score_map')
  np.testing.assert_allclose(
      found, method.enlarge(score['deviation'], 18, 21), rtol=1e-4)
  assert found.dtype == np.float32 and np.ptp(found, axis=0).min() > 0
  assert method.parameters() == {'classifier': 'deviation', 'sigma': 3.}


@pytest.mark.parametrize('kwargs, words', [
    (dict(kind='confeti'), "unknown pretext.kind 'confeti'; did you mean"),
    (dict(share=0.), r'pretext.share=0.0 must be between 0 and 1'),
    (dict(share=1), r'pretext.share=1 must be between 0 and 1'),
    (dict(defects=dict(confetti_blur=-1.)), 'defects.confetti_blur=-1.0 must'),
    (dict(encoder=dict(name='lenet', channels=(4, 8))),
     'needs an encoder that has `maps`')])
def test_a_task_that_cannot_be_is_one_line(kwargs, words):
  with pytest.raises(errors.InputError, match=words):
    pretexts.create('fcdd', dtype=jnp.float32, **dict(encoder=SMALL) | kwargs)


@pytest.mark.parametrize('kwargs, words', [
    (dict(kernels=(5, 3)), '3 channels, 2 kernels and 3 pools'),
    (dict(channels=()), r'encoder.channels=\(\) must be whole numbers'),
    (dict(channels=4), 'encoder.channels=4 must be whole numbers'),
    (dict(channels=(4, 0, 5)), 'one of encoder.channels=0 must be a whole'),
    (dict(channels=(4, 6.5, 5)), 'encoder.channels=6.5 must be a whole'),
    (dict(kernels=(5., 3, 3)), 'kernels must be odd whole'),
    (dict(kernels=(4, 3, 3)), 'kernels must be odd whole')])
def test_an_encoder_that_cannot_be_is_one_line(kwargs, words):
  with pytest.raises(errors.InputError, match=words):
    models.create(**SMALL | kwargs)


@pytest.mark.parametrize('task, sigma, words', [
    (dict(name='rotation', encoder=dict(name='convnet', channels=(4,))), 3.,
     'takes a task that has a map of its own'),
    (dict(name='fcdd', encoder=dict(name='unet', channels=(4,))), 3.,
     "an encoder that pads and knows where its map lies, as encoder.name="),
    (dict(name='fcdd', encoder=SMALL), 0, 'localize.sigma is 0; it must'),
    (dict(name='fcdd', encoder=SMALL), True, 'localize.sigma is True; it'),
    (dict(name='fcdd', encoder=SMALL), 1e-200, 'sigma is 1e-200; it must')])
def test_maps_of_a_task_that_has_none_are_one_line(task, sigma, words):
  pretext = pretexts.create(dtype=jnp.float32, **task)
  with pytest.raises(errors.InputError, match=words):
    maps.create(dict(name='task', sigma=sigma), pretext, 0)


@pytest.fixture(scope='module')
def learnt(tmp_path_factory):
  """A short run on fabric."""
  workdir = tmp_path_factory.mktemp('fcdd')
  config = cutpaste_quickstart.get_config()
  config.method = 'fcdd'
  config.pretext = ConfigDict(dict(
      name='fcdd', augment={}, defects=dict(
          confetti_side=(2, 13), confetti_blur=1.)))
  config.encoder = ConfigDict(SMALL | dict(channels=(8, 16, 16)))
  config.optimizer.update(name='nesterov', learning_rate=0.01)
  config.train.update(steps=200, monitor_every=200)
  config.localize = ConfigDict(dict(name='task', sigma=3.))
  config.protocol.calibration = 0.1
  train.train(config, str(workdir))
  return workdir


def test_what_it_learns_of_fabric_shows_where_flaws_are(learnt):
  arrays, meta = embeddings.read_maps(learnt)
  trained, untrained = (
      metrics.auroc(arrays[name].ravel(), arrays['mask'].ravel())
      for name in ('map_task', 'map_random_task'))
  assert trained > 80 and trained > untrained + 15
  _, test, _ = embeddings.read_run(learnt)
  assert metrics.auroc(test['score_deviation'], test['anomaly']) > 80
  assert len(np.unique(test['score_deviation'])) == len(test['anomaly'])
  assert meta['map_params']['classifier'] == 'deviation'
  last = [json.loads(line) for line in
          (learnt / 'metrics.jsonl').read_text().splitlines()][-1]
  assert last['accuracy'] > 0.8 and last['chance'] == 0.5


def test_rows_and_pictures_are_of_its_map_and_score(learnt, binary):
  done = binary('evaluate', f'--runs={learnt}', '--classifiers=kde')
  assert done.returncode == 0, done.stderr
  with open(learnt / 'results.csv', encoding='utf-8') as file:
    rows = {(row['feature'], row['classifier'], row['level']): row
            for row in csv.DictReader(file)}
  arrays, _ = embeddings.read_maps(learnt)
  for name in ('task', 'random_task'):
    row = rows[name, 'deviation', 'pixel']
    assert float(row['auroc']) == pytest.approx(metrics.auroc(
        arrays[f'map_{name}'].ravel(), arrays['mask'].ravel()), abs=0.01)
  assert float(rows['score', 'deviation', 'image']['auroc']) > 80
  # Ordered by the score, not by the largest value of a map.
  arrays, meta = embeddings.read_maps(learnt)
  _, test, _ = embeddings.read_run(learnt)
  values, title = evaluate._explained(learnt, 'map_task', arrays['map_task'],
                                      meta)
  np.testing.assert_array_equal(values, test['score_deviation'])
  assert title == 'score, deviation' and (learnt / 'pictures').is_dir()


def test_pictures_are_judged_by_its_score_and_drawn_by_its_map(
    learnt, monkeypatch):
  arrays, _ = embeddings.read_maps(learnt)
  image, heat = arrays['image'][:5], arrays['map_task'][:5]

  def gone(config):
    raise errors.InputError('the training images are gone')
  monkeypatch.setattr(experiment, 'problem', gone)
  found = trained_run.load(str(learnt), feature='score')
  np.testing.assert_allclose(found.heat_maps(image), heat, rtol=1e-4, atol=1e-6)
  assert found.classifier == 'deviation'
  score = found.decision_function(arrays['image'])
  assert metrics.auroc(score, arrays['anomaly']) > 80
  assert found.about_maps().endswith('what the task says of each place')
  other = trained_run.load(str(learnt), feature='pool').about_maps()
  assert other.endswith('with --feature=score their mean does')


def test_a_bundle_has_its_score_and_its_maps(learnt, binary):
  done = binary('export', f'--workdir={learnt}', '--feature=score')
  assert done.returncode == 0, done.stderr
  arrays, _ = embeddings.read_maps(learnt)
  found = bundle.load(learnt / 'bundle')
  assert set(found.about['programs']) == {'model', 'classifier', 'map'}
  heat = arrays['map_task'][:3]
  np.testing.assert_allclose(
      found.heat_maps(arrays['image'][:3]), heat, rtol=1e-3,
      atol=1e-4 * heat.max())


def test_grad_cam_does_not_explain_its_score(learnt, binary):
  line = the_error(binary('explain', f'--workdir={learnt}',
                          '--score=deviation', '--method=gradcam'))
  assert line.endswith(
      'Grad-CAM explains scores of pooled features, and this one is the mean '
      'of a map of its own; leave gradcam out of --method')


def test_a_map_near_0_keeps_its_digits():
  pretext, image = _create(), _images(1)
  variables = _variables(pretext, 18, 21)
  variables['params']['phi'] = {
      'kernel': jnp.zeros((5, 1)), 'bias': jnp.full(1, 3e-4)}
  found = tasks.apply(
      pretext, variables, image, method='score_map')['deviation']
  np.testing.assert_allclose(
      found, np.sqrt(np.float64(3e-4)**2 + 1) - 1, rtol=1e-5)


@pytest.mark.parametrize('names', [('one', 'deviation'), ('other',)])
def test_a_map_that_is_of_no_score_is_one_line(names):
  class Other(fcdd.Pretext):
    def score_map(self, image):
      return dict.fromkeys(names, super().score_map(image)['deviation'])

    def scores(self, image, *, log=False):
      return {'deviation': image.mean((1, 2, 3))}

  task = Other(models.create(**SMALL), lambda key, image: image)
  with pytest.raises(errors.InputError, match='must have one name, and that'):
    maps.create(dict(name='task'), task, 0)


def test_an_encoder_whose_first_map_is_smaller_restores_nothing_in_one_line():
  task = pretexts.create('restoration', dtype=jnp.float32, encoder=SMALL)
  with pytest.raises(errors.InputError, match='first map is as large as the'):
    step.init(task, 0, (16, 16, 3))
