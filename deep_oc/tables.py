"""Results of many runs as one table, beside the published numbers."""
import csv
import functools
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from deep_oc import files, provenance
from deep_oc.errors import InputError

RESULTS = (
    'experiment', 'dataset', 'protocol', 'normal_class', 'normal_name', 'seed',
    'pretext', 'encoder', 'step', 'checkpoint_rule', 'feature', 'classifier',
    'classifier_params', 'level', 'auroc', 'auroc_low', 'auroc_high', 'auprc',
    'auprc_low', 'auprc_high', 'fpr95', 'fpr95_low', 'fpr95_high', 'aupro',
    'aupro_low', 'aupro_high', 'false_alarm_rate', 'false_alarms',
    'false_alarms_low', 'false_alarms_high', 'detected', 'calibration',
    'n_train', 'n_test_normal', 'n_test_anomalous', 'config_hash')
SUMMARY = (
    'experiment', 'dataset', 'protocol', 'pretext', 'encoder', 'feature',
    'classifier', 'level', 'normal_class', 'normal_name', 'n_seeds',
    'n_classes', 'of_classes', 'auroc_mean', 'auroc_sd', 'auroc_low',
    'auroc_high', 'aupro_mean', 'aupro_low', 'aupro_high', 'false_alarms_mean',
    'detected_mean', 'calibration', 'paper', 'paper_spread',
    'paper_spread_kind', 'gap')
_GROUP = SUMMARY[:8]
_MEANS = ('aupro', 'false_alarms', 'detected')  # averaged where all have them

# How many classes the paper's mean is over.
CLASSES = {'cifar10': 10, 'cifar100_coarse': 20, 'fashion_mnist': 10,
           'cat_vs_dog': 2, 'celeba': 1, 'mvtec_ad': 15}

# The data sets whose 43 classes Sohn et al., table 7, average, by what the
# names of their experiments end in.
TOTAL = {'cifar10': ('cifar10',),
         'cifar100_coarse': ('cifar100_coarse', 'cifar20'),
         'fashion_mnist': ('fashion_mnist', 'fmnist'),
         'cat_vs_dog': ('cat_vs_dog', 'catdog'), 'celeba': ('celeba',)}


def define_flag(name: str, text: str, **more: object) -> None:
  """Defines a flag that names a CSV for `write`, and not what lies beside."""
  flags.DEFINE_string(name, None, text, **more)
  flags.register_validator(
      name, lambda path: not str(path).endswith('.json'),
      'names the CSV; what made it goes beside it, as .json')


def write(path: str | os.PathLike, columns: Sequence[str],
          rows: Iterable[Mapping[str, object]],
          about: Mapping[str, object] | None = None) -> None:
  """Writes these columns of the rows as CSV; a missing value is empty.

  A path may be in any encoding; see `provenance.written`.

  What made it, and what else there is to say about it, is beside it, as JSON
  (`deep_oc.provenance`).
  """
  with files.replacing(path) as file:
    writer = csv.DictWriter(file, columns, restval='', extrasaction='ignore',
                            lineterminator='\n')
    writer.writeheader()
    writer.writerows(map(_written, rows))
  provenance.write(path, about)


def _written(row):
  return {key: provenance.written(cell) if isinstance(cell, str) else cell
          for key, cell in row.items()}


def read(path: str | os.PathLike, columns: Sequence[str] = RESULTS
         ) -> list[dict[str, str]]:
  """Returns the rows of a CSV that has at least these columns.

  Raises:
    InputError: the file cannot be read, lacks a column, a row of it ends early
      or has something else where a result stands.
  """
  try:
    with files.path(path).open(encoding='utf-8', newline='') as file:
      reader = csv.DictReader(file)
      rows, found = list(reader), reader.fieldnames or ()
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f'cannot read {path} ({error})') from error
  missing = [name for name in columns if name not in found]
  if missing:
    raise InputError(f"{path} lacks the column '{missing[0]}'; delete it and "
                     'evaluate again')
  if any(None in row.values() for row in rows):
    raise InputError(f'{path} has a row that ends early; delete it and '
                     'evaluate again')
  if 'auroc' in columns:
    _check_numbers(path, rows)
  return rows


