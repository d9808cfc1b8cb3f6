import io
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from deep_oc import heat_colours, metrics, pictures, plots
from deep_oc.errors import InputError

UNIT = heat_colours.Scale(0, 1)


def _run(n=8, h=32, w=32, **changes):
  """Keyword arguments of `write`: classes 'good', 'hole' and 'dent'."""
  random = np.random.default_rng(0)
  labels = np.arange(n) % 3
  masks = (random.random((n, h, w)) < 0.1) & (labels != 0)[:, None, None]
  maps = random.random((n, h, w), np.float32) + masks
  return {'images': random.integers(0, 256, (n, h, w, 3), np.uint8),
          'maps': maps, 'masks': masks, 'scores': maps.max(axis=(1, 2)),
          'anomaly': labels != 0, 'labels': labels,
          'class_names': ('good', 'hole', 'dent'),
          'paths': [f'test/x/{i:03d}.jpg' for i in range(n)]} | changes


def _opened(path):
  with Image.open(path) as image:
    image.load()
    assert image.format == 'PNG'
    return image


@pytest.mark.parametrize('width', [1, 2])
def test_the_outline_is_the_defects_pixels_with_an_end_within_reach(width):
  mask = np.random.default_rng(0).random((9, 12)) < 0.8
  mask[:4, :5] = True
  padded = np.pad(mask, width)
  expected = np.zeros_like(mask)
  for y, x in np.argwhere(mask):
    reach = [padded[y + width + i, x + width + j]
             for i in range(-width, width + 1)
             for j in range(-width, width + 1) if abs(i) + abs(j) <= width]
    expected[y, x] = not all(reach)
  np.testing.assert_array_equal(pictures.outline(mask, width), expected)
  assert expected.any() and not expected[mask].all()


def test_an_empty_mask_has_no_outline_and_a_full_one_the_border():
  assert not pictures.outline(np.zeros((5, 5), bool)).any()
  full = pictures.outline(np.ones((5, 5), bool))
  assert full.sum() == 16 and not full[1:-1, 1:-1].any()


def test_the_outline_is_white_with_a_black_edge():
  mask = np.zeros((256, 256), bool)
  mask[100:120, 100:120] = True
  grey = np.full((256, 256, 3), 128, np.uint8)
  drawn = np.asarray(pictures.panel(grey, np.zeros((256, 256)), mask, 0, '',
                                    UNIT))[-256:, -256:]
  assert (drawn[100, 100:120] == 255).all() and (drawn[99, 100:120] == 0).all()
  assert (drawn[110, 110] == drawn[10, 10]).all()  # the inside is left alone


@pytest.mark.parametrize('value', [0., -3., 1e30])
def test_constant_maps_and_empty_masks_are_drawn(tmp_path, value):
  run = _run(maps=np.full((8, 32, 32), value, np.float32),
             masks=np.zeros((8, 32, 32), bool), scores=np.full(8, value))
  for path in pictures.write(tmp_path, **run):
    _opened(path)


def test_file_names_are_safe_and_distinct_where_case_does_not_count():
  texts = ['../../etc/passwd', '/abs', 'C:\\x', 'a', 'A', 'a', 'a_2', '', '.',
           '..', '.hidden', 'con', 'x' * 500, 'x' * 501, 'a\0b', 'new\nline',
           'q?*<>|":', 'tr. ', 'größe', '形' * 99, 'roc.png']
  names = pictures.file_names(texts)
  assert len({name.casefold() for name in names}) == len(texts)
  for name in names:
    assert name and all(each.isalnum() or each in '-_' for each in name)
    assert len(f'{name}.png'.encode()) < 230
    assert name.casefold() != 'con'
  assert pictures.file_names(['broken_large', '000']) == ['broken_large', '000']


def test_nothing_is_written_outside_the_folder(tmp_path):
  run = _run(n=4, labels=np.array([0, 1, 2, 2]), class_names=(
      '../../x', '/tmp', 'roc.png'), paths=['../../a.png', '/b', 'c', 'd/c.j'])
  home = tmp_path / 'deep' / 'down' / 'run'
  written = pictures.write(home, **run)
  files = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert len(files) == 4 + 3 + 2 and sorted(files) == sorted(written)
  assert all(home in path.parents for path in files)


