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
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections
import numpy as np

from deep_oc import (checkpoints, embeddings, errors, experiment, features,
                     files, maps, oneclass, progress, sharding,
                     thresholds, unseen)
from deep_oc.errors import InputError

WINDOWS = 'windows'  # the feature whose score is the largest of a heat map

_CHUNK = 256  # images held at once, fewer if they are large
_PIXELS = 2**24  # of a chunk
_BASELINES = ('random', 'pixels')
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


class _Largest:
  """Scores heat maps f[n, h * w] by their largest value; see `WINDOWS`."""

  def score_samples(self, rows: np.ndarray) -> np.ndarray:
    """Returns f[n], higher = more normal, as scikit-learn has it."""
    return -rows.max(axis=1)


class Parts(NamedTuple):
  """What the scores of a detector are made of.

  Attributes:
    config: of the run.
    pretext, variables: the task and its trained network.
    calibrated: the fitted classifiers, and their calibration scores.
    rows: how many training images there are.
  """
  config: ml_collections.ConfigDict
  pretext: nn.Module
  variables: Mapping[str, Any]
  calibrated: thresholds.Calibrated
  rows: int


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

  Made by `load`.

  Attributes:
    image_shape: (h, w, 3) of what the encoder learnt from.
    classifier, feature: what scores, and which features.
    false_alarm_rate: the share of normal images that may be flagged.
    threshold_: scores above it are flagged; None if there is no such score,
      for the training images calibrate in turn.
    calibration: 'held_out_200', so many training images were not fitted, or
      'folds_5', each was not in its turn.
    localizes: the method of `heat_maps`, 'windows' or 'gradcam', or None.
    chunk: how many images are held at once.
    about: what result rows say of the run.
  """

  def __init__(self, *, config: ml_collections.ConfigDict, pretext: nn.Module,
               variables: Mapping[str, Any], train: Mapping[str, np.ndarray],
               about: Mapping[str, Any], classifier: str, feature: str,
               false_alarm_rate: float):
    """Fits the classifier.

    Args:
      config: of the run.
      pretext: its task.
      variables: of the trained network.
      train: features f[n, d] of the normal training images, by name.
      about: what result rows say of the run, and `image_shape`.
      classifier, feature, false_alarm_rate: as `load`.
    """
    self.image_shape = tuple(about['image_shape'])
    self.classifier, self.feature = classifier, feature
    self.false_alarm_rate = false_alarm_rate
    group = config.get('localize')
    self.localizes = group.get('name', 'windows') if group else None
    self.chunk = int(np.clip(
        _PIXELS // np.prod(self.image_shape[:2]), 1, _CHUNK))
    self.about = dict(about)
    self.prepare = unseen.reader(config.data, self.image_shape)
    self._config, self._pretext, self._variables = config, pretext, variables
    self._train = train
    self._calibrated = (
        self._calibrated_maps() if feature == WINDOWS else
        thresholds.calibrated(train[feature], classifier, false_alarm_rate,
                              about.get('seed', 0)))
    self.threshold_ = self._calibrated.threshold(false_alarm_rate)
    held_out = self._calibrated.held_out
    self.calibration = (f'held_out_{held_out}' if held_out else
                        f'folds_{len(self._calibrated.parts)}')

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

  def _judged(self, rows: np.ndarray) -> Judged:
    if not len(rows):
      return Judged(np.empty(0), np.empty(0), np.empty(0, bool))
    score, p = self._calibrated.judge(rows)
    return Judged(score, p, p <= self.false_alarm_rate)

  def embed(self, images: Iterable[unseen.Picture],
            batch: int = features.BATCH) -> np.ndarray:
    """Maps n images to the features f32[n, d] that are classified.

    At most `batch` go through the network at once, which pads them to so many;
    the last bit of a feature may depend on it. By windows there are none.
    """
    check_pooled(self.feature, 'embedded for')
    look = features.embedder(
        self._pretext, sharding.mesh(), batch, self.feature)
    return self._in_chunks(
        images, self._train[self.feature].shape[1:], 'embed',
        lambda image: look(self._variables, image)[self.feature])

  def heat_maps(self, images: Iterable[unseen.Picture]) -> np.ndarray:
    """Maps n images to scores of their pixels f32[n, h, w], at `image_shape`.

    The first call fits the densities, which may take minutes.

    Raises:
      InputError: the run does not localize, or its maps are of windows and the
        training images are no longer where they were.
    """
    return self._in_chunks(images, self.image_shape[:2], 'heat maps',
                           self._maps.maps)

  def map_parameters(self) -> dict[str, object]:
    """Returns what defines the densities of `heat_maps`, JSON-able."""
    return self._maps.parameters()

  def about_maps(self) -> str:
    """Returns a line: what makes `heat_maps`, and whether they are judged."""
    line = f'heat maps: fit densities ({self.localizes})'
    if self.feature == WINDOWS:
      return f'{line}; the largest value of a map is the score'
    if self.localizes != 'windows':
      return line  # what Grad-CAM explains has a score already
    return (f'{line}; they are drawn beside the verdicts and not judged: '
            f"{self.classifier} on '{self.feature}' judges; with "
            '--feature=windows the maps do')

  def parts(self) -> Parts:
    """Returns what the scores are made of."""
    return Parts(self._config, self._pretext, self._variables,
                 self._calibrated, len(next(iter(self._train.values()))))

  def localizer(self) -> tuple[maps.Windows | maps.GradCam, np.ndarray]:
    """Returns what makes `heat_maps`, unfitted, and what it is fitted to.

    By windows that is a part of the training images, for the rest calibrates.

    Raises:
      InputError: as `heat_maps` does.
    """
    if not self.localizes:
      raise InputError('this run has no heat maps: its config has no group '
                       '`localize`')
    method = maps.create(
        self._config.localize, self._pretext, self._config.seed)
    if method.learns_from == 'pool':
      return method, self._train['pool']
    images = self._training_images()
    return method, (images[self._part(images)[0]] if self.feature == WINDOWS
                    else images)

  def _part(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of the training images are fitted, and which calibrate."""
    return thresholds.parted(len(images), self.false_alarm_rate,
                             self.about.get('seed', 0))

  def _calibrated_maps(self) -> thresholds.Calibrated:
    """Calibrates by the largest values of heat maps of what is not fitted."""
    images = self._training_images()
    held_out = images[self._part(images)[1]]  # or it raises, before the fit
    score = self._maps.maps(held_out, 'calibration').max(axis=(1, 2))
    return thresholds.Calibrated(((_Largest(), score),))

  @functools.cached_property
  def _maps(self) -> maps.Windows | maps.GradCam:
    """What makes `heat_maps`, fitted."""
    method, train = self.localizer()
    return method.fit(self._variables, train, 'heat maps')

  def _training_images(self) -> np.ndarray:
    """Reads the normal images u8[n, h, w, 3] by the run's data source."""
    try:
      return experiment.problem(self._config).fitted.image
    except InputError as error:
      raise InputError(
          'heat maps of windows need the training images, which cannot be read '
          f'({error}); give data_dir, where they lie now') from error

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


