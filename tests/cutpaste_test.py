"""Artificial defects against plain geometry, and the task made of them."""
import colorsys
import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from deep_oc import augment, cutpaste, errors, optimizers, pretexts, sharding
from deep_oc import step as steps
from deep_oc.pretexts import cutpaste as task
from tests import tasks

PLAIN = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
MOVED = cutpaste.Defects(**PLAIN)  # pixels move and keep their colours


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@functools.cache
def batched(kind, how):
  """Returns the compiled defect; equal settings share one program."""
  return jax.jit(jax.vmap(
      lambda key, image: cutpaste.KINDS[kind](key, image, how), (0, None)))


def many(kind, image, n, how=MOVED):
  """Puts `n` defects into copies of one image."""
  return np.asarray(batched(kind, how)(keys(n), jnp.asarray(image)))


def boxes(draw, n, shape, how=MOVED):
  """Draws `n` boxes; their fields as f64[n]."""
  box = jax.jit(jax.vmap(lambda key: draw(key, shape, how)))(keys(n))
  return cutpaste.Box(*(np.asarray(each, np.float64) for each in box))


def ramp(height, width):
  """An image that says where each pixel was: channels are y, x, y * width + x.
  """
  y, x = np.mgrid[:height, :width].astype(np.float32)
  return np.stack([y, x, y * width + x], axis=-1)


def random_image(size=(16, 16, 3), seed=0):
  return np.random.default_rng(seed).uniform(size=size).astype(np.float32)


def corners(box):
  """Returns the corners f64[4, 2, n] of boxes, y and x."""
  cos, sin = np.cos(box.angle), np.sin(box.angle)
  y0 = box.top + (abs(box.height * cos) + abs(box.width * sin)) / 2
  x0 = box.left + (abs(box.width * cos) + abs(box.height * sin)) / 2
  out = []
  for v in (-0.5, 0.5):
    for h in (-0.5, 0.5):
      y, x = v * box.height, h * box.width
      # Counter-clockwise, where y points down.
      out.append([y0 - x * sin + y * cos, x0 + x * cos + y * sin])
  return np.array(out)


@pytest.mark.parametrize('law', ['log_uniform', 'two_intervals'])
def test_patch_area_and_aspect_stay_in_their_ranges_and_reach_both_ends(law):
  box = boxes(cutpaste.patch_box, 10_000, (256, 256, 3),
              cutpaste.Defects(aspect_law=law))
  h, w = box.height, box.width
  assert np.all(h == np.round(h)) and np.all(w == np.round(w))
  # Sides are rounded, so a range holds for half a pixel more or less.
  assert np.all((h + 0.5) * (w + 0.5) >= 0.02 * 256 ** 2)
  assert np.all((h - 0.5) * (w - 0.5) <= 0.15 * 256 ** 2)
  assert np.all((h + 0.5) / (w - 0.5) >= 0.3)
  assert np.all((h - 0.5) / (w + 0.5) <= 3.3)
  area, aspect = h * w / 256 ** 2, h / w
  assert area.min() < 0.021 and area.max() > 0.149
  assert aspect.min() < 0.31 and aspect.max() > 3.2
  assert abs(area.mean() - 0.085) < 0.002
  assert np.all(box.angle == 0)
  below = {'log_uniform': math.log(1 / 0.3) / math.log(3.3 / 0.3),
           'two_intervals': 0.5}
  square = np.mean(h == w) / 2
  assert abs(np.mean(aspect < 1) + square - below[law]) < 0.02


def test_the_two_laws_of_the_aspect_are_different_ones():
  # Uniform on (1, 3.3) has its median at 2.15, log-uniform at sqrt(3.3).
  for law, median in (('log_uniform', 3.3 ** 0.5), ('two_intervals', 2.15)):
    box = boxes(cutpaste.patch_box, 10_000, (256, 256, 3),
                cutpaste.Defects(aspect_law=law))
    aspect = box.height / box.width
    assert abs(np.median(aspect[aspect > 1]) - median) < 0.06


@pytest.mark.parametrize('shape', [(256, 256, 3), (32, 32, 3), (40, 200, 3)])
def test_patches_lie_inside_the_image_and_reach_every_edge(shape):
  box = boxes(cutpaste.patch_box, 10_000, shape)
  for start, side, size in ((box.top, box.height, shape[0]),
                            (box.left, box.width, shape[1])):
    assert np.all(start == np.round(start)) and np.all(side >= 1)
    assert start.min() == 0 and (start + side).max() == size
  area = (box.height + 0.5) * (box.width + 0.5) / shape[0] / shape[1]
  assert np.all(area >= 0.02)


