"""Tests of the papers' data sets: rows, labels, names, pixels, caches."""
import collections
import importlib
import io
import os
import pathlib
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from deep_oc import data, protocols, tables
from deep_oc.bundle import pictures
from deep_oc.data import _records, cat_vs_dog, celeba, tfds
from deep_oc.errors import InputError

REAL = os.environ.get('DEEP_OC_TEST_TFDS', '')


def encoded(image, format='png'):
  """Returns the array as the bytes of a file; PNG loses nothing."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, format)
  file.seek(0)
  return file


def pixels(*shape, seed=0):
  return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def prepare(name, folder, examples):
  """Lets TFDS write a set of these examples: {split: [(key, example)]}."""
  builder = tensorflow_datasets.builder(
      name, data_dir=folder, file_format='array_record')
  builder._split_generators = lambda *_, **__: {
      part: iter(each) for part, each in examples.items()}
  builder.download_and_prepare()


def places(tmp_path):
  return {'data_dir': str(tmp_path / 'tfds'),
          'cache_dir': str(tmp_path / 'cache')}


def same(first, second):
  for part in ('train', 'test'):
    a, b = getattr(first, part), getattr(second, part)
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.label, b.label)
  assert first.class_names == second.class_names
  assert first.name == second.name


def take_away(tmp_path):
  """Moves the images, so that only a cache can serve."""
  (tmp_path / 'tfds').rename(tmp_path / 'elsewhere')


# CIFAR-100.


def cifar100(tmp_path, **kwargs):
  return data.load('tfds', name='cifar100', **places(tmp_path), **kwargs)


@pytest.fixture
def hundred(tmp_path):
  """CIFAR-100 with 200 + 100 images: superclass i % 20, class i % 100."""
  prepare('cifar100', tmp_path / 'tfds', {
      part: [(i, {'id': str(i), 'label': i % 100, 'coarse_label': i % 20,
                  'image': encoded(pixels(32, 32, 3, seed=i))})
             for i in range(n)]
      for part, n in (('train', 200), ('test', 100))})
  return tmp_path


def test_a_superclass_has_the_rows_of_its_label(hundred):
  coarse = cifar100(hundred, label='coarse_label')
  assert np.bincount(coarse.train.label).tolist() == [10] * 20
  problem = protocols.one_class(coarse, normal='fish')
  assert (problem.dataset, problem.normal_class) == ('cifar100_coarse', 1)
  assert len(problem.train) == 10 and len(problem.test) == 100
  assert problem.test.anomaly.tolist().count(False) == 5


def test_a_fine_class_has_the_rows_of_its_label(hundred):
  fine = cifar100(hundred)
  assert np.bincount(fine.train.label).tolist() == [2] * 100
  problem = protocols.one_class(fine, normal='worm')
  assert (problem.dataset, problem.normal_class) == ('cifar100', 99)
  assert len(problem.train) == 2 and len(problem.test) == 100
  assert problem.test.anomaly.tolist().count(False) == 1


def test_both_labels_are_of_the_same_images(hundred):
  coarse, fine = cifar100(hundred, label='coarse_label'), cifar100(hundred)
  np.testing.assert_array_equal(coarse.test.image, fine.test.image)
  np.testing.assert_array_equal(coarse.test.label, fine.test.label % 20)
  for image, label in zip(fine.test.image, fine.test.label, strict=True):
    np.testing.assert_array_equal(image, pixels(32, 32, 3, seed=label))


def test_the_labels_have_caches_of_their_own(hundred):
  direct = [cifar100(hundred, label=label)
            for label in ('coarse_label', 'label')]
  assert len(list((hundred / 'cache').iterdir())) == 2
  take_away(hundred)
  for split, label in zip(direct, ('coarse_label', 'label'), strict=True):
    same(split, cifar100(hundred, label=label))


def test_a_label_is_cached_where_it_was_before_there_were_two(tmp_path):
  assert tfds._cache_path('cifar10', '/data', str(tmp_path)) == \
      tfds._cache_path('cifar10', '/data', str(tmp_path), 'label')
  assert tfds._cache_path('cifar10', '/data', '/c').name == \
      'cifar10-c4230405c760.npz'


def test_superclasses_are_called_as_in_the_papers_table():
  published = {key[4]: row['normal_name'] for key, row in
               tables.published().items() if key[0] == 'cifar100_coarse'}
  names = tfds._CLASS_NAMES['cifar100', 'coarse_label']
  assert len(names) == 20
  assert [published[str(i)] for i in range(20)] == list(names)


def test_the_hundred_names_are_different_and_in_alphabetical_order():
  names = tfds._CLASS_NAMES['cifar100', 'label']
  assert len(set(names)) == 100 and sorted(names) == list(names)


@pytest.mark.parametrize('name, label, nearest', [
    ('cifar100', 'coarse_lable', 'coarse_label'),
    ('cifar100', 'lable', 'label'), ('cifar10', 'coarse_label', 'label')])
def test_a_label_that_is_not_there_names_the_nearest(
    tmp_path, name, label, nearest):
  with pytest.raises(InputError, match=f"data.label '{label}'; did you mean "
                     f"'{nearest}'"):
    data.load('tfds', name=name, label=label, **places(tmp_path))


def test_rows_of_mocked_tfds_data_are_counted_by_label(tmp_path):
  with tensorflow_datasets.testing.mock_data(num_examples=60):
    coarse = cifar100(tmp_path, label='coarse_label')
    fine = cifar100(tmp_path)
  assert len(coarse.train) == len(coarse.test) == 60
  assert coarse.train.image.shape == fine.test.image.shape == (60, 32, 32, 3)
  assert (coarse.name, fine.name) == ('cifar100_coarse', 'cifar100')
  assert (len(coarse.class_names), len(fine.class_names)) == (20, 100)
  for split in (coarse, fine):
    normal = int(split.train.label[0])
    problem = protocols.one_class(split, normal=normal)
    assert len(problem.train) == (split.train.label == normal).sum()
    assert problem.test.anomaly.sum() == (split.test.label != normal).sum()


class Rows:
  """A mocked split: its images all alike, its labels in turn."""

  def __init__(self, n, classes):
    self._n, self._classes = n, classes
    self._image = np.zeros((1, 1, 3), np.uint8)

  def __len__(self):
    return self._n

  def __getitem__(self, i):
    return {'image': self._image} | {
        key: i % n for key, n in self._classes.items()}


@pytest.mark.parametrize('name, label, train, test', [
    ('cifar10', 'label', 5000, 1000),
    ('fashion_mnist', 'label', 6000, 1000),
    ('cifar100', 'coarse_label', 2500, 500),
    ('cifar100', 'label', 500, 100)])
def test_at_full_size_a_class_has_the_papers_rows(
    tmp_path, monkeypatch, name, label, train, test):
  classes = {'cifar10': {'label': 10}, 'fashion_mnist': {'label': 10},
             'cifar100': {'label': 100, 'coarse_label': 20}}[name]
  count = classes[label]
  monkeypatch.setattr(_records, 'source', lambda builder, part, *_: Rows(
      count * {'train': train, 'test': test}[part], classes))
  split = data.load('tfds', name=name, label=label, **places(tmp_path))
  problem = protocols.one_class(split, normal=count - 1)
  assert len(problem.train) == train
  assert len(problem.test) == 10_000
  assert problem.test.anomaly.tolist().count(False) == test


# Cats and dogs: their pixels.


def halved(image):
  h, w, c = image.shape
  return image.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))


def shares(image, side, axis):
  """Averages by cutting every pixel into `side` equal pieces."""
  n = image.shape[axis]
  pieces = np.repeat(image, side, axis)
  shape = (*image.shape[:axis], side, n, *image.shape[axis + 1:])
  return pieces.reshape(shape).mean(axis + 1)


def test_halving_is_the_mean_of_four_pixels():
  image = pixels(16, 16, 3)
  np.testing.assert_array_equal(
      cat_vs_dog.square(image, 8), np.rint(halved(image)))


@pytest.mark.parametrize('factor', [1, 3, 5])
def test_an_integer_factor_is_the_mean_of_a_block(factor):
  image = pixels(8 * factor, 8 * factor, 3)
  blocks = image.reshape(8, factor, 8, factor, 3).mean((1, 3))
  np.testing.assert_array_equal(cat_vs_dog.square(image, 8), np.rint(blocks))


def test_the_central_square_is_kept():
  wide = pixels(16, 28, 3)
  np.testing.assert_array_equal(
      cat_vs_dog.square(wide, 8), np.rint(halved(wide))[:, 3:11])
  np.testing.assert_array_equal(
      cat_vs_dog.square(wide.swapaxes(0, 1), 8),
      np.rint(halved(wide))[:, 3:11].swapaxes(0, 1))


@pytest.mark.parametrize('h, w', [
    (13, 13), (11, 20), (29, 17), (9, 8), (5, 6), (1, 1), (375, 500)])
def test_any_factor_divides_pixels_by_their_area(h, w):
  image = pixels(h, w, 3)
  rows, columns = (int(8 * side / min(h, w)) for side in (h, w))
  mean = shares(shares(image, rows, 0), columns, 1)
  top, left = (rows - 8) // 2, (columns - 8) // 2
  np.testing.assert_allclose(
      cat_vs_dog.square(image, 8), mean[top:top + 8, left:left + 8],
      atol=0.5 + 1e-9)


def whole_square(image, size):
  """As `square`, by the means of all parts, those that are cut off, too."""
  shorter = min(image.shape[:2])
  for axis in (0, 1):
    image = np.moveaxis(image, axis, 0)
    n = len(image)
    side = size * n // shorter
    edge = np.arange(side + 1) * n / side
    whole = edge.astype(int)
    total = np.zeros((n + 1, *image.shape[1:]))
    np.cumsum(image, axis=0, out=total[1:])
    total = total[whole] + (edge - whole)[:, None, None] * image[
        np.minimum(whole, n - 1)]
    mean = np.diff(total, axis=0) * (side / n)
    first = (side - size) // 2
    image = np.moveaxis(mean[first:first + size], 0, axis)
  return image


@pytest.mark.parametrize('summed', [2**20, 300])  # pixels at a time: all, few
@pytest.mark.parametrize('size', [1, 8, 30])
@pytest.mark.parametrize('h, w', [
    (60, 60), (61, 97), (150, 40), (5, 77), (64, 4), (3, 7)])
def test_what_is_cut_off_changes_no_byte(monkeypatch, h, w, size, summed):
  monkeypatch.setattr(cat_vs_dog, '_SUMMED', summed)
  image = pixels(h, w, 3)
  np.testing.assert_array_equal(
      cat_vs_dog.square(image, size), np.rint(whole_square(image, size)))


@pytest.mark.parametrize('h, w', [(1, 500), (400, 3), (7, 113)])
def test_of_a_long_strip_the_middle_alone_is_looked_at(h, w):
  image = pixels(h, w, 3)
  np.testing.assert_allclose(
      cat_vs_dog.square(image, 8), whole_square(image, 8), atol=0.5 + 1e-9)


@pytest.mark.parametrize('square', [
    cat_vs_dog.square, lambda image, size: pictures.prepare(
        image, (size, size, 3), dict(method='square', size=None, pad=0))])
@pytest.mark.parametrize('h, w', [(1, 200_000), (200_000, 1), (1500, 1500)])
def test_memory_is_bounded_where_a_square_is_cut_out(square, h, w):
  image = np.zeros((h, w, 3), np.uint8)
  tracemalloc.start()
  square(image, 16)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 60e6  # of 120 MB


def test_one_colour_stays_that_colour():
  image = np.full((37, 53, 3), (255, 1, 0), np.uint8)
  assert (cat_vs_dog.square(image, 8) == (255, 1, 0)).all()


# Cats and dogs: their rows, from Kaggle.


def kaggle(folder, cats=12, dogs=11):
  """Writes images of various sizes with Kaggle's names; returns them."""
  folder.mkdir(parents=True)
  images = {f'{kind}.{i}.jpg': pixels(9 + i, 12, 3, seed=i + 100 * (
      kind == 'dog')) for kind, n in (('cat', cats), ('dog', dogs))
            for i in range(n)}
  for name, image in images.items():
    (folder / name).write_bytes(encoded(image).getvalue())
  return images


