import itertools

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn import metrics as sklearn_metrics

from deep_oc import metrics, pixel_metrics
from deep_oc.errors import InputError

LIMITS = 0.01, 0.1, 0.3, 1.


def _case(seed, values, shape=(3, 7, 6)):
  """Random maps of few distinct values, and masks of small defects."""
  random = np.random.default_rng(seed)
  masks = random.random(shape) < 0.3
  masks[0] = False  # an image without a defect
  return (random.integers(0, values, shape) + masks) / 3, masks


cases = pytest.mark.parametrize(
    'maps, masks', [_case(seed, values) for seed in range(4)
                    for values in (1, 2, 5, 1000)])


def _components(masks, connectivity):
  """Yields the defects by flood fill, as sets of (image, row, column)."""
  left = {tuple(map(int, at)) for at in np.argwhere(masks)}
  steps = [(i, j) for i, j in itertools.product((-1, 0, 1), repeat=2)
           if connectivity == 8 or abs(i) + abs(j) == 1]
  while left:
    found, border = set(), [left.pop()]
    while border:
      n, y, x = border.pop()
      found.add((n, y, x))
      near = {(n, y + i, x + j) for i, j in steps} & left
      left -= near
      border += near
    yield found


def _brute_force(maps, masks, limit, connectivity=8):
  """Flags at each threshold, and sums trapezoids cut off at the limit."""
  defects = list(_components(masks, connectivity))
  points = [(0., 0.)]
  for threshold in sorted(set(maps.ravel()), reverse=True):
    flagged = maps >= threshold
    points.append((flagged[~masks].mean(), np.mean([
        np.mean([flagged[at] for at in defect]) for defect in defects])))
  area = 0.
  for (x0, y0), (x1, y1) in itertools.pairwise(points):
    end = min(x1, limit)
    if x0 < end:
      y = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
      area += (end - x0) * (y0 + y) / 2
  return 100 * area / limit


@cases
@pytest.mark.parametrize('connectivity', [4, 8])
def test_aupro_equals_brute_force_over_all_thresholds(
    maps, masks, connectivity):
  for limit in LIMITS:
    assert pixel_metrics.aupro(maps, masks, limit, connectivity) == (
        pytest.approx(_brute_force(maps, masks, limit, connectivity)))


@cases
def test_aupro_to_the_end_is_the_mean_of_the_defects_auroc(maps, masks):
  normal = maps[~masks]
  aurocs = []
  for defect in _components(masks, 8):
    scores = [maps[at] for at in defect]
    aurocs.append(sklearn_metrics.roc_auc_score(
        np.arange(len(scores) + len(normal)) < len(scores),
        np.append(scores, normal)))
  assert pixel_metrics.aupro(maps, masks, 1.) == pytest.approx(
      100 * np.mean(aurocs))


@cases
def test_pixel_auroc_equals_sklearns(maps, masks):
  assert pixel_metrics.pixel_auroc(maps, masks) == pytest.approx(
      100 * sklearn_metrics.roc_auc_score(masks.ravel(), maps.ravel()))


def _all(maps, masks):
  return [pixel_metrics.pixel_auroc(maps, masks)] + [
      pixel_metrics.aupro(maps, masks, limit) for limit in LIMITS]


@cases
def test_only_the_order_of_the_scores_matters(maps, masks):
  expected = _all(maps, masks)
  for same in (np.exp(maps), 1e-30 * maps - 7e-30, np.float32(3 * maps),
               np.uint16(3 * maps), np.where(maps == maps.max(), np.inf, maps)):
    assert _all(same, masks) == pytest.approx(expected)


@cases
def test_the_order_of_the_images_and_their_orientation_do_not_matter(
    maps, masks):
  expected = _all(maps, masks)
  assert _all(maps[::-1], masks[::-1]) == pytest.approx(expected)
  assert _all(maps.swapaxes(1, 2), masks.swapaxes(1, 2)) == pytest.approx(
      expected)


def test_a_mask_is_whatever_is_not_0():
  maps, masks = _case(0, 5)
  assert _all(maps, 255 * np.uint8(masks)) == _all(maps, masks)


@pytest.mark.parametrize('limit', LIMITS)
def test_scores_that_are_all_equal_give_the_diagonal(limit):
  masks = _case(0, 1)[1]
  maps = np.full(masks.shape, 0.7, np.float32)
  assert pixel_metrics.pixel_auroc(maps, masks) == 50
  assert pixel_metrics.aupro(maps, masks, limit) == pytest.approx(50 * limit)
  fpr, pro = pixel_metrics.pro_curve(maps, masks)
  assert fpr.tolist() == pro.tolist() == [0, 1]


