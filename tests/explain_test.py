"""Explanations of a run as a user gets them, and against what they are of."""
import csv
import io
import json
import re
import shutil
import types

import jax
import numpy as np
import pytest
from conftest import the_error
from PIL import Image

import deep_oc
from deep_oc import (attributions, chosen, detector, differentiable, embeddings,
                     experiment, explain, explainer, explanation_pictures,
                     explanation_tables, feature_explanations, oneclass, photos,
                     pixel_metrics, pretexts, step, tables, thresholds, train,
                     unseen)
from deep_oc.errors import InputError
from tests import untrained

SETTINGS = explainer.Settings(
    methods=tuple(explainer.METHODS), steps=50, tolerance=0.01, samples=4,
    noise=0.1, side=4, stride=4, points=8)


@pytest.fixture(scope='module')
def run(never_stopped, tmp_path_factory):
  """A trained run on digits, to be written into."""
  workdir = tmp_path_factory.mktemp('explained') / 'run'
  shutil.copytree(never_stopped, workdir)
  return workdir


@pytest.fixture(scope='module')
def problem(run):
  return experiment.problem(deep_oc.load(run).parts().config)


def _rows(folder):
  with (folder / 'explanations.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def _column(rows, name, method):
  return np.array([float(row[name]) for row in rows if row['method'] == method])


def test_the_binary_explains_test_images(run, problem, binary):
  done = binary('explain', f'--workdir={run}', '--count=4', '--arrays',
                '--samples=4', '--neighbours=3')
  assert done.returncode == 0, done.stderr
  folder = run / 'explanations'
  rows, found = _rows(folder), deep_oc.load(run)
  assert tuple(rows[0]) == explanation_tables.COLUMNS
  assert [row['method'] for row in rows] == 4 * list(explainer.METHODS)
  index = [int(row['index']) for row in rows[::4]]
  test = problem.test.image[index]
  judged = found.judge(test)
  np.testing.assert_allclose(
      _column(rows, 'score', 'gradcam'), judged.score, rtol=1e-4)
  np.testing.assert_allclose(
      _column(rows, 'p_value', 'gradcam'), judged.p_value, rtol=1e-4)
  mean = np.uint8(np.rint(problem.fitted.image.mean(0)))
  np.testing.assert_allclose(
      _column(rows, 'score_of_baseline', 'gradcam'),
      np.repeat(found.decision_function([mean]), 4), rtol=1e-3)  # of bytes
  assert _column(rows, 'completeness_error', 'integrated_gradients').max() < .01

  features, wanted = found.embed(problem.fitted.image), found.embed(test)
  for row, feature in zip(rows[::4], wanted, strict=True):
    cosine = 1 - features @ feature / np.linalg.norm(
        features, axis=1) / np.linalg.norm(feature)
    near = np.argsort(cosine)[:3]
    assert [int(each) for each in row['nearest'].split()] == list(
        problem.fitted_index[near])
    np.testing.assert_allclose(
        [float(each) for each in row['distances'].split()], cosine[near],
        rtol=1e-3, atol=1e-6)

  about = json.loads((folder / 'explanations.json').read_text())
  assert '--count=4' in about['command'] and about['baseline'] == 'mean'
  assert about['versions']['deep_oc'] == deep_oc.__version__
  assert about['settings']['steps'] == 50 and about['images'] == 4
  for row in rows[::4]:
    name = row['image']
    picture = Image.open(folder / f'{name}.png')
    assert picture.text['command'] == about['command']
    assert np.asarray(picture.convert('RGB')).std() > 20
    with np.load(folder / f'{name}.npz') as arrays:
      total = arrays['integrated_gradients'].sum()
      rise = float(row['score']) - float(row['score_of_baseline'])
      assert total == pytest.approx(rise, rel=0.011)
      assert not np.allclose(arrays['occlusion'], arrays['random_occlusion'])
  assert 'integrated_gradients' in done.stdout
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('count, names, why', [
    (2, ['c.png', 'a.png'], 'highest scores'),
    (3, ['c.png', 'a.png', 'b.png'], 'given'), (9, None, 'given')])
def test_files_are_chosen_by_their_scores_if_not_all_are(
    monkeypatch, count, names, why):
  images = unseen.Found('in', ['in/a.png', 'in/b.png', 'in/c.png'], {})
  judged = detector.Judged(np.array([2., 1., 3.]), None, None)

  def scored(found, paths, take):
    take(paths, np.zeros((3, 2, 2, 3), np.uint8), judged, None)
    return types.SimpleNamespace(scored=3)
  monkeypatch.setattr(photos, 'score', scored)
  got, _ = chosen.of_files(images, None, count)
  assert [each.name for each in got] == (names or ['c.png', 'a.png', 'b.png'])
  assert {each.why for each in got} == {why}
  assert {each.reason() for each in got} == {
      '' if why == 'given' else '. Chosen as: highest scores'}


def test_near_images_are_told_apart_where_float32_would_not():
  angle = 1e-4 * np.array([9, 3, 5, 4, 8])  # 1 - cos is 1e-9 to 4e-7
  train = np.stack([np.cos(angle), np.sin(angle)], axis=1, dtype=np.float32)
  distance, row = explainer.nearest(
      train, np.float32([[1, 0]]), 5, cosine=True)
  assert row[0].tolist() == [1, 3, 2, 4, 0]
  np.testing.assert_allclose(
      distance[0], 2 * np.sin(np.sort(angle) / 2) ** 2, rtol=1e-3)


@pytest.mark.parametrize('path, said', [
    (None, ['nearest normal: image 7', 'normal: image 9']),
    (['good/a.png', f'good/{"b" * 50}12.png'],
     ['nearest normal: a.png', f'normal: …{"b" * 13}12.png'])])
def test_neighbours_are_told_by_the_names_of_their_files(
    path, said, monkeypatch):
  drawn = []
  writer = feature_explanations.Writer
  monkeypatch.setattr(writer, '_explained', lambda *_: (None, []))
  monkeypatch.setattr(writer, '_draw', lambda *args: drawn.extend(args[4]))
  monkeypatch.setattr(explanation_tables, 'rows', lambda *_, **__: [])
  normal = types.SimpleNamespace(
      image=np.zeros((2, 4, 4, 3), np.uint8), path=path and np.array(path))
  trained = types.SimpleNamespace(
      train=np.float32([[1, 0], [0, 1]]), judge=None,
      embed=lambda image: np.float32([[1, 0.1]]))
  writer(
      None, (trained, None), types.SimpleNamespace(
          fitted=normal, fitted_index=np.array([7, 9])),
      types.SimpleNamespace(methods=()), name='', baseline='', cosine=True,
      count=2, seed=0, arrays=False, command='').explain(
          types.SimpleNamespace(pixels=normal.image[0]), None)
  assert [explanation_pictures._named(prefix, each) for prefix, each in zip(
      ('nearest normal: ', 'normal: '), drawn, strict=True)] == said


def test_pictures_are_high_where_the_images_are():
  sizes, nothing = [], explainer.Explained(0., 0., {})
  for height in (16, 32, 64):
    image = np.zeros((height, 32, 3), np.uint8)
    picture = explanation_pictures.draw(
        image, None, np.float32(image), nothing, nothing,
        2 * [explainer.Neighbour(image, 0, 0., '')],
        dict(name='', verdict='', baseline='', distance=''), '')
    sizes.append(Image.open(io.BytesIO(picture)).height)
  assert 1.4 * sizes[0] < sizes[1] and 1.4 * sizes[1] < sizes[2]


@pytest.mark.slow
def test_the_binary_explains_files_by_the_tasks_own_score(
    binary, tmp_path_factory):
  root = tmp_path_factory.mktemp('parts')
  workdir = untrained.run(untrained.parts(root / 'data'), root / 'run')
  photos = root / 'photos'
  shutil.copytree(root / 'data' / 'test', photos)
  (photos / 'broken.png').write_text('no image')
  done = binary(
      'explain', f'--workdir={workdir}', f'--input={photos}', '--count=2',
      '--score=rotation', '--method=occlusion,gradcam', '--baseline=black',
      '--false_alarm_rate=0.2', f"--output={root / 'out'}")
  assert done.returncode == 0, done.stderr
  rows = _rows(root / 'out')
  assert [row['method'] for row in rows] == 2 * ['occlusion', 'gradcam']
  assert {row['explained'] for row in rows} == {'rotation'}
  assert {row['p_value'] + row['verdict'] for row in rows} == {''}
  assert {row['chosen_as'] for row in rows} == {'highest scores'}
  about = json.loads((root / 'out' / 'explanations.json').read_text())
  assert about['scored'] == 6 and len(about['unreadable']) == 1
  assert 'skipped: ' in done.stderr

  paths = sorted(map(str, photos.glob('*/*.png')))
  found = deep_oc.load(workdir, false_alarm_rate=0.2)
  image = np.stack([np.float32(found.prepare(path)) / 255 for path in paths])
  parts = found.parts()
  scores = -np.log1p(-np.float64(parts.pretext.apply(
      parts.variables, image, method='scores')['rotation']))
  order = np.argsort(-scores)[:2]
  assert [row['image'] for row in rows[::2]] == [paths[i] for i in order]
  np.testing.assert_allclose(
      _column(rows, 'score', 'gradcam'), scores[order], rtol=1e-3)
  for path in np.array(paths)[order]:
    assert (root / 'out' / f'{path.removeprefix(str(photos) + "/")}.png'
            ).exists()


def test_normal_images_calibrate_the_verdicts_as_predicts(
    run, problem, binary, tmp_path):
  for name, images in (('normal', problem.test.image[~problem.test.anomaly]),
                       ('input', problem.test.image[problem.test.anomaly])):
    (tmp_path / name).mkdir()
    for i, image in enumerate(images[:20]):
      Image.fromarray(image).save(tmp_path / name / f'{i:02d}.png')
  args = (f'--workdir={run}', f'--output={tmp_path}/out', '--method=occlusion',
          '--count=2', '--baseline=black',
          f'--calibration={tmp_path}/normal')
  done = binary('explain', *args, f'--input={tmp_path}/input')
  assert done.returncode == 0, done.stderr
  rows = _rows(tmp_path / 'out')
  found, other = (deep_oc.load(run, calibration=each) for each in (
      sorted((tmp_path / 'normal').iterdir()), None))
  images = [row['image'] for row in rows]
  wanted = found.judge(images)
  np.testing.assert_allclose(_column(rows, 'score', 'occlusion'), wanted.score,
                             rtol=1e-4)
  np.testing.assert_allclose(
      _column(rows, 'p_value', 'occlusion'), wanted.p_value, rtol=1e-4)
  assert not np.allclose(other.p_values(images), wanted.p_value)
  about = json.loads((tmp_path / 'out' / 'explanations.json').read_text())
  assert about['calibration'] == found.calibration == 'unseen_20'
  assert {about['baseline'], *(row['baseline'] for row in rows)} == {'black'}
  done = binary('explain', *args, f'--input={tmp_path}/normal/03.png')
  assert '1 of the 1 images to explain are among' in the_error(done)


def test_given_images_calibrate_the_random_network_too(run, problem):
  found = deep_oc.load(run, calibration=problem.test.image[:30])
  stored, _ = embeddings.read(run / 'embeddings' / 'train.npz')
  _, other = explainer.networks(found, 'kde', stored, problem)
  fitted = oneclass.fit('kde', stored['random'])
  calibration, scores = (
      oneclass.anomaly_score(fitted, other.embed(problem.test.image[rows]))
      for rows in (slice(30), slice(30, 50)))
  judged = other.judge(problem.test.image[30:50])
  np.testing.assert_allclose(judged.score, scores, rtol=1e-5)
  np.testing.assert_allclose(
      judged.p_value, thresholds.p_values(calibration, scores), atol=1.5 / 31)


@pytest.mark.parametrize('args, words', [
    ((), '--workdir is required'),
    (('--workdir=nowhere',), 'no embeddings at nowhere'),
    (('--workdir={run}', '--score=kdee'),
     "unknown score 'kdee'; did you mean 'kde'"),
    (('--workdir={run}', '--score=rotatoin'), "did you mean 'rotation'"),
    (('--workdir={run}', '--score=lof'), 'LOF has no gradient .* choose one of '
     'ocsvm_linear, ocsvm_rbf, kde'),
    (('--workdir={run}', '--feature=score'), "explain the task's own "
     'score give --score=rotation or upright'),
    (('--workdir={run}', '--method=grad_cam'), "did you mean 'gradcam'"),
    (('--workdir={run}', '--baseline=men'), "did you mean 'mean'"),
    (('--workdir={run}', '--side=99'), '--side=99 is larger than the images'),
    (('--workdir={run}', '--side=3', '--stride=4'), 'never hidden by --side=3'),
    (('--workdir={run}', '--count=0'), 'count'),
    (('--workdir={run}', '--noise=nan'), '--noise=nan must be a number'),
    (('--workdir={run}', '--input=/not/there'), 'no image at /not/there'),
    (('--workdir={run}', '--data_dir=/not/there'), '--data_dir says where')])
def test_bad_input_is_one_line(run, binary, args, words):
  done = binary('explain', *(arg.format(run=run) for arg in args))
  if '--count=0' in args:
    assert done.returncode and 'Traceback' not in done.stderr
    assert words in done.stderr
    return
  assert re.search(words, the_error(done)), done.stderr


@pytest.mark.parametrize(
    'classifier', ['kde', 'gde', 'gde_ledoit_wolf', 'ocsvm_rbf', 'knn'])
def test_the_detectors_score_is_explained_within_one_percent(
    run, problem, classifier):
  """Of a trained network, whatever the detector scores with."""
  found = deep_oc.load(run, classifier=classifier)
  parts = found.parts()
  score = differentiable.one_class(
      parts.pretext, parts.variables, 'pool',
      [fitted for fitted, _ in parts.calibrated.parts])
  test = problem.test.image[:6]
  image, mean = np.float32(test) / 255, problem.fitted.image.mean(0) / 255
  integrated = attributions.integrated_gradients(score, image, mean)
  np.testing.assert_allclose(
      integrated.score, found.decision_function(test), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      integrated.attribution.sum((1, 2, 3)),
      integrated.score - integrated.score_of_baseline, rtol=0.01)


def test_the_random_network_is_the_untrained_one_with_a_classifier_of_its_own(
    run, problem):
  found = deep_oc.load(run)
  stored, _ = embeddings.read(run / 'embeddings' / 'train.npz')
  _, other = explainer.networks(found, 'kde', stored, problem)
  test, parts = problem.test.image[:5], found.parts()
  variables = step.init(parts.pretext, 0, found.image_shape)
  feature = parts.pretext.apply(
      variables, np.float32(test) / 255, method='embed')['pool']
  fitted, _ = thresholds.calibrate(stored['random'], 'kde', 0)
  np.testing.assert_allclose(
      attributions.values(other.score, np.float32(test) / 255),
      oneclass.anomaly_score(fitted, np.asarray(feature)), rtol=1e-4)
  head = deep_oc.load(run, feature='head')
  _, of_head = explainer.networks(head, 'kde', stored, problem)
  assert of_head.train.shape == stored['head'].shape
  assert np.abs(of_head.train - stored['head']).max() > 1e-3


def test_the_random_network_is_calibrated_by_what_was_held_out(
    digits_npz, tmp_path):
  config = untrained.digits(digits_npz)
  with config.unlocked():
    config.protocol.calibration = 0.25
  run = untrained.run(config, tmp_path / 'run')
  found = deep_oc.load(run)
  stored, _ = embeddings.read(run / 'embeddings' / 'train.npz')
  held_out, _ = embeddings.read(run / 'embeddings' / 'calibration.npz')
  problem = experiment.problem(found.parts().config)
  _, other = explainer.networks(found, 'kde', stored, problem)
  fitted = oneclass.fit('kde', stored['random'])
  calibration, scores = (oneclass.anomaly_score(fitted, each) for each in (
      held_out['random'], other.embed(problem.test.image[:20])))
  judged = other.judge(problem.test.image[:20])
  np.testing.assert_allclose(judged.score, scores, rtol=1e-5)
  np.testing.assert_allclose(judged.p_value, [
      (1 + (calibration >= each).sum()) / (1 + len(calibration))
      for each in scores], atol=1.5 / (1 + len(calibration)))


def _pixels(image):
  """A score that only one corner raises."""
  return image[:, :4, :4].sum((1, 2, 3))


def test_maps_are_judged_by_masks_and_by_the_score_that_is_explained(
    monkeypatch):
  monkeypatch.delitem(explainer.METHODS, 'gradcam')  # of networks only
  image = np.random.default_rng(0).uniform(0.1, 1, (8, 8, 3)).astype('f4')
  mask = np.zeros((8, 8), bool)
  mask[:4, :4] = True
  settings = explainer.Settings(**SETTINGS.__dict__ | {
      'methods': tuple(explainer.METHODS)})
  calls = []
  found = explainer.explain(
      _pixels, _pixels, image, np.zeros((1, 8, 8, 3), 'f4'), mask, settings,
      jax.random.key(0), lambda: calls.append(1))
  assert len(calls) == len(found.maps) == 3
  assert found.score == pytest.approx(image[:4, :4].sum(), rel=1e-5)
  assert found.score_of_baseline == 0
  for name, each in found.maps.items():
    assert each.pixel_auroc == 100 == pixel_metrics.pixel_auroc(
        each.attribution[None], mask[None]), name
    assert each.deletion < 0.2 and each.insertion > 0.8
  opposite = explainer.explain(
      _pixels, lambda x: x[:, 4:].sum((1, 2, 3)), image,
      np.zeros((1, 8, 8, 3), 'f4'), mask, settings, jax.random.key(0))
  assert opposite.maps['occlusion'].deletion > 0.5
  unknown = explainer.explain(
      _pixels, _pixels, image, image[None], ~mask & mask, settings,
      jax.random.key(0))
  assert np.isnan(unknown.maps['occlusion'].pixel_auroc)
  assert np.isnan(unknown.maps['occlusion'].deletion)


@pytest.mark.parametrize('judge, wanted', [
    (lambda images: types.SimpleNamespace(
        anomalous=images[:, 0, 0, 0] == 100), 'nearest'),  # (0 + 200) / 2
    (lambda images: types.SimpleNamespace(
        anomalous=images[:, 0, 0, 0] != 100), 'mean'),
    (None, 'mean')])  # of a task's own score, of which there is no threshold
def test_the_mean_is_no_baseline_where_it_is_called_anomalous(judge, wanted):
  normal = np.zeros((2, 4, 4, 3), np.uint8)
  normal[1] = 200
  network = explainer.Network(None, judge, None, None)
  assert explain._baseline(None, network, normal) == wanted
  assert explain._baseline('blur', network, normal) == 'blur'


def test_several_baselines_are_averaged():
  random = np.random.default_rng(0)
  image, *baseline = random.uniform(size=(4, 8, 8, 3)).astype('f4')
  baseline = np.stack(baseline)

  def score(x):
    return (x ** 2).sum((1, 2, 3))

  found = explainer.explain(
      score, score, image, baseline, None, explainer.Settings(
          **SETTINGS.__dict__ | {'methods': ('integrated_gradients',)}),
      jax.random.key(0))
  each = found.maps['integrated_gradients']
  wanted = (np.float64(image) ** 2 - np.float64(baseline) ** 2).mean(0).sum(-1)
  np.testing.assert_allclose(each.attribution, wanted, rtol=1e-3, atol=1e-4)
  assert each.completeness_error < 1e-3 and each.steps == 150
  assert found.score_of_baseline == pytest.approx(
      (np.float64(baseline) ** 2).sum((1, 2, 3)).mean(), rel=1e-5)


def test_baselines_are_what_they_are_called():
  train = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
  image = np.float32(train[0] / 255)
  made = {name: make(image, train, 7)
          for name, make in explainer.BASELINES.items()}
  assert {name: each.shape for name, each in made.items()} == {
      name: (8 if name == 'expected' else 1, 16, 16, 3) for name in made}
  np.testing.assert_allclose(made['mean'][0], train.mean(0) / 255, rtol=1e-5)
  np.testing.assert_allclose(made['nearest'][0], train[7] / 255, rtol=1e-6)
  assert not made['black'].any()
  assert made['blur'].mean() == pytest.approx(image.mean(), abs=0.02)
  assert made['blur'].std() < image.std()
  for each in made['expected']:
    assert (np.abs(each - train / 255).max((1, 2, 3)) < 1e-6).sum() == 1


def test_chosen_are_the_highest_scores_and_the_worst_mistakes():
  scores = np.array([9., 8., 7., 1., 6., 2., 3., 0.])
  anomaly = np.array([1, 0, 1, 1, 1, 0, 0, 1], bool)
  found = dict(chosen.choose(scores, anomaly, 5))
  assert found == {0: 'anomaly, highest scores', 2: 'anomaly, highest scores',
                   4: 'anomaly, highest scores', 1: 'normal, highest scores',
                   7: 'anomaly, lowest scores'}
  assert [row for row, _ in chosen.choose(scores, anomaly, 5)] == [
      0, 2, 4, 1, 7]
  everything = chosen.choose(scores, anomaly, 99)
  assert sorted(row for row, _ in everything) == list(range(8))
  assert len(chosen.choose(scores, np.ones(8, bool), 3)) == 3


def test_what_raises_the_score_is_orange_and_what_lowers_it_blue():
  image = np.full((20, 20, 3), 128, np.uint8)
  heat = np.zeros((20, 20))
  heat[2:8, 2:8], heat[12:18, 12:18] = 1, -1
  drawn = explanation_pictures.overlay(image, heat).astype(int)
  red, _, blue = np.moveaxis(drawn, -1, 0)
  assert (red - blue)[4, 4] > 100 and (red - blue)[15, 15] < -100
  assert np.ptp(drawn[10, 0]) == 0  # grey
  assert np.abs(explanation_pictures.shown(heat)).max() == 1
  assert not explanation_pictures.shown(np.zeros((5, 5))).any()


def test_a_summary_has_medians_and_the_auroc_over_all_pixels():
  random = np.random.default_rng(0)
  maps, other = random.normal(size=(2, 3, 6, 6))
  masks = random.uniform(size=(3, 6, 6)) > 0.7
  table = [{'method': 'occlusion', 'image': str(i), 'completeness_error': '',
            'similarity': ''} | {
                f'{prefix}{name}': str(i * i) for prefix in ('', 'random_')
                for name in ('deletion', 'insertion')} for i in range(3)]
  found = explanation_tables.summary(
      table, {'occlusion': list(zip(maps, other, masks, strict=True))})
  each = found['occlusion']
  assert each['deletion'] == each['random_insertion'] == 1
  assert each['completeness_error'] is None and each['similarity'] is None
  assert each['pixel_auroc'] == pixel_metrics.pixel_auroc(maps, masks)
  assert each['random_pixel_auroc'] == pixel_metrics.pixel_auroc(other, masks)
  assert 'occlusion' in explanation_tables.show(found)
  assert not list(explanation_tables.warnings(table, 0.01))
  empty = [row | {'deletion': ''} for row in table[:2]] + table[2:]
  assert list(explanation_tables.warnings(empty * 2, 0.01)) == [
      '2 images score no higher than their baseline: deletion and insertion '
      'are empty; another --baseline may be more normal']
  incomplete = [row | {'completeness_error': '0.05'} for row in table]
  [warning] = explanation_tables.warnings(incomplete, 0.01)
  assert '3 of 3 images' in warning and '5.00%' in warning


def test_gradcam_is_left_out_of_an_encoder_without_a_map(monkeypatch):
  found = types.SimpleNamespace(
      image_shape=(8, 8, 3), parts=lambda: types.SimpleNamespace(
          pretext=types.SimpleNamespace(encoder=None)))
  monkeypatch.setattr(pretexts, 'shapes', lambda *_: ((1, 4), None))
  methods = tuple(explainer.METHODS)
  assert explain._possible(methods, False, found, 'kde') == tuple(
      each for each in methods if each != 'gradcam')
  assert explain._possible(('occlusion',), True, found, 'kde') == ('occlusion',)
  with pytest.raises(InputError, match='this encoder sows none; leave gradcam'):
    explain._possible(methods, True, found, 'kde')
  monkeypatch.setattr(pretexts, 'shapes', lambda *_: ((1, 4), (1, 2, 2, 4)))
  assert explain._possible(methods, True, found, 'kde') == methods


def test_a_config_without_a_task_is_one_line(tmp_path):
  (tmp_path / 'config.json').write_text('{"config": {"experiment": "a"}}')
  with pytest.raises(InputError, match='the config lacks'):
    explain._load(types.SimpleNamespace(workdir=str(tmp_path)), 'pool')


def test_other_normal_images_than_those_embedded_are_refused(run):
  found = types.SimpleNamespace(
      feature='pool', parts=lambda: types.SimpleNamespace(
          config=experiment.of_run(str(run))))
  stored, _ = embeddings.read(run / 'embeddings' / 'train.npz')
  assert len(explain._problem(found, stored).fitted) == len(stored['pool'])
  with pytest.raises(InputError, match='digits holds other normal images'):
    explain._problem(found, stored | {'pixels': stored['pixels'][::-1]})
  explain._problem(found, {'pool': stored['pool']})  # nothing to compare with


def test_settings_that_cannot_be_are_errors():
  class Args:
    method, baseline, side, stride = ['occlusion'], 'mean', None, None
    steps = samples = 1
    tolerance = noise = 0.1
  found = explain._settings(Args, (32, 24, 3))
  assert (found.side, found.stride) == (4, 2)
  Args.side = 25
  with pytest.raises(InputError, match='--side=25 .* 32x24'):
    explain._settings(Args, (32, 24, 3))


@pytest.mark.slow
def test_explanations_of_a_trained_run_land_on_the_defects(
    binary, tmp_path_factory):
  """CutPaste on fabric, where every map of random weights is near guessing."""
  from configs import cutpaste_quickstart
  workdir = tmp_path_factory.mktemp('fabric') / 'run'
  train.train(cutpaste_quickstart.get_config(), str(workdir))
  done = binary('explain', f'--workdir={workdir}', '--count=24',
                '--method=occlusion,gradcam,integrated_gradients',
                timeout=1800)
  assert done.returncode == 0, done.stderr
  about = json.loads(
      (workdir / 'explanations' / 'explanations.json').read_text())
  for name in ('occlusion', 'gradcam'):
    found = about['methods'][name]
    assert found['pixel_auroc'] > found['random_pixel_auroc'] + 10, found
  rows = tables.read(workdir / 'explanations' / 'explanations.csv', ['method'])
  errors = [float(row['completeness_error']) for row in rows
            if row['method'] == 'integrated_gradients'
            and float(row['score']) > float(row['score_of_baseline']) + 30]
  # Relative to the rise, which is next to nothing for images like the baseline.
  assert len(errors) > 8 and max(errors) < 0.01