def pets(tmp_path, path='pets', **kwargs):
  return data.load('cat_vs_dog', **places(tmp_path), **{
      'path': path and str(tmp_path / path), 'size': 8,
      'train_per_class': 9} | kwargs)


def test_the_first_of_each_shuffled_class_are_trained_on(tmp_path):
  images = kaggle(tmp_path / 'pets' / 'train')
  split = pets(tmp_path)
  rng = np.random.RandomState(0)
  train, test = [], []
  for kind in ('cat', 'dog'):
    names = sorted(name for name in images if name.startswith(kind))
    order = [names[i] for i in rng.permutation(len(names))]
    train += order[:9]
    test += order[9:]
  assert split.train.path.tolist() == train
  assert split.test.path.tolist() == test
  for part in (split.train, split.test):
    for image, label, path in zip(part.image, part.label, part.path,
                                  strict=True):
      np.testing.assert_array_equal(
          image, cat_vs_dog.square(images[path], 8))
      assert split.class_names[label] == path[:3]


def test_the_order_is_that_of_numpys_old_generator_and_of_text(tmp_path):
  kaggle(tmp_path / 'pets' / 'train', cats=10, dogs=12)
  split = pets(tmp_path)
  assert split.train.path[:9].tolist() == [  # RandomState(0).permutation(10)
      f'cat.{i}.jpg' for i in (2, 8, 4, 9, 1, 6, 7, 3, 0)]
  assert split.test.path[0] == 'cat.5.jpg'
  arrays = np.load(next((tmp_path / 'cache').iterdir()))
  assert arrays['path'][10:14].tolist() == [
      'dog.0.jpg', 'dog.1.jpg', 'dog.10.jpg', 'dog.11.jpg']


