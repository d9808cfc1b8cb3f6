"""Tests of the images that come with the package's dependencies."""
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from deep_oc import data, protocols
from deep_oc.data import builtin
from deep_oc.errors import InputError


@pytest.fixture(scope='module')
def drawn():
  return data.load('builtin', name='digits_on_photos')


def test_the_default_set_has_ten_balanced_classes_of_colour_images(drawn):
  assert drawn.train.image.shape == (6000, 32, 32, 3)
  assert drawn.test.image.shape == (2000, 32, 32, 3)
  assert drawn.train.image.dtype == np.uint8
  assert drawn.train.label.dtype == np.int32
  assert np.bincount(drawn.train.label).tolist() == [600] * 10
  assert np.bincount(drawn.test.label).tolist() == [200] * 10
  assert drawn.class_names == tuple('0123456789')


def test_every_call_draws_the_same_images(drawn):
  again = data.load('builtin')
  np.testing.assert_array_equal(drawn.train.image, again.train.image)
  np.testing.assert_array_equal(drawn.test.image, again.test.image)


def test_no_image_occurs_twice(drawn):
  images = np.concatenate([drawn.train.image, drawn.test.image])
  assert len({image.tobytes() for image in images}) == 8000


@pytest.fixture
def parts(monkeypatch):
  """Returns the rows and the photographs that each split is drawn from."""
  seen = []
  monkeypatch.setattr(builtin, '_examples', lambda digits, label, row, photos,
                      rng: seen.append((row, photos)))
  builtin.load()
  return seen


def test_train_and_test_share_no_digit(parts):
  (train, _), (test, _) = parts
  assert not set(train) & set(test)
  assert set(train) | set(test) == set(range(1797))


def test_every_drawn_digit_has_the_label_of_its_source():
  _, label, _ = builtin._sources()
  rng = np.random.default_rng(0)
  row = builtin._draw_rows(label, np.arange(900), 50, rng)
  np.testing.assert_array_equal(label[row], np.repeat(np.arange(10), 50))
  assert row.max() < 900


def test_train_and_test_share_no_part_of_a_photograph(parts):
  (_, train), (_, test) = parts
  _, _, whole = builtin._sources()
  for left, right, photo in zip(train, test, whole, strict=True):
    assert left.shape[1] + right.shape[1] <= photo.shape[1]
    np.testing.assert_array_equal(left, photo[:, :left.shape[1]])
    np.testing.assert_array_equal(right, photo[:, -right.shape[1]:])


def test_a_digit_changes_only_the_pixels_under_it():
  image = np.full((32, 32, 3), 200, np.float32)
  digit = np.zeros((8, 8), np.float32)
  digit[3:5, 3:5] = 1
  drawn = builtin._draw(image, digit, np.random.default_rng(0))
  changed = (drawn != 200).any(axis=-1)
  assert 0 < changed.sum() < 200
  assert drawn[changed].mean() < 200  # dark on bright


@pytest.mark.parametrize('normal', [0, 3, 7])
def test_distances_between_pixels_hardly_tell_the_digits_apart(drawn, normal):
  problem = protocols.one_class(drawn, normal=normal)
  train, test = (x.image.reshape(len(x), -1) / np.float32(255)
                 for x in (problem.train, problem.test))
  train, test = (x / np.linalg.norm(x, axis=1, keepdims=True)
                 for x in (train, test))
  gamma = 10 / (train.shape[1] * train.var())
  score = -special.logsumexp(2 * gamma * test @ train.T, axis=1)
  assert metrics.roc_auc_score(problem.test.anomaly, score) < 0.65


def test_an_unknown_builtin_set_names_the_nearest():
  with pytest.raises(InputError, match="did you mean 'digits_on_photos'"):
    data.load('builtin', name='digits_on_photo')
