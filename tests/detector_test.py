"""A run as a detector: what it says of images equals what stage 2 says."""
import functools
import json
import shutil
import subprocess
import sys
import types
import typing
from importlib import resources

import numpy as np
import pytest
from PIL import Image

import deep_oc
from deep_oc import (densities, embed, embeddings, gradcam, localize, maps,
                     oneclass, run_scores, step, thresholds, trained_run,
                     unseen, windows)
from deep_oc.data import cat_vs_dog, celeba
from deep_oc.errors import InputError
from deep_oc.scored import Request
from tests import untrained


@pytest.fixture(scope='module')
def folder(digits_npz, tmp_path_factory):
  """A run on digits whose data set has been moved away since."""
  root = tmp_path_factory.mktemp('digits')
  moved = root / 'digits.npz'
  shutil.copy(digits_npz, moved)
  workdir = untrained.run(untrained.digits(moved), root / 'run')
  moved.unlink()
  return workdir


@pytest.fixture(scope='module')
def detector(folder):
  return deep_oc.load(folder)


@pytest.fixture(scope='module')
def digits(digits_npz):
  """The test images as the data set has them, u8[n, 16, 16]."""
  return np.load(digits_npz)['x_test'][:60]


@pytest.fixture(scope='module')
def held_out(tmp_path_factory):
  """A run that localizes by windows, and held 6 of 24 images out."""
  root = tmp_path_factory.mktemp('held_out')
  config = untrained.parts(root / 'data')
  with config.unlocked():
    config.protocol.calibration = 0.25
    config.localize = dict(name='windows', side=8, stride=6)
  workdir = untrained.run(config, root / 'run')
  localize.export(str(workdir), *embed.restore(str(workdir)))
  return workdir


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """A run that localizes by Grad-CAM, and its data set beside it."""
  root = tmp_path_factory.mktemp('parts')
  return untrained.run(untrained.parts(root / 'data'), root / 'run')


def _relocated(parts, tmp_path, **group):
  """Returns a copy of a run whose config has another group `localize`."""
  workdir = tmp_path / 'run'
  shutil.copytree(parts, workdir)
  content = json.loads((workdir / 'config.json').read_text())
  content['config']['localize'] = group
  (workdir / 'config.json').write_text(json.dumps(content))
  return workdir


def _stage_2(folder, rate, rows=60):
  """Returns what stage 2 says of the embeddings."""
  train, test, _ = embeddings.read_run(folder)
  return run_scores.score(train['pool'], test['pool'], 'kde', 0,
                          Request(false_alarm_rate=rate)).alarms.p[:rows]


def test_importing_the_package_imports_neither_jax_nor_scikit_learn():
  code = ('import sys, deep_oc; deep_oc.load; '
          "sys.exit(any(name in sys.modules for name in ('jax', 'sklearn')))")
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_scores_of_files_equal_those_of_the_embeddings(
    detector, folder, digits, tmp_path):
  paths = [tmp_path / f'{i}.png' for i in range(len(digits))]
  for path, image in zip(paths, digits, strict=True):
    Image.fromarray(image).save(path)
  train, test, _ = embeddings.read_run(folder)
  fitted, _ = thresholds.calibrate(train['pool'], 'kde', 0)
  np.testing.assert_allclose(
      detector.decision_function(paths),
      oneclass.anomaly_score(fitted, test['pool'][:60]), rtol=1e-4)
  np.testing.assert_allclose(
      detector.p_values(paths), _stage_2(folder, 0.05), rtol=1e-9)


def test_all_forms_of_the_same_images_have_the_same_scores(
    detector, digits, tmp_path):
  Image.fromarray(digits[0]).save(tmp_path / 'first.png')
  colour = np.repeat(digits[..., None], 3, axis=-1)
  opaque = np.concatenate([colour, np.full_like(colour[..., :1], 255)], -1)
  framed = np.pad(colour, ((0, 0), (2, 2), (2, 2), (0, 0)))
  mixed = [str(tmp_path / 'first.png'), Image.fromarray(digits[1]), digits[2],
           colour[3], opaque[4], framed[5]]
  wanted = detector.decision_function(framed)
  for images in (digits, digits[..., None], colour, opaque, list(digits),
                 iter(digits), mixed):
    found = detector.decision_function(images)
    np.testing.assert_allclose(found, wanted[:len(found)], rtol=1e-6)
    assert len(found) in (60, 6)