def test_patch_positions_are_uniform_over_what_is_free():
  box = boxes(cutpaste.patch_box, 10_000, (256, 256, 3))
  for start, side in ((box.top, box.height), (box.left, box.width)):
    share = (start + 0.5) / (257 - side)
    np.testing.assert_allclose(
        np.histogram(share, 10, (0, 1))[0] / 10_000, 0.1, atol=0.015)
  assert abs(np.corrcoef(box.top, box.left)[0, 1]) < 0.05


def test_scars_have_the_papers_sizes_and_angles_and_lie_inside():
  box = boxes(cutpaste.scar_box, 10_000, (256, 256, 3))
  assert set(box.width) == set(range(2, 17))
  assert set(box.height) == set(range(10, 26))
  assert np.bincount(box.width.astype(int))[2:].min() > 500  # of 667
  degrees = np.degrees(box.angle)
  assert -45 <= degrees.min() < -44.9 and 44.9 < degrees.max() <= 45.001
  assert abs(degrees.mean()) < 1
  corner = corners(box)
  assert corner.min() > -1e-3 and corner.max() < 256 + 1e-3
  assert corner.min() < 0.5 and corner.max() > 255.5


def test_a_pasted_patch_is_a_rectangle_moved_by_one_vector():
  image = ramp(32, 40)
  out = many('cutpaste', image, 500)
  vectors = []
  for each in out:
    y, x = np.nonzero(np.any(each != image, axis=-1))
    if not len(y):
      continue  # pasted where it was
    height, width = np.ptp(y) + 1, np.ptp(x) + 1
    assert len(y) == height * width  # a full rectangle
    assert (height + 0.5) * (width + 0.5) >= 0.02 * 1280
    assert (height - 0.5) * (width - 0.5) <= 0.15 * 1280
    moved = (each - image)[y, x, :2]
    assert np.all(moved == moved[0])
    np.testing.assert_array_equal(each[y, x], image[each[y, x, 0].astype(int),
                                                    each[y, x, 1].astype(int)])
    vectors.append([y[0], x[0], *each[y[0], x[0], :2]])
  vectors = np.array(vectors)
  assert len(vectors) > 480
  # Where it comes from tells nothing of where it goes.
  for axis in (0, 1):
    assert abs(np.corrcoef(vectors[:, axis], vectors[:, 2 + axis])[0, 1]) < 0.15


@pytest.mark.parametrize('kind, name', [
    ('cutpaste', 'nearest'), ('cutpaste', 'bilinear'),
    ('cutpaste_scar', 'nearest'), ('cutpaste_scar', 'bilinear')])
def test_without_jitter_pasting_makes_no_new_colours(kind, name):
  image = random_image((32, 32, 3))
  how = cutpaste.Defects(**PLAIN, interpolation=name)
  out = many(kind, image, 100, how)
  known = {pixel.tobytes() for pixel in image.reshape(-1, 3)}
  new = [pixel.tobytes() not in known for pixel in out.reshape(-1, 3)]
  # Bilinear mixes the pixels of what is turned, and only that.
  assert any(new) == (kind == 'cutpaste_scar' and name == 'bilinear')
  assert np.any(out != image, axis=(1, 2, 3)).mean() > 0.95


def test_a_quarter_turned_scar_is_numpys_rot90_of_its_source():
  image = ramp(32, 32)
  how = cutpaste.Defects(**PLAIN, scar_angle=(90, 90))
  found = 0
  for out in many('cutpaste_scar', image, 50, how):
    y, x = np.nonzero(np.any(out != image, axis=-1))
    pasted = out[y.min():y.max() + 1, x.min():x.max() + 1]
    height, width = pasted.shape[:2]
    top, left = pasted[..., 0].min(), pasted[..., 1].min()
    source = image[int(top):int(top) + width, int(left):int(left) + height]
    if len(y) == height * width:  # no pixel has come to lie where it was
      np.testing.assert_array_equal(pasted, np.rot90(source))
      assert width >= 10 and 2 <= height <= 16  # the upright scar lies now
      found += 1
  assert found > 30


