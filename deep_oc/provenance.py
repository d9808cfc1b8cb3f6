"""What made an output: the command and the versions of what ran it.

Every CSV has a JSON file of its name beside it that says so, an `.npz` its
`meta` or `command`, a picture its `command`.
"""
import contextlib
import functools
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping

import deep_oc
from deep_oc import files

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'scikit-learn')


def command() -> str:
  """Returns what was asked of the shell, '' where no binary is running."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  name = spec.name.removesuffix('.__main__') if spec else ''
  if name.partition('.')[0] not in ('deep_oc', 'launch'):
    return ''
  return written(shlex.join(['python', '-m', name, *sys.argv[1:]]))


def written(text: str) -> str:
  """Returns what UTF-8 can hold; file names may be in any encoding."""
  return text.encode('utf-8', 'backslashreplace').decode()


def versions() -> dict[str, str]:
  """Returns those of this package, with its git commit, Python and others."""
  found = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return {'deep_oc': deep_oc.__version__, 'git': _git_commit(),
          'python': platform.python_version(), **found}


@functools.cache
def _git_commit() -> str:
  """Returns the commit of the sources, '' where git does not know."""
  try:
    return subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--abbrev=40'],
        cwd=pathlib.Path(__file__).parent, capture_output=True, text=True,
        check=True, timeout=10).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return ''


def about(more: Mapping[str, object] | None = None) -> dict[str, object]:
  """Returns command and versions, and what else there is to say."""
  return {'command': command(), 'versions': versions(), **(more or {})}


def write(path: object, more: Mapping[str, object] | None = None) -> None:
  """Writes `about` beside the output at `path`, as JSON of its name.

  Raises:
    InputError: the file cannot be written.
  """
  with files.replacing(files.path(path).with_suffix('.json')) as file:
    json.dump(about(more), file, indent=2)
    file.write('\n')
