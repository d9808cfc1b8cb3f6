"""Whole states, written by Orbax, the newest two kept."""
import contextlib
import logging
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from deep_oc import files
from deep_oc import step as steps
from deep_oc.errors import InputError


class _Damaged(InputError):
  """A checkpoint that cannot be read."""


class Checkpoints:
  """The checkpoints of one run, in `<workdir>/checkpoints/<step>`.

  A context manager. Orbax writes aside and renames, and on gs:// marks what is
  complete, so that no half checkpoint counts. Other stores hold copies of what
  it writes to a local folder, marked the same way.
  """

  def __init__(self, workdir: object):
    self.folder = files.path(workdir) / 'checkpoints'
    name = str(self.folder)
    if name.encode(errors='ignore').decode() != name:  # or saving would
      raise InputError(f'{name} is no UTF-8, which the names of checkpoints '
                       'must be; choose another --workdir')
    self._damaged = []
    self._local = _Copies(self.folder) if _needs_copies(self.folder) else None
    self._writes = False
    there = files.exists(self.folder)
    try:
      with _quiet():
        self._orbax = self._opened()
    except Exception as error:  # Orbax and TensorStore raise many kinds
      raise (InputError(f'cannot open {self.folder} ({_reason(error)})')
             if there else files.unwritable(self.folder, error)) from error

  def _opened(self) -> ocp.training.Checkpointer:
    # It removes in the background what was not finished: a save awaits that,
    # but a reader would end before it, or take it from one who is writing.
    return ocp.training.Checkpointer(
        self._local.folder if self._local else _root(self.folder),
        cleanup_tmp_directories=self._writes,
        preservation_policy=ocp.training.preservation_policies.LatestN(2))

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
    good = self._local.steps if self._local else self._steps()
    newest = max(good - set(self._damaged), default=None)
    if self._local:
      self._local.close()
    if not isinstance(error, files.WriteError):
      self._orbax.close()
    elif newest is not None and not error.resumes:
      # It is not closed: what failed has threads that this would await.
      said = files.WriteError(
          f'{error}; the checkpoint of step {newest} is good, and the same '
          'command resumes from it')
      said.resumes = True
      raise said from error

  def newest(self) -> int | None:
    """Returns the newest step that is not known to be damaged, or None."""
    return max(self._steps() - set(self._damaged), default=None)

  def _steps(self) -> set[int]:
    return {each.step for each in self._orbax.checkpoints}

  def save(self, state: steps.State) -> None:
    """Writes the state and waits until it is on disk.

    Damaged checkpoints that `restore` passed over are removed.

    Raises:
      files.WriteError: it cannot be written; what is there stays as it is.
    """
    step = int(state.step)
    if step == self.newest():
      return
    with _quiet(), _explained(self.folder / str(step)):
      if not self._writes:
        self._writes, reader = True, self._orbax
        self._orbax = self._opened()
        reader.close()
      while self._damaged:
        self._orbax.delete(self._damaged.pop())
      self._orbax.save(step, _as_dict(state), force=True)
      if self._local:
        self._local.push(step, self._steps())

  def restore(self, like: steps.State, step: int | None = None) -> steps.State:
    """Returns the newest state that can be read, or that of `step`.

    Damaged ones that were passed over are told on stderr.

    Args:
      like: a state of the same shapes, dtypes and placement.
      step: which; None is the newest.

    Raises:
      InputError: no such checkpoint, all are damaged, or it holds another
        network.
    """
    if step is None:
      _, parts = self._newest_good(like)
      return like.replace(**parts)
    if step not in self._steps():
      there = ', '.join(map(str, sorted(self._steps()))) or 'none'
      raise InputError(f'no checkpoint of step {step} in {self.folder}; '
                       f'there: {there}')
    try:
      return like.replace(**self._load(step, like))
    except _Damaged as error:
      raise InputError(f'{error}; delete that folder to go on from the one '
                       'before') from error

  def variables(self) -> tuple[int, dict]:
    """Returns the newest step that can be read, and what is evaluated of it.

    Arrays of NumPy, of whatever network it is; see `step.State.variables`.

    Raises:
      InputError: there is no checkpoint, or all are damaged.
    """
    step, parts = self._newest_good(None)
    return step, {'params': parts['params'], **parts['collections'],
                  **parts.get('average', {})}

  def _newest_good(self, like: steps.State | None) -> tuple[int, dict]:
    while (step := self.newest()) is not None:
      try:
        return step, self._load(step, like)
      except _Damaged as error:
        self._damaged.append(step)
        print(f'warning: {error}; passed over', file=sys.stderr)
    if self._damaged:
      names = ' and '.join(map(str, sorted(self._damaged)))
      raise InputError(
          f'no checkpoint in {self.folder} can be read, {names} are damaged; '
          'delete that folder to train from the start')
    raise InputError(f'no checkpoint in {self.folder}; train the run first')

  def _load(self, step: int, like: steps.State | None) -> dict:
    """Returns the parts of a state, as NumPy's arrays if it is like none."""
    try:
      with _quiet():
        saved = self._metadata(step)
        if like is None:
          wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
        else:
          self._check_shapes(like, saved, step)
          wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
              x.shape, x.dtype, sharding=x.sharding), _as_dict(like))
        return self._orbax.load(step, wanted)
    except InputError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
      raise _Damaged(
          f'cannot read the checkpoint {self.folder / str(step)} '
          f'({_reason(error)})') from error

  def _metadata(self, step: int) -> dict:
    metadata = self._orbax.metadata(step).metadata
    if metadata is None:
      raise OSError('its metadata is damaged')
    return metadata

  def _check_shapes(self, like: steps.State, metadata: dict, step: int
                    ) -> None:
    """Says which array differs; Orbax's own message misleads."""
    saved, wanted = _shapes(metadata), _shapes(_as_dict(like))
    for name in sorted(saved.keys() | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise InputError(
            f'the checkpoint {self.folder / str(step)} is of another config: '
            f'{name} is {saved.get(name, "absent")} there and '
            f'{wanted.get(name, "absent")} here')


class _Copies:
  """A local folder for Orbax, and its copy on a store that Orbax cannot reach.

  Each process would need all of the others' files, so there must be but one.
  """

  def __init__(self, remote: Any):
    if jax.process_count() > 1:
      raise InputError(f'{remote}: several processes can share checkpoints on '
                       'gs:// or in a folder that all of them see')
    self._remote = remote
    self._scratch = tempfile.TemporaryDirectory(prefix='deep_oc_')
    self.folder = files.path(self._scratch.name)
    self.steps = set(map(int, files.committed(remote)))
    for step in self.steps:
      files.download(remote / str(step), self.folder / str(step))

  def push(self, step: int, kept: set[int]) -> None:
    """Sends one step, then removes all but those that are kept."""
    files.upload(self.folder / str(step), self._remote / str(step))
    for old in self.steps - kept:
      files.remove(self._remote / str(old))
    self.steps = set(kept)

  def close(self) -> None:
    self._scratch.cleanup()


def _needs_copies(folder: Any) -> bool:
  return files.is_remote(folder) and not str(folder).startswith('gs://')


def _root(folder: Any) -> Any:
  return str(folder) if files.is_remote(folder) else folder.absolute()


def _reason(error: BaseException) -> str:
  """Returns what came first; what Orbax makes of it misleads."""
  while error.__cause__ or error.__context__:
    error = error.__cause__ or error.__context__
  return ' '.join(str(error).split())[:200]


@contextlib.contextmanager
def _explained(what: Any):
  """Says in one line what Orbax and TensorStore raise in many kinds."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    raise files.unwritable(what, error) from error


@contextlib.contextmanager
def _quiet():
  """Keeps Orbax and its tasks from logging what is raised all the same."""
  loggers = logging.getLogger('absl'), logging.getLogger('asyncio')
  before = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  try:
    yield
    loggers[1].setLevel(before[1])  # after an error, its tasks outlive it
  finally:
    loggers[0].setLevel(before[0])


def _as_dict(state: steps.State) -> dict:
  parts = {'step': state.step, 'params': state.params,
           'collections': state.collections, 'opt_state': state.opt_state}
  return parts if state.average is None else parts | {'average': state.average}


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  """Names differ by how a container is kept; compare arrays by plain path."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(
      key, 'idx', key)))) for key in path): tuple(leaf.shape)
          for path, leaf in flat}