@pytest.mark.parametrize('degrees', [30, -20])
def test_a_turned_scar_reads_its_source_through_the_inverse_rotation(degrees):
  image = ramp(32, 32)
  how = cutpaste.Defects(**PLAIN, scar_angle=(degrees, degrees),
                         scar_width=(9, 9), scar_length=(20, 20),
                         interpolation='bilinear')
  angle = math.radians(degrees)
  for out in many('cutpaste_scar', image, 20, how):
    y, x = np.nonzero(np.any(out != image, axis=-1))
    source = out[y, x, :2]
    low, high = source.min(axis=0) + 0.01, source.max(axis=0) - 0.01
    inner = np.all((source > low) & (source < high), axis=1)  # not clamped
    design = np.stack([y, x, np.ones(len(y))], axis=1)[inner]
    affine, *_ = np.linalg.lstsq(design, source[inner], rcond=None)
    # Source = R(-angle) (target - centre) + ..., as y points down.
    np.testing.assert_allclose(affine[:2].T, [
        [math.cos(angle), math.sin(angle)],
        [-math.sin(angle), math.cos(angle)]], atol=1e-3)
    assert np.all(np.ptp(source, axis=0) <= [19.001, 8.001])


def test_a_scar_covers_the_pixels_whose_centres_lie_in_its_box():
  image = np.full((32, 32, 3), 2, np.float32)  # no colour is as bright
  draw = jax.vmap(lambda key: cutpaste.scar_box(
      jax.random.fold_in(key, 0), image.shape, MOVED))
  box = cutpaste.Box(*(np.asarray(each, np.float64) for each in draw(keys(50))))
  corner = corners(box)
  centre = corner.mean(axis=0)
  down, right = np.mgrid[:32, :32] + 0.5
  for i, out in enumerate(many('scar', image, 50)):
    # The box's own axes, from its corners.
    along = (corner[2, :, i] - corner[0, :, i]) / box.height[i]
    across = (corner[1, :, i] - corner[0, :, i]) / box.width[i]
    y, x = down - centre[0, i], right - centre[1, i]
    far = np.maximum(abs(y * along[0] + x * along[1]) - box.height[i] / 2,
                     abs(y * across[0] + x * across[1]) - box.width[i] / 2)
    changed = np.any(out != image, axis=-1)
    sure = abs(far) > 1e-4
    np.testing.assert_array_equal(changed[sure], (far < 0)[sure])
    assert len(np.unique(out[changed], axis=0)) == 1  # of one colour


def test_every_scar_has_a_colour_of_its_own():
  image = np.full((32, 32, 3), 2, np.float32)  # no colour is as bright
  colour = many('scar', image, 50).min(axis=(1, 2))
  assert colour.min() < 0.05 and 0.95 < colour.max() < 1
  assert abs(colour.mean() - 0.5) < 0.1
  # No channel tells of another.
  assert np.all(abs(np.corrcoef(colour.T) - np.eye(3)) < 0.5)


def test_a_turned_patch_lies_inside_too():
  how = cutpaste.Defects(angle=(-90, 90))
  box = boxes(cutpaste.patch_box, 10_000, (64, 64, 3), how)
  corner = corners(box)
  assert corner.min() > -1e-3 and corner.max() < 64 + 1e-3
  assert np.degrees(box.angle).min() < -89


def test_cutouts_are_rectangles_of_their_colour():
  image = random_image((32, 32, 3)) * [1, 0.5, 0.25]
  for kind, colour in (('cutout_grey', [0.5] * 3),
                       ('cutout_mean', image.mean(axis=(0, 1))),
                       ('cutout_colour', None)):
    out = many(kind, image, 50)
    colours = set()
    for each in out:
      y, x = np.nonzero(np.any(each != np.float32(image), axis=-1))
      assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)
      assert np.all(each[y, x] == each[y[0], x[0]])
      colours.add(tuple(each[y[0], x[0]]))
      if colour is not None:
        np.testing.assert_allclose(each[y[0], x[0]], colour, atol=1e-5)
    assert (len(colours) == 50) == (kind == 'cutout_colour')


def test_confetti_shifts_the_colours_of_two_squares():
  image = np.full((80, 80, 3), 0.5, np.float32)
  for out in many('confetti', image, 30):
    colours, count = np.unique(out.reshape(-1, 3), axis=0, return_counts=True)
    # The background, two squares, and perhaps where they overlap.
    assert 2 <= len(colours) <= 4
    assert out.min() >= 0 and out.max() <= 1
    assert np.sort(count)[:-1].sum() <= 2 * 55 ** 2


