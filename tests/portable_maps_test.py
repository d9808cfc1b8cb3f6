"""Heat maps of a bundle against densities and windows computed one by one."""
import jax
import numpy as np
import pytest
from jax import export

import deep_oc
from deep_oc import bundle, densities, maps, oneclass, portable_maps, programs
from deep_oc import export as exporting
from tests import untrained

_PATCHNET = dict(name='patchnet', channels=(6, 12), strides=(1, 2))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a function to an untrained run of windows of 8 pixels."""
  made = {}

  def of(**group):
    key = repr(sorted(group.items()))
    if key not in made:
      root = tmp_path_factory.mktemp('parts')
      config = untrained.parts(root / 'data')
      with config.unlocked():
        config.encoder = _PATCHNET
        config.localize = dict(name='windows', side=8) | group
      made[key] = untrained.run(config, root / 'run')
    return deep_oc.load(made[key], false_alarm_rate=0.2)
  return of


def _noise(count, shape=(20, 20, 3)):
  return np.random.default_rng(7).integers(0, 256, (count, *shape), np.uint8)


def _called(program, rows):
  """Returns what a program says, read back as a bundle does it."""
  with jax.enable_x64(program.double):
    return np.asarray(export.deserialize(bytearray(program.content)).call(
        program.arrays, rows))


def _half_distance(classifier, train, test):
  """Returns half the squared distance f64[m], by the covariance's inverse."""
  fitted = oneclass.CLASSIFIERS[classifier](reg_covar=1e-6).fit(train)
  factor = fitted.cholesky_
  if fitted.norm:
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
  z = test - fitted.location_
  return np.einsum('nd,nd->n', z, np.linalg.solve(factor @ factor.T, z.T).T) / 2


@pytest.mark.parametrize('classifier', densities.GAUSSIANS)
# More images than dimensions, as many, one more, and fewer.
@pytest.mark.parametrize('n', [60, 25, 24, 23, 2])
def test_a_row_of_positions_scores_by_the_inverse_of_each_covariance(
    classifier, n):
  rng = np.random.default_rng(n)
  scale = np.geomspace(1e-2, 1, 24)
  train, test = (np.float32(rng.exponential(scale, (count, 2, 3, 24)) + 1)
                 for count in (n, 5))
  density = densities.PositionDensity(classifier).fit(train)
  for y in range(2):
    program = programs.positions(density.compact(y), density.norm)
    got = _called(program, test[:, y])
    wanted = np.stack([_half_distance(
        classifier, np.float64(train[:, y, x]), np.float64(test[:, y, x]))
        for x in range(3)], axis=1)
    assert got.shape == (5, 3) and got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert program.arrays['axes'].shape == (3, min(n - 1, 24), 24)


def test_positions_where_all_images_are_alike_keep_their_digits():
  rng = np.random.default_rng(0)
  train = np.float32(1 + rng.normal(0, 1e-6, (30, 1, 1, 64)))
  train[..., 0] += rng.normal(0, 3, (30, 1, 1))  # one direction for all
  test = train[:4] + np.float32(rng.normal(0, 1e-2, (4, 1, 1, 64)))
  density = densities.PositionDensity('gde_ledoit_wolf').fit(train)
  program = programs.positions(density.compact(0), density.norm)
  np.testing.assert_allclose(
      _called(program, test[:, 0])[:, 0], _half_distance(
          'gde_ledoit_wolf', np.float64(train[:, 0, 0]),
          np.float64(test[:, 0, 0])), rtol=1e-5)


def test_features_of_zero_have_a_score():
  train = np.float32(np.random.default_rng(0).random((9, 1, 2, 5)))
  density = densities.PositionDensity().fit(train)
  program = programs.positions(density.compact(0), density.norm)
  zero = np.zeros((3, 2, 5), np.float32)
  np.testing.assert_allclose(
      _called(program, zero), density.score(zero[:, None])[:, 0], rtol=1e-5)


