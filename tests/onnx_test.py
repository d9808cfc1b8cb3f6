"""`deep_oc.export --onnx`, by ONNX Runtime; jax2onnx is asked for by hand."""
import sys
import types

import numpy as np
import pytest
from absl import flags

import deep_oc
from deep_oc import bundle, export, onnx_model, trained_run
from deep_oc.errors import InputError
from tests import untrained


@pytest.fixture(scope='module')
def digits(digits_npz, tmp_path_factory):
  root = tmp_path_factory.mktemp('digits')
  return untrained.run(untrained.digits(digits_npz), root / 'run')


@pytest.fixture(scope='module')
def runtime():
  pytest.importorskip('jax2onnx')
  return pytest.importorskip('onnxruntime')


def _outputs(runtime, folder, images):
  """Returns what the model in a bundle's folder says, by names."""
  session = runtime.InferenceSession(str(folder / 'model.onnx'))
  names = [each.name for each in session.get_outputs()]
  return dict(zip(names, session.run(
      names, {'image': images.astype(np.float32)}), strict=True))


def _noise(count):
  return np.random.default_rng(3).integers(0, 256, (count, 20, 20, 3), np.uint8)


@pytest.mark.parametrize('classifier, rate', [
    ('kde', 0.05), ('ocsvm_rbf', 0.05), ('gde_ledoit_wolf', 0.02)])