def test_images_are_resized_as_the_training_images_were_and_then_padded(
    detector):
  image = np.random.default_rng(0).integers(0, 256, (48, 30, 3), np.uint8)
  small = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
  found = detector.prepare(image)
  assert found.shape == detector.image_shape == (20, 20, 3)
  np.testing.assert_array_equal(found[2:18, 2:18], np.asarray(small))
  found[2:18, 2:18] = 0
  assert not found.any()


def test_what_is_transparent_is_black(detector):
  image = np.full((16, 16, 4), 255, np.uint8)
  image[:, :8, 3] = 0
  found = detector.prepare(image)[2:18, 2:18]
  assert not found[:, :8].any() and (found[:, 8:] == 255).all()


@pytest.mark.parametrize('source, cut, size', [
    ('cat_vs_dog', cat_vs_dog.square, (50, 31)),
    ('celeba', celeba.face, (218, 178))])
def test_sources_that_cut_a_square_out_cut_it_out_of_unseen_images(
    source, cut, size):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  read = unseen.reader({'source': source}, (16, 16, 3))
  np.testing.assert_array_equal(read(image), cut(image, 16))


def test_celeba_cuts_only_images_of_its_own_size():
  read = unseen.reader({'source': 'celeba'}, (16, 16, 3))
  with pytest.raises(InputError, match='178×218 pixels, this one 158×158'):
    read(np.zeros((158, 158, 3), np.uint8))


@pytest.mark.parametrize('rate', [0.05, 0.2])
def test_flagged_is_what_scores_above_the_threshold(folder, digits, rate):
  found = deep_oc.load(folder, false_alarm_rate=rate)
  flagged = found.predict(digits)
  assert set(flagged) == {0, 1} and flagged.dtype == np.int64
  np.testing.assert_array_equal(
      flagged, found.decision_function(digits) > found.threshold_)
  np.testing.assert_array_equal(flagged, found.p_values(digits) <= rate)
  assert found.calibration == 'held_out_24'


def test_where_a_fifth_is_too_few_all_training_images_calibrate(folder, digits):
  found = deep_oc.load(folder, false_alarm_rate=0.02)
  assert found.threshold_ is None and found.calibration == 'folds_5'
  np.testing.assert_allclose(found.p_values(digits), _stage_2(folder, 0.02))
  scores = found.decision_function(digits)
  assert np.corrcoef(scores, -found.p_values(digits))[0, 1] > 0.5


def test_scores_do_not_depend_on_the_images_beside_them(detector, digits):
  several = detector.decision_function(digits)
  detector.chunk, whole = 7, detector.chunk
  np.testing.assert_allclose(detector.decision_function(digits), several)
  detector.chunk = whole
  np.testing.assert_allclose(
      detector.decision_function(digits[41:42]), several[41:42])


def test_no_images_have_no_scores(detector):
  assert detector.decision_function([]).shape == (0,)
  assert detector.predict([]).shape == (0,)
  assert detector.embed([]).shape == (0, 16)


@pytest.mark.parametrize('images, words', [
    (np.zeros((2, 16, 16, 3)), r'not float64; .*np.uint8\(255 \* images\)'),
    (np.zeros((2, 16, 16), np.uint16), '0 to 255, not uint16'),
    (np.zeros((2, 16, 16, 5), np.uint8), r'\(16, 16, 5\) is neither grey'),
    (np.zeros((16, 16, 3), np.uint8), 'is a single picture'),
    (np.zeros((16, 16), np.uint8), r'an array of shape \(16, 16\)'),
    (np.zeros((2, 0, 16), np.uint8), r'\(0, 16\) is neither'),
    ('one.png', 'single picture'), ('/', r"/ is a folder; .* glob.glob\('/\*'"),
    (None, 'None is not an iterable of pictures'),
    (['none.png'], 'cannot read none.png: No such file'),
    ([__file__], 'detector_test.py: cannot be read as an image')])
