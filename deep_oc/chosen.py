"""Which images to explain: the most anomalous, and the worst mistakes."""
import heapq
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from deep_oc import (attributions, detector, differentiable, photos, pictures,
                     protocols, unseen)
from deep_oc.errors import InputError

_GIVEN = 'given'


class Chosen(NamedTuple):
  """An image to explain.

  Attributes:
    pixels: u8[h, w, 3].
    name: of its picture, without suffix, with '/' for folders.
    path: the file, or '' where there is none.
    why: it was chosen.
    index: in the data set's test split; '' of other images.
    kind: its class; '' if not known.
    anomaly: '1', '0', or '' if not known.
    mask: bool[h, w], None if not known.
  """
  pixels: np.ndarray
  name: str
  path: str
  why: str
  index: str = ''
  kind: str = ''
  anomaly: str = ''
  mask: np.ndarray | None = None

  def title(self) -> str:
    """Returns what a picture of it is called."""
    if not self.index:
      return self.path
    return f'{self.kind}, test image {self.index}' + (
        f'  {self.path}' if self.path else '')

  def reason(self) -> str:
    """Returns what its picture says of why, '' if all that were given are."""
    return '' if self.why == _GIVEN else f'. Chosen as: {self.why}'


def choose(scores: np.ndarray, anomaly: np.ndarray, count: int
           ) -> list[tuple[int, str]]:
  """Returns up to `count` indices of f[n], each with why.

  Of four, two are the anomalies of the highest scores, one the normal image of
  the highest, a false alarm, and one the anomaly of the lowest, missed.
  """
  order = np.argsort(-scores, kind='stable')
  anomalous, normal = order[anomaly[order]], order[~anomaly[order]]
  kinds = [(anomalous, 'anomaly, highest scores'),
           (normal, 'normal, highest scores'),
           (anomalous, 'anomaly, highest scores'),
           (anomalous[::-1], 'anomaly, lowest scores')]
  waiting, found = [iter(rows.tolist()) for rows, _ in kinds], {}
  waiting[2] = waiting[0]
  for (_, why), rows in itertools.cycle(zip(kinds, waiting, strict=True)):
    if len(found) == min(count, len(scores)):
      break
    row = next((each for each in rows if each not in found), None)
    if row is not None:
      found[row] = why
  return sorted(found.items(), key=lambda item: [
      why for _, why in kinds].index(item[1]))


def of_test(problem: protocols.Problem, scores: np.ndarray, count: int
            ) -> list[Chosen]:
  """Returns test images to explain, by their scores f[n]."""
  test, found = problem.test, []
  for rank, (row, why) in enumerate(choose(scores, test.anomaly, count)):
    kind = problem.class_names[test.label[row]]
    index = str(problem.test_index[row])
    [name] = pictures.file_names([f'{rank:03d}_{kind}_{index}'])
    found.append(Chosen(
        test.image[row], name, '' if test.path is None else
        str(test.path[row]), why, index, kind, str(int(test.anomaly[row])),
        None if test.mask is None else test.mask[row]))
  return found


def of_files(images: unseen.Found, found: detector.Detector, count: int,
             own: differentiable.Score | None = None
             ) -> tuple[list[Chosen], photos.Tally]:
  """Scores files and returns the most anomalous, and what was found.

  By the detector's scores, or by the task's own.
  """
  top, order = [], itertools.count()

  def take(paths, pixels, judged, _):
    scores = judged.score if own is None else attributions.values(
        own, np.float32(pixels) / 255)
    for path, image, score in zip(paths, pixels, scores, strict=True):
      heapq.heappush(top, (float(score), -next(order), path, image))
      if len(top) > count:
        heapq.heappop(top)

  tally = photos.score(found, images.paths, take)
  if not top:
    raise InputError(f'none of {len(images.paths)} images could be read; the '
                     f'first: {tally.unreadable[0][1]}')
  why = 'highest scores' if tally.scored > len(top) else _GIVEN
  return [Chosen(image, pathlib.Path(path).relative_to(images.root).as_posix(),
                 path, why)
          for _, _, path, image in sorted(top, reverse=True)], tally
