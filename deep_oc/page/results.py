"""The summary: every method beside its baselines and the published numbers."""
from collections.abc import Container, Iterable, Mapping, Sequence

from deep_oc import tables
from deep_oc.page import runs
from deep_oc.page.markup import (
    Element,
    Part,
    number,
    table,
    table_row,
    tag,
)

Line = Mapping[str, object]

_METHOD = ('experiment', 'dataset', 'protocol', 'pretext', 'encoder')
_MEANS = ('mean', 'plain_mean')
_OPTIONAL = {'aupro_mean': 'AUPRO', 'aupro_low': '95 %',
             'false_alarms_mean': 'false alarms', 'detected_mean': 'detected',
             'calibration': 'calibration', 'paper': 'Paper', 'gap': 'Gap'}


def section(lines: Sequence[Line], found: Sequence[runs.Run]) -> Element:
  """Returns the section from the lines of `tables.summarize`."""
  gap = (' The gap is to the paper’s number for the same data, task and '
         'classifier, where it has one and all its classes are here.')
  return tag(
      'section',
      tag('p', 'AUROC in percent: how often an anomaly scores above a normal '
          'image; 50 is guessing. Intervals are 95 %, DeLong’s, Newcombe’s '
          'where all are told apart, of pixels Obuchowski’s, and know of the '
          'test images only, not of another training.',
          gap * any(line.get('gap') for line in lines)),
      _overview(lines, found), tag('h3', 'All results'), _search(lines),
      _everything(lines, {_encoded(run.about) for run in found
                          if not run.trained}), id='summary')


def _overview(lines, found):
  # The first run of each method: its classifier is that of the others.
  first = {_head(tables.summarize(run.rows)[0]): run for run in found[::-1]}
  methods = {}
  for line in lines:
    methods.setdefault(_head(line), []).append(line)
  rows = [_method(method, first[head]) for head, method in methods.items()
          if head in first]  # the means over data sets have no run
  header = ('Method', 'Protocol', 'AUROC', '95 % or ± SD', 'Untrained encoder',
            'Pixels', 'Heat maps, by pixels', 'Paper', 'Gap', 'Data', 'Classes',
            'Seeds', 'Feature, classifier')
  kept = [i for i in range(len(header))
          if any(row[i] != '' for row in rows)]
  return table(
      'overview', 'Each method beside its baselines' +
      ' and the paper' * any(line.get('paper') for line in lines),
      [header[i] for i in kept], [[row[i] for i in kept] for row in rows],
      sortable=True)


def _head(line):
  return tuple(line[key] for key in _METHOD)


def _method(lines, run):
  classes = {line['normal_class'] for line in lines} - set(_MEANS)
  of = 'mean' if len(classes) > 1 else next(iter(classes))
  kept = [line for line in lines if line['normal_class'] == of]

  def auroc(feature, level='image', classifier=run.classifier):
    return next((line for line in kept if line['feature'] == feature and
                 line['level'] == level and
                 classifier in (None, line['classifier'])), {})
  line = auroc(run.feature)
  mean = next(line for line in lines if line['normal_class'] == 'mean')
  heat = next(filter(None, (auroc(name, 'pixel', None) for name in (
      'windows', 'gradcam', 'task'))), {})
  return (
      kept[0]['experiment'] or str(run.workdir), kept[0]['protocol'],
      number(line.get('auroc_mean')), _spread(line),
      number(auroc(run.baseline('random')).get('auroc_mean')),
      number(auroc('pixels').get('auroc_mean')),
      number(heat.get('auroc_mean')), _paper(line),
      number(line.get('gap'), sign=True), kept[0]['dataset'],
      _classes(mean, kept[0]), (line or kept[0])['n_seeds'],
      f'{run.feature}, {run.classifier}')


def _classes(mean, line):
  if mean['n_classes'] == 1:
    name = line['normal_name'] or line['normal_class']
    return name if mean['of_classes'] in ('', 1) else (
        f"{name}, 1 of {mean['of_classes']}")
  if mean['of_classes'] in ('', mean['n_classes']):
    return f"{mean['n_classes']}, complete"
  return f"{mean['n_classes']} of {mean['of_classes']}, incomplete"


def _spread(line):
  if line.get('auroc_sd'):
    return f"± {float(line['auroc_sd']):.1f}"
  return _interval(line, 'auroc')


def _interval(line, metric):
  low, high = line.get(f'{metric}_low'), line.get(f'{metric}_high')
  return f'{float(low):.1f} to {float(high):.1f}' if low else ''


def _paper(line: Line) -> Part | list[Part]:
  spread = line.get('paper_spread')
  mean = number(line.get('paper'))
  if not spread:
    return mean
  kind = [' ', tag('abbr', 'SE', title='standard error of the mean')]
  return tag('span', mean, f' ± {spread}',
             kind if line.get('paper_spread_kind') == 'se5' else [])


def _search(lines):
  return tag(
      'div', tag('label', 'Search ', tag('input', type='search',
                                         id='search-text')),
      tag('label', tag('input', type='checkbox', id='search-means'),
          ' means over classes only') if any(map(_of_classes, lines)) else None,
      tag('span', role='status', class_='quiet'),
      class_='search', data_table='results', hidden=True)


def _of_classes(line):
  return line['normal_class'] in _MEANS and line['n_classes'] > 1


def _encoded(line):
  return line['pretext'], line['encoder']


def _everything(lines, given=()):
  optional = {key: name for key, name in _OPTIONAL.items()
              if any(line.get(key) for line in lines)}
  header = ('Method', 'Protocol', 'Class', 'Feature', 'Classifier', 'AUROC',
            '95 % or ± SD', *optional.values(), 'What is scored', 'Kind',
            'Classes', 'Seeds', 'Data')
  kept = [line for line in lines  # the mean of one class is that class
          if line['normal_class'] not in _MEANS or _of_classes(line)]
  box = table('results', 'Means over seeds, of each class and over classes',
              header, [_row(line, optional, given) for line in kept],
              sortable=True)
  box.set('class', 'scroll tall')
  return box


def _row(line: Line, optional: Iterable[str],
         given: Container[tuple[str, str]]) -> Element:
  kind = _kind(str(line['feature']), _encoded(line) in given)
  return table_row(
      [line['experiment'] or line['pretext'] or '–', line['protocol'],
       str(line['normal_name'] or line['normal_class']),
       line['feature'], line['classifier'], number(line['auroc_mean']),
       _spread(line), *(_optional(line, key) for key in optional),
       'pixels' if line['level'] == 'pixel' else 'images', kind,
       _complete(line), line['n_seeds'], line['dataset']],
      class_='baseline' if kind.startswith('baseline') else None,
      data_mean='true' if line['normal_class'] in _MEANS else None)


def _optional(line, key):
  if key == 'aupro_low':
    return _interval(line, 'aupro')
  if key == 'paper':
    return _paper(line)
  return line[key] if key == 'calibration' else number(
      line.get(key), sign=key == 'gap')


def _kind(feature, given):
  if feature.startswith('random'):
    return 'baseline: untrained'
  if feature == 'pixels':
    return 'baseline: no encoder'
  if feature == 'score':
    return 'task’s own score'
  return 'encoder as given' if given else 'trained'


def _complete(line):
  if line['of_classes'] in ('', line['n_classes']):
    return str(line['n_classes'])
  return f"{line['n_classes']} of {line['of_classes']}"
