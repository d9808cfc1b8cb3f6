"""A trained run read back: the detector that it makes.

What `deep_oc.load` and the binaries that judge images begin with. Whatever a
run cannot do is said here, before anything is fitted.
"""
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from deep_oc import (checkpoints, differentiable, embeddings, errors,
                     experiment, files, maps, oneclass, pretexts, runs, scored,
                     thresholds, unseen)
from deep_oc.detector import Detector
from deep_oc.errors import InputError
from deep_oc.scored import SCORE, WINDOWS

_BASELINES = ('random', 'pixels')


def load(workdir: str | os.PathLike, *, classifier: str | None = None,
         feature: str | None = None, false_alarm_rate: float | None = None,
         calibration: Iterable[unseen.Picture] | None = None,
         data_dir: str | os.PathLike | None = None) -> Detector:
  """Returns the detector of a trained run.

  Args:
    workdir: the run's folder, with config.json, checkpoints and
      embeddings/train.npz.
    classifier: any that `deep_oc.oneclass` knows; by default what it
      recommends.
    feature: of the embeddings, as 'pool', 'head' and 'pool_flip_rot'; or
      'windows': the score is the largest value of an image's heat map, by the
      density of the config's group `localize`, where that is of windows; or
      'score': the task's own, which `classifier` names if there are several,
      where images that nothing has learnt from calibrate it. By default what
      `deep_oc.scored` recommends, 'pool' of all that has been trained.
    false_alarm_rate: the share of normal images that may be flagged, 0.05 by
      default, or the lowest that is possible with fewer than 19. Without
      `calibration`, what was held out of the training calibrates it
      (`protocol.calibration`), else a fifth of the training images, and where
      that is too few, each of them in turn (`thresholds.calibrated`); of heat
      maps by nearest neighbours each, left out (`maps.left_out`).
    calibration: normal images that nothing has learnt from, to calibrate with.
    data_dir: where the training images lie now, if they moved; only for heat
      maps, and the score by windows.

  Raises:
    InputError: no such run, classifier or feature, no rate, too few images for
      it, or files that do not belong together.
  """
  config = experiment.of_run(workdir, data_dir)
  pretext = experiment.pretext(config)
  if false_alarm_rate is not None:
    thresholds.needed(false_alarm_rate)  # raises unless it is a rate
  arrays, about = _read_train(workdir)
  train = {name: array for name, array in embeddings.features(arrays).items()
           if name not in _BASELINES}
  calibrating, many = {}, _length(train)
  if calibration is None:
    calibrating = embeddings.read_calibration(workdir, arrays, about)
  of_maps = embeddings.maps_meta(workdir)
  group = runs.localize(config, of_maps)
  with config.unlocked():
    config.localize = group
  feature = feature or _recommended(config, group, classifier)
  _check_feature(workdir, feature, train, group, hasattr(pretext, 'scores'))
  if feature == SCORE and calibration is None and not embeddings.scores(
      calibrating):
    raise InputError(
        f"the score of the task's own has no false-alarm rate in {workdir}: "
        'that takes normal images that nothing has learnt from, held out of '
        'the training by --config.protocol.calibration=0.1 for example, or '
        'given now (--calibration)')
  if feature == WINDOWS:
    method = maps.create(group, pretext, config.seed)
    classifier = _density(method.classifier, classifier)
    if not method.leaves_out:
      many //= 2  # as many are fitted to
  elif feature == SCORE:
    classifier = _own_score(differentiable.task_scores(pretext), classifier)
  else:
    classifier = classifier or oneclass.recommended(
        config.pretext.name, *train[feature].shape)
    oneclass.create(classifier)  # an unknown one fails before the checkpoint
  others = None
  if calibration is not None:
    others = _prepared(
        calibration, unseen.reader(config.data, tuple(about['image_shape'])),
        arrays.get('pixels', ()))
    many = len(others)
  elif calibrating:
    many = _length(calibrating)
  if false_alarm_rate is None:
    false_alarm_rate = thresholds.default_rate(many)
  if others is not None or calibrating:
    thresholds.rank(false_alarm_rate, many)  # raises before any fit
  variables = _restore(workdir, config, pretext, about)
  if feature == SCORE:
    check_statistics(variables)
  return Detector(
      config=config, pretext=pretext, variables=variables, train=train,
      calibrating=calibrating, about=about, classifier=classifier,
      feature=feature, false_alarm_rate=false_alarm_rate, others=others,
      pixels=arrays.get('pixels'), left_out=_left_out(of_maps, about))


def load_as_asked(args: Any, classifier: str | None, feature: str | None,
                  calibration: Iterable[unseen.Picture] | None) -> Detector:
  """Returns the detector of the run that flags name, as `load` does.

  Says if so few images calibrate it that more may be flagged than usually.

  Args:
    args: --workdir, --data_dir and --false_alarm_rate.
    classifier, feature, calibration: as of `load`.
  """
  found = load(
      args.workdir, classifier=classifier, feature=feature,
      false_alarm_rate=args.false_alarm_rate, data_dir=args.data_dir,
      calibration=calibration)
  if args.false_alarm_rate is None and found.false_alarm_rate > thresholds.RATE:
    print('note: there are too few normal images to calibrate a false-alarm '
          f'rate of {100 * thresholds.RATE:g} %; of normal images '
          f'{100 * found.false_alarm_rate:g} % may be flagged',
          file=sys.stderr)
  return found


