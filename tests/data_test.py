"""Tests of the data sources."""
import dataclasses
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deep_oc import data
from deep_oc.data import npz, tfds
from deep_oc.errors import InputError

CLASS_NAMES = ('cat', 'dog', 'frog')


def examples(n, seed=0):
  rng = np.random.default_rng(seed)
  return data.Examples(
      image=rng.integers(256, size=(n, 4, 4, 3), dtype=np.uint8),
      label=np.arange(n, dtype=np.int32) % 3)


def split(train=90, test=30):
  return data.Split('pets', examples(train), examples(test, seed=1),
                    CLASS_NAMES)


def arrays(shape=(4, 4), train=9, test=6):
  """Returns what an .npz file of three classes holds."""
  rng = np.random.default_rng(0)
  return {f'{key}_{part}': value for part, n in
          (('train', train), ('test', test)) for key, value in
          (('x', rng.integers(256, size=(n, *shape), dtype=np.uint8)),
           ('y', np.arange(n) % 3))}


def saved(path, **changes):
  kept = {k: v for k, v in (arrays() | changes).items() if v is not None}
  np.savez(path, **kept)
  return str(path)


# What a source returns.


def returned(monkeypatch, **changes):
  """Loads from a source whose training examples have these fields."""
  train = dataclasses.replace(examples(9), **changes)
  monkeypatch.setattr(npz, 'load', lambda: data.Split(
      'pets', train, examples(6), CLASS_NAMES))
  return data.load('npz')


@pytest.mark.parametrize('field, value, words', [
    ('image', np.zeros((9, 4, 4, 3), np.float32), r'train.image is float32\[9'),
    ('image', np.zeros((9, 4, 4, 3), int), 'train.image is int64'),
    ('image', np.zeros((9, 4, 4, 4), np.uint8), r'not u8\[n, h, w\], '),
    ('image', np.zeros((0, 4, 4, 3), np.uint8), r'train.image is uint8\[0'),
    ('label', np.zeros(8, int), r'train.label is int64\[8\]'),
    ('label', np.zeros(9), 'train.label is float64'),
    ('label', [0] * 9, 'train.label is a list'),
    ('label', np.full(9, 3), 'from 3 to 3, and there are 3 class_names'),
    ('anomaly', np.zeros(9, int), 'train.anomaly is int64'),
    ('mask', np.zeros((9, 2, 2), bool), 'size of the images'),
    ('path', np.array(['a'] * 9, object), 'train.path is object')])
def test_what_a_source_must_not_return_is_told(
    monkeypatch, field, value, words):
  with pytest.raises(InputError, match=f"data source 'npz': .*{words}"):
    returned(monkeypatch, **{field: value})


def test_a_source_returns_a_split_with_names(monkeypatch):
  returned(monkeypatch)
  monkeypatch.setattr(npz, 'load', lambda: (examples(9), examples(6)))
  with pytest.raises(InputError, match='load returned tuple, not'):
    data.load('npz')
  monkeypatch.setattr(npz, 'load', lambda: data.Split(
      'pets', examples(9), examples(6), range(3)))
  with pytest.raises(InputError, match='class_names must be strings'):
    data.load('npz')


def test_taking_examples_keeps_what_is_known_of_each():
  whole = data.Examples(
      np.zeros((3, 2, 2, 3), np.uint8), np.arange(3), np.arange(3) > 1,
      np.arange(12).reshape(3, 2, 2) > 7, np.array(['a', 'b', 'c']))
  part = whole.take(np.array([2, 0]))
  assert part.label.tolist() == [2, 0] and part.path.tolist() == ['c', 'a']
  assert part.anomaly.tolist() == [True, False]
  assert part.mask.sum(axis=(1, 2)).tolist() == [4, 0]


# What every source has in common.


@pytest.mark.parametrize('shape', [(4, 4), (4, 4, 1)])
def test_grey_images_get_three_equal_channels(tmp_path, shape):
  path = saved(tmp_path / 'a.npz', **arrays(shape))
  image = data.load('npz', path=path).train.image
  assert image.shape == (9, 4, 4, 3)
  for channel in range(3):
    np.testing.assert_array_equal(
        image[..., channel], arrays(shape)['x_train'].reshape(9, 4, 4))


