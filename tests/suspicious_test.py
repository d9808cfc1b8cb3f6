"""Tests of the list of training images that may not be normal."""
import csv
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import the_error
from PIL import Image

from deep_oc import (data, embeddings, evaluate, heat_colours, metrics,
                     oneclass, pictures, suspicious, thresholds)
from deep_oc.errors import InputError
from deep_oc.scored import Request
from tests import forked

META = {'config_hash': 'abc', 'step': 7}


def _features(n, odd, seed=0):
  """Returns f32[n, 8]; the `odd` first ones differ from the rest."""
  rng = np.random.default_rng(seed)
  pool = rng.normal(1, 0.1, (n, 8))
  pool[:odd, :4] -= 1.5 * rng.random((odd, 1)) + 0.5
  return pool.astype(np.float32)


def _write(folder, name='train', n=60, odd=6, seed=0, meta=META, **arrays):
  pool = _features(n, odd, seed)
  arrays = {'pool': pool, 'pixels': np.uint8(60 * (pool.clip(-1) + 1)),
            'index': 100 + np.arange(n),
            'contaminant': np.arange(n) < odd} | arrays
  embeddings.write(folder / f'embeddings/{name}.npz', {
      key: value for key, value in arrays.items() if value is not None}, meta)
  return folder


def _localizes(folder, config, maps=None):
  """Makes it a run whose config has such a group; `maps` says what is there."""
  group = {'localize': config} if config else {}
  (folder / 'config.json').write_text(json.dumps({'config': group}))
  if maps:
    embeddings.write(folder / 'embeddings/maps.npz',
                     {'map': np.zeros((1, 4, 6), np.float32)}, META | maps)


def _rows(folder):
  with open(folder / 'suspicious.csv', newline='') as file:
    return list(csv.DictReader(file))


def _main(*args):
  return forked.run('deep_oc.suspicious', *map(str, args), timeout=120)


@pytest.fixture(scope='module')
def contaminated(digits_npz, tmp_path_factory):
  """A run on 0s with 10 % of other digits among them."""
  from deep_oc import train
  from tests import tiny
  workdir = tmp_path_factory.mktemp('contaminated')
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  config.protocol = dict(name='contaminated', normal='0', contamination=0.1)
  train.train(config, str(workdir))
  return workdir


# Scores and their order.


def test_a_row_does_not_vouch_for_itself():
  train = _features(23, 2)
  found = suspicious.scores(train, suspicious.by_classifier('nn', 0), folds=23)
  unit = train / np.linalg.norm(train, axis=1, keepdims=True)
  cosine = unit @ unit.T - 2 * np.eye(23)
  np.testing.assert_allclose(found, 1 - cosine.max(axis=1), atol=1e-6)
  own = oneclass.anomaly_score(oneclass.fit('nn', train), train)
  np.testing.assert_allclose(own, 0, atol=1e-6)


def test_each_row_is_scored_by_the_other_folds():
  train = _features(40, 4)
  found = suspicious.scores(train, suspicious.by_classifier('kde', 0), seed=3,
                            folds=4)
  for kept, held_out in thresholds.split(40, 4, seed=3):
    fitted = oneclass.fit('kde', train[kept])
    np.testing.assert_array_equal(
        found[held_out], oneclass.anomaly_score(fitted, train[held_out]))


def test_the_most_suspicious_are_first_and_found(tmp_path):
  ranking = suspicious.rank(_write(tmp_path))
  assert (np.diff(ranking.score) <= 0).all()
  assert sorted(ranking.index) == list(range(100, 160))
  np.testing.assert_array_equal(ranking.contaminant, ranking.index < 106)
  assert ranking.found() == 6


def test_the_order_of_equal_scores_does_not_tell_their_rows(tmp_path):
  _write(tmp_path, pool=np.ones((60, 8), np.float32), odd=30)
  ranking = suspicious.rank(tmp_path, seed=1)
  assert 8 < ranking.found() < 22  # of 30; 15 by chance
  assert not np.array_equal(ranking.index,
                            suspicious.rank(tmp_path, seed=2).index)


def test_clean_images_are_fitted_and_only_the_others_ranked(tmp_path):
  _write(tmp_path, n=30, odd=0, seed=1)
  _write(tmp_path, 'unlabelled', n=50, odd=5, index=np.arange(50))
  ranking = suspicious.rank(tmp_path)
  fitted = oneclass.fit('kde', _features(30, 0, seed=1))
  np.testing.assert_array_equal(
      ranking.score,
      oneclass.anomaly_score(fitted, _features(50, 5))[ranking.index])
  assert sorted(ranking.index) == list(range(50)) and ranking.found() == 5


