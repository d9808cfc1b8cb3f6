"""An array job of SLURM: nodes that share a file system with the launcher.

The jobs live without the launcher: when it is killed, or its terminal closed,
the next one finds them in the queue. Accounting is not needed.
"""
import json
import os
import pathlib
import shlex
import string
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Sequence

from deep_oc.errors import InputError
from launch import engines

_POLL = 5.0  # seconds
_ASKED = 5  # times, before no answer counts as such
_ENDED = ('BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED',
          'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED', 'TIMEOUT')

# USR1 comes two minutes before the time is up: the job saves and puts itself
# back into the queue. TERM comes when it is preempted or cancelled; SLURM sends
# it to the command too, and alone knows whether the job is to run again. USR2
# is the launcher's: save and end.
_SCRIPT = string.Template('''\
#!/bin/bash
#SBATCH --array=$array
#SBATCH --job-name=$name
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --output=/dev/null
cd $cwd
case $$SLURM_ARRAY_TASK_ID in
$cases
esac
mkdir -p "$$(dirname "$$log")"
exec >>"$$log" 2>&1
echo "# $$(date '+%F %T') $$(hostname): $${command[*]}"
element=$${SLURM_ARRAY_JOB_ID}_$$SLURM_ARRAY_TASK_ID
if [ "$${SLURM_NTASKS:-1}" -gt 1 ]; then
  command=(srun "$${command[@]}")
  end() { scancel --signal=TERM $$element; }  # srun would kill its tasks
else
  end() { kill -TERM $$child; }
fi
trap 'signal=USR1 waiting=1; end' USR1
trap 'signal=USR2 waiting=1; end' USR2
trap 'signal=TERM waiting=1' TERM
"$${command[@]}" &
child=$$!
waiting=1
while [ $$waiting ]; do waiting=; wait $$child; status=$$?; done
if [ $$status = $again ] && [ "$$signal" = USR1 ]; then
  exec scontrol requeue $$element
fi
[ -n "$$signal" ] || echo $$status > $stem.$$SLURM_ARRAY_TASK_ID
exit $$status
''')


def submit(queue: Sequence[engines.Job], *, retries: int = 2, folder: str = '',
           sbatch: str = '') -> Iterator[engines.Event | None]:
  """Runs jobs as elements of an array job.

  Args:
    queue: the jobs.
    retries: of a job that fails; requeued by SLURM, it has not failed.
    folder: for scripts and exit statuses; on the shared file system.
    sbatch: further options of `sbatch`, in one string.

  Raises:
    InputError: SLURM is not installed, or refuses the job, or the folder
      cannot be written to.
  """
  attempts = engines.Attempts(retries)
  places = _adopted({job.name: job for job in queue}, folder)
  states = {}
  waiting = [job for job in queue if job not in places.values()]
  try:
    while places or waiting:
      places |= _array(waiting, folder, sbatch)
      waiting = []
      yield None
      time.sleep(_POLL)
      listed = _listed()
      for place, job in list(places.items()) if listed is not None else ():
        state = listed.get(place, ('', 'gone'))[1]
        if state == 'RUNNING' != states.get(job):
          yield engines.Event(job, 'running')
        elif states.get(job) == 'RUNNING' and state == 'PENDING':
          yield engines.Event(job, 'queued', 'requeued by SLURM')
        states[job] = state
        if state in (*_ENDED, 'gone'):
          del places[place]
          event = _ended(attempts, job, _status(folder, place, state), state)
          waiting += [job] * (event.state == 'queued')
          yield event
  finally:
    _cancel(places)


def _array(jobs, folder, sbatch):
  """Submits jobs; returns them by (name of the array job, index)."""
  if not jobs:
    return {}
  name = f'sweep-{uuid.uuid4().hex}'
  stem = pathlib.Path(folder).absolute() / name
  script, names = stem.with_suffix('.sh'), stem.with_suffix('.json')
  cases = [f'{i}) log={shlex.quote(os.path.abspath(job.log))} command=('
           f'{shlex.join([sys.executable, *job.command])});;'
           for i, job in enumerate(jobs)]
  with engines.writing(script):
    script.write_text(_SCRIPT.substitute(
        array=f'0-{len(jobs) - 1}', name=name, cwd=shlex.quote(os.getcwd()),
        cases='\n'.join(cases), again=engines.AGAIN,
        stem=shlex.quote(str(stem))), encoding='utf-8')
    names.write_text(json.dumps([job.name for job in jobs]), encoding='utf-8')
  done = _call('sbatch', *shlex.split(sbatch), str(script))
  if done.returncode:
    raise InputError(f'sbatch refused {script}: {done.stderr.strip()}')
  return {(name, i): job for i, job in enumerate(jobs)}


def _adopted(jobs, folder):
  """Returns those that an earlier launcher submitted and that go on."""
  listed = _asked()
  if listed is None:
    raise InputError('squeue does not answer, so what an earlier launcher '
                     'submitted may still run; start again when it does')
  found = {}
  for (name, i), (_, state) in listed.items():
    path = pathlib.Path(folder) / f'{name}.json'
    if state not in _ENDED and path.exists():
      job = jobs.get(json.loads(path.read_text(encoding='utf-8'))[i])
      found |= {(name, i): job} if job else {}
  return found


def _asked() -> dict[tuple[str, int], tuple[str, str]] | None:
  """Returns what is listed, asked again while there is no answer; or None."""
  for _ in range(_ASKED):
    listed = _listed()
    if listed is not None:
      return listed
    time.sleep(_POLL)
  return None


def _listed() -> dict[tuple[str, int], tuple[str, str]] | None:
  """Returns {(name, index): (id, state)}, None where there is no answer."""
  done = _call('squeue', '--me', '--array', '--noheader', '--states=all',
               '--format=%j %K %i %T')
  if done.returncode:
    return None
  rows = [line.split() for line in done.stdout.splitlines()]
  return {(row[0], int(row[1])): (row[2], row[3]) for row in rows
          if len(row) == 4 and row[1].isdecimal()}


def _status(folder: str, place: tuple[str, int], state: str) -> int | None:
  """Returns the exit status that the script wrote, None if it did not."""
  path = pathlib.Path(folder) / f'{place[0]}.{place[1]}'
  if state == 'COMPLETED':
    return 0  # the file may take its time over the network
  try:
    return int(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None


def _ended(attempts, job, status, state):
  if status is None and state == 'CANCELLED':
    return engines.Event(job, 'failed', 'cancelled')
  return attempts.ended(job, f'ended as {state}' if status is None else status)


def _cancel(places: Collection[tuple[str, int]]) -> None:
  """Cancels jobs and waits; what runs has its time to save."""
  told = set()
  while places:
    listed = _asked()
    if listed is None:
      print('squeue does not answer: jobs may remain; squeue --me tells, '
            'scancel ends them', file=sys.stderr)
      return
    left = {id: state for place, (id, state) in listed.items()
            if place in places and state not in _ENDED}
    if not left:
      return
    _call('scancel', '--state=PENDING', *left)
    running = [id for id, state in left.items()
               if state == 'RUNNING' and id not in told]
    if running:
      _call('scancel', '--batch', '--signal=USR2', *running)
      told.update(running)  # a second signal would not let them save
    time.sleep(_POLL)


def _call(*command: str) -> subprocess.CompletedProcess:
  try:
    return subprocess.run(command, capture_output=True, text=True, check=False)
  except FileNotFoundError as error:
    raise engines.missing(
        command[0], 'start the launcher where SLURM is') from error
