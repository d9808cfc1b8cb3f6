"""Photos of one's own, scored some at a time, however many there are."""
import collections
import concurrent.futures
import hashlib
import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tqdm

from deep_oc import detector, progress
from deep_oc.errors import InputError

_THREADS = 2  # that decode
_SHOWN = 5  # of the most anomalous


class Tally:
  """What has been found so far.

  Attributes:
    scored, anomalous: how many images.
    unreadable: path and reason of each that could not be read.
    calibrating: paths of those that calibrate, too, as they are or as copies.
    top: (score, p-value, path) of the most anomalous.
    seconds: it took.
  """

  def __init__(self):
    self.seconds = 0.
    self.scored = self.anomalous = 0
    self.unreadable: list[tuple[str, str]] = []
    self.calibrating: list[str] = []
    self.top: list[tuple[float, float, str]] = []

  def add(self, paths: Sequence[str], judged: detector.Judged) -> None:
    """Counts what was scored."""
    self.scored += len(paths)
    self.anomalous += int(judged.anomalous.sum())
    self.top = heapq.nlargest(_SHOWN, [*self.top, *zip(
        judged.score.tolist(), judged.p_value.tolist(), paths, strict=True)])


def score(found: detector.Detector, paths: list[str],
          take: Callable[[Sequence[str], np.ndarray, detector.Judged,
                          np.ndarray | None], None]) -> Tally:
  """Scores files and hands them on, some at a time.

  Args:
    found: what scores.
    paths: of the files.
    take: called with paths, images u8[n, h, w, 3], what is said of them, and
      the heat maps f32[n, h, w] that it is said by, or None.
  """
  tally, since = Tally(), time.monotonic()
  others = found.parts().others
  calibrating = set(map(_digest, () if others is None else others))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool, progress.bar(
      total=len(paths), desc='predict', unit='images') as bar:
    readings = _ahead(pool, _reader(found), paths, found.chunk)
    for batch in detector.batched(readings, found.chunk):
      bad = [(path, error) for path, _, error in batch if error]
      for _, error in bad:
        tqdm.tqdm.write(f'skipped: {shown(error)}', sys.stderr)
      tally.unreadable += bad
      good = [(path, image) for path, image, error in batch if not error]
      if good:
        names, images = zip(*good, strict=True)
        images = np.stack(images)
        maps = (found.heat_maps(images) if found.feature == detector.WINDOWS
                else None)
        judged = (found.judge(images) if maps is None else
                  found.judge_maps(maps))
        take(names, images, judged, maps)
        tally.add(names, judged)
        tally.calibrating += [path for path, image in good if calibrating
                              and _digest(image) in calibrating]
      bar.update(len(batch))
  tally.seconds = time.monotonic() - since
  return tally


def _reader(found):
  """Returns path -> path, u8[h, w, 3] or None, and what is wrong or ''."""
  def read(path):
    try:
      return path, found.prepare(path), ''
    except InputError as error:
      return path, None, str(error)
  return read


def _digest(image: np.ndarray) -> bytes:
  return hashlib.sha256(image.tobytes()).digest()


def _ahead(pool: concurrent.futures.Executor, function: Callable,
           values: Iterable, count: int) -> Iterator:
  """Yields the function of each value, in order, `count` of them ahead."""
  pending = collections.deque()
  for value in values:
    pending.append(pool.submit(function, value))
    if len(pending) > count:
      yield pending.popleft().result()
  while pending:
    yield pending.popleft().result()


def shown(text: str) -> str:
  """Returns one line that any terminal can print."""
  return ''.join(each if each.isprintable() else '?' for each in text)
