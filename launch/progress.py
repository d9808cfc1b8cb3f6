"""How far runs are, read from their folders, and the table that shows it."""
import datetime
import json
import pathlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import rich.console
import rich.live
import rich.table

from deep_oc import files

_TAIL = 4096  # bytes at the end of metrics.jsonl: some rows
_WORDS = 5 * 60  # seconds between lines where there is no terminal
_ORDER = ('running', 'failed', 'queued', 'done')


class Progress(NamedTuple):
  """The last row of a run's metrics; None is not known yet."""
  step: int = 0
  loss: float | None = None
  rate: float | None = None  # steps per second

  def left(self, total: int | None) -> float | None:
    """Returns the seconds to step `total`."""
    return (total - self.step) / self.rate if total and self.rate else None


def read(workdir: str) -> Progress:
  """Returns how far the run in a folder is, step 0 if there is none."""
  path = f'{workdir}/metrics.jsonl'
  if not files.exists(path):
    return Progress()
  try:
    with files.path(path).open('rb') as file:
      file.seek(max(file.seek(0, 2) - _TAIL, 0))
      lines = file.read().split(b'\n')[:-1]  # the last may be half a line
    row = json.loads(lines[-1])
    return Progress(row['step'], row['loss'], row['steps_per_second'])
  except (OSError, ValueError, IndexError, KeyError, TypeError):
    return Progress()


def checkpoint(workdir: str) -> int:
  """Returns the step that a run would resume at."""
  folder = f'{workdir}/checkpoints'
  names = (files.committed(folder) if files.is_remote(workdir) else
           [each.name for each in files.path(folder).glob('*')])
  return max((int(name) for name in names if name.isdecimal()), default=0)


def total(log: str) -> int | None:
  """Returns the number of steps that `train` said it would take."""
  try:
    said = re.findall(r'training images, (\d+) steps on',
                      pathlib.Path(log).read_text(encoding='utf-8'))
  except (OSError, UnicodeDecodeError):
    return None
  return int(said[-1]) if said else None


def duration(seconds: float | None) -> str:
  """Returns h:mm:ss, '' if it is not known."""
  if seconds is None:
    return ''
  return str(datetime.timedelta(seconds=round(seconds)))


def console() -> rich.console.Console:
  """Returns a console, as wide as it takes where there is no terminal."""
  return rich.console.Console(
      width=None if sys.stdout.isatty() else 200, highlight=False)


class Board:
  """Shows jobs: a table in a terminal, and elsewhere a line per event.

  A context manager.

  Args:
    workdirs: of the jobs, by their names.
    logs: files of their output, by their names.
  """

  def __init__(self, workdirs: Mapping[str, str], logs: Mapping[str, str]):
    self._workdirs, self._logs = workdirs, logs
    self.states = {name: ('queued', '') for name in workdirs}
    self._console = console()
    self._live = rich.live.Live(console=self._console, auto_refresh=False)
    self._told = time.monotonic()

  def __enter__(self) -> 'Board':
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_) -> None:
    self._live.stop()

  def update(self, name: str, state: str, note: str) -> None:
    """Takes an event; one that says nothing new is not shown."""
    if self.states[name] == (state, note):
      return
    self.states[name] = state, note
    if not self._console.is_terminal:
      self._say(f'{name}: {state}' + f' ({note})' * bool(note))

  def refresh(self) -> None:
    """Reads how far the runs are and shows it."""
    if self._console.is_terminal:
      self._live.update(self._table(), refresh=True)
    elif time.monotonic() - self._told > _WORDS:
      self._told = time.monotonic()
      for name, (_, step, loss, rate, left) in self._rows():
        if self.states[name][0] == 'running':
          self._say(f'{name}: step {step}, loss {loss}, {rate} steps/s, {left} '
                    'left' if step else f'{name}: begins')

  def _say(self, line: str) -> None:
    self._console.print(f'{datetime.datetime.now():%H:%M:%S} {line}',
                        markup=False, soft_wrap=True)

  def _table(self) -> rich.table.Table:
    states = [state for state, _ in self.states.values()]
    counts = [f'{states.count(state)} {state}' for state in _ORDER
              if state in states]
    return table(('run', 'state', 'step', 'loss', 'steps/s', 'left'),
                 [(name, *cells) for name, cells in self._rows()],
                 caption=', '.join(counts))

  def _rows(self) -> list[tuple[str, Sequence[str]]]:
    names = sorted(self.states, key=lambda name: _ORDER.index(
        self.states[name][0]))  # a terminal may be too low for all
    return [(name, self._cells(name)) for name in names]

  def _cells(self, name: str) -> Sequence[str]:
    state, note = self.states[name]
    shown = f'{state} ({note})' if note else state
    now, steps = read(self._workdirs[name]), total(self._logs[name])
    if not now.step:
      return shown, '', '', '', ''
    left = now.left(steps) if state == 'running' else None
    return (shown, f'{now.step} / {steps or "?"}', f'{now.loss:.4f}',
            f'{now.rate:.1f}', duration(left))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]],
          caption: str | None = None) -> rich.table.Table:
  """Returns a table, numbers to the right."""
  drawn = rich.table.Table(caption=caption, box=None, caption_justify='left')
  for column in columns:
    drawn.add_column(column, justify='left' if column in ('run', 'state')
                     else 'right', overflow='fold')
  for row in rows:
    drawn.add_row(*row)
  return drawn