def test_what_is_no_picture_is_an_error(detector, images, words):
  with pytest.raises(InputError, match=words):
    detector.predict(images)


@pytest.mark.parametrize('kwargs, words', [
    (dict(classifier='kdee'), "unknown classifier 'kdee'; did you mean 'kde'"),
    (dict(feature='pol'), "unknown feature .* 'pol'; did you mean 'pool'"),
    (dict(feature='pixels'), "unknown feature .* 'pixels'"),
    (dict(false_alarm_rate=2), 'rate of 2 must lie between 0 and 1'),
    (dict(false_alarm_rate='a'), "rate of 'a' must lie between 0 and 1"),
    (dict(false_alarm_rate=0.001), 'takes 999 normal images .* there are 121')])
def test_what_cannot_be_loaded_is_an_error(folder, kwargs, words):
  with pytest.raises(InputError, match=words):
    deep_oc.load(folder, **kwargs)


def test_a_folder_without_a_run_or_with_a_part_of_one_is_an_error(
    folder, tmp_path):
  with pytest.raises(InputError, match='no run in .* is missing$'):
    deep_oc.load(tmp_path / 'nowhere')
  with pytest.raises(InputError, match=f'missing; below are .*{folder.name}'):
    deep_oc.load(folder.parent)
  workdir = tmp_path / 'run'
  shutil.copytree(folder, workdir)
  shutil.rmtree(workdir / 'checkpoints' / '0')
  with pytest.raises(InputError, match='checkpoint of step 0.* is not in'):
    deep_oc.load(workdir)
  path = workdir / 'embeddings' / 'train.npz'
  arrays, meta = embeddings.read(path)
  del meta['image_shape']
  embeddings.write(path, arrays, meta)
  with pytest.raises(InputError, match='does not say .* size .*deep_oc.embed'):
    deep_oc.load(workdir)
  path.unlink()
  with pytest.raises(InputError, match='no embeddings at'):
    deep_oc.load(workdir)


def test_the_classifier_is_the_recommended_one(detector):
  assert detector.classifier == 'kde'


def test_where_nothing_is_trained_the_encoder_has_not_learnt_from_images(
    folder, detector, monkeypatch, tmp_path):
  assert detector.learnt
  run = shutil.copytree(folder, tmp_path / 'run')
  content = json.loads((run / 'config.json').read_text())
  content['config']['optimizer']['learning_rate'] = 0.
  (run / 'config.json').write_text(json.dumps(content))
  monkeypatch.setattr(type(detector.parts().pretext), 'trains', False,
                      raising=False)
  assert not deep_oc.load(run).learnt


def test_a_run_that_does_not_localize_has_no_heat_maps(detector, digits):
  assert detector.localizes is None
  with pytest.raises(InputError, match='no group `localize`'):
    detector.heat_maps(digits)


@pytest.mark.parametrize('positions', ['shared', 'each'])
def test_maps_of_windows_are_scores_of_their_features_spread_over_pixels(
    parts, tmp_path, positions):
  group = dict(name='windows', side=8, stride=6, positions=positions)
  found = deep_oc.load(_relocated(parts, tmp_path, **group),
                       false_alarm_rate=0.2)
  train, test = _images(parts, 'train'), _images(parts, 'test')
  density = densities.create(positions, reg_covar=1e-6).fit(
      _windows(parts, train, 8, (0, 6, 12)))
  wanted = windows.upsample(
      density.score(_windows(parts, test, 8, (0, 6, 12))),
      *2 * [windows.weights(20, 8, 6)])
  _check_maps(found, test, wanted)
  assert "and not judged: kde on 'pool' judges" in found.about_maps()


