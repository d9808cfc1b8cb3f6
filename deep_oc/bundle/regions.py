"""Where a heat map says that something is wrong: its regions.

An image is judged by the largest value of its map, and anomalous if that is
above the threshold. So an image is anomalous if it has a region, and of normal
images no more have one than the false-alarm rate says.
"""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLUMNS = ('path', 'region', 'x', 'y', 'width', 'height', 'area', 'peak')


class Region(NamedTuple):
  """Pixels above the threshold that touch, corners included.

  Attributes:
    left, top, width, height: of the smallest rectangle around them, as shares
      of the image's width and height.
    area: as a share of the image's.
    peak: the largest score.
  """
  left: float
  top: float
  width: float
  height: float
  area: float
  peak: float


def above(heat: np.ndarray, threshold: float) -> np.ndarray:
  """Maps scores f[h, w] to bool[h, w]."""
  return np.asarray(heat, float) > threshold  # which would be rounded to f32


def find(heat: np.ndarray, threshold: float) -> list[Region]:
  """Returns the regions of a map f[h, w] of scores, the highest peak first."""
  from scipy import ndimage  # that JAX comes with; the service starts without
  label, _ = ndimage.label(above(heat, threshold), np.ones((3, 3)))
  found = []
  for number, (rows, columns) in enumerate(ndimage.find_objects(label), 1):
    member = label[rows, columns] == number
    found.append(Region(
        columns.start / heat.shape[1], rows.start / heat.shape[0],
        member.shape[1] / heat.shape[1], member.shape[0] / heat.shape[0],
        float(member.sum() / heat.size),
        float(heat[rows, columns][member].max())))
  return sorted(found, key=lambda region: -region.peak)


def rows(path: str, found: list[Region], size: tuple[int, int]
         ) -> Iterator[tuple]:
  """Yields a row of COLUMNS for each region.

  Args:
    path: of the picture.
    found: its regions.
    size: its width and height; the rectangles are in its pixels, rounded
      outward, the area in percent.
  """
  for number, region in enumerate(found, 1):
    x, y = region.left * size[0], region.top * size[1]
    ends = (x + region.width * size[0], y + region.height * size[1])
    # Less than a thousandth of a pixel is rounding.
    x, y = (int(np.floor(each + 1e-3)) for each in (x, y))
    ends = [int(np.ceil(each - 1e-3)) for each in ends]
    yield (path, number, x, y, ends[0] - x, ends[1] - y,
           f'{100 * region.area:.4g}', f'{region.peak:.9g}')
