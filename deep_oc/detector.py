"""A trained run as a detector of anomalies in any images.

  detector = deep_oc.load('runs/dacl_cifar10/0/seed0')
  scores = detector.decision_function(images)
  anomalous = detector.predict(images)

The data set is not needed, the run's folder is enough: its config, checkpoint
and `embeddings/train.npz`. Only heat maps of windows, and the score that is
their largest value, read the training images again.
"""
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections
import numpy as np

from deep_oc import (classifiers, embeddings, experiment, features, maps,
                     progress, protocols, sharding, thresholds, unseen)
from deep_oc.bundle import pictures, regions
from deep_oc.errors import InputError
from deep_oc.scored import SCORE, WINDOWS

_CHUNK = 256  # images held at once, fewer if they are large
_PIXELS = 2**24  # of a chunk
_SILENT = 5  # seconds without a progress bar


class Judged(NamedTuple):
  """What a detector says of n images.

  Attributes:
    score: f64[n], higher = more anomalous.
    p_value: f64[n]; see `Detector.p_values`.
    anomalous: bool[n].
  """
  score: np.ndarray
  p_value: np.ndarray
  anomalous: np.ndarray


class Normal(NamedTuple):
  """Normal images that heat maps are made with.

  Attributes:
    problem: all there are.
    fitted: rows of `problem.fitted` that are fitted to, i64[n].
    calibrating: u8[m, h, w, 3], that are not; none if the fitted ones do.
  """
  problem: protocols.Problem
  fitted: np.ndarray
  calibrating: np.ndarray


class Parts(NamedTuple):
  """What the scores of a detector are made of.

  Attributes:
    config: of the run.
    pretext, variables: the task and its trained network.
    calibrated: the fitted classifiers, and their calibration scores.
    rows: how many training images there are.
    others: u8[m, h, w, 3] that calibrate, if they were given.
  """
  config: ml_collections.ConfigDict
  pretext: nn.Module
  variables: Mapping[str, Any]
  calibrated: thresholds.Calibrated
  rows: int
  others: np.ndarray | None


