"""Where a sweep runs: an engine is a file with one public function.

  submit(queue, *, retries, folder, ...) -> Iterator[Event | None]

It runs the command of every job, as many at once as it has places for, and is
a generator: it yields an event whenever a job changes its state, None when a
while has passed without one, and ends when no job is left. Further keyword
arguments are its own; `launch.sweep` has a flag of the same name for each.

An engine knows nothing of what a command does, only how it ends. Giving the
same command again resumes it, SIGTERM asks it to save and to end, and its exit
status says what to do (`Attempts`):

  0   done
  2   bad input: trying again is of no use
  75  it was asked to end and has saved: run it again (EX_TEMPFAIL)
  any other: a failure, to be tried again `retries` times

A place that is lost, a node that dies or is preempted, is no failure of the
job. What the command prints is appended to the file `job.log`. No job runs
twice at the same time. Closing the generator ends all jobs by SIGTERM and waits
for them; what outlives a launcher that was killed is found by the next one.
`folder` is where an engine may keep files of its own.
"""
import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from deep_oc import errors, files

BAD_INPUT, AGAIN = 2, 75


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that can be run again, to go on where it was.

  Attributes:
    name: unique in the sweep.
    command: arguments of the Python interpreter.
    log: the file that output is appended to, on the launcher's file system.
  """
  name: str
  command: tuple[str, ...]
  log: str


class Event(NamedTuple):
  """A job's new state: 'queued', 'running', 'done' or 'failed', and why."""
  job: Job
  state: str
  note: str = ''


class Attempts:
  """Decides what becomes of a job whose command has ended."""

  def __init__(self, retries: int):
    self.retries = retries
    self._failures = collections.Counter()

  def ended(self, job: Job, status: int | str) -> Event:
    """Returns the job as 'done', 'queued' or 'failed'.

    Args:
      job: the job.
      status: of its command, or what happened instead of one.
    """
    if status == 0:
      return Event(job, 'done')
    if status == AGAIN:
      return Event(job, 'queued', 'was interrupted')
    self._failures[job] += 1
    note = f'status {status}' if isinstance(status, int) else status
    if status != BAD_INPUT and self._failures[job] <= self.retries:
      return Event(job, 'queued', f'{note}, retry {self._failures[job]} of '
                   f'{self.retries}')
    return Event(job, 'failed', note)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Says in one line that a file of the launcher's cannot be written."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    raise files.unwritable(path, error) from error


def missing(what: str, remedy: str) -> errors.InputError:
  """Returns the error for a program that an engine needs."""
  return errors.InputError(f'{what} is not installed; {remedy}')
