"""One picture of one explained image: the maps, and what it was compared with.

  input    | a map for each method                     the trained network
  baseline | the same of the same network with random weights
  the nearest normal training images, with their distances

Or, of a heat map, its highest places and the normal ones most like them.

Orange is what raises the score, blue what lowers it, laid over the image in
pale grey; the two are told apart by the colour-blind and in grey print the
stronger is the darker. Every map has a scale of its own, for the units differ.
"""
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from deep_oc import explainer, places, plots

_CLIP = 99.5  # percentile of |map| from which on colours are full
_SMOOTH = 1 / 96  # sigma of what is drawn, as a share of the image's side
_TILE = 1.9  # inches
_LETTERS = 28  # of a title, as wide as a tile
_RAISES, _LOWERS = (0.80, 0.27, 0.0), (0.0, 0.27, 0.70)
_TITLES = {'integrated_gradients': 'integrated gradients',
           'smoothgrad': 'SmoothGrad, no sign', 'gradcam': 'Grad-CAM'}


def draw(image: np.ndarray, mask: np.ndarray | None, baseline: np.ndarray,
         trained: explainer.Explained, untrained: explainer.Explained,
         neighbours: Sequence[explainer.Neighbour], texts: Mapping[str, str],
         command: str) -> bytes:
  """Draws an image's explanations, as PNG.

  Args:
    image: u8[h, w, 3].
    mask: bool[h, w], outlined; None if not known.
    baseline: f32[h, w, 3].
    trained, untrained: of the two networks.
    neighbours: nearest first.
    texts: 'name', above all; 'verdict', below it; 'baseline', 'distance', what
      these are.
    command: what made it, kept in the file.
  """
  columns = max(1 + len(trained.maps), len(neighbours))
  height = _TILE * np.clip(image.shape[0] / image.shape[1], 0.25, 2)
  rows = 3 * (height + 0.44)
  figure = plots.new_figure(columns * _TILE + 0.3, rows + 0.9, dpi=130)
  head, body, foot = figure.subfigures(3, 1, height_ratios=(0.5, rows, 0.4))
  _say(head, texts)
  axes = body.subplots(3, columns)
  for each in axes.ravel():
    each.set_axis_off()
  _tile(axes[0, 0], image, 'input')
  _outline(axes[0, 0], mask)
  _tile(axes[1, 0], np.uint8(255 * baseline), f"baseline: {texts['baseline']}")
  for row, (found, prefix) in enumerate([(trained, ''),
                                         (untrained, 'random: ')]):
    for column, (name, each) in enumerate(found.maps.items(), 1):
      _tile(axes[row, column], overlay(image, each.attribution),
            prefix + _TITLES.get(name, name), _quality(each))
      _outline(axes[row, column], mask)
  for column, each in enumerate(neighbours):
    _tile(axes[2, column], each.pixels,
          _named('normal: ' if column else 'nearest normal: ', each),
          f"{texts['distance']} {each.distance:.4g}")
  _legend(foot)
  return plots.png(figure, command)


def draw_places(image: np.ndarray, mask: np.ndarray | None, heat: np.ndarray,
                found: Sequence[places.Place],
                near: Sequence[Sequence[explainer.Neighbour]],
                texts: Mapping[str, str], command: str) -> bytes:
  """Draws an image's highest places, and the normal ones most like them.

  Args:
    image: u8[h, w, 3].
    mask: bool[h, w], outlined; None if not known.
    heat: u8[h, w, 3], the heat map over it.
    found: the places.
    near: to each the normal images that have the nearest, whose middle is to
      be the place; with the features' distance.
    texts: 'name', above all; 'verdict', below it.
    command: what made it, kept in the file.
  """
  columns = 1 + max(2, *map(len, near))
  height = np.array([_TILE * np.clip(image.shape[0] / image.shape[1], 0.25, 2),
                     *[_TILE] * len(found)]) + 0.44
  figure = plots.new_figure(columns * _TILE + 0.3, height.sum() + 0.6, dpi=130)
  head, body = figure.subfigures(2, 1, height_ratios=(0.5, height.sum()))
  _say(head, texts)
  axes = body.subplots(1 + len(found), columns,
                       gridspec_kw={'height_ratios': height})
  for each in axes.ravel():
    each.set_axis_off()
  for axis, shown_image, title in ((axes[0, 0], image, 'input'),
                                   (axes[0, 1], heat, 'heat map')):
    _tile(axis, shown_image, title)
    _outline(axis, mask)
  for row, (place, normal) in enumerate(zip(found, near, strict=True), 1):
    _number_square(axes[0, 0], place, row, image.shape)
    _tile(axes[row, 0], cut(image, place.x, place.y), f'place {row}',
          f'score {place.score:.4g}')
    for column, (each, where) in enumerate(
        zip(normal, place.near, strict=True), 1):
      _tile(axes[row, column], cut(each.pixels, where.x, where.y),
            _named('' if column > 1 else 'nearest: ', each),
            f'distance {each.distance:.4g}')
  return plots.png(figure, command)


