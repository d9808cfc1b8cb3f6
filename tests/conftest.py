"""What the tests of whole binaries share: small real images, a small config."""
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import threadpoolctl
from PIL import Image
from scipy import linalg  # noqa: F401, for its BLAS to be there

from tests import forked

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Workers share the cores, and threads of BLAS wait for each other there.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # of processes they start
threadpoolctl.threadpool_limits(1, user_api='blas')
# Processes of one test session share what they compile.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR',
                      str(ROOT / '.pytest_cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
if shutil.which('nvidia-smi') is None:
  # They are compiled in three quarters of the time so, and run as fast.
  os.environ.setdefault(
      'XLA_FLAGS', '--xla_backend_optimization_level=1 '
      '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true')


@pytest.fixture(scope='session', autouse=True)
def full_precision():
  """A GPU would round the factors of products in float32 to 10 bits."""
  import jax
  if jax.default_backend() != 'cpu':
    jax.config.update('jax_default_matmul_precision', 'highest')


@pytest.fixture(scope='session')
def digits_npz(tmp_path_factory) -> pathlib.Path:
  """scikit-learn's handwritten digits at 16 px: 1,200 to train, 597 to test."""
  from sklearn import datasets
  digits = datasets.load_digits()
  image = np.stack([np.asarray(Image.fromarray(np.uint8(15 * each)).resize(
      (16, 16), Image.Resampling.BILINEAR)) for each in digits.images])
  label = digits.target.astype(np.int32)
  path = tmp_path_factory.mktemp('data') / 'digits.npz'
  np.savez(path, x_train=image[:1200], y_train=label[:1200],
           x_test=image[1200:], y_test=label[1200:])
  return path


@pytest.fixture(scope='session')
def never_stopped(digits_npz, tmp_path_factory) -> pathlib.Path:
  """A run of tests/tiny.py from its first step to its last."""
  from deep_oc import train
  from tests import tiny
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  return pathlib.Path(
      train.train(config, str(tmp_path_factory.mktemp('run'))))


@pytest.fixture(scope='session')
def binary(digits_npz):
  """Runs `python -m deep_oc.<name>` with tests/tiny.py as its config.

  From the start, imports included, if the process is not waited for, or has
  an environment or a wrapper of its own.
  """
  def start(name, *args, env=None, wait=True, config='tests/tiny.py',
            wrapper=(), timeout=300):
    module = f'deep_oc.{name}'
    if name == 'train' and config == 'tests/tiny.py':
      args = (f'--config.data.path={digits_npz}', *args)
    if name == 'train':
      args = (f'--config={config}', *args)
    if wait and not (env or wrapper):
      return forked.run(module, *args, cwd=ROOT, timeout=timeout)
    process = subprocess.Popen(
        [*wrapper, sys.executable, '-m', module, *args], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {}))
    if not wait:
      return process
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(
        process.args, process.returncode, out, err)
  return start


@pytest.fixture
def browser():
  """A headless Chromium, its own or one that is installed."""
  sync_api = pytest.importorskip('playwright.sync_api')
  known = filter(None, map(shutil.which, (
      'chromium-headless-shell', 'chromium', 'chromium-browser',
      'google-chrome')))
  with sync_api.sync_playwright() as playwright:
    try:
      started = playwright.chromium.launch(
          executable_path=next(known, None), args=['--no-sandbox'])
    except sync_api.Error as error:
      pytest.skip(f'no Chromium: {error}')
    yield started
    started.close()


_MEASURE = '''
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
'''


def peak_memory(*arguments: str) -> int:
  """Returns the most KiB that a Python process holds, started by a small one.

  What it holds at first counts as well: a copy of what started it.
  """
  done = subprocess.run(
      [sys.executable, '-c', _MEASURE, sys.executable, *arguments], cwd=ROOT,
      capture_output=True, text=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  assert not done.returncode, done.stderr
  return int(done.stdout)


def the_error(done: subprocess.CompletedProcess) -> str:
  """Returns the one line of a run that failed as it should."""
  lines = [line for line in done.stderr.splitlines()
           if line.startswith('error: ')]
  assert done.returncode == 2, done.stderr
  assert len(lines) == 1 and 'Traceback' not in done.stderr, done.stderr
  return lines[0]