def test_confetti_are_two_squares_not_one_twice():
  image = np.full((80, 80, 3), 0.5, np.float32)
  colours = [len(np.unique(out.reshape(-1, 3), axis=0))
             for out in many('confetti', image, 30)]
  # Seldom one covers the other, and only two are left.
  assert np.mean(np.array(colours) > 2) > 0.9


def test_where_confetti_overlap_both_shift():
  image = np.full((40, 40, 3), 0.5, np.float32)
  overlap = 0
  for out in many('confetti', image, 40, cutpaste.Defects(
      **PLAIN, confetti_side=(20, 24))):
    for channel in np.moveaxis(np.float64(out), -1, 0) - 0.5:
      shifts = np.unique(channel[channel != 0].round(6))
      if len(shifts) == 3 and np.abs(channel).max() < 0.5:  # nothing is clipped
        assert any(abs(a + b - c) < 1e-5 for a, b, c in
                   itertools.permutations(shifts))
        overlap += 1
  assert overlap > 10


def test_confetti_may_be_smoothed():
  image = np.full((90, 80, 3), 0.5, np.float32)
  how = cutpaste.Defects(**PLAIN, confetti_side=(9, 20))
  sharp = many('confetti', image, 30, how)
  smooth = many('confetti', image, 30, dataclasses.replace(
      how, confetti_blur=2.5))
  compared = 0
  for before, after in zip(np.moveaxis(sharp, -1, 1).reshape(-1, 90, 80),
                           np.moveaxis(smooth, -1, 1).reshape(-1, 90, 80),
                           strict=True):
    if before.min() == 0 or before.max() == 1:
      continue  # what was clipped is not known
    wanted = ndimage.gaussian_filter(
        np.float64(before) - 0.5, 2.5, mode='constant', truncate=2.4)
    np.testing.assert_allclose(after - 0.5, wanted, atol=1e-5)
    compared += 1
  assert compared > 10


def test_confetti_is_turned_by_up_to_45_degrees_and_lies_inside():
  box = boxes(cutpaste.confetti_box, 10_000, (256, 256, 3))
  np.testing.assert_array_equal(box.height, box.width)
  assert set(box.height) == set(range(8, 55))
  degrees = np.degrees(box.angle)
  assert -45.001 <= degrees.min() < -44.9 and 44.9 < degrees.max() <= 45.001
  assert abs(degrees.mean()) < 1
  corner = corners(box)
  assert corner.min() > -1e-3 and corner.max() < 256 + 1e-3


def test_the_union_is_either_a_patch_or_a_scar_equally_often():
  image = ramp(40, 40)
  out = many('union', image, 400)
  area = np.any(out != image, axis=-1).sum(axis=(1, 2))
  # What is pasted upright moves by one vector, and the rest stays.
  upright = [len(np.unique((each - image).reshape(-1, 3), axis=0)) <= 2
             for each in out]
  assert abs(np.mean(upright) - 0.5) < 0.1
  assert len(set(area)) > 50


@functools.cache
def jitter(strengths):
  names = ('brightness', 'contrast', 'saturation', 'hue')
  given = dict.fromkeys(names, 0.0) | dict(strengths)
  return jax.jit(jax.vmap(
      lambda key, image, inside: cutpaste.colour_jitter(
          key, image, inside, **given), (0, None, None)))


def jittered(image, n, inside=None, **strengths):
  inside = np.ones(image.shape[:2], bool) if inside is None else inside
  out = jitter(tuple(strengths.items()))(
      keys(n), jnp.asarray(image), jnp.asarray(inside))
  return np.asarray(out)


@pytest.mark.parametrize('name, enhance', [
    ('brightness', ImageEnhance.Brightness), ('contrast',
                                              ImageEnhance.Contrast),
    ('saturation', ImageEnhance.Color)])
