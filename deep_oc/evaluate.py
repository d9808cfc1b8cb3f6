"""Stage 2: one-class classifiers on the features of trained runs.

  python -m deep_oc.evaluate                        # every run under ./runs
  python -m deep_oc.evaluate --runs='runs/dacl_cifar10/*/seed0'

A run is a folder with embeddings/train.npz, whose rows are all normal, and
embeddings/test.npz (deep_oc.embeddings says what is in them; any program can
write them). For each run classifiers are fitted to every feature of the
training file alone and score the test file; `results.csv` in the run's folder
gets a row for each: AUROC, AUPRC (anomalies are the positive class) and the
false positive rate at 95 % recall, in percent, with their 95 % intervals, by
DeLong and by bootstrap. Scores are higher for the more anomalous. The pretext
task's own scores stand in rows with the feature 'score'.

Two baselines stand beside: 'random', the encoder before training, and 'pixels',
the images themselves, which by default only ocsvm_rbf and kde are fitted to (on
3,072 pixels the Gaussian takes most of a minute, the others tell nothing new).

By default the classifiers are the paper's five. With fewer images than columns,
as on MVTec AD, `gde` rests on an arbitrary constant; there, and for CutPaste,
`gde_ledoit_wolf`, which shrinks its covariance, joins them. Others are asked
for, --classifiers=gde_oas,knn; with _raw at the end, features keep their
length. Each may have parameters, and any class of scikit-learn or PyOD goes by
its import path; deep_oc.estimators says more. A | between values is a sweep, a
row for each; --features takes layers:

  --classifiers='kde(gamma_scale=1|3|10),sklearn.covariance.EllipticEnvelope'

--false_alarm_rate=0.05 flags test images by a threshold from normal images
alone (deep_oc.thresholds): from those that nothing has learnt from, where the
run has held some out by --config.protocol.calibration=0.1, else from training
images, held out from a second fit. The latter the encoder has seen, and if it
has learnt them by heart, it raises more false alarms than asked for. The
columns say how many normals were flagged, between what numbers that should lie,
and how many anomalies; p_values.csv in the run's folder has each image's
conformal p-values, flagged are those up to the rate.

If the run has heat maps, embeddings/maps.npz, rows of the level 'pixel' measure
them against the masks: AUROC over pixels, and AUPRO up to 30 % false positives,
with intervals that know that the pixels of an image are alike.
The maxima of a map of windows score images. Every test image is drawn with its
map into `pictures` (--nopictures does without). --ensemble also averages the
scores of runs that differ in their seeds only.

At the end the rows of all runs become one summary.csv: a row per class and one
for the mean over classes, mean and SD over seeds, beside the published numbers;
of methods with several of the paper's five data sets also the mean over its 43
classes. summary.md and summary.tex hold it as tables. A run whose embeddings,
flags and code are those of the last time is not evaluated again (--noreuse),
unless by a class that is neither ours nor scikit-learn's.

JAX is not needed.
"""
import glob
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import tqdm
from absl import flags

from deep_oc import (cli, embeddings, files, oneclass, progress, provenance,
                     rendering, run_scores, tables, thresholds)
from deep_oc import scored as scored_runs
from deep_oc.errors import InputError
from deep_oc.scored import EVERYTHING, Request, Scored

_BASELINES = ('random', 'pixels', 'random_windows', 'random_gradcam',
              'random_task')
_WORSE = 1  # points of AUROC that are worth a warning
_ESCAPED = re.compile(r'\[([*?[])\]')  # by glob.escape


def define_flags() -> None:
  flags.DEFINE_string(
      'runs', 'runs/**', 'Folders of runs, or folders above them; * and ** '
      'work. May be s3://bucket/runs/**, gs:// or another protocol of fsspec.')
  flags.DEFINE_string(
      'classifiers', None, 'Some of: ' + ', '.join(oneclass.CLASSIFIERS) +
      f". By default the first {len(oneclass.PUBLISHED)}, on pixels two; for "
      'CutPaste and with fewer images than columns take gde_ledoit_wolf, not '
      'gde. Parameters '
      "stand in parentheses, a | between values to sweep: 'knn(k=1|5),kde'. "
      'Other classes of scikit-learn and PyOD go by their import paths.')
  flags.DEFINE_list(
      'features', None, "Names of arrays in the embeddings, 'score' for the "
      "pretext task's own scores. By default all.")
  flags.DEFINE_integer(
      'limit', oneclass.LIMIT, 'Training rows fitted at most; of more, a '
      'random subset.', 2)
  flags.DEFINE_float(
      'false_alarm_rate', None, 'The share of normal images that may be '
      'flagged, 0.05 for example. Adds columns on how many were, and '
      "p_values.csv to the run's folder; classifiers are fitted twice, unless "
      'images were held out of the training.')
  flags.DEFINE_bool(
      'ensemble', False, 'Also average the scores of the seeds of each '
      'experiment and class; the results lie beside them, in `ensemble_seed0` '
      'where `seed0` is the first.')
  flags.DEFINE_bool(
      'reuse', True, 'Take the results of runs that were evaluated with the '
      'same flags, code and embeddings.')
  flags.DEFINE_bool('pictures', True, 'Draw the heat maps, if there are any.')
  tables.define_flag(
      'output', 'Where the summary goes; by default summary.csv in the '
      'folder before the first * of --runs. The .md and .tex go beside it.')
  flags.register_validator(
      'output', lambda path: not str(path).endswith(('.md', '.tex')),
      'names the CSV; the .md and .tex go beside it')