def test_a_run_is_a_picture_for_each_image_a_montage_for_each_class_and_plots(
    tmp_path):
  run = _run(n=60, h=32, w=48)
  written = pictures.write(tmp_path, **run)
  assert written[4] == tmp_path / 'hole' / '004.png'
  sizes = {_opened(path).size for path in written[:60]}
  [(width, height)] = sizes  # 48 × 32, six times as large, and text
  assert width == 3 * 288 + 4 * 8 and 192 < height < 350
  for name in 'good', 'hole', 'dent':
    width, height = _opened(tmp_path / f'montage_{name}.png').size
    assert width > 2 * 3 * 192 and 6 * 128 < height < 1200
  assert _opened(tmp_path / 'roc.png').size == (750, 750)
  assert _opened(tmp_path / 'histogram.png').width == 1050
  assert len(list(tmp_path.rglob('*'))) == 60 + 3 + 3 + 2


@pytest.mark.parametrize('h, w, expected', [
    (32, 32, (256, 256)), (100, 100, (300, 300)), (256, 256, (256, 256)),
    (1024, 700, (700, 1024)), (8, 256, (256, 8))])
def test_small_images_are_enlarged_by_a_whole_number(h, w, expected):
  image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
  drawn = pictures.panel(image, np.zeros((h, w)), None, 1, 'x', UNIT)
  width = 2 * expected[0] + 8
  left = (drawn.width - width) // 2
  first = np.asarray(drawn)[-expected[1]:, left:left + expected[0]]
  factor = expected[0] // w
  np.testing.assert_array_equal(
      first, image.repeat(factor, axis=0).repeat(factor, axis=1))


def test_a_defect_of_one_pixel_is_seen_in_a_small_picture():
  mask = np.zeros((1024, 1024), bool)
  mask[500, 700] = True
  black = np.zeros((1024, 1024, 3), np.uint8)
  drawn = np.asarray(pictures.panel(black, np.zeros((1024, 1024)), mask, 0,
                                    '', UNIT, side=192))
  assert (drawn[-192:, -192:] == 255).all(axis=-1).any()


def test_a_long_name_is_cut_and_the_score_stays():
  args = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64)), None, 0.5
  short, long = (np.asarray(pictures.panel(*args, name, UNIT))[:20]
                 for name in ('x', 'x' * 999))
  np.testing.assert_array_equal(short[:, -70:], long[:, -70:])


@pytest.mark.parametrize('value, said', [
    (3.21, '3.210'), (1234.2, '1234'), (-10428.1, '-10428'),
    (999999.4, '999999'), (1e6, '1.000e+06'), (9999.96, '10000'),
    (1e-9, '1.000e-09')])
def test_scores_have_four_digits_and_large_ones_no_exponent(value, said):
  assert pictures.digits(value) == said


def test_a_gallery_has_images_above_their_captions_and_below_a_title():
  image = np.full((7, 64, 32, 3), 128, np.uint8)
  short, long = (np.asarray(pictures.gallery(
      image[:, None], [(text, '1.5')] * 7, text, 'note'))
                 for text in ('x', 'x' * 999))
  # A narrow image has room for its caption on both sides.
  assert short.shape == (44 + 2 * (192 + 22 + 8), 6 * (8 + 160 + 8), 3)
  for left in 8, 8 + 176:
    assert (short[44:236, left + 32:left + 128] == 128).all()
    assert (short[44:236, left:left + 32] == 255).all()
  title, caption = np.s_[:44], np.s_[236:258, :8 + 160]
  for line in title, caption:
    np.testing.assert_array_equal(short[line][:, -20:], long[line][:, -20:])
    assert (short[line][:, -20:] < 255).any()
    assert (short[line][:, 8:20] < 255).any()


