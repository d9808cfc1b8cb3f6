"""Explains the anomaly score of an image by several methods, and judges them.

`METHODS` and `BASELINES` name what there is; adding one is adding a function
and a line. Images are f32[h, w, 3] in [0, 1], maps f64[h, w].
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage
from sklearn import neighbors

from deep_oc import (attributions, detector, differentiable, faithfulness,
                     features, pixel_metrics, protocols, sharding, step)

_EXPECTED = 8  # images that stand for all normal ones
_BLUR = 1 / 16  # sigma, as a share of the image's side
_FEW = 256  # training images of which an untrained task has its statistics


@dataclasses.dataclass(frozen=True)
class Settings:
  """How images are explained.

  Attributes:
    methods: names of `METHODS`.
    steps, tolerance: of `attributions.integrated_gradients`.
    samples, noise: of `attributions.smooth_grad`.
    side, stride: of the windows that are hidden, in pixels.
    points: of the curves of deletion and insertion.
  """
  methods: Sequence[str]
  steps: int
  tolerance: float
  samples: int
  noise: float
  side: int
  stride: int
  points: int


class Map(NamedTuple):
  """What a method says of an image, and how good that is.

  Attributes:
    attribution: f64[h, w]; positive raises the score; SmoothGrad's is without
      a sign, how much hangs on a pixel, not which way.
    completeness_error, steps: of integrated gradients, else NaN and 0.
    deletion, insertion: see `faithfulness`; NaN where the image's score is no
      higher than the baseline's.
    pixel_auroc: against the mask, in percent; NaN without a defect.
  """
  attribution: np.ndarray
  completeness_error: float
  steps: int
  deletion: float
  insertion: float
  pixel_auroc: float


class Explained(NamedTuple):
  """What is said of the score of an image.

  Attributes:
    score, score_of_baseline: of several baselines, the mean of theirs.
    maps: by method.
  """
  score: float
  score_of_baseline: float
  maps: dict[str, Map]


def explain(score: Any, explained: Any, image: np.ndarray,
            baseline: np.ndarray, mask: np.ndarray | None, settings: Settings,
            key: jax.Array, done: Callable[[], object] = lambda: None
            ) -> Explained:
  """Explains and judges.

  Args:
    score: a `differentiable.Score`, of which the maps are.
    explained: the one that deletion and insertion are of. For maps of a network
      with random weights that is the trained one's, too: so the two differ in
      nothing but the order of the pixels, and can be compared.
    image: f32[h, w, 3].
    baseline: f32[b, h, w, 3], one or several.
    mask: bool[h, w], True = defect; None if not known.
    settings: how.
    key: of the noise.
    done: called after each method.
  """
  fill, found = baseline.mean(0), {}
  for name in settings.methods:
    attribution, error, steps = METHODS[name](
        score, image, baseline, settings, key)
    curves = [curve(explained, image, attribution, fill, settings.points)
              for curve in (faithfulness.deletion_curve,
                            faithfulness.insertion_curve)]
    found[name] = Map(
        attribution, error, steps, faithfulness.deletion(curves[0]),
        faithfulness.insertion(curves[1]), _pixel_auroc(attribution, mask))
    done()
  return Explained(float(attributions.values(score, image[None])[0]),
                   float(attributions.values(score, baseline).mean()), found)


def _pixel_auroc(attribution, mask):
  if mask is None or not mask.any() or mask.all():
    return float('nan')
  return pixel_metrics.pixel_auroc(attribution[None], mask[None])


# (score, image, baseline, settings, key) -> map, completeness error, steps.


def _integrated_gradients(score, image, baseline, settings, key):
  """Of several baselines the mean, as expected gradients (Erion et al., 2021)
  are; they add up to the score less the mean of the baselines'."""
  del key
  found = attributions.integrated_gradients(
      score, np.broadcast_to(image, baseline.shape), baseline,
      steps=settings.steps, tolerance=settings.tolerance)
  total = attributions.signed(found.attribution).mean(0)
  error = attributions.completeness_error(
      total.sum(), (found.score - found.score_of_baseline).mean())
  return total, float(error), int(found.steps.sum())


def _smoothgrad(score, image, baseline, settings, key):
  del baseline
  found = attributions.smooth_grad(
      score, image[None], key, samples=settings.samples, noise=settings.noise)
  return attributions.magnitude(found)[0], float('nan'), 0


def _gradcam(score, image, baseline, settings, key):
  del baseline, settings, key
  return attributions.grad_cam(score, image[None])[0], float('nan'), 0


def _occlusion(score, image, baseline, settings, key):
  del key
  found = attributions.occlusion(
      score, image[None], baseline.mean(0), side=settings.side,
      stride=settings.stride)
  return found[0], float('nan'), 0


