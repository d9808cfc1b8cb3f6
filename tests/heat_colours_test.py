"""Colours of heat maps: read alike by all, and alike in all of a run."""
import numpy as np
import pytest

from deep_oc import heat_colours

UNIT = heat_colours.Scale(0, 1)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def test_no_alpha_keeps_the_input():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (32, 32, 3), np.uint8)
  heat = rng.random((32, 32), np.float32)
  np.testing.assert_array_equal(
      heat_colours.overlay(image, heat, UNIT, 0.), image)
  alpha = np.where(np.arange(32) < 16, 0, 0.5) * np.ones((32, 1))
  half = heat_colours.overlay(image, heat, UNIT, alpha)
  np.testing.assert_array_equal(half[:, :16], image[:, :16])
  assert (half[:, 16:] != image[:, 16:]).any()


def test_equal_scores_have_equal_colours_in_all_images_of_a_run():
  maps = np.random.default_rng(0).random((8, 32, 32), np.float32)
  maps[0, 3, 4] = maps[1, 20, 7] = 0.7
  grey = np.full((32, 32, 3), 90, np.uint8)
  limits = heat_colours.scale(maps, np.arange(8) % 3 != 0)
  one, other = (heat_colours.overlay(grey, maps[i], limits) for i in (0, 1))
  np.testing.assert_array_equal(one[3, 4], other[20, 7])


def test_the_colour_map_grows_lighter_with_the_score():
  light = heat_colours.colours(np.linspace(0, 1, 256), UNIT) @ LUMINANCE
  assert (np.diff(light) > -0.5).all()  # rounding to whole colours
  assert (np.diff(light[::8]) > 0).all()
  assert light[0] < 5 and light[-1] > 230


def test_scores_beyond_the_scale_have_the_colours_of_its_ends():
  for scale in (heat_colours.Scale(2, 5), heat_colours.Scale(2, 5, 0.1)):
    ends = heat_colours.colours([2., 5.], scale)
    np.testing.assert_array_equal(heat_colours.colours([-9., 99.], scale), ends)
    assert (ends[0] != ends[1]).any()


def test_normal_white_is_darker_than_anomalous_black():
  image = np.array([[[255] * 3, [0] * 3]], np.uint8)
  white, black = heat_colours.overlay(
      image, np.array([[0., 1.]]), UNIT)[0]
  assert white @ LUMINANCE + 50 < black @ LUMINANCE


def test_most_of_what_is_normal_is_dark_and_no_normal_peak_is_cut_off():
  random = np.random.default_rng(0)
  maps = random.gamma(2, size=(20, 16, 16))
  anomaly = np.arange(20) >= 10
  maps[anomaly, :4, :4] += 30
  low, high, _ = limits = heat_colours.scale(maps, anomaly)
  dark = heat_colours.colours(maps[~anomaly], limits) @ LUMINANCE < 60
  assert dark.mean() > 0.95
  assert (maps[~anomaly] <= high).all()
  assert (maps[anomaly, :4, :4] > (low + high) / 2).all()


@pytest.mark.parametrize('anomaly', [None, [False] * 3, [True] * 3])
def test_one_kind_of_image_is_enough_for_a_scale(anomaly):
  anomaly = None if anomaly is None else np.array(anomaly)
  low, high, _ = heat_colours.scale(np.arange(12.).reshape(3, 2, 2), anomaly)
  assert low < high


def test_what_is_normal_does_not_glow_where_no_anomaly_is_there():
  maps = np.random.default_rng(0).uniform(0, 1, (20, 16, 16))
  low, high, knee = limits = heat_colours.scale(maps, np.zeros(20, bool))
  assert limits.share(maps).max() < 0.35 < limits.share(2.)
  assert heat_colours.scale(maps) == (low, pytest.approx(1, abs=0.01), knee)
  maps[0, 3, 3] = 9
  assert heat_colours.scale(maps, np.zeros(20, bool)).high > 7 > 2 * high


def test_a_faint_defect_is_seen_beside_a_glaring_one():
  maps = np.random.default_rng(0).uniform(0, 1, (6, 16, 16))
  maps[3, 4, 4], maps[4, 4, 4], maps[5, 4, 4] = 20, 1e4, 1e4
  anomaly = np.arange(6) >= 3
  limits = heat_colours.scale(maps, anomaly)
  faint, normal = limits.share(maps[3, 4, 4]), limits.share(maps[0])
  assert faint > 0.25 > 0.1 > normal.max()
  middle = limits.share(limits.middle())
  assert middle == pytest.approx(0.5) == heat_colours.Scale(1, 3).share(2.)
