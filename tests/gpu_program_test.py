"""What a GPU is given to do, by what XLA compiles for one."""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope='module')
def on_a_gpu():
  """What the programs do, by task."""
  nvidia = importlib.util.find_spec('nvidia')
  plugins = importlib.util.find_spec('jax_plugins')
  if not (nvidia and plugins):
    pytest.skip("needs what pip installs for '.[cuda]', though no GPU")
  folders = {str(file.parent) for place in nvidia.submodule_search_locations
             for file in pathlib.Path(place).rglob('*.so*')}
  done = subprocess.run(
      [sys.executable, '-m', 'tests.gpu_program'], cwd=ROOT, text=True,
      capture_output=True, check=True, env=os.environ | {
          'JAX_PLATFORMS': 'cpu', 'DEEP_OC_XLA_CONVOLUTIONS': '1',
          'XLA_FLAGS': '--xla_gpu_autotune_level=0',
          'LD_LIBRARY_PATH': ':'.join(sorted(folders))})
  return {each['task']: each for each in map(json.loads,
                                             done.stdout.splitlines())}


@pytest.mark.slow
def test_batch_norm_reads_each_array_once_and_stores_none_in_float32(on_a_gpu):
  for found in on_a_gpu.values():
    # Twelve, forwards and backwards: over pixels, then over images.
    assert found['of BatchNorm'] == 12 * 2 * 2
    assert found['wide'] == []


@pytest.mark.slow
def test_convolutions_are_cudnns_and_nothing_is_copied_or_told(on_a_gpu):
  for found in on_a_gpu.values():
    assert found['convolutions'] == 12 + 12 + 11  # none to the images
    assert found['kernels'] < 300
    assert not found['copies'] and not found['to the host']
