"""The scores of a run's test images: of each feature, classifier and map."""
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from deep_oc import (embeddings, errors, oneclass, progress, tables,
                     thresholds)
from deep_oc.errors import InputError
from deep_oc.scored import EVERYTHING, Key, Request, Score, Scored

_PIXEL_CLASSIFIERS = ('ocsvm_rbf', 'kde')

# What was scored, and what scores it: how many there are is known first.
Scores = Iterator[tuple[Key, Callable[[], Score]]]


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
    alarms = thresholds.alarms_by(
        oneclass.anomaly_score(fitted, unseen), scores, rate)
  return Score(
      scores, json.dumps(oneclass.parameters(fitted, limit), sort_keys=True),
      str(min(len(train), limit)), alarms)


def score_features(train: Mapping[str, np.ndarray],
                   test: Mapping[str, np.ndarray], features: Sequence[str],
                   request: Request, seed: int,
                   unseen: Mapping[str, np.ndarray] | None = None,
                   task: str = '') -> Scores:
  """Yields the scores of all classifiers on all features, and the task's.

  Of the latter there are alarms only by images that are `unseen`. The name of
  the `task` says which classifier `oneclass.recommended` adds.
  """
  unseen = unseen or {}
  rate, own = request.false_alarm_rate, embeddings.scores(unseen)
  for feature in features:
    if feature == 'score':
      for name, values in embeddings.scores(test).items():
        yield Key(feature, name, 'image'), functools.partial(
            Score, values, alarms=_alarms(own.get(name), values, rate))
      continue
    for name in request.classifiers or _default(feature, train[feature], task):
      yield Key(feature, name, 'image'), functools.partial(
          score, train[feature], test[feature], name, seed, request,
          unseen.get(feature))


def _alarms(calibration: np.ndarray | None, scores: np.ndarray,
            rate: float | None, kind: str = 'unseen'
            ) -> thresholds.Alarms | None:
  """Returns the alarms of scores f[m], None without a rate or those f[k]."""
  if not rate or calibration is None:
    return None
  return thresholds.alarms_by(calibration, scores, rate, kind)


def _default(feature: str, train: np.ndarray, task: str) -> tuple[str, ...]:
  """Returns the classifiers for f[n, d], unless some are asked for."""
  if feature == 'pixels':
    return _PIXEL_CLASSIFIERS
  return tuple(dict.fromkeys(
      (*oneclass.PUBLISHED, oneclass.recommended(task, *train.shape))))


def score_maps(arrays: Mapping[str, np.ndarray], names: Sequence[str],
               meta: Mapping[str, object], rate: float | None = None
               ) -> Scores:
  """Yields heat maps as the scores of pixels, and of windows the maxima.

  What Grad-CAM and the task itself explain has a score already. With a
  false-alarm rate the maxima have alarms, if those of normal images that are
  fit to calibrate them are known.
  """
  params = dict(meta.get('map_params') or {})
  classifier = str(params.pop('classifier', ''))
  given = json.dumps(params, sort_keys=True), str(meta.get('n_train', ''))
  unseen, left_out = (meta.get(key) or {} for key in (
      'calibration', 'left_out'))
  for name in names:
    values = arrays[f'map_{name}']
    if name.endswith('windows'):
      largest = values.max(axis=(1, 2))
      alarms = (_alarms(unseen.get(name), largest, rate)
                or _alarms(left_out.get(name), largest, rate, 'left_out'))
      yield Key(name, classifier, 'image'), functools.partial(
          Score, largest, *given, alarms)
    if 'mask' in arrays:
      yield Key(name, classifier, 'pixel'), functools.partial(
          Score, values, *given)


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
  found = unscored(test, meta, maps.get('mask'))
  del test['anomaly']
  try:
    for array in unseen.values():
      thresholds.rank(request.false_alarm_rate, len(array))  # before the fits
    scores = [
        *score_features(
            train, test, [name for name in chosen if name not in names],
            request, seed_of(meta), unseen, embeddings.task(meta)),
        *score_maps(maps, [name for name in names if name in chosen], map_meta,
                    request.false_alarm_rate)]
    for key, score_it in progress.bar(scores, str(workdir), unit='scores',
                                      leave=False):
      found.scores[key] = score_it()
  except InputError as error:  # of arrays that know no run
    raise InputError(f'{workdir}: {error}') from error
  if not found.scores:
    raise InputError(f'{workdir}: {" and ".join(chosen)} score neither images '
                     'nor, without masks of both kinds, pixels; ask for other '
                     '--features')
  return found


def unscored(test: Mapping[str, np.ndarray], meta: Mapping[str, object],
             mask: np.ndarray | None = None) -> Scored:
  """Returns a run without any scores yet.

  Args:
    test: arrays of its test file.
    meta: of the same.
    mask: bool[n, h, w], the abnormal pixels, if they are known.
  """
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
