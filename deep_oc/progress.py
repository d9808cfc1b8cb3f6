"""How far slow work has come: a bar in a terminal, else a line now and then."""
import sys
from collections.abc import Collection

import tqdm

_EVERY = 10  # seconds between lines
_LINE = '{desc}: {n_fmt} of {total_fmt} {unit}  {rate_fmt}  {remaining} left'


class _Lines:
  """Writes to stderr what is more than the moves of a cursor."""

  def write(self, text: str) -> None:
    if text.strip():
      print(text.strip(), file=sys.stderr, flush=True)

  def flush(self) -> None:
    pass


def bar(*args, **options) -> tqdm.tqdm:
  """Returns a bar as `tqdm.tqdm` does; in a file it is a line each time."""
  if not sys.stderr.isatty():
    options |= dict(file=_Lines(), mininterval=_EVERY, delay=_EVERY, position=0,
                    leave=False, bar_format=_LINE)
  return tqdm.tqdm(*args, **options)


def batches(each: Collection, description: str | None) -> tqdm.tqdm:
  """Returns a bar over batches, which shows nothing without a description."""
  return bar(each, description, unit='batches', leave=False,
             disable=not description)
