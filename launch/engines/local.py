"""Processes of this machine, one per GPU, or `jobs` at once."""
import collections
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

from launch import engines
from launch.engines import _process

_POLL = 0.5  # seconds


def submit(queue: Sequence[engines.Job], *, retries: int = 2, folder: str = '',
           jobs: int | None = None, gpus: int | None = None
           ) -> Iterator[engines.Event | None]:
  """Runs jobs as processes.

  Args:
    queue: the jobs.
    retries: of a job that fails.
    folder: not used.
    jobs: how many at once; by default one per GPU, or one.
    gpus: how many to use; by default all that there are.
  """
  del folder
  devices = _devices(gpus)
  free = collections.deque(range(jobs or len(devices) or 1))
  waiting, running = collections.deque(queue), {}
  attempts = engines.Attempts(retries)
  try:
    while waiting or running:
      for _ in range(min(len(free), len(waiting))):
        job = waiting.popleft()
        process = _process.start(job, _visible(devices, free[0]))
        if process is None:
          waiting.append(job)
          yield engines.Event(job, 'queued', 'another process is at it')
          continue
        running[free.popleft()] = job, process
        yield engines.Event(job, 'running')
      yield None
      time.sleep(_POLL)
      for place, (job, process) in list(running.items()):
        if process.poll() is None:
          continue
        del running[place]
        free.append(place)
        event = attempts.ended(job, process.returncode)
        if event.state == 'queued':
          waiting.append(job)
        yield event
  finally:
    _process.stop(process for _, process in running.values())


def _devices(gpus: int | None) -> list[str]:
  """Returns the names of GPUs, those of CUDA_VISIBLE_DEVICES if it is set."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    found = [each for each in visible.split(',') if each]
  elif gpus is not None:
    found = [str(each) for each in range(gpus)]
  else:
    found = [str(i) for i in range(_count())]
  return found[:gpus]


def _count() -> int:
  try:
    listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True,
                            text=True, check=True).stdout
  except (OSError, subprocess.CalledProcessError):
    return 0
  return listed.count('GPU ')


def _visible(devices: list[str], place: int) -> dict[str, str]:
  if not devices:
    return {}
  return {'CUDA_VISIBLE_DEVICES': devices[place % len(devices)]}
