"""GOAD against NumPy, written from the definitions."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from deep_oc import (differentiable, embeddings, experiment, features, metrics,
                     pretexts, scores, step, train)
from deep_oc.errors import InputError
from deep_oc.pretexts import goad
from tests import tasks, tiny
from tests.transformations_test import copies, softmax

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(size=(3, 8, 8, 3)).astype(np.float32)


def create(**kwargs):
  return pretexts.create(
      'goad', encoder=dict(name='convnet', channels=(4, 8)), dtype=jnp.float32,
      **kwargs)


def train_on(pretext, variables, image):
  return tasks.apply(pretext, variables, image, train=True, rngs={
      'views': jax.random.key(3)}, mutable=['batch_stats'])


def forward(pretext, variables, image, train=False):
  """Returns features f[n, 72, d] and logits f[n, 72, 72] of one pass."""
  def both(module, view):
    feature = module.mlp(module.encoder(view, train=train), train=train)
    return feature, module.classifiers[0](feature)
  found, _ = tasks.apply(
      pretext, variables, np.concatenate([copies(each) for each in image]),
      method=both, mutable=['batch_stats'])
  return [np.asarray(each, np.float64).reshape(len(image), 72, -1)
          for each in found]


def shortfall(z, centre, margin):
  total = []
  for image in z:
    for m, each in enumerate(image):
      distance = [np.sum((each - c) ** 2) for c in centre]
      own = distance.pop(m)
      total.append(max(0, own + margin - min(distance)))
  return np.mean(total)


@pytest.mark.parametrize('head', [(), (6, 5)])
def test_the_loss_is_of_classifier_triplets_and_norms(head):
  pretext = create(head=head, margin=0.3, triplet_weight=0.7, norm_weight=2.0)
  variables = tasks.init(pretext, IMAGE)
  (loss, told), _ = train_on(pretext, variables, IMAGE)
  z, logits = forward(pretext, variables, IMAGE, train=True)
  p = softmax(logits)[:, np.arange(72), np.arange(72)]
  triplet = shortfall(z, z.mean(0), 0.3)
  assert triplet > 0.01
  np.testing.assert_allclose(told['triplet_loss'], triplet, rtol=1e-4)
  np.testing.assert_allclose(
      loss, -np.log(p).mean() + 0.7 * triplet + 2 * np.mean(z ** 2), rtol=1e-4)
  np.testing.assert_allclose(told['accuracy'], np.mean(
      logits.argmax(-1) == np.arange(72)), rtol=1e-5)
  np.testing.assert_allclose(told['chance'], 1 / 72)


def test_where_the_margin_is_kept_triplets_cost_nothing():
  centre = 10. * np.eye(4)
  z = np.broadcast_to(centre, (2, 4, 4))
  square = goad.square_distances(jnp.asarray(z), jnp.asarray(centre))
  assert goad.triplet_centre(square, 199.) == 0
  np.testing.assert_allclose(goad.triplet_centre(square, 201.), 1, rtol=1e-5)


def test_centres_are_means_over_the_training_images_as_they_are_scored():
  pretext, optimizer = create(head=(6, 5)), optax.sgd(0.1)
  state = step.create_state(pretext, optimizer, 0, (8, 8, 3))
  assert np.isnan(state.variables['statistics']['centre']['value']).all()
  image = RANDOM.integers(0, 256, (3, 8, 8, 3), np.uint8)
  state = features.concluded(pretext, state, image, batch=2)
  z, _ = forward(pretext, state.variables, np.float32(image / 255))
  np.testing.assert_allclose(
      state.variables['statistics']['centre']['value'], z.mean(0), atol=1e-5)


def test_the_score_is_minus_the_log_probability_by_distance_to_the_centres():
  pretext = create()
  variables = tasks.init(pretext, IMAGE)
  centre = RANDOM.normal(size=(72, 8)).astype(np.float32)
  variables['statistics']['centre']['value'] = jnp.asarray(centre)
  z, _ = forward(pretext, variables, IMAGE)
  wanted = [-sum(np.log(softmax(-((z[i, m] - centre) ** 2).sum(1))[m])
                 for m in range(72)) for i in range(3)]
  for log in (False, True):
    found = tasks.apply(pretext, variables, IMAGE, log=log, method='scores')
    np.testing.assert_allclose(found['transformation'], wanted, rtol=1e-4)
  assert differentiable.task_scores(pretext) == ('transformation',)


def test_a_score_without_doubt_is_zero():
  square = 1e3 * (1 - jnp.eye(5))[None]
  assert scores.centres(square) == 0
  np.testing.assert_allclose(scores.centres(square[:, ::-1]), 4e3)


@pytest.mark.parametrize('kwargs, words', [
    (dict(margin=-1.), 'pretext.margin=-1.0 must be a number from 0'),
    (dict(triplet_weight=-1.), 'triplet_weight=-1.0 must be a number from'),
    (dict(norm_weight=float('nan')), 'norm_weight=nan must be a number'),
    (dict(shift=0), 'pretext.shift=0 must'),
    (dict(factorised=True), "unknown config key 'pretext.factorised'")])
def test_fields_that_cannot_be_are_one_line(kwargs, words):
  with pytest.raises(InputError, match=words):
    create(**kwargs)


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({
      'data.path': str(digits_npz), 'encoder.channels': (16, 32),
      'optimizer.learning_rate': 3e-3, 'optimizer.name': 'adam',
      'train.batch': 4, 'train.steps': 400, **overrides})
  del config['pretext']
  config['pretext'] = ConfigDict(dict(name='goad', margin=0.1))
  return config


def test_one_image_has_no_others_to_share_a_centre_with(digits_npz):
  with pytest.raises(InputError, match='must be 2 at least, not 1'):
    experiment.pretext(_config(digits_npz, **{'train.batch': 1}))


def test_what_it_learns_of_real_digits_tells_other_digits_apart(
    digits_npz, tmp_path):
  train.train(_config(digits_npz), str(tmp_path))
  *_, last = map(json.loads, (
      tmp_path / 'metrics.jsonl').read_text().splitlines())
  test, _ = embeddings.read(tmp_path / 'embeddings/test.npz')
  own = metrics.auroc(test['score_transformation'], test['anomaly'])
  assert last['accuracy'] > 10 * last['chance']
  assert own > 80, own
