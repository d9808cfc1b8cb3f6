"""Tests of the generated fabric and its flaws."""
import numpy as np
import pytest
from scipy import ndimage, special
from sklearn import metrics

from deep_oc import data, protocols
from deep_oc.data import _surfaces

FLAWS = tuple(_surfaces._FLAWS)


@pytest.fixture(scope='module')
def fabric():
  return data.load('builtin', name='woven_fabric')


def test_a_good_class_and_balanced_flaws(fabric):
  assert fabric.train.image.shape == (200, 64, 64, 3)
  assert fabric.test.image.shape == (180, 64, 64, 3)
  assert fabric.test.mask.shape == (180, 64, 64)
  assert fabric.class_names == ('good', *FLAWS)
  assert np.bincount(fabric.test.label).tolist() == [60] + 6 * [20]
  for part in (fabric.train, fabric.test):
    assert part.image.dtype == np.uint8
    assert part.label.dtype == np.int32
    np.testing.assert_array_equal(part.anomaly, part.label != 0)


def test_every_training_image_is_good_and_has_no_mask(fabric):
  assert not fabric.train.label.any()
  assert fabric.train.mask is None


def test_every_call_draws_the_same_images(fabric):
  again = _surfaces.create()
  np.testing.assert_array_equal(fabric.train.image, again.train.image)
  np.testing.assert_array_equal(fabric.test.image, again.test.image)
  np.testing.assert_array_equal(fabric.test.mask, again.test.mask)


def test_no_cloth_occurs_twice(fabric):
  good = [_surfaces._picture((1, i), 'good')[0] for i in range(180)]
  images = np.concatenate([fabric.train.image, good])
  assert len({image.tobytes() for image in images}) == 380


def test_a_mask_is_where_the_flaw_changed_the_image(fabric):
  for i, (image, mask) in enumerate(
      zip(fabric.test.image, fabric.test.mask, strict=True)):
    good, _ = _surfaces._picture((1, i), 'good')
    change = abs(np.int16(image) - good).max(axis=-1)
    np.testing.assert_array_equal(mask, change > 0)
    assert not mask.any() or change[mask].min() >= _surfaces._VISIBLE


def test_good_images_have_empty_masks(fabric):
  assert not fabric.test.mask[fabric.test.label == 0].any()


def test_a_flaw_is_one_region_of_half_to_twelve_percent_of_the_image(fabric):
  mask = fabric.test.mask[fabric.test.label > 0]
  share = mask.mean(axis=(1, 2))
  assert 0.005 < share.min() < share.max() < 0.12
  assert {ndimage.label(each, np.ones((3, 3)))[1] for each in mask} == {1}


@pytest.mark.parametrize('seed', range(3))
def test_flaws_of_one_seed_share_the_cloth(seed):
  good, _ = _surfaces._picture((2, seed), 'good')
  for kind in FLAWS:
    image, mask = _surfaces._picture((2, seed), kind)
    np.testing.assert_array_equal(image[~mask], good[~mask])


def test_only_the_largest_region_is_kept():
  mask = np.zeros((8, 8), bool)
  mask[0, :2] = mask[7, 7] = True
  mask[3, 3] = mask[4, 4] = mask[5, 3] = True  # diagonals connect
  expected = np.zeros((8, 8), bool)
  expected[3, 3] = expected[4, 4] = expected[5, 3] = True
  np.testing.assert_array_equal(_surfaces._largest(mask), expected)


@pytest.mark.parametrize('unit', [False, True])
def test_distances_between_pixels_hardly_find_the_flaws(fabric, unit):
  problem = protocols.one_class(fabric, normal='good')
  train, test = (x.image.reshape(len(x), -1) / np.float32(255)
                 for x in (problem.train, problem.test))
  if unit:
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True)
                   for x in (train, test))
  gamma = 10 / (train.shape[1] * train.var())
  distance = metrics.pairwise.euclidean_distances(test, train, squared=True)
  score = -special.logsumexp(-gamma * distance, axis=1)
  assert metrics.roc_auc_score(problem.test.anomaly, score) < 0.65


def test_brightness_and_contrast_hardly_find_the_flaws(fabric):
  image = np.float32(fabric.test.image)
  for statistic in (image.mean(axis=(1, 2, 3)), image.std(axis=(1, 2, 3))):
    auroc = metrics.roc_auc_score(fabric.test.anomaly, statistic)
    assert 0.4 < auroc < 0.6


def test_one_class_trains_on_good_images_and_finds_the_rest_abnormal(fabric):
  problem = protocols.one_class(fabric, normal='good')
  assert (len(problem.train), problem.train.anomaly.any()) == (200, False)
  np.testing.assert_array_equal(problem.test.anomaly, fabric.test.label > 0)
  np.testing.assert_array_equal(problem.test.mask, fabric.test.mask)