def test_padding_adds_zeros_on_every_side(tmp_path):
  path = saved(tmp_path / 'a.npz', x_test=np.full((6, 4, 4), 9, np.uint8))
  image = data.load('npz', path=path, pad=2).test.image
  assert image.shape == (6, 8, 8, 3) and image.dtype == np.uint8
  assert (image[:, 2:6, 2:6] == 9).all()
  assert image.sum() == 9 * 6 * 16 * 3


@pytest.mark.parametrize('pad', [-1, 1.5, True])
def test_a_padding_that_is_no_count_of_pixels_is_an_error(tmp_path, pad):
  with pytest.raises(InputError, match='data.pad'):
    data.load('npz', path=saved(tmp_path / 'a.npz'), pad=pad)


def test_an_unknown_source_names_the_nearest():
  with pytest.raises(InputError, match="'tdfs'; did you mean 'tfds'"):
    data.load('tdfs', name='cifar10')


def test_an_unknown_key_is_named(tmp_path):
  with pytest.raises(InputError, match="'data.pth'; did you mean 'data.path'"):
    data.load('npz', pth=str(tmp_path))


def test_test_images_of_another_size_are_an_error(tmp_path):
  path = saved(tmp_path / 'a.npz', x_test=np.zeros((6, 5, 4), np.uint8))
  with pytest.raises(InputError, match=r'\(4, 4, 3\), its test.*\(5, 4, 3\)'):
    data.load('npz', path=path)


def test_reading_data_does_not_import_jax():
  script = ('import sys; from deep_oc.data import builtin, npz, tfds; '
            'sys.exit("jax" in sys.modules or "tensorflow" in sys.modules)')
  assert subprocess.run([sys.executable, '-c', script]).returncode == 0


# npz.


def test_an_npz_is_read_as_it_was_written(tmp_path):
  pets = data.load('npz', path=saved(tmp_path / 'pets.npz', **arrays(
      (4, 4, 3)), class_names=np.array(CLASS_NAMES)))
  np.testing.assert_array_equal(
      pets.train.image, arrays((4, 4, 3))['x_train'])
  assert pets.test.label.tolist() == [0, 1, 2, 0, 1, 2]
  assert pets.test.label.dtype == np.int32
  assert (pets.name, pets.class_names) == ('pets', CLASS_NAMES)


def test_classes_without_names_are_called_by_their_labels(tmp_path):
  pets = data.load('npz', path=saved(tmp_path / 'a.npz'), name='pets')
  assert (pets.name, pets.class_names) == ('pets', ('0', '1', '2'))


@pytest.mark.parametrize('changes, words', [
    (dict(y_test=None), "lacks 'y_test'"),
    (dict(x_train=np.zeros((9, 4, 4))), r"'x_train'.*uint8.*not float64"),
    (dict(x_train=np.zeros((9, 4), np.uint8)), r'not uint8\[9, 4\]'),
    (dict(x_train=np.zeros((9, 4, 4, 4), np.uint8)), r'\[9, 4, 4, 4\]'),
    (dict(x_test=np.zeros((0, 4, 4), np.uint8)), r"'x_test'.*n > 0"),
    (dict(y_train=np.zeros(8, int)), r"'y_train'.*integers \[9\].*int64\[8\]"),
    (dict(y_train=np.zeros(9)), r"'y_train'.*not float64"),
    (dict(y_train=np.full(9, -1)), "'y_train'.*holds -1"),
    (dict(class_names=np.array(['cat'])), "'class_names'.*3 strings"),
    (dict(class_names=np.arange(3)), "'class_names'.*int64"),
    (dict(x_train=np.array([{}] * 9)), 'not a readable .npz'),
])
def test_a_wrong_array_is_named_with_its_file(tmp_path, changes, words):
  path = saved(tmp_path / 'odd.npz', **changes)
  with pytest.raises(InputError, match=words) as error:
    data.load('npz', path=path)
  assert path in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'no zip', b'PK\x03\x04 half a zip'])
