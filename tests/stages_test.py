"""Heat maps of an encoder's stages against NumPy, from the definition."""
import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import deep_oc
from deep_oc import (bundle, densities, embed, experiment, localize, maps,
                     metrics, pretexts, runs, stages, step)
from deep_oc import export as exporting
from deep_oc.bundle import passes
from deep_oc.errors import InputError
from tests import untrained

_RESNET = dict(name='resnet', depth=10, width=0.1)


def task(**encoder):
  return pretexts.create('rotation', encoder={**_RESNET, **encoder},
                         dtype='float32', head=(8,), crop=12)


@functools.cache
def variables(pretext, seed=0):
  return step.init(pretext, seed, (20, 24, 3))


def images(count, seed=0, shape=(20, 24, 3)):
  return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def averaged(x, side):
  """Returns the mean over a square of positions around each, as far as any."""
  n, height, width, d = x.shape
  found, reach = np.empty_like(x), side // 2
  for i in range(height):
    for j in range(width):
      found[:, i, j] = x[:, max(i - reach, 0):i + reach + 1,
                         max(j - reach, 0):j + reach + 1].mean((1, 2))
  return found


def interpolated(x, height, width):
  """Returns f[n, h, w, d] between the middles of the cells of f[n, k, l, d]."""
  for axis, size in ((1, height), (2, width)):
    cells = x.shape[axis]
    place = (np.arange(size) + 0.5) * cells / size - 0.5
    place = place.clip(0, cells - 1)
    low = np.minimum(place.astype(int), cells - 2) if cells > 1 else \
        np.zeros(size, int)
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
    x = (np.take(x, low, axis) * (1 - share)
         + np.take(x, np.minimum(low + 1, cells - 1), axis) * share)
  return x


def features(pretext, image, numbers, side):
  """Computes what `stages.look` should return of u8[n, h, w, c]."""
  parts = {name: tree['encoder'] for name, tree
           in variables(pretext).items() if 'encoder' in tree}
  found = jax.jit(lambda v, x: pretext.encoder.apply(
      v, x, train=False, method='maps'))(parts, np.float32(image) / 255)
  found = [averaged(np.asarray(found[each - 1], np.float64), side)
           for each in numbers]
  grid = found[0].shape[1:3]
  return np.concatenate([interpolated(x, *grid) for x in found], axis=-1)


@pytest.mark.parametrize('numbers, side, grid, d', [
    ((1,), 1, (20, 24), 6), ((2, 3), 3, (10, 12), 12 + 25),
    ((3, 4), 5, (5, 6), 25 + 51)])
def test_features_are_the_maps_side_by_side(numbers, side, grid, d):
  pretext, image = task(), images(2)
  assert stages.shape(pretext, numbers, 20, 24) == (*grid, d)
  embed = stages.embedder(pretext, numbers, side)
  place = np.argwhere(np.ones((2, *grid)))
  found = embed(variables(pretext), image, place).reshape(2, *grid, d)
  wanted = features(pretext, image, numbers, side)
  assert np.median(wanted.std((0, 1, 2))) > 1e-2
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_places_may_be_any_of_any_images(monkeypatch):
  pretext, image = task(), images(5)
  monkeypatch.setattr(passes, '_PIXELS', 2 * 20 * 24)  # two at once
  embed = stages.embedder(pretext, (2,), 1)
  place = np.array([[4, 9, 11], [0, 0, 0], [4, 2, 3], [2, 5, 5], [0, 9, 0]])
  wanted = features(pretext, image, (2,), 1)
  np.testing.assert_allclose(
      embed(variables(pretext), image, place), wanted[tuple(place.T)],
      rtol=1e-3, atol=1e-4)


def spread(score, height, width, sigma, left_out=(0, 0)):
  """Spreads f[n, k, l] over pixels, by Gaussians around the cells' middles.

  So many rows and columns of cells are left out at each edge.
  """
  rows, columns = (
      np.arange(skip, cells - skip) for cells, skip
      in zip(score.shape[1:], left_out, strict=True))
  inner = score[:, rows][:, :, columns]
  found = np.empty((len(score), height, width))
  for y in range(height):
    for x in range(width):
      weight = np.exp(-0.5 * (
          (y - (rows[:, None] + 0.5) * height / score.shape[1] + 0.5)**2
          + (x - (columns + 0.5) * width / score.shape[2] + 0.5)**2)
          / sigma**2)
      found[:, y, x] = (inner * weight).sum((1, 2)) / weight.sum()
  return found


def method(**group):
  return maps.create(dict(name='windows', stages=(2, 3)) | group, task(), 0)