def test_what_belongs_together_stands_side_by_side_in_a_gallery():
  pair = [np.full((32, 32, 3), level, np.uint8) for level in (50, 90)]
  drawn = np.asarray(pictures.gallery([pair] * 5, [('x', '1.5')] * 5, '', ''))
  wide = 8 + 192 + 8 + 192 + 8
  assert drawn.shape == (44 + 2 * (192 + 22 + 8), 3 * wide, 3)
  for left in 8, 8 + wide, 8 + 2 * wide:
    row = drawn[44 + 100, left:left + 192 + 8 + 192, 0]
    assert row.tolist() == [50] * 192 + [255] * 8 + [90] * 192
  assert (drawn[44 + 222:-30, 2 * wide:] == 255).all()


def test_a_montage_has_the_highest_and_the_lowest_and_ranks_evenly_between():
  scores = np.random.default_rng(0).permutation(34)
  np.testing.assert_array_equal(scores[pictures.spread(scores)],
                                np.arange(33, -1, -3))
  np.testing.assert_array_equal(pictures.spread([1., 3., 2.]), [1, 2, 0])
  np.testing.assert_array_equal(pictures.spread([5.]), [0])


def test_the_roc_curve_is_the_shares_flagged_at_each_threshold():
  random = np.random.default_rng(0)
  anomaly = random.random(60) < 0.5
  scores = random.integers(0, 9, 60) + 3 * anomaly
  fpr, tpr = plots.roc_curve(scores, anomaly)
  thresholds = np.append(np.inf, np.unique(scores)[::-1])
  every = [[(scores[part] >= t).mean() for t in thresholds]
           for part in (~anomaly, anomaly)]
  corners = set(zip(fpr, tpr, strict=True))
  assert corners <= set(zip(*every, strict=True))
  area = 100 * np.trapezoid(tpr, fpr)
  assert area == pytest.approx(100 * np.trapezoid(every[1], every[0]))
  assert area == pytest.approx(metrics.auroc(scores, anomaly))


def test_the_histogram_counts_every_image_once_in_shared_bins():
  run = _run(n=50)
  edges, parts = plots.counts(run['scores'], run['anomaly'], run['labels'],
                              run['class_names'])
  assert [name for name, _ in parts] == [
      'normal: good', 'anomaly: hole', 'anomaly: dent']
  np.testing.assert_array_equal(sum(count for _, count in parts),
                                np.histogram(run['scores'], edges)[0])
  assert sum(count.sum() for _, count in parts) == 50


def test_many_classes_share_a_row_of_the_histogram():
  labels = np.arange(40) % 20
  _, parts = plots.counts(np.arange(40), labels != 7, labels,
                          [str(i) for i in range(20)])
  assert [name for name, _ in parts] == ['normal: 7', 'anomaly: 19 classes']


def test_names_are_not_taken_for_formulas():
  names = ('$a_{', '_b', 'c' * 300)
  run = _run(class_names=names)
  drawn = plots.histogram(run['scores'], run['anomaly'], run['labels'], names)
  assert Image.open(io.BytesIO(drawn)).format == 'PNG'


@pytest.mark.parametrize('label', [0, 1])
def test_one_kind_of_image_has_no_roc_curve_but_all_else(tmp_path, label):
  labels = np.full(8, label)
  pictures.write(tmp_path, **_run(labels=labels, anomaly=labels == 1,
                                  masks=None))
  assert not (tmp_path / 'roc.png').exists()
  assert (tmp_path / 'histogram.png').exists()


@pytest.mark.parametrize('kinds', [1, 2])
def test_the_plots_say_what_the_scores_are_of(tmp_path, monkeypatch, kinds):
  figures, png = [], plots.png
  monkeypatch.setattr(plots, 'png', lambda figure: (
      figures.append(figure), png(figure))[1])
  run = _run()
  anomaly = run['anomaly'] if kinds == 2 else np.ones(8, bool)
  title, name = 'pool, kde(\n$a_{)', 'pool, kde( $a_{)'
  pictures.write(tmp_path, **run | {'anomaly': anomaly, 'title': title})
  auroc = metrics.auroc(run['scores'], anomaly) if kinds == 2 else None
  found = [each.get_suptitle() or each.axes[0].get_title()
           for each in figures]
  if kinds == 1:
    assert found == [name]  # no ROC curve
    return
  assert len(found) == 2
  for each in found:
    first, second = each.split('\n')
    assert first == name and second.startswith(f'AUROC {auroc:.2f} %')