def _check_numbers(path, rows):
  for row in rows:
    for name in ('auroc', *filter(row.get, _MEANS)):
      try:
        number = math.isfinite(float(row[name]))
      except ValueError:
        number = False
      if not number:
        raise InputError(f"'{name}' in {path} is '{row[name]}' and no number; "
                         'delete it and evaluate again')


def summarize(rows: Iterable[Mapping[str, str]]) -> list[dict[str, object]]:
  """Averages results over seeds: a row per class, and one for their mean.

  Our spread is the standard deviation over seeds; 'paper_spread_kind' tells
  what the paper's is, of five: 'sd5', or 'se5', the mean's standard error.

  Rows are those of `read`, with 'run', where each comes from. A data set named
  family/category, as 'mvtec_ad/bottle', is a class of its family. The row of
  the mean averages per seed over the classes, then over the seeds that have
  the same classes as the first of those with the most.

  At the end, as the data set 'all', stand the methods with results on several
  of the data sets of TOTAL, experiments named <method>_<data set>: a row per
  data set, the 'mean' over its classes; the 'mean' over all classes, as in the
  paper, and the 'plain_mean' over data sets, both with the number of classes.

  Raises:
    InputError: two runs are of one class and seed, but not one result; or of
      one class, but trained for more and for fewer steps.
  """
  groups = {}
  for row in map(_as_class, rows):
    group = groups.setdefault(tuple(row.get(key, '') for key in _GROUP), {})
    seeds = group.setdefault(row['normal_class'], {})
    _check_same(seeds.setdefault(row['seed'], row), row)
    _check_step(next(iter(seeds.values())), row)
  lines = [line for key, group in groups.items()
           for line in _lines(dict(zip(_GROUP, key, strict=True)), group)]
  return lines + list(_totals(groups, lines))


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


def _check_step(old, new):
  """Checks that two rows of a class are of equally long trainings."""
  if old['step'] != new['step']:
    raise InputError(
        f"{old['run']} was trained for {old['step'] or '?'} steps but "
        f"{new['run']} for {new['step'] or '?'}, so their mean is of no one "
        'training; summarize them apart: --runs=...')


def _lines(head, group):
  """Yields the lines of {class: {seed: row}}, the last one of the mean."""
  for name in sorted(group, key=natural):
    yield _class_line(head, list(group[name].values()))
  complete = _complete(group)
  rows = [row for found in complete for row in found.values()]
  yield _line(head, 'mean', 'mean', list(map(_mean, complete)),
              len(complete[0]), CLASSES.get(head['dataset'], ''), rows)


def _complete(group):
  """Returns {class: row} of each seed with the classes of the widest one."""
  by_seed = {}
  for name, seeds in group.items():
    for seed, row in seeds.items():
      by_seed.setdefault(seed, {})[name] = row
  first = max(sorted(by_seed, key=natural), key=lambda seed: len(by_seed[seed]))
  widest = by_seed[first].keys()
  return [found for found in by_seed.values() if found.keys() == widest]


def _mean(found):
  return statistics.fmean(float(row['auroc']) for row in found.values())


def _totals(groups, lines):
  """Yields the lines of 'all' data sets."""
  means = {tuple(line[key] for key in _GROUP): line for line in lines
           if line['normal_class'] == 'mean'}
  methods = {}
  for key, group in groups.items():
    head = dict(zip(_GROUP, key, strict=True))
    dataset = head['dataset']
    if dataset in TOTAL:
      method = head | {'experiment': _method(head), 'dataset': 'all'}
      of_all, parts = methods.setdefault(tuple(method.values()), ({}, {}))
      of_all |= {(dataset, name): seeds for name, seeds in group.items()}
      parts[dataset] = means[key] | method | {
          'normal_class': dataset, 'normal_name': dataset}
  for key, (group, parts) in methods.items():
    if len(parts) > 1:
      yield from (parts[name] for name in TOTAL if name in parts)
      yield from _total_lines(dict(zip(_GROUP, key, strict=True)), group)