def test_other_classifiers_and_features_can_be_asked_for(tmp_path):
  _write(tmp_path)
  found = [suspicious.rank(tmp_path, *asked) for asked in (
      ('kde', 'pool'), ('kde', 'pixels'), ('gde', 'pool'), ('nn', 'pool'))]
  assert all(each.found() >= 4 for each in found)
  assert len({tuple(each.score) for each in found}) == 4


@pytest.mark.parametrize('meta, n, wanted', [
    ({}, 60, 'kde'), ({}, 7, 'gde_ledoit_wolf'),
    ({'task': 'cutpaste'}, 60, 'gde_ledoit_wolf')])
def test_the_classifier_is_that_of_predictions_unless_one_is_asked_for(
    tmp_path, meta, n, wanted):
  _write(tmp_path, n=n, odd=1, meta=META | meta)
  found, asked = suspicious.rank(tmp_path), suspicious.rank(tmp_path, wanted)
  assert found.classifier == wanted
  np.testing.assert_array_equal(found.score, asked.score)


def test_the_classifier_is_by_how_many_it_is_fitted_to(tmp_path):
  _write(tmp_path, n=7, odd=0)
  _write(tmp_path, 'unlabelled', n=50, odd=5)
  assert suspicious.rank(tmp_path).classifier == 'gde_ledoit_wolf'


# By heat maps.


class _Brightness:
  """Maps that say how much brighter a pixel is than all it was fitted to."""
  classifier = 'brightness'

  def fit_maps(self, variables, train, image, description=None):
    brightest = train.max(axis=(0, 3))
    return np.float32(image.max(axis=3)) - brightest + variables


@pytest.fixture
def by_brightness(monkeypatch):
  """Gives runs the images, and `_Brightness`."""
  from deep_oc import embed, trained_run

  def give(image, unlabelled=()):
    problem = types.SimpleNamespace(
        fitted=data.Examples(np.delete(image, unlabelled, axis=0), None),
        train=data.Examples(image, None), dataset='bright',
        unlabelled=np.asarray(unlabelled, int))
    monkeypatch.setattr(trained_run, 'windows', lambda workdir, classifier: (
        _Brightness(), None, image.shape[1:]))
    monkeypatch.setattr(embed, 'restore', lambda workdir, at, data_dir: (
        None, problem, None, types.SimpleNamespace(variables=at)))
    return {'pixels': embeddings.pixels(problem.fitted.image)}
  return give


def _images(n):
  return np.random.default_rng(0).integers(0, 200, (n, 4, 6, 3), np.uint8)


def test_the_largest_of_the_heat_map_of_other_folds_can_rank(
    tmp_path, by_brightness):
  image = _images(20)
  image[7, 2, 3] = 255
  _write(tmp_path, n=20, **by_brightness(image))
  ranking = suspicious.rank(tmp_path, feature='windows', folds=4)
  assert ranking.classifier == 'brightness' and ranking.index[0] == 107
  brightest = image.max(axis=3).astype(float)
  wanted = np.empty(20)
  for kept, held_out in thresholds.split(20, 4, 0):
    wanted[held_out] = META['step'] + (
        brightest[held_out] - brightest[kept].max(axis=0)).max(axis=(1, 2))
  np.testing.assert_array_equal(ranking.score, wanted[ranking.index - 100])
  np.testing.assert_array_equal(ranking.maps.max(axis=(1, 2)), ranking.score)


def test_the_heat_maps_that_rank_are_drawn_on_the_scale_of_all(
    tmp_path, by_brightness, monkeypatch):
  image = _images(20)
  _write(tmp_path, n=20, index=np.arange(20), **by_brightness(image))
  ranking = suspicious.rank(tmp_path, feature='windows')
  problem = types.SimpleNamespace(
      fitted=data.Examples(image, None), train=data.Examples(image, None),
      dataset='bright', train_index=np.arange(20))
  monkeypatch.setattr(suspicious.experiment, 'of_run', lambda *_:
                      types.SimpleNamespace(experiment='bright'))
  monkeypatch.setattr(suspicious.experiment, 'problem_of_run', lambda _:
                      problem)
  drawn = np.asarray(suspicious.draw(tmp_path, ranking, 5))
  limits = heat_colours.scale(ranking.maps)
  for i in range(5):
    hot = heat_colours.overlay(image[ranking.index[i]], ranking.maps[i], limits)
    upper, left = 8 + 44 + i // 3 * 158, 16 + i % 3 * 408
    for j, wanted in enumerate((image[ranking.index[i]], hot)):
      tile = drawn[upper:upper + 128, left + 200 * j:left + 200 * j + 192]
      np.testing.assert_array_equal(tile[16::32, 16::32], wanted)


