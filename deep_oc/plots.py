"""Plots of a run's scores: the ROC curve, and histograms by class.

Lines and bars are told apart by more than colour. Scores are higher = more
anomalous; what made a plot is kept in its file.
"""
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics

from deep_oc import metrics
from deep_oc.errors import InputError

_ROWS = 10  # of a histogram
_BINS = 25


def roc_curve(scores: np.ndarray, anomaly: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
  """Returns the shares of normals and anomalies of f[n] flagged, f64[k] each.

  Both rise from 0 to 1 as the threshold falls; corners only.
  """
  fpr, tpr, _ = sklearn_metrics.roc_curve(anomaly, scores)
  return fpr, tpr


def roc(scores: np.ndarray, anomaly: np.ndarray, title: str = '') -> bytes:
  """Draws the ROC curve of f[n] against bool[n], with its area, as PNG.

  The title says what the scores are of.
  """
  figure = new_figure(5, 5)
  axes = figure.subplots()
  axes.plot(*roc_curve(scores, anomaly), color='black', linewidth=2,
            label='this run', clip_on=False, zorder=3)
  axes.plot([0, 1], [0, 1], color='0.5', linestyle='--', label='chance')
  axes.set(xlim=(0, 1), ylim=(0, 1), aspect='equal',
           xlabel='false positive rate: normal images flagged',
           ylabel='true positive rate: anomalies flagged')
  axes.set_title(_titled(title, scores, anomaly), fontsize='medium',
                 parse_math=False)
  axes.grid(color='0.9')
  axes.legend(loc='lower right')
  return png(figure)


def counts(scores: np.ndarray, anomaly: np.ndarray, labels: np.ndarray,
           class_names: Sequence[str]
           ) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
  """Returns bins f64[b + 1] that all share, and names with counts i64[b].

  The normal images come first, then the anomalies of each class, or of all
  together where the classes are too many for a plot.
  """
  scores, anomaly = np.asarray(scores, float), np.asarray(anomaly, bool)
  labels = np.asarray(labels)
  edges = _edges(scores.min(), scores.max())
  kinds, normal = np.unique(labels[anomaly]), np.unique(labels[~anomaly])
  parts = []
  if len(normal):
    name = (class_names[normal[0]] if len(normal) == 1
            else f'{len(normal)} classes')
    parts.append((f'normal: {name}', ~anomaly))
  if len(kinds) < _ROWS:
    parts += [(f'anomaly: {class_names[kind]}', anomaly & (labels == kind))
              for kind in kinds]
  else:
    parts.append((f'anomaly: {len(kinds)} classes', anomaly))
  return edges, [(name, np.histogram(scores[part], edges)[0])
                 for name, part in parts]


def histogram(scores: np.ndarray, anomaly: np.ndarray, labels: np.ndarray,
              class_names: Sequence[str], title: str = '') -> bytes:
  """Draws `counts` as PNG, a row for each class, normal ones in all.

  The title says what the scores are of.
  """
  edges, parts = counts(scores, anomaly, labels, class_names)
  figure = new_figure(7, 1.2 + 1.1 * len(parts))
  rows = figure.subplots(len(parts), sharex=True, sharey=True, squeeze=False)
  known = {}
  for axes, (name, count) in zip(rows[:, 0], parts, strict=True):
    known |= _bars(axes, edges, count, name, parts[0])
  rows[-1, 0].set_xlabel('score of an image')
  figure.supylabel("% of the row's images", fontsize='medium')
  figure.suptitle(_titled(title, scores, anomaly), fontsize='medium',
                  parse_math=False)
  figure.legend(known.values(), known.keys(), loc='outside lower right',
                ncols=len(known), frameon=False)
  return png(figure)


def _bars(axes, edges, count, name, first):
  """Draws a row; returns what the legend says of it."""
  anomalous = name.startswith('anomaly')
  bars = axes.stairs(_percent(count), edges, fill=True, edgecolor='black',
                     facecolor='#e69f00' if anomalous else '0.8',
                     hatch='////' if anomalous else None)
  known = {'anomalies' if anomalous else 'normal images': bars}
  if anomalous and first[0].startswith('normal'):
    known['normal images, to compare'] = axes.stairs(
        _percent(first[1]), edges, color='black', linestyle=':', linewidth=1.5)
  axes.set_title(f'{plain(name)[:60]} ({count.sum()})', loc='left',
                 fontsize='medium', parse_math=False)
  axes.spines[['top', 'right']].set_visible(False)
  return known


def _titled(title, scores, anomaly):
  """Returns the title, and below it the AUROC, if there are both kinds."""
  if np.all(anomaly) or not np.any(anomaly):
    return plain(title)
  return f'{plain(title)}\n{_auroc(scores, anomaly)}'.lstrip()


def _auroc(scores, anomaly):
  scores = np.asarray(scores, float)
  low, high = metrics.auroc_interval(scores, anomaly)
  return (f'AUROC {metrics.auroc(scores, anomaly):.2f} %' + (
      f' (95 % interval {low:.1f} to {high:.1f})' if low == low else ''))


def _edges(low, high):
  """Returns bins f64[b + 1] from low to high, wider if these are the same."""
  least = 1e-6 * max(abs(low), abs(high)) or 1
  pad = max(0, least - (high - low)) / 2
  return np.linspace(low - pad, high + pad, _BINS + 1)


def _percent(count):
  return 100 * count / count.sum()


def matplotlib() -> Any:
  """Returns the module, for those who draw.

  Raises:
    InputError: it is not installed.
  """
  try:
    import matplotlib.figure
  except ImportError as error:
    raise InputError(f'pictures need matplotlib ({error}): '
                     '`pip install matplotlib`') from error
  return matplotlib


def new_figure(width: float, height: float, dpi: int = 150) -> Any:
  """Returns a figure, in inches, that no pyplot state holds on to."""
  return matplotlib().figure.Figure((width, height), dpi=dpi,
                                    layout='constrained')


def png(figure: Any, command: str = '') -> bytes:
  """Returns the figure as a PNG file that names the command."""
  data = io.BytesIO()
  figure.savefig(data, format='png', metadata={'command': command})
  return data.getvalue()


def plain(text: str) -> str:
  """Returns one line of what can be printed."""
  return ''.join(each if each.isprintable() else ' ' for each in text)
