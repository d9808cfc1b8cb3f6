"""Curves of AUROC over contamination, from the results of evaluated runs.

  python results/contamination.py --runs='runs/small_fmnist_*/**' \\
      --output=results/contamination_fmnist.csv

A row for each method, feature, classifier, share, class and seed, and the means
over classes and seeds as a picture beside it.
"""
import glob
import pathlib
import re
import statistics

import matplotlib
from absl import flags

from deep_oc import cli, tables

COLUMNS = ('dataset', 'pretext', 'feature', 'classifier', 'contamination',
           'normal_class', 'normal_name', 'seed', 'auroc', 'auroc_low',
           'auroc_high', 'n_train')

# What the picture shows, by feature and classifier.
SHOWN = {('pool', 'kde'): '{} + KDE', ('score', 'rotation'): "{}'s own score",
         ('random', 'kde'): 'untrained encoder + KDE',
         ('pixels', 'kde'): 'pixels + KDE'}


def define_flags() -> None:
  flags.DEFINE_string('runs', 'runs/**', 'Folders of evaluated runs.')
  tables.define_flag('output', 'The CSV; the picture goes beside it.',
                     required=True)


def read(pattern: str) -> list[dict[str, object]]:
  """Returns the rows of image scores, with 'contamination' in percent."""
  rows = []
  for path in sorted(glob.glob(f'{pattern}/results.csv', recursive=True)):
    for row in tables.read(path):
      share = re.fullmatch(r'contaminated_(.+)%', row['protocol'])
      if share or row['protocol'] == 'one_vs_rest':
        rows.append(row | {'contamination': float(share[1]) if share else 0.})
  return [row for row in rows if row['level'] == 'image']


def curves(rows: list[dict[str, object]]
           ) -> dict[str, dict[float, list[float]]]:
  """Returns by what it is called {contamination: AUROC of each run}."""
  found = {}
  for row in rows:
    title = SHOWN.get((row['feature'], row['classifier']))
    # The baselines are the same for both methods; they are counted once.
    if title and (row['pretext'] == 'rotation' or '{}' in title):
      name = title.format({'dacl': 'DACL'}.get(row['pretext'], row['pretext']))
      found.setdefault(name, {}).setdefault(row['contamination'], []).append(
          float(row['auroc']))
  return found


def draw(found: dict[str, dict[float, list[float]]], path: pathlib.Path
         ) -> None:
  """Draws the means over runs."""
  matplotlib.use('Agg')
  from matplotlib import pyplot
  figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
  for marker, (name, curve) in zip('osv^Dx', sorted(found.items()),
                                   strict=False):
    x = sorted(curve)
    axes.plot(x, [statistics.fmean(curve[each]) for each in x],
              marker=marker, label=name)
  axes.set(xlabel="other classes' share of the training images, %",
           ylabel='AUROC, mean over classes, %')
  axes.set_xticks(sorted({x for curve in found.values() for x in curve}))
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
  figure.savefig(path, dpi=150)


def main() -> None:
  rows = read(flags.FLAGS.runs)
  output = pathlib.Path(flags.FLAGS.output)
  tables.write(output, COLUMNS, rows)
  found = curves(rows)
  draw(found, output.with_suffix('.png'))
  for name, curve in sorted(found.items()):
    print(f'{name:28}', '  '.join(
        f'{share:g} %: {statistics.fmean(curve[share]):.1f}'
        f' ({len(curve[share])})' for share in sorted(curve)))


if __name__ == '__main__':
  cli.run(main, define_flags)
