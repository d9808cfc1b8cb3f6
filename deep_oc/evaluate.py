"""Stage 2: one-class classifiers on the features of trained runs.

  python -m deep_oc.evaluate                        # every run under ./runs
  python -m deep_oc.evaluate --runs='runs/dacl_cifar10/*/seed0'

A run is a folder with embeddings/train.npz, whose rows are all normal, and
embeddings/test.npz (deep_oc.embeddings says what is in them; any program can
write them). For each run classifiers are fitted to every feature of the
training file alone and score the test file; `results.csv` in the run's folder
gets a row for each: AUROC with its 95 % interval, AUPRC (anomalies are the
positive class) and the false positive rate at 95 % recall, in percent. Scores
are higher for the more anomalous. The pretext task's own scores stand in rows
with the feature 'score'.

Two baselines stand beside: 'random', the encoder before training, and 'pixels',
the images themselves, which by default only ocsvm_rbf and kde are fitted to (on
3,072 pixels the Gaussian takes most of a minute, the others tell nothing new).

By default the classifiers are the paper's five. With fewer images than columns,
as on MVTec AD, `gde` rests on an arbitrary constant: ask for one that shrinks
its covariance, --classifiers=gde_ledoit_wolf, or gde_oas, or gde_ridge; with
_raw at the end, features keep their length.

At the end the rows of all runs become one summary.csv: a row per class and one
for the mean over classes, mean and SD over seeds, beside the published numbers.

JAX is not needed.
"""
import glob
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tqdm
from absl import flags

from deep_oc import cli, embeddings, errors, metrics, oneclass, tables
from deep_oc.errors import InputError

_BASELINES = ('random', 'pixels')
_PIXEL_CLASSIFIERS = ('ocsvm_rbf', 'kde')


def define_flags() -> None:
  flags.DEFINE_string(
      'runs', 'runs/**', 'Folders of runs, or folders above them; * and ** '
      'work.')
  flags.DEFINE_list(
      'classifiers', None, 'Some of: ' + ', '.join(oneclass.CLASSIFIERS) +
      f". By default the first {len(oneclass.PUBLISHED)}, on pixels two; with "
      'fewer images than columns take gde_ledoit_wolf, not gde.')
  flags.DEFINE_list(
      'features', None, "Names of arrays in the embeddings, 'score' for the "
      "pretext task's own scores. By default all.")
  flags.DEFINE_string(
      'output', None, 'Where the summary goes; by default summary.csv in the '
      'folder before the first * of --runs.')


def find_runs(pattern: str) -> list[pathlib.Path]:
  """Returns the folders of runs at the pattern and below, sorted.

  Raises:
    InputError: there is none.
  """
  found = {pathlib.Path(path).parent.parent
           for below in ('', '/**')
           for name in ('train.npz', 'test.npz')
           for path in glob.glob(f'{pattern}{below}/embeddings/{name}',
                                 recursive=True)}
  if not found:
    raise InputError(f"no run at '{pattern}': no folder there holds "
                     'embeddings/test.npz; train one, or give --runs=...')
  return sorted(found)


def choose(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray],
           wanted: Sequence[str] | None, where: object) -> list[str]:
  """Returns the names of the features to evaluate, 'score' the last.

  Raises:
    InputError: a wanted one is not there, or train and test do not match.
  """
  train, known = embeddings.features(train), list(embeddings.features(test))
  if embeddings.scores(test):
    known.append('score')
  for name in wanted or ():
    if name not in known:
      raise errors.unknown(f'feature in {where}', name, known)
  chosen = [name for name in known if not wanted or name in wanted]
  for name in chosen:
    if name != 'score':
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


def score(train: np.ndarray, test: np.ndarray, classifier: str, seed: int
          ) -> tuple[np.ndarray, str]:
  """Fits to f[n, d] and scores f[m, d]; sees no label, so none can leak.

  Returns:
    Scores f[m], higher = more anomalous, and the parameters as JSON.
  """
  fitted = oneclass.fit(classifier, train, seed)
  params = json.dumps(oneclass.parameters(fitted), sort_keys=True)
  return oneclass.anomaly_score(fitted, test), params


