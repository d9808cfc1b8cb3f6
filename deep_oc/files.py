"""Files that are whole or absent: written aside, then renamed."""
import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

from deep_oc.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = 'w') -> Iterator[IO]:
  """Opens a temporary neighbour of `path` that takes its name at the end.

  A crash leaves the old file or the new one, never half of one.

  Raises:
    InputError: the folder cannot be made or written to, or the disk is full.
  """
  path = pathlib.Path(path)
  binary = 'b' in mode
  aside = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    with os.fdopen(handle, mode, **({} if binary else {
        'encoding': 'utf-8', 'newline': ''})) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 is for secrets
    os.replace(aside, path)
    aside = None
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror or error}; '
                     'choose a place that can be written to') from error
  finally:
    if aside is not None:
      with contextlib.suppress(OSError):
        os.unlink(aside)
