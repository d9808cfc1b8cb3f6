"""Where is kept, on this machine, what need not be computed twice."""
import hashlib
import os
import pathlib
import platform
import sys


def folder(given: str | None = None) -> pathlib.Path:
  """Returns the folder: what is given, else DEEP_OC_CACHE, else ~/.cache."""
  return pathlib.Path(given or os.environ.get('DEEP_OC_CACHE')
                      or '~/.cache/deep_oc').expanduser()


def keep_compiled_programs() -> None:
  """Lets JAX find a program again that any process has compiled before.

  A cache that JAX was given otherwise, as by JAX_COMPILATION_CACHE_DIR, stays;
  JAX_ENABLE_COMPILATION_CACHE=false turns it off. Processors that differ have
  folders of their own, for the programs hold instructions that another may
  lack. JAX is not imported for this.
  """
  place = os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(
      folder() / 'programs' / _processor()))
  jax = sys.modules.get('jax')
  if jax and jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', place)


def _processor() -> str:
  """Returns a name that is the same where the same instructions are."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    able = {line for line in lines if line.startswith(('flags', 'Features'))}
  except OSError:  # not Linux
    able = {platform.processor()}
  digest = hashlib.sha256('\n'.join(sorted(able)).encode()).hexdigest()[:12]
  return f'{platform.machine()}-{digest}'
