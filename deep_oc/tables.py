"""Results of many runs as one table, beside the published numbers."""
import csv
import functools
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from deep_oc import files
from deep_oc.errors import InputError

RESULTS = (
    'experiment', 'dataset', 'protocol', 'normal_class', 'normal_name', 'seed',
    'pretext', 'encoder', 'step', 'checkpoint_rule', 'feature', 'classifier',
    'classifier_params', 'level', 'auroc', 'auroc_low', 'auroc_high', 'auprc',
    'fpr95', 'aupro', 'n_train', 'n_test_normal', 'n_test_anomalous',
    'config_hash')
SUMMARY = (
    'experiment', 'dataset', 'protocol', 'pretext', 'encoder', 'feature',
    'classifier', 'level', 'normal_class', 'normal_name', 'n_seeds',
    'n_classes', 'of_classes', 'auroc_mean', 'auroc_sd', 'auroc_low',
    'auroc_high', 'aupro_mean', 'paper', 'paper_spread', 'gap')
_GROUP = SUMMARY[:8]

# How many classes the paper's mean is over.
CLASSES = {'cifar10': 10, 'cifar100_coarse': 20, 'fashion_mnist': 10,
           'cat_vs_dog': 2, 'celeba': 1, 'mvtec_ad': 15}


def write(path: str | os.PathLike, columns: Sequence[str],
          rows: Iterable[Mapping[str, object]]) -> None:
  """Writes these columns of the rows as CSV; a missing value is empty."""
  with files.replacing(path) as file:
    writer = csv.DictWriter(file, columns, restval='', extrasaction='ignore',
                            lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)


def read(path: str | os.PathLike, columns: Sequence[str] = RESULTS
         ) -> list[dict[str, str]]:
  """Returns the rows of a CSV that has at least these columns.

  Raises:
    InputError: the file cannot be read, or lacks a column.
  """
  try:
    with open(path, encoding='utf-8', newline='') as file:
      reader = csv.DictReader(file)
      rows, found = list(reader), reader.fieldnames or ()
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'cannot read {path} ({error})') from error
  missing = [name for name in columns if name not in found]
  if missing:
    raise InputError(f"{path} lacks the column '{missing[0]}'; delete it and "
                     'evaluate again')
  return rows


def summarize(rows: Iterable[Mapping[str, str]]) -> list[dict[str, object]]:
  """Averages results over seeds: a row per class, and one for their mean.

  Rows are those of `read`, with 'run', where each comes from. A data set named
  family/category, as 'mvtec_ad/bottle', is a class of its family. The row of
  the mean averages per seed over the classes, then over the seeds that have
  all the classes that any seed has.

  Raises:
    InputError: two runs are of one class and seed, but not one result.
  """
  groups = {}
  for row in map(_as_class, rows):
    group = groups.setdefault(tuple(row.get(key, '') for key in _GROUP), {})
    seeds = group.setdefault(row['normal_class'], {})
    _check_same(seeds.setdefault(row['seed'], row), row)
  return [line for key, group in groups.items()
          for line in _lines(dict(zip(_GROUP, key, strict=True)), group)]


def _as_class(row):
  family, _, category = row['dataset'].partition('/')
  if not category:
    return row
  return row | {'experiment': row['experiment'].removesuffix(f'_{category}'),
                'dataset': family, 'normal_class': category,
                'normal_name': category}


def _check_same(old, new):
  if any(old[key] != new[key] for key in RESULTS):
    raise InputError(
        f"{old['run']} and {new['run']} are both class "
        f"{new['normal_class'] or '?'}, seed {new['seed'] or '?'} of "
        f"{new['dataset'] or 'an unnamed data set'} but differ; summarize "
        'them apart: --runs=...')


def _lines(head, group):
  """Returns the lines of {class: {seed: row}}, the last one of the mean."""
  by_seed = {}
  for name in sorted(group, key=_natural):
    for seed, row in group[name].items():
      by_seed.setdefault(seed, {})[name] = float(row['auroc'])
    yield _class_line(head, list(group[name].values()))
  widest = max(by_seed.values(), key=len).keys()
  means = [statistics.fmean(values.values()) for values in by_seed.values()
           if values.keys() == widest]
  aupro = [row.get('aupro') for seeds in group.values()
           for row in seeds.values()]
  yield _line(head, 'mean', 'mean', means, len(widest), aupro)


def _class_line(head, rows):
  line = _line(head, rows[0]['normal_class'], rows[0]['normal_name'],
               [float(row['auroc']) for row in rows], 1,
               [row.get('aupro') for row in rows])
  if len(rows) == 1:
    line |= {key: rows[0][key] for key in ('auroc_low', 'auroc_high')}
  return line


