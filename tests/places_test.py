"""The highest places of a heat map and the normal ones most like them."""
import csv
import json
import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import deep_oc
from deep_oc import (embed, explain, explanation_pictures, features, localize,
                     places, sharding, trained_run)
from deep_oc.errors import InputError
from tests import untrained

SIDE, BEGIN = 8, (0, 6, 12)  # windows of images of 20 pixels


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run that localizes by windows, and held 6 of 24 images out."""
  root = tmp_path_factory.mktemp('places')
  config = untrained.parts(root / 'data')
  with config.unlocked():
    config.protocol.calibration = 0.25
    config.localize = dict(name='windows', side=SIDE, stride=6,
                           classifier='knn(k=1)')
  workdir = untrained.run(config, root / 'run')
  localize.export(str(workdir), *embed.restore(str(workdir)))
  return workdir


@pytest.fixture(scope='module')
def detector(run):
  return deep_oc.load(run, feature='windows', false_alarm_rate=0.2)


def _features(detector, images):
  """Maps u8[n, 20, 20, 3] to features of its windows f[n, 3, 3, d]."""
  parts = detector.parts()
  look = features.embedder(parts.pretext, sharding.mesh())
  window = np.stack([images[:, y:y + SIDE, x:x + SIDE]
                     for y in BEGIN for x in BEGIN], 1)
  found = look(parts.variables, window.reshape(-1, SIDE, SIDE, 3))['pool']
  return found.reshape(len(images), 3, 3, -1).astype(float)


def _explain(detector, image, most, count, rows=None):
  return places.explain(
      detector.method, detector.normal.fitted if rows is None else rows, image,
      detector.method.scores(image[None])[0], most, count)


# By definition.


def test_the_highest_are_chosen_one_after_the_other_apart_from_each_other():
  grid = np.zeros((5, 6))
  grid[1, 1], grid[1, 2], grid[4, 1], grid[1, 5] = 9, 8, 7, 6
  rows, columns = np.arange(5) * 10., np.arange(6) * 5.
  found = places.highest(grid, rows, columns, 10.1, 4)
  # (1, 2) is 5 pixels beside (1, 1), and so is nothing else that counts.
  assert found.tolist()[:3] == [[1, 1], [4, 1], [1, 5]]
  assert len(found) == 4
  assert places.highest(grid, rows, columns, 5, 2).tolist() == [[1, 1], [1, 2]]
  assert len(places.highest(grid, rows, columns, 99, 4)) == 1
  assert places.highest(grid[[0, 1, 4]], rows[:3], columns, 10, 3).tolist() == [
      [1, 1], [2, 1], [1, 5]]  # ten apart are apart


def test_places_and_their_neighbours_are_those_of_the_features(detector):
  problem = detector.normal.problem
  image = problem.test.image[-1]  # it is scratched
  found = _explain(detector, image, 9, 3)
  train = _features(detector, problem.fitted.image)
  [own] = _features(detector, image[None])
  middle = (np.array(BEGIN) + SIDE / 2) / 20
  seen = []
  for place in found:
    row, column = (int(np.flatnonzero(middle == each)[0])
                   for each in (place.y, place.x))
    far = np.linalg.norm(train - own[row, column], axis=-1)
    assert place.score == pytest.approx(far.min(), rel=1e-4)
    assert place.near[0].distance == pytest.approx(far.min(), rel=1e-4)
    nearest = far.reshape(len(far), -1)
    order = np.argsort(nearest.min(1))[:3]
    assert [each.image for each in place.near] == order.tolist()
    for each in place.near:
      y, x = np.unravel_index(nearest[each.image].argmin(), (3, 3))
      assert (each.y, each.x) == (middle[y], middle[x])
      assert each.distance == pytest.approx(nearest[each.image].min(), rel=1e-4)
    seen.append((row, column))
  assert len(set(seen)) == 9  # six pixels apart, an eighth is 2.5
  scores = [place.score for place in found]
  assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]


def test_normal_places_are_of_the_images_that_are_fitted_to(run):
  """Where four fifths are, rows of them are not rows of all."""
  detector = deep_oc.load(run, feature='windows', false_alarm_rate=0.2)
  rows = np.arange(len(detector.normal.problem.fitted))[::-1]
  image = detector.normal.problem.fitted.image[4]
  [place] = _explain(detector, image, 1, 1, rows)
  assert place.near[0].image == rows[4] and place.score < 1e-3


@pytest.mark.parametrize('x, y', [(0.5, 0.5), (0., 0.), (1., 0.25)])
def test_a_square_is_cut_out_around_a_point_and_beyond_is_white(x, y):
  image = np.random.default_rng(0).integers(0, 200, (24, 32, 3), np.uint8)
  tile = explanation_pictures.cut(image, x, y)
  assert tile.shape == (8, 8, 3)  # an eighth of 32 to each side
  for i in range(8):
    for j in range(8):
      row, column = round(24 * y) - 4 + i, round(32 * x) - 4 + j
      inside = 0 <= row < 24 and 0 <= column < 32
      np.testing.assert_array_equal(
          tile[i, j], image[row, column] if inside else 255)


# The binary.


def test_heat_maps_are_explained_by_normal_places(run, detector, binary,
                                                  tmp_path):
  done = binary('explain', f'--workdir={run}', '--feature=windows',
                '--count=2', '--neighbours=2', '--false_alarm_rate=0.2',
                f'--output={tmp_path}', '--arrays')
  assert not done.returncode, done.stderr
  with (tmp_path / 'explanations.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  problem = detector.normal.problem
  heat = detector.heat_maps(problem.test.image)
  judged = detector.judge_maps(heat)
  assert len({row['image'] for row in rows}) == 2
  assert [row['rank'] for row in rows] == ['1', '2'] * (len(rows) // 2)
  paths = {str(i): path for i, path in zip(
      problem.fitted_index, problem.fitted.path, strict=True)}
  for row in rows:
    test = list(problem.test_index).index(int(row['index']))
    assert float(row['score']) == pytest.approx(judged.score[test], rel=1e-3)
    assert float(row['p_value']) == pytest.approx(judged.p_value[test])
    place = _explain(
        detector, problem.test.image[test], 3, 2)[int(row['place']) - 1]
    near = place.near[int(row['rank']) - 1]
    for name, value in (('x', place.x), ('y', place.y), ('nearest_x', near.x),
                        ('nearest_y', near.y)):
      assert float(row[name]) == pytest.approx(100 * value)
    assert row['nearest_path'] == paths[row['nearest']]
    if row['rank'] == '1':
      assert row['place_score'] == row['distance']
  [first, *_] = sorted(tmp_path.glob('*.npz'))
  test = list(problem.test_index).index(int(rows[0]['index']))
  np.testing.assert_allclose(np.load(first)['map'], heat[test], rtol=1e-3)
  with Image.open(first.with_suffix('.png')) as picture:
    assert 'explain' in picture.info['command']
    assert np.asarray(picture).std() > 20
  about = json.loads((tmp_path / 'explanations.json').read_text())
  assert (about['feature'], about['images']) == ('windows', 2)
  _, head, *lines = done.stdout.splitlines()
  assert head.split()[-2:] == ['nearest', 'distance']
  assert len(lines) == 4 and lines[-1] == f'wrote {tmp_path}'
  assert [line.split()[-1] for line in lines[:2]] == [
      row['distance'] for row in rows if row['place'] == row['rank'] == '1']


def test_photos_are_explained_too(run, binary, tmp_path):
  photos = shutil.copytree(run.parent / 'data/test/scratch', tmp_path / 'in')
  (photos / '28.png').rename(photos / os.fsdecode(b'caf\xe9.png'))
  done = binary('explain', f'--workdir={run}', '--feature=windows',
                f'--input={photos}', '--count=2',
                '--false_alarm_rate=0.2', f'--output={tmp_path}')
  assert not done.returncode, done.stderr
  assert {each.name for each in tmp_path.glob('*.png')} == {
      os.fsdecode(b'caf\xe9.png.png'), '29.png.png'}
  assert 'caf\\udce9.png' in done.stdout
  about = json.loads((tmp_path / 'explanations.json').read_text())
  assert about['scored'] == 2 and about['unreadable'] == []


def _feature(run, **given):
  args = dict.fromkeys(explain._OF_POOLED) | {
      'method': [], 'feature': None, 'workdir': str(run)} | given
  return explain._feature(types.SimpleNamespace(**args))


def test_pooled_features_are_explained_unless_heat_maps_judge(
    run, monkeypatch):
  assert _feature(run) == 'pool'  # something was trained
  monkeypatch.setattr(trained_run, 'recommended', lambda workdir: 'windows')
  assert _feature(run) == _feature(run, feature='windows') == 'windows'
  assert _feature(run, score='kde') == _feature(run, side=3) == 'pool'
  assert _feature(run, feature='head') == 'head'


@pytest.mark.parametrize('flag, value', [
    ('method', ['gradcam']), ('score', 'kde'), ('side', 3)])
def test_what_is_of_pooled_features_is_refused_beside_windows(
    run, flag, value):
  with pytest.raises(InputError,
                     match=f'takes no --{flag}; --feature=pool explains'):
    _feature(run, feature='windows', **{flag: value})


def test_a_density_for_each_position_has_no_places_to_compare(
    run, monkeypatch, tmp_path):
  content = json.loads((run / 'config.json').read_text())
  content['config']['localize'] |= {
      'positions': 'each', 'classifier': 'gde_ledoit_wolf'}
  other = tmp_path / 'run'
  (other / 'embeddings').mkdir(parents=True)
  (other / 'config.json').write_text(json.dumps(content))
  shutil.copy(run / 'embeddings/train.npz', other / 'embeddings')
  with pytest.raises(InputError, match='share a density .*=.shared'):
    _feature(other, feature='windows')
  monkeypatch.setattr(trained_run, 'recommended', lambda workdir: 'windows')
  assert _feature(other) == 'pool'