def _method(head):
  """Returns the experiment's name less that of its data set."""
  return next((head['experiment'].removesuffix(f'_{end}')
               for end in TOTAL[head['dataset']]
               if head['experiment'].endswith(f'_{end}')), head['experiment'])


def _total_lines(head, group):
  """Yields the means of {(data set, class): {seed: row}}."""
  complete = _complete(group)
  size = len(complete[0]), sum(CLASSES[name] for name in TOTAL)
  plain = []
  for found in complete:
    parts = {}
    for (dataset, _), row in found.items():
      parts.setdefault(dataset, []).append(float(row['auroc']))
    plain.append(statistics.fmean(map(statistics.fmean, parts.values())))
  rows = [row for found in complete for row in found.values()]
  yield _line(head, 'mean', 'mean', list(map(_mean, complete)), *size,
              tested=rows)
  yield _line(head, 'plain_mean', 'plain mean', plain, *size)


def _class_line(head, rows):
  line = _line(head, rows[0]['normal_class'], rows[0]['normal_name'],
               [float(row['auroc']) for row in rows], 1, 1, rows)
  if len(rows) == 1:
    line |= {f'{name}_{end}': rows[0][f'{name}_{end}']
             for name in ('auroc', 'aupro') for end in ('low', 'high')}
  return line


def _line(head, normal_class, normal_name, values, n_classes, of_classes,
          rows=(), tested=()):
  mean = statistics.fmean(values)
  line = head | {
      'normal_class': normal_class, 'normal_name': normal_name,
      'n_seeds': len(values), 'n_classes': n_classes, 'of_classes': of_classes,
      'auroc_mean': f'{mean:.2f}',
      'auroc_sd': f'{statistics.stdev(values):.2f}' if values[1:] else '',
      'calibration': _calibration(rows)}
  for name in _MEANS if rows else ():
    found = [row.get(name) for row in rows]
    if all(found):
      line[f'{name}_mean'] = f'{statistics.fmean(map(float, found)):.2f}'
  paper = _paper(head, normal_class)
  if paper and all(map(_of_its_images, (*rows, *tested))):
    line |= {'paper': paper['auroc'], 'paper_spread': paper['spread'],
             'paper_spread_kind': paper['spread_kind']}
    if of_classes == n_classes:  # else a mean over other classes
      line['gap'] = f"{mean - float(paper['auroc']):+.2f}"
  return line


def _of_its_images(row):
  """Says whether a row may be of the images that the paper tested on.

  Of cats and dogs TFDS leaves fewer of them, and others, than Kaggle.
  """
  return row['dataset'] != 'cat_vs_dog' or (
      row['n_test_normal'], row['n_test_anomalous']) == ('2500', '2500')


def _calibration(rows):
  """Returns by which images the rows' alarms are calibrated, '' if not all are.

  Where not all are by as many, of what kinds these are: 'unseen'.
  """
  found = {row.get('calibration', '') for row in rows}
  if len(found) > 1:
    found = {each.rpartition('_')[0] for each in found}
  return '' if '' in found else ', '.join(sorted(found))


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
  if head['pretext'].endswith('_patch') or head['pretext'] == 'patch_svdd':
    shown = {'windows': head['pretext']}
  elif level == 'pixel':
    shown = {name: head['pretext'] for name in ('gradcam', 'task')}
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


def natural(name: str) -> tuple[int, int, str]:
  """Returns a key by which classes are in the order of numbers, then names."""
  return (0, int(name), '') if name.isdecimal() else (1, 0, name)
