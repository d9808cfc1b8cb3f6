"""Heat maps over their images, with a threshold that the reader moves.

The maps are grey pictures of 256 levels. A filter of SVG gives them their
colours and hides what is below the threshold, so there is something to see
without any script, which only sets a number of the filter.
"""
import json

import contourpy
import numpy as np
from PIL import Image

from deep_oc import heat_colours, pictures
from deep_oc.page import runs
from deep_oc.page.markup import Element, brief, data_uri, tag

_ANOMALIES, _NORMALS = 9, 3
_SIDE = 176
_MAP_SIDE = 128
_LEVELS = 256
_SHOWN = 0.01  # of the normal images' pixels are above the threshold at first


def gallery(scored: runs.ScoredRun) -> list[Element]:
  """Returns the heat maps of a run, [] without any."""
  names = [name for name in scored.maps
           if name.startswith('map_') and 'random' not in name]
  if names and 'image' not in scored.maps:
    return [tag('p', "No array 'image' in maps.npz: heat maps are missing.",
                class_='quiet')]
  return [each for name in names for each in _gallery(scored, name)]


def _gallery(scored, name):
  maps, anomaly = scored.maps[name], scored.anomaly
  limits = heat_colours.scale(maps, anomaly)
  level = levels(maps, limits)
  mask = scored.maps['mask'] != 0 if 'mask' in scored.maps else None
  peak = maps.max(axis=(1, 2))
  chosen = [*np.flatnonzero(anomaly)[pictures.spread(peak[anomaly],
                                                     _ANOMALIES)],
            *np.flatnonzero(~anomaly)[pictures.spread(peak[~anomaly],
                                                      _NORMALS)]]
  key = f'{scored.run.key}-{name}'
  start = first_threshold(level[~anomaly])
  items = [_item(scored, i, level[i], None if mask is None else mask[i],
                 peak[i], f'{key}-filter') for i in chosen]
  outlined = '; white is the outline of the mask' if mask is not None else ''
  return [
      tag('h4', f'Heat maps: {name.removeprefix("map_")}'),
      tag('p', f'{len(items)} of {len(maps)} test images, anomalies first, '
          f'by their highest score{outlined}. Only what scores above the '
          'threshold is coloured. It is for looking: no number depends on it.',
          class_='quiet'),
      _filter(f'{key}-filter', f'{key}-cut', start),
      _slider(key, level, mask, anomaly, limits, start),
      tag('ul', items, class_='gallery')]


def levels(maps: np.ndarray, limits: heat_colours.Scale) -> np.ndarray:
  """Maps scores f[n, h, w] to u8[n, h, w], 0 for `low` and 255 for `high`."""
  return np.stack([np.rint(255 * limits.share(each)).astype(np.uint8)
                   for each in maps])


def score_of(level: np.ndarray, limits: heat_colours.Scale) -> np.ndarray:
  """Maps levels in [0, 255] back to the scores they stand for, f64."""
  share, span = np.asarray(level) / 255, limits.high - limits.low
  if np.isinf(limits.knee):
    return limits.low + share * span
  return limits.low + limits.knee * np.sinh(
      share * np.arcsinh(span / limits.knee))


def first_threshold(level: np.ndarray) -> int:
  """Returns the least level that at most _SHOWN of u8[...] reach, or 255."""
  reach = _reach(level)
  return int(min(np.argmax(reach <= _SHOWN) if (reach <= _SHOWN).any()
                 else 255, 255))


def _reach(level):
  """Returns for each of 256 levels the share of u8[...] at or above it."""
  count = np.bincount(level.ravel(), minlength=_LEVELS)
  return count[::-1].cumsum()[::-1] / level.size