@pytest.mark.parametrize('task, config, maps, classifier, wanted', [
    ('frozen', {'stride': 2}, None, None, 'windows'),
    ('frozen', {'stride': 2}, {}, None, 'windows'),
    ('frozen', None, {'localize': {'name': 'windows'}}, None, 'windows'),
    ('frozen', {'name': 'windows'}, {'localize': {'name': 'gradcam'}}, None,
     'pool'), ('frozen', None, None, None, 'pool'),
    ('frozen', {'name': 'windows'}, None, 'kde', 'pool'),
    ('rotation', {'name': 'windows'}, None, None, 'pool')])
def test_heat_maps_rank_where_nothing_was_trained_unless_told_otherwise(
    tmp_path, by_brightness, task, config, maps, classifier, wanted):
  """As the config says, or the maps that were made last."""
  _write(tmp_path, n=20, meta=META | {'task': task}, **by_brightness(
      _images(20)))
  _localizes(tmp_path, config, maps)
  ranking = suspicious.rank(tmp_path, classifier)
  assert (ranking.feature, ranking.classifier) == (
      wanted, 'brightness' if wanted == 'windows' else 'kde')


def test_heat_maps_are_fitted_to_clean_images_where_these_are_known(
    tmp_path, by_brightness):
  image = _images(9)
  _write(tmp_path, n=5, odd=0, **by_brightness(image, [0, 2, 4, 6]))
  _write(tmp_path, 'unlabelled', n=4, index=np.arange(4), odd=0)
  ranking = suspicious.rank(tmp_path, feature='windows')
  brightest = image.max(axis=3).astype(float)
  wanted = META['step'] + (
      brightest[:8:2] - brightest[[1, 3, 5, 7, 8]].max(axis=0)).max(axis=(1, 2))
  np.testing.assert_array_equal(ranking.score, wanted[ranking.index])


def test_heat_maps_of_other_images_than_were_embedded_are_refused(
    tmp_path, by_brightness):
  pixels = by_brightness(_images(20))['pixels']
  pixels[3, 5] += 1
  with pytest.raises(InputError, match='bright holds other normal images'):
    suspicious.rank(_write(tmp_path, n=20, pixels=pixels), feature='windows')


# The binary.


def test_the_binary_writes_all_images_and_says_how_good_the_list_is(tmp_path):
  path = np.array([f'normal/{i}.png' for i in range(60)])
  done = _main(f'--workdir={_write(tmp_path, path=path)}')
  assert not done.returncode and not done.stderr, done.stderr
  rows = _rows(tmp_path)
  assert [row['rank'] for row in rows] == [str(i + 1) for i in range(60)]
  assert [row['contaminant'] for row in rows] == ['1'] * 6 + ['0'] * 54
  assert all(row['path'] == f"normal/{int(row['index']) - 100}.png"
             for row in rows)
  head, _, *lines = done.stdout.splitlines()
  assert head == "kde on 'pool', fitted to the others; the first of 60 images"
  assert lines[0].split() == list(rows[0]) and len(lines[1:11]) == 10
  assert lines[10].split()[0] == '10' and not lines[11]
  assert lines[12] == (
      'of the 6 most suspicious of 60 images 6 are contaminants: precision '
      '100.0 %, average precision 100.0 %; chance 10.0 %')
  assert lines[-1] == f'wrote {tmp_path}/suspicious.csv'


def test_a_seed_beyond_32_bits_is_one_line(tmp_path):
  done = _main(f'--workdir={_write(tmp_path)}', '--seed=4294967296')
  assert '--seed=4294967296' in the_error(done)


def test_a_path_in_another_encoding_is_shown_escaped(tmp_path):
  path = np.full(60, os.fsdecode(b'caf\xe9.png'))
  shown = suspicious.show(suspicious.rank(_write(tmp_path, path=path)))
  assert 'caf\\udce9.png' in shown


