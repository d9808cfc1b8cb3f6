"""How fast a bundle judges: an image alone, and as many as it works on at once.

`python -m deep_oc.benchmark --bundle=FOLDER` prints the table.
"""
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from deep_oc import bundle, progress, step_benchmark
from deep_oc.errors import InputError


def benchmark(folder: str | os.PathLike, rounds: int, seconds: float
              ) -> list[dict[str, object]]:
  """Returns rows of part, value, unit, of random images.

  Args:
    folder: of the bundle.
    rounds: in which the parts take turns.
    seconds: at least so long per part and round, and one call.

  Raises:
    InputError: it is no bundle.
  """
  began = time.perf_counter()
  try:
    found = bundle.load(folder)
    images = np.random.default_rng(0).integers(
        0, 256, (found.batch, *found.image_shape), np.uint8)
    found.judge(images[:1])
  except bundle.BundleError as error:
    raise InputError(str(error)) from error
  first = time.perf_counter() - began
  parts = {'alone': lambda: found.judge(images[:1]),
           'at once': lambda: found.judge(images)}
  if found.localizes and not found.by_maps:
    parts['heat map'] = lambda: found.heat_maps(images[:1])
  taken = _taken(parts, rounds, seconds)
  median = {name: statistics.median(each) for name, each in taken.items()}
  height, width, _ = found.image_shape
  at_once = len(images) / median['at once']
  rows = [
      ('device', f'{jax.device_count()} × {jax.devices()[0].device_kind}', ''),
      ('judges by', f"{found.about['classifier']}, {found.about['feature']}",
       ''),
      ('image', f'{height} × {width}', 'pixels'),
      ('first answer, with compilation', first, 's'),
      ('an image alone, median', 1e3 * median['alone'], 'ms'),
      ('an image alone, 95 % within', 1e3 * float(
          np.quantile(taken['alone'], 0.95)), 'ms'),
      (f'{len(images)} images at once', at_once, 'images/s'),
      ('at once / one after the other', at_once * median['alone'], '×')]
  if 'heat map' in median:
    rows += [('its heat map, median', 1e3 * median['heat map'], 'ms')]
  return [step_benchmark.row(*cells) for cells in [
      *rows, *step_benchmark.peaks()]]


def _taken(parts: dict[str, Callable[[], object]], rounds: int, seconds: float
           ) -> dict[str, list[float]]:
  """Returns the seconds that each call of each part took, but the first."""
  for call in parts.values():
    call()  # compiled
  taken = {name: [] for name in parts}
  for _ in progress.bar(range(rounds), 'rounds', leave=False):
    for name, call in parts.items():
      end = time.perf_counter() + seconds
      while True:
        began = time.perf_counter()
        call()
        taken[name].append(time.perf_counter() - began)
        if time.perf_counter() >= end:
          break
  return taken
