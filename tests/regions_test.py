"""Where a heat map is above its threshold, by a search pixel by pixel."""
import types

import numpy as np
import pytest
from PIL import Image

from deep_oc import bundle, detector
from deep_oc.bundle import pictures, regions
from deep_oc.errors import InputError
from tests import served


def _grown(above):
  """Returns the sets of pixels (y, x) that touch, corners included."""
  left = {(int(y), int(x)) for y, x in zip(*np.nonzero(above), strict=True)}
  found = []
  while left:
    member, new = set(), {min(left)}
    while new:
      member |= new
      left -= new
      new = {(y + i, x + j) for y, x in new for i in (-1, 0, 1)
             for j in (-1, 0, 1)} & left
    found.append(member)
  return found


@pytest.mark.parametrize('seed', range(5))
def test_regions_are_what_touches_above_the_threshold(seed):
  rng = np.random.default_rng(seed)
  heat = np.float32(rng.normal(size=(9, 14)))
  wanted = []
  for member in _grown(heat > 1):
    rows, columns = ([each[axis] for each in member] for axis in (0, 1))
    peak = max(float(heat[each]) for each in member)
    wanted.append((
        min(columns) / 14, min(rows) / 9, (np.ptp(columns) + 1) / 14,
        (np.ptp(rows) + 1) / 9, len(member) / heat.size, peak))
  found = regions.find(heat, 1.)
  assert len(found) > 3
  assert {type(value) for each in found for value in each} == {float}
  np.testing.assert_allclose(found, sorted(wanted, key=lambda each: -each[-1]))


def test_an_image_has_one_if_it_is_anomalous_to_the_last_bit():
  heat = np.zeros((4, 5), np.float32)
  heat[2, 3] = 0.1  # a little above the 0.1 of float64
  assert [each.peak for each in regions.find(heat, 0.1)] == [heat.max()]
  assert regions.find(heat, float(heat.max())) == []
  assert not regions.above(heat, float(heat.max())).any()


def test_rectangles_are_in_pixels_of_the_photo_and_hold_all_of_it():
  heat = np.zeros((4, 10))
  heat[1:3, 2:5], heat[3, 9] = 2, 3
  found = regions.find(heat, 1)
  assert regions.COLUMNS == (
      'path', 'region', 'x', 'y', 'width', 'height', 'area', 'peak')
  assert list(regions.rows('a.png', found, (1000, 80))) == [
      ('a.png', 1, 900, 60, 100, 20, '2.5', '3'),
      ('a.png', 2, 200, 20, 300, 40, '15', '2')]
  # Columns 2 to 5 of 10 are 1.4 to 3.5 of 7, rows 1 to 3 of 4 are 0.75 to 2.25
  # of 3.
  assert list(regions.rows('', found, (7, 3)))[1][2:6] == (1, 0, 3, 3)
  # Seven tenths of 90 are less than 63 in float64, and ten fourteenths of 42
  # more than 30.
  for at, count, size in ((7, 10, 90), (9, 14, 42)):
    heat = np.zeros((1, count))
    heat[0, at] = 2
    assert list(regions.rows('', regions.find(heat, 1), (size, 1)))[0][2:6] == (
        at * size // count, 0, size // count, 1)


def test_the_peak_is_that_of_its_own_pixels():
  heat = np.array([[2, 2, 2], [2, 0, 0], [2, 0, 3]])
  assert [each.peak for each in regions.find(heat, 1)] == [3, 2]


def test_the_size_of_a_photo_is_that_of_how_it_stands(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # lies on its side
  Image.new('RGB', (30, 20)).save(tmp_path / 'a.jpg', exif=exif)
  assert pictures.size(tmp_path / 'a.jpg') == (20, 30)


@pytest.mark.parametrize('method, pad, wanted', [
    ('squeeze', 0, True), ('square', 0, False), ('squeeze', 2, False)])
def test_only_what_shows_all_of_a_photo_tells_where(
    tmp_path, method, pad, wanted):
  how = dict(method=method, pad=pad)
  assert pictures.keeps_all(how) == wanted
  np.savez(tmp_path / 'calibration.npz')
  for feature in ('windows', 'pool'):
    found = bundle.Bundle(tmp_path, served.ABOUT | dict(
        feature=feature, preprocessing=how, files={'calibration.npz': {}}))
    assert found.has_regions == (wanted and feature == 'windows')


@pytest.mark.parametrize('source, feature, wanted', [
    (dict(source='folder'), 'windows', True),
    (dict(source='folder'), 'pool', False),
    (dict(source='npz', pad=2), 'windows', False),
    (dict(source='cat_vs_dog'), 'windows', False)])
def test_a_detector_tells_where_by_the_threshold_that_it_judges_by(
    source, feature, wanted):
  found = object.__new__(detector.Detector)
  found.feature, found.threshold_ = feature, 1.
  found._config = types.SimpleNamespace(data=source)
  assert found.has_regions == wanted
  heat = np.array([[[0, 2.]], [[0, 1.]]])
  if wanted:
    assert found.regions(heat) == [[(0.5, 0, 0.5, 1, 0.5, 2)], []]
    return
  with pytest.raises(InputError, match='and where they show whole photos'):
    found.regions(heat)
