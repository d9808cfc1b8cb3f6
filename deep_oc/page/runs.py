"""A run as the page needs it: its results, and on demand its arrays, scored."""
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from deep_oc import embeddings, errors, oneclass, run_scores, scored
from deep_oc.errors import InputError
from deep_oc.scored import SCORE, WINDOWS

BASELINES = ('random', 'pixels')
NAMES = {'random': 'untrained encoder', 'pixels': 'pixels'}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A folder and the rows of its results.csv.

  Attributes:
    key: what ids on the page begin with.
    workdir: the folder.
    rows: of results.csv, with 'run'.
    classifier: whose scores are shown; of 'score' the name of the task's own.
    feature: what it is fitted to.
    limit: training rows fitted at most.
    trained: whether anything was: an encoder may stay as it was given.
  """
  key: str
  workdir: pathlib.Path
  rows: Sequence[Mapping[str, str]]
  classifier: str
  feature: str
  limit: int = oneclass.LIMIT
  trained: bool = True

  @property
  def about(self) -> Mapping[str, str]:
    """The columns that all rows share, experiment and seed for example."""
    return self.rows[0]

  def title(self) -> str:
    """Returns what tells the run from others."""
    about = self.about
    seed = f"seed {about['seed']}" if about['seed'] else ''
    return ', '.join(filter(None, (
        about['experiment'] or str(self.workdir), about['dataset'],
        about['normal_name'] or about['normal_class'], about['protocol'],
        seed)))

  @property
  def embedded(self) -> str:
    """The feature by which images are near or far."""
    return 'pool' if self.feature in (WINDOWS, SCORE) else self.feature

  def baseline(self, name: str) -> str:
    """Returns what the results call a baseline of the run's feature."""
    return 'random_windows' if (self.feature, name) == (
        WINDOWS, 'random') else name

  def row(self, feature: str, level: str = 'image') -> Mapping[str, str]:
    """Returns the row of a feature and the classifier; {} if there is none."""
    return next((row for row in self.rows if row['feature'] == feature
                 and row['classifier'] == self.classifier
                 and row['level'] == level), {})

  def config(self) -> dict:
    """Returns config.json, {} where there is none that can be read."""
    return self._json('config.json')

  def commands(self) -> list[str]:
    """Returns which trained and which evaluated it, as far as is known."""
    known = [self._json(name).get('command')
             for name in ('config.json', 'results.json')]
    return [each for each in known if each and isinstance(each, str)]

  def _json(self, name):
    try:
      return dict(json.loads((self.workdir / name).read_text('utf-8')))
    except (OSError, ValueError, TypeError):
      return {}


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredRun:
  """A run's arrays, and the scores of its test images.

  Attributes:
    run: which.
    train, test: arrays of the embeddings.
    maps: arrays of the heat maps, {} without any.
    class_names: of label 0, 1, ..., as far as they are known.
    image_shape: of what was embedded, (h, w, 3), if it is known.
  """
  run: Run
  train: Mapping[str, np.ndarray]
  test: Mapping[str, np.ndarray]
  maps: Mapping[str, np.ndarray]
  class_names: Sequence[str]
  image_shape: Sequence[int] | None = None

  @property
  def anomaly(self) -> np.ndarray:
    """bool[n]."""
    return self.test['anomaly'] != 0

  @functools.cached_property
  def scores(self) -> dict[str, np.ndarray]:
    """Scores f[n] by feature: the run's own, and the baselines' there are.

    Where the results have the classifier, only on what they have it: a Gaussian
    of raw pixels has more columns than rows.
    By NumPy, as no number on the page may hang on whether JAX is installed.
    """
    seed = run_scores.seed_of(self.run.about)
    found, own = {}, self.run.feature
    if own == SCORE:
      return {own: self.test[f'score_{self.run.classifier}']}
    if own == WINDOWS:
      return {name: self.maps[key].max(axis=(1, 2)) for name, key in (
          (own, 'map_windows'), ('random', 'map_random_windows'))
              if key in self.maps}
    for name in dict.fromkeys((own, *BASELINES)):
      wanted = name == own or self.run.row(name) or not self.run.row(own)
      if wanted and name in self.train and name in self.test:
        fitted = oneclass.fit(self.run.classifier, self.train[name], seed,
                              self.run.limit)
        found[name] = oneclass.anomaly_score(fitted, self.test[name], False)
    return found

  @property
  def score(self) -> np.ndarray:
    """Scores f[n] by the run's own feature."""
    return self.scores[self.run.feature]

  def name(self, i: int) -> str:
    """Returns what a test image is called."""
    if 'path' in self.test:
      return str(self.test['path'][i])
    index = self.test.get('index', np.arange(len(self.anomaly)))[i]
    return f'test image {index}'

  def image(self, i: int) -> np.ndarray | None:
    """Returns test image u8[h, w, 3] or u8[h, w], None if it is not stored."""
    return self.maps['image'][i] if 'image' in self.maps else self.small(
        self.test, i)

  def small(self, arrays: Mapping[str, np.ndarray], i: int
            ) -> np.ndarray | None:
    """Returns an image of at most 32 pixels a side, None if it is not stored.

    A square one, if the embeddings do not say of what shape the images are.
    """
    if 'pixels' not in arrays or arrays['pixels'].dtype != np.uint8:
      return None
    flat = arrays['pixels'][i]
    for channels in (3, 1):
      h = w = math.isqrt(len(flat) // channels)
      if self.image_shape:
        h, w = self.image_shape[:2]
        block = embeddings.block(h, w)
        h, w = h // block, w // block
      if h * w * channels == len(flat):
        return flat.reshape((h, w, 3) if channels == 3 else (h, w))
    return None


def read(run: Run) -> ScoredRun:
  """Returns a run with its arrays.

  Raises:
    InputError: the embeddings are unfit.
  """
  train, test, meta = embeddings.read_run(run.workdir)
  maps, map_meta = run_scores.read_maps(run.workdir, test, meta)
  run_scores.choose(train, test, [run.feature], run.workdir, [
      WINDOWS] * ('map_windows' in maps))
  names = (meta | map_meta).get('class_names') or ()
  return ScoredRun(run, train, test, maps, names, meta.get('image_shape'))


def find(key: str, workdir: pathlib.Path, rows: Sequence[Mapping[str, str]],
         feature: str | None, classifier: str | None, limit: int) -> Run:
  """Returns a run, with what suits it of feature and classifier if it is None.

  Raises:
    InputError: there is no such feature, or the rows are of another training.
  """
  train, meta = embeddings.read(workdir / 'embeddings' / 'train.npz')
  for column in ('config_hash', 'step'):
    if str(meta.get(column, '')) != rows[0][column]:
      raise InputError(
          f"{workdir}/results.csv is not of the run's embeddings: its {column} "
          f"is '{rows[0][column]}', not '{meta.get(column, '')}'; evaluate "
          'again')
  by_feature = {}
  for row in rows:
    if row['level'] == 'image':
      by_feature.setdefault(row['feature'], []).append(row['classifier'])
  task = str(meta.get('task') or rows[0]['pretext'])
  feature = feature or scored.recommended(
      task, WINDOWS if WINDOWS in by_feature else None, classifier)
  trained = task != 'frozen'
  if feature in (WINDOWS, SCORE):
    name = _unfitted(workdir, by_feature, feature, classifier)
    return Run(key, workdir, rows, name, feature, limit, trained)
  known = embeddings.features(train)
  if feature not in known:
    unfitted = [each for each in (WINDOWS, SCORE) if each in by_feature]
    raise errors.unknown(f'feature in {workdir}', feature,
                         [*known, *unfitted])
  wanted = classifier or oneclass.recommended(task, *train[feature].shape)
  there = by_feature.get(feature)
  if classifier is None and there and wanted not in there:
    # Evaluated last by others than those of the papers, or by older code.
    wanted = next(name for name in ('gde', 'kde', *there) if name in there)
  return Run(key, workdir, rows, wanted, feature, limit, trained)


def _unfitted(workdir, by_feature, feature, classifier):
  """Returns which of the run's scores that take no fit is shown."""
  if feature not in by_feature:
    raise errors.unknown(f'feature in {workdir}/results.csv', feature,
                         by_feature)
  known = by_feature[feature]
  if classifier not in (None, *known):
    raise errors.unknown(f"score of '{feature}' in {workdir}", classifier,
                         known)
  return classifier or known[0]
