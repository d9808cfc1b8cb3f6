"""The one thread in which the model runs.

It takes what waits, up to a batch, whenever it is free: alone, a request does
not wait for others; together they share the network's passes. Who asked for a
heat map waits for it, the others of the batch have their scores before.
"""
import collections
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deep_oc import bundle


class Answer(NamedTuple):
  """What the model says of a request's n images.

  Maps f32[n, h, w] are there if they were asked for or are what is judged.
  """
  judged: bundle.Judged
  maps: np.ndarray | None


class _Job(NamedTuple):
  images: np.ndarray
  maps: bool
  until: float
  answer: concurrent.futures.Future


class Worker:
  """Answers jobs in the order in which they came.

  Attributes:
    alive: whether it does.
    waiting: how many images nobody looks at yet.
  """

  def __init__(self, found: bundle.Bundle,
               observe: Callable[[int, float], None] = lambda n, seconds: None):
    """Starts the thread; `observe` is told of batches and their seconds."""
    self._bundle, self._observe = found, observe
    self._jobs: collections.deque[_Job] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._work, name='model',
                                    daemon=True)
    self._thread.start()

  @property
  def alive(self) -> bool:
    return self._thread.is_alive()

  @property
  def waiting(self) -> int:
    return sum(len(job.images) for job in tuple(self._jobs))

  def submit(self, images: np.ndarray, maps: bool, seconds: float
             ) -> concurrent.futures.Future:
    """Returns the Answer to come of u8[n, h, w, 3], n > 0.

    Args:
      images: prepared by the bundle.
      maps: whether heat maps are wanted.
      seconds: after so many nobody waits for it any more.
    """
    job = _Job(images, maps, time.monotonic() + seconds,
               concurrent.futures.Future())
    with self._changed:
      if self._closed:
        raise RuntimeError('the worker is closed')
      self._jobs.append(job)
      self._changed.notify()
    return job.answer

  def close(self) -> None:
    """Answers what waits, then ends the thread."""
    with self._changed:
      self._closed = True
      self._changed.notify()
    self._thread.join()

  def _work(self):
    while jobs := self._take():
      jobs = [job for job in jobs if _is_wanted(job)]
      if jobs:
        self._answer(jobs)

  def _take(self) -> list[_Job]:
    """Returns jobs of a batch at most, or one; none when all is over."""
    with self._changed:
      self._changed.wait_for(lambda: self._jobs or self._closed)
      jobs, count = [], 0
      while self._jobs and (not jobs or count + len(self._jobs[0].images)
                            <= self._bundle.batch):
        jobs.append(self._jobs.popleft())
        count += len(jobs[-1].images)
      return jobs

  def _answer(self, jobs):
    begin, heat = time.monotonic(), None
    images = np.concatenate([job.images for job in jobs])
    try:
      if self._bundle.by_maps:
        heat = self._bundle.heat_maps(images)
        judged = self._bundle.judge_maps(heat)
      else:
        judged = self._bundle.judge(images)
    except Exception as error:
      _fail(jobs, error)
      return
    self._observe(len(judged.score), time.monotonic() - begin)
    ends = np.cumsum([len(job.images) for job in jobs])[:-1]
    parts = zip(*(np.split(each, ends) for each in judged), strict=True)
    maps = [None] * len(jobs) if heat is None else np.split(heat, ends)
    answers = [(job, bundle.Judged(*part), drawn)
               for job, part, drawn in zip(jobs, parts, maps, strict=True)]
    for job, part, drawn in answers:
      if drawn is not None or not job.maps:
        job.answer.set_result(Answer(part, drawn))
    for job, part, drawn in answers:
      if job.maps and drawn is None:
        self._draw(job, part)

  def _draw(self, job, judged):
    if time.monotonic() > job.until:
      job.answer.set_exception(TimeoutError())
      return
    try:
      job.answer.set_result(Answer(judged, self._bundle.heat_maps(job.images)))
    except Exception as error:
      _fail([job], error)


def _is_wanted(job: _Job) -> bool:
  """Says whether somebody waits for it still; then it is not given up."""
  if not job.answer.set_running_or_notify_cancel():
    return False
  if time.monotonic() <= job.until:
    return True
  job.answer.set_exception(TimeoutError())
  return False


def _fail(jobs: list[_Job], error: Exception) -> None:
  logging.getLogger(__name__).exception('the model failed')
  for job in jobs:
    job.answer.set_exception(error)


def warm_up(found: bundle.Bundle) -> None:
  """Compiles for all numbers of images that batches are padded to."""
  count = 1
  while count <= found.batch:
    images = np.zeros((count, *found.image_shape), np.uint8)
    found.judge(images)
    if found.localizes and not found.by_maps:
      found.heat_maps(images)
    count *= 2