@pytest.mark.parametrize('positions', ['shared', 'each'])
# The encoder's stride is 2: its pass over an image has no window at pixel 5.
@pytest.mark.parametrize('stride, window', [(4, None), (5, 8)])
def test_windows_that_align_share_a_pass_and_others_do_not(
    run, tmp_path, positions, stride, window):
  found = run(stride=stride, positions=positions)
  about = exporting.export(found, tmp_path / 'b', [], '')
  assert about['heat_maps'] == [
      {'window': window, 'positions': positions, 'suffix': ''}]
  images = _noise(3)
  wanted = found.heat_maps(images)
  np.testing.assert_allclose(
      bundle.load(tmp_path / 'b').heat_maps(images), wanted, rtol=1e-4,
      atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize('positions, classifier', [
    ('shared', 'knn(k=1)'), ('each', 'gde_ledoit_wolf')])
def test_maps_of_windows_of_several_sizes_are_multiplied(
    run, tmp_path, positions, classifier):
  group = dict(positions=positions, classifier=classifier)
  found = run(side=(12, 8), stride=(5, 4), **group)
  about = exporting.export(found, tmp_path / 'b', [], '')
  assert about['heat_maps'] == [
      {'window': 12, 'positions': positions, 'suffix': '_0'},
      {'window': None, 'positions': positions, 'suffix': '_1'}]
  assert about['parity']['max_map_difference'] <= 1e-4
  assert ((tmp_path / 'b/heat_1/0.npz') if positions == 'each' else
          (tmp_path / 'b/heat_1.npz')).exists()
  images = _noise(3)
  got, wanted = (each.heat_maps(images)
                 for each in (bundle.load(tmp_path / 'b'), found))
  np.testing.assert_allclose(got, wanted, rtol=1e-3,
                             atol=1e-4 * np.abs(wanted).max())
  for side, stride in ((12, 5), (8, 4)):
    got = got / run(side=side, stride=stride, **group).heat_maps(images)
  np.testing.assert_allclose(got, 1, rtol=1e-3)


def test_bands_of_the_grid_are_written_as_the_whole_is(
    run, tmp_path, monkeypatch):
  found, images = run(stride=4, positions='each'), _noise(2)
  for name in ('whole', 'bands'):
    (tmp_path / name).mkdir()
  whole, = portable_maps.portable(found, images, tmp_path / 'whole')
  held = []
  fit = densities.PositionDensity.fit
  monkeypatch.setattr(
      densities.PositionDensity, 'fit', lambda density, feature: (
          held.append(feature.nbytes), fit(density, feature))[1])
  most = 24 * 2 * 4 * 12 * 4  # 24 images, two rows of four windows, f32[12]
  monkeypatch.setattr(maps.grids, '_MEMORY', most)
  bands, = portable_maps.portable(found, images, tmp_path / 'bands')
  assert held == [most] * 2
  np.testing.assert_allclose(bands.maps, whole.maps, rtol=1e-6)
  for y in range(4):
    one, other = (np.load(tmp_path / name / 'heat' / f'{y}.npz')
                  for name in ('whole', 'bands'))
    assert set(one) == set(other) == {'mean', 'axes', 'variance', 'rest'}
    for name in one:
      np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
  assert not (tmp_path / 'bands' / 'heat' / '4.npz').exists()


def test_too_large_densities_are_left_out_with_a_line(
    run, tmp_path, monkeypatch, capsys):
  found = run(stride=4, positions='each')
  exporting.export(found, tmp_path / 'b', [], '')
  assert bundle.load(tmp_path / 'b').localizes == 'windows'
  size = sum(sum(array.nbytes for array in np.load(path).values())
             for path in (tmp_path / 'b' / 'heat').iterdir())
  monkeypatch.setattr(portable_maps, '_MOST', size)
  portable_maps._check_size([(4, 4)], 24, 12)
  monkeypatch.setattr(portable_maps, '_MOST', size - 1)
  about = exporting.export(found, tmp_path / 'b', [], '')
  assert bundle.load(tmp_path / 'b').localizes is about['localizes'] is None
  assert not (tmp_path / 'b' / 'heat').exists()
  line = capsys.readouterr().out.split('no heat maps: ')[1].splitlines()[0]
  assert '4×4 positions' in line and 'GiB' in line
  assert 'stride' in line and 'positions=shared' in line
  monkeypatch.setattr(portable_maps, '_MOST', 2**31)
  with pytest.raises(deep_oc.errors.InputError, match='would be .*2.2 GiB, m'):
    portable_maps._check_size([(57, 57)], 350, 512)
  monkeypatch.setattr(portable_maps, '_MOST', 2 * size - 1)
  with pytest.raises(deep_oc.errors.InputError, match='4×4 and 4×4 positions'):
    portable_maps._check_size([(4, 4)] * 2, 24, 12)


def test_a_missing_row_of_densities_is_one_line(run, tmp_path):
  found = run(stride=4, positions='each')
  exporting.export(found, tmp_path / 'b', [], '')
  (tmp_path / 'b' / 'heat' / '2.npz').unlink()
  with pytest.raises(bundle.BundleError, match='lacks heat/2.npz'):
    bundle.load(tmp_path / 'b')