def test_the_largest_of_a_map_is_judged_by_those_of_images_that_were_held_out(
    parts, tmp_path):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6)
  found = deep_oc.load(workdir, false_alarm_rate=0.2, feature='windows')
  train, test = _images(parts, 'train'), _images(parts, 'test')
  order = np.random.default_rng([0, 3]).permutation(24)
  grid = functools.partial(_windows, parts, side=8, begin=(0, 6, 12))
  density = densities.create('shared').fit(grid(train[order[5:]]))
  spread = 2 * [windows.weights(20, 8, 6)]
  calibration, wanted = (windows.upsample(
      density.score(grid(image)), *spread).max(axis=(1, 2))
                         for image in (train[order[:5]], test))
  judged = found.judge(test)
  np.testing.assert_allclose(judged.score, wanted, rtol=1e-3)
  np.testing.assert_allclose(judged.p_value, [
      (1 + (calibration >= score).sum()) / 6 for score in wanted])
  np.testing.assert_array_equal(judged.score, found.heat_maps(test).max((1, 2)))
  assert judged.anomalous.tolist() == (judged.p_value <= 0.2).tolist()
  assert (found.calibration, found.feature, found.classifier) == (
      'held_out_5', 'windows', 'gde_ledoit_wolf')


@pytest.fixture(scope='module')
def by_neighbours(parts, tmp_path_factory):
  """A run whose heat maps are by the nearest places, and were made."""
  workdir = _relocated(parts, tmp_path_factory.mktemp('neighbours'),
                       name='windows', side=8, stride=6, classifier='knn(k=1)')
  localize.export(str(workdir), *embed.restore(str(workdir)))
  return workdir


def test_each_image_calibrates_maps_by_the_places_of_all_others(
    by_neighbours, parts):
  found = deep_oc.load(by_neighbours, feature='windows', false_alarm_rate=0.04)
  train, test = (_images(parts, name) for name in ('train', 'test'))
  assert len(train) == 24  # a threshold by a fifth of them would take 48
  places = _windows(by_neighbours, train, 8, (0, 6, 12))
  spread = 2 * [windows.weights(20, 8, 6)]

  def largest(image, others):
    rows = others.reshape(-1, others.shape[-1])
    near = np.linalg.norm(image[:, :, None] - rows, axis=-1).min(axis=-1)
    return windows.upsample(near[None], *spread).max()
  calibration = np.array([largest(each, np.delete(places, i, axis=0))
                          for i, each in enumerate(places)])
  wanted = np.array([largest(each, places) for each in _windows(
      by_neighbours, test, 8, (0, 6, 12))])
  judged = found.judge(test)
  np.testing.assert_allclose(judged.score, wanted, rtol=1e-4)
  np.testing.assert_allclose(judged.p_value, [
      (1 + (calibration >= score).sum()) / 25 for score in wanted])
  assert found.threshold_ == pytest.approx(calibration.max(), rel=1e-4)
  assert found.calibration == 'left_out_24' and found.learnt
  assert len(found.normal.fitted) == 24 and not len(found.normal.calibrating)
  stage_2 = run_scores.score_run(by_neighbours, Request(
      (), ('windows',), false_alarm_rate=0.04)).scores[
          'windows', 'knn(k=1)', 'image'].alarms
  np.testing.assert_array_equal(stage_2.p, judged.p_value)
  assert stage_2.calibration == 'left_out_24'


def test_what_was_left_out_is_read_if_it_is_of_this_step(
    by_neighbours, tmp_path, monkeypatch):
  run = shutil.copytree(by_neighbours, tmp_path / 'run')
  wanted = deep_oc.load(run, feature='windows', false_alarm_rate=0.1)
  path = run / 'embeddings' / 'maps.npz'
  arrays, meta = embeddings.read(path)
  other = dict(left_out={'windows': [0.] * 24})
  for change in (dict(step=meta['step'] + 1) | other, dict(left_out={}), {}):
    embeddings.write(path, arrays, meta | change)
    if not change:
      monkeypatch.setattr(maps.Windows, 'fit', None)  # nothing is computed
    found = deep_oc.load(run, feature='windows', false_alarm_rate=0.1)
    assert found.threshold_ == pytest.approx(wanted.threshold_, rel=1e-6)
    assert found.calibration == 'left_out_24'


@pytest.mark.parametrize('feature, calibration, rate, kind', [
    ('windows', None, 0.077, 'held_out_12'), ('windows', 8, 0.12, 'unseen_8'),
    ('pool', None, 0.05, 'folds_5'), ('pool', 16, 0.059, 'unseen_16')])
