"""Explanations against closed forms, plain loops and finite differences."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import (attributions, differentiable, gradcam, oneclass, pretexts,
                     scores, step, windows)
from deep_oc.errors import InputError

RANDOM = np.random.default_rng(0)
SHAPE = 3, 6, 5, 2
IMAGE = RANDOM.uniform(size=SHAPE).astype(np.float32)
BASELINE = RANDOM.uniform(size=SHAPE).astype(np.float32)
WEIGHT = RANDOM.normal(size=SHAPE[1:])
CURVE = RANDOM.normal(size=(60, 60))


def _linear(image):
  return (image * WEIGHT).sum((1, 2, 3))


def _quadratic(image):
  flat = image.reshape(len(image), -1)
  return ((flat @ CURVE) * flat).sum(1) + _linear(image)


def _cubic(image):
  return (WEIGHT * image ** 3).sum((1, 2, 3))


def test_integrated_gradients_of_a_quadratic_are_its_closed_form():
  """Of x'Ax + w'x: (x - x0) times the gradient in the middle of the path."""
  found = attributions.integrated_gradients(_quadratic, IMAGE, BASELINE)
  middle = (np.float64(IMAGE) + BASELINE).reshape(3, -1) / 2
  gradient = middle @ (CURVE + CURVE.T) + WEIGHT.ravel()
  wanted = (np.float64(IMAGE) - BASELINE) * gradient.reshape(SHAPE)
  np.testing.assert_allclose(found.attribution, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.score, _quadratic(np.float64(IMAGE)),
                             rtol=1e-5)
  np.testing.assert_allclose(
      found.score_of_baseline, _quadratic(np.float64(BASELINE)), rtol=1e-5)
  assert (found.error < 1e-4).all() and (found.steps == 50).all()


def test_steps_are_tripled_until_the_sum_is_that_of_the_midpoint_rule():
  """Of x^3 from 0, m midpoints miss x^3 / 4 m^2; one image needs no more."""
  image, baseline = np.ones((2, 2, 2, 1), np.float32), np.zeros((2, 2, 1))
  image[1] = 0

  def score(image):
    return (image ** 3).sum((1, 2, 3))

  found = attributions.integrated_gradients(
      score, image, baseline, steps=2, tolerance=1e-3)
  assert found.steps.tolist() == [18, 2]
  np.testing.assert_allclose(found.attribution[0], 1 - 1 / (4 * 18 ** 2),
                             rtol=1e-5)
  assert found.error[0] == pytest.approx(1 / (4 * 18 ** 2), rel=1e-2)
  assert found.error[1] == 0 and not found.attribution[1].any()
  most = attributions.integrated_gradients(
      score, image, baseline, steps=2, tolerance=1e-9, most=6)
  assert most.steps[0] == 6 and most.error[0] > 1e-3


def test_smooth_grad_of_a_linear_function_is_its_gradient():
  found = attributions.smooth_grad(_linear, IMAGE, jax.random.key(0))
  np.testing.assert_allclose(
      found, np.broadcast_to(WEIGHT, SHAPE), rtol=1e-5)


def test_smooth_grad_is_the_mean_gradient_at_points_of_the_wanted_noise():
  """Of x^3 it is 3 (x^2 + sigma^2); sigma is a share of the image's range."""
  image = np.linspace(0, 0.8, 4, dtype=np.float32).reshape(1, 2, 2, 1)

  def score(image):
    return (image ** 3).sum((1, 2, 3))

  found = attributions.smooth_grad(
      score, image, jax.random.key(1), samples=20_000, noise=0.25)
  np.testing.assert_allclose(found, 3 * (image ** 2 + 0.2 ** 2), atol=0.02)
  again, other = (attributions.smooth_grad(
      score, image, jax.random.key(key), samples=3) for key in (1, 2))
  assert np.abs(again - other).max() > 1e-3


@pytest.mark.parametrize('side, stride', [(2, 1), (3, 2), (5, 4), (1, 1)])
def test_occlusion_is_that_of_a_plain_loop(side, stride):
  found = attributions.occlusion(
      _quadratic, IMAGE, BASELINE, side=side, stride=stride)
  n, height, width, _ = SHAPE
  total, count = np.zeros((n, height, width)), np.zeros((n, height, width))
  tops, lefts = ({*range(0, length - side + 1, stride), length - side}
                 for length in (height, width))
  for y in tops:
    for x in lefts:
      hidden = np.float64(IMAGE)
      hidden[:, y:y + side, x:x + side] = BASELINE[:, y:y + side, x:x + side]
      total[:, y:y + side, x:x + side] += (
          _quadratic(np.float64(IMAGE)) - _quadratic(hidden))[:, None, None]
      count[:, y:y + side, x:x + side] += 1
  with np.errstate(invalid='ignore'):
    wanted = np.where(count, total / count, 0)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_occlusion_takes_a_value_to_fill_with_and_windows_that_fit():
  found = attributions.occlusion(_linear, IMAGE, 0.5, side=1, stride=1)
  np.testing.assert_allclose(
      found, ((IMAGE - 0.5) * WEIGHT).sum(-1), rtol=1e-4, atol=1e-5)
  with pytest.raises(InputError, match='windows of 7 pixels'):
    attributions.occlusion(_linear, IMAGE, 0.5, side=7, stride=1)


