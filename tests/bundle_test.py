"""A bundle says what the detector says, and is refused if it is not whole."""
import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import deep_oc
from deep_oc import bundle, export, files, heat_colours, unseen
from deep_oc.bundle import __main__ as program
from deep_oc.bundle import passes
from deep_oc.errors import InputError
from deep_oc.service import worker
from tests import served, untrained


@pytest.fixture(scope='module')
def folder(digits_npz, tmp_path_factory):
  """A run on digits, padded from 16 pixels to 20."""
  root = tmp_path_factory.mktemp('digits')
  return untrained.run(untrained.digits(digits_npz), root / 'run')


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """A run that localizes by Grad-CAM, its data set beside it."""
  root = tmp_path_factory.mktemp('parts')
  return untrained.run(untrained.parts(root / 'data'), root / 'run')


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  """A bundle of the digits."""
  output = tmp_path_factory.mktemp('whole') / 'bundle'
  export.export(deep_oc.load(folder), output, [], 'a command')
  return output


@pytest.fixture
def copied(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'bundle')


def _noise(count, shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def _sealed(folder, **changes):
  """Writes bundle.json anew, with checksums that fit."""
  about = json.loads((folder / 'bundle.json').read_text())
  return export._seal(folder, about | changes)


@pytest.mark.parametrize('classifier', [
    'kde', 'gde_ledoit_wolf', 'ocsvm_rbf', 'ocsvm_linear', 'knn',
    'mahalanobis'])
@pytest.mark.parametrize('rate, calibration', [
    (0.05, 'held_out_24'), (0.02, 'folds_5')])
def test_a_bundle_says_what_the_detector_says(
    folder, digits_npz, tmp_path, classifier, rate, calibration):
  found = deep_oc.load(folder, classifier=classifier, false_alarm_rate=rate)
  wrote = export._write(found, tmp_path, export._pooled(found), [])
  export._seal(tmp_path, export._about(found, '') | wrote)
  taken = bundle.load(tmp_path)
  images = np.stack([found.prepare(each) for each in
                     np.load(digits_npz)['x_test'][:50]])
  images = np.concatenate([images, _noise(3, found.image_shape)])
  wanted, got = found.judge(images), taken.judge(images)
  assert got.score.dtype == np.float64 and wanted.score.std() > 0
  np.testing.assert_allclose(got.score, wanted.score, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(got.p_value, wanted.p_value, rtol=1e-12)
  np.testing.assert_array_equal(got.anomalous, wanted.anomalous)
  assert 0 < got.anomalous.sum() < len(images)
  assert taken.threshold == found.threshold_
  assert taken.about['calibration'] == found.calibration == calibration


@pytest.fixture(scope='module')
def held_out(digits_npz, tmp_path_factory):
  """A run on digits that held some out of its training."""
  config = untrained.digits(digits_npz)
  with config.unlocked():
    config.protocol.calibration = 0.25
  return untrained.run(config, tmp_path_factory.mktemp('held_out') / 'run')


@pytest.mark.parametrize('feature, classifier', [
    ('pool', 'kde'), ('score', 'rotation'), ('score', 'upright')])
def test_a_bundle_is_calibrated_by_what_was_held_out(
    held_out, tmp_path, feature, classifier):
  found = deep_oc.load(held_out, feature=feature, classifier=classifier)
  about = export.export(found, tmp_path / 'bundle', [], '')
  taken = bundle.load(tmp_path / 'bundle')
  images = _noise(40, found.image_shape)
  wanted, got = found.judge(images), taken.judge(images)
  np.testing.assert_allclose(got.score, wanted.score, rtol=1e-5)
  np.testing.assert_allclose(got.p_value, wanted.p_value, rtol=1e-12)
  assert wanted.score.std() > 0 and taken.threshold == found.threshold_
  assert about['calibration'] == found.calibration == 'unseen_30'
  assert '30 normal images that neither encoder' in (
      tmp_path / 'bundle/README.md').read_text()


def test_any_number_of_images_goes_through(whole, folder):
  taken = bundle.load(whole)
  images = _noise(2 * taken.batch + 5, taken.image_shape)
  wanted = deep_oc.load(folder).judge(images)
  for count in (1, 2, 3, 7, 33, len(images)):
    got = taken.judge(images[:count])
    assert len(got.score) == len(got.p_value) == len(got.anomalous) == count
    np.testing.assert_allclose(got.score, wanted.score[:count], rtol=1e-5)
  assert taken.judge(images[:0]).score.shape == (0,)


@pytest.mark.parametrize('cores, cpu, large, small, rows', [
    (2, True, 2, 128, 128), (1, True, 1, 64, 128), (64, True, 16, 128, 128),
    (2, False, 16, 256, 256)])
def test_a_cpu_has_few_pixels_at_once(monkeypatch, cores, cpu, large, small,
                                      rows):
  monkeypatch.setattr(passes, '_is_cpu', lambda: cpu)
  monkeypatch.setattr(passes, '_cores', lambda: cores)
  assert passes.batch(256, 256) == 16 and passes.batch(32, 32) == 256
  assert passes.padded(999, 256, 256) == large
  assert passes.padded(999, 32, 32) == small
  assert passes.padded(9999) == rows and passes.padded(33) == 64
  assert passes.padded(1, 256, 256) == 1
  assert passes.batch(1999, 1999) == passes.padded(999, 1999, 1999) == 1


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
  monkeypatch.setattr(passes, '_is_cpu', lambda: True)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3, 5, 7},
                      raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: 9)
  assert passes.pixels_at_once() == 3 * 2**16
  monkeypatch.delattr(os, 'sched_getaffinity')  # as on a Mac
  assert passes.pixels_at_once() == 9 * 2**16


