"""What abnormal images among the training images, unbeknown to all, cost."""
import os
import re
import statistics
from collections.abc import Mapping, Sequence

from deep_oc import tables
from deep_oc.page import charts, runs
from deep_oc.page.markup import Element, number, tag

_COLOURS = 4
_SHARE = re.compile(r'contaminated_([0-9.]+)%')


def share(protocol: str) -> float | None:
  """Returns how many percent of the training images are abnormal.

  None under protocols that change more than that.
  """
  if protocol == 'one_vs_rest':
    return 0.
  found = _SHARE.fullmatch(protocol)
  return float(found[1]) if found else None


def curves(found: Sequence[runs.Run]
           ) -> dict[str, dict[str, dict[float, float]]]:
  """Returns {method: {class: {share: mean AUROC over seeds}}}.

  Of a method those classes that it has at every share, by the runs' feature
  and classifier, if it has several shares.
  """
  values = {}
  for run in found:
    percent, row = share(run.about['protocol']), run.row(run.feature)
    if percent is not None and row:
      about = run.about
      method = f"{about['experiment'] or about['pretext']}, {about['dataset']}"
      name = about['normal_name'] or about['normal_class']
      values.setdefault(method, {}).setdefault(name, {}).setdefault(
          percent, []).append(float(row['auroc']))
  return {method: kept for method, classes in values.items()
          if (kept := _complete(classes))}


def _complete(classes):
  shares = {percent for found in classes.values() for percent in found}
  if len(shares) < 2:  # a point is no curve
    return {}
  return {name: {percent: statistics.fmean(found[percent])
                 for percent in sorted(shares)}
          for name, found in sorted(classes.items(),
                                    key=lambda item: tables.natural(item[0]))
          if found.keys() == shares}


def section(found: Sequence[runs.Run]) -> Element | None:
  """Returns the section, None if there is nothing to compare."""
  known = curves(found)
  if not known:
    return None
  return tag(
      'section',
      tag('p', 'So many percent of the training images are abnormal; neither '
          'encoder nor classifier is told. AUROC on the whole test set, mean '
          'over the classes that a method has at every share.'),
      tag('div', _plot(known), class_='plots'), id='contamination')


def _plot(known: Mapping[str, Mapping[str, Mapping[float, float]]]) -> Element:
  means = {method: _mean(classes) for method, classes in known.items()}
  frame = charts.Frame(
      charts.axis('abnormal training images, %',
                  [x for mean in means.values() for x in mean]),
      charts.axis('AUROC, %', [y for mean in means.values()
                               for y in mean.values()]), 440, 300, 140)
  marks, ends, names = [], [], short_names(list(known))
  for i, mean in enumerate(means.values()):
    style, x, y = f'c{i % _COLOURS}', list(mean), list(mean.values())
    marks += [charts.line(frame, x, y, style),
              charts.dots(frame, x, y, f'marker {style}')]
    ends.append((x[-1], y[-1], f'{y[-1]:.1f} {names[i]}', style))
  plot = frame.draw('contamination-plot', 'AUROC by contamination', '; '.join(
      f'{method}: ' + ', '.join(f'{y:.1f} at {x:g} %' for x, y in mean.items())
      for method, mean in means.items()), marks,
      charts.end_labels(frame, ends))
  shares = sorted({x for mean in means.values() for x in mean})
  rows = [[f'{method}, {name}', *(number(f'{found[x]:.2f}') if x in found
                                  else '' for x in shares)]
          for method, classes in known.items()
          for name, found in [*classes.items(), (
              f'mean of {len(classes)}', _mean(classes))]]
  return charts.figure(
      plot, [f'{method}: {len(classes)} classes. '
             for method, classes in known.items()],
      ('Method, class', *(f'{x:g} %' for x in shares)), rows)


def short_names(methods: Sequence[str]) -> list[str]:
  """Returns the names without the words that all begin with."""
  shared = os.path.commonprefix(methods).rfind('_') + 1
  return [name[shared:] for name in methods] if len(methods) > 1 else [
      *methods]


def _mean(classes):
  """Averages {class: {share: AUROC}} over classes."""
  first = next(iter(classes.values()))
  return {x: statistics.fmean(found[x] for found in classes.values())
          for x in first}