METHODS = {'integrated_gradients': _integrated_gradients,
           'smoothgrad': _smoothgrad, 'gradcam': _gradcam,
           'occlusion': _occlusion}


# (image, normal training images u8[n, h, w, 3], row of the nearest one)
# -> f32[b, h, w, 3].


def _mean(image, train, nearest):
  del image, nearest
  return np.float32(train.mean(0) / 255)[None]


def _black(image, train, nearest):
  del train, nearest
  return np.zeros_like(image)[None]


def _blurred(image, train, nearest):
  del train, nearest
  sigma = _BLUR * max(image.shape[:2])
  return ndimage.gaussian_filter(image, (sigma, sigma, 0))[None]


def _nearest(image, train, nearest):
  del image
  return np.float32(train[nearest] / 255)[None]


def _expected(image, train, nearest):
  del image, nearest
  rows = np.random.default_rng(0).permutation(len(train))[:_EXPECTED]
  return np.float32(train[rows] / 255)


BASELINES = {'mean': _mean, 'black': _black, 'blur': _blurred,
             'nearest': _nearest, 'expected': _expected}


class Neighbour(NamedTuple):
  """A normal training image beside the one that is explained."""
  pixels: np.ndarray  # u8[h, w, 3]
  index: int  # in the data set's training split
  distance: float  # of the features
  path: str = ''  # where it came from, if from a file


def neighbour(problem: protocols.Problem, row: int, distance: float
              ) -> Neighbour:
  """Returns the normal training image of a row of `problem.fitted`."""
  path = problem.fitted.path
  return Neighbour(
      problem.fitted.image[row], problem.fitted_index[row], distance,
      '' if path is None else str(path[row]))


class Network(NamedTuple):
  """A network with the score that is explained.

  Attributes:
    score: as a function of images.
    judge: u8[n, h, w, 3] -> `detector.Judged`, None of a task's own score.
    embed: u8[n, h, w, 3] -> f32[n, d], of the feature.
    train: f32[m, d], the features of the normal training images.
  """
  score: differentiable.Score
  judge: Callable[[np.ndarray], detector.Judged] | None
  embed: Callable[[np.ndarray], np.ndarray]
  train: np.ndarray


def networks(found: detector.Detector, name: str, stored: Mapping[str, Any],
             problem: protocols.Problem) -> tuple[Network, Network]:
  """Returns the trained network and the untrained one.

  Args:
    found: the trained one's detector.
    name: of the score.
    stored: the arrays of embeddings/train.npz.
    problem: the images.
  """
  parts, feature = found.parts(), found.feature
  trained = _network(found, name, stored[feature])
  variables = step.untrained(parts.pretext, parts.config.seed,
                             found.image_shape, parts.variables)
  if name in differentiable.task_scores(parts.pretext):
    images = problem.fitted.image
    some = np.random.default_rng(parts.config.seed).permutation(
        len(images))[:_FEW]
    variables |= features.statistics(
        parts.pretext, variables, images[np.sort(some)])
  embed = features.embedder(parts.pretext, sharding.mesh(), feature=feature)
  if feature == 'pool' and 'random' in stored:
    train = stored['random']
  else:
    train = embed(variables, problem.fitted.image, 'untrained')[feature]
  others = (problem.calibration.image if parts.others is None else
            parts.others)
  untrained = detector.Detector(
      config=parts.config, pretext=parts.pretext, variables=variables,
      train={feature: train}, calibrating={}, about=found.about,
      classifier=found.classifier, feature=feature,
      false_alarm_rate=found.false_alarm_rate,
      others=others if len(others) else None)
  return trained, _network(untrained, name, train)


def _network(found, name, train):
  parts = found.parts()
  if name in differentiable.task_scores(parts.pretext):
    score = differentiable.task(parts.pretext, parts.variables, name)
    return Network(score, None, found.embed, train)
  score = differentiable.one_class(
      parts.pretext, parts.variables, found.feature,
      [fitted for fitted, _ in parts.calibrated.parts])
  return Network(score, found.judge, found.embed, train)


def is_cosine(classifier: Any) -> bool:
  """Tells whether a fitted classifier looks at the directions of rows only."""
  return (getattr(classifier, 'norm', None) == 'l2'
          or getattr(classifier, 'metric', None) == 'cosine')


def nearest(train: np.ndarray, test: np.ndarray, count: int, cosine: bool
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns distances f64[n, k] and rows i[n, k] of train nearest f[n, d].

  In float64: in float32 a cosine distance is a multiple of 6e-8, and features
  of images that are nearly alike all seem equally far.
  """
  return neighbors.NearestNeighbors(
      n_neighbors=min(count, len(train)), algorithm='brute',
      metric='cosine' if cosine else 'euclidean').fit(
          np.float64(train)).kneighbors(np.float64(test))