def recommended(workdir: str | os.PathLike, classifier: str | None = None
                ) -> str:
  """Returns the feature that `load` judges by if none is named.

  Raises:
    InputError: no such run.
  """
  config = experiment.of_run(workdir)
  group = runs.localize(config, embeddings.maps_meta(workdir))
  return _recommended(config, group, classifier)


def windows(workdir: str | os.PathLike, classifier: str | None = None
            ) -> tuple[maps.Method, nn.Module, tuple[int, int, int]]:
  """Returns what makes heat maps of windows, unfitted, the task, and (h, w, 3).

  Raises:
    InputError: no such run, its maps are not of windows, or are by another
      classifier.
  """
  config = experiment.of_run(workdir)
  pretext = experiment.pretext(config)
  group = runs.localize(config, embeddings.maps_meta(workdir))
  _check_feature(workdir, WINDOWS, {}, group, False)
  method = maps.create(group, pretext, config.seed)
  _density(method.classifier, classifier)
  return method, pretext, tuple(_read_train(workdir)[1]['image_shape'])


def check_statistics(variables: Mapping[str, Any]) -> None:
  """Raises InputError if a task's score needs what its checkpoint lacks."""
  if pretexts.lacks_statistics(variables):
    raise InputError(
        "the task's own score needs statistics of the training images, which "
        'only the checkpoint of the last step has; run `python -m deep_oc.embed'
        '` without --step')


def _check_feature(workdir: str | os.PathLike, feature: str,
                   train: Mapping[str, np.ndarray],
                   group: Mapping[str, Any] | None, scores: bool) -> None:
  """Raises InputError unless a run can judge by a feature.

  Args:
    workdir: the run's folder.
    feature: as `load`.
    train: arrays of the training images, by feature.
    group: `localize`, if the run has it.
    scores: whether the task has scores of its own.
  """
  by_windows = group and maps.name(group) == WINDOWS
  if feature == WINDOWS and group and not by_windows:
    raise InputError(f"the maps of {workdir} are by {maps.name(group)}, not of "
                     'windows, which `python -m deep_oc.localize` makes with '
                     '--set=name=windows')
  known = [*train, *[WINDOWS] * bool(by_windows), *[SCORE] * scores]
  if feature not in known:
    raise errors.unknown(f'feature in {workdir}/embeddings', feature, known)


def _density(known: str, name: str | None) -> str:
  """Returns the name of the maps' density, if no other is asked for."""
  if name not in (None, known):
    raise InputError(f"the score of '{WINDOWS}' is by localize.classifier, "
                     f'{known}, not by {name}')
  return known


def _own_score(known: tuple[str, ...], name: str | None) -> str:
  """Returns the name of a task's own score, if it is known or the only one."""
  if name is None and len(known) > 1:
    raise InputError(f"the task has the scores {' and '.join(known)} of its "
                     'own; choose one, as the classifier')
  if name not in (None, *known):
    raise errors.unknown("score of the task's own", name, known)
  return name or known[0]


def _prepared(pictures: Iterable[unseen.Picture],
              prepare: Callable[[unseen.Picture], np.ndarray],
              learnt: Iterable[np.ndarray]) -> np.ndarray:
  """Returns pictures as u8[m, h, w, 3], if they are fit to calibrate with.

  Args:
    pictures: of what is normal.
    prepare: makes u8[h, w, 3] of one.
    learnt: `embeddings.pixels` of the training images, if they are known.
  """
  images = [prepare(picture) for picture in unseen.several(pictures)]
  if not images:
    raise InputError('there is no image to calibrate with')
  images, known = np.stack(images), {row.tobytes() for row in learnt}
  same = sum(row.tobytes() in known for row in embeddings.pixels(images))
  if same:
    raise InputError(f'{same} of the {len(images)} images to calibrate with '
                     'are training images; give others')
  return images


def _recommended(config, group, classifier):
  return scored.recommended(
      config.pretext.name, maps.name(group) if group else None, classifier)


def _left_out(of_maps, about):
  """Returns `maps.left_out` as it was written beside the maps, or None."""
  found = (of_maps.get('left_out') or {}).get(WINDOWS)
  if found is None or any(
      of_maps.get(key) != about.get(key) for key in ('config_hash', 'step')):
    return None
  return np.array(found)


def _length(arrays):
  return len(next(iter(arrays.values())))


def _read_train(workdir):
  """Returns the arrays and the meta of the training images."""
  path = files.path(workdir) / 'embeddings' / 'train.npz'
  arrays, meta = embeddings.read(path)
  if 'image_shape' not in meta:
    raise InputError(f'{path} does not say of what size its images are; run '
                     f'`python -m deep_oc.embed --workdir={workdir}`')
  return arrays, meta


def _restore(workdir, config, pretext, about):
  """Returns the variables of the network that made the features."""
  like = experiment.state_like(config, pretext, tuple(about['image_shape']))
  with checkpoints.Checkpoints(workdir) as saved:
    if not files.exists(saved.folder / str(about['step'])):
      raise InputError(
          f'the checkpoint of step {about["step"]}, of which the embeddings '
          f'are, is not in {saved.folder}; run `python -m deep_oc.embed '
          f'--workdir={workdir}`')
    return saved.restore(like, about['step']).variables