def load(workdir: str | os.PathLike, *, classifier: str | None = None,
         feature: str = 'pool', false_alarm_rate: float = 0.05,
         data_dir: str | None = None) -> Detector:
  """Returns the detector of a trained run.

  Args:
    workdir: the run's folder, with config.json, checkpoints and
      embeddings/train.npz.
    classifier: any that `deep_oc.oneclass` knows. By default 'kde', which Sohn
      et al. report for rotation prediction and which follows their OC-SVM
      closely; for CutPaste, as its paper, and where there are fewer training
      images than dimensions, a Gaussian, 'gde_ledoit_wolf'.
    feature: of the embeddings, as 'pool', 'head' and 'pool_flip_rot'; or
      'windows': the score is the largest value of an image's heat map, by the
      density of the config's group `localize`, where that is of windows.
    false_alarm_rate: the share of normal images that may be flagged. A fifth
      of the training images calibrates it; where that is too few, each does in
      turn (`thresholds.calibrated`).
    data_dir: where the training images lie now, if they moved; only for heat
      maps, and the score by windows.

  Raises:
    InputError: no such run, classifier or feature, no rate, too few images for
      it, or files that do not belong together.
  """
  config = experiment.of_run(workdir, data_dir)
  pretext = experiment.pretext(config)
  thresholds.needed(false_alarm_rate)  # raises unless it is a rate
  train, about = _read_features(workdir)
  group = config.get('localize')
  by_windows = [WINDOWS] if group and maps.name(group) == WINDOWS else []
  if feature not in [*train, *by_windows]:
    raise errors.unknown(f'feature in {workdir}/embeddings', feature,
                         [*train, *by_windows])
  if feature == WINDOWS:
    own = maps.create(group, pretext, config.seed).classifier
    if classifier not in (None, own):
      raise InputError(f"the score of '{WINDOWS}' is by localize.classifier, "
                       f'{own}, not by {classifier}')
    classifier = own
  classifier = classifier or default_classifier(config, train[feature])
  oneclass.create(classifier)  # an unknown one fails before the checkpoint
  return Detector(
      config=config, pretext=pretext,
      variables=_restore(workdir, config, pretext, about), train=train,
      about=about, classifier=classifier, feature=feature,
      false_alarm_rate=false_alarm_rate)


def check_pooled(feature: str, what: str) -> None:
  """Raises InputError if a feature is none that a classifier was fitted to."""
  if feature == WINDOWS:
    raise InputError(f"{what} scores of features, not '{WINDOWS}', the largest "
                     'value of a heat map; choose another feature')


def default_classifier(config: ml_collections.ConfigDict, train: np.ndarray
                       ) -> str:
  """Returns the classifier for features f[n, d] of a run, as `load` says."""
  fewer = len(train) < train.shape[1]
  cutpaste = config.pretext.name == 'cutpaste'
  return 'gde_ledoit_wolf' if fewer or cutpaste else 'kde'


def _read_features(workdir):
  """Returns the features that the network has, and the meta."""
  path = files.path(workdir) / 'embeddings' / 'train.npz'
  arrays, meta = embeddings.read(path)
  if 'image_shape' not in meta:
    raise InputError(f'{path} does not say of what size its images are; run '
                     f'`python -m deep_oc.embed --workdir={workdir}`')
  found = {name: array for name, array in embeddings.features(arrays).items()
           if name not in _BASELINES}
  return found, meta


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
