import numpy as np
import pytest

from deep_oc import distribution
from deep_oc.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)


def turn(k):
  return np.stack([np.rot90(each, k) for each in IMAGE])


def test_no_family_keeps_the_images():
  np.testing.assert_array_equal(distribution.augment(IMAGE, 'none'), IMAGE)


def test_rot_appends_the_three_turns_counter_clockwise():
  expected = np.concatenate([IMAGE, turn(1), turn(2), turn(3)])
  out = distribution.augment(IMAGE, 'rot')
  np.testing.assert_array_equal(out, expected)
  assert out.dtype == np.uint8


def test_hflip_and_vflip_append_the_mirrored_images():
  np.testing.assert_array_equal(
      distribution.augment(IMAGE, 'hflip')[3:], IMAGE[:, :, ::-1])
  np.testing.assert_array_equal(
      distribution.augment(IMAGE, 'vflip')[3:], IMAGE[:, ::-1])


@pytest.mark.parametrize('k', range(1, 9))
def test_geometric_is_the_first_k_of_the_papers_eight(k):
  eight = [flip for t in range(4) for flip in (turn(t), turn(t)[:, :, ::-1])]
  out = distribution.augment(IMAGE, f'geometric{k}')
  np.testing.assert_array_equal(out, np.concatenate(eight[:k]))


def test_the_eight_geometric_copies_differ():
  out = distribution.augment(IMAGE[:1], 'geometric8')
  assert len({each.tobytes() for each in out}) == 8


@pytest.mark.parametrize('family', distribution.FAMILIES)
def test_copies_counts_what_augment_makes(family):
  out = distribution.augment(IMAGE, family)
  assert len(out) == distribution.copies(family) * len(IMAGE)
  np.testing.assert_array_equal(out[:3], IMAGE)


def test_upright_families_flip_at_most_from_left_to_right():
  assert {name for name in distribution.FAMILIES
          if distribution.upright(name)} == {
              'none', 'hflip', 'geometric1', 'geometric2'}


@pytest.mark.parametrize('ask', [
    distribution.copies, lambda family: distribution.augment(IMAGE, family)])
def test_an_unknown_family_offers_the_nearest(ask):
  with pytest.raises(InputError, match="'hflipp'; did you mean 'hflip'"):
    ask('hflipp')


def test_oblong_images_can_be_flipped_but_not_turned():
  oblong = IMAGE[:, :3]
  assert distribution.augment(oblong, 'hflip').shape == (6, 3, 4, 3)
  with pytest.raises(InputError, match="'rot' .* must be square, not 3x4"):
    distribution.augment(oblong, 'rot')
