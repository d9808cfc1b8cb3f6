"""Several processes as one program, each with devices of its own.

Every process runs the same command on the same data and one folder that all of
them see. Cloud TPU, SLURM (a step of several tasks) and Kubernetes (an indexed
Job or JobSet whose pods have host names) tell by themselves who is who;
elsewhere flags do:

  python -m deep_oc.train --config=... --coordinator=host0:1234 --processes=2 \\
      --process=0   # and 1 on the other host

Process 0 writes. When one is lost, the others end within a minute; when one is
told to stop, all of them stop after the same step.
"""
import contextlib
import glob
import importlib.util
import os
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from absl import flags

from deep_oc import cli, errors
from deep_oc.errors import InputError

_HEARTBEAT = 30  # seconds of silence after which a process counts as lost
_UNREACHABLE = re.compile('gloo|nccl|heartbeat|coordination|connection|socket',
                          re.IGNORECASE)


def define_flags() -> None:
  flags.disclaim_key_flags()  # --help tells the flags of the binary alone
  flags.DEFINE_string(
      'coordinator', None, 'host:port of process 0, where no cluster tells.')
  flags.DEFINE_integer(
      'processes', None, 'How many there are; 1 = this one by itself, whatever '
      'a cluster says.', 1)
  flags.DEFINE_integer('process', None, 'Which one this is, from 0 on.', 0)


@contextlib.contextmanager
def joined() -> Iterator[None]:
  """Joins the other processes, if there are any, before JAX is used.

  When this process fails it ends at once, with the line and the status that it
  would have ended with alone, or with status 1 if another process was lost:
  less than what that one may have ended with, which counts.

  Raises:
    InputError: the flags do not fit, or the others cannot be joined.
  """
  import jax  # here and below: flags need none of it
  args = flags.FLAGS
  _initialize(args.coordinator, args.processes, args.process)
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if not jax.distributed.is_initialized():
      raise
    # JAX would wait for the others at exit, as they do for this process.
    status = _tell(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_first() -> bool:
  """Returns whether this is process 0, the one that writes."""
  import jax
  return jax.process_index() == 0


def agree(what: str, value: Callable[[], int]) -> None:
  """Raises InputError unless all processes call the same u32 `what`."""
  import jax
  from jax.experimental import multihost_utils
  if jax.process_count() == 1:
    return
  values = multihost_utils.process_allgather(np.uint32(value()))
  if len(set(values.tolist())) > 1:
    raise InputError(f'the processes differ in {what}: '
                     f'{", ".join(str(each) for each in values)}')


def stopping(dispatch: int) -> bool:
  """Returns whether to stop now, for SIGTERM has reached one of several.

  All processes get the same answer. JAX handles the signal.

  Args:
    dispatch: a number that grows by one with every call.
  """
  import jax
  from jax.experimental import multihost_utils
  return (jax.distributed.is_initialized()
          and multihost_utils.reached_preemption_sync_point(dispatch))


def _initialize(coordinator: str | None, processes: int | None,
                process: int | None) -> None:
  import jax
  given = coordinator, processes, process
  cluster = _cluster(os.environ) if given == (None,) * 3 else ''
  if processes == 1 or (given == (None,) * 3 and not cluster):
    return
  if not cluster and (None in given or process >= processes):
    raise InputError('--coordinator=host:port, --processes and --process '
                     '(from 0 on, less than --processes) go together')
  try:
    jax.distributed.initialize(
        *given, cluster_detection_method=None if cluster else 'deactivate',
        heartbeat_timeout_seconds=_HEARTBEAT)
  except (RuntimeError, ValueError, OSError) as error:
    if cluster == 'tpu' and not isinstance(error, RuntimeError):
      return  # a TPU of no cloud
    raise InputError(
        f'cannot join the other processes: {error}; give --coordinator, '
        '--processes and --process, or --processes=1') from error


def _cluster(env: Mapping[str, str]) -> str:
  """Returns the cluster of which this is one of several processes, or ''.

  JAX finds the others, but would take a batch job of one task and a pod of
  its own for clusters too.
  """
  if int(env.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
    return 'slurm'
  # The pods of a job array have no names by which they could find each other.
  if ('KUBERNETES_SERVICE_HOST' in env and 'JOB_COMPLETION_INDEX' in env
      and '.' in socket.getfqdn()):
    return 'kubernetes'
  if (env.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
      and importlib.util.find_spec('libtpu') is not None
      and (glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*'))):
    return 'tpu'
  return ''


def _tell(error: BaseException) -> int:
  """Says what ended this process; returns its exit status."""
  if isinstance(error, KeyboardInterrupt):
    print('interrupted; the same command resumes', file=sys.stderr)
    return 130
  lost = _lost(error)
  if lost:
    import jax
    print(f'error: process {jax.process_index()} of {jax.process_count()} '
          'cannot reach the others; one of them has ended, see its last lines; '
          'start all of them again to resume '
          f'({" ".join(str(lost).split())[:200]})', file=sys.stderr)
    return 1
  said = errors.explained(error)
  if said:
    with contextlib.suppress(SystemExit):
      cli.fail(said)
    return said.status
  traceback.print_exception(error)
  return 1


def _lost(error: BaseException | None) -> BaseException | None:
  """Returns what JAX raised for want of another process, if that is behind."""
  import jax
  while error and not (isinstance(error, jax.errors.JaxRuntimeError)
                       and _UNREACHABLE.search(str(error))):
    error = error.__cause__ or error.__context__
  return error