def test_a_class_of_pets_is_normal_and_the_other_is_not(tmp_path):
  kaggle(tmp_path / 'pets' / 'train')
  problem = protocols.one_class(pets(tmp_path), normal='dog')
  assert (problem.dataset, problem.normal_class) == ('cat_vs_dog', 1)
  assert len(problem.train) == 9 and len(problem.test) == 3 + 2
  assert problem.test.anomaly.tolist() == [True] * 3 + [False] * 2


def test_kaggles_25000_make_the_papers_split():
  label = np.repeat([0, 1], 12_500)
  train, test = cat_vs_dog._divide(label, 10_000, 'pets')
  assert np.bincount(label[train]).tolist() == [10_000, 10_000]
  assert np.bincount(label[test]).tolist() == [2500, 2500]
  assert len({*train, *test}) == 25_000


def test_the_folder_itself_and_a_zip_hold_the_same(tmp_path):
  kaggle(tmp_path / 'pets' / 'train')
  (tmp_path / 'pets' / 'test1').mkdir()
  (tmp_path / 'pets' / 'test1' / '1.jpg').write_bytes(b'nobody reads it')
  with zipfile.ZipFile(tmp_path / 'train.zip', 'w') as archive:
    archive.mkdir('train')
    for file in (tmp_path / 'pets' / 'train').iterdir():
      archive.write(file, f'train/{file.name}')
    archive.writestr('__MACOSX/train/._cat.0.jpg', 'no image')
  whole = pets(tmp_path)
  same(whole, pets(tmp_path, 'pets/train'))
  same(whole, pets(tmp_path, 'train.zip'))
  assert len(list((tmp_path / 'cache').iterdir())) == 3