def test_features_are_padded_by_their_number_alone(tmp_path, monkeypatch):
  padded, asked = passes.padded, []
  monkeypatch.setattr(passes, 'padded', lambda *of: (
      asked.append(of), padded(*of))[1])
  taken = bundle.load(served.write(tmp_path / 'bundle'))
  taken.judge(_noise(3, served.SHAPE))
  assert asked == [(3, *served.SHAPE[:2]), (3,)]


@pytest.mark.parametrize('feature, wanted', [
    ('pool', ([1, 2, 4, 8], [1, 2, 4, 8])), ('windows', ([1, 2, 4, 8], []))])
def test_the_maps_that_are_judged_are_warmed_up_once(feature, wanted):
  found = served.Fake(feature=feature)
  worker.warm_up(found)
  assert (found.seen, found.mapped) == wanted


def test_nothing_is_left_to_compile_after_the_warm_up(whole, monkeypatch):
  monkeypatch.setattr(passes, '_cores', lambda: 1)
  monkeypatch.setattr(passes, '_PIXELS_OF_A_CORE', 4 * 20 * 20)
  monkeypatch.setattr(passes, '_PIXELS', 16 * 20 * 20)
  taken = bundle.load(whole)
  worker.warm_up(taken)
  compiled = {name: each._call._cache_size()
              for name, each in taken._programs.items()}
  # Of 1, 2 and 4 images, and 8 and 16 rows of features.
  assert compiled == {'model': 3, 'classifier': 5}
  for count in range(1, taken.batch + 1):
    taken.judge(_noise(count, taken.image_shape))
  assert compiled == {name: each._call._cache_size()
                      for name, each in taken._programs.items()}


def test_what_is_not_prepared_is_an_error(whole):
  taken = bundle.load(whole)
  for images in (_noise(2, (16, 16, 3)), np.zeros((2, 20, 20, 3)),
                 _noise(1, (20, 20, 3))[0]):
    with pytest.raises(bundle.BundleError, match=r'are uint8\[n, 20, 20, 3'):
      taken.judge(images)


def test_a_bundle_tells_of_its_run(whole, folder):
  taken, found = bundle.load(whole), deep_oc.load(folder)
  assert taken.image_shape == found.image_shape == (20, 20, 3)
  assert (taken.false_alarm_rate, taken.localizes) == (0.05, None)
  assert taken.about['command'] == 'a command'
  assert taken.about['format'] == bundle.FORMAT == 2
  assert taken.about['n_train'] == 121 and taken.about['normal_name'] == '3'
  assert taken.about['parity']['max_relative_difference'] <= 1e-5
  assert taken.about['digest'] == bundle.digest(taken.about)
  with pytest.raises(bundle.BundleError, match='no heat maps'):
    taken.heat_maps(_noise(1, taken.image_shape))