def _line(head, normal_class, normal_name, values, n_classes, aupro):
  mean = statistics.fmean(values)
  line = head | {
      'normal_class': normal_class, 'normal_name': normal_name,
      'n_seeds': len(values), 'n_classes': n_classes,
      'auroc_mean': f'{mean:.2f}',
      'auroc_sd': f'{statistics.stdev(values):.2f}' if values[1:] else ''}
  if all(aupro):
    line['aupro_mean'] = f'{statistics.fmean(map(float, aupro)):.2f}'
  paper = _paper(head, normal_class)
  of_classes = CLASSES.get(head['dataset'], '')
  line['of_classes'] = of_classes if normal_class == 'mean' else 1
  if paper:
    line |= {'paper': paper['auroc'], 'paper_spread': paper['spread']}
    if line['of_classes'] == n_classes:  # else a mean over other classes
      line['gap'] = f"{mean - float(paper['auroc']):+.2f}"
  return line


@functools.cache
def published() -> dict[tuple[str, ...], dict[str, str]]:
  """Returns the papers' rows by data set, pretext, classifier, level, class."""
  rows = read(pathlib.Path(__file__).with_name('published.csv'), ('auroc',))
  found = {}
  for row in rows:  # the first of two wins: table 7 goes before 8 to 11
    found.setdefault((row['dataset'], row['pretext'], row['classifier'],
                      row['level'], row['normal_class']), row)
  return found


def _paper(head, normal_class):
  """Returns the published row, None where the paper has none.

  The papers evaluate pooled features, a random encoder's among them, on whole
  test sets; of an encoder of patches, the heat map and its maximum.
  """
  if head['protocol'] != 'one_vs_rest':
    return None
  level = head['level'] or 'image'
  if head['pretext'].endswith('_patch'):
    shown = {'windows': head['pretext']}
  elif level == 'pixel':
    shown = {'gradcam': head['pretext']}
  else:
    shown = {'pool': head['pretext'], 'score': head['pretext'],
             'random': 'random'}
  classifiers = [head['classifier']]
  if head['dataset'] == 'mvtec_ad' and classifiers[0].startswith('gde'):
    # One paper does not say which covariance, the other not even that.
    classifiers += ['gde', '']
  return next(filter(None, (
      published().get((head['dataset'], shown.get(head['feature']), name, level,
                       normal_class)) for name in classifiers)), None)


def show(summary: Sequence[Mapping[str, object]]) -> str:
  """Returns the summary as text: for each experiment the means over classes,
  or, where it is a single run, that run's AUROC with its interval."""
  blocks = {}
  for line in summary:
    blocks.setdefault(tuple(line[key] for key in _GROUP[:5]), []).append(line)
  return '\n\n'.join(_block(key, lines) for key, lines in blocks.items())


def _block(key, lines):
  single = all(line['n_classes'] == line['n_seeds'] == 1 for line in lines) \
      and len({line['normal_class'] for line in lines}) == 2
  kept = [line for line in lines if (line['normal_class'] != 'mean') == single]
  title = '  '.join(filter(None, map(str, key)))
  if single and kept[0]['normal_class']:
    title += f"  normal: {kept[0]['normal_name'] or kept[0]['normal_class']}"
  table = [('feature', 'classifier', 'AUROC', '95 %' if single else '± SD',
            'AUPRO', 'seeds', 'classes', 'paper', 'gap')]
  table += [_cells(line, single) for line in kept]
  if not any(line.get('aupro_mean') for line in kept):
    table = [row[:4] + row[5:] for row in table]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join([title.strip() or 'results'] + [
      _aligned(row, widths) for row in table])


def _aligned(row, widths):
  cells = [cell.ljust(width) if i < 2 else cell.rjust(width)
           for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
  return '  '.join(cells).rstrip()


def _cells(line, single):
  spread = line['auroc_sd']
  if single and line.get('auroc_low'):
    spread = f"{line['auroc_low']}-{line['auroc_high']}"
  classes = str(line['n_classes'])
  if line['of_classes'] not in ('', line['n_classes']):
    classes += f" of {line['of_classes']}"  # incomplete
  paper = str(line.get('paper', ''))
  if line.get('paper_spread'):
    paper += f" ± {line['paper_spread']}"
  feature = line['feature'] + ', pixels' * (line['level'] == 'pixel')
  return (feature, line['classifier'], line['auroc_mean'], spread,
          line.get('aupro_mean', ''), str(line['n_seeds']), classes, paper,
          line.get('gap', ''))


def _natural(name: str):
  return (0, int(name), '') if name.isdecimal() else (1, 0, name)
