"""Whole states on disk, written by Orbax, the newest two kept."""
import contextlib
import logging
import os
import pathlib

import jax
from orbax.checkpoint import v1 as ocp

from deep_oc import step as steps
from deep_oc.errors import InputError


class Checkpoints:
  """The checkpoints of one run, in `<workdir>/checkpoints/<step>`.

  A context manager. Orbax writes aside
  and renames, so that a crash leaves no half checkpoint.
  """

  def __init__(self, workdir: str | os.PathLike):
    self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._orbax = ocp.training.Checkpointer(
        self.folder, cleanup_tmp_directories=True,
        preservation_policy=ocp.training.preservation_policies.LatestN(2))

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self._orbax.close()

  def newest(self) -> int | None:
    """Returns the step of the newest checkpoint, None if there is none."""
    return self._orbax.latest.step if self._orbax.latest else None

  def save(self, state: steps.State) -> None:
    """Writes the state and waits until it is on disk."""
    step = int(state.step)
    if step != self.newest():
      self._orbax.save(step, _as_dict(state), force=True)

  def restore(self, like: steps.State, step: int | None = None) -> steps.State:
    """Returns the newest state, or that of `step`.

    Args:
      like: a state of the same shapes, dtypes and placement.
      step: which; None is the newest.

    Raises:
      InputError: no such checkpoint, it is damaged, or it holds another
        network.
    """
    step = self.newest() if step is None else step
    if step is None:
      raise InputError(f'no checkpoint in {self.folder}; train the run first')
    try:
      with _quiet():
        self._check_shapes(like, step)
        restored = self._orbax.load(step, jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=x.sharding), _as_dict(like)))
    except InputError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
      raise InputError(
          f'cannot read the checkpoint {self.folder / str(step)}; delete that '
          'folder to go on from the one before '
          f'({str(error)[:200]})') from error
    return like.replace(**restored)

  def _check_shapes(self, like: steps.State, step: int) -> None:
    """Says which array differs; Orbax's own message misleads."""
    metadata = self._orbax.metadata(step).metadata
    if metadata is None:
      raise OSError('its metadata is damaged')
    saved = _shapes(metadata)
    wanted = _shapes(_as_dict(like))
    for name in sorted(saved.keys() | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise InputError(
            f'the checkpoint {self.folder / str(step)} is of another config: '
            f'{name} is {saved.get(name, "absent")} there and '
            f'{wanted.get(name, "absent")} here')


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
  return {'step': state.step, 'params': state.params,
          'collections': state.collections, 'opt_state': state.opt_state}


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  """Names differ by how a container is kept; compare arrays by plain path."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(
      key, 'idx', key)))) for key in path): tuple(leaf.shape)
          for path, leaf in flat}
