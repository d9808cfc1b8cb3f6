"""Grad-CAM against numeric and automatic differentiation of the score."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import densities, errors, gradcam, oneclass

RANDOM = np.random.default_rng(0)
TRAIN = 1 + RANDOM.exponential(size=(60, 6))
POOLED = 1 + RANDOM.exponential(size=(4, 6))
MAP = RANDOM.exponential(size=(4, 3, 5, 6)).astype(np.float32)

each_gaussian = pytest.mark.parametrize('classifier', densities.GAUSSIANS)


def _score(density, pooled):
  """-log p of f[d], up to a constant, as it is defined."""
  if density.norm == 'l2':
    pooled = pooled / jnp.linalg.norm(pooled)
  centred = pooled - density.location_
  return centred @ np.linalg.inv(density.covariance_) @ centred / 2


@each_gaussian
def test_the_gradient_is_that_of_finite_differences(classifier):
  density, step = oneclass.fit(classifier, TRAIN), 1e-5
  score = [[oneclass.anomaly_score(density, POOLED + sign * step * unit)
            for unit in np.eye(6)] for sign in (1, -1)]
  wanted = (np.array(score[0]) - score[1]).T / (2 * step)
  got = gradcam.gradient(density, POOLED)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@each_gaussian
def test_the_gradient_is_that_of_jax(classifier):
  density = oneclass.fit(classifier, TRAIN)
  wanted = jax.vmap(jax.grad(lambda p: _score(density, p)))(jnp.array(POOLED))
  np.testing.assert_allclose(gradcam.gradient(density, POOLED), wanted,
                             rtol=1e-3, atol=1e-3)


@each_gaussian
def test_the_map_is_grad_cam_as_it_is_defined(classifier):
  density = oneclass.fit(classifier, TRAIN)

  def plain(feature_map):
    score = jax.grad(lambda a: _score(density, a.mean((0, 1))))
    weight = score(feature_map).mean((0, 1))
    return jax.nn.relu((weight * feature_map).sum(-1))

  wanted = 3 * 5 * np.stack([plain(jnp.array(each)) for each in MAP])
  got = gradcam.heat(density, MAP)
  assert got.shape == (4, 3, 5) and got.dtype == np.float64
  np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


@each_gaussian
def test_where_an_unusual_channel_is_active_is_brightest(classifier):
  train = np.abs(RANDOM.normal(1, 0.1, (200, 6)))
  feature_map = np.abs(RANDOM.normal(1, 0.1, (1, 8, 8, 6)))
  feature_map[0, 2, 5, 3] += 100
  got = gradcam.heat(oneclass.fit(classifier, train), feature_map)[0]
  assert np.unravel_index(got.argmax(), got.shape) == (2, 5)


def test_no_features_at_all_have_a_finite_map():
  density = oneclass.fit('gde_ledoit_wolf', TRAIN)
  assert not gradcam.heat(density, np.zeros((1, 2, 2, 6))).any()
  assert np.isfinite(gradcam.gradient(density, np.zeros((1, 6)))).all()


def test_a_density_without_a_gradient_is_one_line():
  density = oneclass.fit('nn', TRAIN)
  with pytest.raises(errors.InputError, match='one of gde_ledoit_wolf, '):
    gradcam.heat(density, MAP)


@pytest.mark.parametrize('height, width', [(256, 256), (100, 37), (8, 8)])
def test_a_constant_map_stays_constant(height, width):
  got = gradcam.resize(np.full((2, 8, 8), -3.), height, width)
  assert got.shape == (2, height, width)
  np.testing.assert_allclose(got, -3, rtol=1e-12)


def test_a_cells_value_stands_in_its_middle():
  heat = np.zeros((1, 8, 8))
  heat[0, 2, 5] = 1
  got = gradcam.resize(heat, 40, 24)[0]  # cells of 5 by 3 pixels
  assert np.unravel_index(got.argmax(), got.shape) == (2 * 5 + 2, 5 * 3 + 1)
  assert got.max() == pytest.approx(1)
  even = gradcam.resize(heat, 64, 64)[0]
  np.testing.assert_allclose(even[16:24, 40:48], even[16:24, 40:48][::-1, ::-1])
  assert even[19:21, 43:45].min() == pytest.approx(even.max())


def test_resizing_is_that_of_jax():
  heat = RANDOM.normal(size=(2, 7, 9)).astype(np.float32)
  wanted = jax.image.resize(heat, (2, 50, 64), 'linear')
  np.testing.assert_allclose(gradcam.resize(heat, 50, 64), wanted, atol=1e-5)