def test_few_images_are_judged_at_the_lowest_rate_that_they_allow(
    parts, tmp_path, feature, calibration, rate, kind):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6)
  found = deep_oc.load(workdir, feature=feature, calibration=(
      None if calibration is None else _others(calibration)))
  assert (found.false_alarm_rate, found.calibration) == (rate, kind)
  judged = found.judge(_images(parts, 'test'))
  assert judged.anomalous.tolist() == (judged.p_value <= rate).tolist()


def test_what_was_held_out_sets_the_lowest_rate_too(held_out):
  found = deep_oc.load(held_out, feature='pool')
  assert (found.false_alarm_rate, found.calibration) == (0.15, 'unseen_6')


@pytest.mark.parametrize('rate, noted', [(None, True), (0.2, False)])
def test_it_is_said_if_more_may_be_flagged_than_usually(
    held_out, capsys, rate, noted):
  args = types.SimpleNamespace(workdir=held_out, data_dir=None,
                               false_alarm_rate=rate)
  found = trained_run.load_as_asked(args, None, 'pool', None)
  assert found.false_alarm_rate == (rate or 0.15)
  assert ('of normal images 15 % may be flagged'
          in capsys.readouterr().err) == noted


def test_too_few_images_to_leave_out_are_an_error_before_any_fit(
    parts, tmp_path, monkeypatch):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6,
                       classifier='nn')
  monkeypatch.setattr(maps.Windows, 'fit', None)
  with pytest.raises(InputError, match='2 % takes 49 normal .* there are 24'):
    deep_oc.load(workdir, feature='windows', false_alarm_rate=0.02)


@pytest.mark.parametrize('arguments, words', [
    (dict(classifier='kde'), 'is by localize.classifier, gde_ledoit_wolf'),
    (dict(false_alarm_rate=0.05),
     "takes 19 normal images .* there are 24; .* another feature, as 'pool'"),
    (dict(false_alarm_rate=1.), 'must lie between 0 and 1')])
def test_what_the_score_by_windows_cannot_be_is_one_line(
    parts, tmp_path, arguments, words):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6)
  with pytest.raises(InputError, match=words):
    deep_oc.load(workdir, **{
        'feature': 'windows', 'false_alarm_rate': 0.2, **arguments})


@pytest.mark.parametrize('feature, classifier', [
    ('pool', 'gde_ledoit_wolf'), ('head', 'nn'), ('windows', 'gde_ledoit_wolf'),
    ('score', 'rotation'), ('score', 'upright')])
def test_what_was_held_out_calibrates_as_in_stage_2(
    held_out, feature, classifier):
  found = deep_oc.load(
      held_out, classifier=classifier, feature=feature, false_alarm_rate=0.2)
  _, problem, _, _ = embed.restore(str(held_out))
  judged = found.judge(problem.test.image)
  wanted = run_scores.score_run(held_out, Request(
      () if feature in ('score', 'windows') else (classifier,), (feature,),
      false_alarm_rate=0.2)).scores[feature, classifier, 'image']
  np.testing.assert_allclose(judged.score, wanted.values, rtol=1e-4)
  np.testing.assert_array_equal(judged.p_value, wanted.alarms.p)
  assert found.calibration == wanted.alarms.calibration == 'unseen_6'
  assert len(set(judged.score)) == 6 and found.threshold_ is not None


def test_the_maxima_of_windows_are_calibrated_by_maps_of_what_was_held_out(
    held_out):
  _, problem, pretext, state = embed.restore(str(held_out))
  arrays, meta = embeddings.read_maps(held_out)
  assert len(problem.calibration) == 6 and len(arrays['map_windows']) == 6
  untrained_state = step.init(pretext, 0, (20, 20, 3))
  for name, variables in (('windows', state.variables),
                          ('random_windows', untrained_state)):
    method = maps.create(dict(side=8, stride=6), pretext, 0)
    method.fit(variables, problem.fitted.image)
    np.testing.assert_allclose(
        meta['calibration'][name],
        method.maps(problem.calibration.image).max(axis=(1, 2)), rtol=1e-4)


def _others(count=8):
  """Parts like those of `untrained.parts`, of which none is the same."""
  image = np.random.default_rng(5).normal(120, 12, (count, 20, 20, 3))
  image[:, 5:15, 5:15] /= 2
  return np.uint8(image.clip(0, 255))