def test_a_damaged_npz_is_named(tmp_path, content):
  path = tmp_path / 'odd.npz'
  path.write_bytes(content)
  with pytest.raises(InputError, match=f'{path} is not a readable'):
    data.load('npz', path=str(path))


def test_an_encrypted_npz_is_named(tmp_path):
  path = tmp_path / 'odd.npz'
  saved(path)
  content = bytearray(path.read_bytes())
  content[content.index(b'PK\1\2') + 8] |= 1
  path.write_bytes(content)
  with pytest.raises(InputError, match=f'{path} is not a readable'):
    data.load('npz', path=str(path))


def test_a_missing_npz_is_named(tmp_path):
  with pytest.raises(InputError, match=f'{tmp_path}/no.npz: No such file'):
    data.load('npz', path=f'{tmp_path}/no.npz')
  with pytest.raises(InputError, match='data.path'):
    data.load('npz', path=None)


# TFDS: a tiny Fashion-MNIST, written and read by TFDS itself.


def prepare(folder, seed=0):
  """Prepares 6 + 4 images in `folder` and returns them by split."""
  import tensorflow_datasets
  rng = np.random.default_rng(seed)
  images = {part: rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
            for part, n in (('train', 6), ('test', 4))}

  def generate(part):
    for i, image in enumerate(images[part]):
      png = io.BytesIO()
      Image.fromarray(image).save(png, 'png')
      png.seek(0)
      yield i, {'image': png, 'label': i}

  builder = tensorflow_datasets.builder(
      'fashion_mnist', data_dir=folder, file_format='array_record')
  builder._split_generators = lambda *_, **__: {
      part: generate(part) for part in images}
  builder.download_and_prepare()
  return images


def tiny(tmp_path, **kwargs):
  return data.load('tfds', **{
      'name': 'fashion_mnist', 'data_dir': str(tmp_path / 'tfds'),
      'cache_dir': str(tmp_path / 'cache')} | kwargs)


def same_images(part, images):
  """Tells whether the examples are these images, in whatever order."""
  got = sorted(image[..., 0].tobytes() for image in part.image)
  return got == sorted(image.tobytes() for image in images)


def test_tfds_gives_the_images_and_labels_that_were_prepared(tmp_path):
  images = prepare(tmp_path / 'tfds')
  clothes = tiny(tmp_path)
  assert clothes.train.image.shape == (6, 28, 28, 3)
  assert same_images(clothes.train, images['train'])
  assert same_images(clothes.test, images['test'])
  for image, label in zip(clothes.test.image, clothes.test.label,
                          strict=True):
    np.testing.assert_array_equal(image[..., 0], images['test'][label])


def test_the_cache_equals_the_direct_read_and_needs_no_tfds(
    tmp_path, monkeypatch):
  prepare(tmp_path / 'tfds')
  direct = tiny(tmp_path)
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  cached = tiny(tmp_path)
  for part in ('train', 'test'):
    for key in ('image', 'label'):
      np.testing.assert_array_equal(
          getattr(getattr(direct, part), key),
          getattr(getattr(cached, part), key))
  assert direct.class_names == cached.class_names
  (tmp_path / 'tfds').rename(tmp_path / 'elsewhere')
  assert len(tiny(tmp_path).train) == 6  # the folder may be gone too


def test_a_cache_does_not_serve_another_folder(tmp_path):
  prepare(tmp_path / 'tfds')
  tiny(tmp_path)
  with pytest.raises(InputError, match='not prepared'):
    tiny(tmp_path, data_dir=str(tmp_path / 'other'))
  images = prepare(tmp_path / 'other', seed=1)
  other = tiny(tmp_path, data_dir=str(tmp_path / 'other'))
  assert same_images(other.train, images['train'])


def test_a_cache_does_not_outlive_what_it_was_made_of(tmp_path):
  prepare(tmp_path / 'tfds')
  tiny(tmp_path)
  (tmp_path / 'tfds').rename(tmp_path / 'old')
  images = prepare(tmp_path / 'tfds', seed=1)
  assert same_images(tiny(tmp_path).train, images['train'])


