"""What a run tells while it goes: metrics.jsonl, TensorBoard, a bar."""
import json
import os
import pathlib
from collections.abc import Mapping

import tensorboardX

from deep_oc import files
from deep_oc.errors import InputError


class Metrics:
  """Appends rows to `metrics.jsonl` and to `tensorboard/`.

  A resumed run first drops the rows that came after its checkpoint, so that
  each step stands there once.
  """

  def __init__(self, workdir: str | os.PathLike, step: int):
    self.path = pathlib.Path(workdir) / 'metrics.jsonl'
    self._keep(step)
    try:
      self._file = self.path.open('a', encoding='utf-8')
      self._board = tensorboardX.SummaryWriter(
          str(self.path.parent / 'tensorboard'), purge_step=step + 1)
    except OSError as error:
      raise InputError(f'cannot write {self.path}: {error.strerror}'
                       ) from error

  def __enter__(self) -> 'Metrics':
    return self

  def __exit__(self, *_) -> None:
    self._file.close()
    self._board.close()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one row."""
    row = {'step': step, **{name: float(f'{value:.6g}')
                            for name, value in metrics.items()}}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, value in metrics.items():
      self._board.add_scalar(name, value, step)

  def _keep(self, step: int) -> None:
    if not self.path.exists():
      return
    lines = self.path.read_text(encoding='utf-8').splitlines(keepends=True)
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
      with files.replacing(self.path) as file:
        file.writelines(kept)


def _step(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')  # half a line, from a crash
