"""Orientations, and their features, by plain loops over NumPy arrays."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal

import deep_oc
from deep_oc import (attributions, bundle, differentiable, embeddings, evaluate,
                     experiment, explainer, export, gradcam, heads, oneclass,
                     orientation, pretexts, runs, thresholds, windows)
from deep_oc.errors import InputError
from tests import tasks, untrained

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(size=(3, 8, 8, 3)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(8 * 8 * 3, 5)).astype(np.float32)


def _oriented(image, step, turns):
  """Mirrors f[n, h, w, c] if the step is -1, and turns it."""
  return np.rot90(image[:, :, ::step], turns, axes=(1, 2))


FIVE = [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)]


def _cropped(image, down, right):
  """Cuts seven eighths of a side out of f[n, h, h, c], and stretches them."""
  size = image.shape[1]
  side = size * 7 / 8
  source = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
  at = np.meshgrid(*(share * (size - side) + source for share in (down, right)),
                   indexing='ij')
  return np.stack([np.stack([
      ndimage.map_coordinates(one[..., c], at, order=1)
      for c in range(one.shape[-1])], axis=-1) for one in image])


def _by_hand(embed, image, family):
  """Returns f[n, t * d] by loops over turns, mirrors and crops."""
  turns, steps, crops = {
      'none': (1, (1,), None), 'flip': (1, (1, -1), None),
      'rot': (4, (1,), None), 'flip_rot': (4, (1, -1), None),
      'crop_flip_rot': (4, (1, -1), FIVE)}[family]
  parts = [_cropped(image, *each) for each in crops] if crops else [image]
  side_by_side = []
  for k in range(turns):
    each = [np.asarray(embed(_oriented(part, step, k)), np.float64)
            for part in parts for step in steps]
    side_by_side.append(np.mean([
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in each], axis=0))
  return np.concatenate(side_by_side, axis=1)


def _linear(image):
  return image.reshape(len(image), -1) @ WEIGHT


def _together(image, family):
  seen = orientation.FAMILIES[family]
  view = orientation.views(jnp.asarray(image), seen)
  return orientation.together(_linear(view.reshape(-1, 8, 8, 3)).reshape(
      len(image), len(seen), -1), seen)


@pytest.mark.parametrize('family', ['flip', 'rot', 'flip_rot', 'crop_flip_rot'])
def test_crops_and_mirrors_are_averaged_and_turns_stand_side_by_side(family):
  found = _together(IMAGE, family)
  np.testing.assert_allclose(
      found, _by_hand(_linear, IMAGE, family), rtol=1e-4, atol=1e-5)


def test_a_feature_of_zeros_is_no_nan():
  found = orientation.together(jnp.zeros((3, 8, 5)),
                               orientation.FAMILIES['flip_rot'])
  np.testing.assert_array_equal(found, np.zeros((3, 20)))


def test_a_mirrored_image_has_the_same_feature_if_mirrors_are_averaged():
  for family, same in (
      ('flip', True), ('rot', False), ('crop_flip_rot', True)):
    one, other = (_together(x, family) for x in (IMAGE, IMAGE[:, :, ::-1]))
    assert np.allclose(one, other, atol=1e-5) == same


@pytest.mark.parametrize('family', ['flip', 'rot', 'flip_rot'])
def test_what_is_undone_is_upright(family):
  members = orientation.FAMILIES[family]
  view = np.asarray(orientation.views(jnp.asarray(IMAGE), members))
  assert len({x.tobytes() for x in view[0]}) == len(members)
  back = orientation.undone(view[..., 0], members)
  for i in range(len(members)):
    np.testing.assert_array_equal(back[:, i], IMAGE[..., 0])


def test_what_is_undone_of_a_crop_lies_where_it_was():
  members = orientation.FAMILIES['crop_flip_rot']
  row, column = np.mgrid[:16, :16]  # bilinear weights keep what is linear
  ramp = np.float32(3 * row + 40 * column)[None]
  view = np.asarray(orientation.views(jnp.asarray(ramp[..., None]), members))
  assert len({x.tobytes() for x in view[0]}) == len(members) == 40
  back = orientation.undone(view[..., 0], members)[0]
  for found, (down, right) in zip(back, FIVE * 8, strict=True):
    y, x = int(2 * down), int(2 * right)  # the crop has 14 pixels a side
    inside = np.s_[y + 1:y + 13, x + 1:x + 13]  # its edge is held, not linear
    np.testing.assert_allclose(found[inside], ramp[0][inside], rtol=1e-4)
    found[y:y + 14, x:x + 14] = 0
    np.testing.assert_array_equal(found, np.zeros((16, 16)))


def test_only_square_images_can_be_turned():
  image = jnp.zeros((2, 8, 6, 3))
  assert orientation.views(
      image, orientation.FAMILIES['flip']).shape == (2, 2, 8, 6, 3)
  with pytest.raises(InputError, match='need square images, not 8x6'):
    orientation.views(image, orientation.FAMILIES['rot'])


def _create(name, channels=(4, 8), **kwargs):
  task = pretexts.create(
      name, encoder=dict(name='convnet', channels=channels), dtype=jnp.float32,
      head=(6, 5), **kwargs)
  image = jnp.zeros((2, 32, 32, 3))  # large enough for any task's defects
  return task, tasks.init(task, image)


def _embed(task, variables, image, feature='pool_flip_rot'):
  found, _ = orientation.look(task, variables, image, feature)
  assert set(found) == {feature}
  return np.asarray(found[feature])


@pytest.mark.parametrize('name', ['rotation', 'contrastive', 'csi', 'cutpaste'])
def test_tasks_have_the_features_of_their_views(name):
  task, variables = _create(name)
  found = _embed(task, variables, IMAGE)
  assert found.shape == (3, 4 * 8)
  np.testing.assert_allclose(found, _by_hand(
      lambda x: tasks.apply(task, variables, x, method='embed')['pool'], IMAGE,
      'flip_rot'), rtol=1e-4, atol=1e-5)


def _layers(task, variables, image):
  """Returns the means over pixels of the encoder's two maps, f[n, 4], f[n, 8].

  By SciPy and the definitions: a convolution, of stride 2 where the map is
  wider than 4 pixels, BatchNorm by running statistics, and ReLU.
  """
  params, stats = (variables[name]['encoder']
                   for name in ('params', 'batch_stats'))
  x, means = np.asarray(image, np.float64), []
  for i in range(2):
    stride = 2 if x.shape[1] > 4 else 1
    kernel = np.asarray(params[f'Conv_{i}']['kernel'], np.float64)
    y = np.stack([[sum(signal.correlate2d(
        np.pad(one[..., c], 1), kernel[..., c, k], 'valid')
                       for c in range(kernel.shape[2]))[::stride, ::stride]
                   for k in range(kernel.shape[3])] for one in x])
    norm, seen = (group[f'BatchNorm_{i}'] for group in (params, stats))
    scale, bias, mean, var = (np.asarray(value)[:, None, None] for value in (
        norm['scale'], norm['bias'], seen['mean'], seen['var']))
    y = np.maximum((y - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
    means.append(y.mean((2, 3)))
    x = y.transpose(0, 2, 3, 1)
  return means


@pytest.mark.parametrize('family, crop', [
    ('none', 0), ('flip', 0), ('flip_rot', 0), ('flip_rot', 4),
    ('crop_flip_rot', 0)])
def test_stages_stand_side_by_side(family, crop):
  task, variables = _create('rotation', crop=crop)
  variables['batch_stats'] = jax.tree.map(
      lambda x: RANDOM.uniform(0.1, 0.5, x.shape), variables['batch_stats'])
  for i, channels in enumerate((4, 8)):  # or ReLU would leave little
    variables['params']['encoder'][f'BatchNorm_{i}']['bias'] = RANDOM.uniform(
        0.5, 1, channels)
  sides = [(y, x) for y in (0, 4) for x in (0, 4)] if crop else [(0, 0)]
  wanted = np.mean([np.concatenate([_by_hand(
      lambda view, level=level: _layers(task, variables, view)[level],
      IMAGE[:, y:y + 4, x:x + 4] if crop else IMAGE, family)
      for level in (0, 1)], axis=1) for y, x in sides], axis=0)
  found = _embed(task, variables, IMAGE, experiment.Embed(family, 2).feature)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_they_are_the_last_of_more():
  task, variables = _create('rotation', channels=(4, 8, 6))
  found = _embed(task, variables, IMAGE, 'stages2')
  assert found.shape == (3, 8 + 6)
  last = np.asarray(tasks.apply(task, variables, IMAGE, method='embed')['pool'])
  np.testing.assert_allclose(
      found[:, 8:], last / np.linalg.norm(last, axis=1, keepdims=True),
      rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name, seen', [
    ('pool', 1), ('head', 1), ('score', 1), ('stages2', 1), ('pool_flip', 2),
    ('stages2_rot', 4), ('stages10_flip_rot', 8), ('pool_crop_flip_rot', 40),
    ('stages2_flop', 1)])
def test_a_features_name_tells_how_many_views_it_has(name, seen):
  assert len(orientation.members(name)) == seen


def test_of_an_image_of_several_tiles_the_mean_counts():
  task, variables = _create('rotation', crop=4)
  found = _embed(task, variables, IMAGE)
  whole = task.clone(crop=0)
  tiles = [_by_hand(lambda x: tasks.apply(
      whole, variables, x, method='embed')['pool'],
                    IMAGE[:, y:y + 4, x:x + 4], 'flip_rot')
           for y in (0, 4) for x in (0, 4)]
  np.testing.assert_allclose(found, np.mean(tiles, axis=0), rtol=1e-4,
                             atol=1e-5)


def _asking(config, **group):
  with config.unlocked():
    config.embed = group
  return config


def test_a_misspelt_family_or_key_is_one_line_before_anything_is_done():
  assert set(experiment.VIEWS) == set(orientation.FAMILIES)
  for group, words in ((dict(views='flop'), "'flop'; did you mean 'flip'"),
                       (dict(view='flip'), 'embed.views'),
                       (dict(stages=0), 'embed.stages=0 must be a whole'),
                       (dict(stages=1.5), 'embed.stages=1.5 must be a whole')):
    with pytest.raises(InputError, match=words):
      experiment.check(_asking(untrained.digits('x.npz'), **group))


def test_more_stages_than_there_are_is_one_line_before_the_training():
  config = untrained.digits('x.npz')
  layers = len(config.encoder.channels)
  assert experiment.pretext(_asking(config, stages=layers))
  with pytest.raises(InputError, match=f"={layers + 1}, and the encoder "
                     f"'convnet' has {layers}$"):
    experiment.pretext(_asking(config, stages=layers + 1))


def test_images_that_cannot_be_turned_are_told_before_the_training(tmp_path):
  image, label = np.zeros((40, 8, 6), np.uint8), np.arange(40) % 4
  np.savez(tmp_path / 'x.npz', x_train=image, y_train=label, x_test=image,
           y_test=label)
  config = untrained.digits(tmp_path / 'x.npz')
  config.data.pad = 0
  assert experiment.problem(_asking(config, views='flip'))
  with pytest.raises(InputError, match="'flip_rot' turns .* square, not 8x6"):
    experiment.problem(_asking(config, views='flip_rot'))


@pytest.fixture(scope='module')
def run(digits_npz, tmp_path_factory):
  config = _asking(untrained.digits(digits_npz), views='flip_rot', stages=2)
  return untrained.run(config, tmp_path_factory.mktemp('views') / 'run')


def test_it_is_no_other_run_for_that(digits_npz):
  config = untrained.digits(digits_npz)
  assert runs.config_hash(config) == runs.config_hash(
      _asking(config.copy_and_resolve_references(), views='flip_rot'))


LAST_TWO = (8, 16)  # channels of untrained.digits


def test_a_run_has_the_feature_beside_the_others(run, digits_npz):
  train, test, _ = embeddings.read_run(run)
  assert train['stages2_flip_rot'].shape == (121, 4 * sum(LAST_TWO))
  assert test['stages2_flip_rot'].shape == (597, 4 * sum(LAST_TWO))
  rows = {(row['feature'], row['classifier']): row
          for row in evaluate.evaluate(run)}
  fitted = oneclass.fit('kde', train['stages2_flip_rot'])
  found = oneclass.anomaly_score(fitted, test['stages2_flip_rot'])
  order = np.argsort(np.argsort(found)) + 1
  anomaly = test['anomaly']  # Mann and Whitney's U, by ranks
  u = order[anomaly].sum() - anomaly.sum() * (anomaly.sum() + 1) / 2
  auroc = 100 * u / (anomaly.sum() * (~anomaly).sum())
  row = rows['stages2_flip_rot', 'kde']
  assert float(row['auroc']) == pytest.approx(auroc, abs=0.01)
  assert row['auroc'] != rows['pool', 'kde']['auroc']


def test_a_run_that_did_not_ask_can_be_embedded_again(
    run, binary, digits_npz, tmp_path):
  other = untrained.run(untrained.digits(digits_npz), tmp_path / 'run')
  train, _, _ = embeddings.read_run(other)
  assert not [name for name in train if name.startswith('pool_')]
  done = binary('embed', f'--workdir={other}', '--views=flip_rot',
                '--stages=2')
  assert done.returncode == 0, done.stderr
  (train, test, _), wanted = (embeddings.read_run(x) for x in (other, run))
  for found, same in zip((train, test), wanted[:2], strict=True):
    np.testing.assert_array_equal(
        found['stages2_flip_rot'], same['stages2_flip_rot'])


@pytest.fixture(scope='module')
def detector(run):
  return deep_oc.load(run, feature='stages2_flip_rot')


def test_a_detector_scores_images_as_stage_2_does(run, detector, digits_npz):
  train, test, _ = embeddings.read_run(run)
  fitted, _ = thresholds.calibrate(train['stages2_flip_rot'], 'kde', 0)
  np.testing.assert_allclose(
      detector.decision_function(np.load(digits_npz)['x_test'][:20]),
      oneclass.anomaly_score(fitted, test['stages2_flip_rot'][:20]), rtol=1e-4)


def test_a_bundle_scores_as_its_run_does(detector, tmp_path):
  about = export.export(detector, tmp_path / 'b', [], '')
  assert about['parity']['images'] == {'test': 64, 'noise': 14}
  assert bundle.load(tmp_path / 'b').about['feature'] == 'stages2_flip_rot'


@pytest.mark.parametrize('feature', ['pool_flip_rot', 'stages2_flip_rot'])
def test_its_grad_cam_puts_the_maps_upright_and_adds_them_up(feature):
  """By hand: each of eight orientations, seen by itself."""
  task, variables = _create('rotation')
  train = RANDOM.uniform(size=(60, 8, 8, 3)).astype(np.float32)
  fitted = oneclass.fit('kde', _embed(task, variables, train, feature))
  score = differentiable.one_class(task, variables, feature, [fitted])
  np.testing.assert_allclose(
      attributions.values(score, IMAGE),
      oneclass.anomaly_score(fitted, _embed(task, variables, IMAGE, feature)),
      rtol=1e-4, atol=1e-5)
  seen = [(step, k) for k in range(4) for step in (1, -1)]
  view = [_oriented(IMAGE, *each) for each in seen]
  pooled = [np.asarray(tasks.apply(task, variables, x, method='embed')['pool'])
            for x in view]

  # The stage before the last is what it is.
  earlier = [[_layers(task, variables, x)[0] for x in view]] \
      if feature == 'stages2_flip_rot' else []

  def of_pooled(pooled):
    mean = []
    for level in (*earlier, pooled):
      unit = [heads.unit(p) for p in level]
      mean += [(unit[2 * k] + unit[2 * k + 1]) / 2 for k in range(4)]
    return -score.functions[0](
        score.arrays[0], jnp.concatenate(mean, axis=1)).sum()

  with jax.enable_x64(True):
    weight = jax.jit(jax.grad(of_pooled))(pooled)
  heat = 0
  for x, w, (step, k) in zip(view, weight, seen, strict=True):
    each = np.einsum('nyxk,nk->nyx', windows.feature_map(task, variables, x), w)
    heat = heat + np.rot90(each, -k, (1, 2))[:, :, ::step]
  wanted = gradcam.resize(np.maximum(heat, 0), 8, 8)
  assert wanted.max() > 0
  np.testing.assert_allclose(attributions.grad_cam(score, IMAGE), wanted,
                             rtol=1e-3, atol=1e-4 * wanted.max())


def test_the_untrained_network_is_compared_by_the_same_feature(run, detector):
  stored, _ = embeddings.read(run / 'embeddings' / 'train.npz')
  images = RANDOM.integers(0, 256, (30, 20, 20, 3), np.uint8)
  problem = types.SimpleNamespace(
      fitted=types.SimpleNamespace(image=images),
      calibration=types.SimpleNamespace(image=images[:0]))
  _, other = explainer.networks(detector, 'kde', stored, problem)
  assert other.train.shape == (30, stored['stages2_flip_rot'].shape[1])
