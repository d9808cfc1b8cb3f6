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
them against the masks: AUROC over pixels, and AUPRO up to 30 % false positives.
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
import itertools
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tqdm
from absl import flags

from deep_oc import (cli, embeddings, errors, files, oneclass, progress,
                     provenance, rendering, tables, thresholds)
from deep_oc import scored as scored_runs
from deep_oc.errors import InputError
from deep_oc.scored import EVERYTHING, Key, Request, Score, Scored

_BASELINES = ('random', 'pixels', 'random_windows', 'random_gradcam',
              'random_task')
_PIXEL_CLASSIFIERS = ('ocsvm_rbf', 'kde')
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


def choose(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray],
           wanted: Sequence[str] | None, where: object,
           maps: Sequence[str] = ()) -> list[str]:
  """Returns the features to evaluate, then 'score', then the names of maps.

  Raises:
    InputError: a wanted one is not there, or train and test do not match.
  """
  train, features = embeddings.features(train), embeddings.features(test)
  known = [*features, *['score'] * bool(embeddings.scores(test)), *maps]
  for name in wanted or ():
    if name not in known:
      raise errors.unknown(f'feature in {where}', name, known)
  chosen = [name for name in known if not wanted or name in wanted]
  for name in chosen:
    if name in features:
      _check_match(name, train.get(name), test[name], where)
  if not chosen:
    raise InputError(f'{where}/embeddings/test.npz holds no feature, f32[n, d]')
  return chosen


def _check_match(name, train, test, where):
  if train is None:
    raise InputError(f"'{name}' is in {where}/embeddings/test.npz but not in "
                     'train.npz; embed again')
  if train.shape[1] != test.shape[1] or not train.shape[1]:
    raise InputError(f"'{name}' in {where}/embeddings has {train.shape[1]} "
                     f'columns in train.npz but {test.shape[1]} in test.npz')
  if len(train) < 2:
    raise InputError(f'{where}/embeddings/train.npz holds {len(train)} rows; '
                     'a classifier needs two at least')


def score(train: np.ndarray, test: np.ndarray, classifier: str, seed: int,
          request: Request = EVERYTHING, unseen: np.ndarray | None = None
          ) -> Score:
  """Fits to f[n, d] and scores f[m, d]; sees no label, so none can leak.

  Normal rows f[k, d] that nothing has learnt from calibrate the alarms, if
  there are `unseen` ones.
  """
  limit, rate = request.limit, request.false_alarm_rate
  fitted = oneclass.fit(classifier, train, seed, limit)
  scores = oneclass.anomaly_score(fitted, test)
  alarms = None
  if rate and unseen is None:
    alarms = thresholds.alarms(train, test, classifier, rate, seed, limit)
  elif rate:
    alarms = thresholds.unseen_alarms(
        oneclass.anomaly_score(fitted, unseen), scores, rate)
  return Score(
      scores, json.dumps(oneclass.parameters(fitted, limit), sort_keys=True),
      str(min(len(train), limit)), alarms)


def score_features(train: Mapping[str, np.ndarray],
                   test: Mapping[str, np.ndarray], features: Sequence[str],
                   request: Request, seed: int,
                   unseen: Mapping[str, np.ndarray] | None = None,
                   task: str = '') -> Iterable[tuple[Key, Score]]:
  """Yields the scores of all classifiers on all features, and the task's.

  Of the latter there are alarms only by images that are `unseen`. The name of
  the `task` says which classifier `oneclass.recommended` adds.
  """
  unseen = unseen or {}
  rate, own = request.false_alarm_rate, embeddings.scores(unseen)
  for feature in features:
    if feature == 'score':
      for name, values in embeddings.scores(test).items():
        yield Key(feature, name, 'image'), Score(
            values, alarms=_alarms(own.get(name), values, rate))
      continue
    for name in request.classifiers or _default(feature, train[feature], task):
      yield Key(feature, name, 'image'), score(
          train[feature], test[feature], name, seed, request,
          unseen.get(feature))


def _alarms(unseen: np.ndarray | None, scores: np.ndarray, rate: float | None
            ) -> thresholds.Alarms | None:
  """Returns the alarms of scores f[m], None without a rate or unseen f[k]."""
  if not rate or unseen is None:
    return None
  return thresholds.unseen_alarms(unseen, scores, rate)


def _default(feature: str, train: np.ndarray, task: str) -> tuple[str, ...]:
  """Returns the classifiers for f[n, d], unless some are asked for."""
  if feature == 'pixels':
    return _PIXEL_CLASSIFIERS
  return tuple(dict.fromkeys(
      (*oneclass.PUBLISHED, oneclass.recommended(task, *train.shape))))


def score_maps(arrays: Mapping[str, np.ndarray], names: Sequence[str],
               meta: Mapping[str, object], rate: float | None = None
               ) -> Iterable[tuple[Key, Score]]:
  """Yields heat maps as the scores of pixels, and of windows the maxima.

  What Grad-CAM and the task itself explain has a score already. With a
  false-alarm rate the maxima have alarms, if those of images that nothing has
  learnt from are known.
  """
  params = dict(meta.get('map_params') or {})
  classifier = str(params.pop('classifier', ''))
  given = json.dumps(params, sort_keys=True), str(meta.get('n_train', ''))
  unseen = meta.get('calibration') or {}
  for name in names:
    values = arrays[f'map_{name}']
    if name.endswith('windows'):
      largest = values.max(axis=(1, 2))
      yield Key(name, classifier, 'image'), Score(
          largest, *given, _alarms(unseen.get(name), largest, rate))
    if 'mask' in arrays:
      yield Key(name, classifier, 'pixel'), Score(values, *given)