@pytest.mark.parametrize('feature, classifier', [
    ('pool', 'kde'), ('windows', None), ('score', 'upright')])
def test_other_normal_images_calibrate_what_is_fitted_to_all(
    parts, tmp_path, feature, classifier):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6)
  others, tested = _others(), _images(parts, 'test')
  found = deep_oc.load(
      workdir, feature=feature, classifier=classifier, false_alarm_rate=0.2,
      calibration=map(Image.fromarray, others))
  localize.export(str(workdir), *embed.restore(str(workdir)))
  wanted = run_scores.score_run(workdir, Request(
      (classifier,) if feature == 'pool' else (), (feature,))).scores[
          feature, found.classifier, 'image'].values
  judged = found.judge(tested)
  np.testing.assert_allclose(judged.score, wanted, rtol=1e-4)
  calibration = found.decision_function(others)
  np.testing.assert_allclose(judged.p_value, [
      (1 + (calibration >= score).sum()) / 9 for score in judged.score])
  assert found.calibration == 'unseen_8' and len(set(judged.score)) == 6


@pytest.mark.parametrize('calibration, words', [
    (_others(3), 'takes 4 normal images to calibrate with; there are 3'),
    ([], 'there is no image to calibrate with'),
    (_others()[0], 'is a single picture'),
    (['nowhere.png'], 'nowhere.png')])
def test_what_cannot_calibrate_is_one_line(parts, calibration, words):
  with pytest.raises(InputError, match=words) as error:
    deep_oc.load(parts, false_alarm_rate=0.2, calibration=calibration)
  assert '\n' not in str(error.value)


def test_training_images_are_not_taken_for_others(parts):
  images = np.concatenate([_others(6), _images(parts, 'train')[[3, 5]]])
  with pytest.raises(InputError, match='2 of the 8 images .* are training'):
    deep_oc.load(parts, false_alarm_rate=0.2, calibration=images)


def test_a_run_that_lost_what_calibrates_it_is_not_calibrated_otherwise(
    held_out, tmp_path):
  run = shutil.copytree(held_out, tmp_path / 'run')
  (run / 'embeddings/calibration.npz').unlink()
  for feature in ('pool', 'windows', 'score'):
    with pytest.raises(InputError, match='no embeddings at .*calibration.npz'):
      deep_oc.load(run, feature=feature, false_alarm_rate=0.2)
  found = deep_oc.load(run, false_alarm_rate=0.2, calibration=_others())
  assert found.calibration == 'unseen_8'


def test_a_run_that_held_nothing_out_has_no_own_score_to_judge_by(folder):
  with pytest.raises(InputError, match='held out of the training by .*=0.1'):
    deep_oc.load(folder, feature='score', classifier='rotation')


@pytest.mark.parametrize('classifier, words', [
    (None, 'has the scores rotation and upright of its own; choose one'),
    ('rotatoin', "'rotatoin'; did you mean 'rotation'")])
def test_which_own_score_is_meant_must_be_said(held_out, classifier, words):
  with pytest.raises(InputError, match=words):
    deep_oc.load(held_out, feature='score', classifier=classifier,
                 false_alarm_rate=0.2)


def test_the_only_score_that_a_task_has_need_not_be_named():
  assert trained_run._own_score(['distance'], None) == 'distance'


def test_too_few_images_that_were_held_out_are_an_error_before_any_fit(
    held_out, monkeypatch):
  monkeypatch.delattr(oneclass, 'fit')
  monkeypatch.setattr(maps.Windows, 'fit', None)
  for feature in ('pool', 'windows'):
    with pytest.raises(InputError, match='takes 19 normal .* there are 6'):
      deep_oc.load(held_out, feature=feature, false_alarm_rate=0.05)
  with pytest.raises(InputError, match='takes 19 normal .* there are 3'):
    deep_oc.load(held_out, feature='windows', false_alarm_rate=0.05,
                 calibration=_others(3))


def test_a_run_without_maps_of_windows_has_no_score_by_them(parts):
  with pytest.raises(InputError, match='by gradcam, not of windows, .* with '
                     '--set=name=windows'):
    deep_oc.load(parts, false_alarm_rate=0.2, feature='windows')


