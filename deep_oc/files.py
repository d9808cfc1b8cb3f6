"""Files that are whole or absent, on disk or on an object store.

The one module that knows how the two differ. On disk a file is written aside
and renamed; an object is written to a local file and sent whole. What stands
before a :// is any protocol of fsspec: s3://bucket/runs, gs://bucket/runs.
"""
import contextlib
import errno
import glob as local_glob
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from deep_oc.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMITTED = 'uploaded.txt'
_BY_ORBAX = 'commit_success.txt'  # in what it writes to gs:// by itself


class WriteError(InputError):
  """What could not be written, why, and what to do, in one line.

  Attributes:
    resumes: whether it says from which checkpoint to go on.
  """
  resumes = False


def unwritable(what: object, error: BaseException) -> WriteError:
  """Returns the error for what the disk or the store did not take."""
  full = next((os.strerror(code) for code in _FULL
               if getattr(error, 'errno', None) == code
               or os.strerror(code) in str(error)), None)
  reason = full or getattr(error, 'strerror', None) or _first_line(error)
  return WriteError(f'cannot write {what}: {reason}; ' + (
      'make room' if full else 'choose a place that can be written to'))


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines()
  return lines[0][:300] if lines else type(error).__name__


def is_remote(path: object) -> bool:
  """Tells whether a path goes through fsspec."""
  return '://' in str(path)


def path(name: object) -> Any:
  """Returns a pathlib.Path, with ~ as home, or its like for what is remote.

  Raises:
    InputError: nothing is installed that reads this protocol.
  """
  if not is_remote(name):
    return pathlib.Path(os.path.expanduser(name))
  try:
    import upath  # an extra
    found = upath.UPath(str(name))
    found.fs  # noqa: B018, loads the protocol's package
    return found
  except (ImportError, ValueError) as error:
    raise InputError(f"cannot reach {name}: {_first_line(error)}; "
                     "pip install 'deep_oc[remote]' has gs:// and s3://"
                     ) from error
  except Exception as error:  # every store has its own
    raise unreachable(name, error) from error


def unreachable(name: object, error: BaseException) -> InputError:
  """Returns the error for a store that refuses, or is not there."""
  return InputError(f'cannot reach {name}: {_first_line(error)}; is the bucket '
                    'there, and may these credentials use it?')


def exists(name: object) -> bool:
  """Tells whether there is such a file, asking the store anew.

  Raises:
    InputError: the store does not answer.
  """
  found = path(name)
  if not is_remote(name):
    return found.exists()
  try:
    found.fs.invalidate_cache()
    return found.exists()
  except Exception as error:
    raise unreachable(name, error) from error


def glob(pattern: str) -> list[str]:
  """Returns what matches, with * and **, each with its protocol."""
  if not is_remote(pattern):
    return local_glob.glob(os.path.expanduser(pattern), recursive=True)
  found = path(pattern)
  try:
    return [found.fs.unstrip_protocol(each) for each in
            found.fs.glob(found.path)]
  except Exception as error:
    raise unreachable(pattern, error) from error


@contextlib.contextmanager
def replacing(name: object, mode: str = 'w') -> Iterator[IO]:
  """Opens a file that takes the place of `name` when it is complete.

  A crash leaves the old file or the new one, never half of one.

  Raises:
    WriteError: the folder cannot be made or written to, or the disk is full.
  """
  text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
  put = _uploaded if is_remote(name) else _renamed
  try:
    with put(path(name), mode, text) as file:
      yield file
  except BrokenPipeError:
    raise  # of what was printed meanwhile: a file is no pipe
  except OSError as error:
    raise unwritable(name, error) from error


@contextlib.contextmanager
def _renamed(target: pathlib.Path, mode: str, text: dict) -> Iterator[IO]:
  aside = None
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(
        dir=target.parent, prefix=f'.{target.name[:32]}.')  # 255 bytes in all
    with os.fdopen(handle, mode, **text) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 is for secrets
    os.replace(aside, target)
    aside = None
  finally:
    if aside is not None:
      with contextlib.suppress(OSError):
        os.unlink(aside)


@contextlib.contextmanager
def _uploaded(target: Any, mode: str, text: dict) -> Iterator[IO]:
  """Not `target.open`: after an error that would still close half an object."""
  with tempfile.NamedTemporaryFile(mode, **text) as file:
    yield file
    file.flush()
    _send(pathlib.Path(file.name), target)


def _send(source: pathlib.Path, target: Any) -> None:
  try:
    target.fs.put_file(str(source), target.path)
  except Exception as error:  # every store has its own
    raise unwritable(target, error) from error


def committed(folder: Any) -> list[str]:
  """Returns the names of the folders in a remote one that are complete.

  On gs:// Orbax has finished them, elsewhere `upload`.
  """
  marker = _BY_ORBAX if str(folder).startswith('gs://') else _COMMITTED
  below = local_glob.escape(str(folder))
  return sorted(pathlib.PurePosixPath(each).parent.name
                for each in glob(f'{below}/*/{marker}'))


def upload(source: pathlib.Path, target: Any) -> None:
  """Copies a folder to a store; the last object marks it as complete.

  Raises:
    WriteError: the store refuses.
  """
  remove(target)
  for each in sorted(source.rglob('*')):
    if each.is_file():
      _send(each, target / each.relative_to(source).as_posix())
  with replacing(target / _COMMITTED):
    pass


def download(source: Any, target: pathlib.Path) -> None:
  """Copies a folder from a store.

  Raises:
    InputError: the store does not answer.
  """
  try:
    source.fs.get(f'{source.path}/', f'{target}/', recursive=True)
    (target / _COMMITTED).unlink()
  except Exception as error:
    raise unreachable(source, error) from error


def remove(folder: Any) -> None:
  """Removes a remote folder, its marker first: half of it never counts.

  Raises:
    WriteError: the store refuses.
  """
  try:
    with contextlib.suppress(FileNotFoundError):
      folder.fs.rm_file((folder / _COMMITTED).path)
    with contextlib.suppress(FileNotFoundError):
      folder.fs.rm(folder.path, recursive=True)
  except Exception as error:
    raise unwritable(folder, error) from error