def measure(scores: np.ndarray, anomaly: np.ndarray) -> dict[str, str]:
  """Returns the metrics of f[n] given the truth bool[n], as result columns."""
  low, high = metrics.auroc_interval(scores, anomaly)
  found = {'auroc': metrics.auroc(scores, anomaly), 'auroc_low': low,
           'auroc_high': high, 'auprc': metrics.auprc(scores, anomaly),
           'fpr95': metrics.fpr95(scores, anomaly)}
  return {name: '' if np.isnan(value) else f'{value:.2f}'
          for name, value in found.items()}


def score_run(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray],
              features: Sequence[str], classifiers: Sequence[str] | None,
              seed: int) -> Iterable[tuple]:
  """Yields feature, classifier, parameters, rows fitted to, scores f[n]."""
  for feature in features:
    if feature == 'score':
      for name, values in embeddings.scores(test).items():
        yield feature, name, '{}', '', values
      continue
    default = _PIXEL_CLASSIFIERS if feature == 'pixels' else \
        oneclass.PUBLISHED
    for name in classifiers or default:
      values, params = score(train[feature], test[feature], name, seed)
      n_train = min(len(train[feature]), oneclass.LIMIT)
      yield feature, name, params, n_train, values


def evaluate(workdir: pathlib.Path, classifiers: Sequence[str] | None = None,
             features: Sequence[str] | None = None) -> list[dict[str, str]]:
  """Evaluates a run, writes its results.csv and returns the rows.

  Raises:
    InputError: the embeddings are unfit, or the file cannot be written.
  """
  train, test, meta = embeddings.read_run(workdir)
  features = choose(train, test, features, workdir)
  anomaly = test.pop('anomaly') != 0
  about = {key: str(meta[key]) for key in tables.RESULTS if key in meta} | {
      'n_test_normal': str((~anomaly).sum()),
      'n_test_anomalous': str(anomaly.sum())}
  rows = []
  scored = score_run(train, test, features, classifiers, _seed(meta))
  for feature, name, params, n_train, values in tqdm.tqdm(
      scored, str(workdir), unit='scores', leave=False, disable=None):
    rows.append(dict.fromkeys(tables.RESULTS, '') | about | {
        'feature': feature, 'classifier': name, 'classifier_params': params,
        'n_train': str(n_train)} | measure(values, anomaly))
  tables.write(workdir / 'results.csv', tables.RESULTS, rows)
  return [row | {'run': str(workdir)} for row in rows]


def _seed(meta):
  seed = meta.get('seed')
  return seed if isinstance(seed, int) and seed >= 0 else 0


def warn(workdir: pathlib.Path, rows: Iterable[Mapping[str, str]]) -> None:
  """Says which learnt scores are worse than guessing."""
  low = [f"{row['feature']}/{row['classifier']} {row['auroc']}" for row in rows
         if float(row['auroc']) < 50 and row['feature'] not in _BASELINES]
  if low:
    print(f"warning: {workdir}: AUROC below 50: {', '.join(low)}; is the sign "
          'of `anomaly` right (True = anomalous)?', file=sys.stderr)


def root(pattern: str) -> pathlib.Path:
  """Returns the folder before the first wildcard of a pattern."""
  parts = pathlib.Path(pattern).parts
  plain = [glob.has_magic(part) for part in parts] + [True]
  return pathlib.Path(*parts[:plain.index(True)])


def main() -> None:
  chosen = flags.FLAGS
  for name in chosen.classifiers or ():
    if name not in oneclass.CLASSIFIERS:
      raise errors.unknown('classifier', name, oneclass.CLASSIFIERS)
  rows, failures = [], []
  workdirs = find_runs(chosen.runs)
  for workdir in tqdm.tqdm(workdirs, 'runs', unit='run', disable=None):
    try:
      found = evaluate(workdir, chosen.classifiers, chosen.features)
      warn(workdir, found)
      rows += found
    except InputError as error:  # the other runs' results are worth having
      failures.append(error)
  if rows:
    output = chosen.output or root(chosen.runs) / 'summary.csv'
    summary = tables.summarize(rows)
    tables.write(output, tables.SUMMARY, summary)
    print(f'{tables.show(summary)}\n\nwrote {output}')
  if failures:
    raise InputError(
        str(failures[0]) if len(workdirs) == 1 else
        f'{len(failures)} of {len(workdirs)} runs failed: {failures[0]}')


if __name__ == '__main__':
  cli.run(main, define_flags)