def test_the_cache_serves_without_the_images_for_any_count(
    tmp_path, monkeypatch):
  kaggle(tmp_path / 'pets')
  direct = pets(tmp_path)
  monkeypatch.setattr(cat_vs_dog, '_from_kaggle', None)
  same(direct, pets(tmp_path))
  (tmp_path / 'pets').rename(tmp_path / 'elsewhere')
  same(direct, pets(tmp_path))
  assert len(pets(tmp_path, train_per_class=5).test) == 23 - 10


def test_another_size_and_changed_images_are_decoded_anew(tmp_path):
  images = kaggle(tmp_path / 'pets')
  before = pets(tmp_path)
  assert pets(tmp_path, size=4).train.image.shape == (18, 4, 4, 3)
  name = before.train.path[0]
  image = 255 - images[name]
  (tmp_path / 'pets' / name).write_bytes(encoded(image).getvalue())
  os.utime(tmp_path / 'pets' / name, ns=(1, 1))
  np.testing.assert_array_equal(
      pets(tmp_path).train.image[0], cat_vs_dog.square(image, 8))


def test_a_jpeg_is_turned_upright_and_grey_has_three_channels(tmp_path):
  folder = tmp_path / 'pets'
  kaggle(folder)
  upright = np.zeros((16, 8, 3), np.uint8)
  upright[:8] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # is to be turned a quarter clockwise
  Image.fromarray(np.rot90(upright)).save(
      folder / 'cat.0.jpg', exif=exif, quality=100)
  Image.fromarray(pixels(8, 8)).save(folder / 'cat.1.jpg')
  split = pets(tmp_path, size=8)
  image = np.concatenate([split.train.image, split.test.image])
  path = np.concatenate([split.train.path, split.test.path]).tolist()
  turned = image[path.index('cat.0.jpg')]
  assert (turned[:3] > 250).all() and (turned[5:] < 5).all()
  grey = image[path.index('cat.1.jpg')]
  assert (grey == grey[..., :1]).all()