def test_the_distance_to_the_nearest_normal_place_is_spread_over_pixels():
  train, test = images(6), images(2, seed=1)
  found = method(classifier='knn(k=1)', neighbourhood=3, sigma=2.5)
  assert isinstance(found, maps.Stages)
  heat = found.fit_maps(variables(task()), train, test)
  normal, seen = (features(task(), each, (2, 3), 3) for each in (train, test))
  normal, rows = (x.reshape(-1, x.shape[-1]) for x in (normal, seen))
  nearest = np.sqrt(np.square(rows[:, None] - normal).sum(-1).min(1))
  wanted = spread(nearest.reshape(seen.shape[:3]), 20, 24, 2.5)
  assert heat.dtype == np.float32 and heat.shape == (2, 20, 24)
  np.testing.assert_allclose(heat, wanted, rtol=5e-3, atol=1e-4)
  assert heat.std() > 1e-3
  assert found.parameters() | {'stages': [2, 3], 'neighbourhood': 3,
                               'sigma': 2.5} == found.parameters()


@pytest.mark.parametrize('border, left_out', [(1, 0), (2, 1), (4, 2), (9, 4)])
def test_places_at_the_border_are_left_out(border, left_out):
  """Cells are two pixels wide: the first has its middle at 1, the next at 3."""
  train, test = images(6), images(2, seed=1)
  found = method(classifier='knn(k=1)', sigma=2.5, border=border)
  heat = found.fit_maps(variables(task()), train, test)
  normal, seen = (features(task(), each, (2, 3), 1) for each in (train, test))
  inner = slice(left_out, -left_out or None)
  normal = normal[:, inner, inner].reshape(-1, seen.shape[-1])
  nearest = np.sqrt(np.square(
      seen.reshape(-1, 1, seen.shape[-1]) - normal).sum(-1).min(1))
  wanted = spread(nearest.reshape(seen.shape[:3]), 20, 24, 2.5,
                  (left_out, left_out))
  np.testing.assert_allclose(heat, wanted, rtol=5e-3, atol=1e-4)
  assert found.parameters()['border'] == border


def test_a_border_leaves_something():
  with pytest.raises(InputError, match='border=10 leaves no place .* of 20x24'):
    method(border=10).check(20, 24)


def test_normal_images_pass_once_and_in_whole_batches(monkeypatch):
  seen, batches = [], stages.progress.batches
  monkeypatch.setattr(passes, '_PIXELS', 4 * 20 * 24)  # four at once
  monkeypatch.setattr(stages.progress, 'batches', lambda each, description: (
      seen.append(len(each)) or batches(each, description)))
  method().fit(variables(task()), images(9))
  assert sum(seen) == 3


def test_each_place_has_a_density_of_its_own(monkeypatch):
  bands_of_rows = 4 * 37 * 6 * 12 * 3
  monkeypatch.setattr(maps.grids, '_MEMORY', bands_of_rows)
  train, test = images(6), images(2, seed=1)
  found = method(positions='each')
  heat = found.fit_maps(variables(task()), train, test)
  density = densities.create('each', reg_covar=1e-6).fit(
      np.float32(features(task(), train, (2, 3), 1)))
  wanted = spread(density.score(np.float32(
      features(task(), test, (2, 3), 1))), 20, 24, 4.0)
  np.testing.assert_allclose(heat, wanted, rtol=0.02)
  assert np.size(found.density_.shrinkage_) == 10 * 12


def test_a_place_that_is_changed_is_found():
  rng = np.random.default_rng(0)
  train, test = (np.uint8(rng.normal(120, 12, (count, 20, 24, 3)))
                 for count in (12, 4))
  test[:, 8:14, 10:16] = 255
  heat = method(stages=(1,), classifier='knn(k=1)', sigma=1.0).fit_maps(
      variables(task()), train, test)
  mask = np.zeros(heat.shape, bool)
  mask[:, 8:14, 10:16] = True
  assert metrics.auroc(heat.ravel(), mask.ravel()) > 85


@pytest.mark.parametrize('group, words', [
    (dict(stages=()), r'localize.stages=\(\) must be numbers .* from 1 to 4'),
    (dict(stages=(0, 2)), 'must be numbers of the encoder'),
    (dict(stages=5), r'localize.stages=\(5,\) must be'),
    (dict(stages=(2.0,)), 'must be numbers of the encoder'),
    (dict(neighbourhood=2), 'localize.neighbourhood=2 must be odd'),
    (dict(neighbourhood=0), 'localize.neighbourhood=0 must be a whole'),
    (dict(border=-1), 'localize.border=-1 .* a whole number from 0 on'),
    (dict(border=None), 'localize.border=None must be a whole number'),
    (dict(border=False), 'localize.border=False must be'),
    (dict(border=2.0), r'localize.border=2.0 must be a whole number'),
    (dict(side=8), "unknown config key 'localize.side'"),
    (dict(sigma=0), 'localize.sigma is 0; it must be above 0'),
    (dict(positions='some'), "unknown localize.positions 'some'"),
    (dict(classifier='nix'), "'nix'")])