def find_runs(pattern: str) -> list[pathlib.Path]:
  """Returns the folders of runs at the pattern and below, sorted.

  Raises:
    InputError: there is none.
  """
  if not pattern:  # all of the disk would be at it
    raise InputError('--runs is empty; give folders of runs')
  found = {files.path(path).parent.parent
           for below in ('', '/**')
           for name in ('train.npz', 'test.npz')
           for path in files.glob(f'{pattern}{below}/embeddings/{name}')}
  if not found:
    begun = [path for below in ('', '/**')
             for path in files.glob(f'{pattern}{below}/config.json')]
    hint = ('it has not been trained to its end: the same command of `train` '
            'goes on' if begun else 'train one, or give --runs=...')
    raise InputError(f"no run at '{pattern}': no folder there holds "
                     f'embeddings/test.npz; {hint}')
  return sorted(found)


def write(workdir: pathlib.Path, scored: Scored) -> list[dict[str, str]]:
  """Writes the results.csv of a run and returns its rows.

  And p_values.csv with a false-alarm rate; one of before, without a rate, goes.

  Raises:
    InputError: the file cannot be written.
  """
  rows = scored.rows()
  tables.write(workdir / 'results.csv', tables.RESULTS, rows)
  p_values = scored.p_values()
  if p_values:
    tables.write(workdir / 'p_values.csv', list(p_values[0]), p_values)
  else:
    for suffix in ('csv', 'json'):
      (workdir / f'p_values.{suffix}').unlink(missing_ok=True)
  return [row | {'run': str(workdir)} for row in rows]


def evaluate(workdir: pathlib.Path, request: Request = EVERYTHING
             ) -> list[dict[str, str]]:
  """Evaluates a run, writes its results.csv and returns the rows.

  Raises:
    InputError: the embeddings are unfit, or the file cannot be written.
  """
  return write(workdir, run_scores.score_run(workdir, request))


def draw(workdir: pathlib.Path) -> pathlib.Path | None:
  """Draws the heat maps of a run; returns the folder, None without maps.

  Of several that are no baselines, each has a folder in it, by its name. What
  was drawn there of others is removed.

  Raises:
    InputError: the file holds nothing to draw them on or to name them by.
  """
  arrays, meta = embeddings.read_maps(workdir)
  names = [name for name in arrays
           if name.startswith('map_') and 'random' not in name]
  folder = workdir / 'pictures'
  if not names and not files.exists(folder):
    return None
  lacking = [name for name in ('image', 'label', 'anomaly', 'class_names')
             if name not in arrays | meta]
  if names and lacking:
    raise InputError(f"{workdir}/embeddings/maps.npz lacks '{lacking[0]}', so "
                     'its maps cannot be drawn; --nopictures does without')
  from deep_oc import pictures  # and matplotlib, for those who draw
  kinds = [''] if len(names) == 1 else pictures.file_names(
      [name.removeprefix('map_') for name in names])
  written = []
  for name, kind in zip(names, kinds, strict=True):
    maps = arrays[name]
    scores, title = _explained(workdir, name, maps, meta)
    written += pictures.write(
        folder, within=kind, images=arrays['image'], maps=maps,
        masks=arrays.get('mask'), scores=scores, title=title,
        anomaly=arrays['anomaly'], labels=arrays['label'],
        class_names=meta['class_names'], paths=arrays.get('path'),
        command=provenance.command())
  pictures.remove_others(folder, written)
  return folder if names else None


def _explained(workdir, name, maps, meta):
  """Returns the image scores f[n] that maps f[n, h, w] explain, and of what
  feature and classifier they are, 'pool, gde_oas'.

  Where the scores are not known, the maxima of the maps.
  """
  feature, values = name.removeprefix('map_'), maps.max(axis=(1, 2))
  classifier = (meta.get('map_params') or {}).get('classifier')
  if feature == 'task':
    feature = 'score'
    values = embeddings.read_run(workdir)[1][f'score_{classifier}']
  elif classifier and not feature.endswith('windows'):
    train, test, _ = embeddings.read_run(workdir)
    if 'pool' in train:
      feature = 'pool'
      values = run_scores.score(train['pool'], test['pool'], classifier,
                                run_scores.seed_of(meta)).values
  return values, f'{feature}, {classifier}' if classifier else feature


