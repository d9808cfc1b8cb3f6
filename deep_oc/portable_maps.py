"""Heat maps as programs and arrays, for a bundle.

All end alike: scores on a grid, spread over the pixels by a matrix for rows and
one for columns; and of windows of several sizes the maps are multiplied.
"""
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from deep_oc import (densities, detector, gradcam, maps, pretexts, programs,
                     windows)
from deep_oc.errors import InputError

_MOST = 2**31  # bytes of densities for each position


class Portable(NamedTuple):
  """What a bundle has of `Detector.heat_maps`, of one size of windows.

  Attributes:
    seen: the program of images or windows to features.
    heat: of these to scores; None if they are scores.
    enlarge: `rows` f64[h, gh] and `columns` f64[w, gw]; of windows, also where
      they begin, `top` and `left`.
    maps: f32[m, h, w], by the trainer's code, of the images to compare.
    window: the side of windows that are passed each by itself, or None.
    positions: as `maps.Windows` has it, None of Grad-CAM.
    suffix: of the names of programs and files.
  """
  seen: programs.Program
  heat: programs.Program | None
  enlarge: programs.Arrays
  maps: np.ndarray
  window: int | None = None
  positions: str | None = None
  suffix: str = ''

  @property
  def about(self) -> dict[str, Any]:
    """What bundle.json says of it."""
    return {key: getattr(self, key)
            for key in ('window', 'positions', 'suffix')}


def product(sizes: Sequence[Portable]) -> np.ndarray | None:
  """Returns heat maps f32[m, h, w] by the trainer's code, if there are any."""
  return np.prod([each.maps for each in sizes], axis=0) if sizes else None


def apart(method: maps.Method, pretext: nn.Module, shape: Sequence[int]
          ) -> int | None:
  """Returns the side of windows of images (h, w, c) that have a pass each.

  None if there are no such windows.
  """
  scales = method.scales if isinstance(method, maps.Multiscale) else [method]
  for each in scales:
    if isinstance(each, maps.Windows) and not windows.align(
        windows.of_windows(pretext, each.side).encoder,
        *each.grid(*shape[:2])):
      return each.side
  return None


def portable(found: detector.Detector, images: np.ndarray, folder: pathlib.Path
             ) -> list[Portable]:
  """Returns the heat maps of a detector, which are multiplied.

  Args:
    found: the detector, which localizes.
    images: u8[m, h, w, 3], to compare.
    folder: where `heat/0.npz` and so on are written, if there is a density for
      each position: those of a row of the grid in each; `heat_1/0.npz` and so
      on of the second size, if windows have several.

  Raises:
    InputError: the densities cannot be fitted, or be exported.
  """
  method, train = found.localizer()
  if isinstance(method, maps.GradCam):
    return [_grad_cam(found, method, train, images)]
  if isinstance(method, maps.ScoreMap):
    return [_score_map(found, method, train, images)]
  several = isinstance(method, maps.Multiscale)
  scales = [_Scale(found, each, f'_{number}' * several) for number, each in
            enumerate(method.scales if several else [method])]
  if scales[0].method.positions == 'each':
    _check_size([(len(each.top), len(each.left)) for each in scales],
                len(train), scales[0].seen.shape[-1])
  return [_windows(found, each, train, images, folder) for each in scales]


def _grad_cam(found, method, train, images):
  parts, shape = found.parts(), found.image_shape
  fitted = method.fit(parts.variables, train)
  seen = programs.network(
      lambda variables, image: windows.feature_map(
          parts.pretext, variables, image), parts.variables, shape)
  return Portable(
      seen, programs.heat(fitted.density_, seen.shape),
      _enlarge(gradcam.resize, shape, seen.shape), fitted.maps(images))


def _score_map(found, method, train, images):
  parts, shape = found.parts(), found.image_shape
  seen = programs.network(
      lambda variables, image: maps.score_map(parts.pretext, variables, image),
      parts.variables, shape)
  return Portable(seen, None, _enlarge(method.enlarge, shape, seen.shape),
                  method.fit(parts.variables, train).maps(images))