def test_a_damaged_cache_is_named_and_may_be_deleted(tmp_path):
  prepare(tmp_path / 'tfds')
  tiny(tmp_path)
  cache, = (tmp_path / 'cache').iterdir()
  cache.write_bytes(cache.read_bytes()[:1000])
  with pytest.raises(InputError, match=f'{cache} .*delete it'):
    tiny(tmp_path)
  cache.unlink()
  assert len(tiny(tmp_path).train) == 6


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path):
  prepare(tmp_path / 'tfds')
  (tmp_path / 'cache').write_text('a file where a folder should be')
  assert len(tiny(tmp_path).train) == 6


def test_a_set_that_is_not_prepared_gets_the_command_and_the_extra(tmp_path):
  with pytest.raises(InputError) as error:
    tiny(tmp_path)
  line = str(error.value)
  assert f"data_dir='{tmp_path}/tfds'" in line and '\n' not in line
  assert "pip install '.[prepare]'" in line
  assert "tfds.builder('fashion_mnist'" in line
  assert 'download_and_prepare()' in line
  assert not (tmp_path / 'tfds').exists() and not (tmp_path / 'cache').exists()


def test_a_damaged_record_is_named_and_not_cached(tmp_path):
  prepare(tmp_path / 'tfds')
  record, = (tmp_path / 'tfds').rglob('*train.array_record*')
  record.write_bytes(record.read_bytes()[:-100])
  with pytest.raises(InputError, match=f'cannot read image . of .*{tmp_path}'):
    tiny(tmp_path)
  assert not (tmp_path / 'cache').exists()


def test_an_unknown_tfds_set_names_the_nearest(tmp_path):
  with pytest.raises(InputError, match="did you mean 'fashion_mnist'"):
    tiny(tmp_path, name='fashion_mnits')


@pytest.mark.parametrize('name', ['cifar10:9.9.9', 'cifar10/grey', 'a b'])
def test_a_tfds_name_that_cannot_be_opened_is_named(tmp_path, name):
  with pytest.raises(InputError, match=f"cannot open '{name}'"):
    tiny(tmp_path, name=name)


def test_a_tfds_set_without_images_is_refused(tmp_path):
  with pytest.raises(InputError, match='not one of 8-bit images'):
    tiny(tmp_path, name='ag_news_subset')


def test_without_tfds_and_cache_the_packages_are_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(InputError, match='pip install tensorflow-datasets arr'):
    tiny(tmp_path)


def test_cifar10_has_class_names_even_where_tfds_does_not_know_them(tmp_path):
  import tensorflow_datasets
  with tensorflow_datasets.testing.mock_data(num_examples=7):
    cifar10 = tiny(tmp_path, name='cifar10')
  assert cifar10.train.image.shape == (7, 32, 32, 3)
  assert len(cifar10.test) == 7
  assert cifar10.class_names[6] == 'frog' and len(cifar10.class_names) == 10


@pytest.mark.skipif(
    not os.environ.get('DEEP_OC_TEST_TFDS'),
    reason='DEEP_OC_TEST_TFDS names no TFDS data_dir with cifar10')
def test_cifar10_is_whole():
  cifar10 = data.load('tfds', name='cifar10',
                      data_dir=os.environ['DEEP_OC_TEST_TFDS'])
  assert cifar10.train.image.shape == (50000, 32, 32, 3)
  assert cifar10.test.image.shape == (10000, 32, 32, 3)
  assert np.bincount(cifar10.train.label).tolist() == [5000] * 10
  assert np.bincount(cifar10.test.label).tolist() == [1000] * 10
  np.testing.assert_allclose(  # as published
      cifar10.train.image.mean(axis=(0, 1, 2)) / 255,
      [0.49140, 0.48216, 0.44653], atol=1e-5)


def test_a_cache_is_a_file_that_the_source_npz_reads(tmp_path):
  prepare(tmp_path / 'tfds')
  direct = tiny(tmp_path, pad=2)
  cache = tfds._cache_path('fashion_mnist', str(tmp_path / 'tfds'),
                           str(tmp_path / 'cache'))
  again = data.load('npz', path=str(cache), pad=2)
  np.testing.assert_array_equal(direct.train.image, again.train.image)
  assert again.class_names[0] == 'T-shirt/top'
  assert npz.read(cache)['x_train'].shape == (6, 28, 28, 1)