def test_perfect_maps_give_100_and_inverted_ones_0():
  masks = _case(0, 1)[1]
  noise = np.random.default_rng(0).random(masks.shape)
  for maps in (masks, masks * 1., masks + 0.9 * noise):
    assert _all(maps, masks) == pytest.approx([100] * 5)
  for maps in (-1. * masks, 0.9 * noise - masks):
    assert _all(maps, masks) == pytest.approx([0] * 5, abs=1e-9)


def test_no_metric_leaves_0_to_100():
  random = np.random.default_rng(0)
  for _ in range(200):
    masks = random.random((2, 5, 5)) < random.random()
    masks.ravel()[:2] = False, True
    maps = random.integers(0, 4, masks.shape) + random.integers(-9, 9) * masks
    for limit in (random.random() + 1e-9, 1e-9, *LIMITS):
      assert 0 <= pixel_metrics.aupro(maps, masks, limit) <= 100
    assert 0 <= pixel_metrics.pixel_auroc(maps, masks) <= 100


# Defects of 1 and of 3 pixels, 8 normal pixels.
HAND_MASK = np.array([[[1, 0, 1, 1],
                       [0, 0, 1, 0],
                       [0, 0, 0, 0]]], bool)
HAND_MAP = np.array([[[5, 0, 9, 5],
                      [7, 5, 1, 0],
                      [0, 0, 0, 0]]])


def test_an_example_by_hand():
  """Thresholds 9, 7, 5, 1, 0. At 5 a tie of three: a line of slope > 0."""
  fpr, pro = pixel_metrics.pro_curve(HAND_MAP, HAND_MASK)
  np.testing.assert_allclose(fpr, [0, 0, 1 / 8, 2 / 8, 2 / 8, 1])
  np.testing.assert_allclose(pro, [0, 1 / 6, 1 / 6, 5 / 6, 1, 1])
  # 1/8 at 1/6, a trapezoid from 1/6 to 5/6, the rest at 1.
  assert pixel_metrics.aupro(HAND_MAP, HAND_MASK, 0.5) == pytest.approx(
      100 * (1 / 6 / 8 + 1 / 2 / 8 + 0.25) / 0.5)
  # The limit lies in the middle of the tie: the line is cut at 3/6.
  assert pixel_metrics.aupro(HAND_MAP, HAND_MASK, 3 / 16) == pytest.approx(
      100 * (1 / 6 / 8 + (1 / 6 + 3 / 6) / 2 / 16) / (3 / 16))
  # The limit is where the curve stands upright.
  assert pixel_metrics.aupro(HAND_MAP, HAND_MASK, 0.25) == pytest.approx(
      100 * (1 / 6 / 8 + 1 / 2 / 8) / 0.25)
  # 9 wins 8 pairs, each 5 wins 6, ties 1 and loses 1, 1 wins 6: of 32.
  assert pixel_metrics.pixel_auroc(HAND_MAP, HAND_MASK) == 100 * 27 / 32


def test_pixels_that_touch_by_a_corner_are_one_defect_unless_told():
  mask = np.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]]], bool)
  maps = mask * [[[9, 0, 0], [0, -1, -1], [0, 0, 0]]]  # finds the corner only
  assert pixel_metrics.aupro(maps, mask) == pytest.approx(100 / 3)
  assert pixel_metrics.aupro(maps, mask, connectivity=4) == pytest.approx(50)


def test_defects_at_one_place_in_two_images_are_two():
  masks = np.zeros((2, 3, 3), bool)
  masks[0, 0, 0] = masks[1, 0, :] = True
  maps = np.where(masks, 9, 0)
  maps[0, 0, 0] = -1  # of two defects one, of four pixels one
  assert pixel_metrics.aupro(maps, masks) == pytest.approx(50)


@cases
def test_the_curve_rises_from_0_to_1_by_distinct_thresholds(maps, masks):
  for curve in pixel_metrics.pro_curve(maps, masks):
    assert curve[0] == 0 and curve[-1] == 1
    assert (np.diff(curve) >= 0).all()
    assert len(curve) == len(np.unique(maps)) + 1


MAPS, MASKS = _case(0, 5)


def _with(array, at, value):
  array = array.copy()
  array[at] = value
  return array


