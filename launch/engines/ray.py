"""Tasks of a Ray cluster whose nodes share a file system.

A node that is lost is no matter: Ray runs its tasks elsewhere, and they resume.
"""
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from deep_oc import errors
from launch import engines
from launch.engines import _process

_POLL = 1.0  # seconds


def submit(queue: Sequence[engines.Job], *, retries: int = 2, folder: str = '',
           address: str | None = None, cpus_per_run: float = 1.0,
           gpus_per_run: float = 0.0) -> Iterator[engines.Event | None]:
  """Runs jobs as tasks.

  Args:
    queue: the jobs.
    retries: of a job that fails; those after the loss of a node do not count.
    folder: not used.
    address: of the cluster, 'auto' for the one of this node; by default a
      cluster of this machine alone is started.
    cpus_per_run: CPUs that a run takes.
    gpus_per_run: GPUs that a run takes; a part of one is possible.

  Raises:
    InputError: Ray is not installed, or there is no such cluster.
  """
  del folder
  try:
    import ray
  except ImportError as error:
    raise engines.missing('ray', "pip install 'deep_oc[ray]'") from error
  if not ray.is_initialized():
    try:
      ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
      raise errors.InputError(
          f'no Ray cluster at --address={address}: {error}') from error
  run = ray.remote(num_cpus=cpus_per_run, num_gpus=gpus_per_run,
                   max_retries=-1)(_run)
  attempts = engines.Attempts(retries)
  tasks, printed = {}, {}
  jobs = list(queue)
  try:
    while jobs or tasks:
      for job in jobs:
        printed[job] = _length(job)
        tasks[run.remote(job, os.getcwd())] = job
      jobs = []
      ended, _ = ray.wait(list(tasks), timeout=_POLL)
      for task in ended:
        job = tasks.pop(task)
        printed.pop(job, None)
        event = attempts.ended(job, _result(ray, task))
        jobs += [job] * (event.state == 'queued')
        yield event
      # Ray does not tell which task has begun to run; its log does.
      for job in [job for job, length in printed.items()
                  if _length(job) > length]:
        del printed[job]
        yield engines.Event(job, 'running')
      yield None
  finally:
    for task in tasks:
      ray.cancel(task)  # raises KeyboardInterrupt in `_run`
    if tasks:
      ray.wait(list(tasks), num_returns=len(tasks))


def _run(job: engines.Job, folder: str) -> int:
  """Runs a job on a node and returns its exit status."""
  os.chdir(folder)
  while (process := _process.start(job)) is None:
    time.sleep(_POLL)  # on a node given up for lost, it is about to end
  try:
    return process.wait()
  finally:
    _process.stop([process])


def _result(ray: ModuleType, task: Any) -> int | str:
  """Returns the exit status, or in a line why the node could not run it."""
  try:
    return ray.get(task)
  except ray.exceptions.RayError as error:
    return str(error).strip().splitlines()[-1]


def _length(job: engines.Job) -> int:
  path = pathlib.Path(job.log)
  return path.stat().st_size if path.exists() else 0
