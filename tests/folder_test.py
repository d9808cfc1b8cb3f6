"""Tests of folders of images, and of the check that says what is in them."""
import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deep_oc import cli, data, plugins, protocols, thresholds, unseen
from deep_oc.data import __main__ as check
from deep_oc.data import _layout, _pictures
from deep_oc.errors import InputError


def picture(seed=0, shape=(8, 8, 3)):
  return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def put(path, pixels=None, **kwargs):
  """Writes pixels, or an image, or else a random image of the path's own."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if pixels is None:
    pixels = picture(int(hashlib.sha256(str(path).encode()).hexdigest(), 16))
  if isinstance(pixels, np.ndarray):
    pixels = Image.fromarray(pixels)
  pixels.save(path, **kwargs)
  return path


def mvtec(root, masks=True):
  """Writes 5 images to train with, 2 good and 3 + 1 defective ones."""
  for i in range(5):
    put(root / f'train/good/{i:03}.png')
  for i in range(2):
    put(root / f'test/good/{i:03}.png')
  for kind, n in (('crack', 3), ('bent', 1)):
    for i in range(n):
      put(root / f'test/{kind}/{i:03}.png')
      if masks:
        marked = np.zeros((8, 8), np.uint8)
        marked[i, 2:5] = 255
        put(root / f'ground_truth/{kind}/{i:03}_mask.png', marked)
  return root


def plain(root, n=10):
  for i in range(n):
    put(root / f'{i}.png')
  return root


def load(root, **kwargs):
  kwargs = {'size': 8, 'cache_dir': str(root.parent / 'cache')} | kwargs
  return data.load('folder', path=str(root), **kwargs)


def one(root, size=8):
  """Returns u8[size, size, 3], the image of a folder in which all are equal."""
  return load(root, size=size).train.image[0]


def line(root, **kwargs):
  """Returns the one line that says what is wrong."""
  with pytest.raises(InputError) as error:
    load(root, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.fixture
def bottle(tmp_path):
  return mvtec(tmp_path / 'bottle')


# Layouts.


def test_the_mvtec_layout_becomes_a_one_class_problem(bottle):
  split = load(bottle)
  assert split.class_names == ('good', 'bent', 'crack')
  assert split.name == 'bottle'
  problem = protocols.one_class(split, normal='good')
  assert len(problem.train) == 5 and not problem.train.anomaly.any()
  assert problem.test.label.tolist() == [0, 0, 1, 2, 2, 2]
  assert problem.test.label.dtype == np.int32
  assert problem.test.anomaly.tolist() == [False] * 2 + [True] * 4
  assert problem.test.path.tolist() == [
      'test/good/000.png', 'test/good/001.png', 'test/bent/000.png',
      'test/crack/000.png', 'test/crack/001.png', 'test/crack/002.png']


def test_every_image_and_mask_stands_in_its_own_row(bottle):
  split = load(bottle)
  for part in (split.train, split.test):
    for image, path in zip(part.image, part.path, strict=True):
      np.testing.assert_array_equal(image, Image.open(bottle / path))
  assert not split.test.mask[:2].any()
  for mask, path in zip(split.test.mask[2:], split.test.path[2:], strict=True):
    file = bottle / path.replace('test', 'ground_truth').replace(
        '.png', '_mask.png')
    np.testing.assert_array_equal(mask, np.asarray(Image.open(file)) == 255)


def test_without_masks_there_is_none(tmp_path):
  split = load(mvtec(tmp_path / 'a', masks=False), pad=2)
  assert split.test.mask is None and split.test.image.shape == (6, 12, 12, 3)


def test_masks_may_have_the_images_names(bottle):
  for path in list(bottle.glob('ground_truth/*/*')):
    path.rename(path.with_name(path.name.replace('_mask', '')))
  assert load(bottle).test.mask.sum() == 4 * 3


def test_abnormal_training_images_are_marked_and_not_learnt_from(bottle):
  put(bottle / 'train/crack/100.png')
  problem = protocols.one_class(load(bottle))
  assert len(problem.train) == 5
  assert load(bottle).train.anomaly.tolist() == [False] * 5 + [True]


def test_a_plain_folder_is_tested_on_what_it_holds_out(tmp_path):
  normal, broken = plain(tmp_path / 'normal'), plain(tmp_path / 'broken', 3)
  split = load(normal, anomalous_path=str(broken))
  assert split.class_names == ('good', 'anomalous')
  assert len(split.train) == 8 and len(split.test) == 5
  [note] = split.notes
  assert '2 of the 10 are held out of training' in note
  assert split.test.anomaly.tolist() == [False] * 2 + [True] * 3
  assert split.test.path[2:].tolist() == [
      f'../broken/{i}.png' for i in range(3)]
  by_hash = sorted((f'{i}.png' for i in range(10)), key=lambda name:
                   hashlib.sha256(name.encode()).hexdigest())
  assert split.test.path[:2].tolist() == sorted(by_hash[8:])
  assert split.train.path.tolist() == sorted(by_hash[:8])


def test_an_image_more_moves_few_others(tmp_path):
  normal = plain(tmp_path / 'normal', 50)
  before = set(load(normal).test.path)
  assert len(before) == 10
  put(normal / 'new.png')
  assert len(before & set(load(normal).test.path)) >= 9


def test_folders_of_anomalous_images_name_the_kinds(tmp_path):
  normal, broken = plain(tmp_path / 'normal'), tmp_path / 'broken'
  for name in ('bent/1.png', 'crack/1.png', '1.png', 'good/1.png'):
    put(broken / name)
  split = load(normal, anomalous_path=str(broken))
  assert split.class_names == ('good', 'anomalous', 'bent', 'crack')
  assert split.test.label.tolist() == [0, 1, 2, 3]
  assert len(split.train) == 10  # broken/good is there to test with


@pytest.mark.parametrize('path, anomalous', [('.', 'bad'), ('good', '.')])
def test_one_folder_may_lie_in_the_other(tmp_path, path, anomalous):
  root = tmp_path / 'a'
  plain(root / path)
  plain(root / anomalous, 3)
  split = load(root / path, anomalous_path=str(root / anomalous))
  assert len(split.train) == 8 and split.test.anomaly.sum() == 3


def test_what_is_no_image_is_left_out_and_noted(bottle):
  good = bottle / 'train/good'
  (good / 'Thumbs.db').write_text('')
  (good / '.hidden.png').write_text('')
  (good / 'linked.png').symlink_to(good / '000.png')
  (good / 'notes.txt').write_text('')
  (bottle / 'test/readme.txt').write_text('')
  put(good / 'more/000.png')
  split = load(bottle)
  assert len(split.train) == 5
  assert _layout.find(str(bottle)).ignored == {
      '.db files': 1, '.txt files': 1, 'hidden': 1, 'symbolic links': 1,
      'files in no class folder': 1, 'folders further down': 1}
  assert split.notes == tuple(f'{bottle}: left out: 1 {what}' for what in (
      '.db files', '.txt files', 'files in no class folder',
      'folders further down', 'symbolic links'))


# Pixels.


@pytest.mark.parametrize('name, kwargs', [
    ('a.png', {}), ('a.PNG', {}), ('a.bmp', {}), ('a.tif', {}),
    ('a.tiff', {'compression': 'tiff_lzw'}), ('a.webp', {'lossless': True})])
def test_lossless_formats_keep_every_pixel(tmp_path, name, kwargs):
  for stem in '12':
    put(tmp_path / 'a' / name.replace('a', stem, 1), picture(), **kwargs)
  np.testing.assert_array_equal(one(tmp_path / 'a'), picture())


@pytest.mark.parametrize('name', ['a.jpg', 'a.jpeg', 'a.webp'])
def test_lossy_formats_are_close(tmp_path, name):
  flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
  for stem in '12':
    put(tmp_path / 'a' / f'{stem}{name}', flat, quality=95)
  np.testing.assert_allclose(one(tmp_path / 'a'), flat, atol=3)


def in_mode(mode):
  """Returns an image of one colour, and the RGB that it must become."""
  if mode == '1':
    return Image.new('1', (8, 8), 1), (255, 255, 255)
  if mode == 'L':
    return Image.new('L', (8, 8), 77), (77, 77, 77)
  if mode == 'LA':  # half of the light of 100
    return Image.new('LA', (8, 8), (100, 128)), (50, 50, 50)
  if mode == 'P':
    image = Image.new('P', (8, 8), 3)
    image.putpalette([0] * 9 + [10, 20, 30])
    return image, (10, 20, 30)
  if mode == 'RGBA':
    return Image.new('RGBA', (8, 8), (255, 200, 100, 51)), (51, 40, 20)
  if mode == 'I;16':
    return Image.fromarray(np.full((8, 8), 25700, np.uint16)), (100,) * 3
  if mode == 'CMYK':
    return Image.new('CMYK', (8, 8), (255, 0, 0, 0)), (0, 255, 255)
  raise KeyError(mode)


@pytest.mark.parametrize('suffix, mode', [
    *[('.png', mode) for mode in ('1', 'L', 'LA', 'P', 'RGBA', 'I;16')],
    *[('.tif', mode) for mode in ('1', 'L', 'P', 'RGBA', 'I;16', 'CMYK')],
    ('.bmp', '1'), ('.bmp', 'L'), ('.bmp', 'P'), ('.webp', 'RGBA'),
    ('.jpg', 'L'), ('.jpg', 'CMYK')])
def test_every_mode_becomes_rgb(tmp_path, suffix, mode):
  image, colour = in_mode(mode)
  kwargs = {'lossless': True, 'exact': True} if suffix == '.webp' else {}
  for stem in '12':
    put(tmp_path / f'a/{stem}{suffix}', image, **kwargs)
  seen = _pictures.decode(_layout.find(str(tmp_path / 'a')), 8, 8)[2][0]
  assert (seen.mode, seen.size, seen.error) == (mode, (8, 8), '')
  np.testing.assert_allclose(
      np.int64(one(tmp_path / 'a')), np.broadcast_to(colour, (8, 8, 3)),
      atol=2 if suffix == '.jpg' else 0)


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
  wide = np.array([[0, 128, 129, 257], [385, 386, 32896, 65535]], np.uint16)
  wide = np.kron(wide, np.ones((4, 2), np.uint16))
  for i, endian in enumerate('<>'):
    put(tmp_path / f'a/{i}.tif', Image.fromarray(wide.astype(f'{endian}u2')))
  split = load(tmp_path / 'a')
  for image in (split.train.image[0], split.test.image[0]):
    assert image[::4, ::2, 1].tolist() == [[0, 0, 1, 1], [1, 2, 128, 255]]


def test_a_transparent_palette_colour_is_black(tmp_path):
  image = Image.new('P', (8, 8), 1)
  image.putpalette([0, 0, 0, 90, 90, 90])
  for stem in '12':
    put(tmp_path / f'a/{stem}.png', image, transparency=1)
  assert not one(tmp_path / 'a').any()


@pytest.mark.parametrize('suffix', ['.jpg', '.tif', '.png', '.webp'])
def test_images_stand_upright_as_their_exif_says(tmp_path, suffix):
  upright = np.zeros((8, 16, 3), np.uint8)
  upright[:, :8] = 255  # the left half is white
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
  for stem in '12':
    put(tmp_path / f'a/{stem}{suffix}', np.rot90(upright), exif=exif)
  image = one(tmp_path / 'a')
  assert (image[:, :3] > 240).all() and (image[:, 5:] < 15).all()
  seen = _pictures.decode(_layout.find(str(tmp_path / 'a')), 8, 8)[2][0]
  assert seen.size == (16, 8)


def test_shrinking_averages_and_does_not_skip_pixels(tmp_path):
  board = np.uint8(255 * (np.indices((64, 64)).sum(0) % 2))
  for stem in '12':
    put(tmp_path / f'a/{stem}.png', board)
  np.testing.assert_allclose(np.int64(one(tmp_path / 'a')), 127.5, atol=4)


@pytest.mark.parametrize('mode', ['1', 'L', 'P'])
@pytest.mark.parametrize('side, size, width', [
    (10, 4, None), (8, 8, None), (5, 12, None), (10, 4, 13), (5, 12, 3)])
def test_masks_are_resized_to_the_nearest_pixel(
    tmp_path, mode, side, size, width):
  root = tmp_path / 'a'
  plain(root / 'train/good', 3)
  put(root / 'test/crack/0.png', picture(shape=(side, side + 2, 3)))
  rng = np.random.default_rng(0)
  marked = rng.integers(2, size=(side, side + 2), dtype=np.uint8)
  mask = Image.fromarray(marked * 255).convert('1') if mode == '1' else \
      Image.fromarray(marked)  # of value 1, as label images are
  if mode == 'P':
    mask.putpalette([0, 0, 0, 255, 0, 0])
  put(root / 'ground_truth/crack/0_mask.png', mask)
  expected = [[marked[int((y + .5) * side / size),
                      int((x + .5) * (side + 2) / (width or size))]
               for x in range(width or size)] for y in range(size)]
  got = load(root, size=size, width=width).test
  assert got.mask.dtype == bool
  assert got.image.shape == (2, size, width or size, 3)
  np.testing.assert_array_equal(got.mask[1], np.array(expected) > 0)


# What is wrong is one line with the path.


def test_a_missing_folder_is_named(tmp_path):
  assert f'{tmp_path}/no does not exist' in line(tmp_path / 'no')
  (tmp_path / 'file').write_text('')
  assert 'is a file, not a folder' in line(tmp_path / 'file')
  with pytest.raises(InputError, match='needs data.path'):
    data.load('folder', path='')


@pytest.mark.parametrize('size', [0, -1, 2.5, True, '64'])
def test_a_size_that_is_no_count_of_pixels_is_an_error(bottle, size):
  assert f'data.size={size!r}' in line(bottle, size=size)
  assert f'data.width={size!r}' in line(bottle, width=size)


@pytest.mark.parametrize('where', [
    'train/good', 'test/good', 'test/crack'])
def test_an_empty_folder_is_named(bottle, where):
  for path in (bottle / where).iterdir():
    path.unlink()
  assert f'no image in {bottle}/{where}' in line(bottle)


def test_an_empty_plain_folder_is_named_with_what_lies_there(tmp_path):
  (tmp_path / 'a').mkdir()
  assert f'no image in {tmp_path}/a; it needs train/good' in line(
      tmp_path / 'a')
  (tmp_path / 'a/x.gif').write_text('')
  plain(tmp_path / 'a/inside')
  assert '(left out: 1 .gif files)' in line(tmp_path / 'a')
  plain(tmp_path / 'a/odd, even')
  assert ("give a folder in it as data.path, and one of anomalous images as "
          "data.anomalous_path: 'inside', 'odd, even'") in line(tmp_path / 'a')


def test_a_folder_of_data_sets_is_no_data_set(tmp_path):
  for name in ('bottle', 'cable'):
    mvtec(tmp_path / 'all' / name)
  assert "give one of them: 'bottle', 'cable'" in line(tmp_path / 'all')


def test_a_train_folder_without_good_is_an_error(tmp_path):
  plain(tmp_path / 'a/train/ok')
  assert 'no train/good' in line(tmp_path / 'a')


def test_an_anomalous_folder_beside_a_test_folder_is_an_error(bottle):
  assert 'leave anomalous_path out' in line(bottle, anomalous_path='x')


def test_normal_and_anomalous_images_need_two_folders(tmp_path):
  root = plain(tmp_path / 'a')
  assert 'are one folder' in line(root, anomalous_path=str(root))


def test_a_folder_of_good_beside_those_of_defects_is_a_data_set(tmp_path):
  plain(tmp_path / 'good', 10), plain(tmp_path / 'bent', 3)
  plain(tmp_path / 'crack', 2)
  found = _layout.find(str(tmp_path))
  assert found.layout == 'folder good beside those of anomalous images'
  split = load(tmp_path)
  assert split.class_names == ('good', 'bent', 'crack')
  assert len(split.train) == 8 and not split.train.anomaly.any()
  assert split.test.label.tolist() == [0, 0, 1, 1, 1, 2, 2]
  assert split.test.anomaly.tolist() == [False] * 2 + [True] * 5
  assert "anomalous, by the names of folders: 'bent', 'crack'" in found.notes


def test_what_is_no_defect_beside_good_is_left_out_or_told(tmp_path):
  plain(tmp_path / 'good', 10), plain(tmp_path / 'bent', 3)
  (tmp_path / 'notes').mkdir()
  plain(tmp_path / 'ground_truth/bent', 3)
  found = _layout.find(str(tmp_path))
  assert not found.problems
  assert {item.kind for item in found.items} == {'good', 'bent'}
  assert "folders without images: 'ground_truth', 'notes'" in found.notes
  plain(tmp_path, 2)
  assert 'holds images beside a folder good' in line(tmp_path)
  (tmp_path / 'linked').mkdir()
  (tmp_path / 'linked/good').symlink_to(tmp_path / 'good')
  assert 'good is a symbolic link' in line(tmp_path / 'linked')


def test_good_alone_can_be_trained_on_and_the_note_says_what_is_missing(
    tmp_path):
  plain(tmp_path / 'good', 10)
  assert any(f'belong in folders beside {tmp_path}/good' in each
             for each in _layout.find(str(tmp_path)).notes)


def test_one_normal_image_is_too_few_to_hold_one_out(tmp_path):
  assert '0.png is the only normal image' in line(plain(tmp_path / 'a', 1))


def test_images_of_one_name_are_an_error(bottle):
  put(bottle / 'test/crack/001.jpg')
  got = line(bottle)
  assert f'{bottle}/test/crack/001.jpg and {bottle}/test/crack/001.png' in got


def test_masks_of_one_image_are_an_error(bottle):
  put(bottle / 'ground_truth/crack/001.png', np.zeros((8, 8), np.uint8))
  assert '001_mask.png are masks of one image' in line(bottle)


def test_if_one_defect_has_a_mask_all_need_one(bottle):
  (bottle / 'ground_truth/bent/000_mask.png').unlink()
  got = line(bottle)
  assert f'{bottle}/test/bent/000.png has no mask' in got
  assert f'expected {bottle}/ground_truth/bent/000_mask.png' in got


def half(content):
  return content[:len(content) // 2]


@pytest.mark.parametrize('damage', [
    half, lambda _: b'', lambda _: b'not an image', lambda _: b'GIF89a' * 99,
    lambda content: content.replace(b'IDAT', b'IDAX')])
def test_a_corrupt_image_is_named_or_skipped_and_listed(
    bottle, damage):
  path = bottle / 'test/crack/001.png'
  put(path, picture(shape=(64, 64, 3)))
  put(bottle / 'ground_truth/crack/001_mask.png', np.ones((64, 64), np.uint8))
  path.write_bytes(damage(path.read_bytes()))
  for _ in range(2):  # the second time from the cache
    got = line(bottle)
    assert f'{path}: cannot be read as an image (' in got
    assert 'skip_corrupt' in got and '0x' not in got
    split = load(bottle, skip_corrupt=True)
    [note] = split.notes
    assert note.startswith(f'skipped: {path}: ')
    assert len(split.test) == 5 and len(split.test.mask) == 5
    assert 'test/crack/001.png' not in split.test.path
    assert len(split.train) == 5


@pytest.mark.parametrize('mask, words', [
    (np.zeros((8, 9), np.uint8), 'is 9×8 pixels large, the image 8×8'),
    (np.zeros((8, 8, 3), np.uint8), 'has mode RGB'),
    (np.zeros((8, 8), np.uint16), 'has mode I;16'),
    (None, 'cannot be read')])
def test_a_mask_that_does_not_fit_is_named_or_skipped(bottle, mask, words):
  path = bottle / 'ground_truth/crack/001_mask.png'
  if mask is None:
    path.write_text('')
  else:
    put(path, mask)
  got = line(bottle)
  assert f'{bottle}/test/crack/001.png: its mask' in got
  assert 'ground_truth/crack/001_mask.png' in got and words in got
  assert len(load(bottle, skip_corrupt=True).test) == 5


def test_pixels_of_unknown_range_are_an_error(tmp_path):
  root = plain(tmp_path / 'a')
  put(root / 'float.tif', np.ones((8, 8), np.float32))
  assert '32-bit pixels' in line(root)


def test_a_decompression_bomb_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 99)
  root = plain(tmp_path / 'a')
  put(root / 'bomb.png', picture(shape=(16, 16, 3)))
  assert 'bomb.png' in line(root) and 'limit of' in line(root)


def test_a_file_that_may_not_be_read_is_named_and_never_skipped(
    bottle, monkeypatch):
  path = bottle / 'train/good/001.png'
  read = pathlib.Path.read_bytes

  def refuse(self):
    if self == path:
      raise PermissionError(13, 'Permission denied')
    return read(self)

  monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
  assert f'cannot read {path}: Permission denied' in line(
      bottle, skip_corrupt=True)


def test_several_bad_files_are_counted(bottle):
  for i in range(3):
    (bottle / f'train/good/00{i}.png').write_text('')
  assert '000.png' in line(bottle) and '(and 2 more)' in line(bottle)


def test_no_readable_image_at_all_is_an_error(tmp_path):
  root = tmp_path / 'a'
  root.mkdir()
  for i in range(5):
    (root / f'{i}.png').write_text('')
  assert 'to train with can be read' in line(root, skip_corrupt=True)


# The cache.


def cached(root):
  return sorted((root.parent / 'cache').iterdir())


def test_a_cache_equals_the_direct_read_and_decodes_nothing(
    bottle, monkeypatch):
  direct = load(bottle)
  monkeypatch.setattr(_pictures, 'decode', None)
  again = load(bottle)
  for part in ('train', 'test'):
    for key in ('image', 'label', 'anomaly', 'mask', 'path'):
      np.testing.assert_array_equal(getattr(getattr(direct, part), key),
                                    getattr(getattr(again, part), key))
  bottle = bottle.rename(bottle.with_name('moved'))
  assert load(bottle).name == 'moved'  # it belongs to contents, not to places


def test_a_cached_problem_is_told_with_the_names_of_today(bottle):
  (bottle / 'ground_truth/crack/001_mask.png').write_text('')
  assert 'crack/001_mask.png cannot be read' in line(bottle)
  for path in ('test/crack/001.png', 'ground_truth/crack/001_mask.png'):
    (bottle / path).rename(bottle / path.replace('001', '0015'))
  assert 'crack/0015_mask.png cannot be read' in line(bottle)


@pytest.mark.parametrize('name', [
    'train/good/001.png', 'test/crack/001.png',
    'ground_truth/crack/001_mask.png'])
def test_a_cache_does_not_serve_changed_contents(bottle, name):
  path = bottle / name
  before, stat = load(bottle), path.stat()
  inverse = 255 - np.asarray(Image.open(path))
  put(path, inverse)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if untouched
  after = load(bottle)
  part, key = ('train' if 'train' in name else 'test',
               'mask' if 'mask' in name else 'image')
  row = (1 if part == 'train' else
         after.test.path.tolist().index('test/crack/001.png'))
  got = getattr(getattr(after, part), key)
  np.testing.assert_array_equal(
      got[row], inverse > 0 if key == 'mask' else inverse)
  assert (got != getattr(getattr(before, part), key)).any(
      axis=tuple(range(1, got.ndim))).sum() == 1
  assert len(cached(bottle)) == 2


def test_a_cache_serves_one_size(bottle):
  assert load(bottle, size=8).train.image.shape == (5, 8, 8, 3)
  assert load(bottle, size=4).train.image.shape == (5, 4, 4, 3)
  assert load(bottle, size=8).train.image.shape == (5, 8, 8, 3)
  assert load(bottle, width=4).train.image.shape == (5, 8, 4, 3)
  assert load(bottle, width=8).train.image.shape == (5, 8, 8, 3)
  assert len(cached(bottle)) == 3  # 8 by 8 is the same as 8


def test_an_image_of_another_shape_is_squeezed_into_one_that_is_not_square(
    tmp_path):
  root = plain(tmp_path / 'a')
  image = Image.fromarray(picture(shape=(30, 50, 3)))
  image.save(root / '0.png')
  wanted = np.asarray(image.resize((20, 12), Image.Resampling.BILINEAR))
  split = load(root, size=12, width=20)
  assert any(np.array_equal(each, wanted) for part in (split.train, split.test)
             for each in part.image)
  read = unseen.reader(dict(source='folder', path=str(root)), wanted.shape)
  np.testing.assert_array_equal(read(image), wanted)


def test_a_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
  monkeypatch.setenv('DEEP_OC_CACHE', str(tmp_path / 'elsewhere'))
  load(plain(tmp_path / 'a'), cache_dir=None)
  assert len(list((tmp_path / 'elsewhere').iterdir())) == 1


@pytest.mark.parametrize('damage', [
    half, lambda _: b'', lambda content: b'\x93NUMPY' + content])
def test_a_damaged_cache_is_named_and_may_be_deleted(bottle, damage):
  load(bottle)
  cache, = cached(bottle)
  cache.write_bytes(damage(cache.read_bytes()))
  assert str(cache) in line(bottle) and 'delete it' in line(bottle)
  cache.unlink()
  assert len(load(bottle).train) == 5


def test_a_cache_of_other_arrays_is_named(bottle):
  load(bottle)
  cache, = cached(bottle)
  with open(cache, 'wb') as file:
    np.savez(file, image=np.zeros(3))
  assert f'{cache} does not hold the images of {bottle}' in line(bottle)


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(bottle):
  (bottle.parent / 'cache').write_text('a file where a folder should be')
  assert len(load(bottle).train) == 5


# The check.


def run_check(*args):
  done = subprocess.run(
      [sys.executable, '-m', 'deep_oc.data', *map(str, args)],
      capture_output=True, text=True, timeout=60)
  assert 'Traceback' not in done.stderr
  return done


def test_the_check_says_what_was_found(bottle):
  put(bottle / 'train/good/004.png', picture(shape=(4, 6)))
  done = run_check(bottle)
  assert done.returncode == 0 and not done.stderr
  lines = [' '.join(each.split()) for each in done.stdout.splitlines()]
  assert lines[0] == f'{bottle}: MVTec AD layout, with masks'
  assert lines[2:7] == [
      'split class images masks size mode mask mode format',
      'train good 5 6×4 to 8×8 (2 sizes) RGB 4, L 1 PNG',
      'test good 2 8×8 RGB PNG',
      'test bent 1 1 8×8 RGB L PNG',
      'test crack 3 3 8×8 RGB L PNG']
  assert lines[-1] == ('ready: 5 normal images to train with; 2 normal and 4 '
                       'anomalous to test with')


def test_the_check_notes_what_is_odd(bottle, capsys):
  put(bottle / 'ground_truth/crack/099_mask.png', np.zeros((8, 8), np.uint8))
  put(bottle / 'ground_truth/bent/000_mask.png', np.zeros((8, 8), np.uint8))
  (bottle / 'test/good/000.png').write_bytes(
      (bottle / 'train/good/003.png').read_bytes())
  (bottle / 'test/crack/Thumbs.db').write_text('')
  check.check(str(bottle), size=8, width=10)
  out = capsys.readouterr().out
  assert 'left out: 1 .db files' in out
  assert f'mask without image: {bottle}/ground_truth/crack/099_mask' in out
  assert (f'no abnormal pixel in {bottle}/ground_truth/bent/000_mask.png at '
          '10×8 pixels') in out
  assert f'{bottle}/test/good/000.png is tested on, but is the same' in out


def test_the_check_tells_what_is_held_out_and_what_is_missing(
    tmp_path, capsys):
  check.check(str(plain(tmp_path / 'a')), size=8)
  out = capsys.readouterr().out
  assert '2 of the 10 are held out' in out and 'no anomalous images' in out
  assert 'they belong in the folder that data.anomalous_path names' in out
  assert 'ready: 8 normal images to train with; 2 normal and 0' in out
  for part in 'train', 'test':
    plain(tmp_path / f'b/{part}/good')
  check.check(str(tmp_path / 'b'), size=8)
  out = capsys.readouterr().out
  assert f'they belong in folders of {tmp_path}/b/test' in out


def test_the_check_notes_that_with_so_few_more_may_be_flagged(tmp_path, capsys):
  least = thresholds.needed(0.05)
  for normal in least - 1, least:
    for i in range(normal):
      put(tmp_path / f'train/good/{i}.png', picture(seed=i))
    put(tmp_path / 'test/good/a.png', picture(seed=99))
    check.check(str(tmp_path), size=8)
    assert (f'with {normal} normal images to train with, predict may' in
            capsys.readouterr().out) == (normal < least)


def test_the_check_lists_every_problem_and_fails(bottle):
  (bottle / 'train/good/001.png').write_text('')
  (bottle / 'ground_truth/bent/000_mask.png').unlink()
  put(bottle / 'ground_truth/crack/001_mask.png', picture(shape=(9, 9)))
  done = run_check(bottle)
  assert done.returncode == 2
  problems = [each for each in done.stdout.splitlines()
              if each.startswith('problem: ')]
  assert len(problems) == 3
  assert [each for each in done.stderr.splitlines() if each] == [
      f'error: 3 problems in {bottle}; mend what is listed']


def test_the_check_fails_where_training_would_and_nowhere_else(bottle, capsys):
  (bottle / 'train/good/001.png').write_text('')
  with pytest.raises(InputError, match='1 problem .*--skip_corrupt'):
    check.check(str(bottle))
  check.check(str(bottle), skip_corrupt=True)
  out = capsys.readouterr().out
  assert f'skipped: {bottle}/train/good/001.png' in out
  assert 'ready: 4 normal images' in out


@pytest.mark.parametrize('args, words', [
    ((), 'the argument <path> is missing'),
    (('/no/such',), '/no/such does not exist'),
    (('a', 'b'), "unexpected argument 'b'"),
    (('.', '--size=x'), '--size'), (('.', '--sise=8'), 'sise'),
    (('.', '--width=0'), 'data.width=0')])
def test_the_check_says_bad_input_in_one_line(args, words):
  done = run_check(*args)
  assert done.returncode == 2
  error, = done.stderr.splitlines()
  assert error.startswith('error: ') and words in error


def test_the_checks_help_shows_the_command_and_its_flags():
  out = run_check('--help').stdout
  assert 'python -m deep_oc.data path' in out and '--[no]skip_corrupt' in out


def test_a_binary_gets_the_arguments_that_it_names(monkeypatch):
  given = []
  monkeypatch.setattr(cli.app, 'run', lambda main, flags_parser: main(
      ['program', 'a', 'b']))
  cli.run(lambda *args: given.extend(args), lambda: None, ('one', 'two'))
  assert given == ['a', 'b']


def test_a_module_with_an_underscore_is_no_plug_in():
  with pytest.raises(InputError, match='unknown') as error:
    plugins.find('deep_oc.data', '__main__', 'load')
  assert "'__main__'; known" in str(error.value)


def test_folders_are_read_without_jax():
  script = ('import sys; from deep_oc.data import folder, __main__; '
            'sys.exit("jax" in sys.modules)')
  assert subprocess.run([sys.executable, '-c', script]).returncode == 0


# Real data.


@pytest.mark.skipif(
    not os.environ.get('DEEP_OC_TEST_MVTEC'),
    reason='DEEP_OC_TEST_MVTEC names no folder of MVTec AD')
def test_the_bottles_of_mvtec_ad_are_all_there(tmp_path, capsys):
  root = pathlib.Path(os.environ['DEEP_OC_TEST_MVTEC']) / 'bottle'
  split = data.load('folder', path=str(root), size=64,
                    cache_dir=str(tmp_path))
  assert split.class_names == ('good', 'broken_large', 'broken_small',
                               'contamination')
  assert split.train.image.shape == (209, 64, 64, 3)
  assert np.bincount(split.test.label).tolist() == [20, 20, 22, 21]
  marked = split.test.mask.any(axis=(1, 2))
  np.testing.assert_array_equal(marked, split.test.anomaly)
  assert marked.sum() == 63
  problem = protocols.one_class(split, normal='good')
  assert len(problem.train) == 209 and len(problem.test) == 83
  check.check(str(root), size=64)
  assert 'ready: 209 normal' in capsys.readouterr().out
