"""What a run tells while it goes: metrics.jsonl and TensorBoard."""
import contextlib
import json
import time
from collections.abc import Mapping

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from deep_oc import files


class Metrics:
  """Appends rows to `metrics.jsonl` and to `tensorboard/`.

  A resumed run first drops the rows that came after its checkpoint, so that
  each step stands there once. Objects cannot be appended to: on a store the
  file is written by `flush`, before each checkpoint, and TensorBoard left out.

  Raises:
    files.WriteError: the folder cannot be written to, or the disk is full.
  """

  def __init__(self, workdir: object, step: int):
    self.path = files.path(workdir) / 'metrics.jsonl'
    self._remote = files.is_remote(workdir)
    self._lines = self._keep(step)
    self._board = None if self._remote else _Board(
        self.path.parent / 'tensorboard', step)

  def __enter__(self) -> 'Metrics':
    return self

  def __exit__(self, *_) -> None:
    if self._board:
      self._board.close()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one row."""
    row = {'step': step, **{name: float(f'{value:.6g}')
                            for name, value in metrics.items()}}
    line = json.dumps(row) + '\n'
    if self._remote:
      self._lines.append(line)
      return
    try:
      with self.path.open('a', encoding='utf-8') as file:
        file.write(line)
    except OSError as error:
      raise files.unwritable(self.path, error) from error
    self._board.write(step, metrics)

  def flush(self) -> None:
    """Sends the rows to a store; on disk they are there already."""
    if self._remote:
      with files.replacing(self.path) as file:
        file.writelines(self._lines)

  def _keep(self, step: int) -> list[str]:
    if not files.exists(self.path):
      return []
    lines = self.path.read_text(encoding='utf-8').splitlines(keepends=True)
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
      with files.replacing(self.path) as file:
        file.writelines(kept)
    return kept


class _Board:
  """TensorBoard's file, written in this thread.

  That of tensorboardX dies when the disk is full, and all would wait for it.
  """

  def __init__(self, folder, step):
    self._folder = folder
    with self._explained():
      folder.mkdir(parents=True, exist_ok=True)
      self._file = event_file_writer.EventsWriter(str(folder / 'events'))
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._file.write_event(event_pb2.Event(  # hides what came after
          step=step + 1, wall_time=time.time(), session_log=start))

  def write(self, step, metrics):
    with self._explained():
      for name, value in metrics.items():
        self._file.write_event(event_pb2.Event(
            step=step, wall_time=time.time(),
            summary=summary.scalar(name, value)))
      self._file.flush()

  def close(self):
    with contextlib.suppress(OSError):  # after an error it is tried again
      self._file.close()

  @contextlib.contextmanager
  def _explained(self):
    try:
      yield
    except OSError as error:
      raise files.unwritable(self._folder, error) from error


def _step(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')  # half a line, from a crash