def _obuchowski(maps_a, maps_b, masks):
  """Returns the difference of two AUROCs and its variance, pair by pair."""
  of_defects, of_normals = [], []
  for maps in maps_a, maps_b:
    wins = np.array([[(x > y) + 0.5 * (x == y) for y in maps[~masks]]
                     for x in maps[masks]])
    of_defects.append(wins.mean(axis=1))
    of_normals.append(wins.mean(axis=0))
  placements = np.zeros(masks.shape)
  placements[masks] = of_defects[0] - of_defects[1]
  placements[~masks] = of_normals[0] - of_normals[1]
  mean = (of_defects[0] - of_defects[1]).mean()
  inner, outer, cross = [], [], []  # of images: V10, V01 and their product
  for of_image, mask in zip(placements, masks, strict=True):
    v10, v01 = of_image[mask], of_image[~mask]
    if len(v10):
      inner.append((v10.sum() - len(v10) * mean) ** 2)
    if len(v01):
      outer.append((v01.sum() - len(v01) * mean) ** 2)
    cross.append((v10.sum() - len(v10) * mean)
                 * (v01.sum() - len(v01) * mean))
  m, n = masks.sum(), (~masks).sum()
  unbiased = lambda x: len(x) / (len(x) - 1) * sum(x)  # noqa: E731
  return 100 * mean, (unbiased(inner) / m**2 + unbiased(outer) / n**2
                      + 2 * unbiased(cross) / (m * n))


def _varied(seed):
  """As `_case`: some images with defects, and one that is nothing else."""
  maps, masks = _case(seed, 5 + 100 * seed, (6, 4, 3))
  masks[1] = False
  masks[2] = True
  return maps, masks


@pytest.mark.parametrize('seed', range(3))
def test_the_interval_of_pixels_is_obuchowskis(seed):
  maps, masks = _varied(seed)
  mean, variance = _obuchowski(maps, np.zeros_like(maps), masks)
  half = stats.norm.ppf(0.975) * variance ** 0.5
  assert pixel_metrics.pixel_auroc(maps, masks) == pytest.approx(mean + 50)
  assert pixel_metrics.pixel_auroc_interval(maps, masks) == pytest.approx(
      np.clip([mean + 50 - 100 * half, mean + 50 + 100 * half], 0, 100))


@pytest.mark.parametrize('seed', range(3))
def test_two_kinds_of_maps_are_told_apart_by_obuchowskis_test(seed):
  maps, masks = _varied(seed)
  other = _case(seed + 10, 7, maps.shape)[0]
  mean, variance = _obuchowski(maps, other, masks)
  half = 100 * stats.norm.ppf(0.975) * variance ** 0.5
  p = 2 * stats.norm.sf(abs(mean / 100) / variance ** 0.5)
  wanted = mean, mean - half, mean + half, p
  assert pixel_metrics.paired(maps, other, masks) == pytest.approx(wanted)
  assert pixel_metrics.paired(other, maps, masks) == pytest.approx(
      (-mean, -mean - half, -mean + half, p))
  assert pixel_metrics.paired(maps, 2 * maps, masks) == (0, 0, 0, 1)


def test_pixels_that_are_images_have_delongs_interval_and_test():
  random = np.random.default_rng(0)
  masks = random.random((40, 1, 1)) < 0.4
  maps = random.normal(size=masks.shape) + masks
  other = maps + random.normal(size=masks.shape)
  flat = [x.ravel() for x in (maps, other, masks)]
  assert pixel_metrics.pixel_auroc_interval(maps, masks) == pytest.approx(
      metrics.auroc_interval(flat[0], flat[2]))
  assert pixel_metrics.paired(maps, other, masks) == pytest.approx(
      metrics.paired(*flat))


@pytest.mark.parametrize('width', [2, 3])
def test_maps_of_one_value_each_leave_no_doubt(width):
  masks = np.ones((3, 1, width), bool)  # of each image alike
  masks[:, :, -1] = False
  kinds = [np.repeat(np.reshape(values, (3, 1, 1)), width, 2)
           for values in ((1., 2., 1.), (3., 0., 1.), (0., 3., 3.))]
  for maps, other in itertools.permutations(kinds, 2):
    np.testing.assert_allclose(
        pixel_metrics.pixel_auroc_interval(maps, masks), 50, atol=1e-4)
    difference, *ends, p = pixel_metrics.paired(maps, other, masks)
    assert difference == 0 and p == 1
    np.testing.assert_allclose(ends, 0, atol=1e-4)


def _population(random, flawed, flawless):
  """Images that differ in how bright they are and how bad their defects."""
  masks = np.zeros((flawed + flawless, 8, 8), bool)
  for mask in masks[:flawed]:
    side = random.integers(2, 5)
    top, left = random.integers(0, 8 - side, 2)
    mask[top:top + side, left:left + side] = True
  per_image = random.normal(size=(2, len(masks), 1, 1))
  return (random.normal(size=masks.shape) + 0.7 * per_image[0]
          + masks * (1.8 + per_image[1]), masks)


def test_the_interval_of_pixels_covers_the_truth_about_19_times_in_20():
  random = np.random.default_rng(0)
  truth = pixel_metrics.pixel_auroc(*_population(random, 6000, 2000))
  covered = []
  for _ in range(400):
    low, high = pixel_metrics.pixel_auroc_interval(
        *_population(random, 60, 20))
    covered.append(low <= truth <= high)
  assert 0.9 < np.mean(covered) < 0.98