@pytest.mark.parametrize('changes, words', [
    ({'images': np.zeros((8, 32, 32, 3))}, r'float64.*uint8\[n, height'),
    ({'maps': np.zeros((8, 16, 16))}, r'\(8, 16, 16\).*\(8, 32, 32\)'),
    ({'maps': np.full((8, 32, 32), np.nan)}, 'image 0.*not finite'),
    ({'scores': np.append(np.zeros(7), np.inf)}, 'image 7.*inf.*not finite'),
    ({'scores': np.zeros(7)}, '7 scores for 8 images'),
    ({'class_names': ('good',)}, 'labels 0 to 2')])
def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path, changes, words):
  with pytest.raises(InputError, match=words):
    pictures.write(tmp_path, **_run(**changes))
  assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path, monkeypatch):
  heat_colours._table.cache_clear()
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  with pytest.raises(InputError, match='pip install matplotlib'):
    pictures.write(tmp_path, **_run())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('letter', 'öäüßéµ×Ω–')
def test_letters_beyond_ascii_are_drawn_and_no_boxes(letter):
  font = pictures._font(256)
  assert bytes(font.getmask(letter)) != bytes(font.getmask('\uffff'))


def test_every_picture_names_the_command_that_made_it(tmp_path):
  pictures.write(tmp_path, **_run(), command='python größe 大.py')
  files = list(tmp_path.rglob('*.png'))
  assert len(files) > 8
  assert {Image.open(path).text['command'] for path in files} == {
      'python größe 大.py'}


def test_what_was_written_of_others_is_removed_and_nothing_else(tmp_path):
  pictures.remove_others(tmp_path / 'nowhere', [])
  folder = tmp_path / 'pictures'
  pictures.write(folder, within='old', **_run())
  pictures.write(folder, **_run())
  kept = [*pictures.write(folder, **_run(n=5)), folder / 'hole/copy.png',
          folder / 'mine/good/000.png', folder / 'old/montage_hole.png',
          folder / 'montage.png', folder / 'empty']
  kept[-5].write_bytes((folder / 'hole/001.png').read_bytes())
  shutil.copytree(folder / 'old/good', folder / 'mine/good')
  Image.open(kept[-3]).save(kept[-3])  # by somebody else
  kept[-2].write_text('no picture')
  kept[-1].mkdir()
  pictures.remove_others(folder, kept[:-5])
  assert {*folder.rglob('*.png'), *folder.iterdir()} == {
      *kept, *(folder / 'mine/good').glob('*'),
      *(folder / name for name in ('good', 'hole', 'dent', 'mine', 'old'))}
  assert [path.name for path in (folder / 'old').iterdir()] == [
      'montage_hole.png']


@pytest.mark.parametrize('side, lines', [(192, 2), (400, 1)])
def test_what_stands_below_narrow_pictures_takes_two_lines_and_is_whole(
    side, lines, monkeypatch):
  said, shorten = [], pictures._short
  monkeypatch.setattr(pictures, '_short', lambda *args: said.append(
      shorten(*args)) or said[-1])
  image, mask = np.zeros((32, 32, 3), np.uint8), np.eye(32, dtype=bool)
  panel = pictures.panel(image, np.eye(32), mask, 1., 'a', UNIT, side)
  before = len(said)
  picture = pictures.montage([panel] * 2, 'b', 2, UNIT, 'the mask')
  below = said[before + 1:]  # after the title
  assert len(below) == lines and not any('...' in each for each in below)
  assert '; '.join(below) == ('input | heat map: score of a pixel | with '
                              'outline of the mask; one scale for all pictures')
  assert picture.width < 3 * side + 60