def _pictures(folder):
  """Writes pictures of every mode; returns their paths."""
  colour = _noise(1, (37, 51, 4))[0]
  grey = colour[..., 0]
  images = {
      'rgb.png': Image.fromarray(colour[..., :3]), 'grey.png':
      Image.fromarray(grey), 'rgba.png': Image.fromarray(colour),
      'alpha.png': Image.fromarray(colour[..., :2], 'LA'),
      'wide.png': Image.fromarray(grey.astype(np.uint16) * 257 + 99),
      'wide.tiff': Image.fromarray(grey.astype(np.uint16) * 3),
      'palette.png': Image.fromarray(colour[..., :3]).quantize(16),
      'rgb.jpg': Image.fromarray(colour[..., :3]),
      'cmyk.jpg': Image.fromarray(colour[..., :3]).convert('CMYK'),
      'one.bmp': Image.fromarray(grey).convert('1'),
      'tall.webp': Image.fromarray(colour[:, :5, :3])}
  for name, image in images.items():
    image.save(folder / name)
  turned = Image.Exif()
  turned[0x0112] = 6
  images['rgb.jpg'].save(folder / 'turned.jpg', exif=turned)
  return [folder / name for name in (*images, 'turned.jpg')]


@pytest.mark.parametrize('config, shape', [
    ({'source': 'folder'}, (20, 24, 3)), ({'source': 'tfds', 'pad': 2},
                                          (32, 32, 3)),
    ({'source': 'cat_vs_dog'}, (16, 16, 3))])
def test_pictures_are_prepared_as_the_detector_prepares_them(
    tmp_path, config, shape):
  read, how = unseen.reader(config, shape), unseen.described(config)
  paths = _pictures(tmp_path)
  arrays = [_noise(1, (9, 30))[0], _noise(1, (9, 30, 1))[0],
            _noise(1, (30, 9, 4))[0], _noise(1, shape)[0],
            _noise(1, (1, 99, 3))[0], _noise(1, (210, 3, 3))[0],
            _noise(1, (1100, 1000, 3))[0]]
  for picture in (*paths, str(paths[0]), *map(Image.open, paths), *arrays):
    got = bundle.pictures.prepare(picture, shape, how)
    assert got.dtype == np.uint8 and got.shape == shape and got.std() > 0
    np.testing.assert_array_equal(got, read(picture), err_msg=str(picture))
  np.testing.assert_array_equal(
      bundle.pictures.prepare(paths[0].read_bytes(), shape, how),
      read(paths[0]))


def test_faces_are_cut_out_as_the_data_source_does():
  image = _noise(1, (218, 178, 3))[0]
  how = unseen.described({'source': 'celeba'})
  np.testing.assert_array_equal(
      bundle.pictures.prepare(image, (16, 16, 3), how),
      unseen.reader({'source': 'celeba'}, (16, 16, 3))(image))
  with pytest.raises(bundle.PictureError, match='178×218 pixels, this one 9×9'):
    bundle.pictures.prepare(image[:9, :9], (16, 16, 3), how)


def test_what_is_no_picture_is_an_error_in_one_line(whole, tmp_path):
  taken = bundle.load(whole)
  (tmp_path / 'half.png').write_bytes(_pictures(tmp_path)[0].read_bytes()[:90])
  Image.new('1', (20000, 20000)).save(tmp_path / 'bomb.png')
  Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / 'float.tiff')
  for picture in ('none.png', __file__, b'', tmp_path / 'half.png',
                  tmp_path / 'bomb.png', tmp_path / 'float.tiff',
                  np.zeros((4, 4)), np.zeros((4, 4, 5), np.uint8),
                  np.zeros((0, 4), np.uint8)):
    with pytest.raises(bundle.PictureError) as caught:
      taken.prepare(picture)
    assert '\n' not in str(caught.value)


def _truncate(folder):
  path = folder / 'model.stablehlo'
  path.write_bytes(path.read_bytes()[:-100])


def _pickle(folder):
  np.savez(folder / 'calibration.npz', **{'0': np.array([{}], object)})
  _sealed(folder)
  bundle.load(folder)


def _json(change):
  def apply(folder):
    path = folder / 'bundle.json'
    path.write_text(change(path.read_text()))
  return apply