def test_one_change_of_colour_is_pillows(name, enhance):
  # Pillow is what torchvision's ColorJitter calls for image files.
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  image = pixels.astype(np.float32) / 255
  grey = image @ np.array([0.2989, 0.587, 0.114], np.float32)
  base = {'brightness': np.zeros_like(grey), 'saturation': grey,
          'contrast': np.full_like(grey, grey.mean())}[name][..., None]
  factors = []
  for out in jittered(image, 200, **{name: 0.4}):
    away = image - base
    safe = (out > 0.01) & (out < 0.99) & (abs(away) > 0.1)
    factor = np.median((out - base)[safe] / away[safe])
    factors.append(factor)
    expected = enhance(Image.fromarray(pixels)).enhance(float(factor))
    # Pillow rounds the grey, its mean and the result.
    np.testing.assert_allclose(255 * out, np.asarray(expected), atol=2)
  assert 0.599 < min(factors) < 0.62 and 1.38 < max(factors) < 1.401


def hue_of(image, turn):
  out = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in (
      colorsys.rgb_to_hsv(*map(float, each)) for each in image.reshape(-1, 3))]
  return np.array(out).reshape(image.shape)


@pytest.mark.slow
def test_the_four_changes_come_in_every_order_one_after_the_other():
  image = random_image((6, 6, 3))
  weights = np.array([0.2989, 0.587, 0.114])
  orders = set()
  strengths = dict(brightness=0.4, contrast=0.3, saturation=0.5, hue=0.2)
  for key, out in zip(keys(200), jittered(image, 200, **strengths),
                      strict=True):
    drawn = jax.random.split(key, 3)
    order = tuple(map(int, jax.random.permutation(drawn[0], 4)))
    orders.add(order)
    factor = 1 + np.array([0.4, 0.3, 0.5]) * np.asarray(
        jax.random.uniform(drawn[1], (3,), minval=-1, maxval=1))
    turn = float(jax.random.uniform(drawn[2], minval=-0.2, maxval=0.2))
    x = image.astype(np.float64)
    for op in order:
      grey = (x @ weights)[..., None]
      if op == 3:
        x = hue_of(x, turn)
      else:
        base = (0, grey.mean(), grey)[op]
        x = factor[op] * x + (1 - factor[op]) * base
      x = np.clip(x, 0, 1)
    np.testing.assert_allclose(out, x, atol=1e-5)
  assert len(orders) == 24


def test_contrast_takes_the_mean_of_what_is_pasted_only():
  image = random_image((8, 8, 3)) * 0.3 + 0.3  # far from being clipped
  inside = np.zeros((8, 8), bool)
  inside[2:5, 3:6] = True
  other = np.where(inside[..., None], image, 1 - image).astype(np.float32)
  one = jittered(image, 20, inside, contrast=0.4)[:, inside]
  two = jittered(other, 20, inside, contrast=0.4)[:, inside]
  np.testing.assert_allclose(one, two, atol=1e-6)
  grey = np.array([0.2989, 0.587, 0.114]) @ image[inside].T
  np.testing.assert_allclose(one.mean(axis=1) @ [0.2989, 0.587, 0.114],
                             grey.mean(), atol=1e-3)


def test_no_jitter_at_all_changes_nothing():
  image = random_image()
  np.testing.assert_array_equal(jittered(image, 3)[0], image)


def test_what_is_pasted_is_jittered_and_the_rest_is_not():
  image = np.full((32, 32, 3), [0.5, 0.4, 0.3], np.float32)
  out = many('cutpaste', image, 200, cutpaste.Defects())
  changed = np.any(out != image, axis=-1)
  share = changed.mean(axis=(1, 2))
  assert share.min() > 0.01 and share.max() < 0.2
  assert np.abs(out - image).max() < 0.2
  assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize('kind', [
    'cutpaste', pytest.param('cutpaste_scar', marks=pytest.mark.slow)])
def test_one_program_serves_all_sizes_and_equals_the_batch(kind):
  image, traces = jnp.asarray(random_image((32, 32, 3))), []
  how = cutpaste.Defects()

  @jax.jit
  def single(key):
    traces.append(key)
    return cutpaste.KINDS[kind](key, image, how)

  batch = many(kind, image, 20, how)
  for key, expected in zip(keys(20), batch, strict=True):
    np.testing.assert_allclose(single(key), expected, atol=1e-5)
  assert len(traces) == 1
  assert len({each.tobytes() for each in batch}) == 20


@pytest.mark.slow
def test_jit_changes_nothing():
  image, how = jnp.asarray(random_image((32, 32, 3))), cutpaste.Defects()
  key = keys(1)[0]
  compiled = jax.jit(lambda key: cutpaste.cutpaste_scar(key, image, how))(key)
  np.testing.assert_allclose(
      cutpaste.cutpaste_scar(key, image, how), compiled, atol=1e-5)