def test_the_same_command_ranks_alike_and_another_seed_differently(tmp_path):
  _write(tmp_path)
  first, again, other = (suspicious.rank(tmp_path, seed=seed).rows()
                         for seed in (0, 0, 1))
  assert first == again != other


def test_without_the_truth_there_is_a_list_and_no_precision(tmp_path):
  ranking = suspicious.rank(_write(tmp_path, contaminant=None, index=None))
  assert {row['contaminant'] for row in ranking.rows()} == {''}
  assert sorted(ranking.index) == list(range(60))
  shown = suspicious.show(ranking)
  assert 'precision' not in shown and len(shown.splitlines()) == 11
  assert shown.split()[:4] == ['rank', 'index', 'score', '1']


def test_a_clean_training_set_has_no_precision(tmp_path):
  shown = suspicious.show(suspicious.rank(_write(tmp_path, odd=0)))
  assert shown.endswith('0 of these 60 images are contaminants')


@pytest.mark.parametrize('args, words', [
    ([], ['--workdir is required']),
    (['--workdir={}', '--classifier=kdee'], ['classifier', 'kdee', "'kde'"]),
    (['--workdir={}', '--folds=1'], ['folds']),
])
def test_bad_flags_are_one_line_and_status_2(tmp_path, args, words):
  _write(tmp_path)
  line = the_error(_main(*(arg.format(tmp_path) for arg in args)))
  for word in words:
    assert word in line
  assert not (tmp_path / 'suspicious.csv').exists()


@pytest.mark.parametrize('kwargs, words', [
    (dict(feature='pol'), "feature in .*train.npz 'pol'; did you mean 'pool'"),
    (dict(feature='index'), "feature in .*train.npz 'index'"),
    (dict(folds=61), '60 rows cannot be divided into 61 folds'),
])
def test_what_cannot_be_ranked_is_an_error(tmp_path, kwargs, words):
  with pytest.raises(InputError, match=words):
    suspicious.rank(_write(tmp_path), **kwargs)


@pytest.mark.parametrize('name, known', [
    ('windows', 'pool, pixels, windows'), ('gradcam', 'pool, pixels')])
def test_heat_maps_are_among_the_features_where_there_are_some(
    tmp_path, name, known):
  _localizes(_write(tmp_path), {'name': name})
  with pytest.raises(InputError, match=f'known: {known}$'):
    suspicious.rank(tmp_path, feature='zzz')


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(InputError, match=f'no embeddings at {tmp_path}.*embed'):
    suspicious.rank(tmp_path)


def test_files_of_two_steps_are_not_ranked(tmp_path):
  _write(tmp_path)
  _write(tmp_path, 'unlabelled', meta=META | {'step': 8})
  with pytest.raises(InputError, match='not of one step of one run'):
    suspicious.rank(tmp_path)


def test_the_ranking_needs_no_jax():
  code = ('import sys; from deep_oc import suspicious, thresholds; '
          'sys.exit("jax" in sys.modules)')
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


# Pictures.


@pytest.fixture
def of_digits(digits_npz, tmp_path):
  """A run on digits, beside its data set."""
  from tests import untrained
  moved = tmp_path / 'digits.npz'
  moved.write_bytes(digits_npz.read_bytes())
  return untrained.run(untrained.digits(moved), tmp_path / 'run')


def _drawn(folder):
  with Image.open(folder / 'suspicious.png') as picture:
    assert picture.info['command']
    return np.asarray(picture)


def test_the_most_suspicious_are_drawn_in_their_order(of_digits):
  moved = of_digits.parent / 'moved.npz'
  (of_digits.parent / 'digits.npz').rename(moved)
  done = _main(f'--workdir={of_digits}', '--pictures=7', f'--data_dir={moved}')
  assert not done.returncode and not done.stderr
  assert done.stdout.endswith('suspicious.csv and suspicious.png\n')
  picture = _drawn(of_digits)
  pixels, _ = embeddings.read(of_digits / 'embeddings/train.npz')
  by_index = dict(zip(pixels['index'], pixels['pixels'], strict=True))
  step, (top, high) = 192 + 16, (44, 192 + 22 + 8)
  assert picture.shape[:2] == (top + 2 * high, 6 * step)
  for i, row in enumerate(_rows(of_digits)[:7]):
    upper, left = top + i // 6 * high, i % 6 * step + 8
    tile = picture[upper:upper + 192, left:left + 192]
    block = 192 // 20 + 1  # 20 pixels a side, enlarged and then averaged
    wanted = by_index[int(row['index'])].reshape(20, 20, 3)
    wanted = Image.fromarray(wanted).resize(
        2 * [20 * block], Image.Resampling.NEAREST).resize(
            (192, 192), Image.Resampling.BOX)
    np.testing.assert_array_equal(tile, wanted)
  assert (picture[top + high:top + high + 192, step:] == 255).all()