def broken(tmp_path):
  kaggle(tmp_path / 'pets' / 'train')
  for name in ('cat.3.jpg', 'dog.10.jpg'):
    (tmp_path / 'pets' / 'train' / name).write_bytes(b'\xff\xd8 no more')
  return 'pets'


def cut_off(tmp_path):
  kaggle(tmp_path / 'pets' / 'train')
  whole = encoded(pixels(64, 64, 3), 'jpeg').getvalue()
  (tmp_path / 'pets' / 'train' / 'dog.0.jpg').write_bytes(whole[:-500])
  return 'pets'


def damaged_zip(tmp_path):
  with zipfile.ZipFile(tmp_path / 'train.zip', 'w') as archive:
    for kind in ('cat', 'dog'):
      for i in range(11):
        archive.writestr(f'train/{kind}.{i}.jpg', encoded(
            pixels(9, 9, 3)).getvalue())
  content = (tmp_path / 'train.zip').read_bytes()
  at = content.index(b'dog.2.jpg') + 60
  (tmp_path / 'train.zip').write_bytes(
      content[:at] + b'????' + content[at + 4:])
  return 'train.zip'


def without_cats(tmp_path):
  kaggle(tmp_path / 'pets' / 'train', cats=0)
  return 'pets'


def too_few(tmp_path):
  kaggle(tmp_path / 'pets' / 'train', dogs=9)
  return 'pets'


def no_archive(tmp_path):
  (tmp_path / 'train.zip').write_bytes(b'no archive')
  return 'train.zip'


def archive_of_archives(tmp_path):
  with zipfile.ZipFile(tmp_path / 'dogs-vs-cats.zip', 'w') as archive:
    archive.writestr('train.zip', b'')
  return 'dogs-vs-cats.zip'