def _slider(key, level, mask, anomaly, limits, start):
  told = _told(level, mask, anomaly, limits)
  bar = data_uri(heat_colours.colours(
      np.linspace(0, 1, _LEVELS)[None], heat_colours.Scale(0, 1)))
  ends = [brief(value) for value in
          (limits.low, limits.middle(), limits.high)]
  return tag(
      'div', tag('div', tag('label', 'Threshold', for_=f'{key}-threshold'),
                 tag('input', type='range', min=0, max=255, step=1,
                     value=start, id=f'{key}-threshold'),
                 class_='hands', hidden=True),
      tag('img', src=bar, alt='', class_='colourbar'),
      tag('div', [tag('span', end) for end in ends], class_='ends'),
      tag('output', told[start], for_=f'{key}-threshold'),
      class_='slider', data_filter=f'{key}-cut', data_told=json.dumps(told))


def _told(level, mask, anomaly, limits):
  """Returns a sentence for each threshold."""
  parts = {'normal images’ pixels': _reach(level[~anomaly])}
  if mask is not None and mask.any():
    parts['abnormal pixels'] = _reach(level[mask])
  return [f'score {brief(score)} and above: ' + ', '.join(
      f'{100 * reach[i]:.1f} % of the {name}' for name, reach in parts.items())
          for i, score in enumerate(score_of(np.arange(_LEVELS), limits))]


def _filter(key, cut, start):
  """Returns colours for grey, and nothing below the threshold.

  The threshold is in the intercept: level k becomes 510 k / 255 + 1 - 2 start,
  which is 1 at the threshold and -1 one level below.
  """
  table = heat_colours.colours(np.linspace(0, 1, _LEVELS),
                               heat_colours.Scale(0, 1))
  colours = [tag(f'feFunc{channel}', type='table', tableValues=' '.join(
      f'{value:.3g}' for value in table[:, i] / 255))
             for i, channel in enumerate('RGB')]
  opaque = tag('feFuncA', type='linear', slope=510, intercept=1 - 2 * start,
               id=cut)
  return tag('svg', tag(
      'filter',
      tag('feColorMatrix', in_='SourceGraphic', result='level',
          values='0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 0 0 0'),
      tag('feComponentTransfer', opaque, in_='level', result='shown'),
      tag('feComponentTransfer', colours, in_='SourceGraphic',
          result='colour'),
      tag('feComposite', in_='colour', in2='shown', operator='in'),
      id=key, x=0, y=0, width=1, height=1,
      color_interpolation_filters='sRGB'), class_='filters',
      aria_hidden='true')


def _item(scored, i, level, mask, peak, filter_key):
  image = scored.maps['image'][i]
  h, w = image.shape[:2]
  whole = dict(x=0, y=0, width=w, height=h, preserveAspectRatio='none')
  shrunk = Image.fromarray(level)
  shrunk.thumbnail((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BILINEAR)
  truth = 'anomalous' if scored.anomaly[i] else 'normal'
  about = f'{scored.name(i)}, {truth}'
  marks = [] if mask is None or not mask.any() else [
      tag('path', d=outline(mask), class_=style,
          vector_effect='non-scaling-stroke') for style in ('casing', 'mask')]
  return tag(
      'li', tag('svg', tag('title', f'Heat map of {about}'),
                tag('image', href=data_uri(image, _SIDE), **whole),
                tag('image', href=data_uri(np.asarray(shrunk)), opacity=0.8,
                    filter=f'url(#{filter_key})', class_='heat', **whole),
                marks, viewBox=f'0 0 {w} {h}', role='img'),
      tag('div', f'{truth}, highest {brief(peak)}', tag('br'),
          tag('span', scored.name(i), class_='quiet')))


def outline(mask: np.ndarray) -> str:
  """Returns the outline of bool[h, w] as the path of an SVG, in pixels."""
  padded = np.pad(mask, 1).astype(float)
  step = max(max(mask.shape) // _MAP_SIDE, 1)
  lines = contourpy.contour_generator(z=padded).lines(0.5)
  return ''.join('M' + 'L'.join(
      f'{x:g} {y:g}' for x, y in np.round(each - 0.5, 1)[::step]) + 'Z'
                 for each in lines)