def score_run(workdir: pathlib.Path, request: Request = EVERYTHING) -> Scored:
  """Fits all classifiers to all features of a run, and scores its test set.

  Raises:
    InputError: the embeddings are unfit, or too few; the run is named.
  """
  train, test, meta = embeddings.read_run(workdir)
  maps, map_meta = read_maps(workdir, test, meta)
  names = [name.removeprefix('map_') for name in maps
           if name.startswith('map_')]
  chosen = choose(train, test, request.features, workdir, names)
  unseen = {}
  if request.false_alarm_rate:
    unseen = embeddings.read_calibration(workdir, train, meta)
  _drop_masks_of_one_kind(workdir, maps)
  found = _unscored(test, meta, maps.get('mask'))
  del test['anomaly']
  scored = itertools.chain(
      score_features(train, test, [name for name in chosen
                                   if name not in names],
                     request, seed_of(meta), unseen,
                     str(meta.get('task') or meta.get('pretext', ''))),
      score_maps(maps, [name for name in names if name in chosen], map_meta,
                 request.false_alarm_rate))
  try:
    for array in unseen.values():
      thresholds.rank(request.false_alarm_rate, len(array))  # before the fits
    found.scores.update(progress.bar(scored, str(workdir), unit='scores',
                                     leave=False))
  except InputError as error:  # of arrays that know no run
    raise InputError(f'{workdir}: {error}') from error
  if not found.scores:
    raise InputError(f'{workdir}: {" and ".join(chosen)} score neither images '
                     'nor, without masks of both kinds, pixels; ask for other '
                     '--features')
  return found


def _unscored(test, meta, mask=None):
  """Returns a run that has no scores yet."""
  anomaly = test['anomaly'] != 0
  return Scored(
      {key: str(meta[key]) for key in tables.RESULTS if key in meta}, anomaly,
      mask, test.get('index', np.arange(len(anomaly))), path=test.get('path'))


def _drop_masks_of_one_kind(workdir, maps):
  """Removes masks by which no map can be measured, and says so."""
  mask = maps.get('mask')
  if mask is not None and (mask.all() or not mask.any()):
    kind = 'full' if mask.any() else 'empty'
    print(f'warning: {workdir}: all {len(mask)} masks are {kind}, so there are '
          'no results of pixels', file=sys.stderr)
    del maps['mask']


def read_maps(workdir: pathlib.Path, test: Mapping[str, np.ndarray],
              meta: Mapping[str, object]) -> tuple[dict, dict]:
  """Returns `embeddings.read_maps` of a run whose test file holds these.

  Raises:
    InputError: the file is damaged, or of another run, step or set of images.
  """
  maps, map_meta = embeddings.read_maps(workdir, meta)
  for array in maps.values():
    if len(array) != len(test['anomaly']):
      raise InputError(f'the maps of {workdir} are of other images than its '
                       'test.npz; localize again')
  return maps, map_meta


def seed_of(about: Mapping[str, object]) -> int:
  """Returns the seed of a run by its meta or rows, 0 if that is no number."""
  seed = str(about.get('seed', ''))
  return int(seed) if seed.isdecimal() else 0


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
  return write(workdir, score_run(workdir, request))


def draw(workdir: pathlib.Path) -> pathlib.Path | None:
  """Draws the heat maps of a run; returns the folder, None without maps.

  Of several that are no baselines, each has a folder in it, by its name.

  Raises:
    InputError: the file holds nothing to draw them on or to name them by.
  """
  arrays, meta = embeddings.read_maps(workdir)
  names = [name for name in arrays
           if name.startswith('map_') and 'random' not in name]
  if not names:
    return None
  for name in ('image', 'label', 'anomaly', 'class_names'):
    if name not in arrays | meta:
      raise InputError(f"{workdir}/embeddings/maps.npz lacks '{name}', so its "
                       'maps cannot be drawn; --nopictures does without')
  from deep_oc import pictures  # and matplotlib, for those who draw
  folder = workdir / 'pictures'
  places = [folder] if len(names) == 1 else [
      folder / own for own in pictures.file_names(
          [name.removeprefix('map_') for name in names])]
  for name, place in zip(names, places, strict=True):
    maps = arrays[name]
    scores, title = _explained(workdir, name, maps, meta)
    pictures.write(
        place, images=arrays['image'], maps=maps, masks=arrays.get('mask'),
        scores=scores, title=title, anomaly=arrays['anomaly'],
        labels=arrays['label'], class_names=meta['class_names'],
        paths=arrays.get('path'), command=provenance.command())
  return folder


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
      values = score(train['pool'], test['pool'], classifier,
                     seed_of(meta)).values
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
        scored = score_run(workdir, request)
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
    planned.add(workdir, _unscored(test, meta))


def _ensemble_rows(ensembles, pattern):
  rows = [write(folder, mean) for folder, mean in ensembles.means()]
  if not rows:
    print(f"warning: no ensemble: no two runs at '{pattern}' differ in their "
          'seeds only', file=sys.stderr)
  return sum(rows, [])


if __name__ == '__main__':
  cli.run(main, define_flags)
