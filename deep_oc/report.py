"""All that runs have found, as one page that opens without any network.

  python -m deep_oc.report --runs='runs/**'

writes runs/report.html: the results beside the paper's, the mistakes as
pictures, heat maps with a threshold to move, ROC and training curves, the
protocol of each number; and where there are runs to tell it, where embeddings
lie with and without distribution augmentation, and what contamination costs. It
is one file; nothing in it is loaded from elsewhere.

The numbers of the tables are those of the runs' results.csv; a run without one
is evaluated first, and the page says so. For the curves and the pictures one
classifier is fitted again to each run, the same as in the tables: --classifier.
JAX is not needed.
"""
import datetime
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

import deep_oc
from deep_oc import (cli, evaluate, files, oneclass, progress, provenance,
                     run_scores, tables)
from deep_oc.errors import InputError
from deep_oc.page import (
    contamination,
    curves,
    heatmaps,
    markup,
    mistakes,
    protocols,
    results,
    runs,
    uniformity,
)
from deep_oc.page.markup import tag
from deep_oc.scored import Request


def define_flags() -> None:
  flags.DEFINE_string(
      'runs', 'runs/**', 'Folders of runs, or folders above them; * and ** '
      'work.')
  flags.DEFINE_string(
      'classifier', None, 'Whose scores the plots and pictures show; by '
      'default kde, of CutPaste and of fewer images than dimensions '
      'gde_ledoit_wolf.')
  flags.DEFINE_string(
      'feature', None, 'What it is fitted to; or windows: the largest value '
      "of an image's heat map; or score: the task's own, which --classifier "
      'names, or the first. By default pool, but windows of an encoder that '
      "nothing was trained in, as ImageNet's.")
  flags.DEFINE_integer(
      'details', 20, 'Runs with plots and pictures of their own; the tables '
      'have all.', 0)
  flags.DEFINE_integer(
      'limit', oneclass.LIMIT, 'Training rows fitted at most.', 2)
  flags.DEFINE_string(
      'output', None, 'The page; by default report.html in the folder before '
      'the first * of --runs.')


class Found(NamedTuple):
  """What is at a pattern.

  Attributes:
    runs: that can be shown.
    rows: all their result rows, with 'run'.
    evaluated: folders that had no results.csv before.
    failures: what could not be read, a sentence each.
  """
  runs: list[runs.Run]
  rows: list[dict[str, str]]
  evaluated: list[str]
  failures: list[InputError]


def find(pattern: str, feature: str | None = None,
         classifier: str | None = None, limit: int = oneclass.LIMIT) -> Found:
  """Returns the runs at a pattern and below, evaluated where they were not.

  Raises:
    InputError: there is none.
  """
  found = Found([], [], [], [])
  workdirs = evaluate.find_runs(pattern)
  for i, workdir in enumerate(
      progress.bar(workdirs, 'results', unit='runs'), 1):
    try:
      rows = _rows(workdir, limit, found.evaluated)
      found.runs.append(runs.find(f'run{i}', workdir, rows, feature,
                                  classifier, limit))
      found.rows.extend(rows)  # of none that is left out
    except InputError as error:  # the others are worth a page
      found.failures.append(error)
  return found


def _rows(workdir, limit, evaluated):
  path = workdir / 'results.csv'
  if path.exists():
    rows = tables.read(path)
    if not rows:
      raise InputError(f'{path} has no rows; evaluate again')
    return [row | {'run': str(workdir)} for row in rows]
  rows = evaluate.evaluate(workdir, Request(limit=limit))
  evaluated.append(str(workdir))
  return rows


def page(found: Found, command: str, details: int = 20) -> bytes:
  """Returns the page; a run that fails joins `found.failures`.

  Args:
    found: the runs.
    command: that makes it, to stand in it.
    details: how many runs have plots and pictures of their own.
  """
  sections = {'Summary': results.section(tables.summarize(found.rows),
                                         found.runs)}
  shown = choose(found.runs, details)
  sections |= {
      'Runs': tag('section', _folded(found, shown), id='runs'),
      'Uniformity': _guarded(lambda: uniformity.section(found.runs), found,
                             'uniformity'),
      'Contamination': contamination.section(found.runs),
      'Protocol': protocols.section(
          found.runs, {run.key for run in shown})}
  return markup.document(
      'Report of one-class runs', {name: each for name, each in sections.items()
                                   if each is not None},
      _introduction(found, command))