def test_what_cannot_be_is_one_line(group, words):
  with pytest.raises(InputError, match=words) as error:
    method(**group)
  assert '\n' not in str(error.value)


def test_a_task_that_greys_images_sees_them_grey():
  pretext = pretexts.create('restoration', dtype='float32', encoder=dict(
      name='unet', channels=(4, 8)))
  found = step.init(pretext, 0, (20, 20, 3))
  image = np.float32(images(2, shape=(20, 20, 3))) / 255
  grey = pretext.apply(found, image, method='seen')
  assert grey.shape == (2, 20, 20, 1)
  wanted, _ = pretext.encoder.apply(
      {name: found[name]['encoder'] for name in ('params', 'batch_stats')},
      grey, train=False, method='maps')
  np.testing.assert_allclose(
      stages.look(pretext, (1,), 1, found, image), wanted, rtol=1e-4,
      atol=1e-5)
  assert stages.shape(pretext, (1, 2), 20, 20) == (20, 20, 4 + 8)


def test_an_encoder_without_maps_is_refused():
  with pytest.raises(InputError, match='of an encoder that has `maps`, as'):
    maps.create(dict(name='windows', stages=(1,)), pretexts.create(
        'rotation', encoder=dict(name='lenet', channels=(8,)),
        dtype='float32'), 0)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """An untrained run of small parts with heat maps of stages."""
  root = tmp_path_factory.mktemp('parts')
  config = untrained.parts(root / 'data')
  with config.unlocked():
    config.encoder = _RESNET
    config.localize = dict(name='windows', stages=(1, 2), neighbourhood=3,
                           border=2, classifier='knn(k=1)', sigma=2.0)
  workdir = untrained.run(config, root / 'run')
  localize.export(str(workdir), *embed.restore(str(workdir)))
  return workdir


def test_a_detector_judges_by_them(run):
  found = deep_oc.load(run, feature='windows', false_alarm_rate=0.2)
  image = experiment.problem(experiment.of_run(str(run))).test
  heat = found.heat_maps(image.image)
  judged = found.judge(image.image)
  np.testing.assert_array_equal(judged.score, heat.max((1, 2)))
  scratched = image.anomaly
  assert heat[scratched, 8:10].max(-1).min() > heat[~scratched].max()
  assert judged.score[scratched].min() > judged.score[~scratched].max()


@pytest.mark.slow
@pytest.mark.parametrize('positions', ['shared', 'each'])
def test_a_bundle_has_the_same_maps(run, tmp_path, positions):
  config = runs.read_config(str(run))
  with config.unlocked():
    config.localize.update(positions=positions)
    if positions == 'each':
      config.localize.classifier = 'gde_ledoit_wolf'
  found = deep_oc.load(run, false_alarm_rate=0.2)
  found._config = config  # what `localize --set` leaves
  about = exporting.export(found, tmp_path / 'b', [], '')
  assert about['heat_maps'] == [
      {'window': None, 'positions': positions, 'suffix': ''}]
  image = images(3, shape=(20, 20, 3))
  wanted = found.heat_maps(image)
  np.testing.assert_allclose(
      bundle.load(tmp_path / 'b').heat_maps(image), wanted, rtol=1e-3,
      atol=1e-4 * np.abs(wanted).max())


def test_stages_and_windows_take_each_others_place():
  config = ConfigDict(dict(localize=dict(
      name='windows', side=32, stride=4, positions='each', sigma=None)))
  found = localize.overridden(
      config, ['stages=(2, 3)', 'neighbourhood=3', 'border=1'])
  assert found.localize.to_dict() == dict(
      name='windows', stages=(2, 3), neighbourhood=3, border=1,
      positions='each', sigma=None)
  made = maps.create(found.localize, task(), 0)
  assert (made.stages, made.sigma) == ((2, 3), 4.0)
  # Of a list, as JSON has it.
  again = maps.create(dict(found.localize, stages=[2, 3]), task(), 0)
  assert again.stages == (2, 3)
  back = localize.overridden(found, ['side=16', 'stride=8'])
  assert back.localize.to_dict() == dict(
      name='windows', side=16, stride=8, positions='each', sigma=None)