class Detector:
  """Scores images, and flags them at a chosen false-alarm rate.

  Methods are named and shaped as those of scikit-learn's outlier detectors. But
  higher is more anomalous, and `predict` says 1 of an anomaly and 0 of what is
  normal, as the metrics of detection want their labels, where scikit-learn says
  -1 and 1.

  Images are u8[n, h, w, c] or u8[n, h, w], or any iterable of pictures: paths,
  PIL images, arrays u8[h, w, c] or u8[h, w], of any sizes, with 1, 3 or 4
  channels. They are brought to `image_shape` as the run's data source does it,
  transparent ones laid over black. Arrays of just this shape are taken as they
  are, for so the source's are. All methods raise InputError for what is no
  picture.

  Made by `trained_run.load`.

  Attributes:
    image_shape: (h, w, 3) of what the encoder learnt from.
    classifier, feature: what scores, and which features; of 'score' the name
      of the task's own.
    false_alarm_rate: the share of normal images that may be flagged.
    threshold_: scores above it are flagged; None if there is no such score,
      for the training images calibrate in turn.
    calibration: 'unseen_20', so many normal images nothing has learnt from,
      'held_out_200', so many training images were not fitted, 'left_out_200',
      each of so many was not, or 'folds_5', each was not in its turn.
    learnt: whether the encoder has learnt from the training images.
    localizes: the method of `heat_maps`, 'windows', 'gradcam' or 'task', or
      None.
    chunk: how many images are held at once.
    about: what result rows say of the run.
  """

  def __init__(self, *, config: ml_collections.ConfigDict, pretext: nn.Module,
               variables: Mapping[str, Any], train: Mapping[str, np.ndarray],
               calibrating: Mapping[str, np.ndarray], about: Mapping[str, Any],
               classifier: str, feature: str, false_alarm_rate: float,
               others: np.ndarray | None = None,
               pixels: np.ndarray | None = None,
               left_out: np.ndarray | None = None):
    """Fits the classifier.

    Args:
      config: of the run.
      pretext: its task.
      variables: of the trained network.
      train: features f[n, d] of the normal training images, by name.
      calibrating: the same of those that nothing has learnt from, and the
        task's own scores f[m]; nothing where there are none.
      about: what result rows say of the run, and `image_shape`.
      classifier, feature, false_alarm_rate: as `trained_run.load`.
      others: images to calibrate by instead, u8[m, h, w, 3], if any.
      pixels: `embeddings.pixels` of the training images, if they are known.
      left_out: `maps.left_out` of them, if it is known.
    """
    self.image_shape = tuple(about['image_shape'])
    self.classifier, self.feature = classifier, feature
    self.false_alarm_rate = false_alarm_rate
    group = config.get('localize')
    self.localizes = maps.name(group) if group else None
    self.learnt = getattr(pretext, 'trains', True)
    self.chunk = int(np.clip(
        _PIXELS // np.prod(self.image_shape[:2]), 1, _CHUNK))
    self.about = dict(about)
    self.prepare = unseen.reader(config.data, self.image_shape)
    self._config, self._pretext, self._variables = config, pretext, variables
    self._train, self._others, self._pixels = train, others, pixels
    self._left_out = left_out
    self._calibrated = (self._calibrate(calibrating) if others is None else
                        self._calibrate_by(others))
    self.threshold_ = self._calibrated.threshold(false_alarm_rate)
    self.calibration = self._calibrated.calibration

  def decision_function(self, images: Iterable[unseen.Picture]) -> np.ndarray:
    """Maps n images to scores f64[n], higher = more anomalous."""
    return self.judge(images).score

  def predict(self, images: Iterable[unseen.Picture]) -> np.ndarray:
    """Maps n images to i64[n]: 1 = anomalous, 0 = normal.

    Of normal images like those of the training, `false_alarm_rate` are flagged.
    """
    return self.judge(images).anomalous.astype(np.int64)

  def p_values(self, images: Iterable[unseen.Picture]) -> np.ndarray:
    """Maps n images to conformal p-values f64[n].

    How often a normal image scores so high; flagged is what has at most
    `false_alarm_rate`. `deep_oc.thresholds` says what is guaranteed.
    """
    return self.judge(images).p_value

  def judge(self, images: Iterable[unseen.Picture],
            batch: int = features.BATCH) -> Judged:
    """Returns score, p-value and verdict of n images, in one pass."""
    if self.feature == WINDOWS:
      return self.judge_maps(self.heat_maps(images))
    return self._judged(self.embed(images, batch))

  def judge_maps(self, heat: np.ndarray) -> Judged:
    """Returns what `judge` does, of f32[n, h, w] from `heat_maps`.

    Of a detector by windows, whose score is the largest of an image's map.
    """
    return self._judged(heat.reshape(len(heat), -1))

  @property
  def has_regions(self) -> bool:
    """Whether heat maps are judged, and show all of a photo."""
    return self.feature == WINDOWS and pictures.keeps_all(
        unseen.described(self._config.data))

  def regions(self, heat: np.ndarray) -> list[list[regions.Region]]:
    """Returns where each of f32[n, h, w] from `heat_maps` is anomalous.

    Raises:
      InputError: it has none.
    """
    if not self.has_regions:
      raise InputError("there are regions with feature='windows' only, whose "
                       'heat maps are judged, and where they show whole photos')
    return [regions.find(each, self.threshold_) for each in heat]

  def _judged(self, rows: np.ndarray) -> Judged:
    if not len(rows):
      return Judged(np.empty(0), np.empty(0), np.empty(0, bool))
    score, p = self._calibrated.judge(rows)
    return Judged(score, p, p <= self.false_alarm_rate)

  def embed(self, images: Iterable[unseen.Picture],
            batch: int = features.BATCH) -> np.ndarray:
    """Maps n images to the features f32[n, d] that are classified.

    At most `batch` go through the network at once, which pads them to so many;
    the last bit of a feature may depend on it. By windows there are none; of
    the task's own score it is that, f32[n, 1].
    """
    if self.feature == WINDOWS:
      raise InputError(f"nothing is embedded for '{WINDOWS}'")
    look = features.embedder(
        self._pretext, sharding.mesh(), batch, self.feature)
    if self.feature == SCORE:
      return self._in_chunks(images, (1,), 'score', lambda image: look(
          self._variables, image)[self.classifier][:, None])
    return self._in_chunks(
        images, self._train[self.feature].shape[1:], 'embed',
        lambda image: look(self._variables, image)[self.feature])

  def heat_maps(self, images: Iterable[unseen.Picture]) -> np.ndarray:
    """Maps n images to scores of their pixels f32[n, h, w], at `image_shape`.

    The first call fits the densities, if there are any, which may take
    minutes.

    Raises:
      InputError: the run does not localize, or its maps are of windows and the
        training images are no longer where they were.
    """
    return self._in_chunks(images, self.image_shape[:2], 'heat maps',
                           self.method.maps)

  def map_parameters(self) -> dict[str, object]:
    """Returns what defines `heat_maps`, JSON-able."""
    return self.method.parameters()

  def about_maps(self) -> str:
    """Returns a line: what makes `heat_maps`, and whether they are judged."""
    line = ('heat maps: what the task says of each place'
            if self.localizes == 'task' else
            f'heat maps: fit densities ({self.localizes})')
    if self.feature == WINDOWS:
      return f'{line}; the largest value of a map is the score'
    # What Grad-CAM explains has a score already.
    other = {'windows': (WINDOWS, 'the maps do'),
             'task': (SCORE, 'their mean does')}.get(self.localizes)
    if other is None or other[0] == self.feature:
      return line
    return (f'{line}; they are drawn beside the verdicts and not judged: '
            f"{self.classifier} on '{self.feature}' judges; with "
            f'--feature={other[0]} {other[1]}')

  def parts(self) -> Parts:
    """Returns what the scores are made of."""
    return Parts(self._config, self._pretext, self._variables,
                 self._calibrated, len(next(iter(self._train.values()))),
                 self._others)

  def localizer(self) -> tuple[maps.Method, np.ndarray | None]:
    """Returns what makes `heat_maps`, unfitted, and what it is fitted to.

    That is None if it learns nothing of images. Where windows are judged, and
    no other images calibrate, it is a part of the training images.

    Raises:
      InputError: as `heat_maps` does.
    """
    if not self.localizes:
      raise InputError('this run has no heat maps: its config has no group '
                       '`localize`')
    method = self._unfitted()
    match method.learns_from:
      case 'nothing':
        return method, None
      case 'pool':
        return method, self._train['pool']
    return method, self.normal.problem.fitted.image[self.normal.fitted]

  def _unfitted(self) -> maps.Method:
    return maps.create(self._config.localize, self._pretext, self._config.seed)

  def _calibrate_by(self, images: np.ndarray) -> thresholds.Calibrated:
    """Calibrates by normal u8[m, h, w, 3] that nothing has learnt from."""
    if self.feature == WINDOWS:
      return thresholds.by_scores(
          classifiers.Largest(), self.heat_maps(images).max(axis=(1, 2)),
          self.false_alarm_rate)
    rows = self.embed(images)
    return self._calibrate({f'score_{self.classifier}': rows[:, 0]}
                           if self.feature == SCORE else {self.feature: rows})

  def _calibrate(self, calibrating: Mapping[str, np.ndarray]
                 ) -> thresholds.Calibrated:
    alpha = self.false_alarm_rate
    if self.feature == SCORE:
      return thresholds.by_scores(
          classifiers.Largest(), calibrating[f'score_{self.classifier}'], alpha)
    if self.feature != WINDOWS:
      return thresholds.calibrated(
          self._train[self.feature], self.classifier, alpha,
          self.about.get('seed', 0), unseen=calibrating.get(self.feature))
    return self._calibrate_maps(unseen=bool(calibrating))

  def _calibrate_maps(self, unseen: bool) -> thresholds.Calibrated:
    """Calibrates by the images that are held out, or else by those fitted."""
    alpha, largest = self.false_alarm_rate, classifiers.Largest()
    normal, score = self.normal, self._left_out  # or it raises, before the fit
    if len(normal.calibrating):
      score = self.method.maps(
          normal.calibrating, 'calibration').max(axis=(1, 2))
      if unseen:
        return thresholds.by_scores(largest, score, alpha)
      return thresholds.Calibrated(((largest, score),))
    if score is None:
      thresholds.rank(alpha, len(normal.fitted))  # raises before the fit
      score = maps.left_out(self.method, normal.problem.fitted.image,
                            self._config.seed, 'calibration')
    return thresholds.by_scores(largest, score, alpha, 'left_out')

  @functools.cached_property
  def method(self) -> maps.Method:
    """What makes `heat_maps`, fitted; raises as these do."""
    method, train = self.localizer()
    return method.fit(self._variables, train, 'heat maps')

  @functools.cached_property
  def normal(self) -> Normal:
    """What heat maps of windows are fitted to; raises as these do."""
    try:
      problem = experiment.problem(self._config)
    except InputError as error:
      raise InputError(
          'heat maps of windows need the training images, which cannot be read '
          f'({error}); give data_dir, where they lie now'
          + (", or another feature, as 'pool'" if self.feature == WINDOWS
             else '')) from error
    embeddings.check_same(self._pixels, problem.fitted.image, problem.dataset)
    images, others = problem.fitted.image, problem.calibration.image
    if (self._others is not None or len(others) or self.feature != WINDOWS
        or self._unfitted().leaves_out):
      return Normal(problem, np.arange(len(images)), others)
    try:
      fitted, calibrating = thresholds.parted(
          len(images), self.false_alarm_rate, self.about.get('seed', 0))
    except InputError as error:
      raise InputError(f'{error}; give normal images to calibrate with, a '
                       "higher rate, or another feature, as 'pool'") from error
    return Normal(problem, fitted, images[calibrating])

  def _in_chunks(self, images: Iterable[unseen.Picture], shape: tuple[int, ...],
                 what: str, function: Callable[[np.ndarray], np.ndarray]
                 ) -> np.ndarray:
    """Concatenates the function of u8[m, h, w, 3], f32[m, *shape]."""
    images = unseen.several(images)
    parts = [np.empty((0, *shape), np.float32)]
    with progress.bar(
        total=len(images) if hasattr(images, '__len__') else None, desc=what,
        unit='images', delay=_SILENT, leave=False) as bar:
      for chunk in batched(images, self.chunk):
        parts.append(function(np.stack([self.prepare(x) for x in chunk])))
        bar.update(len(chunk))
    return np.concatenate(parts)


def batched(values: Iterable, size: int) -> Iterator[list]:
  """Yields lists of `size` values, the last one perhaps shorter."""
  values = iter(values)
  while batch := list(itertools.islice(values, size)):
    yield batch
