"""A job as a process of this machine that does not outlive its parent."""
import contextlib
import ctypes
import datetime
import fcntl
import functools
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping

from launch import engines

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: nothing may be between fork and exec


def start(job: engines.Job, env: Mapping[str, str] | None = None
          ) -> subprocess.Popen | None:
  """Starts the job; returns None while another process is at it.

  The log is locked for as long as the process lives, whatever becomes of who
  started it.

  Raises:
    WriteError: the log cannot be written.
  """
  log = pathlib.Path(job.log)
  with engines.writing(log), log.open('a', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return None
    except OSError:  # a file system without locks
      pass
    now = datetime.datetime.now().isoformat(' ', 'seconds')
    file.write(f'# {now} {socket.gethostname()}: '
               f'{shlex.join(["python", *job.command])}\n')
    file.flush()
    return subprocess.Popen(
        [sys.executable, *job.command], stdin=subprocess.DEVNULL, stdout=file,
        stderr=subprocess.STDOUT, env=os.environ | dict(env or {}),
        start_new_session=True,  # Ctrl-C is for the launcher alone
        preexec_fn=functools.partial(_end_with, os.getpid()))


def stop(processes: Iterable[subprocess.Popen]) -> None:
  """Ends processes by SIGTERM and waits; interrupted while so, by SIGKILL."""
  processes = list(processes)
  for process in processes:
    process.terminate()
  try:
    for process in processes:
      process.wait()
  finally:
    for process in processes:
      with contextlib.suppress(ProcessLookupError):
        process.kill()


def _end_with(parent: int) -> None:
  """Has this process end by SIGTERM when its parent does, on Linux."""
  if hasattr(_LIBC, 'prctl'):
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone already
      os._exit(engines.AGAIN)
