"""Cloud TPU slices, by queued resources; spot ones are made again when taken.

Every slice runs one job at a time, with the same command on all its hosts. What
runs write must be in a bucket: the machines come and go. `gcloud` does it all,
as its own configuration says (project, account, SSH keys).
"""
import getpass
import pathlib
import queue as queues
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence

from deep_oc.errors import InputError
from launch import engines

_POLL = 20.0  # seconds
_LOST = ('FAILED', 'SUSPENDING', 'SUSPENDED')

# gcloud gives a command again whose connection broke, and a launcher may have
# been killed: what still runs is ended first. It saves before it ends.
_OLD = '[ "$old" ] && [ "$(readlink /proc/$old/cwd)" = "$PWD" ]'
_END_OLD = ('mkdir -p ~/sweep && cd ~/sweep && old=$(cat pid 2>/dev/null); '
            f'if {_OLD}; then kill $old; while {_OLD}; do sleep 1; done; fi')
_RUN = 'echo $$ > pid; export PATH=$PWD/.venv/bin:$PATH; exec python3 '


def submit(queue: Sequence[engines.Job], *, retries: int = 2, folder: str = '',
           zone: str | None = None, accelerator: str | None = None,
           runtime: str = 'tpu-ubuntu2204-base', slices: int = 1,
           spot: bool = True, setup: str = ''
           ) -> Iterator[engines.Event | None]:
  """Runs jobs on slices of their own, and deletes these at the end.

  Args:
    queue: the jobs.
    retries: of a job that fails; one whose slice was lost has not failed.
    folder: not used.
    zone: for example us-central2-b.
    accelerator: type of a slice, for example v4-8.
    runtime: the machines' image.
    slices: how many.
    spot: whether they may be preempted.
    setup: shell commands for every new machine, in the folder that jobs are
      then run in; a .venv made there is used.

  Raises:
    InputError: `gcloud` is not installed, or zone or accelerator is missing.
  """
  del folder
  if not zone or not accelerator:
    raise InputError('the engine tpu_vm needs --zone and --accelerator, for '
                     'example --zone=us-central2-b --accelerator=v4-8')
  _call('gcloud', '--version')  # or it raises
  waiting, events, stop = queues.Queue(), queues.Queue(), threading.Event()
  found = [_Slice(f'sweep-{getpass.getuser()}-{i}', zone, [
      f'--accelerator-type={accelerator}', f'--runtime-version={runtime}',
      *['--spot'] * spot], setup, stop) for i in range(min(slices, len(queue)))]
  for each in found:
    each.end()  # all of them before a job is started anywhere
  for job in queue:
    waiting.put(job)
  threads = [threading.Thread(target=_serve, args=(each, waiting, events, stop))
             for each in found]
  for thread in threads:
    thread.start()
  attempts, left = engines.Attempts(retries), len(queue)
  try:
    while left:
      try:
        said = events.get(timeout=1.0)
      except queues.Empty:
        yield None
        continue
      if isinstance(said, Exception):
        raise said
      if isinstance(said, tuple) and not isinstance(said, engines.Event):
        said = attempts.ended(*said)
        left -= said.state in ('done', 'failed')
        if said.state == 'queued':
          waiting.put(said.job)
      yield said
  finally:
    stop.set()
    for each in found:
      each.end()
    for thread in threads:
      thread.join()
    for each in found:
      each.delete()


def _serve(slice_, waiting, events, stop):
  """Runs jobs on a slice until told to stop; tells events, statuses, errors.
  """
  while not stop.is_set():
    try:
      job = waiting.get(timeout=1.0)
    except queues.Empty:
      continue  # a job may come back from another slice
    try:
      events.put(engines.Event(job, 'queued', f'waiting for {slice_.name}'))
      if not slice_.make_ready():
        continue
      events.put(engines.Event(job, 'running', slice_.name))
      status = slice_.run(job)
      lost = status and not slice_.alive()
      events.put((job, engines.AGAIN if lost else status))
    except Exception as error:  # whatever it is, `submit` must not wait
      events.put(error)


class _Slice:
  """A queued resource and the node of the same name."""

  def __init__(self, name, zone, about, setup, stop):
    self.name, self.about, self.setup = name, about, setup
    self._zone, self._stop = f'--zone={zone}', stop
    self._ready = False

  def state(self) -> str:
    """Returns what the cloud says, '' where there is no such resource."""
    done = self._resources('describe', '--format=value(state.state)')
    return done.stdout.strip() if done.returncode == 0 else ''

  def alive(self) -> bool:
    return self.state() == 'ACTIVE'

  def make_ready(self) -> bool:
    """Waits until the slice is there and set up; False when told to stop."""
    while not self._stop.is_set():
      state = self.state()
      if state == 'ACTIVE' and (self._ready or self._set_up()):
        self._ready = True
        return True
      self._ready = False
      if state in _LOST:
        self.delete()
      elif not state:
        self._create()
      self._stop.wait(_POLL)
    return False

  def run(self, job: engines.Job) -> int:
    """Runs a job on all hosts; its output is appended to the log here."""
    path = pathlib.Path(job.log)
    with engines.writing(path), path.open('a', encoding='utf-8') as log:
      return self._ssh(f'{_END_OLD}; {_RUN}{shlex.join(job.command)}', log)

  def end(self) -> None:
    """Ends what runs on the slice, which saves first."""
    if self.alive():
      self._ssh(_END_OLD)

  def delete(self) -> None:
    """Deletes the node with its resource, if there is one."""
    self._resources('delete', '--force', '--quiet')
    self._ready = False

  def _create(self) -> None:
    done = self._resources('create', f'--node-id={self.name}', *self.about)
    if done.returncode and not self.state():
      raise InputError(f'cannot create {self.name}: '
                       f'{" ".join(done.stderr.split())}')

  def _set_up(self) -> bool:
    if not self._ssh(f'{_END_OLD}; {self.setup or "true"}'):
      return True
    if self.alive():
      raise InputError(f'--setup failed on {self.name}; to see why: gcloud '
                       f'compute tpus tpu-vm ssh {self.name} {self._zone}')
    return False

  def _resources(self, verb: str, *options: str):
    return _call('gcloud', 'compute', 'tpus', 'queued-resources', verb,
                 self.name, self._zone, *options)

  def _ssh(self, command: str, log=subprocess.DEVNULL) -> int:
    return subprocess.run(
        ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', self.name, self._zone,
         '--worker=all', f'--command={command}'], stdin=subprocess.DEVNULL,
        stdout=log, stderr=subprocess.STDOUT, check=False,
        start_new_session=True).returncode  # Ctrl-C is for the launcher alone


def _call(*command: str) -> subprocess.CompletedProcess:
  try:
    return subprocess.run(command, capture_output=True, text=True,
                          errors='replace', check=False,
                          stdin=subprocess.DEVNULL, start_new_session=True)
  except FileNotFoundError as error:
    raise engines.missing(
        'gcloud', 'see cloud.google.com/sdk/docs/install') from error