def test_of_few_images_no_more_are_drawn(of_digits, monkeypatch):
  made, gallery = [], pictures.gallery
  monkeypatch.setattr(pictures, 'gallery', lambda *args: (
      made.append(args), gallery(*args))[1])
  ranking = suspicious.rank(of_digits)
  few = dataclasses.replace(ranking, score=ranking.score[:2])
  assert suspicious.draw(of_digits, few, 24).width == 2 * (192 + 16)
  [(_, captions, title, note)] = made
  assert captions == [suspicious._caption(row) for row in few.rows()]
  assert title.endswith(": kde on 'pool', fitted to the others")
  assert note == '2 of 2, most suspicious first'


@pytest.mark.parametrize('row, wanted', [
    (dict(index='7', path='a/b/c.png', score='1234.2', contaminant='0'),
     ('3: c.png', '1234')),
    (dict(index='7', path='', score='0.5', contaminant='1'),
     ('3: 7', 'contaminant, 0.5000')),
    (dict(index='7', path='', score='-1e-09', contaminant=''),
     ('3: 7', '-1.000e-09'))])
def test_below_a_picture_is_which_it_is_and_its_score(row, wanted):
  assert suspicious._caption(row | {'rank': '3'}) == wanted


def test_images_that_are_gone_or_others_are_not_drawn_but_listed(of_digits):
  data = of_digits.parent / 'digits.npz'
  arrays = dict(np.load(data))
  arrays['x_train'] = arrays['x_train'][::-1]
  assert not _main(f'--workdir={of_digits}').returncode
  assert _drawn(of_digits).shape[:2] == (44 + 4 * 222, 6 * 208)  # 24 of them
  np.savez(data, **arrays)
  for words in 'other normal images than', r'digits\.npz.*; --data_dir says':
    done = _main(f'--workdir={of_digits}')
    [line] = done.stderr.splitlines()
    assert line.startswith('warning: no picture of them: ')
    assert re.search(words, line)
    assert not done.returncode and done.stdout.endswith('suspicious.csv\n')
    assert len(_rows(of_digits)) > 9
    assert not (of_digits / 'suspicious.png').exists()
    data.unlink(missing_ok=True)
  done = _main(f'--workdir={of_digits}', '--pictures=0')
  assert not done.returncode and not done.stderr


# A whole run.


def test_contaminants_of_a_trained_run_are_found_far_above_chance(contaminated):
  ranking = suspicious.rank(contaminated)
  n, k = len(ranking.score), ranking.contaminant.sum()
  assert k == 13 and n == 132  # 119 zeros: chance is 10 %
  assert ranking.found() / k > 0.5
  assert metrics.auprc(ranking.score, ranking.contaminant) > 60


def test_contaminated_results_say_so_and_are_still_good(contaminated):
  rows = evaluate.evaluate(pathlib.Path(contaminated), Request(['kde']))
  assert {row['protocol'] for row in rows} == {'contaminated_10%'}
  found, = [row for row in rows if row['feature'] == 'pool']
  assert found['n_train'] == '132'  # contaminants are fitted too
  assert float(found['auroc']) > 85


def test_results_do_not_depend_on_the_truth_about_training_images(
    contaminated, tmp_path):
  results = []
  for flip in (False, True):
    for name in ('train', 'test'):
      arrays, meta = embeddings.read(contaminated / f'embeddings/{name}.npz')
      if flip and name == 'train':
        arrays['contaminant'] = ~arrays['contaminant']
        arrays['label'] = arrays['label'][::-1]
      embeddings.write(tmp_path / f'embeddings/{name}.npz', arrays, meta)
    evaluate.evaluate(tmp_path, Request(['kde', 'nn']))
    results.append((tmp_path / 'results.csv').read_bytes())
  assert results[0] == results[1]
