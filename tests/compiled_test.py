"""No step waits for the host, moves what it need not, or compiles twice.

Without an accelerator at hand the programs tell: what XLA compiles for CPUs,
and what is lowered for GPUs and TPUs.
"""
import collections
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from deep_oc import sharding, step, storage, train
from tests import compiled, parallel, tiny


@pytest.fixture(scope='module')
def on_eight():
  """What the programs do on eight devices, by task."""
  done = subprocess.run(
      [sys.executable, '-m', 'tests.compiled'], cwd=ROOT, text=True,
      capture_output=True, check=True, env=os.environ | {
          'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '8'})
  return {each['task']: each for each in map(json.loads,
                                             done.stdout.splitlines())}


@pytest.mark.slow
def test_devices_exchange_sums_embeddings_of_negatives_and_distances(on_eight):
  assert len(on_eight) == len(parallel._TASKS) + 1
  for task, found in on_eight.items():
    of_image = {'contrastive': 8, 'dacl_nt_xent': 8, 'csi': 32,
                'soft_boundary': 1}.get(task, 0)  # numbers; one for a quantile
    assert found['across'].keys() <= {'all-reduce', 'all-gather'}
    assert 0 < sum(found['across'].values()) < 20
    assert found['gathered'] == 16 * of_image


@pytest.mark.slow
def test_every_buffer_of_the_state_is_reused_on_eight_devices(on_eight):
  for found in on_eight.values():
    assert found['aliased'] == found['leaves'] >= 30 and not found['copied']


def test_one_device_talks_to_nobody_and_reuses_its_buffers():
  found = compiled.facts('rotation', sharding.mesh())
  assert not found['across'] and not found['copied']
  assert found['aliased'] == found['leaves'] > 40


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('task', ['rotation', 'contrastive', 'cutpaste_colour'])
def test_networks_compute_in_bfloat16_and_all_that_is_kept_is_float32(
    task, platform):
  encoder = dict(name='resnet', depth=10, width=0.25)
  state, program = compiled.traced(
      task, sharding.mesh(), dtype='bfloat16', encoder=encoder)
  text = program.lower(lowering_platforms=(platform,)).as_text()
  kinds = collections.Counter(
      re.findall(r'stablehlo.convolution.*: \(tensor<[^>]*x(\w+)>, tensor<'
                 r'[^>]*x(\w+)>\) -> tensor<[^>]*x(\w+)>', text))
  # Thirteen convolutions and what they pass back, to the image nothing.
  assert kinds == {('bf16',) * 3: 13 + 13 + 12}
  dots = re.findall(
      r'dot_general.*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>', text)
  assert dots.count(('bf16', 'bf16')) == 3  # the head's hidden layer
  assert set(dots) == {('bf16', 'bf16'), ('f32', 'f32')}
  assert {x.dtype.name for x in jax.tree.leaves(state)} == {'float32', 'int32'}
  out = jax.tree.leaves(program.jaxpr.out_avals)
  assert {x.dtype.name for x in out} <= {'float32', 'int32'}


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_the_only_loop_is_that_over_steps_and_nothing_calls_the_host(platform):
  _, program = compiled.traced('contrastive', sharding.mesh())
  text = program.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.while') == 1
  assert not re.findall(
      r'callback|infeed|outfeed|stablehlo.(?:send|recv)', text)
  arguments = text[text.index('@main('):].split('{\n')[0]
  assert arguments.count('jax.buffer_donor') + arguments.count(
      'tf.aliasing_output') == 44


@pytest.fixture
def in_chunks(monkeypatch):
  """Ten steps in one dispatch, as on accelerators; what each one compiles.

  Nothing may pass between host and device unasked.
  """
  compiles, seen = [], []
  monkeypatch.setattr(step, 'steps_per_dispatch', lambda wanted: wanted)

  def listen(name, *_, **__):
    if 'backend_compile' in name:
      compiles.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  make_steps = step.make_steps

  def make(*args):
    take = make_steps(*args)

    def steps(*args):
      with jax.transfer_guard('disallow'):
        found = take(*args)
      seen.append((take._cache_size(), len(compiles)))
      return found
    return steps
  monkeypatch.setattr(step, 'make_steps', make)
  return seen


def test_a_run_compiles_its_steps_once_and_nothing_passes_unasked(
    in_chunks, digits_npz, tmp_path):
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  config.train.steps = 80
  train.train(config, str(tmp_path))
  programs, compiles = zip(*in_chunks, strict=True)
  assert programs == (1,) * 8
  assert compiles[0] > 0 and len(set(compiles[3:])) == 1


def test_batches_are_on_the_devices_before_the_step():
  image = np.zeros((8, 4, 4, 3), np.uint8)
  for placement in storage.PLACEMENTS:
    stored = storage.Storage(image, placement, sharding.mesh())
    [batch] = stored.batches(
        lambda start, count: np.zeros((count, 4), np.int32), 0, 1, 1)
    assert isinstance(batch, jax.Array)
