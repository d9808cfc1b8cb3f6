"""Transformation prediction against NumPy, written from the definitions."""
import itertools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import the_error
from ml_collections import ConfigDict
from scipy import special, stats

from deep_oc import (bundle, embed, embeddings, experiment, explainer, export,
                     features, metrics, orientation, pretexts, scores, together,
                     train, trained_run)
from deep_oc.errors import InputError
from deep_oc.pretexts import transformations
from tests import tasks, tiny

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(size=(3, 8, 8, 3)).astype(np.float32)
HENDRYCKS = dict(flip=False, factorised=True, inputs_per_image=4)


def create(name='transformations', **kwargs):
  return pretexts.create(
      name, encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.float32,
      **kwargs)


def moved(image, right, down):
  """Moves f[h, w, c] by whole pixels; edges reflect."""
  height, width = image.shape[:2]
  padded = np.pad(image, [(abs(down),) * 2, (abs(right),) * 2, (0, 0)],
                  mode='reflect')
  y, x = abs(down) - down, abs(right) - right
  return padded[y:y + height, x:x + width]


def copies(image, flips=(False, True), t=2):
  """Returns f[m, h, h, c]: GEOM's nested order."""
  return np.stack([
      np.rot90(moved(np.flip(image, 1) if flip else image, right, down), turn)
      for flip, right, down, turn in itertools.product(
          flips, (0, -t, t), (0, -t, t), range(4))])


