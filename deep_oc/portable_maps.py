"""Heat maps as programs and arrays, for a bundle.

Both methods end alike: scores on a grid, spread over the pixels by a matrix for
rows and one for columns.
"""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from deep_oc import densities, gradcam, maps, programs, windows
from deep_oc.errors import InputError


class Portable(NamedTuple):
  """What a bundle has of `Detector.heat_maps`.

  Attributes:
    programs: 'map', of images or windows to features, and 'heat', of these to
      scores.
    enlarge: `rows` f64[h, gh] and `columns` f64[w, gw]; of windows, also where
      they begin, `top` and `left`.
    about: what bundle.json says of the windows.
  """
  programs: dict[str, programs.Program]
  enlarge: programs.Arrays
  about: dict[str, Any]


def portable(fitted: maps.Windows | maps.GradCam, pretext: nn.Module,
             variables: Mapping[str, Any], shape: tuple[int, int, int]
             ) -> Portable:
  """Returns heat maps of images of shape h, w, c.

  Raises:
    InputError: the densities cannot be exported.
  """
  make = _grad_cam if isinstance(fitted, maps.GradCam) else _windows
  return make(fitted, pretext, variables, shape)


def _grad_cam(fitted, pretext, variables, shape):
  seen = programs.network(
      lambda variables, image: windows.feature_map(pretext, variables, image),
      variables, shape)
  height, width = (
      _matrix(lambda heat, n=n: gradcam.resize(heat, n, 1), cells)
      for n, cells in zip(shape[:2], seen.shape[:2], strict=True))
  return Portable(
      {'map': seen, 'heat': programs.heat(fitted.density_, seen.shape)},
      {'rows': height, 'columns': width}, {})


def _windows(fitted, pretext, variables, shape):
  if not isinstance(fitted.density_, densities.SharedDensity):
    raise InputError('a density for each position cannot be exported; '
                     "localize.positions='shared' can")
  if getattr(pretext, 'crop', 0):
    pretext = pretext.clone(crop=0)  # a window is an image of its own
  side, stride = fitted.side, fitted.stride
  seen = programs.network(
      programs.pooled(pretext), variables, (side, side, shape[2]))
  top, left = (windows.starts(n, side, stride) for n in shape[:2])
  rows, columns = (
      _matrix(lambda score, n=n: windows.upsample(
          score, n, side, side, stride, fitted.sigma), len(begin))
      for n, begin in ((shape[0], top), (shape[1], left)))
  heat = programs.classifier([fitted.density_.density_], *seen.shape)
  return Portable({'map': seen, 'heat': heat},
                  {'rows': rows, 'columns': columns, 'top': top, 'left': left},
                  {'window': side})


def _matrix(enlarge: Callable[[np.ndarray], np.ndarray], cells: int
            ) -> np.ndarray:
  """Returns f64[n, g] of a function that is linear in a column f64[1, g, 1]."""
  return enlarge(np.eye(cells)[:, :, None])[:, :, 0].T