def test_maps_by_grad_cam_explain_the_gaussian_of_pooled_features(parts):
  found = deep_oc.load(parts, false_alarm_rate=0.2)
  train, _, _ = embeddings.read_run(parts)
  test = _images(parts, 'test')
  density = oneclass.fit('gde_ledoit_wolf', train['pool'])
  wanted = gradcam.resize(gradcam.heat(
      density, _applied(parts, test, windows.feature_map)), 20, 20)
  _check_maps(found, test, wanted)
  assert found.about_maps() == 'heat maps: fit densities (gradcam)'


def _check_maps(found, test, wanted):
  maps = found.heat_maps(test)
  assert maps.dtype == np.float32 and wanted.std() > 0
  near = dict(rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
  np.testing.assert_allclose(maps, wanted, **near)
  np.testing.assert_allclose(found.heat_maps(test[3:4])[0], wanted[3], **near)


def _images(parts, split):
  """Returns the images of a split, u8[n, 20, 20, 3]."""
  paths = sorted((parts.parent / 'data' / split).rglob('*.png'))
  return np.stack([np.asarray(Image.open(path)) for path in paths])


def _windows(parts, image, side, begin):
  """Returns the features f[n, g, g, d] of windows, cut out one by one."""
  cut = np.stack([image[:, y:y + side, x:x + side] for y in begin
                  for x in begin], axis=1)
  pool = _applied(parts, cut.reshape(-1, side, side, 3), lambda task, *rest:
                  task.apply(*rest, method='embed')['pool'])
  return pool.reshape(len(image), len(begin), len(begin), -1)


@functools.cache
def _restored(workdir):
  return embed.restore(workdir)[2:]


def _applied(parts, image, function):
  """Returns what a function makes of the task, its variables and images."""
  task, state = _restored(str(parts))
  return np.asarray(function(task, state.variables, np.float32(image) / 255))


def test_maps_of_windows_are_told_where_the_training_images_lie_now(
    parts, tmp_path):
  workdir = _relocated(parts, tmp_path, name='windows', side=8, stride=6)
  here = str(parts.parent / 'data')
  image = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), np.uint8)
  maps = deep_oc.load(workdir, false_alarm_rate=0.2).heat_maps(image)
  content = (workdir / 'config.json').read_text()
  (workdir / 'config.json').write_text(content.replace(here, '/not/there'))
  lost = deep_oc.load(workdir, false_alarm_rate=0.2)
  assert lost.predict(image).shape == (1,)  # needs none of them
  words = '/not/there does not exist.*; give data_dir, where they lie now'
  with pytest.raises(InputError, match=f'{words}$'):
    lost.heat_maps(image)
  with pytest.raises(InputError, match=f"{words}, or .* feature, as 'pool'$"):
    deep_oc.load(workdir, false_alarm_rate=0.2, feature='windows')
  np.testing.assert_array_equal(deep_oc.load(
      workdir, false_alarm_rate=0.2, data_dir=here).heat_maps(image), maps)
  shutil.copytree(here, tmp_path / 'other')
  path = sorted((tmp_path / 'other').rglob('train/good/*.png'))[0]
  path.write_bytes(sorted((tmp_path / 'other').rglob('test/*/*.png'))[0]
                   .read_bytes())
  with pytest.raises(InputError, match='other holds other normal images'):
    deep_oc.load(workdir, false_alarm_rate=0.2,
                 data_dir=tmp_path / 'other').heat_maps(image)


def test_maps_by_grad_cam_need_no_training_images(parts, tmp_path):
  workdir = _relocated(parts, tmp_path, name='gradcam')
  content = (workdir / 'config.json').read_text()
  (workdir / 'config.json').write_text(
      content.replace(str(parts.parent / 'data'), '/not/there'))
  found = deep_oc.load(workdir, false_alarm_rate=0.2)
  assert found.heat_maps(np.zeros((2, 20, 20, 3), np.uint8)).shape == (
      2, 20, 20)


def test_type_checkers_are_told_that_the_package_is_typed():
  assert (resources.files('deep_oc') / 'py.typed').is_file()
  hints = typing.get_type_hints(trained_run.load)
  assert hints['return'].__name__ == 'Detector'