@pytest.mark.parametrize('damage, words', [
    (_truncate, 'model.stablehlo is not as it was written'),
    (lambda folder: (folder / 'weights.npz').unlink(), 'lacks weights.npz'),
    (lambda folder: (folder / 'bundle.json').unlink(), 'no bundle in'),
    (lambda folder: _sealed(folder, format=3), 'format 3, newer than 2'),
    (_json(lambda text: text.replace('"step": ', '"step": 1')),
     'bundle.json is not as it was written'),
    (_json(lambda text: text[:500]), 'bundle.json is damaged'),
    (_json(lambda text: '[]'), 'bundle.json'),
    (_pickle, 'calibration.npz is not a readable .npz file of plain arrays')])
def test_what_is_not_whole_is_refused_in_one_line(copied, damage, words):
  with pytest.raises(bundle.BundleError, match=words) as caught:
    damage(copied)
    bundle.load(copied)
  assert '\n' not in str(caught.value)


def test_files_elsewhere_are_refused(copied):
  about = _sealed(copied)
  about['files']['../secret'] = {'sha256': ''}
  about['digest'] = bundle.digest(about)
  (copied / 'bundle.json').write_text(json.dumps(about))
  with pytest.raises(bundle.BundleError, match='names a file elsewhere'):
    bundle.load(copied)


@pytest.mark.parametrize('change, words', [
    (lambda about: about.pop('image_shape'), "malformed .*'image_shape'"),
    (lambda about: about.update(image_shape='abc'), 'malformed'),
    (lambda about: about.update(files=[]), 'malformed'),
    (lambda about: about.pop('programs'), "malformed .*'programs'"),
    (lambda about: about['programs']['model'].update(names=['none']),
     "malformed .*'none'"),
    (lambda about: about['files'].pop('calibration.npz'),
     'does not list calibration.npz'),
    (lambda about: about['files'].pop('model.stablehlo'),
     'does not list model.stablehlo'),
    (lambda about: about['programs']['model'].update(arrays='../other.npz'),
     'does not list ../other.npz')])
def test_what_was_written_wrong_is_refused_in_one_line(copied, change, words):
  shutil.copy(copied / 'weights.npz', copied.parent / 'other.npz')
  about = _sealed(copied)
  change(about)
  about['digest'] = bundle.digest(about)
  (copied / 'bundle.json').write_text(json.dumps(about))
  with pytest.raises(bundle.BundleError, match=words) as caught:
    bundle.load(copied).judge(_noise(1, (20, 20, 3)))
  assert '\n' not in str(caught.value)


def test_calibration_of_other_classifiers_is_refused_in_one_line(copied):
  np.savez(copied / 'calibration.npz', **{str(i): [0.] for i in range(99)})
  _sealed(copied)
  with pytest.raises(bundle.BundleError, match='malformed'):
    bundle.load(copied).judge(_noise(1, (20, 20, 3)))


def test_a_program_that_jax_cannot_read_is_an_error_in_one_line(copied):
  (copied / 'model.stablehlo').write_bytes(b'none')
  _sealed(copied)
  with pytest.raises(bundle.BundleError, match='JAX .* cannot read .*model'):
    bundle.load(copied).judge(_noise(1, (20, 20, 3)))


def _localized(parts, tmp_path, feature='pool', **group):
  """Returns the detector of a run whose config has another `localize`."""
  workdir = shutil.copytree(parts, tmp_path / 'run')
  content = json.loads((workdir / 'config.json').read_text())
  content['config']['localize'] = group
  (workdir / 'config.json').write_text(json.dumps(content))
  return deep_oc.load(workdir, false_alarm_rate=0.2, feature=feature)


@pytest.mark.parametrize('positions', ['shared', 'each'])
def test_the_largest_of_a_map_is_judged_as_the_detector_does(
    parts, tmp_path, positions):
  found = _localized(parts, tmp_path, 'windows', name='windows', side=8,
                     stride=6, positions=positions)
  about = export.export(found, tmp_path / 'bundle', [], '',
                        limits=heat_colours.Scale(1.5, 9.))
  assert about['heat_colours'] == dict(low=1.5, high=9, knee=None)
  taken = bundle.load(tmp_path / 'bundle')
  assert set(about['programs']) == {'map', 'heat'}
  images = _noise(9, found.image_shape, seed=6)
  wanted, got = found.judge(images), taken.judge(images)
  np.testing.assert_allclose(got.score, wanted.score,
                             atol=1e-5 * np.abs(wanted.score).max())
  heat = taken.heat_maps(images)
  np.testing.assert_array_equal(got.score, heat.max(axis=(1, 2)))
  for one, other in zip(got, taken.judge_maps(heat), strict=True):
    np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(got.p_value, wanted.p_value)
  assert not len(taken.judge(images[:0]).score)
  with pytest.raises(bundle.BundleError, match='score is not finite'):
    taken.judge_maps(np.nan * heat)


