"""Deletion and insertion against a plain loop over pixels."""
import numpy as np
import pytest
from scipy import stats

from deep_oc import faithfulness

RANDOM = np.random.default_rng(0)
IMAGE, BASELINE = RANDOM.uniform(size=(2, 4, 5, 3)).astype(np.float32)
ATTRIBUTION = RANDOM.normal(size=(4, 5))
WEIGHT = RANDOM.normal(size=(4, 5, 3))


def _score(image):
  return ((image * WEIGHT) ** 2).sum((1, 2, 3))


def _plain(start, end, points):
  """Scores as pixels of `start` become those of `end`, one after another."""
  now, found = np.float64(start), [_score(np.float64(start)[None])[0]]
  order = np.argsort(-ATTRIBUTION, axis=None)
  for place in order:
    y, x = np.unravel_index(place, ATTRIBUTION.shape)
    now[y, x] = end[y, x]
    found.append(_score(now[None])[0])
  return np.array(found)[np.arange(points + 1) * len(order) // points]


@pytest.mark.parametrize('points', [20, 10, 5])
def test_curves_are_those_of_a_plain_loop(points):
  args = _score, IMAGE, ATTRIBUTION, BASELINE, points
  np.testing.assert_allclose(faithfulness.deletion_curve(*args),
                             _plain(IMAGE, BASELINE, points), rtol=1e-5)
  np.testing.assert_allclose(faithfulness.insertion_curve(*args),
                             _plain(BASELINE, IMAGE, points), rtol=1e-5)


def test_areas_are_shares_of_the_rise():
  curve = np.array([7., 4., 3.])  # 1, 1/4, 0 of the fall
  assert faithfulness.deletion(curve) == pytest.approx((1 + 1 / 2) / 4)
  assert faithfulness.insertion(curve[::-1]) == pytest.approx(
      (1 + 1 / 2) / 4)
  assert faithfulness.deletion(3 * curve - 50) == pytest.approx(
      faithfulness.deletion(curve))
  assert np.isnan(faithfulness.deletion(curve[::-1]))
  assert np.isnan(faithfulness.insertion(curve))


def test_an_additive_score_is_best_explained_by_what_each_pixel_adds():
  """No order of pixels takes away faster than that of their shares."""
  def areas(attribution):
    args = _score, IMAGE, attribution, np.zeros_like(IMAGE), 20
    return (faithfulness.deletion(faithfulness.deletion_curve(*args)),
            faithfulness.insertion(faithfulness.insertion_curve(*args)))
  best = areas(((IMAGE * WEIGHT) ** 2).sum(-1))
  for seed in range(20):
    other = areas(np.random.default_rng(seed).normal(size=(4, 5)))
    assert best[0] < other[0] and best[1] > other[1]


def test_equal_attributions_go_in_an_order_that_place_does_not_tell():
  flat = np.zeros((30, 30))
  flat[10:12] = 1
  rank = faithfulness._rank(flat)
  assert sorted(rank.ravel()) == list(range(900))
  assert sorted(rank[10:12].ravel()) == list(range(60))
  rest = np.delete(rank, [10, 11], axis=0)
  assert abs(stats.spearmanr(rest.ravel(), np.arange(rest.size))[0]) < 0.1


def test_similarity_is_of_ranks():
  a = RANDOM.normal(size=(6, 7))
  assert faithfulness.similarity(a, np.exp(a)) == pytest.approx(1)
  assert faithfulness.similarity(a, -a) == pytest.approx(-1)
  assert np.isnan(faithfulness.similarity(a, np.ones_like(a)))