@pytest.mark.parametrize('make, words', [
    (broken, r'cat\.3\.jpg in .*pets cannot be read as an image.*and 1 more'),
    (cut_off, r'dog\.0\.jpg in .*pets cannot be read as an image'),
    (damaged_zip, r'dog\.2\.jpg in .*train\.zip cannot be unpacked'),
    (without_cats, r"no cat\.<number>\.jpg in .*pets; data.path is Kaggle's"),
    (too_few, r'pets holds 9 images of a dog; 9 to train with'),
    (no_archive, r'train\.zip is neither a folder nor a \.zip file'),
    (archive_of_archives, r"no cat\.<number>\.jpg in .*dogs-vs-cats\.zip; "),
    (lambda _: 'away', r'cannot read .*away: No such file'),
], ids=lambda each: getattr(each, '__name__', ''))
def test_pets_that_cannot_be_used_are_named_and_not_cached(
    tmp_path, make, words):
  path = make(tmp_path)
  with pytest.raises(InputError, match=words) as error:
    pets(tmp_path, path)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('kwargs', [
    {'size': 0}, {'size': 8.0}, {'train_per_class': 0},
    {'train_per_class': True}, {'train_per_class': '9'}])
def test_a_count_or_size_of_pets_that_is_none_is_named(tmp_path, kwargs):
  (key, value), = kwargs.items()
  with pytest.raises(InputError, match=f'data.{key}={value!r} must be'):
    pets(tmp_path, **kwargs)


# Cats and dogs: their rows, from TFDS.


def petimages(tmp_path, cats=12, dogs=11):
  """Prepares TFDS's set and returns the images by file name."""
  images = {f'PetImages/{kind}/{i}.jpg': pixels(9 + i, 12, 3, seed=i)
            for kind, n in (('Cat', cats), ('Dog', dogs)) for i in range(n)}
  images['PetImages/Cat/0.jpg'] = pixels(9, 9)  # grey
  prepare('cats_vs_dogs', tmp_path / 'tfds', {'train': [
      (name, {'image': encoded(image), 'image/filename': name,
              'label': name.split('/')[1].lower()})
      for name, image in images.items()]})
  return images


def test_the_only_split_of_tfds_is_divided_likewise(tmp_path):
  images = petimages(tmp_path)
  split = pets(tmp_path, None)
  assert np.bincount(split.train.label).tolist() == [9, 9]
  assert np.bincount(split.test.label).tolist() == [3, 2]
  assert split.name == 'cat_vs_dog' and split.train.label.dtype == np.int32
  cats = sorted(name for name in images if '/Cat/' in name)
  order = np.random.RandomState(0).permutation(12)
  assert split.train.path[:9].tolist() == [cats[i] for i in order[:9]]
  for image, path in zip(split.train.image, split.train.path, strict=True):
    wanted = images[path]
    if wanted.ndim == 2:
      wanted = np.stack([wanted] * 3, -1)
    np.testing.assert_array_equal(image, cat_vs_dog.square(wanted, 8))


def test_pets_of_tfds_are_cached(tmp_path):
  petimages(tmp_path)
  direct = pets(tmp_path, None)
  take_away(tmp_path)
  same(direct, pets(tmp_path, None))


def test_mocked_tfds_pets_are_divided_by_the_count(tmp_path):
  with tensorflow_datasets.testing.mock_data(num_examples=40):
    split = pets(tmp_path, None, train_per_class=7, size=64)
  assert split.train.image.shape == (14, 64, 64, 3)
  assert len(split.test) == 40 - 14
  assert np.bincount(split.train.label).tolist() == [7, 7]


def test_pets_that_tfds_has_not_prepared_get_the_command(tmp_path):
  with pytest.raises(InputError, match=r"tfds.builder\('cats_vs_dogs'"):
    pets(tmp_path, None)


