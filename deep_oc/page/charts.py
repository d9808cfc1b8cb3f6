"""Plots as SVG: crisp, in the page's colours, light or dark, and read aloud.

What is drawn gets its colour by a class, `trained` for example, in page.css.
"""
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker

from deep_oc.page.markup import (
    Element,
    Part,
    brief,
    table,
    tag,
    unfold,
)

_LEFT, _TOP, _BOTTOM = 66, 12, 42
_APART = 14  # pixels between labels
_LONGEST = 20  # letters of a label beside a plot


class Axis(NamedTuple):
  """What is along a side of a plot: from the first of the ticks to the last."""
  label: str
  ticks: Sequence[float]

  def share(self, values: np.ndarray) -> np.ndarray:
    """Maps values to [0, 1], those beyond the ends to these."""
    low, high = self.ticks[0], self.ticks[-1]
    return np.clip((np.asarray(values, float) - low) / (high - low), 0, 1)


PERCENT = (0, 25, 50, 75, 100)


def axis(label: str, values: Iterable[float], zero: bool = False) -> Axis:
  """Returns an axis with round ticks that holds the values, and maybe zero."""
  values = [*values, *[0.] * zero]
  low, high = float(np.min(values)), float(np.max(values))
  if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
    low, high = low - 0.5, high + 0.5
  locator = ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
  return Axis(label, locator.tick_values(low, high))


@dataclasses.dataclass(frozen=True)
class Frame:
  """A plot's two axes, its size in pixels, and the room at its right."""
  x: Axis
  y: Axis
  width: int = 360
  height: int = 260
  right: int = 16

  def place(self, x: np.ndarray, y: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Maps values f[n] to pixels f[n], to a tenth."""
    across, down = (self.width - _LEFT - self.right,
                    self.height - _TOP - _BOTTOM)
    return (np.round(_LEFT + across * self.x.share(x), 1),
            np.round(self.height - _BOTTOM - down * self.y.share(y), 1))

  def draw(self, key: str, title: str, description: str,
           *marks: Part | Iterable[Part]) -> Element:
    """Returns the plot; title and description are read aloud."""
    return tag(
        'svg', tag('title', title, id=f'{key}-title'),
        tag('desc', description, id=f'{key}-desc'), self._grid(), marks,
        viewBox=f'0 0 {self.width} {self.height}', role='img',
        aria_labelledby=f'{key}-title {key}-desc', id=key)

  def _grid(self):
    bottom, right = self.height - _BOTTOM, self.width - self.right
    xs, _ = self.place(self.x.ticks, np.zeros(len(self.x.ticks)))
    _, ys = self.place(np.zeros(len(self.y.ticks)), self.y.ticks)
    lines = ''.join([f'M{x:g} {_TOP}V{bottom}' for x in xs] +
                    [f'M{_LEFT} {y:g}H{right}' for y in ys])
    ticks = [_text(x, bottom + 15, brief(tick, 5), 'tick', 'middle')
             for x, tick in zip(xs, self.x.ticks, strict=True)]
    ticks += [_text(_LEFT - 6, y + 4, brief(tick, 5), 'tick', 'end')
              for y, tick in zip(ys, self.y.ticks, strict=True)]
    middle = (_TOP + bottom) / 2
    return tag(
        'g', tag('path', d=lines, class_='grid'), ticks,
        _text((_LEFT + right) / 2, self.height - 8, self.x.label, 'axis',
              'middle'),
        tag('text', self.y.label, x=13, y=f'{middle:g}', class_='axis',
            text_anchor='middle', transform=f'rotate(-90 13 {middle:g})'),
        aria_hidden='true')


def line(frame: Frame, x: np.ndarray, y: np.ndarray, style: str) -> Element:
  """Draws a line through f[n], f[n]; points less than a pixel's tenth apart
  are one."""
  points = np.stack(frame.place(x, y), axis=1)
  kept = np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))
  return tag('polyline', class_=f'line {style}', points=' '.join(
      f'{a:g},{b:g}' for a, b in points[kept]))


def bars(frame: Frame, edges: np.ndarray, heights: np.ndarray, style: str
         ) -> Element:
  """Draws a histogram's outline: edges f[n + 1], heights f[n]."""
  x, y = frame.place(np.repeat(edges, 2),
                     np.concatenate([[0], np.repeat(heights, 2), [0]]))
  return tag('path', class_=f'bars {style}', d='M' + 'L'.join(
      f'{a:g} {b:g}' for a, b in zip(x, y, strict=True)))


def dots(frame: Frame, x: np.ndarray, y: np.ndarray, style: str) -> Element:
  """Draws round dots."""
  return _points(frame, x, y, f'dots {style}', 'h0')


def crosses(frame: Frame, x: np.ndarray, y: np.ndarray, style: str) -> Element:
  """Draws crosses, told from dots by more than their colour."""
  return _points(frame, x, y, f'crosses {style}', 'm-2-2l4 4m0-4l-4 4')


def _points(frame, x, y, style, mark):
  places = zip(*frame.place(x, y), strict=True)
  return tag('path', class_=style,
             d=''.join(f'M{a:g} {b:g}{mark}' for a, b in places))


def circle(frame: Frame) -> Element:
  """Draws the part of the unit circle that is within the frame."""
  angle = np.linspace(0, 2 * np.pi, 721)
  x, y = np.cos(angle), np.sin(angle)
  (left, right), (low, high) = (each.ticks[::len(each.ticks) - 1]
                                for each in (frame.x, frame.y))
  inside = (x >= left) & (x <= right) & (y >= low) & (y <= high)
  places = zip(*frame.place(x, y), inside, np.append(False, inside[:-1]),
               strict=True)
  return tag('path', class_='line circle', d=''.join(
      f'{"L" if joined else "M"}{a:g} {b:g}'
      for a, b, here, joined in places if here))


def legend(frame: Frame, entries: Sequence[tuple[str, str]]) -> list[Element]:
  """Names lines in the lower right corner, each beside a piece of itself."""
  bottom, left = frame.height - _BOTTOM - 12, frame.width * 0.46
  found = []
  for i, (name, style) in enumerate(reversed(entries)):
    y = bottom - 17 * i
    found += [tag('polyline', class_=f'line {style}',
                  points=f'{left:g},{y - 4:g} {left + 24:g},{y - 4:g}'),
              _text(left + 30, y, name, 'label')]
  return found


def end_labels(frame: Frame, ends: Sequence[tuple[float, float, str, str]]
               ) -> list[Element]:
  """Writes names beside the ends (x, y) of lines, none over another."""
  places = [(*frame.place([x], [y]), name, style) for x, y, name, style in ends]
  found, last = [], -np.inf
  for (x,), (y,), name, style in sorted(places, key=lambda each: each[1][0]):
    last = max(y + 4, last + _APART)
    short = name if len(name) <= _LONGEST else f'{name[:_LONGEST - 1]}…'
    found.append(_text(x + 8, last, short, f'label {style}'))
  return found


def _text(x, y, words, style, anchor=None):
  return tag('text', words, x=f'{x:g}', y=f'{y:g}', class_=style,
             text_anchor=anchor)


def figure(plot: Element, caption: Part | Sequence[Part],
           header: Sequence[str], rows: Iterable[Sequence[Part]]) -> Element:
  """Returns a plot with its caption, and its numbers for who wants them."""
  key = plot.get('id')
  numbers = table(f'{key}-numbers', plot.find('title').text, header, rows)
  return tag('figure', plot, tag('figcaption', caption),
             unfold('Numbers of this plot', numbers))