@pytest.mark.parametrize('seed', range(3))
def test_the_interval_of_aupro_is_that_of_resampled_images(seed, monkeypatch):
  monkeypatch.setattr(metrics, 'RESAMPLES', 50)
  maps, masks = _varied(seed)
  flawed, random = masks.any(axis=(1, 2)), np.random.default_rng(seed)
  times = np.zeros((50, 6), int)
  for kind in flawed, ~flawed:
    times[:, kind] = random.multinomial(
        kind.sum(), [1 / kind.sum()] * kind.sum(), 50)
  for limit in LIMITS:
    found = [_brute_force(maps[each], masks[each], limit)
             for each in (np.repeat(np.arange(6), row) for row in times)]
    assert pixel_metrics.aupro_interval(
        maps, masks, limit, seed=seed) == pytest.approx(
            np.percentile(found, [2.5, 97.5]))


def test_of_many_pixels_resamples_take_steps_that_change_little(monkeypatch):
  maps, masks = _population(np.random.default_rng(1), 20, 10)
  exact = pixel_metrics.aupro_interval(maps, masks)
  monkeypatch.setattr(pixel_metrics, '_STEPS', 200)
  found = pixel_metrics.aupro_interval(maps, masks)
  assert found != exact
  assert found == pytest.approx(exact, abs=0.3)
  low, high = exact
  assert low < pixel_metrics.aupro(maps, masks) < high
  perfect = maps + 100 * masks
  assert pixel_metrics.aupro_interval(perfect, masks) == pytest.approx(
      (100, 100), abs=1e-9)


@pytest.mark.filterwarnings('error')
def test_aupro_has_an_interval_without_flawless_images():
  maps, masks = _population(np.random.default_rng(2), 12, 0)
  low, high = pixel_metrics.aupro_interval(maps, masks)
  assert low < pixel_metrics.aupro(maps, masks) < high


def test_one_image_with_defects_has_no_interval():
  maps, masks = _case(0, 5)
  masks[1:] = False
  masks[1, 2:4] = True
  for interval in (pixel_metrics.pixel_auroc_interval,
                   pixel_metrics.aupro_interval):
    assert np.isnan(interval(maps, masks)).all()
  difference, *others = pixel_metrics.paired(maps, -maps, masks)
  assert np.isfinite(difference) and np.isnan(others).all()
  whole = np.stack([np.ones((7, 6), bool)] * 2 + [masks[1]])
  assert np.isnan(pixel_metrics.pixel_auroc_interval(maps, whole)).all()


@pytest.mark.parametrize('maps, masks, words', [
    (MAPS, np.zeros_like(MASKS), 'none of the 3 masks'),
    (MAPS, np.ones_like(MASKS), 'every pixel'),
    (MAPS[:0], MASKS[:0], 'none of the 0 masks'),
    (MAPS[1:], MASKS, r'\(2, 7, 6\) and masks \(3, 7, 6\)'),
    (MAPS[0], MASKS[0], 'one shape'),
    (MAPS[..., None], MASKS, 'one shape'),
    (_with(MAPS, (2, 3, 4), np.nan), MASKS, 'map 2 has NaN')])
@pytest.mark.parametrize('metric', [
    pixel_metrics.aupro, pixel_metrics.pixel_auroc, pixel_metrics.pro_curve,
    pixel_metrics.aupro_interval, pixel_metrics.pixel_auroc_interval])
def test_bad_input_gets_one_line(metric, maps, masks, words):
  with pytest.raises(InputError, match=words) as error:
    metric(maps, masks)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('limit', [0, -0.1, 1.1, 30, np.nan])
def test_a_limit_that_is_no_rate_is_an_error(limit):
  for metric in pixel_metrics.aupro, pixel_metrics.aupro_interval:
    with pytest.raises(InputError, match='limit'):
      metric(MAPS, MASKS, limit)


def test_another_connectivity_is_an_error():
  with pytest.raises(InputError, match='connectivity is 6'):
    pixel_metrics.aupro(MAPS, MASKS, connectivity=6)


def test_a_whole_category_of_full_size_maps_is_measured_at_once():
  random = np.random.default_rng(0)
  masks = np.zeros((83, 256, 256), bool)
  for mask, (y, x) in zip(masks[20:], random.integers(0, 200, (63, 2)),
                          strict=True):
    mask[y:y + 40, x:x + 20] = mask[x:x + 9, y:y + 9] = True
  maps = random.normal(size=masks.shape).astype(np.float32)
  maps = ndimage.uniform_filter(maps + masks, (1, 9, 9))
  found = pixel_metrics.aupro(maps, masks)
  assert 50 < found < pixel_metrics.pixel_auroc(maps, masks) < 100