def test_a_damaged_record_of_pets_is_named_and_not_cached(tmp_path):
  petimages(tmp_path)
  record, = (tmp_path / 'tfds').rglob('*.array_record*')
  record.write_bytes(record.read_bytes()[:-100])
  with pytest.raises(InputError, match=r'cannot read image \d+ of cats_vs_d'):
    pets(tmp_path, None)
  assert not (tmp_path / 'cache').exists()


# CelebA.


def looks(i, known):
  """Returns attributes; number k is there in every (k + 2)-nd face."""
  return {name: i % (k + 2) == 0 for k, name in enumerate(known)}


@pytest.fixture
def celebrities(tmp_path):
  """CelebA with 24 + 5 + 8 faces; its images and attributes by split."""
  features = tensorflow_datasets.builder(
      'celeb_a', data_dir=tmp_path / 'tfds').info.features
  known = sorted(features['attributes'])
  prepare('celeb_a', tmp_path / 'tfds', {
      part: [(str(i), {
          'image': encoded(pixels(218, 178, 3, seed=i)),
          'landmarks': dict.fromkeys(features['landmarks'], 0),
          'attributes': looks(i, known), 'identity': {'Identity_No': i}})
          for i in range(n)]
      for part, n in (('train', 24), ('validation', 5), ('test', 8))})
  return tmp_path


def faces(tmp_path, **kwargs):
  return data.load('celeba', **places(tmp_path), **kwargs)


def test_the_crop_keeps_rows_40_to_198_and_columns_10_to_168():
  image = pixels(218, 178, 3)
  np.testing.assert_array_equal(
      celeba.face(image, 158), image[40:198, 10:168])


def test_faces_are_resized_by_pillows_default():
  image = pixels(218, 178, 3)
  wanted = Image.fromarray(image[40:198, 10:168]).resize((64, 64))
  np.testing.assert_array_equal(celeba.face(image, 64), np.asarray(wanted))


def test_faces_without_the_attribute_are_normal(celebrities):
  split = faces(celebrities)
  known = sorted(tensorflow_datasets.builder('celeb_a').info.features[
      'attributes'])
  every = known.index('Eyeglasses') + 2
  assert (split.name, split.class_names) == (
      'celeba', ('no_eyeglasses', 'eyeglasses'))
  assert split.train.image.shape == (24, 64, 64, 3)
  images = {celeba.face(pixels(218, 178, 3, seed=i), 64).tobytes(): i
            for i in range(24)}
  for part, n in ((split.train, 24), (split.test, 8)):
    row = [images[image.tobytes()] for image in part.image]
    assert sorted(row) == list(range(n))
    assert part.label.tolist() == [i % every == 0 for i in row]
  problem = protocols.one_class(split, normal=0)
  with_it = sum(i % every == 0 for i in range(24))
  assert len(problem.train) == 24 - with_it and len(problem.test) == 8
  np.testing.assert_array_equal(problem.test.anomaly, split.test.label == 1)


def test_another_attribute_is_another_data_set_of_the_same_cache(celebrities):
  glasses = faces(celebrities)
  take_away(celebrities)
  same(glasses, faces(celebrities))
  shadow = faces(celebrities, attribute='5_o_Clock_Shadow')  # in every second
  np.testing.assert_array_equal(glasses.train.image, shadow.train.image)
  assert shadow.train.label.sum() == 12
  assert (shadow.name, shadow.class_names) == (
      'celeba_5_o_clock_shadow', ('no_5_o_clock_shadow', '5_o_clock_shadow'))
  assert len(list((celebrities / 'cache').iterdir())) == 1


def test_a_misspelt_attribute_names_the_nearest_before_decoding(
    celebrities, monkeypatch):
  words = "data.attribute 'Eyeglases'; did you mean 'Eyeglasses'"
  with monkeypatch.context() as patch:
    patch.setattr(celeba, '_read', None)
    with pytest.raises(InputError, match=words):
      faces(celebrities, attribute='Eyeglases')
  faces(celebrities)
  with pytest.raises(InputError, match=words):
    faces(celebrities, attribute='Eyeglases')


