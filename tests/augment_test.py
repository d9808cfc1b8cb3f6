import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from deep_oc import augment
from deep_oc.errors import InputError

EVERYTHING = augment.Chain(
    **augment.DROC, shift=0.2, vertical_flip=0.5, turn=True, jitter=0.8,
    jitter_order='random', blur=0.5)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def random_image(size=(16, 16, 3), seed=0):
  return np.random.default_rng(seed).uniform(size=size).astype(np.float32)


@functools.cache
def batched(op):
  """Returns the compiled op; equal chains share one program."""
  return jax.jit(jax.vmap(op, (0, None)))


def many(op, image, n, seed=0):
  """Applies `op` to one image under n keys."""
  return np.asarray(batched(op)(keys(n, seed), jnp.asarray(image)))


def ramp(height, width):
  """An image that says where each pixel was: channels are y, x, y."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  return np.stack([y, x, y], axis=-1)


def crops(n, size, min_side):
  """Draws n crops; returns their side, top and left, read off a ramp."""
  op = functools.partial(augment.crop_and_resize, min_side=min_side)
  out = many(op, ramp(size, size), n)
  top, left = out[:, 0, 0, 0], out[:, 0, 0, 1]
  assert np.allclose(out[:, -1, 0, 0] - top, out[:, 0, -1, 1] - left)
  side = out[:, -1, 0, 0] - top + 1
  return [np.round(each).astype(int) for each in (side, top, left)]


@pytest.mark.parametrize('k', range(4))
def test_a_quarter_turn_is_numpys_rot90(k):
  image = random_image((4, 6, 3))
  np.testing.assert_array_equal(
      augment.quarter_turn(image, k), np.rot90(image, k))


def test_four_quarter_turns_are_the_identity():
  image = turned = random_image()
  for _ in range(4):
    turned = augment.quarter_turn(turned, 1)
  np.testing.assert_array_equal(turned, image)


def test_random_quarter_turns_are_the_four_turns_equally_often():
  image = random_image()
  out = many(augment.random_quarter_turn, image, 2000)
  share = [np.mean(np.all(out == np.rot90(image, k), axis=(1, 2, 3)))
           for k in range(4)]
  assert sum(share) == 1
  np.testing.assert_allclose(share, 0.25, atol=0.04)


def test_quarter_turns_of_oblong_images_are_refused():
  with pytest.raises(InputError, match='square images, not 4x6'):
    augment.random_quarter_turn(jax.random.key(0), random_image((4, 6, 3)))


def test_crop_and_resize_equals_pillow_on_the_crop():
  image = random_image((17, 17, 3))
  out = many(augment.crop_and_resize, image, 50)
  for i, (side, top, left) in enumerate(zip(*crops(50, 17, 0.5), strict=True)):
    crop = image[top:top + side, left:left + side]
    expected = [Image.fromarray(crop[..., c].copy()).resize(
        (17, 17), Image.Resampling.BILINEAR) for c in range(3)]
    np.testing.assert_allclose(out[i], np.stack(expected, -1), atol=1e-5)


def test_crop_and_resize_of_an_oblong_image_equals_plain_loops():
  image = random_image((6, 9, 1))
  op = functools.partial(augment.crop_and_resize, min_side=0.5)
  for out, where in zip(many(op, image, 10), many(op, ramp(6, 9), 10),
                        strict=True):
    top, left = np.round(where[0, 0, :2]).astype(int)
    bottom = np.round(where[-1, 0, 0]).astype(int)
    side = bottom - top + 1
    crop = image[top:top + side, left:left + side, 0]
    for i in range(6):
      for j in range(9):
        y = np.clip((i + 0.5) * side / 6 - 0.5, 0, side - 1)
        x = np.clip((j + 0.5) * side / 9 - 0.5, 0, side - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
        upper = crop[y0, x0] * (1 - x + x0) + crop[y0, x1] * (x - x0)
        lower = crop[y1, x0] * (1 - x + x0) + crop[y1, x1] * (x - x0)
        assert abs(out[i, j, 0] - upper * (1 - y + y0)
                   - lower * (y - y0)) < 1e-5


def test_a_crop_of_everything_changes_nothing():
  image = random_image((17, 17, 3))
  op = functools.partial(augment.crop_and_resize, min_side=1.0)
  np.testing.assert_allclose(many(op, image, 3), np.stack([image] * 3),
                             atol=1e-6)


def test_crop_sides_are_uniform_integers_with_both_ends():
  side, _, _ = crops(5000, 13, 0.5)
  values, counts = np.unique(side, return_counts=True)
  np.testing.assert_array_equal(values, np.arange(6, 14))  # floor(6.5) = 6
  np.testing.assert_allclose(counts / 5000, 1 / 8, atol=0.03)


def test_crops_lie_inside_the_image_and_reach_every_edge():
  side, top, left = crops(5000, 12, 0.5)
  for start in (top, left):
    assert np.all(start >= 0) and np.all(start + side <= 12)
    small = start[side == 6]
    values, counts = np.unique(small, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(7))
    np.testing.assert_allclose(counts / len(small), 1 / 7, atol=0.06)
  assert abs(np.corrcoef(top[side == 6], left[side == 6])[0, 1]) < 0.15


def test_shifts_crop_the_reflected_image_at_every_offset():
  image = random_image((8, 16, 3))
  padded = np.pad(image, [(2, 2), (4, 4), (0, 0)], mode='reflect')
  allowed = {padded[y:y + 8, x:x + 16].tobytes(): (y, x)
             for y in range(5) for x in range(9)}
  out = many(functools.partial(augment.shift, fraction=0.25), image, 1000)
  assert {allowed[each.tobytes()] for each in out} == set(allowed.values())


@pytest.mark.parametrize('op, axis', [(augment.flip, 1),
                                      (augment.vertical_flip, 0)])
def test_flips_mirror_with_their_probability(op, axis):
  image = random_image()
  out = many(functools.partial(op, p=0.3), image, 3000)
  flipped = np.all(out == np.flip(image, axis), axis=(1, 2, 3))
  same = np.all(out == image, axis=(1, 2, 3))
  assert np.all(flipped ^ same)
  assert abs(flipped.mean() - 0.3) < 0.03


def test_brightness_adds_one_number_within_its_strength():
  image = random_image()
  added = many(functools.partial(augment.brightness, strength=0.4), image,
               2000) - image
  offset = added.mean(axis=(1, 2, 3))
  assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-6
  assert -0.4 <= offset.min() < -0.39 and 0.39 < offset.max() <= 0.4


def test_contrast_scales_about_each_channels_own_mean():
  image = random_image() * [1, 0.5, 0.1]
  out = many(functools.partial(augment.contrast, strength=0.4), image, 2000)
  mean = image.mean(axis=(0, 1))
  np.testing.assert_allclose(out.mean(axis=(1, 2)), np.stack([mean] * 2000),
                             atol=1e-5)
  factor = (out[:, 0, 0, 0] - mean[0]) / (image[0, 0, 0] - mean[0])
  np.testing.assert_allclose(
      out, mean + (image - mean) * factor[:, None, None, None], atol=1e-5)
  assert 0.599 <= factor.min() < 0.61 and 1.39 < factor.max() <= 1.401


def pixelwise(convert, image):
  return np.array([convert(*map(float, pixel))
                   for pixel in image.reshape(-1, 3)]).reshape(image.shape)


def test_saturation_equals_colorsys_and_stays_in_its_range():
  image = random_image((6, 6, 3))
  image[0, 0] = 0.25, 0.5, 0.5  # saturation 0.5: tells the factor
  image[0, 1] = 0.5, 0.5, 0.5
  image[0, 2] = 0
  out = many(functools.partial(augment.saturation, strength=0.4), image, 500)
  factor = (0.5 - out[:, 0, 0, 0]) / 0.25
  assert 0.599 <= factor.min() < 0.61 and 1.39 < factor.max() <= 1.401
  for i in range(20):
    def expected(r, g, b, i=i):
      h, s, v = colorsys.rgb_to_hsv(r, g, b)
      return colorsys.hsv_to_rgb(h, min(1, s * factor[i]), v)
    np.testing.assert_allclose(out[i], pixelwise(expected, image), atol=1e-5)


def test_saturation_greys_pixels_without_a_positive_channel():
  image = np.array([[[-0.1, -0.2, -0.3], [0.5, -0.5, 0.2]]], np.float32)
  out = many(functools.partial(augment.saturation, strength=0.4), image, 100)
  np.testing.assert_allclose(out[:, 0, 0], -0.1, atol=1e-6)
  # Saturation 2 is cut to 1: the smallest channel becomes 0, not negative.
  np.testing.assert_allclose(out[:, 0, 1, 0], 0.5, atol=1e-6)
  np.testing.assert_allclose(out[:, 0, 1, 1], 0, atol=1e-6)


def test_hue_equals_colorsys_and_turns_within_its_strength():
  image = random_image((6, 6, 3))
  image[0, 0] = 0.5, 0.5, 0.5
  image[0, 1] = 1, 0, 0
  out = many(functools.partial(augment.hue, strength=0.4), image, 500)
  turn = np.array([colorsys.rgb_to_hsv(*map(float, each))[0]
                   for each in out[:, 0, 1]])
  signed = (turn + 0.5) % 1 - 0.5
  assert -0.401 <= signed.min() < -0.38 and 0.38 < signed.max() <= 0.401
  for i in range(20):
    def expected(r, g, b, i=i):
      h, s, v = colorsys.rgb_to_hsv(r, g, b)
      return colorsys.hsv_to_rgb((h + turn[i]) % 1, s, v)
    np.testing.assert_allclose(out[i], pixelwise(expected, image), atol=1e-5)


def test_hue_keeps_the_extremes_of_pixels_outside_the_range():
  image = random_image() * 4 - 2
  out = many(functools.partial(augment.hue, strength=0.5), image, 50)
  np.testing.assert_allclose(
      out.max(-1), np.stack([image.max(-1)] * 50), atol=1e-5)
  np.testing.assert_allclose(
      out.min(-1), np.stack([image.min(-1)] * 50), atol=1e-5)


def test_grey_has_tensorflows_weights_and_its_probability():
  image = random_image()
  out = many(functools.partial(augment.greyscale, p=0.2), image, 3000)
  luma = image @ np.array([0.2989, 0.587, 0.114], np.float32)
  grey = np.all(np.isclose(out, luma[..., None], atol=1e-6), axis=(1, 2, 3))
  same = np.all(out == image, axis=(1, 2, 3))
  assert np.all(grey ^ same)
  assert abs(grey.mean() - 0.2) < 0.03


def test_blur_equals_scipy_with_zeros_outside():
  impulse = np.zeros((40, 45, 1), np.float32)
  impulse[20, 20] = 1
  image = random_image((40, 45, 3))
  op = functools.partial(augment.blur, p=1.0)
  response = many(op, impulse, 200)[:, 20, :, 0]
  response = response / response[:, 20:21]
  # 2 * ((40 // 10) // 2) + 1 = 5 taps
  assert np.all(response[:, [17, 23]] == 0) and response[:, 22].max() > 0
  sigma = np.sqrt(-0.5 / np.log(response[:, 21]))
  assert 0.09 < sigma.min() < 0.2 and 1.9 < sigma.max() < 2.01
  for out, kernel in zip(many(op, image, 200)[:5], response[:5, 18:23],
                         strict=True):
    expected = image
    for axis in (0, 1):
      expected = ndimage.correlate1d(expected, kernel / kernel.sum(), axis,
                                     mode='constant')
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_blur_is_applied_with_its_probability():
  image = random_image((40, 40, 3))
  out = many(functools.partial(augment.blur, p=0.25), image, 1000)
  changed = np.any(out != image, axis=(1, 2, 3))
  assert abs(changed.mean() - 0.25) < 0.05


def test_an_empty_chain_changes_nothing():
  image = random_image((5, 7, 1)) * 4 - 2
  out = augment.Chain()(jax.random.key(0), image)
  np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation',
                                  'hue'])
def test_jitter_with_one_strength_changes_only_that(name):
  image = random_image()
  out = many(augment.Chain(**{name: 0.4}), image, 20)
  hsv = functools.partial(pixelwise, colorsys.rgb_to_hsv)
  unchanged = {
      'brightness': lambda x: x - x.mean(),
      'contrast': lambda x: x.mean(axis=(0, 1)),
      'saturation': lambda x: x.max(axis=-1),
      'hue': lambda x: hsv(x)[..., 1:],
  }[name]
  for each in out:
    assert np.abs(each - image).max() > 1e-3
    np.testing.assert_allclose(unchanged(each), unchanged(image), atol=1e-4)


def test_fixed_jitter_is_brightness_before_saturation():
  # Darkened below zero, a pixel has no saturation left and becomes grey.
  image = np.full((4, 4, 3), [0.02, 0.01, 0.0], np.float32)
  chain = augment.Chain(brightness=0.4, saturation=0.4)
  out = many(chain, image, 200)
  grey = np.ptp(out, axis=-1).max(axis=(1, 2)) < 1e-6
  np.testing.assert_array_equal(grey, out.max(axis=(1, 2, 3)) <= 0)
  assert 0.3 < grey.mean() < 0.7


def test_random_jitter_order_differs_between_images():
  image = np.full((4, 4, 3), [0.02, 0.01, 0.0], np.float32)
  chain = augment.Chain(
      brightness=0.4, saturation=0.4, jitter_order='random')
  out = many(chain, image, 1000)
  dark = out[out.max(axis=(1, 2, 3)) <= 0]
  grey = np.ptp(dark, axis=-1).max(axis=(1, 2)) < 1e-6
  assert 0.4 < grey.mean() < 0.6


def test_jitter_is_applied_with_its_probability():
  image = random_image()
  out = many(augment.Chain(brightness=0.4, jitter=0.8), image, 1000)
  changed = np.any(out != image, axis=(1, 2, 3))
  assert abs(changed.mean() - 0.8) < 0.05


def test_grey_comes_after_the_jitter_and_clipping_last():
  image = random_image()
  chain = dict(brightness=0.4, hue=0.4, grey=1.0)
  out = many(augment.Chain(**chain), image, 100)
  assert np.ptp(out, axis=-1).max() < 1e-6
  assert out.min() < 0 and out.max() > 1
  clipped = many(augment.Chain(**chain, clip=True), image, 100)
  np.testing.assert_allclose(clipped, np.clip(out, 0, 1), atol=1e-6)


def test_turns_come_after_flips():
  image = random_image()
  chain = augment.Chain(flip=1.0, turn=True)
  turn = many(augment.Chain(turn=True), image, 20)
  for out, turned in zip(many(chain, image, 20), turn, strict=True):
    k, = (k for k in range(4) if np.array_equal(turned, np.rot90(image, k)))
    np.testing.assert_array_equal(out, np.rot90(image[:, ::-1], k))


def test_leaving_an_augmentation_out_changes_no_others_draws():
  flat = np.full((16, 16, 3), 0.5, np.float32)  # only brightness can be seen
  few = many(augment.Chain(brightness=0.4), flat, 20)
  more = many(augment.Chain(brightness=0.4, crop=0.5, flip=0.5, contrast=0.4,
                              saturation=0.4, hue=0.4, shift=0.1, grey=0.2),
              flat, 20)
  np.testing.assert_allclose(more, few, atol=1e-3)  # grey weighs 0.9999
  assert np.ptp(few) > 0.3


def test_augmentations_of_one_chain_draw_independently():
  out = many(augment.Chain(flip=0.5, vertical_flip=0.5), ramp(8, 8), 2000)
  mirrored = out[:, 0, 0, 1] > 0
  upended = out[:, 0, 0, 0] > 0
  assert abs(np.corrcoef(mirrored, upended)[0, 1]) < 0.08


def test_equal_keys_give_equal_images_and_others_differ():
  image = random_image()
  once, again = many(EVERYTHING, image, 4), many(EVERYTHING, image, 4)
  np.testing.assert_array_equal(once, again)
  assert np.abs(once[0] - once[1]).max() > 1e-3
  assert np.abs(once - many(EVERYTHING, image, 4, seed=1)).max() > 1e-3


def test_one_program_serves_all_draws_and_equals_the_batch():
  image, traces = random_image(), []

  @jax.jit
  def single(key):
    traces.append(key)
    return EVERYTHING(key, image)

  batch = many(EVERYTHING, image, 4)
  for key, expected in zip(keys(4), batch, strict=True):
    out = single(key)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert out.shape == image.shape and out.dtype == jnp.float32
  assert len(traces) == 1


@pytest.mark.slow
def test_jit_changes_nothing():
  chain, image = augment.Chain(**augment.DROC), random_image()
  np.testing.assert_allclose(chain(keys(4)[0], jnp.asarray(image)),
                             many(chain, image, 4)[0], atol=1e-5)


def test_the_papers_chain_has_neither_blur_nor_clipping():
  chain = augment.Chain(**augment.DROC)
  assert (chain.crop, chain.flip, chain.grey) == (0.5, 0.5, 0.2)
  assert (chain.brightness, chain.contrast, chain.saturation, chain.hue) == (
      0.4, 0.4, 0.4, 0.4)
  assert (chain.jitter, chain.blur, chain.clip) == (1, 0, False)


@pytest.mark.parametrize('name, value', [
    ('crop', 0), ('crop', 1.5), ('flip', -0.1), ('hue', 0.6),
    ('contrast', 'strong'), ('grey', float('nan')), ('brightness', -1),
    ('turn', 1), ('flip', True), ('jitter_order', 'shuffled'),
    ('shift', 0.9), ('clip', None)])
def test_values_out_of_range_are_named(name, value):
  with pytest.raises(InputError) as error:
    augment.Chain(**{name: value})
  assert f"'{name}'" in str(error.value) and repr(value) in str(error.value)
  assert '\n' not in str(error.value)


def test_bytes_are_refused_whose_colours_would_hardly_change():
  image = jnp.zeros((8, 8, 3), jnp.uint8)
  with pytest.raises(InputError, match='floats from 0 to 1, .* not uint8'):
    augment.Chain(brightness=0.4)(jax.random.key(0), image)


@pytest.mark.parametrize('name', ['saturation', 'hue', 'grey'])
def test_colours_of_a_grey_image_are_refused(name):
  with pytest.raises(InputError, match=f"'{name}' needs 3 colour channels"):
    augment.Chain(**{name: 0.4})(jax.random.key(0), random_image((8, 8, 1)))