def softmax(x):
  p = np.exp(np.float64(x) - np.max(x, axis=-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def logits_of(pretext, variables, view, train=False):
  """Returns the logits f[m, k] of each classifier, of one pass."""
  def forward(module, view):
    pool = module.encoder(view, train=train)
    feature = module.mlp(pool, train=train)
    return [classifier(feature) for classifier in module.classifiers]
  found, _ = tasks.apply(pretext, variables, view, method=forward,
                         mutable=['batch_stats'])
  return [np.asarray(each, np.float64) for each in found]


def test_the_seventy_two_are_those_of_geom_in_its_order():
  wanted = np.stack([copies(image) for image in IMAGE])
  assert len({each.tobytes() for each in wanted[0]}) == 72
  np.testing.assert_array_equal(wanted[:, 0], IMAGE)
  members = create().score_views
  static = orientation.views(jnp.asarray(IMAGE), members)
  np.testing.assert_array_equal(static, wanted)
  index = RANDOM.permuted(np.tile(np.arange(72), (3, 1)), axis=1)
  drawn = transformations.transformed(
      jnp.broadcast_to(IMAGE[:, None], (3, 72, 8, 8, 3)), jnp.asarray(index),
      members)
  for i in range(3):
    np.testing.assert_array_equal(drawn[i], wanted[i][index[i]])
  np.testing.assert_array_equal(
      orientation.views(jnp.asarray(IMAGE), create(flip=False).score_views),
      wanted[:, :36])


@pytest.mark.parametrize('views', [1, 4, 6, 72])
def test_of_every_four_drawn_all_turns_are_of_one_flip_and_shift(views):
  pretext = create(inputs_per_image=views)
  drawn = np.asarray(jax.vmap(pretext._draw)(
      jax.random.split(jax.random.key(0), 2000)))
  assert all(len(set(each)) == views for each in drawn)
  for start in range(0, views // 4 * 4, 4):
    four = drawn[:, start:start + 4]
    assert np.ptp(four // 4, axis=1).max() == 0
    np.testing.assert_array_equal(
        np.sort(four % 4), np.tile(np.arange(4), (2000, 1)))
  count = np.bincount(drawn[:, 0], minlength=72)
  assert count.min() > 8 and count.max() < 55  # 27.8 of each


@pytest.mark.parametrize('kwargs, flips, factors', [
    (dict(head=(6, 5), inputs_per_image=72), (False, True), (72,)),
    (dict(inputs_per_image=36, factorised=True, flip=False), (False,),
     (3, 3, 4)),
    (dict(inputs_per_image=72, factorised=True), (False, True), (2, 3, 3, 4))])
def test_the_loss_is_the_mean_of_the_heads_cross_entropies(
    kwargs, flips, factors):
  pretext = create(**kwargs)
  variables = tasks.init(pretext, IMAGE)
  (loss, told), _ = tasks.apply(
      pretext, variables, IMAGE, train=True, rngs={'views': jax.random.key(3)},
      mutable=['batch_stats'])
  view = np.concatenate([copies(image, flips) for image in IMAGE])
  logits = logits_of(pretext, variables, view, train=True)
  assert tuple(each.shape[1] for each in logits) == factors
  labels = np.array(list(itertools.product(*map(range, factors)))) \
      if len(factors) > 1 else np.arange(72)[:, None]
  label, rows = np.tile(labels, (3, 1)), np.arange(len(view))
  entropy = [-np.log(softmax(each))[rows, label[:, i]].mean()
             for i, each in enumerate(logits)]
  np.testing.assert_allclose(loss, np.mean(entropy), rtol=1e-4)
  right = [(each.argmax(1) == label[:, i]).mean()
           for i, each in enumerate(logits)]
  np.testing.assert_allclose(told['accuracy'], np.mean(right), rtol=1e-5)
  np.testing.assert_allclose(told['chance'], np.mean([1 / k for k in factors]))


def test_a_step_of_few_views_learns_of_those_that_it_drew():
  pretext = create(**HENDRYCKS)
  variables, rngs = tasks.init(pretext, IMAGE), {'views': jax.random.key(3)}
  (loss, _), _ = tasks.apply(pretext, variables, IMAGE, train=True, rngs=rngs,
                             mutable=['batch_stats'])
  key = pretext.apply({}, rngs=rngs, method=lambda module: module.make_rng(
      'views'))
  index = np.asarray(jax.vmap(pretext._draw)(
      jax.random.split(jax.random.split(key)[1], 3)))
  view = np.concatenate([copies(image, (False,))[each]
                         for image, each in zip(IMAGE, index, strict=True)])
  logits = logits_of(pretext, variables, view, train=True)
  label = np.stack(np.unravel_index(index.ravel(), (3, 3, 4)), 1)
  entropy = [-np.log(softmax(each))[np.arange(12), label[:, i]].mean()
             for i, each in enumerate(logits)]
  np.testing.assert_allclose(loss, np.mean(entropy), rtol=1e-4)


@pytest.mark.parametrize('kwargs, flips, factors', [
    (dict(), (False, True), (72,)), (HENDRYCKS, (False,), (3, 3, 4))])
def test_the_score_is_one_minus_the_mean_probability_of_what_was_applied(
    kwargs, flips, factors):
  pretext = create(**kwargs)
  variables = tasks.init(pretext, IMAGE)
  wanted = []
  for image in IMAGE:
    view = copies(image, flips)
    label = np.unravel_index(np.arange(len(view)), factors)
    p = [softmax(each)[np.arange(len(view)), label[i]] for i, each in
         enumerate(logits_of(pretext, variables, view))]
    wanted.append(np.mean(p))
  for log, expected in ((False, 1 - np.array(wanted)),
                        (True, -np.log(wanted))):
    found = tasks.apply(pretext, variables, IMAGE, log=log, method='scores')
    assert set(found) - {'dirichlet'} == {'transformation'}
    assert ('dirichlet' in found) == (len(factors) == 1)
    np.testing.assert_allclose(found['transformation'], expected, rtol=1e-4)


@pytest.mark.parametrize('size, low, high', [
    (72, 15, 40), (72, 0.02, 50), (36, 1, 1), (4, 0.01, 1e6), (4, 1e-4, 0.1)])
def test_dirichlet_parameters_are_those_of_greatest_likelihood(
    size, low, high):
  """Where the gradient of the likelihood is zero; it has one such point."""
  wanted = np.exp(RANDOM.uniform(np.log(low), np.log(high), (3, size)))
  mean = special.psi(wanted) - special.psi(wanted.sum(1, keepdims=True))
  found = scores.dirichlet_parameters(mean)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  gradient = mean - special.psi(found) + special.psi(
      found.sum(1, keepdims=True))
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_dirichlet_parameters_are_found_of_samples():
  alpha = np.array([[0.3, 5., 1., 0.7]])
  p = np.random.default_rng(0).dirichlet(alpha[0], 40_000)
  found = scores.dirichlet_parameters(np.log(p).mean(0, keepdims=True))
  np.testing.assert_allclose(found, alpha, rtol=0.03)


@pytest.mark.parametrize('scale', [1, 1e4])
def test_the_dirichlet_score_is_minus_the_mean_log_density_but_for_a_constant(
    scale):
  """Of large parameters, too, of which float32 would leave no difference."""
  alpha = scale * RANDOM.uniform(0.1, 4, (5, 6))
  p = np.stack([RANDOM.dirichlet(each, 7) for each in alpha], axis=1)
  p = (p + 1e-4) / (p + 1e-4).sum(-1, keepdims=True)
  mean = special.psi(alpha) - special.psi(alpha.sum(1, keepdims=True))
  found = scores.dirichlet(*(jnp.asarray(each, jnp.float32) for each in (
      np.log(p), mean, alpha)))
  density = np.mean([[stats.dirichlet.logpdf(p[i, t], alpha[t])
                      for t in range(5)] for i in range(7)], axis=1)
  assert np.ptp(density) > 0.5
  far = np.ptp(density) if scale > 1 else 0.1
  np.testing.assert_allclose(
      found - found[0], density[0] - density, atol=0.01 * far)


@pytest.mark.parametrize('crop', [0, 8])
def test_statistics_are_the_log_probabilities_of_every_transformation(crop):
  image = RANDOM.uniform(size=(2, 16 if crop else 8, 8, 3)).astype(np.float32)
  pretext = create(crop=crop)
  variables = tasks.init(pretext, image)
  assert np.isnan(variables['statistics']['log_p']['value']).all()
  found = tasks.apply(pretext, variables, image, method='statistics')
  wanted = [np.mean([np.log(softmax(logits_of(
      pretext.clone(crop=0), variables, copies(tile))[0]))
                     for tile in np.split(each, len(each) // 8)], axis=0)
            for each in image]
  np.testing.assert_allclose(found['log_p'], wanted, atol=1e-4)
  done = features.statistics(pretext, variables, np.uint8(255 * image))
  score = tasks.apply(pretext, variables | done, image, method='scores')
  assert np.ptp(score['dirichlet']) > 0
  factorised = create(factorised=True)
  assert 'statistics' not in tasks.init(factorised, IMAGE)


def test_scores_keep_apart_what_is_nearly_sure_and_what_is_nearly_wrong():
  sure = jnp.full((2, 72, 1), -1e-9) * jnp.array([1, 2])[:, None, None]
  np.testing.assert_allclose(scores.transformation(sure), [1e-9, 2e-9],
                             rtol=1e-5)
  wrong = jnp.full((1, 36, 3), -200.)
  assert scores.transformation(wrong) == 1
  np.testing.assert_allclose(scores.transformation(wrong, log=True), 200,
                             rtol=1e-5)


def test_without_a_head_features_are_the_encoders_own():
  pretext = create()
  variables = tasks.init(pretext, IMAGE)
  assert set(variables['params']) == {'encoder', 'classifiers_0'}
  assert set(tasks.apply(pretext, variables, IMAGE, method='embed')) == {'pool'}
  with_head = create(head=(6, 5))
  found = tasks.apply(
      with_head, tasks.init(with_head, IMAGE), IMAGE, method='embed')
  assert set(found) == {'pool', 'head'}


def test_of_a_large_image_features_are_means_and_scores_maxima_over_tiles():
  image = RANDOM.uniform(size=(2, 17, 8, 3)).astype(np.float32)
  pretext = create(crop=8)
  variables = tasks.init(pretext, image)
  windows = [image[:, y:y + 8] for y in (0, 8)]
  alone = pretext.clone(crop=0)
  for method, reduce in (('embed', np.mean), ('scores', np.max)):
    found = tasks.apply(pretext, variables, image, method=method)
    parts = [tasks.apply(alone, variables, each, method=method)
             for each in windows]
    for key, value in found.items():
      np.testing.assert_allclose(
          value, reduce([part[key] for part in parts], axis=0), atol=1e-5)


def test_a_map_that_was_moved_lies_where_it_was_and_zeros_beyond():
  members = create(shift=0.25).score_views
  back = orientation.undone(np.asarray(orientation.views(
      jnp.asarray(IMAGE), members))[..., 0], members)
  for i, (_, right, down, _) in enumerate(itertools.product(
      (False, True), (0, -2, 2), (0, -2, 2), range(4))):
    seen = np.ones((8, 8), bool)
    if members[i].mirrored:
      right = -right  # seen from the upright image
    for axis, pixels in ((0, down), (1, right)):
      lost = np.arange(8) + pixels
      seen &= np.expand_dims((lost >= 0) & (lost < 8), 1 - axis)
    np.testing.assert_allclose(
        back[:, i], np.where(seen, IMAGE[..., 0], 0), atol=1e-6)


@pytest.mark.parametrize('kwargs, words', [
    (dict(shift=0), 'pretext.shift=0 must'),
    (dict(shift=0.6), 'pretext.shift=0.6 must'),
    (dict(shift='a'), "pretext.shift='a' must"),
    (dict(flip=1), 'pretext.flip=1 must be True or False'),
    (dict(factorised='no'), "pretext.factorised='no' must be True or False"),
    (dict(inputs_per_image=0), 'inputs_per_image=0 must .* from 1 to 72'),
    (dict(inputs_per_image=37, flip=False), 'from 1 to 36'),
    (dict(inputs_per_image=4.), 'inputs_per_image=4.0 must be a whole'),
    (dict(crop=-8), 'pretext.crop=-8 must')])
def test_fields_that_cannot_be_are_one_line(kwargs, words):
  with pytest.raises(InputError, match=words):
    create(**kwargs)


@pytest.mark.parametrize('image, words', [
    (np.zeros((2, 8, 9, 3), np.float32), 'square images, not 8x9'),
    (np.zeros((2, 3, 3, 3), np.float32), '3x3 by less than a pixel')])
def test_images_that_cannot_be_are_one_line(image, words):
  with pytest.raises(InputError, match=words):
    tasks.init(create(), image)


def _config(digits_npz, pretext, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({
      'data.path': str(digits_npz), 'encoder.channels': (16, 32), **overrides})
  del config['pretext']
  config['pretext'] = ConfigDict(pretext)
  return config


@pytest.mark.parametrize('pretext, distribution, words', [
    (dict(augment=dict(flip=0.5)), 'none', 'augment.flip mirrors the images'),
    (dict(augment=dict(vertical_flip=0.5)), 'none', 'vertical_flip turns the'),
    (dict(), 'hflip', "distribution='hflip' mirrors .*whose flip"),
    (dict(), 'rot', "distribution='rot' turns .*whose turn"),
    (HENDRYCKS | dict(augment=dict(turn=True)), 'none', 'augment.turn turns')])
def test_what_would_spoil_the_labels_is_refused(
    pretext, distribution, words, digits_npz):
  config = _config(digits_npz, dict(name='transformations', **pretext),
                   distribution=distribution)
  with pytest.raises(InputError, match=words):
    experiment.pretext(config)


def test_what_does_not_spoil_the_labels_is_not(digits_npz):
  for pretext in (HENDRYCKS | dict(augment=dict(flip=0.5, crop=0.8)),
                  dict(augment=dict(shift=0.1, crop=0.8))):
    experiment.pretext(_config(
        digits_npz, dict(name='transformations', **pretext)))
  experiment.pretext(_config(
      digits_npz, dict(name='transformations', **HENDRYCKS),
      distribution='hflip'))


def _train(digits_npz, workdir, pretext, batch=96, **overrides):
  config = _config(digits_npz, dict(name='transformations', **pretext), **{
      'train.batch': batch, 'train.steps': 300, **overrides})
  train.train(config, str(workdir))
  *_, last = map(json.loads, (
      workdir / 'metrics.jsonl').read_text().splitlines())
  test, _ = embeddings.read(workdir / 'embeddings/test.npz')
  return last, embeddings.scores(test), test['anomaly']


@pytest.fixture(scope='module')
def geom(digits_npz, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('geom')
  return workdir, _train(digits_npz, workdir, {}, **{
      'train.checkpoint_every': 250, 'protocol.calibration': 0.2})


def test_what_it_learns_of_real_digits_tells_other_digits_apart(geom):
  last, found, anomaly = geom[1]
  assert last['accuracy'] > 2 * last['chance']
  assert set(found) == {'transformation', 'dirichlet'}
  for name, score in found.items():
    assert metrics.auroc(score, anomaly) > 80, name


def test_so_do_the_factors(digits_npz, tmp_path):
  last, found, anomaly = _train(digits_npz, tmp_path, HENDRYCKS, 32)
  assert last['accuracy'] > 2 * last['chance']
  assert set(found) == {'transformation'}
  assert metrics.auroc(found['transformation'], anomaly) > 80


def test_a_runs_checkpoint_has_the_means_over_its_training_images(geom):
  config, problem, pretext, state = embed.restore(str(geom[0]))
  image = np.float32(problem.train.image[:40] / 255)
  few = features.statistics(pretext, state.variables, problem.train.image[:40])
  wanted = np.mean([np.log(softmax(logits_of(
      pretext, state.variables, copies(each, t=4))[0]))
                    for each in image], axis=0)
  np.testing.assert_allclose(
      few['statistics']['log_p']['value'], wanted, atol=1e-3)
  np.testing.assert_allclose(few['statistics']['alpha']['value'],
                             scores.dirichlet_parameters(wanted), rtol=1e-2)
  every = features.statistics(pretext, state.variables, problem.train.image)
  np.testing.assert_array_equal(
      state.variables['statistics']['log_p']['value'],
      every['statistics']['log_p']['value'])
  assert not np.allclose(wanted, every['statistics']['log_p']['value'])


def test_statistics_are_of_what_classifiers_are_fitted_to(digits_npz, tmp_path):
  """Not of images that only the encoder has, nor of those that calibrate."""
  config = _config(digits_npz, dict(name='transformations'), **{
      'train.batch': 32, 'train.steps': 2})
  with config.unlocked():
    config.protocol.update(name='semi_supervised', clean=20, calibration=0.2)
  train.train(config, str(tmp_path))
  _, problem, pretext, state = embed.restore(str(tmp_path))
  assert len(problem.fitted) == 16 < len(problem.train)
  wanted = features.statistics(pretext, state.variables, problem.fitted.image)
  other = features.statistics(pretext, state.variables, problem.train.image)
  found = state.variables['statistics']['log_p']['value']
  np.testing.assert_array_equal(found, wanted['statistics']['log_p']['value'])
  assert np.any(found != other['statistics']['log_p']['value'])


def test_it_judges_and_is_explained_by_its_density(geom):
  workdir, (_, found, _) = geom
  _, problem, *_ = embed.restore(str(workdir))
  judge = trained_run.load(
      str(workdir), feature='score', classifier='dirichlet')
  np.testing.assert_allclose(
      judge.decision_function(problem.test.image[:50]), found['dirichlet'][:50],
      rtol=1e-4, atol=1e-3)
  both = explainer.networks(
      trained_run.load(str(workdir)), 'dirichlet', embeddings.read(
          workdir / 'embeddings/train.npz')[0], problem)
  image = jnp.asarray(problem.test.image[:3] / 255, jnp.float32)
  for network in both:
    gradient = jax.jit(jax.grad(
        lambda x, score=network.score: score(x).sum()))(image)
    assert np.isfinite(gradient).all() and np.ptp(gradient) > 0


@pytest.mark.slow
def test_its_density_is_exported(geom, tmp_path):
  found = trained_run.load(
      str(geom[0]), feature='score', classifier='dirichlet')
  about = export.export(found, tmp_path / 'bundle', [], '')
  assert about['parity']['verdicts_that_differ'] == 0
  taken = bundle.load(tmp_path / 'bundle')
  image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
  wanted = found.decision_function(image)
  assert np.ptp(wanted) > 1
  np.testing.assert_allclose(taken.judge(image).score, wanted, rtol=1e-4)


@pytest.mark.slow
def test_trained_with_others_it_has_the_same_density(geom, digits_npz,
                                                     tmp_path):
  config = _config(digits_npz, dict(name='transformations'), **{
      'train.batch': 112, 'train.steps': 20, 'train.checkpoint_every': 10})
  train.train(config, str(tmp_path / 'alone'))
  other = together.member(config, str(tmp_path))
  assert together.train_together([other], at_once=1) == []
  alone, crew = (embed.restore(str(each))[3].variables for each in (
      tmp_path / 'alone', other.workdir))
  np.testing.assert_allclose(
      crew['statistics']['log_p']['value'],
      alone['statistics']['log_p']['value'], rtol=1e-3)
  for each in (tmp_path / 'alone', pathlib.Path(other.workdir)):
    test, _ = embeddings.read(each / 'embeddings/test.npz')
    assert np.ptp(test['score_dirichlet']) > 0


@pytest.mark.slow
def test_an_earlier_step_has_a_density_for_its_embeddings_alone(
    geom, binary, tmp_path):
  workdir = shutil.copytree(geom[0], tmp_path / 'earlier')
  done = binary('embed', f'--workdir={workdir}', '--step=250')
  assert done.returncode == 0, done.stderr
  test, _ = embeddings.read(workdir / 'embeddings/test.npz')
  assert metrics.auroc(test['score_dirichlet'], test['anomaly']) > 75
  for args in (['export', '--feature=score', '--classifier=dirichlet'],
               ['explain', '--score=dirichlet']):
    done = binary(args[0], f'--workdir={workdir}', *args[1:])
    assert 'which only the checkpoint of the last step has' in the_error(done)