def test_parts_of_any_size_say_the_same(monkeypatch):
  def found():
    return [attributions.integrated_gradients(_cubic, IMAGE, BASELINE)[0],
            attributions.smooth_grad(_cubic, IMAGE, jax.random.key(0)),
            attributions.occlusion(_cubic, IMAGE, 0., side=2, stride=2),
            attributions.values(_cubic, IMAGE)]
  whole = found()
  monkeypatch.setattr(attributions, '_FORWARD', 70)
  monkeypatch.setattr(attributions, '_BACKWARD', 40)
  for a, b in zip(whole, found(), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_channels_are_summed_with_their_sign_or_without():
  attribution = np.array([[[[1., -3.]]]])
  assert attributions.signed(attribution) == [[[-2.]]]
  assert attributions.magnitude(attribution) == [[[4.]]]


# A network whose BatchNorm has seen images.

SIDE = 16


@functools.cache
def _network(name='rotation', head=(8,), crop=0):
  pretext = pretexts.create(
      name, encoder=dict(name='convnet', channels=(8, 12)), dtype=jnp.float32,
      head=head, crop=crop)
  variables = dict(step.init(pretext, 0, (SIDE, SIDE, 3)))
  look = jax.jit(lambda variables: pretext.apply(
      variables, TRAIN, train=True, mutable=['batch_stats'],
      rngs={'views': jax.random.key(0)})[1])
  for _ in range(40):  # the running statistics forget where they began
    variables |= look(variables)
  return pretext, variables


def _images(n, seed=0):
  """Returns f32[n, SIDE, SIDE, 3], noise on slopes; no two are alike."""
  random = np.random.default_rng(seed)
  slope = np.linspace(0, 1, SIDE)[:, None, None] * random.uniform(
      size=(n, 1, 1, 3))
  noise = random.uniform(0, 0.3, (n, SIDE, SIDE, 3))
  return np.float32((slope + noise).clip(0, 1))


TRAIN, TEST = _images(80), 1 - _images(3, 1)[:, ::-1]
CLASSIFIERS = ('kde', 'gde', 'gde_ledoit_wolf', 'ocsvm_rbf', 'ocsvm_linear',
               'knn', 'nn', 'svdd', 'mahalanobis')
each_classifier = pytest.mark.parametrize('classifier', CLASSIFIERS)


@functools.cache
def _score(classifier, feature='pool', crop=0):
  pretext, variables = _network(crop=crop)
  train = pretext.apply(variables, TRAIN, method='embed')[feature]
  fitted = oneclass.fit(classifier, np.asarray(train))
  return fitted, differentiable.one_class(
      pretext, variables, feature, [fitted])


def _both_scores(name):
  if name in ('rotation', 'upright'):
    return differentiable.task(*_network(), name)
  return _score(name)[1]


@each_classifier
@pytest.mark.parametrize('feature', ['pool', 'head'])
def test_the_score_is_that_of_the_classifier(classifier, feature):
  fitted, score = _score(classifier, feature)
  pretext, variables = _network()
  test = np.asarray(pretext.apply(variables, TEST, method='embed')[feature])
  np.testing.assert_allclose(
      attributions.values(score, TEST), oneclass.anomaly_score(fitted, test),
      rtol=1e-4, atol=1e-5)


def test_the_score_of_several_classifiers_is_the_mean_of_theirs():
  pretext, variables = _network()
  train, test = (np.asarray(pretext.apply(variables, x, method='embed')['pool'])
                 for x in (TRAIN, TEST))
  parts = [oneclass.fit('kde', train[rows::2]) for rows in (0, 1)]
  score = differentiable.one_class(pretext, variables, 'pool', parts)
  wanted = np.mean([oneclass.anomaly_score(each, test) for each in parts], 0)
  np.testing.assert_allclose(attributions.values(score, TEST), wanted,
                             rtol=1e-5)


@pytest.mark.parametrize('name', [*CLASSIFIERS, 'rotation', 'upright'])
def test_the_gradient_of_every_score_is_that_of_finite_differences(name):
  """Along the gradient itself, where float32's rounding matters least."""
  score = _both_scores(name)
  with jax.enable_x64(True):
    gradient = np.float64(jax.grad(lambda x: score(x).sum())(TEST))
  length = np.sqrt(np.square(gradient).sum((1, 2, 3), keepdims=True))
  assert (length > 0).all()
  step = 2e-3 * gradient / length
  rise = (attributions.values(score, TEST + step)
          - attributions.values(score, TEST - step)) / 4e-3
  np.testing.assert_allclose(rise, length.ravel(), rtol=0.02)


@pytest.mark.parametrize('baseline, name', [
    *(('mean', name) for name in (*CLASSIFIERS, 'rotation', 'upright')),
    # Of the kernel's tail, where black lies as well, next to nothing is left.
    *(('black', name) for name in ('kde', 'gde', 'knn', 'nn', 'rotation'))])
def test_integrated_gradients_are_complete_within_one_percent(name, baseline):
  baseline = TRAIN.mean(0) if baseline == 'mean' else np.zeros_like(TRAIN[0])
  found = attributions.integrated_gradients(
      _both_scores(name), TEST, baseline)
  rise = found.score - found.score_of_baseline
  assert (np.abs(rise) > 0).all()
  np.testing.assert_allclose(
      found.attribution.sum((1, 2, 3)), rise, rtol=0.01)
  np.testing.assert_allclose(
      found.error, abs(found.attribution.sum((1, 2, 3)) / rise - 1), atol=1e-9)


@pytest.mark.parametrize('classifier', ['gde_ledoit_wolf', 'gde_ridge_raw'])
def test_grad_cam_of_a_gaussian_is_the_closed_form(classifier):
  fitted, score = _score(classifier)
  heat = gradcam.heat(fitted, np.asarray(windows.feature_map(
      *_network(), TEST), np.float64))
  np.testing.assert_allclose(
      attributions.grad_cam(score, TEST), gradcam.resize(heat, SIDE, SIDE),
      rtol=1e-3, atol=1e-4 * heat.max())


def test_grad_cam_of_a_rotation_score_turns_the_maps_back():
  """By hand: four turns, each seen by itself."""
  pretext, variables = _network()
  score = differentiable.task(pretext, variables, 'rotation')
  turned = [np.rot90(TEST, k, (1, 2)) for k in range(4)]
  pooled = [np.asarray(pretext.apply(variables, x, method='embed')['pool'])
            for x in turned]

  def of_pooled(pooled):
    logits = jnp.stack([pretext.apply(variables, p, method=lambda module, p:
        module.classifier(module.mlp(p, train=False))) for p in pooled], 1)
    return scores.rotation(logits, log=True).sum()

  weight = jax.grad(of_pooled)(pooled)
  heat = sum(np.rot90(np.einsum('nyxk,nk->nyx', windows.feature_map(
      pretext, variables, turned[k]), weight[k]), -k, (1, 2)) for k in range(4))
  wanted = gradcam.resize(np.maximum(heat, 0), SIDE, SIDE)
  assert wanted.max() > 0
  np.testing.assert_allclose(attributions.grad_cam(score, TEST), wanted,
                             rtol=1e-3, atol=1e-4 * wanted.max())


def test_grad_cam_of_crops_puts_the_tiles_maps_together():
  fitted, score = _score('gde_ledoit_wolf', crop=8)
  image = np.pad(TEST, ((0, 0), (0, 3), (0, 0), (0, 0)))  # 19 by 16: 2 x 2
  found = attributions.grad_cam(score, image)
  assert found.shape == (3, 19, 16)
  assert not found[:, 0].any() and not found[:, 17:].any() and found.any()
  pretext, variables = _network(crop=8)
  weight = gradcam.gradient(fitted, np.asarray(pretext.apply(
      variables, image, method='embed')['pool'])) / 4  # of each of four tiles
  tile = image[:, 9:17, 8:16]
  heat = np.einsum('nyxk,nk->nyx', windows.feature_map(
      pretext.clone(crop=0), variables, tile), weight)
  last = np.s_[:, -1:, -1:]  # beyond the middle of its cell all is flat
  np.testing.assert_allclose(found[:, 16:17, 15:16], np.maximum(heat, 0)[last],
                             rtol=1e-3, atol=1e-5)


def test_a_score_without_a_gradient_or_of_an_unknown_name_is_an_error():
  pretext, variables = _network()
  train = np.asarray(pretext.apply(variables, TRAIN, method='embed')['pool'])
  forest = oneclass.fit('isolation_forest', train)
  with pytest.raises(InputError, match='IsolationForest has no gradient'):
    differentiable.one_class(pretext, variables, 'pool', [forest])
  with pytest.raises(InputError, match="'rotatoin'; did you mean 'rotation'"):
    differentiable.task(pretext, variables, 'rotatoin')
  with pytest.raises(InputError, match='no score of its own'):
    differentiable.task(*_network('contrastive'), 'rotation')


def test_where_a_score_rounds_to_one_its_logarithm_has_a_gradient():
  logits = jnp.zeros((1, 4, 4)).at[0, :, 1].set(60.)
  plain = jax.grad(lambda x: scores.rotation(x).sum())(logits)
  log = jax.grad(lambda x: scores.rotation(x, log=True).sum())(logits)
  assert scores.rotation(logits) == 1 and not np.asarray(plain).any()
  assert np.abs(log).max() == pytest.approx(1, abs=1e-3)
  np.testing.assert_allclose(scores.rotation(logits, log=True), 180, rtol=1e-5)
  np.testing.assert_allclose(scores.upright(logits[:, 0], log=True), 60,
                             rtol=1e-5)