def cut(image: np.ndarray, x: float, y: float) -> np.ndarray:
  """Cuts the square around a point out of u8[h, w, 3]; beyond is white.

  Args:
    image: u8[h, w, 3].
    x, y: the point, as shares of the width and height.
  """
  h, w, _ = image.shape
  half = round(places.APART * max(h, w))
  image = np.pad(image, ((half, half), (half, half), (0, 0)),
                 constant_values=255)
  top, left = round(y * h), round(x * w)
  return image[top:top + 2 * half, left:left + 2 * half]


def _number_square(axes, place, number, shape):
  """Draws the outline of what `cut` shows, and its number."""
  h, w, _ = shape
  x, y, half = place.x * w, place.y * h, places.APART * max(h, w)
  right, left = min(x + half, w - 1), max(x - half, 0)
  bottom, top = min(y + half, h - 1), max(y - half, 0)
  for colour, width in (('white', 2.2), ('black', 0.9)):
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top],
              color=colour, linewidth=width)
  axes.text(left + 0.02 * w, top + 0.02 * h, str(number), size=8, va='top',
            bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1})
  axes.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))


def _named(prefix, neighbour):
  """Returns a title with the end of the file's name, or the image's number."""
  name = pathlib.PurePath(neighbour.path).name or f'image {neighbour.index}'
  room = _LETTERS - len(prefix)
  return plots.plain(
      prefix + (name if len(name) <= room else f'…{name[1 - room:]}'))


def overlay(image: np.ndarray, attribution: np.ndarray) -> np.ndarray:
  """Lays a map f[h, w] over u8[h, w, 3] in pale grey, as u8[h, w, 3]."""
  share = shown(attribution)[..., None]
  grey = image.mean(-1, keepdims=True) / 255
  pale = 0.72 + 0.28 * np.broadcast_to(grey, image.shape)
  colour = np.where(share > 0, _RAISES, _LOWERS)
  weight = np.abs(share)
  return np.uint8(np.rint(255 * ((1 - weight) * pale + weight * colour)))


def shown(attribution: np.ndarray) -> np.ndarray:
  """Maps f[h, w] to how it is drawn, f[h, w] from -1 to 1.

  A little smoothed, and clipped; the numbers beside it are of the map itself.
  """
  smooth = ndimage.gaussian_filter(
      np.float64(attribution), _SMOOTH * max(attribution.shape))
  most = np.percentile(np.abs(smooth), _CLIP) or np.abs(smooth).max()
  return np.clip(smooth / (most or 1), -1, 1)


def _say(figure, texts):
  for text, y, kwargs in ((texts['name'], 0.85, {'weight': 'bold'}),
                          (texts['verdict'], 0.32, {'size': 'small'})):
    figure.text(0.012, y, plots.plain(text), va='top', parse_math=False,
                **kwargs)


def _tile(axes, image, title, note=''):
  axes.imshow(image, interpolation='nearest', vmin=0, vmax=255)
  axes.set_title(title, fontsize=8, pad=3, parse_math=False)
  axes.text(0.5, -0.03, note, size=7, ha='center', va='top', color='0.25',
            transform=axes.transAxes, parse_math=False)


def _outline(axes, mask):
  if mask is not None and mask.any() and not mask.all():
    padded = np.pad(np.float64(mask), 1)  # or a line ends at the edge
    at = [np.arange(-1, length + 1) for length in mask.shape]
    for colour, width in (('white', 1.6), ('black', 0.7)):
      axes.contour(at[1], at[0], padded, [0.5], colors=colour,
                   linewidths=width)
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _quality(found):
  said = []
  if found.deletion == found.deletion:
    said.append(f'del {found.deletion:.2f}  ins {found.insertion:.2f}')
  if found.pixel_auroc == found.pixel_auroc:
    said.append(f'pixels {found.pixel_auroc:.1f} %')
  return '  '.join(said)


def _legend(figure):
  axes = figure.add_axes((0.36, 0.5, 0.28, 0.28))
  ramp = np.linspace(-1, 1, 255)
  axes.imshow(_ramp(ramp), aspect='auto')
  axes.set_axis_off()
  for x, text, align in ((0.35, 'lowers the score', 'right'),
                         (0.65, 'raises the score', 'left')):
    figure.text(x, 0.64, text, size=8, ha=align, va='center')
  figure.text(
      0.5, 0.36, 'each map on a scale of its own; random: of random weights.  '
      'del: area under deletion, low is good; ins: insertion, high is good',
      size=6.5, ha='center', va='top', color='0.25')


def _ramp(share):
  weight = np.abs(share)[:, None]
  colour = np.where(share[:, None] > 0, _RAISES, _LOWERS)
  return ((1 - weight) * 0.86 + weight * colour)[None]