@pytest.mark.parametrize('kwargs, message', [
    (dict(area=(0.2, 0.1)), 'pretext.defects.area'),
    (dict(area=0.1), 'a pair'), (dict(area=(0.0, 0.1)), r'in \[1e-06, 1\]'),
    (dict(scar_width=(2.5, 16)), 'whole numbers'),
    (dict(hue=0.6), r'must be a number in \[0, 0.5\]'),
    (dict(contrast=True), 'must be a number'),
    (dict(aspect_law='log_unifrom'), "did you mean 'log_uniform'"),
    (dict(interpolation='bilinaer'), "did you mean 'bilinear'"),
    (dict(scar_angle=(float('nan'), 45)), 'pretext.defects.scar_angle')])
def test_defects_that_cannot_be_are_named(kwargs, message):
  with pytest.raises(errors.InputError, match=message) as error:
    cutpaste.Defects(**kwargs)
  assert '\n' not in str(error.value)


def test_scars_too_long_for_the_image_are_refused():
  with pytest.raises(errors.InputError, match='25x16 pixels do not fit .*16x16'
                                              '.*scar_length'):
    cutpaste.cutpaste_scar(jax.random.key(0), jnp.zeros((16, 16, 3)), MOVED)


def create(**kwargs):
  kwargs = dict(head=(6, 5), defects=SMALL) | kwargs
  return pretexts.create(
      'cutpaste', encoder=dict(name='convnet', channels=(4, 8)),
      dtype=jnp.float32, **kwargs)


# Without jitter, which takes longest to compile.
SMALL = PLAIN | dict(scar_width=(2, 3), scar_length=(6, 10))


def init(pretext, image):
  return steps.init(pretext, 0, image.shape[1:])


def test_the_loss_is_the_cross_entropy_of_normal_patch_and_scar():
  image = jnp.asarray(random_image((4, 16, 16, 3)))
  pretext = create(augment=dict(brightness=0.1))
  variables, rngs = init(pretext, image), {'views': jax.random.key(3)}

  (loss, metrics), _ = tasks.apply(
      pretext, variables, image, train=True, mutable=['batch_stats'],
      rngs=rngs)
  key = pretext.apply(variables, rngs=rngs,
                      method=lambda module: module.make_rng('views'))
  views = jax.jit(pretext.views)(key, image).reshape(12, 16, 16, 3)

  def logits(module, view):  # one pass, so that the views share statistics
    return module.classifier(module.mlp(
        module.encoder(view, train=True), train=True))
  out, _ = tasks.apply(pretext, variables, views, method=logits,
                       mutable=['batch_stats'])
  out = np.asarray(out, np.float64).reshape(4, 3, 3)
  total, right = 0.0, 0
  for i in range(4):
    for label in range(3):  # normal, patch, scar
      row = out[i, label]
      total -= row[label] - math.log(sum(math.exp(each) for each in row))
      right += row[label] == max(row)
  np.testing.assert_allclose(loss, total / 12, rtol=1e-4)
  np.testing.assert_allclose(metrics['accuracy'], right / 12, rtol=1e-5)
  assert metrics['chance'] == 1 / 3


def test_views_are_the_image_then_one_of_each_kind():
  image = jnp.asarray(np.stack([ramp(32, 32)] * 40))
  pretext = create()
  view = np.asarray(jax.jit(pretext.views)(jax.random.key(0), image))
  assert view.shape == (40, 3, 32, 32, 3)
  np.testing.assert_array_equal(view[:, 0], image)
  changed = np.any(view != ramp(32, 32), axis=-1).sum(axis=(2, 3))
  assert np.all(changed[:, 2] <= 35)  # at most 3 by 10 pixels, and corners
  assert changed[:, 1].mean() > 60  # 0.085 of 1024 is 87
  moved = (view[:, 1] - ramp(32, 32))[..., :2]
  assert all(len(np.unique(each.reshape(-1, 2), axis=0)) <= 2 for each in moved)


@pytest.mark.parametrize('name, count', [
    ('3way', 3), ('cutpaste', 2), ('cutpaste_scar', 2), ('union', 2),
    ('scar', 2), ('cutout_grey', 2)])
def test_a_task_has_one_input_for_normal_and_one_per_kind(name, count):
  pretext = create(task=name)
  assert pretext.inputs_per_image == count
  like = steps.state_like(pretext, optimizers.create(
      total_steps=1, steps_per_epoch=1), (32, 32, 3))
  assert like.params['classifier']['kernel'].shape == (5, count)


