"""Why a heat map is high: its highest places, and the normal ones like them.

Of a map by one density that all places share. Places are as `maps.Grid` has
them, positions of a grid; where they lie is told as shares of the image's width
and height, whose product with a photo's are its pixels.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deep_oc import explainer, maps

APART = 1 / 8  # of the image's longer side; the highest lie further apart


class Near(NamedTuple):
  """A normal place.

  Attributes:
    image: which one it is of.
    x, y: its middle.
    distance: of the features.
  """
  image: int
  x: float
  y: float
  distance: float


class Place(NamedTuple):
  """A place of an image that is explained.

  Attributes:
    x, y: its middle.
    score: of the density, higher = more anomalous.
    near: the normal places most like it, of each image the nearest, and the
      nearest of these first.
  """
  x: float
  y: float
  score: float
  near: Sequence[Near]


def have(method: maps.Method) -> bool:
  """Tells whether a method has places, which share a density."""
  return isinstance(method, maps.Grid) and method.positions == 'shared'


def explain(method: maps.Grid, fitted: np.ndarray, image: np.ndarray,
            score: np.ndarray, most: int, count: int) -> list[Place]:
  """Returns the highest places of u8[h, w, c], the highest first.

  Args:
    method: fitted; see `have`.
    fitted: of each image that it was fitted to, what `Near.image` says, i[n].
    image: u8[h, w, c].
    score: of its places, f[gh, gw], by `method.scores`.
    most: how many places, at most.
    count: of the normal places most like each.
  """
  shape = image.shape[:2]
  middles, numbers = method.middles(*shape), method.grid(*shape)
  top = highest(score, *middles, APART * max(shape), most)
  feature = method.features(image[None], np.array(
      [(0, numbers[0][row], numbers[1][column]) for row, column in top]))
  normal = method.normal_
  distance, near = explainer.nearest(
      normal.feature, feature, len(normal.feature),
      explainer.is_cosine(method.density_.density_))
  row, column = (np.searchsorted(number, of_normal) for number, of_normal
                 in zip(numbers, normal.place[:, 1:].T, strict=True))
  y, x = (middle / length for middle, length in zip(
      middles, shape, strict=True))
  return [Place(float(x[top[k, 1]]), float(y[top[k, 0]]),
                float(score[tuple(top[k])]), [
      Near(int(fitted[normal.place[i, 0]]), float(x[column[i]]),
           float(y[row[i]]), float(distance[k, first]))
      for first, i in _firsts(near[k], normal.place[:, 0], count)])
          for k in range(len(top))]


def _firsts(order, image, count):
  """Yields where in the order of rows each image comes first, and the row."""
  _, first = np.unique(image[order], return_index=True)
  for each in np.sort(first)[:count]:
    yield each, order[each]


def highest(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray,
            apart: float, most: int) -> np.ndarray:
  """Returns row and column of the highest of f[gh, gw], i64[k, 2].

  Each is the highest of those that are at least so far from the ones before,
  along the rows or the columns.

  Args:
    grid: scores.
    rows, columns: where they lie, f[gh] and f[gw].
    apart: how far from each other, at least.
    most: how many.
  """
  left, found = np.array(grid, float), []
  while len(found) < most and np.isfinite(left).any():
    row, column = np.unravel_index(np.argmax(left), left.shape)
    found.append((row, column))
    left[np.ix_(np.abs(rows - rows[row]) < apart,
                np.abs(columns - columns[column]) < apart)] = -np.inf
  return np.array(found)
