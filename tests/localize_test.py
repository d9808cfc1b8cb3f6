"""Dense scores against one window, one position and one pixel at a time."""
import numpy as np
import pytest
from scipy import stats
from sklearn import covariance

from deep_oc import errors, localize


def _embed(window):
  """A feature that tells where in the window things are: f32[n, 5]."""
  x = window.astype(np.float32) / 255
  return np.stack([x.mean((1, 2, 3)), x[:, 0, 0, 0], x[:, -1, -1, 2],
                   x[:, :, 0].mean((1, 2)), x.std((1, 2, 3))], axis=1)


@pytest.mark.parametrize('side, stride, batch', [(8, 4, 7), (5, 3, 512)])
def test_dense_features_equal_those_of_every_window_by_itself(
    side, stride, batch):
  image = np.random.default_rng(0).integers(0, 256, (2, 20, 17, 3), np.uint8)
  got = localize.features(_embed, image, side, stride, batch)
  rows = [*range(0, 20 - side, stride), 20 - side]
  columns = [*range(0, 17 - side, stride), 17 - side]
  assert got.shape == (2, len(rows), len(columns), 5)
  for n in range(2):
    for i, y in enumerate(rows):
      for j, x in enumerate(columns):
        one = _embed(image[n:n + 1, y:y + side, x:x + side])
        np.testing.assert_allclose(got[n, i, j], one[0], rtol=1e-6)


def test_the_papers_grid_has_57_positions():
  begin = localize.starts(256, 32, 4)
  assert (len(begin), begin[0], begin[-1]) == (57, 0, 224)
  assert localize.starts(10, 4, 4).tolist() == [0, 4, 6]


@pytest.mark.parametrize('n', [3, 12, 40])
def test_a_position_has_the_density_of_scikit_learns_covariance(n):
  rng = np.random.default_rng(n)
  train = rng.normal(size=(n, 2, 1, 8)) * np.arange(1, 9)
  test = rng.normal(size=(5, 2, 1, 8))
  got = localize.PositionDensity(norm=None).fit(train).score(test)
  for y in range(2):
    fitted = covariance.LedoitWolf().fit(train[:, y, 0])
    wanted = -stats.multivariate_normal.logpdf(
        test[:, y, 0], fitted.location_, fitted.covariance_)
    np.testing.assert_allclose(got[:, y, 0], wanted, rtol=1e-6)


def test_each_position_is_judged_by_its_own_images():
  rng = np.random.default_rng(0)
  train = rng.normal(size=(30, 1, 2, 6)) * 0.1
  train[:, 0, 0, 0] += 5
  train[:, 0, 1, 1] += 5
  test = train[:4, :, ::-1]  # the same windows at each other's positions
  own = localize.PositionDensity().fit(train)
  assert own.score(test).min() > own.score(train).max()
  shared = localize.SharedDensity().fit(train)
  np.testing.assert_allclose(
      shared.score(test), shared.score(train[:4])[:, :, ::-1])


def test_equal_training_windows_give_finite_scores():
  train = np.ones((5, 1, 1, 4), np.float32)
  test = np.eye(4, dtype=np.float32)[:, None, None]
  got = localize.PositionDensity().fit(train).score(test)
  assert np.isfinite(got).all()
  assert got.min() > localize.PositionDensity().fit(train).score(train).max()


def test_a_constant_map_stays_constant_up_to_the_edges():
  score = np.full((1, 57, 57), -2000.)
  got = localize.upsample(score, 256, 256, 32, 4)
  assert got.shape == (1, 256, 256)
  np.testing.assert_allclose(got, -2000)


def test_upsampling_equals_a_transposed_convolution_inside():
  rng = np.random.default_rng(0)
  score = rng.normal(size=(1, 9, 9))
  kernel = np.outer(localize.gaussian(8, 2.), localize.gaussian(8, 2.))
  total, weight = np.zeros((24, 24)), np.zeros((24, 24))
  for i in range(9):
    for j in range(9):
      at = np.s_[2 * i:2 * i + 8, 2 * j:2 * j + 8]
      total[at] += kernel * score[0, i, j]
      weight[at] += kernel
  got = localize.upsample(score, 24, 24, 8, 2, sigma=2.)
  np.testing.assert_allclose(got[0], total / weight)


def test_one_high_score_is_brightest_in_the_middle_of_its_window():
  score = np.zeros((1, 57, 57))
  score[0, 10, 30] = 1
  got = localize.upsample(score, 256, 256, 32, 4)[0]
  y, x = np.unravel_index(got.argmax(), got.shape)
  assert abs(y - 55.5) <= 2 and abs(x - 135.5) <= 2


def test_an_even_kernel_is_symmetric_with_its_centre_twice():
  for side in (5, 8, 32):
    taps = localize.gaussian(side)
    assert len(taps) == side
    np.testing.assert_allclose(taps, taps[::-1])
  assert localize.gaussian(8)[3] == localize.gaussian(8)[4] == 1
  odd = localize.gaussian(7, 1.5)
  np.testing.assert_allclose(localize.gaussian(8, 1.5), [*odd[:4], *odd[3:]])


@pytest.mark.parametrize('side, stride', [(33, 4), (0, 4), (8, 0)])
def test_windows_that_do_not_fit_are_one_line(side, stride):
  with pytest.raises(errors.InputError, match=f'windows of {side} pixels'):
    localize.starts(32, side, stride)


def test_a_single_normal_image_is_one_line():
  with pytest.raises(errors.InputError, match='two normal images'):
    localize.PositionDensity().fit(np.ones((1, 2, 2, 3)))