@pytest.mark.parametrize('shared', [False, True])
def test_views_share_their_augmentation_only_if_told_to(shared):
  image = jnp.asarray(np.stack([ramp(32, 32) / 1024] * 8))
  pretext = create(shared=shared, crop=20, augment=dict(brightness=0.4),
                   defects=SMALL | dict(area=(0.02, 0.04)))
  view = np.asarray(jax.jit(pretext.views)(jax.random.key(0), image))
  assert view.shape == (8, 3, 20, 20, 3)
  agree = np.isclose(view[:, 1:], view[:, :1], atol=1e-6).all(-1).mean((2, 3))
  assert np.all(agree > 0.8) if shared else np.all(agree < 0.2)
  assert len(np.unique(view[:, 0, 0, 0, 0])) == 8


def test_crops_are_cut_from_everywhere_before_anything_is_pasted():
  image = jnp.asarray(np.stack([ramp(24, 24)] * 2000))
  pretext = create(task='cutpaste', crop=16)
  view = np.asarray(jax.jit(pretext.views)(jax.random.key(0), image))
  start = view[:, 0, 0, 0, :2]
  assert np.all(view[:, 0, -1, -1, :2] == start + 15)
  np.testing.assert_allclose(
      np.histogram(start, 9, (0, 9))[0] / 4000, 1 / 9, atol=0.02)
  inside = view[:, 1, :, :, :2]  # no pixel comes from outside of the crop
  assert np.all(np.ptp(inside, axis=(1, 2)) <= 15)
  assert np.mean(np.any(view[:, 1] - view[:, 1, :1, :1] != view[:, 0]
                        - view[:, 0, :1, :1], axis=(1, 2, 3))) > 0.95


def test_where_a_crop_is_cut_tells_nothing_of_its_augmentation():
  def mark(key, image):  # the last channel becomes what is drawn
    return image.at[..., 2].set(jax.random.uniform(key, (2,))[0])
  image = jnp.asarray(np.stack([ramp(24, 24)] * 500))
  pretext = create(crop=16).clone(augment=mark)
  view = jax.jit(lambda key: pretext.views(key, image)[:, 0, 0, 0])(
      jax.random.key(0))
  assert abs(np.corrcoef(view.T)[2, :2]).max() < 0.2


def test_where_a_patch_is_from_tells_nothing_of_the_scar():
  image = jnp.asarray(np.stack([ramp(32, 32)] * 200))
  view = np.asarray(jax.jit(create().views)(jax.random.key(0), image))
  pasted = np.any(view != ramp(32, 32), axis=-1)[:, 1:]
  moved = pasted.any(axis=(2, 3)).all(axis=1)  # seldom back to where it was
  for axis in (0, 1):
    source = view[moved, 1:, ..., axis].mean(axis=(2, 3), where=pasted[moved])
    assert abs(np.corrcoef(source.T)[0, 1]) < 0.3


def test_views_apart_have_statistics_of_their_own():
  image = jnp.asarray(random_image((4, 16, 16, 3)))
  variables, losses = init(create(), image), []
  for joint in (True, False):
    pretext = create(joint=joint)
    (loss, _), _ = tasks.apply(
        pretext, variables, image, train=True, mutable=['batch_stats'],
        rngs={'views': jax.random.key(3)})
    losses.append(float(loss))
  assert abs(losses[0] - losses[1]) > 1e-4


def test_features_and_scores_of_an_image_are_those_of_its_crops():
  image = jnp.asarray(random_image((3, 35, 32, 3)))
  pretext = create(crop=16)
  variables = init(pretext, image)
  got = tasks.apply(pretext, variables, image, method='embed')
  score = tasks.apply(pretext, variables, image, method='scores')['defect']
  # One row of pixels is left over above, two below.
  crops = [image[:, 1 + y:17 + y, x:x + 16] for y in (0, 16) for x in (0, 16)]
  parts = [tasks.apply(pretext, variables, each, method='embed')
           for each in crops]
  for name in ('pool', 'head'):
    np.testing.assert_allclose(
        got[name], np.mean([part[name] for part in parts], axis=0), atol=1e-5)
  each = [tasks.apply(pretext, variables, part, method='scores')['defect']
          for part in crops]
  np.testing.assert_allclose(score, np.max(each, axis=0), atol=1e-6)
  assert got['pool'].shape == (3, 8) and score.shape == (3,)


