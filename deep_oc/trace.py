"""Where the time of a computation goes: its operations, by JAX's profiler."""
import collections
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator

import jax

COLUMNS = ('operation', 'calls', 'µs', 'share')


def operations(call: Callable[[], object], work: int = 1
               ) -> list[dict[str, object]]:
  """Runs a call under the profiler and returns a row for each operation.

  On a GPU operations are kernels, elsewhere XLA's. Those that run at the same
  time all count, so that the first row, their sum, may exceed the time taken.
  On a CPU the parts of one that was interrupted count one by one.

  Args:
    call: compiled and warm.
    work: what its numbers are divided by, the steps of a dispatch.

  Returns:
    Rows of COLUMNS, the longest first; `share` is of the sum, in percent.
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(call())
    path, = pathlib.Path(folder).rglob('*.xplane.pb')
    events = list(_events(jax.profiler.ProfileData.from_file(str(path))))
  calls, spent = collections.Counter(), collections.Counter()
  for event in events:
    calls[event.name] += 1
    spent[event.name] += event.duration_ns
  total = sum(spent.values())
  rows = [(name, calls[name] / work, duration / 1e3 / work,
           100 * duration / total) for name, duration in spent.most_common()]
  rows.insert(0, ('all', sum(calls.values()) / work, total / 1e3 / work, 100.))
  return [dict(zip(COLUMNS, (
      name, f'{count:.4g}', f'{duration:.4g}', f'{share:.3g}'), strict=True))
          for name, count, duration, share in rows]


def _events(profile: jax.profiler.ProfileData) -> Iterator:
  """Yields what ran for an operation of a compiled program."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # JAX's own, of stats
    for plane in profile.planes:
      for line in plane.lines:
        if plane.name.startswith('/device:GPU') and not line.name.startswith(
            'Stream'):
          continue  # the same again, by what it belongs to
        for event in line.events:
          if 'hlo_op' in dict(event.stats):
            yield event