@pytest.mark.parametrize('group', [
    dict(name='gradcam'), dict(name='gradcam', classifier='gde_oas_raw'),
    dict(name='windows', side=8, stride=5),
    dict(name='windows', side=8, stride=5, positions='each'),
    dict(name='windows', side=8, stride=3, positions='each',
         classifier='gde_ridge_raw')])
def test_heat_maps_are_those_of_the_detector(parts, tmp_path, group):
  found = _localized(parts, tmp_path, **group)
  about = export.export(found, tmp_path / 'bundle', [], '')
  taken = bundle.load(tmp_path / 'bundle')
  assert taken.localizes == group['name']
  assert about['parity']['max_map_difference'] <= 1e-4
  images = _noise(3, found.image_shape, seed=5)
  wanted, got = found.heat_maps(images), taken.heat_maps(images)
  assert got.dtype == np.float32 and wanted.std() > 0
  np.testing.assert_allclose(got, wanted, rtol=1e-4,
                             atol=1e-4 * np.abs(wanted).max())
  assert taken.heat_maps(images[:0]).shape == (0, 20, 20)
  many = np.concatenate([images] * (taken.batch // 3 + 1))
  np.testing.assert_allclose(taken.heat_maps(many)[-3:], got, rtol=1e-5,
                             atol=1e-6 * np.abs(got).max())


def test_a_bundle_of_the_first_format_has_its_heat_maps(parts, tmp_path):
  found = _localized(parts, tmp_path, name='windows', side=8, stride=5)
  export.export(found, tmp_path / 'bundle', [], '')
  images = _noise(2, found.image_shape)
  wanted = bundle.load(tmp_path / 'bundle').heat_maps(images)
  about = json.loads((tmp_path / 'bundle/bundle.json').read_text())
  about |= {'format': 1, 'window': 8, 'positions': 'shared'}
  del about['heat_maps']
  about['digest'] = bundle.digest(about)
  (tmp_path / 'bundle/bundle.json').write_text(json.dumps(about))
  np.testing.assert_array_equal(
      bundle.load(tmp_path / 'bundle').heat_maps(images), wanted)


_ALONE = '''
import os, runpy, sys
for name in ('flax', 'deep_oc', 'sklearn', 'ml_collections', 'absl', 'tqdm'):
  sys.modules[name] = None
sys.argv[:1] = []
sys.path[0] = os.path.dirname(sys.argv[0])  # as `python FILE` has it
runpy.run_path(sys.argv[0], run_name='__main__')
'''


def _predict(folder, *args):
  return subprocess.run(
      [sys.executable, '-c', _ALONE, str(folder / 'predict.py'), *args],
      cwd=folder.parent, capture_output=True, text=True, check=False)


def test_the_bundles_own_program_needs_neither_flax_nor_deep_oc(
    parts, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  found = deep_oc.load(parts, false_alarm_rate=0.2)
  export.export(found, tmp_path / 'bundle', [], '')
  photos = tmp_path / 'photos'
  (photos / 'deep').mkdir(parents=True)
  for i in range(3):
    Image.fromarray(_noise(1, (24, 31, 3), i)[0]).save(
        photos / ('deep' if i == 2 else '') / f'{i}.png')
  (photos / 'text.png').write_text('no picture')
  done = _predict(tmp_path / 'bundle', str(photos), '--output=~/out/p.csv',
                  '--maps=~/out/maps')
  assert done.returncode == 0, done.stderr
  assert 'skipped: ' in done.stderr and 'text.png' in done.stderr
  assert done.stdout.endswith(f'wrote {tmp_path}/out/p.csv, ~/out/maps\n')
  lines = (tmp_path / 'out' / 'p.csv').read_text().splitlines()
  assert lines[0] == ','.join(('path', 'score', 'p_value', 'verdict',
                               'false_alarm_rate', 'classifier', 'feature'))
  paths = [line.split(',')[0] for line in lines[1:]]
  wanted = found.judge(paths)
  np.testing.assert_allclose([float(line.split(',')[1]) for line in lines[1:]],
                             wanted.score, rtol=1e-5)
  assert len(paths) == 3 and paths == sorted(paths)
  about = json.loads((tmp_path / 'out' / 'p.json').read_text())
  assert '--output=~/out/p.csv' in about['command'] and about['scored'] == 3
  with np.load(tmp_path / 'out' / 'maps' / '000000.npz') as arrays:
    wanted = found.heat_maps(paths[:1])[0]
    np.testing.assert_allclose(arrays['map'], wanted, rtol=1e-3,
                               atol=1e-4 * np.abs(wanted).max())


def test_the_bundles_own_program_ends_bad_input_with_one_line(
    copied, tmp_path):
  (tmp_path / 'text.png').write_text('no picture')
  for args, words in (
      (['nowhere'], 'none of 1 images could be read'),
      ([str(tmp_path / 'text.png')], 'none of 1 images could be read'),
      ([str(copied / 'bundle')], 'no image in'),
      ([str(tmp_path / 'text.png'), '--maps=m'], 'no heat maps'),
      ([str(tmp_path / 'text.png'), '--regions=r'], 'leave --regions out'),
      (['nowhere', '--output=p.json'], '--output=p.json names the CSV'),
      (['nowhere', f'--regions={copied.parent}/p.csv'], 'that --output=p.csv'),
      (['nowhere', '--regions=p.json'], 'that --output=p.csv makes')):
    done = _predict(copied, '--output=p.csv', *args)
    errors = [line for line in done.stderr.splitlines()
              if line.startswith('error: ')]
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert len(errors) == 1 and words in errors[0]
    assert not list(tmp_path.glob('*p.csv*'))


def test_the_bundles_own_program_draws_no_heat_map_twice(tmp_path):
  paths = [str(tmp_path / f'{i}.png') for i in range(3)]
  for i, path in enumerate(paths):
    Image.fromarray(_noise(1, served.SHAPE, i)[0]).save(path)
  for feature, asked, wanted in (
      ('windows', 'maps', [2, 1]), ('windows', None, [2, 1]),
      ('pool', 'maps', [2, 1]), ('pool', None, [])):
    found = served.Fake(feature=feature)
    found.batch = 2
    maps = asked and str(tmp_path / feature)
    counts = program._predict(found, paths, tmp_path / 'p.csv', maps, None)
    assert counts['scored'] == 3 and found.mapped == wanted
    assert found.seen == ([] if feature == 'windows' else [2, 1])
    assert not maps or len(list((tmp_path / feature).iterdir())) == 3


def test_the_bundles_own_program_says_where(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  dark, bright = (tmp_path / f'{name}.png' for name in ('dark', 'bright'))
  image = np.full((32, 48, 3), 50, np.uint8)
  Image.fromarray(image).save(dark)
  image[8:16, 30:48] = 200
  Image.fromarray(image).save(bright)
  program._predict(served.Fake(feature='windows'), [str(dark), str(bright)],
                   tmp_path / 'p.csv', None, '~/out/r.csv')
  with (tmp_path / 'out' / 'r.csv').open(newline='') as file:
    row, = csv.DictReader(file)
  assert row == dict(path=str(bright), region='1', x='30', y='8', width='18',
                     height='8', area='9.375', peak='200')
  assert sorted(path.name for path in tmp_path.rglob('*')) == [
      'bright.png', 'dark.png', 'out', 'p.csv', 'r.csv']


def test_a_bundle_that_judges_by_no_heat_map_has_no_regions(copied):
  with pytest.raises(bundle.BundleError, match='it has no regions'):
    bundle.load(copied).regions(np.zeros((1, 20, 20), np.float32))


def test_a_write_error_leaves_no_half_of_a_table(copied, tmp_path, monkeypatch):
  def full(*_):
    raise OSError('No space left on device')
  monkeypatch.setattr(program, '_rows', full)
  picture = tmp_path / 'a.png'
  Image.fromarray(_noise(1, (20, 20, 3))[0]).save(picture)
  with pytest.raises(OSError, match='No space'):
    program._predict(bundle.load(copied), [str(picture)],
                     tmp_path / 'out' / 'p.csv', None, None)
  assert not list((tmp_path / 'out').iterdir())


def test_a_place_that_cannot_be_written_to_is_an_input_error(folder, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises((InputError, files.WriteError), match='cannot write'):
    export.export(deep_oc.load(folder), tmp_path / 'file' / 'bundle', [], '')