def test_imagenets_normalisation_is_the_encoders_input():
  image = jnp.asarray(random_image((2, 16, 16, 3)))
  pretext = create(normalise='imagenet', head=())
  variables = init(pretext, image)
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  expected = tasks.apply(create(head=()), variables,
                         jnp.asarray((image - mean) / std), method='embed')
  got = tasks.apply(pretext, variables, image, method='embed')
  assert set(got) == {'pool'}
  np.testing.assert_allclose(got['pool'], expected['pool'], rtol=1e-4)


def test_images_are_not_standardised_twice():
  encoder = dict(name='resnet', mean=(0.5,) * 3, sd=(0.2,) * 3)
  with pytest.raises(errors.InputError, match='standardise images twice'):
    pretexts.create('cutpaste', encoder=encoder, dtype=jnp.float32,
                    normalise='imagenet')
  pretexts.create('cutpaste', encoder=encoder, dtype=jnp.float32)


@pytest.mark.parametrize('kwargs, message', [
    (dict(task='3-way'), "unknown pretext.task '3-way'; did you mean '3way'"),
    (dict(normalise='imgnet'), "did you mean 'imagenet'"),
    (dict(crop=-1), 'pretext.crop=-1'),
    (dict(crpo=32), "did you mean 'pretext.crop'"),
    (dict(defects=dict(aera=(0.1, 0.2))),
     "did you mean 'pretext.defects.area'")])
def test_misspelt_fields_of_the_task_offer_the_nearest(kwargs, message):
  with pytest.raises(errors.InputError, match=message) as error:
    create(**kwargs)
  assert '\n' not in str(error.value)


def test_a_crop_larger_than_the_image_is_refused():
  with pytest.raises(errors.InputError, match='crop=32 .* 16x16'):
    init(create(crop=32), jnp.zeros((2, 16, 16, 3)))


def test_lists_from_a_runs_config_json_are_as_good_as_tuples():
  assert create(defects=dict(area=[0.1, 0.2])) == create(
      defects=dict(area=(0.1, 0.2)))


def textures(n):
  """Returns stripes of random phase, u8[n, 24, 24, 3]."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:24, :24]
  phase = rng.uniform(0, 6.28, (n, 1, 1))
  value = 127 + 80 * np.sin(0.9 * x + 0.5 * y + phase)
  noise = rng.normal(0, 3, (n, 24, 24, 3))
  return np.clip(value[..., None] + noise, 0, 255).astype(np.uint8)


def test_sixty_steps_teach_the_three_classes_far_above_chance():
  defects = SMALL | dict(area=(0.1, 0.2))
  pretext = pretexts.create(
      'cutpaste', encoder=dict(name='convnet', channels=(16, 32)),
      dtype=jnp.float32, head=(), defects=defects)
  mesh = sharding.mesh()
  optimizer = optimizers.create(
      total_steps=60, steps_per_epoch=2, learning_rate=0.1)
  state = steps.create_state(pretext, optimizer, 0, (24, 24, 3))
  before = jax.tree.map(np.array, state.params)
  take = steps.make_steps(pretext, optimizer, mesh)
  images, accuracy = jnp.asarray(textures(64)), []
  for k in range(60):
    index = jnp.asarray(steps.batch_index(0, 64, 32, k, 1))
    state, metrics = take(state, images, index, steps.root_key(0))
    accuracy.append(float(metrics['accuracy'][0]))
  assert np.mean(accuracy[:5]) < 0.55
  assert np.mean(accuracy[-10:]) > 0.7
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before,
                       jax.device_get(state.params))
  assert all(jax.tree.leaves(moved))


def test_every_task_is_of_a_known_kind():
  assert set(task.TASKS) == {'3way', *cutpaste.KINDS}
  assert augment.Chain() == create().augment


def test_a_grey_image_whose_hue_is_to_turn_is_refused():
  image, key = jnp.ones((16, 16, 1)), jax.random.key(0)

  def changed(**how):
    return jax.eval_shape(lambda image: cutpaste.cutpaste(
        key, image, cutpaste.Defects(**how)), image)

  with pytest.raises(errors.InputError, match="'hue' needs 3 colour channels"):
    changed()
  assert changed(hue=0.).shape == (16, 16, 1)