def test_a_model_in_onnx_says_the_same_in_float32(
    runtime, digits, tmp_path, classifier, rate):
  found = deep_oc.load(digits, classifier=classifier, false_alarm_rate=rate)
  about = export.export(found, tmp_path / 'b', [], '', onnx=True)
  assert about['onnx']['max_relative_difference'] <= 1e-4
  assert 'model.onnx' in bundle.load(tmp_path / 'b').about['files']
  card = ' '.join((tmp_path / 'b' / 'README.md').read_text().split())
  assert 'image f32[n, h, w, 3], 0 to 255, to score f32[n]; an image is' in card
  assert ('by its p-value alone' if found.threshold_ is None else
          f'anomalous above {found.threshold_:.9g}.') in card
  images = _noise(5)
  got = _outputs(runtime, tmp_path / 'b', images)
  assert set(got) == {'score'}
  np.testing.assert_allclose(got['score'], found.judge(images).score,
                             rtol=1e-4, atol=1e-4)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns a function to untrained runs of small parts with heat maps."""
  made = {}

  def of(encoder, **group):
    key = repr((encoder, group))
    if key not in made:
      root = tmp_path_factory.mktemp('parts')
      config = untrained.parts(root / 'data')
      with config.unlocked():
        config.localize = group
        config.encoder = encoder
        if encoder['name'] == 'fcdd':
          config.pretext = dict(name='fcdd', augment={}, defects=dict(
              confetti_side=(2, 6), confetti_blur=1.))
      made[key] = untrained.run(config, root / 'run')
    return made[key]
  return of


@pytest.fixture(scope='module')
def parts(trained):
  """Returns a function to the detectors of these runs."""
  return lambda feature, *args, **group: deep_oc.load(
      trained(*args, **group), false_alarm_rate=0.2, feature=feature)


_CONVNET = dict(name='convnet', channels=(8, 16))
_PATCHNET = dict(name='patchnet', channels=(6, 12), strides=(1, 2))
_RESNET = dict(name='resnet', depth=10, width=0.1)
_EFFICIENTNET = dict(name='efficientnet', variant='lite0')
_FCDD = dict(name='fcdd', channels=(4, 6, 5), kernels=(5, 3, 3),
             pools=(True, False, False))


@pytest.mark.parametrize('feature, encoder, group', [
    ('pool', _CONVNET, dict(name='gradcam')),
    ('pool', _FCDD, dict(name='task', sigma=3.)),
    ('pool', _PATCHNET, dict(side=8, stride=4)),
    ('windows', _PATCHNET, dict(side=8, stride=4, classifier='knn(k=2)')),
    ('windows', _PATCHNET, dict(side=8, stride=4, positions='each')),
    ('windows', _PATCHNET, dict(side=(12, 8), stride=(4, 4))),
    ('windows', _RESNET, dict(stages=(1, 3), neighbourhood=3, border=2,
                              classifier='knn(k=1)')),
    ('windows', _EFFICIENTNET, dict(stages=(2, 3), positions='each'))])
def test_heat_maps_in_onnx_are_those_of_the_detector(
    runtime, parts, tmp_path, capfd, feature, encoder, group):
  found = parts(feature, encoder, **dict(name='windows') | group)
  about = export.export(found, tmp_path / 'b', [], '', onnx=True)['onnx']
  assert 0 < about['max_map_difference'] <= 1e-4
  images = _noise(5)
  got = _outputs(runtime, tmp_path / 'b', images)
  heat, score = found.heat_maps(images), found.judge(images).score
  assert set(got) == {'score', 'heat_map'} and heat.std() > 0
  np.testing.assert_allclose(got['heat_map'], heat, rtol=0,
                             atol=1e-4 * np.abs(heat).max())
  np.testing.assert_allclose(got['score'], score, rtol=1e-4,
                             atol=1e-4 * np.abs(score).max())
  assert 'onnxruntime' not in capfd.readouterr().err  # of what nothing uses


def test_windows_with_a_pass_each_are_no_heat_map_in_onnx(
    runtime, parts, tmp_path, capsys):
  group = dict(name='windows', side=8, stride=5)
  with pytest.raises(InputError, match='each window of 8 pixels has a pass'):
    export.export(parts('windows', _CONVNET, **group), tmp_path / 'b', [], '',
                  onnx=True)
  assert not (tmp_path / 'b').exists()
  export.export(parts('pool', _CONVNET, **group), tmp_path / 'b', [], '',
                onnx=True)
  assert 'model.onnx has no heat maps: each window' in capsys.readouterr().out
  assert set(_outputs(runtime, tmp_path / 'b', _noise(2))) == {'score'}
  assert bundle.load(tmp_path / 'b').localizes == 'windows'


@pytest.mark.parametrize('group, side', [
    (dict(side=8, stride=5), 8), (dict(side=(12, 8), stride=(4, 5)), 8),
    (dict(side=8, stride=4), None)])
def test_windows_with_a_pass_each_that_judge_are_refused_before_any_fit(
    trained, tmp_path, monkeypatch, group, side):
  def load(*_, **__):
    raise InputError('it is not refused')

  monkeypatch.setattr(onnx_model, 'check_installed', lambda: None)
  monkeypatch.setattr(trained_run, 'load', load)
  workdir = trained(_PATCHNET, name='windows', **group)
  chosen = dict.fromkeys(('classifier', 'false_alarm_rate', 'data_dir',
                          'calibration')) | dict(
      workdir=str(workdir), output=f'{tmp_path}/b', onnx=True,
      feature='windows')
  monkeypatch.setattr(flags, 'FLAGS', types.SimpleNamespace(**chosen))
  with pytest.raises(InputError, match=(
      f'window of {side} pixels has a pass' if side else 'is not refused')):
    export.main()
  assert not list(tmp_path.iterdir())


def test_densities_too_large_for_one_file_are_refused(tmp_path, monkeypatch):
  rows = [np.float32(np.arange(6).reshape(3, 2) + 10 * y) for y in range(11)]
  for y, row in enumerate(rows):
    np.savez(tmp_path / f'{y}.npz', mean=row)
  np.testing.assert_array_equal(
      onnx_model._positions(tmp_path)['mean'], np.concatenate(rows))
  monkeypatch.setattr(onnx_model, '_MOST', sum(
      path.stat().st_size for path in tmp_path.iterdir()) - 1)
  with pytest.raises(InputError, match='positions=shared, makes maps that fit'):
    onnx_model._positions(tmp_path)


def test_heat_maps_by_onnx_that_differ_are_refused():
  wanted = np.float32([[[1, 200]]])
  assert onnx_model._compared_maps(wanted, np.float32([[[1.01, 200]], [[9, 9]]])
                                   )['max_map_difference'] < 1e-4
  for got in (wanted + 0.1, wanted * np.nan):
    with pytest.raises(InputError, match='leave --onnx out'):
      onnx_model._compared_maps(wanted, np.float32(got))


def test_scores_by_onnx_that_differ_are_refused():
  wanted = np.array([-3., 0.5, 200.])
  found = types.SimpleNamespace(feature='pool')
  assert onnx_model._compared(wanted, wanted + [0, 9e-5, 1e-2], found)
  for got in (wanted + [0, 2e-4, 0], wanted * np.nan, wanted[:2]):
    with pytest.raises(InputError, match='leave --onnx out'):
      onnx_model._compared(wanted, got, found)


def test_onnx_without_its_packages_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  for name in ('onnx', 'onnxruntime'):
    monkeypatch.setitem(sys.modules, name, sys)
  with pytest.raises(InputError, match=r"needs jax2onnx .*deep_oc\[onnx\]"):
    onnx_model.check_installed()
