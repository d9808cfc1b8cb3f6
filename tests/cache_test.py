"""What is kept on a machine, and that it does no harm."""
import os
import pathlib
import subprocess
import sys

import jax
from conftest import ROOT

from deep_oc import cache

# A binary that compiles one program and tells whether it was kept.
_BINARY = '''
import sys
if len(sys.argv) > 1: import jax
from deep_oc import cli
def main(*_):
  import jax, jax.numpy as jnp
  hits = []
  jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
  print(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8))),
        '/jax/compilation_cache/cache_hits' in hits)
cli.run(main, lambda: None, ['early'][:len(sys.argv) - 1])
'''


def start(home, *args, **env):
  """Returns what the binary said, in an environment that names no cache."""
  clean = {key: value for key, value in os.environ.items()
           if key != 'JAX_COMPILATION_CACHE_DIR'}
  done = subprocess.run(
      [sys.executable, '-c', _BINARY, *args], cwd=ROOT, text=True,
      capture_output=True, check=False,
      env=clean | {'DEEP_OC_CACHE': str(home), 'JAX_PLATFORMS': 'cpu',
                   'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'} | env)
  assert not done.returncode, done.stderr
  return done.stdout.split()


def test_the_processes_of_these_tests_share_what_they_compile():
  assert (jax.config.jax_compilation_cache_dir
          == os.environ['JAX_COMPILATION_CACHE_DIR'])


def programs(home):
  return [path for path in pathlib.Path(home).glob('programs/*/*')
          if path.is_file()]


def test_the_next_process_compiles_nothing_again(tmp_path):
  assert start(tmp_path) == ['512.0', 'False']
  assert programs(tmp_path)
  assert start(tmp_path) == ['512.0', 'True']
  assert start(tmp_path, 'early') == ['512.0', 'True']  # JAX came first


def test_a_cut_program_is_compiled_again(tmp_path):
  start(tmp_path)
  for path in programs(tmp_path):
    path.write_bytes(path.read_bytes()[:100])
  assert start(tmp_path)[0] == '512.0'


def test_it_can_be_elsewhere_or_off_and_need_not_be_writable(tmp_path):
  (tmp_path / 'file').touch()
  assert start(tmp_path / 'file' / 'cache') == ['512.0', 'False']
  start(tmp_path / 'a', JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'mine'))
  assert any((tmp_path / 'mine').iterdir())
  start(tmp_path / 'a', JAX_ENABLE_COMPILATION_CACHE='false')
  assert not (tmp_path / 'a').exists()


def test_the_folder_is_given_or_the_environments_or_the_users(
    monkeypatch, tmp_path):
  monkeypatch.setenv('DEEP_OC_CACHE', str(tmp_path))
  assert cache.folder() == tmp_path
  assert cache.folder('x') == pathlib.Path('x')
  monkeypatch.delenv('DEEP_OC_CACHE')
  assert cache.folder() == pathlib.Path.home() / '.cache' / 'deep_oc'