def choose(found: Sequence[runs.Run], most: int) -> list[runs.Run]:
  """Returns at most so many runs in their order, some of each experiment.

  One-vs-rest goes first, then low seeds.
  """
  count = {}
  order = {}
  for run in sorted(found, key=_plainness):
    same = run.about['experiment'], run.about['protocol']
    count[same] = count.get(same, 0) + 1
    order[run.key] = (_plainness(run), count[same])
  kept = sorted(found, key=lambda run: order[run.key])[:most]
  return [run for run in found if run in kept]


def _plainness(run):
  about = run.about
  return about['protocol'] != 'one_vs_rest', run_scores.seed_of(about)


def _folded(found, shown):
  yield tag('p', f'Each run in full, {len(shown)} of {len(found.runs)}: '
            'press its name.' + (' The others are in the tables; --details '
                                 'shows more.'
                                 if len(shown) < len(found.runs) else ''))
  for run in progress.bar(shown, 'plots and pictures', unit='runs'):
    yield _guarded(lambda run=run: _run(run, run is shown[0]), found, run.key)


def _guarded(make, found, key):
  try:
    return make()
  except InputError as error:
    if str(error) not in map(str, found.failures):
      found.failures.append(error)
    return tag('section', tag('p', str(error), class_='warning'), id=key)


def _run(run, first):
  scored = runs.read(run)
  auroc = run.row(run.feature).get('auroc')
  title = run.title() + (f': AUROC {float(auroc):.1f} %' if auroc else '')
  training = curves.training(run)
  return markup.unfold(
      tag('h3', title),
      tag('p', tag('code', str(run.workdir)), f'; scores of {run.classifier} '
          f'on {run.feature}' + '; nothing was trained' * (not run.trained) +
          '. ', tag('a', 'How the numbers came about',
                    href=f'#protocol-{run.key}'),
          class_='quiet'),
      markup.unfold('All numbers of this run', protocols.numbers(run),
                    *protocols.commands(run)),
      tag('div', curves.roc(scored), curves.histogram(scored), training,
          class_='plots'),
      None if training or not run.trained else tag(
          'p', 'No training curves: metrics.jsonl is missing, or has a single '
          'step.', class_='quiet'), mistakes.gallery(scored),
      heatmaps.gallery(scored), id=run.key, class_='run', open=first)


def _introduction(found, command):
  now = datetime.datetime.now(datetime.UTC)
  yield tag('p', f'{_count(found)}. Made by ', tag('code', command),
            f' on {now:%Y-%m-%d %H:%M} UTC with deep_oc {deep_oc.__version__}.')
  if found.evaluated:
    yield tag('p', 'Evaluated for this page, having had no results.csv: ' +
              ', '.join(found.evaluated), class_='quiet')
  for error in found.failures:
    yield tag('p', f'Left out: {error}', class_='warning')


def _count(found):
  return f'{len(found.runs)} run{"s" * (len(found.runs) != 1)}'


def main() -> None:
  chosen = flags.FLAGS
  classifier = _one(chosen.classifier)
  found = find(chosen.runs, chosen.feature, classifier, chosen.limit)
  if not found.runs:
    raise found.failures[0]
  output = files.path(
      chosen.output or evaluate.root(chosen.runs) / 'report.html')
  made = page(found, provenance.command(), chosen.details)
  with files.replacing(output, 'wb') as file:
    file.write(made)
  for workdir in found.evaluated:
    print(f'evaluated {workdir}, which had no results.csv')
  print(f'wrote {output}: {_count(found)}, {len(made) / 1e6:.1f} MB')
  if found.failures:
    raise InputError(f'{len(found.failures)} left out, as the page says: '
                     f'{found.failures[0]}')


def _one(spec):
  specs = oneclass.specs(spec or '')
  if len(specs) > 1:
    raise InputError(f'--classifier={spec} are {len(specs)}; the plots show '
                     'one')
  return specs[0] if specs else None


if __name__ == '__main__':
  cli.run(main, define_flags)
