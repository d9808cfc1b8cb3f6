"""The scores of a run's test images, and what they are worth."""
import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import sklearn

from deep_oc import (metrics, oneclass, pixel_metrics, provenance, tables,
                     thresholds)
from deep_oc.errors import InputError

# Features that are no embeddings:
WINDOWS = 'windows'  # the score is the largest of a heat map,
SCORE = 'score'  # or the task's own.

# Runs that agree in these differ in their seeds only.
_ONE_ENSEMBLE = ('experiment', 'dataset', 'protocol', 'normal_class', 'pretext',
                 'encoder', 'step')

# The modules that decide what the rows say.
_CODE = ('classifiers', 'embeddings', 'estimators', 'jitted', 'metrics',
         'oneclass', 'pixel_metrics', 'run_scores', 'scored', 'thresholds')

_METRICS = (('auroc', metrics.auroc, metrics.auroc_interval),
            ('auprc', metrics.auprc, metrics.auprc_interval),
            ('fpr95', metrics.fpr95, metrics.fpr95_interval))
_PIXEL_METRICS = (
    ('auroc', pixel_metrics.pixel_auroc, pixel_metrics.pixel_auroc_interval),
    ('aupro', pixel_metrics.aupro, pixel_metrics.aupro_interval))


def recommended(task: str, localizes: str | None, classifier: str | None = None
                ) -> str:
  """Returns the feature by which images are judged where none is named.

  'pool', but of an encoder that nothing was trained in 'windows', if it makes
  such heat maps: a defect is a small part of what its features, of ImageNet's
  objects, say of an image (results/imagenet_folds.csv).

  Args:
    task: the name of the pretext task.
    localizes: the method of the heat maps, None if there are none.
    classifier: the one that is asked for, of features; None if none is.
  """
  if (task, localizes, classifier) == ('frozen', WINDOWS, None):
    return WINDOWS
  return 'pool'


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a run.

  Attributes:
    classifiers: specs; none are the default ones.
    features: names of arrays; none are all.
    limit: how many training rows are fitted at most.
    false_alarm_rate: at which test images are flagged; None flags none.
  """
  classifiers: Sequence[str] = ()
  features: Sequence[str] = ()
  limit: int = oneclass.LIMIT
  false_alarm_rate: float | None = None


EVERYTHING = Request()


class Key(NamedTuple):
  """What was scored, by what, and whether images or their pixels."""
  feature: str
  classifier: str
  level: str  # 'image' or 'pixel'


@dataclasses.dataclass(frozen=True)
class Score:
  """Scores f[n] of images or f[n, h, w] of pixels; what they were fitted to."""
  values: np.ndarray
  params: str = '{}'  # JSON
  n_train: str = ''
  alarms: thresholds.Alarms | None = None


@dataclasses.dataclass(frozen=True)
class Scored:
  """All scores of a run's test images, and the truth about them.

  Attributes:
    about: result columns that are the same for all scores.
    anomaly: bool[n].
    mask: bool[n, h, w], the abnormal pixels; None if not known.
    index: i64[n], which images of the data set these are.
    scores: higher = more anomalous.
    path: str[n], their files, if they have any.
  """
  about: Mapping[str, str]
  anomaly: np.ndarray
  mask: np.ndarray | None
  index: np.ndarray
  scores: dict[Key, Score] = dataclasses.field(default_factory=dict)
  path: np.ndarray | None = None

  def rows(self) -> list[dict[str, str]]:
    """Returns the result rows."""
    about = dict.fromkeys(tables.RESULTS, '') | dict(self.about) | {
        'n_test_normal': str((~self.anomaly).sum()),
        'n_test_anomalous': str(self.anomaly.sum())}
    return [about | key._asdict() | self._measured(key) | {
        'classifier_params': score.params, 'n_train': score.n_train}
            for key, score in self.scores.items()]

  def p_values(self) -> list[dict[str, object]]:
    """Returns for each image its p-values, [] if none were asked for."""
    columns = {f'{key.feature} {key.classifier}': score.alarms.p.round(6)
               for key, score in self.scores.items() if score.alarms}
    about = {'index': self.index, 'path': self.path,
             'anomaly': self.anomaly.astype(int)}
    about = {name: x for name, x in about.items() if x is not None}
    return [dict(zip([*about, *columns], row, strict=True)) for row in zip(
        *about.values(), *columns.values(), strict=True)] if columns else []

  def _measured(self, key: Key) -> dict[str, str]:
    score = self.scores[key]
    if key.level == 'pixel':
      return measure(score.values, self.mask)
    return measure(score.values, self.anomaly) | (
        count(score.alarms, self.anomaly) if score.alarms else {})


def measure(scores: np.ndarray, truth: np.ndarray) -> dict[str, str]:
  """Returns the metrics of scores given the truth, as result columns.

  Of images, f[n] and bool[n], or of pixels, f[n, h, w] and bool[n, h, w].
  """
  found = {}
  for name, metric, interval in (
      _PIXEL_METRICS if scores.ndim == 3 else _METRICS):
    low, high = interval(scores, truth)
    found |= {name: metric(scores, truth), f'{name}_low': low,
              f'{name}_high': high}
  return {name: '' if np.isnan(value) else f'{value:.2f}'
          for name, value in found.items()}


def count(alarms: thresholds.Alarms, anomaly: np.ndarray) -> dict[str, str]:
  """Returns how many of bool[n] were flagged, as result columns.

  Beside the share of normals that were, the interval which holds it 95 times
  in 100; where rows calibrate in turn there is none.
  """
  normals = int((~anomaly).sum())
  found = {'false_alarm_rate': alarms.rate,
           'false_alarms': alarms.flagged[~anomaly].mean(),
           'detected': alarms.flagged[anomaly].mean()}
  if alarms.held_out:
    low, high = thresholds.interval(alarms.rate, alarms.held_out, normals)
    found |= {'false_alarms_low': low / normals,
              'false_alarms_high': high / normals}
  return {name: f'{100 * value:.2f}' for name, value in found.items()} | {
      'calibration': alarms.calibration}


class Ensembles:
  """Averages the scores of the seeds of each experiment and class.

  Li et al., CVPR 2021, table 1, combine five seeds; their formula is not
  stated. This is the mean of the scores as they are, for maps pixel by pixel.
  Of each ensemble the sum is kept, not its runs.
  """

  def __init__(self):
    self._sums = {}

  def add(self, workdir: pathlib.Path, run: Scored) -> None:
    """Adds a run in its folder, perhaps without scores.

    Raises:
      InputError: it was tested on other images than the runs before it.
    """
    same = tuple(run.about.get(key, '') for key in _ONE_ENSEMBLE)
    first, total, seeds = self._sums.get(same, (workdir, run, ()))
    if seeds:
      total = _sum(total, run, first.parent)
    self._sums[same] = first, total, (*seeds, run.about.get('seed', ''))

  def means(self) -> Iterator[tuple[pathlib.Path, Scored]]:
    """Yields those of runs of several seeds.

    Each with the folder of its results: beside the first of its runs and named
    after it, `ensemble_seed0`, so that no two ensembles share one.
    """
    for first, total, seeds in self._sums.values():
      if len(set(seeds)) > 1:
        yield first.parent / f'ensemble_{first.name}', _mean(total, seeds)


def _sum(total: Scored, run: Scored, folder: pathlib.Path) -> Scored:
  for name in ('index', 'path', 'anomaly'):
    if not np.array_equal(getattr(total, name), getattr(run, name)):
      raise InputError(f'the runs in {folder} were tested on different images '
                       f"('{name}' differs); no ensemble can be made of them")
  return dataclasses.replace(total, scores={
      key: dataclasses.replace(score, values=score.values + np.asarray(
          run.scores[key].values, np.float64))
      for key, score in total.scores.items() if key in run.scores})


def _mean(total: Scored, seeds: Sequence[str]) -> Scored:
  about = dict(total.about) | {
      'seed': '+'.join(seeds),
      'pretext': total.about.get('pretext', '') + '_ensemble',
      'config_hash': ''}
  params = json.dumps({'mean_of': len(seeds)})
  return dataclasses.replace(total, about=about, scores={
      key: Score(score.values / len(seeds), params, score.n_train)
      for key, score in total.scores.items()})


def origin(workdir: pathlib.Path, request: Request = EVERYTHING
           ) -> dict[str, object] | None:
  """Returns what a run's rows follow from, as JSON has it; None if unknown.

  That is what is asked for, the code, and the checksums that the archives of
  embeddings hold of their arrays: quick to read, and right whatever clocks and
  copies did to the files' times. The code of a classifier that is neither ours
  nor scikit-learn's is not known.
  """
  if any('.' in name and not name.startswith('sklearn.') for name in
         (spec.partition('(')[0] for spec in request.classifiers)):
    return None
  try:
    archives = {path.name: _checksums(path) for path in
                sorted((workdir / 'embeddings').glob('*.npz'))}
  except (OSError, NotImplementedError, zipfile.BadZipFile):
    return None
  code = hashlib.sha256(repr((tables.RESULTS, sklearn.__version__)).encode())
  for name in _CODE:
    code.update(pathlib.Path(__file__).with_name(f'{name}.py').read_bytes())
  asked = dataclasses.asdict(request) | {
      'classifiers': list(request.classifiers),
      'features': sorted(request.features)}
  return asked | {'code': code.hexdigest(), 'embeddings': archives}


def _checksums(path):
  with path.open('rb') as file, zipfile.ZipFile(file) as archive:
    return {each.filename: each.CRC for each in archive.infolist()
            if each.filename != 'command.npy'}  # it changes no row


def remember(workdir: pathlib.Path, source: Mapping[str, object]) -> None:
  """Adds to `results.json` what the rows in `results.csv` follow from.

  Raises:
    InputError: the file cannot be written.
  """
  provenance.write(workdir / 'results.csv',
                   {'source': source, 'results': _digest(workdir)})


def recall(workdir: pathlib.Path, source: Mapping[str, object] | None
           ) -> list[dict[str, str]] | None:
  """Returns the rows that a run has, None if they are not from that source.

  Or if the p-values that belong to them are gone.
  """
  try:
    saved = json.loads((workdir / 'results.json').read_text(encoding='utf-8'))
    if not source or saved.get('source') != source or (
        saved.get('results') != _digest(workdir)):
      return None
    rows = tables.read(workdir / 'results.csv')
  except (OSError, ValueError, AttributeError):  # an InputError is a ValueError
    return None
  if any(row['false_alarm_rate'] for row in rows) and not (
      workdir / 'p_values.csv').exists():
    return None
  return [row | {'run': str(workdir)} for row in rows]


def _digest(workdir):
  content = (workdir / 'results.csv').read_bytes()
  return hashlib.sha256(content).hexdigest()
