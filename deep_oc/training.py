"""What one run trained alone and several trained together have in common.

How often they are told of, what stops them, and what they end with.
"""
from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import tqdm
from absl import logging

from deep_oc import (data, distributed, experiment, features, localize, logs,
                     monitor, protocols, runs, step, weights)
from deep_oc.errors import InputError

SAVE = 15 * 60  # seconds; so much is lost at most by one process alone
TELL = 60  # seconds between lines where there is no terminal

_PROBES = 256  # training images whose features are watched


def load(arguments: Mapping[str, Any]) -> data.Split:
  """Returns the images of `data.load`, and says what there is to note.

  Only who trains on them can act on it; who reads them again has read it.
  """
  split = data.load(**arguments)
  for note in split.notes:
    logging.warning('%s', note)
  return split


def check(config: ml_collections.ConfigDict, pretext: nn.Module,
          images: np.ndarray) -> step.State:
  """Returns the shapes of a run's state, which take a trace of its network.

  Raises:
    InputError: task, encoder or heat maps do not fit u8[n, h, w, c].
  """
  localize.check(config, pretext, images.shape[1:])
  return experiment.state_like(config, pretext, images.shape[1:])


def begins_with(config: ml_collections.ConfigDict, pretext: nn.Module,
                like: step.State, workdir: str) -> weights.Weights | None:
  """Returns what a run begins with, and says so; None if with nothing.

  Nor is there anything once it has a checkpoint.

  Raises:
    InputError: that is not there, or of another encoder.
  """
  if runs.has_checkpoints(workdir):
    return None
  found = weights.read(config, pretext, like)
  if found and distributed.is_first():
    print(found)
  return found


def watched(look: Callable, state: step.State, problem: protocols.Problem
            ) -> dict[str, float]:
  """Returns what `monitor` says of the features of some training images.

  Args:
    look: from `features.embedder`.
    state: of the run.
    problem: its images.
  """
  return monitor.statistics(
      look(state.variables, problem.train.image[:_PROBES])['pool'])


def report(now: int, total: int, means: Mapping[str, float], watch: bool,
           log: logs.Metrics, bar: tqdm.tqdm, name: str = '') -> None:
  """Logs the metrics of a run, which has a name if it is one of several."""
  name = f'{name}: ' * bool(name)
  if watch:
    for warning in monitor.warnings(means, now / total):
      tqdm.tqdm.write(f'warning: {name}step {now}: {warning}')
  log.write(now, means)
  bar.set_postfix_str(f"loss {means['loss']:.4f}")
  if bar.disable and watch:  # no terminal: a line now and then instead
    print(f"{name}{line(now, total, means['steps_per_second'])}  loss "
          f"{means['loss']:.4f}", flush=True)


def announce(config: ml_collections.ConfigDict, problem: protocols.Problem,
             workdir: str, images: int, start: int, total: int) -> None:
  """Prints what is going to be trained, where, and from which step on."""
  devices = jax.devices()
  print(f'{config.experiment}: {config.method} on {problem.dataset}, normal '
        f'= {problem.normal_name} ({problem.normal_class}), seed '
        f'{config.seed}; {images} training images, {total} steps on '
        f'{len(devices)} × {devices[0].device_kind}; {workdir}')
  held_out = len(problem.calibration)
  if held_out:
    print(f'{held_out} normal images are held out, to calibrate false-alarm '
          f'rates from {100 / (1 + held_out):.3g} % on')
  if start:
    print(f'resuming at step {start} of {total}')


class Pace:
  """How many steps a second there are, and when that was told last."""

  def __init__(self, step: int):
    self.restart(step)
    self._told = self._since

  def restart(self, step: int) -> None:
    """Counts from this step on, and from now."""
    self._step, self._since = step, time.perf_counter()

  def rate(self, step: int) -> float:
    """Returns the steps per second, `step` being done now."""
    return (step - self._step) / (time.perf_counter() - self._since)

  def silent(self) -> bool:
    """Tells, once, that for `TELL` seconds nothing was told."""
    if time.perf_counter() - self._told <= TELL:
      return False
    self.told()
    return True

  def told(self) -> None:
    """Notes that something was told now."""
    self._told = time.perf_counter()


def line(now: int, total: int, rate: float) -> str:
  """Returns how far a run is."""
  left = datetime.timedelta(seconds=round((total - now) / rate))
  digits = 1 if rate > 1 else 4
  return f'step {now} of {total}  {rate:.{digits}f} steps/s  {left} left'


def due(every: int, now: int, count: int) -> bool:
  """Tells whether one of the last `count` steps up to `now` was to be so."""
  return now % every < count


def keep_up(rows: list[dict[str, jax.Array]]) -> None:
  """Waits for the dispatch before the last one of the train step.

  So that not more than two are under way: a signal is heeded soon, and what is
  told is done. The device has work meanwhile.
  """
  if len(rows) > 1:
    jax.block_until_ready(rows[-2])


def mean(rows: list[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
  """Returns the mean over steps of each metric f32[k, ...], f64[...]."""
  rows = jax.device_get(rows)
  return {name: np.concatenate([row[name] for row in rows]).mean(
      0, dtype=np.float64) for name in rows[0]}


def export(workdir: str, config: ml_collections.ConfigDict,
           problem: protocols.Problem, pretext: nn.Module, state: step.State
           ) -> None:
  """Writes what stage 2 reads: embeddings, and heat maps if there are any."""
  features.export(workdir, config, problem, pretext, state)
  if config.get('localize'):
    localize.export(workdir, config, problem, pretext, state)


def check_loss(loss: float, now: int, workdir: str) -> None:
  """Raises InputError if the loss is no number any more."""
  if not np.isfinite(loss):
    raise InputError(
        f'the loss became {loss} before step {now}; the last good checkpoint '
        f'stays in {workdir}; lower optimizer.learning_rate')


def check_state(state: step.State, workdir: str) -> None:
  """Raises InputError if no step could follow, so that none is saved so."""
  if not step.finite(state):
    raise InputError(
        f'a parameter or its velocity became infinite by step '
        f'{int(state.step)}, which is not saved; what was saved before stays '
        f'in {workdir}; lower optimizer.learning_rate')