def warn(workdir: pathlib.Path, rows: Iterable[Mapping[str, str]]) -> None:
  """Says which learnt scores are worse than guessing, or than none."""
  rows = list(rows)
  low = [f"{row['feature']}/{row['classifier']} {row['auroc']}" for row in rows
         if float(row['auroc']) < 50 and row['feature'] not in _BASELINES]
  if low:
    print(f"warning: {workdir}: AUROC below 50: {', '.join(low)}: worse "
          'than guessing, or `anomaly` is inverted (True = anomalous)',
          file=sys.stderr)
  trained, untrained = ({
      row['classifier']: float(row['auroc']) for row in rows
      if row['feature'] == name and row.get('level', 'image') == 'image'}
      for name in ('pool', 'random'))
  both = sorted(trained.keys() & untrained.keys())
  if not both:
    return
  learnt, random = (np.mean([each[name] for name in both])
                    for each in (trained, untrained))
  if random - learnt > _WORSE:
    print(f'warning: {workdir}: the trained encoder is worse than the same '
          f'with random weights: AUROC {learnt:.1f} against {random:.1f}, mean '
          f'of {len(both)} classifiers; train for longer, or by another task',
          file=sys.stderr)


def root(pattern: str) -> pathlib.Path:
  """Returns the folder before the first wildcard of a pattern."""
  folder = files.path(pattern)
  while glob.has_magic(_ESCAPED.sub('', str(folder))):
    folder = folder.parent
  return files.path(_ESCAPED.sub(r'\1', str(folder)))


def main() -> None:
  chosen = flags.FLAGS
  rate = chosen.false_alarm_rate
  if rate is not None:
    thresholds.needed(rate)  # raises unless it is a rate
  request = Request(oneclass.specs(chosen.classifiers or ''),
                    chosen.features or (), chosen.limit, rate)
  reuse = chosen.reuse and not chosen.ensemble  # which needs the scores
  rows, ensembles, failures = [], scored_runs.Ensembles(), []
  workdirs = find_runs(chosen.runs)
  if chosen.ensemble:
    _check_ensembles(workdirs)
  for workdir in progress.bar(workdirs, 'evaluate', unit='runs'):
    try:
      source = scored_runs.origin(workdir, request)
      found = scored_runs.recall(workdir, source) if reuse else None
      there = (workdir / 'pictures').exists()
      drawn = found and there
      if not found:
        scored = run_scores.score_run(workdir, request)
        found = write(workdir, scored)
        if chosen.ensemble:
          ensembles.add(workdir, scored)
      warn(workdir, found)
      rows += found
      pictures = draw(workdir) if chosen.pictures and not drawn else None
      if pictures:
        tqdm.tqdm.write(f'drew {pictures}')
      # At the end: what was interrupted is done again, and what leaves the
      # pictures of other maps there.
      if source and (chosen.pictures or drawn or not there):
        scored_runs.remember(workdir, source)
    except InputError as error:  # the other runs' results are worth having
      failures.append(error)
  if chosen.ensemble:
    rows += _ensemble_rows(ensembles, chosen.runs)
  if rows:
    output = chosen.output or root(chosen.runs) / 'summary.csv'
    summary = tables.summarize(rows)
    tables.write(output, tables.SUMMARY, summary)
    beside = rendering.write(output, summary)
    print(f'{rendering.text(summary)}\n\nwrote {output}, {beside}')
  if failures:
    raise InputError(
        str(failures[0]) if len(workdirs) == 1 else
        f'{len(failures)} of {len(workdirs)} runs failed: {failures[0]}')


def _check_ensembles(workdirs):
  """Raises InputError if seeds were tested on different images."""
  planned = scored_runs.Ensembles()
  for workdir in workdirs:
    try:
      _, test, meta = embeddings.read_run(workdir, ('anomaly', 'index', 'path'))
    except InputError:  # said when it is evaluated
      continue
    planned.add(workdir, run_scores.unscored(test, meta))


def _ensemble_rows(ensembles, pattern):
  rows = [write(folder, mean) for folder, mean in ensembles.means()]
  if not rows:
    print(f"warning: no ensemble: no two runs at '{pattern}' differ in their "
          'seeds only', file=sys.stderr)
  return sum(rows, [])


if __name__ == '__main__':
  cli.run(main, define_flags)
