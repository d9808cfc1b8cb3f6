"""Crops against plain NumPy slices."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import crops
from deep_oc.errors import InputError


def where(height, width):
  """Returns f32[height, width, 3], each pixel its own row and column."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y, x, 0 * x], axis=-1).astype(np.float32)


def test_a_random_crop_is_a_slice_and_comes_from_everywhere():
  image = where(9, 12)
  keys = jax.random.split(jax.random.key(0), 2000)
  found = np.asarray(jax.jit(jax.vmap(
      lambda key: crops.random_crop(key, image, 5)))(keys))
  start = found[:, 0, 0, :2].astype(int)
  for crop, (y, x) in zip(found[:200], start, strict=False):
    np.testing.assert_array_equal(crop, image[y:y + 5, x:x + 5])
  for axis, places in enumerate((5, 8)):
    count = np.bincount(start[:, axis])
    assert len(count) == places
    np.testing.assert_allclose(count / 2000, 1 / places, atol=0.04)


def test_each_image_of_a_batch_is_cropped_elsewhere():
  image = jnp.asarray(np.stack([where(40, 40) + 100 * i for i in range(20)]))
  found = np.asarray(crops.random_crops(jax.random.key(0), image, 8))
  assert found.shape == (20, 8, 8, 3)
  start = found[:, 0, 0] - 100 * np.arange(20)[:, None]
  assert len(np.unique(start[:, :2], axis=0)) > 15
  assert np.all((start[:, :2] >= 0) & (start[:, :2] <= 32))


@pytest.mark.parametrize('height, width, side, top, left', [
    (8, 8, 8, 0, 0), (8, 12, 4, 0, 0), (11, 9, 4, 1, 0), (7, 14, 3, 0, 1)])
def test_tiles_are_numpys_slices_around_the_middle(
    height, width, side, top, left):
  image = np.random.default_rng(0).normal(size=(3, height, width, 2))
  wanted = [each[top + y:top + y + side, left + x:left + x + side]
            for each in image
            for y in range(0, height - side + 1, side)
            for x in range(0, width - side + 1, side)]
  found = crops.tiles(jnp.asarray(image), side)
  np.testing.assert_array_equal(found, np.float32(wanted))


@pytest.mark.parametrize('name, reduce', [('mean', jnp.mean), ('max', jnp.max)])
def test_what_is_found_of_tiles_is_reduced_image_by_image(name, reduce):
  feature = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
  score = feature[:, 0]
  found = crops.over_tiles(reduce, {'a': feature, 'b': score}, 3)
  for i in range(3):
    rows = slice(4 * i, 4 * i + 4)
    np.testing.assert_allclose(
        found['a'][i], getattr(np, name)(feature[rows], axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        found['b'][i], getattr(np, name)(score[rows]), rtol=1e-5)


def test_a_side_of_zero_changes_nothing():
  image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 3)))
  feature = {'pool': image[:, 0, 0]}
  assert crops.tiles(image, 0) is image
  assert crops.random_crop(jax.random.key(0), image[0], 0).shape == (5, 7, 3)
  np.testing.assert_array_equal(
      crops.random_crops(jax.random.key(0), image, 0), image)
  assert crops.over_tiles(jnp.mean, feature, 2) == feature


def test_the_gradient_reaches_what_tiles_hold_and_nothing_else():
  def mean(image):
    tile = crops.tiles(image, 3)
    return crops.over_tiles(
        jnp.mean, {'pool': tile.mean((1, 2))}, len(image))['pool'].sum()
  gradient = jax.grad(mean)(jnp.zeros((2, 8, 6, 1)))[..., 0]
  np.testing.assert_allclose(gradient[:, 1:7], 1 / 36, rtol=1e-6)
  assert not gradient[:, [0, 7]].any()


@pytest.mark.parametrize('cut', [
    lambda side: crops.tiles(jnp.zeros((1, 9, 6, 3)), side),
    lambda side: crops.random_crops(
        jax.random.key(0), jnp.zeros((1, 9, 6, 3)), side)])
def test_a_crop_larger_than_the_image_says_both_sizes(cut):
  with pytest.raises(InputError) as error:
    cut(7)
  assert str(error.value) == 'pretext.crop=7 is larger than the images, 9x6'
  assert len(cut(6)) == 1


@pytest.mark.parametrize('side', [-1, 2.5, True, '32', None])
def test_a_side_is_a_number_of_pixels(side):
  with pytest.raises(InputError, match='pretext.crop=.* whole number'):
    crops.check(side)
  crops.check(0)
  crops.check(32)