def test_another_size_of_faces_is_another_cache(celebrities):
  assert faces(celebrities, size=8).test.image.shape == (8, 8, 8, 3)
  assert faces(celebrities, size=16).test.image.shape == (8, 16, 16, 3)
  with pytest.raises(InputError, match='data.size=0 must be'):
    faces(celebrities, size=0)


def test_faces_that_tfds_has_not_prepared_get_the_command(tmp_path):
  with pytest.raises(InputError, match=r"tfds.builder\('celeb_a'"):
    faces(tmp_path)
  assert not (tmp_path / 'cache').exists()


def test_mocked_tfds_faces_are_counted_by_attribute(tmp_path):
  with tensorflow_datasets.testing.mock_data(num_examples=30):
    split = faces(tmp_path, attribute='Male')
  assert len(split.train) == len(split.test) == 30
  problem = protocols.one_class(split)
  assert len(problem.train) == 30 - split.train.label.sum()
  assert problem.test.anomaly.sum() == split.test.label.sum()


# All of them.


def test_reading_pets_and_faces_imports_neither_jax_nor_tensorflow():
  script = ('import sys; from deep_oc.data import cat_vs_dog, celeba; '
            'sys.exit("jax" in sys.modules or "tensorflow" in sys.modules)')
  assert subprocess.run([sys.executable, '-c', script]).returncode == 0


@pytest.mark.parametrize('config, names', [
    ('cifar10', 10), ('fmnist', 10), ('cifar20', 20), ('cifar100', 100),
    ('catdog', 2), ('celeba', 2)])
def test_every_config_of_tfds_loads_with_the_names_of_its_classes(
    tmp_path, config, names):
  settings = importlib.import_module(f'configs.dacl_{config}').get_config()
  settings.data.data_dir = str(tmp_path / 'tfds')
  settings.data.cache_dir = str(tmp_path / 'cache')
  if config == 'catdog':
    settings.data.train_per_class = 5
  with tensorflow_datasets.testing.mock_data(num_examples=30):
    split = data.load(**settings.data)
  side = 64 if config in ('catdog', 'celeba') else 32
  assert split.train.image.shape[1:] == (side, side, 3)
  assert len(set(split.class_names)) == names
  assert not any(name.isdecimal() for name in split.class_names)
  paper = {key[0] for key in tables.published()}
  assert (split.name in paper) == (config != 'cifar100')


@pytest.mark.parametrize('name, arguments, train, test', [
    ('cifar10', {}, {5000}, {1000}), ('fashion_mnist', {}, {6000}, {1000}),
    ('cifar100', {}, {500}, {100}),
    ('cifar100', {'label': 'coarse_label'}, {2500}, {500})])
def test_a_real_set_is_whole(name, arguments, train, test):
  if not REAL or not (pathlib.Path(REAL) / name).is_dir():
    pytest.skip(f'DEEP_OC_TEST_TFDS names no TFDS data_dir with {name}')
  split = data.load('tfds', name=name, data_dir=REAL, **arguments)
  for part, wanted in ((split.train, train), (split.test, test)):
    counts = collections.Counter(part.label.tolist())
    assert set(counts.values()) == wanted
    assert len(counts) == len(split.class_names)


@pytest.mark.parametrize('source, name, train, test', [
    ('cat_vs_dog', 'cats_vs_dogs', 20_000, 3262),
    ('celeba', 'celeb_a', 162_770, 19_962)])
def test_a_real_set_of_64_pixels_is_whole(source, name, train, test):
  if not REAL or not (pathlib.Path(REAL) / name).is_dir():
    pytest.skip(f'DEEP_OC_TEST_TFDS names no TFDS data_dir with {name}')
  split = data.load(source, data_dir=REAL)
  assert split.train.image.shape == (train, 64, 64, 3)
  assert split.test.image.shape == (test, 64, 64, 3)
