"""Runs binaries in processes that have imported what takes seconds.

Each is a fork of one server, which has imported nothing of deep_oc.
"""
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([
    'absl.app', 'flax.linen', 'jax.numpy', 'matplotlib.figure',
    'ml_collections.config_flags', 'optax', 'orbax.checkpoint', 'PIL.Image',
    'scipy.stats', 'sklearn.covariance', 'sklearn.ensemble',
    'sklearn.metrics', 'sklearn.neighbors', 'sklearn.svm'])


def run(module: str, *args: str, cwd: str | os.PathLike | None = None,
        timeout: float = 300) -> subprocess.CompletedProcess:
  """Returns what `python -m <module>` leaves, without a GPU."""
  command = [sys.executable, '-m', module, *args]
  env = os.environ | {'JAX_PLATFORMS': 'cpu'}
  with tempfile.TemporaryDirectory() as folder:
    said = [pathlib.Path(folder, each) for each in ('out', 'err')]
    process = _CONTEXT.Process(
        target=_be, args=(module, args, cwd or os.getcwd(), env, said))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
      process.kill()
      raise subprocess.TimeoutExpired(command, timeout)
    out, err = (each.read_text() for each in said)
  return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _be(module: str, args: tuple[str, ...], cwd: str | os.PathLike,
        env: Mapping[str, str], said: list[pathlib.Path]) -> None:
  """Becomes the process."""
  import jax  # here, for conftest says how JAX is to be before its import
  for number, path in enumerate(said, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  jax.config.update('jax_platforms', env['JAX_PLATFORMS'])  # read on import
  sys.argv = [module, *args]
  runpy.run_module(module, run_name='__main__', alter_sys=True)
