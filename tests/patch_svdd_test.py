"""Patch SVDD and its encoder against NumPy and SciPy, by the definitions."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import cutpaste_quickstart
from conftest import the_error
from ml_collections import ConfigDict
from scipy import signal, special

from deep_oc import (bundle, embed, embeddings, errors, experiment, explainer,
                     metrics, models, optimizers, pretexts, step, together,
                     train, trained_run, windows)
from deep_oc.models import hierarchical
from deep_oc.pretexts import patch_svdd
from tests import tasks

SMALL = dict(channels=(4, 6), hidden=5)  # patches of 8 pixels, 16, and so on


def _create(levels=1, **kwargs):
  return pretexts.create(
      'patch_svdd', dtype=jnp.float32, **kwargs,
      encoder=dict(name='hierarchical', levels=levels, **SMALL))


def _images(n=3, height=20, width=23):
  return np.random.default_rng(0).random((n, height, width, 3), np.float32)


def _variables(module, *shape):
  """Returns variables as if trained: larger ones than at first, and biases."""
  image = jnp.zeros((1, *shape, 3))
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  shapes = jax.eval_shape(lambda: module.init(keys, image, train=False))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: np.float32(
      rng.normal(0, 1.5 / np.sqrt(np.prod(x.shape[:-1])), x.shape)), shapes)


def _leaky(x):
  return np.where(x > 0, x, 0.1 * x)


def _convolved(x, params):
  """Correlates f[h, w, c] with a kernel, without padding."""
  kernel, bias = np.float64(params['kernel']), np.float64(params['bias'])
  return np.stack([
      sum(signal.correlate2d(x[..., c], kernel[..., c, d], 'valid')
          for c in range(kernel.shape[2])) for d in range(kernel.shape[3])
  ], axis=-1) + bias


def _feature(params, patch, levels):
  """Returns what the encoder finds in a patch f[k, k, c], f64[d]."""
  if levels:
    half = len(patch) // 2
    quarters = [patch[y:y + half, x:x + half]
                for y in (0, half) for x in (0, half)]
    x = np.concatenate([_feature(params, each, levels - 1)
                        for each in quarters])
    for name in ('gather', 'merge'):
      layer = params[f'{name}_{levels - 1}']
      x = _leaky(x) if name == 'merge' else x
      x = x @ np.float64(layer['kernel']) + np.float64(layer['bias'])
    return np.tanh(x)
  x = np.float64(patch) - 0.5
  x = _convolved(x, params['small_0'])[::2, ::2]
  x = _convolved(_leaky(x), params['small_1'])
  assert x.shape[:2] == (1, 1)
  return np.tanh(x[0, 0])


@pytest.mark.parametrize('levels', [0, 1, 2])
def test_a_feature_is_of_its_patch_by_quarters(levels):
  encoder = hierarchical.Model(levels=levels, **SMALL)
  side, image = 8 * 2**levels, _images(2, 35, 36)
  variables = _variables(encoder, 35, 36)
  found = tasks.apply(
      encoder, variables, image, levels, train=False, method='look')
  assert encoder.side == side and encoder.stride == 2
  seen = side - 1  # nothing sees a patch's last row and column
  assert found.shape == (2, (35 - seen) // 2 + 1, (36 - seen) // 2 + 1, 6)
  assert encoder.receptive_field == seen
  for i, y, x in ((0, 0, 0), (1, 1, 0), (1, found.shape[1] - 2, 1)):
    patch = image[i, 2 * y:2 * y + side, 2 * x:2 * x + side]
    wanted = _feature(variables['params'], patch, levels)
    np.testing.assert_allclose(found[i, y, x], wanted, rtol=1e-4, atol=1e-6)
    alone = tasks.apply(encoder, variables, patch[None], train=False)
    np.testing.assert_allclose(alone[0], wanted, rtol=1e-4, atol=1e-6)
  assert np.std(found, axis=(1, 2)).min() > 1e-4
  pool, sown = tasks.apply(
      encoder, variables, image, train=False, mutable=['intermediates'])
  np.testing.assert_allclose(pool, found.mean((1, 2)), rtol=1e-4, atol=1e-6)
  stages = sown['intermediates']['stage']
  assert len(stages) == encoder.stages == levels + 1
  np.testing.assert_array_equal(stages[-1], pool)
  np.testing.assert_allclose(
      sown['intermediates']['map'][0], found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('levels', [1, 2])
def test_its_parts_embed_smaller_patches_by_the_same_parameters(levels):
  encoder = hierarchical.Model(levels=levels, **SMALL)
  image, variables = _images(2, 40, 40), _variables(encoder, 40, 40)
  for level in range(levels + 1):
    part = encoder.of_side(8 * 2**level)
    assert part.side == part.receptive_field + 1 == 8 * 2**level
    np.testing.assert_allclose(
        tasks.apply(part, variables, image, train=False), tasks.apply(
            encoder, variables, image, level, train=False,
            method='look').mean((1, 2)), rtol=1e-5, atol=1e-6)
  assert encoder.of_side(encoder.side) == encoder


@pytest.mark.parametrize('side', [8, 16])
def test_windows_are_those_of_the_part_for_their_size(side):
  pretext, image = _create(), np.uint8(255 * _images(2, 40, 37))
  variables = _variables(pretext, 40, 37)
  begin = windows.starts(40, side, 3), windows.starts(37, side, 5)
  place = windows.places(2, *begin)
  found = windows.embedder(pretext, side)(variables, image, place)
  wanted = [_feature(variables['params']['encoder'],
                     image[i, y:y + side, x:x + side] / 255, side // 16)
            for i, y, x in place]
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('side', [8, 16])
def test_windows_are_cut_out_of_centred_images(side, monkeypatch):
  monkeypatch.setattr(windows, '_CENTRED', 2)  # images at once
  pretext, image = _create(centre=True), np.uint8(255 * _images(3, 40, 37))
  mean = _images(1, 40, 37)[0] / 2
  variables = _variables(_create(), 40, 37) | {
      'mean_image': {'mean': {'value': mean}}}
  place = windows.places(3, np.array([0, 9, 24]), np.array([0, 7, 21]))[4:]
  place = np.random.default_rng(5).permutation(place)
  found = windows.embedder(pretext, side)(variables, image, place)
  wanted = [_feature(variables['params']['encoder'],
                     (image[i] / 255 - mean + 0.5)[y:y + side, x:x + side],
                     side // 16) for i, y, x in place]
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_network_that_centres_sees_images_less_the_mean_one():
  pretext, other = _create(centre=True), _create()
  image, mean = _images(3, 40, 37), _images(1, 40, 37)[0] / 2
  variables = _variables(other, 40, 37)
  mine = variables | {'mean_image': {'mean': {'value': mean}}}
  off = image - mean + 0.5
  np.testing.assert_allclose(
      tasks.apply(pretext, mine, image, method='centred'), off)
  np.testing.assert_allclose(
      tasks.apply(pretext, mine, image, method='embed')['pool'],
      tasks.apply(other, variables, off, method='embed')['pool'], rtol=1e-5,
      atol=1e-6)
  rngs = {'views': jax.random.key(3)}
  loss, _ = tasks.apply(pretext, mine, image, train=True, rngs=rngs)
  wanted, _ = tasks.apply(other, variables, off, train=True, rngs=rngs)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)
  without, _ = tasks.apply(other, variables, image, train=True, rngs=rngs)
  assert abs(loss / without - 1) > 1e-3


def test_the_papers_encoder_sees_32_and_64_pixels():
  encoder = models.create('hierarchical')
  assert [encoder.of_side(side).levels for side in (32, 64)] == [0, 1]
  image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: encoder.init_with_output(
      jax.random.key(0), x, train=False), image)
  assert shapes[0].shape == (1, 64)
  assert sum(x.size for x in jax.tree.leaves(shapes[1])) == sum(
      (9 * m + 1) * n for m, n in zip(
          (3, 32, 64, 128, 128, 64, 32, 32), (32, 64, 128, 128, 64, 32, 32, 64),
          strict=True)) + (256 + 1) * 128 + (128 + 1) * 64


@pytest.mark.parametrize('kwargs, words', [
    (dict(channels=()), r'encoder.channels=\(\) must be whole numbers'),
    (dict(channels=(4, 0)), 'encoder.channels=0 must be a whole number'),
    (dict(hidden=0), 'encoder.hidden=0 must be a whole number from 1 on'),
    (dict(levels=-1), 'encoder.levels=-1 must be a whole number from 0 on')])
def test_an_encoder_that_cannot_be_is_one_line(kwargs, words):
  with pytest.raises(errors.InputError, match=words):
    models.create('hierarchical', **kwargs)


def test_sizes_that_the_encoder_does_not_have_are_one_line():
  encoder = hierarchical.Model(**SMALL)
  with pytest.raises(errors.InputError,
                     match=r'windows of \[8, 16\] pixels, not of 12'):
    encoder.of_side(12)
  with pytest.raises(errors.InputError,
                     match='patches of 16 pixels, more than the 15x40'):
    encoder.init(jax.random.key(0), jnp.zeros((1, 15, 40, 3)), train=False)


@pytest.mark.parametrize('side', [8, 32])
def test_neighbours_begin_three_quarters_to_all_of_a_patch_away(side):
  shape = 4 * side, 3 * side + 5
  draw = jax.vmap(lambda key: patch_svdd.neighbours(key, shape, side))
  place, label = map(np.asarray, draw(
      jax.random.split(jax.random.key(0), 4000)))
  edge = np.array(shape) - side
  assert (place >= 0).all() and (place <= edge).all()
  assert (place[:, 0].min(0) == 0).all() and (place[:, 0].max(0) == edge).all()
  assert (np.bincount(label, minlength=8) > 4000 / 8 * 0.8).all()
  directions = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1),
                         (1, 0), (1, 1)])[label]
  moved = place[:, 1] - place[:, 0]
  np.testing.assert_array_equal(moved[directions == 0], 0)
  inside = (place[:, 1] > 0) & (place[:, 1] < edge) & (directions != 0)
  distance = (moved * directions)[inside]
  assert set(distance) == set(range(3 * side // 4, side))
  # At the edge as far as it can; and never beyond where it would have begun.
  assert (moved * directions >= 0).all()
  assert ((moved * directions)[directions != 0] < side).all()
  assert (moved * directions)[directions != 0].min() < 3 * side // 4


@pytest.mark.parametrize('side, most', [(16, 1), (32, 1), (64, 2)])
def test_jittered_patches_begin_one_pixel_of_32_beside_each_other(side, most):
  shape = side + 9, side + 11
  place = np.asarray(jax.vmap(lambda key: patch_svdd.jittered(
      key, shape, side))(jax.random.split(jax.random.key(0), 3000)))
  assert (place >= 0).all() and (place <= np.array(shape) - side).all()
  moved = place[:, 1] - place[:, 0]
  edge = np.array(shape) - side
  inside = ((place > most) & (place < edge - most)).all((1, 2))
  every = {(y, x) for y in range(-most, most + 1)
           for x in range(-most, most + 1)} - {(0, 0)}
  assert set(map(tuple, moved[inside])) == every
  assert np.abs(moved).max() == most and (~moved.any(axis=1)).any()


def test_patches_are_cut_from_their_image_and_neighbours_have_noise():
  pretext, image = _create(noise=0.1), np.zeros((400, 16, 16, 3), np.float32)
  image += np.arange(400)[:, None, None, None]  # each of one value
  patches, label = tasks.apply(
      pretext, _variables(pretext, 16, 16), jax.random.key(0), image, 8,
      method='_pairs')
  assert patches.shape == (400, 2, 2, 8, 8, 3) and label.shape == (400,)
  off = np.float64(patches) - image[:, :1, :1, None, None]
  np.testing.assert_array_equal(off[:, 1], 0)
  colour = off[:, 0].mean(axis=(2, 3))  # 64 pixels of noise are left
  np.testing.assert_allclose(
      colour.std(), 0.1 * np.sqrt(1 + 1 / 64), rtol=0.05)
  pixel = off[:, 0] - colour[:, :, None, None]
  np.testing.assert_allclose(pixel.std(), 0.1 * np.sqrt(63 / 64), rtol=0.02)
  assert abs(np.corrcoef(colour[:, 0].ravel(), colour[:, 1].ravel())[0, 1]) < .1
  assert abs(np.corrcoef(colour[:, 0, 0], colour[:, 0, 1])[0, 1]) < 0.15


@pytest.mark.parametrize('levels', [0, 1])
def test_the_loss_is_cross_entropy_and_distance_of_all_levels(levels):
  pretext = _create(levels, pull=0.7)
  image, variables = _images(5, 24, 22), _variables(pretext, 24, 22)
  seen = []

  def pairs(module, key, image, side):
    patches, label = patch_svdd.Pretext._pairs(module, key, image, side)
    seen.append((patches, label))
    return patches, label

  class Seen(patch_svdd.Pretext):
    _pairs = pairs

  spy = Seen(pretext.encoder, pretext.augment, pull=0.7)
  loss, told, drawn = jax.jit(lambda variables: (*spy.apply(
      variables, image, train=True, rngs={'views': jax.random.key(3)}),
      tuple(seen)))(variables)
  params = variables['params']
  wanted, right, far = 0., [], []
  for level, (patches, label) in enumerate(drawn):
    feature = np.array([[[_feature(params['encoder'], np.asarray(each), level)
                          for each in pair] for pair in of_image]
                        for of_image in patches])
    x = feature[:, 0, 0] - feature[:, 0, 1]
    layers = params[f'position_{level}']
    for name in ('Dense_0', 'Dense_1'):
      x = _leaky(x @ np.float64(layers[name]['kernel']) + layers[name]['bias'])
    kernel = np.float64(layers['kernel'])
    kernel /= np.sqrt((kernel ** 2).sum(axis=1, keepdims=True))
    log = special.log_softmax(x @ kernel + layers['bias'], axis=1)
    distance = np.sqrt(
        ((feature[:, 1, 0] - feature[:, 1, 1]) ** 2).sum(-1)).mean()
    wanted += -log[np.arange(5), label].mean() + 0.7 * distance
    right.append((log.argmax(axis=1) == label).mean())
    far.append(distance)
  if levels:
    assert (drawn[0][1] != drawn[1][1]).any()  # each level has its own draw
  assert len(drawn) == levels + 1
  assert pretext.inputs_per_image == 4 * len(drawn)
  np.testing.assert_allclose(loss, wanted, rtol=1e-4)
  np.testing.assert_allclose(told['accuracy'], np.mean(right), rtol=1e-6)
  np.testing.assert_allclose(told['distance'], np.mean(far), rtol=1e-3)
  assert told['chance'] == 0.125 and min(far) > 0


def test_a_length_of_0_has_no_gradient_and_others_their_direction():
  rows = np.array([[0., 0.], [3., 4.]], np.float32)
  np.testing.assert_array_equal(patch_svdd.length(rows), [0, 5])
  gradient = jax.grad(lambda x: patch_svdd.length(x).sum())(rows)
  np.testing.assert_allclose(gradient, [[0, 0], [0.6, 0.8]], rtol=1e-6)


def test_it_learns_and_the_last_layers_weights_stay():
  pretext = _create()
  optimizer = optimizers.create(
      total_steps=9, steps_per_epoch=1, name='adam', learning_rate=3e-3,
      schedule='constant', weight_decay=0.)
  # A bright corner: where a patch lies can be seen.
  y, x = np.mgrid[:32, :32] / 32
  image = np.uint8(255 * np.clip(np.stack([y, x, y * x], -1), 0, 1))
  image = np.tile(image, (64, 1, 1, 1))
  first = state = step.create_state(pretext, optimizer, 0, (32, 32, 3))
  take = jax.jit(lambda state: step.train_step(
      pretext, optimizer, state, image, step.root_key(0)))
  found = []
  for _ in range(200):
    state, told = take(state)
    found.append(told)
  assert found[0]['accuracy'] < 0.3
  late = np.mean([each['accuracy'] for each in found[-20:]])
  assert late > 0.5  # an eighth by guessing
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()),
                       first.params, state.params)
  for level in ('position_0', 'position_1'):
    assert moved[level].pop('kernel') == 0
  assert min(jax.tree.leaves(moved)) > 0
  assert np.isfinite(found[-1]['loss'])


def test_features_are_the_mean_over_all_patches():
  pretext, image = _create(), _images(2, 22, 20)
  variables = _variables(pretext, 22, 20)
  found = tasks.apply(pretext, variables, image, method='embed')
  wanted = [np.mean([_feature(variables['params']['encoder'],
                              each[y:y + 16, x:x + 16], 1)
                     for y in (0, 2, 4, 6) for x in (0, 2, 4)], axis=0)
            for each in image]
  assert set(found) == {'pool'}
  np.testing.assert_allclose(found['pool'], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kwargs, words', [
    (dict(pull=-1.), 'pretext.pull=-1.0 must be a number from 0 on'),
    (dict(noise=float('nan')), 'pretext.noise=nan must be a number from 0')])
def test_a_weight_that_cannot_be_is_one_line(kwargs, words):
  with pytest.raises(errors.InputError, match=words):
    _create(**kwargs)


def test_images_smaller_than_a_patch_are_one_line():
  with pytest.raises(errors.InputError,
                     match='patches of 16 pixels, more than the 15x40'):
    step.init(_create(), 0, (15, 40, 3))


def test_an_encoder_without_parts_is_one_line():
  with pytest.raises(errors.InputError, match='encoder.name=hierarchical'):
    pretexts.create('patch_svdd', dtype=jnp.float32,
                    encoder=dict(name='convnet', channels=(4, 8)))


def _fabric(**kwargs):
  config = cutpaste_quickstart.get_config()
  config.method = 'patch_svdd'
  config.pretext = ConfigDict(dict(name='patch_svdd', augment={}, **kwargs))
  config.encoder = ConfigDict(dict(
      name='hierarchical', channels=(16, 16), hidden=32, levels=1))
  config.optimizer.update(name='adam', learning_rate=1e-3, weight_decay=0.,
                          schedule='constant')
  return config


@pytest.fixture(scope='module')
def learnt(tmp_path_factory):
  """A short run on fabric, with windows of 8 and of 16 pixels."""
  workdir = tmp_path_factory.mktemp('patch_svdd')
  config = _fabric()
  config.train.update(steps=300, monitor_every=300)
  config.localize = ConfigDict(dict(
      name='windows', side=(16, 8), stride=(4, 4), classifier='knn(k=1)',
      limit=5000, sigma=1e4))
  train.train(config, str(workdir))
  return workdir


def test_what_it_learns_of_fabric_shows_where_flaws_are(learnt):
  arrays, meta = embeddings.read_maps(learnt)
  trained, untrained = (
      metrics.auroc(arrays[name].ravel(), arrays['mask'].ravel())
      for name in ('map_windows', 'map_random_windows'))
  assert trained > 80 and trained > untrained + 4
  largest = arrays['map_windows'].max(axis=(1, 2))
  assert metrics.auroc(largest, arrays['anomaly']) > 70
  assert len(np.unique(largest)) == len(largest)
  assert meta['map_params']['side'] == [16, 8]


def test_pictures_are_judged_by_its_maps(learnt):
  arrays, _ = embeddings.read_maps(learnt)
  image, heat = arrays['image'][:5], arrays['map_windows'][:5]
  found = trained_run.load(str(learnt)).heat_maps(image)
  np.testing.assert_allclose(found, heat, rtol=1e-3, atol=1e-3 * heat.max())
  by_windows = trained_run.load(str(learnt), feature='windows')
  assert by_windows.classifier == 'knn(k=1)'
  score = by_windows.decision_function(arrays['image'])
  assert metrics.auroc(score, arrays['anomaly']) > 70


@pytest.fixture(scope='module')
def centred(tmp_path_factory):
  """A few steps on centred images."""
  workdir = tmp_path_factory.mktemp('centred')
  config = _fabric(centre=True)
  config.train.update(steps=6, monitor_every=6)
  config.localize = ConfigDict(dict(
      name='windows', side=8, stride=4, classifier='knn(k=1)', limit=500))
  train.train(config, str(workdir))
  return workdir


def test_a_run_keeps_the_mean_of_its_training_images(centred):
  config, problem, pretext, state = embed.restore(str(centred))
  image = problem.train.image
  kept = state.collections['mean_image']['mean']['value']
  np.testing.assert_allclose(kept, (image / 255).mean(axis=0), rtol=1e-6)
  # Its untrained baseline has it, too.
  stored, _ = embeddings.read(centred / 'embeddings' / 'train.npz')
  untrained = step.init(pretext, config.seed, image.shape[1:])
  wanted = pretext.clone(centre=False).apply(
      {'params': untrained['params']},
      image[:9] / np.float32(255) - kept + 0.5, method='embed')['pool']
  np.testing.assert_allclose(stored['random'][:9], wanted, rtol=1e-3, atol=1e-6)
  assert np.isfinite(stored['pool']).all()
  arrays, _ = embeddings.read_maps(centred)
  assert np.isfinite(arrays['map_random_windows']).all()


@pytest.mark.slow
def test_runs_that_are_trained_together_have_a_mean_each(tmp_path):
  config = _fabric(centre=True)
  config.train.update(steps=2, monitor_every=2)
  config.protocol.calibration = 0.5
  runs = []
  for config.seed in (0, 1):
    runs.append(together.member(config.copy_and_resolve_references(),
                                str(tmp_path)))
  assert not together.train_together(runs, at_once=2)
  means = []
  for each in runs:
    _, problem, _, state = embed.restore(each.workdir)
    means.append(state.collections['mean_image']['mean']['value'])
    np.testing.assert_allclose(
        means[-1], (problem.train.image / 255).mean(axis=0), rtol=1e-6)
  assert (means[0] != means[1]).any()


def test_an_explanation_s_untrained_network_has_the_mean_image(centred):
  found = trained_run.load(str(centred))
  stored, _ = embeddings.read(centred / 'embeddings' / 'train.npz')
  problem = experiment.problem(experiment.of_run(str(centred)))
  _, untrained = explainer.networks(found, found.classifier, stored, problem)
  trained = found.parts().variables['mean_image']
  np.testing.assert_array_equal(
      untrained.score.variables['mean_image']['mean']['value'],
      trained['mean']['value'])


@pytest.mark.slow
def test_a_bundle_centres_images_before_windows_are_cut(centred, binary):
  done = binary('export', f'--workdir={centred}')
  assert done.returncode == 0, done.stderr
  arrays, _ = embeddings.read_maps(centred)
  image, wanted = arrays['image'][:3], arrays['map_windows'][:3]
  off = 1e-3 * wanted.max()
  found = trained_run.load(str(centred)).heat_maps(image)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=off)
  found = bundle.load(centred / 'bundle').heat_maps(image)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=off)


@pytest.mark.slow
def test_centred_windows_that_share_no_pass_are_not_exported(centred, binary):
  assert binary('localize', f'--workdir={centred}',
                '--set=stride=5').returncode == 0
  output = centred / 'mapless'
  drawn = binary('export', f'--workdir={centred}', f'--output={output}')
  assert drawn.returncode == 0 and 'has no heat maps' in drawn.stdout
  assert not list(output.glob('heat*'))
  refused = binary('export', f'--workdir={centred}', '--feature=windows')
  assert 'windows of 8 pixels every 5 share no pass' in the_error(refused)


def test_several_views_of_centred_images_are_refused_in_one_line():
  config = _fabric(centre=True)
  config.embed = dict(views='flip')
  with pytest.raises(errors.InputError, match=(
      "embed.views='flip' moves .*, or train with pretext.centre=false")):
    experiment.pretext(config)


@pytest.mark.slow
def test_a_bundle_has_its_maps_of_both_sizes(learnt, binary):
  done = binary('export', f'--workdir={learnt}', '--feature=windows')
  assert done.returncode == 0, done.stderr
  arrays, _ = embeddings.read_maps(learnt)
  found = bundle.load(learnt / 'bundle')
  assert [each['suffix'] for each in found.about['heat_maps']] == ['_0', '_1']
  judged = found.judge(arrays['image'])
  assert metrics.auroc(judged.score, arrays['anomaly']) > 70
  np.testing.assert_allclose(
      judged.score, found.heat_maps(arrays['image']).max(axis=(1, 2)))
