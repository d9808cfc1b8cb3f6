"""A run's plots: ROC curves, histograms of scores, training curves."""
import json
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn import metrics as sklearn_metrics

from deep_oc import metrics
from deep_oc.page import charts, runs
from deep_oc.page.markup import Element, brief, number, tag

_BINS = 32
_STYLES = ('normal', 'anomalous')
_MOST = 300  # points of a training curve
_RATES = (1, 2, 5, 10, 20, 50)  # at which a ROC curve is told in numbers

# What metrics.jsonl has, and how it is called.
CURVES = {'loss': 'loss', 'accuracy': 'accuracy, %',
          'turn_accuracy': 'accuracy of the turn, %',
          'alignment': 'alignment', 'uniformity': 'uniformity',
          'embedding_variance': 'embedding variance',
          'effective_rank': 'effective rank'}


def roc(scored: runs.ScoredRun) -> Element:
  """Returns the ROC curves of a run and of its baselines."""
  frame = charts.Frame(
      charts.Axis('normal images flagged, %', charts.PERCENT),
      charts.Axis('anomalies flagged, %', charts.PERCENT), 360, 340)
  marks = [charts.line(frame, [0, 100], [0, 100], 'chance')]
  entries, rows = [], []
  for feature, score in list(scored.scores.items())[::-1]:
    false, true, _ = sklearn_metrics.roc_curve(scored.anomaly, score)
    style = feature if feature in runs.BASELINES else 'trained'
    area = metrics.auroc(score, scored.anomaly)
    name = runs.NAMES.get(
        feature, 'trained, ' * scored.run.trained + feature)
    marks.append(charts.line(frame, 100 * false, 100 * true, style))
    entries.insert(0, (f'{name}  {area:.1f}', style))
    rows.insert(0, [name, number(f'{area:.2f}'),
                    *(number(f'{detected(score, scored.anomaly, rate):.2f}')
                      for rate in _RATES)])
  plot = frame.draw(
      f'{scored.run.key}-roc', f'ROC curves, {scored.run.title()}',
      '; '.join(f'{name}, AUROC {area.text} %' for name, area, *_ in rows),
      marks, charts.legend(frame, entries))
  return charts.figure(
      plot, f'ROC curves of {scored.run.classifier}, AUROC in percent; the '
      'dotted diagonal is guessing.',
      ('Feature', 'AUROC', *(f'Anomalies flagged at {rate} % false alarms'
                             for rate in _RATES)), rows)


def detected(score: np.ndarray, anomaly: np.ndarray, rate: float) -> float:
  """Returns the anomalies flagged at no more false alarms, both in percent.

  Of f[n] and bool[n], by all points of the curve, those on a line too.
  """
  false, true, _ = sklearn_metrics.roc_curve(
      anomaly, score, drop_intermediate=False)
  return 100 * true[false <= rate / 100].max()


def histogram(scored: runs.ScoredRun) -> Element:
  """Returns how the scores of normals and of anomalies are spread.

  Up to where normals may lie: some classifiers score anomalies so high that
  all normals would be in one bar.
  """
  score, anomaly = scored.score, scored.anomaly
  low, middle, top = np.quantile(score[~anomaly], [0.01, 0.5, 0.99])
  high = min(np.quantile(score, 0.995), top + 3 * (top - low) or middle + 1)
  x = charts.axis(f'score: {scored.run.feature}, {scored.run.classifier}',
                  [np.quantile(score, 0.005), high])
  return two_kinds(
      f'{scored.run.key}-scores', f'Scores, {scored.run.title()}', x,
      (score[~anomaly], score[anomaly]),
      (f'normal ({(~anomaly).sum()})', f'anomalous ({anomaly.sum()})'),
      'Scores of test images, higher is more anomalous. Each kind adds up to '
      '100 %; the outermost bars hold what lies beyond.')


def shares(values: np.ndarray, x: charts.Axis) -> np.ndarray:
  """Returns in percent how many of f[n] are in each bar f[_BINS] along x."""
  edges = np.linspace(x.ticks[0], x.ticks[-1], _BINS + 1)
  count = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
  return 100 * count / len(values)


def two_kinds(key: str, title: str, x: charts.Axis,
              values: Sequence[np.ndarray], names: Sequence[str],
              caption: str, highest: float = 0) -> Element:
  """Returns the histogram of two kinds of values, f[n] and f[m].

  Args:
    key: its id.
    title: of the plot.
    x: along the values; what is beyond is in the outermost bars.
    values: of both kinds.
    names: of both.
    caption: behind the names.
    highest: percent that the plot has room for at least.
  """
  share = [shares(each, x) for each in values]
  edges = np.linspace(x.ticks[0], x.ticks[-1], _BINS + 1)
  frame = charts.Frame(x, charts.axis('% of the kind', [
      highest, *np.concatenate(share)], zero=True))
  plot = frame.draw(key, title, '; '.join(
      f'{name}: mean {brief(each.mean())}'
      for name, each in zip(names, values, strict=True)), [
          charts.bars(frame, edges, part, style)
          for part, style in zip(share, _STYLES, strict=True)])
  rows = [[f'{brief(edges[i])} to {brief(edges[i + 1])}',
           *(number(f'{part[i]:.2f}') for part in share)]
          for i in range(_BINS)]
  named = [(_swatch(style), f'{name}. ')
           for style, name in zip(_STYLES, names, strict=True)]
  return charts.figure(plot, [named, caption],
                       ('From, to', *(f'{name}, %' for name in names)), rows)


def _swatch(style):
  return tag('svg', tag('path', d='M2 12V4H24V12', class_=f'bars {style}'),
             class_='swatch', viewBox='0 0 26 14', aria_hidden='true')


def training(run: runs.Run) -> list[Element]:
  """Returns a small plot for each metric of metrics.jsonl there is.

  One point is no curve.
  """
  rows = _logged(run)
  found = []
  for metric, label in CURVES.items():
    kept = [row for row in rows if isinstance(row.get(metric), int | float)
            and np.isfinite(row[metric])]
    if len(kept) > 1:
      every = -(-len(kept) // _MOST)
      found.append(_curve(run, metric, label,
                          kept[::-every][::-1]))  # with the last
  return found


def _logged(run) -> Sequence[Mapping[str, float]]:
  try:
    lines = (run.workdir / 'metrics.jsonl').read_text('utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if 'step' in row]
  except (OSError, ValueError, TypeError):
    return []


def _curve(run, metric, label, rows):
  scale = 100 if metric.endswith('accuracy') else 1
  step = [row['step'] for row in rows]
  value = [scale * row[metric] for row in rows]
  chance = [scale * row['chance'] for row in rows
            if metric == 'accuracy' and 'chance' in row]
  frame = charts.Frame(
      charts.axis('step', step, zero=True),
      charts.axis(label, value + chance, zero=bool(chance)),
      height=220)
  marks = [charts.line(frame, step, value, 'trained')]
  caption = f'{label}: {brief(value[-1])} at step {step[-1]}'
  if len(chance) == len(rows):
    marks.append(charts.line(frame, step, chance, 'random'))
    caption += f'; guessing, dashed, has {brief(chance[-1])}'
  plot = frame.draw(
      f'{run.key}-{metric}', f'Training: {label}, {run.title()}',
      f'from {brief(value[0])} at step {step[0]} to {brief(value[-1])} at '
      f'step {step[-1]}', marks)
  return charts.figure(
      plot, caption + '.', ('Step', label),
      [[f'{a:g}', f'{b:.5g}'] for a, b in zip(step, value, strict=True)])
