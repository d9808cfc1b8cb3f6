"""Files of one's own, scored as a user does it: real processes, real files."""
import csv
import json
import os
import pathlib
import re
import types

import numpy as np
import pytest
from conftest import peak_memory, the_error
from PIL import Image

import deep_oc
from deep_oc import (
    detector, photos, predict, provenance, thresholds, unseen)
from deep_oc.errors import InputError
from tests import served, untrained


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run that localizes by Grad-CAM, its data set beside it."""
  root = tmp_path_factory.mktemp('parts')
  return untrained.run(untrained.parts(root / 'data'), root / 'run')


def _photo(path, seed=0, size=(24, 20)):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
  return path


def _damaged(folder):
  """Writes what is named as an image and is none; returns how many."""
  whole = _photo(folder / 'whole.jpg', size=(64, 64)).read_bytes()
  (folder / 'whole.jpg').unlink()
  (folder / 'half.jpg').write_bytes(whole[:len(whole) // 2])
  png = bytearray(_photo(folder / 'bad.png').read_bytes())
  png[60:90] = bytes(30)
  (folder / 'bad.png').write_bytes(png)
  (folder / 'text.png').write_text('no picture')
  (folder / 'empty.png').write_bytes(b'')
  Image.new('1', (20000, 20000)).save(folder / 'bomb.png')
  return 5


def _rows(output):
  with (output / 'predictions.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_a_folder_is_scored_and_what_cannot_be_read_is_reported(
    run, binary, tmp_path):
  photos, output = tmp_path / 'photos', tmp_path / 'photos' / 'out'
  good = sorted([str(_photo(photos / name, seed)) for seed, name in enumerate(
      ('b.png', 'a.PNG', 'deep/down/c.jpg', 'deep/a, "b".png'))])
  damaged = _damaged(photos)
  (photos / 'again').symlink_to(photos, target_is_directory=True)
  _photo(photos / '.hidden.png')
  _photo(output / 'maps' / 'former.png')  # of a run before
  (photos / 'notes.txt').write_text('no image')
  done = binary('predict', f'--workdir={run}', f'--input={photos}',
                f'--output={output}', '--false_alarm_rate=0.2', '--arrays')
  assert done.returncode == 0, done.stderr

  found = deep_oc.load(run, false_alarm_rate=0.2)
  rows = _rows(output)
  assert tuple(rows[0]) == ('path', 'score', 'p_value', 'verdict',
                            'false_alarm_rate', 'classifier', 'feature')
  assert [row['path'] for row in rows] == good
  judged = found.judge(good)
  np.testing.assert_allclose([float(row['score']) for row in rows],
                             judged.score, rtol=1e-6)
  np.testing.assert_allclose([float(row['p_value']) for row in rows],
                             judged.p_value, rtol=1e-5)
  assert [row['verdict'] for row in rows] == [
      'anomalous' if each else 'normal' for each in judged.anomalous]
  assert {(row['false_alarm_rate'], row['classifier'], row['feature'])
          for row in rows} == {('0.2', found.classifier, 'pool')}

  skipped = [line for line in done.stderr.splitlines()
             if line.startswith('skipped: ')]
  assert len(skipped) == damaged and 'Traceback' not in done.stderr
  assert f'could not read {damaged}' in done.stdout
  assert done.stdout.endswith(thresholds.described(found.calibration, True) +
                              f'\nwrote {output}/predictions.csv, maps\n')
  assert good[int(judged.score.argmax())] in done.stdout
  about = json.loads((output / 'predictions.json').read_text())
  assert f'--input={photos}' in about['command']
  assert (about['scored'], about['anomalous']) == (4, judged.anomalous.sum())
  assert {pathlib.Path(each['path']).name for each in about['unreadable']} == {
      'half.jpg', 'bad.png', 'text.png', 'empty.png', 'bomb.png'}
  assert about['left_out'] == {'hidden': 1, 'symbolic links': 1,
                               '.txt files': 1}
  assert 'left out: 1 .txt files, 1 hidden, 1 symbolic links' in done.stdout
  assert (f'(a score above {found.threshold_:.6g})' in done.stdout) == (
      found.threshold_ is not None)
  assert about['threshold'] == found.threshold_
  assert about['versions']['deep_oc'] == deep_oc.__version__
  assert about['run']['step'] == 0 and about['maps']['norm'] == 'l2'

  for path, heat in zip(good, found.heat_maps(good), strict=True):
    name = f'{pathlib.Path(path).relative_to(photos)}'
    picture = Image.open(output / 'maps' / f'{name}.png')
    assert np.asarray(picture).std() > 0 and picture.mode == 'RGB'
    assert picture.text['command'] == about['command']
    with np.load(output / 'maps' / f'{name}.npz') as arrays:
      np.testing.assert_allclose(arrays['map'], heat, rtol=1e-4,
                                 atol=1e-5 * np.abs(heat).max())


def test_a_folder_of_normal_photos_calibrates(run, binary, tmp_path):
  photos = [str(_photo(tmp_path / f'photos/{i}.png', i)) for i in range(3)]
  normal = [str(_photo(tmp_path / f'normal/{i}.png', 9 + i)) for i in range(9)]
  photos += [str(_photo(tmp_path / f'photos/{i}.bmp', 9 + i)) for i in (3, 4)]
  photos.sort()
  done = binary(
      'predict', f'--workdir={run}', f'--input={tmp_path}/photos', '--nomaps',
      f'--calibration={tmp_path}/normal', '--false_alarm_rate=0.1',
      '--feature=score', '--classifier=upright', f'--output={tmp_path}/out')
  assert done.returncode == 0, done.stderr
  assert '9 normal images that neither encoder nor classifier' in done.stdout
  assert done.stdout.endswith(f'\nwrote {tmp_path}/out/predictions.csv\n')
  found = deep_oc.load(run, feature='score', classifier='upright',
                       false_alarm_rate=0.1, calibration=normal)
  np.testing.assert_allclose(
      [float(row['p_value']) for row in _rows(tmp_path / 'out')],
      found.p_values(photos), rtol=1e-5)
  about = json.loads((tmp_path / 'out/predictions.json').read_text())
  assert about['calibration'] == 'unseen_9'
  [told] = [line for line in done.stderr.splitlines() if 'warning: ' in line]
  assert re.search(f'2 images of --input={tmp_path}/photos are among .* '
                   f'{tmp_path}/photos/3.bmp for one', told)
  (tmp_path / 'normal/0.png').write_text('no picture')
  done = binary(
      'predict', f'--workdir={run}', f'--input={tmp_path}/photos',
      f'--calibration={tmp_path}/normal', '--false_alarm_rate=0.1')
  assert 'normal/0.png' in the_error(done)


@pytest.mark.parametrize('args, words', [
    (['--output={tmp}/a.csv'], 'a.csv names a folder'),
    (['--calibration={tmp}/../{tmp.name}'],
     '1 images of --input=.* are among those that')])
def test_what_would_mislead_is_one_line(run, binary, tmp_path, args, words):
  _photo(tmp_path / 'a.png')
  done = binary('predict', f'--workdir={run}', f'--input={tmp_path}/a.png',
                *(each.format(tmp=tmp_path) for each in args))
  assert re.search(words, the_error(done))
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_where_nothing_can_be_read_there_is_an_error_and_no_file(
    run, tmp_path, capsys):
  damaged = _damaged(tmp_path / 'photos')
  images = unseen.find(str(tmp_path / 'photos'))
  with pytest.raises(InputError, match=f'none of {damaged} images could be'):
    predict.write(deep_oc.load(run, false_alarm_rate=0.2), images,
                  tmp_path / 'out', None, {})
  assert capsys.readouterr().err.count('skipped: ') == damaged
  assert not list((tmp_path / 'out').iterdir())


def test_heat_maps_are_those_of_the_last_prediction(run, tmp_path):
  found = deep_oc.load(run, false_alarm_rate=0.2)
  one, two = (str(_photo(tmp_path / 'in' / f'{i}.jpg', i)) for i in range(2))
  output = tmp_path / 'out'
  kept = {str(_photo(output / 'maps' / 'ours.png'))}

  def maps(path, arrays):
    draw = predict.MapWriter(found, run, output / 'maps', arrays, '')
    images = unseen.find(path)
    predict.write(found, images, output, draw if arrays is not None else None,
                  {})
    return set(map(str, (output / 'maps').iterdir())) - kept

  assert maps(one, True) == {
      f'{output}/maps/0.jpg.png', f'{output}/maps/0.jpg.npz'}
  assert maps(two, False) == {f'{output}/maps/1.jpg.png'}
  assert not maps(two, None)
  assert all(map(os.path.exists, kept))


def test_heat_maps_of_a_prediction_before_are_no_photos(run, tmp_path):
  found = deep_oc.load(run, false_alarm_rate=0.2)
  photo = str(_photo(tmp_path / 'in' / 'a.png'))
  mine = str(_photo(tmp_path / 'in' / 'maps' / 'b.png'))
  for output in (tmp_path / 'in' / 'out', tmp_path / 'in'):
    assert unseen.find(str(tmp_path / 'in')).paths == [photo, mine]
    predict.write(found, unseen.find(photo), output, predict.MapWriter(
        found, run, output / 'maps', False, ''), {})
  again = unseen.find(str(tmp_path / 'in'))
  assert again.paths == [photo]
  assert again.ignored['folders of heat maps'] == 2


def test_a_file_that_is_gone_since_it_was_listed_is_skipped(run, tmp_path):
  found = deep_oc.load(run, false_alarm_rate=0.2)
  paths = [str(_photo(tmp_path / f'{i}.png', i)) for i in range(3)]
  os.unlink(paths[1])
  written = []
  tally = photos.score(found, paths, lambda *each: written.append(each))
  assert [path for names, *_ in written for path in names] == [
      paths[0], paths[2]]
  assert tally.scored == 2
  [(path, reason)] = tally.unreadable
  assert path == paths[1] and 'No such file' in reason


def test_a_name_without_room_for_its_heat_map_is_passed_over(
    run, tmp_path, capsys):
  long = '字' * 83 + '.png'  # 253 bytes of 255
  draw = predict.MapWriter(deep_oc.load(run, false_alarm_rate=0.2), str(run),
                           tmp_path / 'maps', arrays=True, command='')
  draw.write([long, 'a.png'], np.zeros((2, 20, 20, 3), np.uint8),
             detector.Judged(np.zeros(2), np.ones(2), np.zeros(2, bool)))
  assert sorted(each.name for each in (tmp_path / 'maps').iterdir()) == [
      'a.png.npz', 'a.png.png']
  said = capsys.readouterr().err.splitlines()
  assert len([each for each in said if each.startswith('skipped: ') and
              'name too long' in each]) == 2


def test_images_are_held_a_chunk_at_a_time(run, tmp_path):
  found = deep_oc.load(run, false_alarm_rate=0.2)
  found.chunk = 4
  paths = [str(_photo(tmp_path / f'{i:02d}.png', i)) for i in range(30)]
  read, ahead, sizes = [], [], []
  prepare = found.prepare
  found.prepare = lambda path: read.append(path) or prepare(path)

  def write(names, images, judged, maps):
    assert maps is None  # by pooled features
    sizes.append(len(images))
    files = [each for each in read if isinstance(each, str)]
    ahead.append(len(files) - sum(sizes))

  tally = photos.score(found, paths, write)
  assert tally.scored == 30 and sizes == [4] * 7 + [2]
  assert max(ahead) <= 5  # of 26


def test_the_most_anomalous_are_those_of_the_highest_scores(run, tmp_path):
  found = deep_oc.load(run, false_alarm_rate=0.2)
  found.chunk = 3
  paths = [str(_photo(tmp_path / f'{i}.png', i)) for i in range(8)]
  scores = found.decision_function(paths)
  tally = photos.score(found, paths, lambda *_: None)
  assert [path for _, _, path in tally.top] == [
      paths[i] for i in np.argsort(-scores)[:5]]


class _ByMaps(served.Fake):
  """As a detector of windows; of pooled features if it is told so."""
  chunk, calibration, classifier = 2, 'unseen_20', 'knn(k=1)'

  def __init__(self, feature='windows'):
    super().__init__(feature=feature)
    self.feature, self.threshold_ = feature, self.threshold

  def parts(self):
    return types.SimpleNamespace(others=None)


def test_where_a_photo_is_anomalous_is_told_in_its_own_pixels(tmp_path):
  photos, output = tmp_path / 'photos', tmp_path / 'out'
  bright = photos / os.fsdecode(b'bright\xff.png')  # no text in UTF-8
  photos.mkdir()
  image = np.full((32, 48, 3), 50, np.uint8)
  Image.fromarray(image).save(photos / 'dark.png')
  image[8:16, 30:48] = 200
  Image.fromarray(image).save(bright)
  found = _ByMaps()
  for _ in range(2):  # what a prediction before has left is replaced
    predict.write(found, unseen.find(str(photos)), output, None, {})
  with (output / 'regions.csv').open(newline='') as file:
    row, = csv.DictReader(file)
  assert row == dict(
      path=provenance.written(str(bright)), region='1', x='30', y='8',
      width='18', height='8', area='9.375', peak='200')
  assert [row['verdict'] for row in _rows(output)] == ['anomalous', 'normal']
  images = unseen.find(str(photos))
  heat_maps = found.heat_maps
  found.heat_maps = lambda *args: (
      bright.unlink(missing_ok=True), heat_maps(*args))[1]
  with pytest.raises(InputError, match='cannot read .*bright'):
    predict.write(found, images, output, None, {})
  # Of another feature there are none, and none of a prediction before.
  predict.write(_ByMaps('pool'), unseen.find(str(photos)), output, None, {})
  assert not (output / 'regions.csv').exists()


def test_regions_are_outlined_in_the_heat_maps(tmp_path, monkeypatch):
  drawn, told = [], []
  panel, with_legend = predict.pictures.panel, predict.pictures.with_legend
  monkeypatch.setattr(predict.pictures, 'panel', lambda *args, **kwargs: (
      drawn.append(args[2]), panel(*args, **kwargs))[1])
  monkeypatch.setattr(predict.pictures, 'with_legend', lambda *args: (
      told.append(args[2]), with_legend(*args))[1])
  monkeypatch.setattr(predict.heat_colours, 'of_run', lambda *_: None)
  heat = np.full((1, 16, 16), 50, np.float32)
  heat[0, 3:5, 7:9] = 200
  for feature in ('windows', 'pool'):
    predict.MapWriter(_ByMaps(feature), '', tmp_path, False, '').write(
        ['a.png'], np.zeros((1, 16, 16, 3), np.uint8), detector.Judged(
            *np.array([[200.], [0.1], [1]])), heat)
  np.testing.assert_array_equal(drawn[0], heat[0] == 200)
  assert drawn[1] is None and told == ['its regions', None]


def test_a_heat_map_has_the_verdict_above_it(run, tmp_path, monkeypatch):
  drawn, panel = [], predict.pictures.panel

  def seen(*args, **kwargs):
    drawn.append((args[3], kwargs))
    return panel(*args, **kwargs)
  monkeypatch.setattr(predict.pictures, 'panel', seen)
  draw = predict.MapWriter(deep_oc.load(run, false_alarm_rate=0.2), str(run),
                           tmp_path, arrays=False, command='')
  draw.write(['a.png', 'b.png'], np.zeros((2, 20, 20, 3), np.uint8),
             detector.Judged(np.array([7., 3.]), np.array([0.0123, 1.]),
                             np.array([True, False])))
  assert drawn == [(7, {'verdict': 'p = 0.012: anomalous'}),
                   (3, {'verdict': 'p = 1: normal'})]
  one, other = ((tmp_path / f'{name}.png.png').read_bytes() for name in 'ab')
  assert one != other


def test_images_are_found_in_folders_by_pattern_and_by_name(
    tmp_path, monkeypatch):
  for name in ('b/x.png', 'b/y.JPG', 'a.png', 'c-d.png', 'c/e.tiff', 'f.txt'):
    _photo(tmp_path / 'in' / name if name != 'f.txt' else tmp_path / 'f.png')
  (tmp_path / 'in' / 'odd').write_bytes((tmp_path / 'f.png').read_bytes())
  monkeypatch.chdir(tmp_path)
  whole = unseen.find('in')
  assert whole.paths == ['in/a.png', 'in/b/x.png', 'in/b/y.JPG', 'in/c-d.png',
                         'in/c/e.tiff'] == sorted(whole.paths)
  assert whole.root == 'in' and whole.ignored == {'other files': 1}
  assert unseen.find('in/').paths == whole.paths
  assert unseen.find('in', without=tmp_path / 'in' / 'b').paths == [
      'in/a.png', 'in/c-d.png', 'in/c/e.tiff']
  assert unseen.find('in/*/*').paths == ['in/b/x.png', 'in/b/y.JPG',
                                         'in/c/e.tiff']
  assert unseen.find('in/**/*.png').root == 'in'
  assert unseen.find('*.png')[:2] == ('', ['f.png'])
  assert unseen.find('in/odd')[:2] == ('in', ['in/odd'])


def test_a_folder_without_images_is_an_error(tmp_path):
  with pytest.raises(InputError, match='no image at .*nowhere'):
    unseen.find(str(tmp_path / 'nowhere'))
  (tmp_path / 'notes.txt').write_text('no image')
  with pytest.raises(InputError, match='no image at .*1 .txt files'):
    unseen.find(str(tmp_path))
  with pytest.raises(InputError, match='no image at'):
    unseen.find(str(tmp_path / '*.png'))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(run, tmp_path):
  def peak(count):
    folder = tmp_path / str(count)
    for i in range(count):
      _photo(folder / f'{i:05d}.png', i, size=(64, 64))
    return 1024 * peak_memory(
        '-m', 'deep_oc.predict', f'--workdir={run}', f'--input={folder}',
        '--false_alarm_rate=0.2', '--nomaps', f'--output={tmp_path}/out')
  few, many = peak(500), peak(5000)
  assert many - few < 20e6, (few, many)  # 4,500 more images are 55 MB
