"""The moving average of the weights: what it is, and that it is evaluated."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import (embed, embeddings, errors, experiment, step, train,
                     trained_run)
from tests import tiny


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({'data.path': str(digits_npz)})
  config.train.update(ema=0.9, steps=40)
  config.train.update(overrides)
  return config


@pytest.fixture(scope='module')
def averaged(digits_npz, tmp_path_factory):
  """The folder of a run that evaluates the average."""
  return train.train(_config(digits_npz), str(tmp_path_factory.mktemp('run')))


def test_the_average_is_the_recursion_written_out():
  config = tiny.get_config()
  pretext = experiment.pretext(config)
  optimizer = experiment.optimizer(config, 100)
  state = step.create_state(pretext, optimizer, 0, (16, 16, 3), ema=0.5)
  plain = step.create_state(pretext, optimizer, 0, (16, 16, 3))
  image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
  take = jax.jit(lambda state: step.train_step(
      pretext, optimizer, state, jnp.asarray(image), step.root_key(0))[0])
  wanted = jax.device_get({'params': state.params, **state.collections})
  for k in range(1, 13):
    state, plain = take(state), take(plain)
    decay = min(0.5, (1 + k) / (10 + k))  # 0.5 from the eighth step on
    wanted = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * np.asarray(b),
                          wanted, {'params': state.params, **state.collections})
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               state.variables, wanted)
  jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
  assert plain.average is None
  assert plain.variables['params'] is plain.params


def test_the_average_is_what_is_embedded_and_what_scores(averaged, digits_npz):
  _, problem, pretext, state = embed.restore(averaged)
  written = embeddings.read(f'{averaged}/embeddings/test.npz')[0]['pool'][:50]
  image = step.to_float(jnp.asarray(problem.test.image[:50]))

  def pool(variables):
    return pretext.apply(variables, image, method='embed')['pool']
  np.testing.assert_allclose(pool(state.average), written, rtol=1e-3, atol=1e-4)
  last = {'params': state.params, **state.collections}
  assert np.abs(pool(last) - written).max() > 1e-2
  np.testing.assert_allclose(
      trained_run.load(averaged).embed(list(problem.test.image[:50])), written,
      rtol=1e-3, atol=1e-4)


def test_resuming_equals_never_stopping_with_an_average(
    averaged, digits_npz, tmp_path):
  stopped = tmp_path / 'stopped'
  shutil.copytree(averaged, stopped)
  shutil.rmtree(stopped / 'checkpoints' / '40')
  shutil.rmtree(stopped / 'embeddings')
  train.train(_config(digits_npz), str(stopped))
  for name in 'train', 'test':
    got, wanted = (embeddings.read(f'{run}/embeddings/{name}.npz')[0]
                   for run in (stopped, averaged))
    for key, array in wanted.items():
      np.testing.assert_array_equal(got[key], array, err_msg=key)
  rows = (stopped / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [10, 20, 30, 40]


@pytest.mark.parametrize('ema', [1.0, -0.1])
def test_a_decay_that_is_none_is_refused(ema):
  with pytest.raises(errors.InputError, match=f'train.ema={ema} must be'):
    experiment.Plan(batch=1, ema=ema)