def _enlarge(function, shape, cells):
  """Returns the matrices of a function of a map, height and width."""
  rows, columns = (
      _matrix(lambda score, n=n: function(score, n, 1), count)
      for n, count in zip(shape[:2], cells[:2], strict=True))
  return {'rows': rows, 'columns': columns}


class _Scale:
  """What windows of one size are embedded by.

  Attributes:
    method: makes maps of them.
    suffix: of the names of programs and files.
    top, left: where they begin, i64[g].
    seen: the program of their features.
    window: their side; None where they share a pass, and images are embedded.
  """

  def __init__(self, found, method, suffix):
    self.method, self.suffix = method, suffix
    (_, whole, variables, *_), shape = found.parts(), found.image_shape
    self.top, self.left = method.grid(*shape[:2])
    self.window = None
    if isinstance(method, maps.Stages):
      self.seen = programs.network(method.embed, variables, shape)
      return
    pretext = windows.of_windows(whole, method.side)
    if windows.align(pretext.encoder, self.top, self.left):
      rows, columns = (begin // pretext.encoder.stride
                       for begin in (self.top, self.left))

      def embed(variables, image):
        image = windows.centred(whole, variables, image)
        features = windows.shared_pass(pretext, method.side, variables, image)
        return features[:, rows][:, :, columns]

      self.seen = programs.network(embed, variables, shape)
      return
    if pretexts.centres(whole):
      raise InputError(
          f'windows of {method.side} pixels every {method.stride} share no '
          'pass over an image, of which all is centred; `deep_oc.localize` '
          'with another --set=stride=... makes maps that can be exported')
    self.seen = programs.network(
        programs.pooled(pretext), variables,
        (method.side, method.side, shape[2]))
    self.window = method.side


def _windows(found, scale, train, images, folder):
  shape, method = found.image_shape, scale.method
  rows, columns = method.weights(*shape[:2])
  if method.positions == 'each':
    beside = folder / f'heat{scale.suffix}'
    parts = _kept(method.fits(found.parts().variables, train), beside)
    expected = method.maps_by(parts, images)
    with np.load(beside / '0.npz') as row:
      heat = programs.positions(dict(row), method.density_.norm)
  else:
    expected = method.fit(found.parts().variables, train).maps(images)
    heat = programs.classifier(
        [method.density_.density_], scale.seen.shape[-1])
  return Portable(
      scale.seen, heat, dict(rows=rows, columns=columns, top=scale.top,
                             left=scale.left),
      expected, scale.window, method.positions, scale.suffix)


def _check_size(grids, n, d):
  """Raises InputError if n images leave too much for grids of positions."""
  k = densities.compact_rank(n, d)
  size = 4 * sum(map(math.prod, grids)) * (k * d + 2 * (k + d + 1))
  if size > _MOST:
    shown = ' and '.join('{}×{}'.format(*each) for each in grids)
    raise InputError(
        f'densities of {shown} positions would be files of '
        f'{size / 2**30:.1f} GiB, more than {_MOST / 2**30:g}; '
        '`deep_oc.localize` with a larger --set=stride=..., or with '
        '--set=positions=shared, makes maps that can be exported')


def _kept(parts: Iterable[maps.Part], folder: pathlib.Path
          ) -> Iterator[maps.Part]:
  """Passes the densities on, and writes those of each row of the grid."""
  names = itertools.count()
  for rows, density in parts:
    folder.mkdir(exist_ok=True)
    for y in range(len(rows)):
      np.savez(folder / f'{next(names)}.npz', **density.compact(y))
    yield rows, density


def _matrix(enlarge: Callable[[np.ndarray], np.ndarray], cells: int
            ) -> np.ndarray:
  """Returns f64[n, g] of a function that is linear in a column f64[1, g, 1]."""
  return enlarge(np.eye(cells)[:, :, None])[:, :, 0].T
