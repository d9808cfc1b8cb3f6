"""Heat maps of any images, most of them by densities that are fitted once.

`METHODS` are the values of `localize.name`; the group's other fields are the
arguments of one. `fit` takes the variables of a network and what it learnt
from, `maps` any images; see `Windows`. That is what `learns_from` says: normal
images, 'image', their pooled features, 'pool', or 'nothing'.
"""
import abc
import functools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from deep_oc import (convolution, densities, errors, gradcam, oneclass,
                     plugins, pretexts, progress, step, windows)
from deep_oc import stages as stage_maps
from deep_oc.errors import InputError

_MEMORY = 2**29  # bytes of window features, of training and of others
_IMAGES = 32  # per forward pass of whole images, and scored at once by windows

# Classifiers whose scores are from 0 on.
DISTANCES = ('knn', 'knn_cosine', 'nn', 'mahalanobis')

# Where the rows of windows of a band begin, i64[r], and the density there.
Part = tuple[np.ndarray, densities.SharedDensity | densities.PositionDensity]


class _Grid(abc.ABC):
  """Scores the places of a grid and spreads the scores over pixels.

  A subclass has `_embed`, (variables, image u8[n, h, w, c], place i64[k, 3]) to
  features f32[k, d], and the abstract methods.
  """
  learns_from = 'image'
  side = 1  # in pixels, of the smallest image that has a place

  def __init__(self, seed: int, positions: str, classifier: str,
               reg_covar: float, sigma: float | None, limit: int):
    """Checks the arguments.

    Args:
      seed: of the training places that a shared density is fitted to.
      positions: 'shared', one density for all, or 'each', one per position:
        n d + min(n, d)² numbers each, of n images.
      classifier: the density, a spec of `oneclass`.
      reg_covar: of the densities of 'each'; see `classifiers.ShrunkGDE`.
      sigma: of the Gaussian that spreads a score, in pixels.
      limit: how many training places a shared density is fitted to at most.

    Raises:
      InputError: an unknown name, or no whole number, or number, above 0 where
        there has to be one.
    """
    if positions not in ('shared', 'each'):
      raise errors.unknown('localize.positions', positions, ('shared', 'each'))
    if sigma is not None:
      _check_sigma(sigma)
    _check_whole('limit', limit)
    if not isinstance(classifier, str):
      raise InputError(f'localize.classifier is {classifier!r}; it must be the '
                       'name of one')
    self.positions, self.classifier, self.seed = positions, classifier, seed
    self.sigma, self.limit = sigma, limit
    self._new = functools.partial(
        densities.create, positions, classifier, seed, reg_covar, limit)
    self._new()  # an unknown one fails before minutes of features

  def check(self, height: int, width: int) -> None:
    """Raises InputError if the places do not fit such images."""
    self.grid(height, width)

  @abc.abstractmethod
  def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows i64[gh] and columns i64[gw] of the places."""

  @abc.abstractmethod
  def enlarge(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spreads f[n, gh, gw] over pixels, f64[n, h, w]."""

  @abc.abstractmethod
  def _dimension(self, image: np.ndarray) -> int:
    """Returns how many columns the features of u8[n, h, w, c] have."""

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> '_Grid':
    """Fits the densities to normal u8[n, h, w, c].

    Raises:
      InputError: the places do not fit the images.
    """
    self.parts_ = list(self.fits(variables, train, description))
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    return self.maps_by(self.parts_, image, description)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both, holding the densities of a part of the positions at once."""
    return self.maps_by(
        self.fits(variables, train, description), image, description)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able."""
    return self.density_.parameters() | {
        'classifier': self.classifier, 'sigma': self.sigma}

  def maps_by(self, parts: Iterable[Part], image: np.ndarray,
              description: str | None = None) -> np.ndarray:
    """Does what `maps` does, with densities that may be fitted meanwhile."""
    grid = np.concatenate([self._score(density, image, rows, description)
                           for rows, density in parts], axis=1)
    return self.enlarge(grid, *image.shape[1:3]).astype(np.float32)

  def fits(self, variables: Mapping[str, Any], train: np.ndarray,
           description: str | None = None) -> Iterator[Part]:
    """Yields the densities of `fit`, for bands of the grid in turn.

    Those of each position that have been used need not be held any longer.
    """
    self._look = functools.partial(self._embed, variables)
    rows, _ = self.grid(*train.shape[1:3])
    if self.positions == 'shared':
      self.density_ = self._new().fit(self._sample(train, description))
      yield rows, self.density_
      return
    bands = np.array_split(
        rows, min(len(rows), -(-len(train) * self._bytes(train, rows)
                               // _MEMORY)))
    shrinkage = []
    for band in _bar(bands, description, 'fit'):
      self.density_ = self._new().fit(self._features(train, band))
      shrinkage.append(self.density_.shrinkage_)
      yield band, self.density_
    self.density_.shrinkage_ = np.concatenate(shrinkage)  # of the whole grid

  def _sample(self, train, description):
    """Returns features f32[k, d] of random places of all images."""
    rows, columns = self.grid(*train.shape[1:3])
    # So many of all, in proportion of rows and of columns.
    share = min(self.limit / (len(train) * len(rows) * len(columns)), 1)**0.5
    down, across = (max(round(share * len(each)), 1)
                    for each in (rows, columns))
    rng = np.random.default_rng(self.seed)
    place = np.concatenate([
        windows.places(1, _some(rng, rows, down), _some(rng, columns, across))
        + [i, 0, 0] for i in range(len(train))])
    parts = np.array_split(place, min(32, len(place)))
    return np.concatenate([self._look(train, part)
                           for part in _bar(parts, description, 'fit')])

  def _score(self, density, image, rows, description):
    many = max(_MEMORY // self._bytes(image, rows), 1)
    if self.positions == 'shared':  # else it is by position that it takes long
      many = min(many, _IMAGES)
    return np.concatenate([
        density.score(self._features(image[begin:begin + many], rows))
        for begin in _bar(range(0, len(image), many), description, 'score')])

  def _features(self, image, rows):
    """Returns the features of the places in `rows`, f[n, r, c, d]."""
    _, columns = self.grid(*image.shape[1:3])
    return self._look(image, windows.places(len(image), rows, columns)).reshape(
        len(image), len(rows), len(columns), -1)

  def _bytes(self, image, rows):
    """Returns how many bytes an image's features take in these rows."""
    _, columns = self.grid(*image.shape[1:3])
    return 4 * self._dimension(image) * len(rows) * len(columns)


class Windows(_Grid):
  """Scores every window of a size, each as if it were an image.

  Li et al., 2021, sections 2.4 and A.5. The paper has windows of 32 pixels
  every 4, and a density for each position where objects stand alike in all
  images.
  """

  def __init__(self, pretext: nn.Module, seed: int, *, side: int = 32,
               stride: int = 4, positions: str = 'shared',
               classifier: str = 'gde_ledoit_wolf', reg_covar: float = 1e-6,
               sigma: float | None = None, limit: int = oneclass.LIMIT):
    """Checks the arguments.

    Args:
      pretext: the task, trained on crops of about `side` pixels.
      side, stride: of the windows, in pixels.
      sigma: None is that of `windows.gaussian`.
      seed, positions, classifier, reg_covar, limit: as of `_Grid`.
    """
    super().__init__(seed, positions, classifier, reg_covar, sigma, limit)
    _check_whole('side', side)
    _check_whole('stride', stride)
    self.side, self.stride = side, stride
    self._embed = windows.embedder(pretext, side)

  def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the windows begin, i64[gh] and i64[gw].

    Raises:
      InputError: they are larger than the image.
    """
    return tuple(windows.starts(length, self.side, self.stride)
                 for length in (height, width))

  def enlarge(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spreads f[n, gh, gw] over pixels; see `windows.upsample`."""
    return windows.upsample(
        score, height, width, self.side, self.stride, self.sigma)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able."""
    return super().parameters() | {'side': self.side, 'stride': self.stride}

  def about(self, description: str | None) -> str | None:
    """Returns the description, if there is one, with the windows' size."""
    return description and f'{description} of {self.side} pixels'

  def _dimension(self, image):
    rows, columns = self.grid(*image.shape[1:3])
    return self._look(
        image[:1], windows.places(1, rows[:1], columns[:1])).shape[1]


class Stages(_Grid):
  """Scores every position of the maps of an encoder's stages.

  One pass over an image; see `deep_oc.stages`. A score is spread over the
  pixels by a Gaussian around the middle of what its position stands for.
  """

  def __init__(self, pretext: nn.Module, seed: int, *, stages: Sequence[int],
               neighbourhood: int = 1, positions: str = 'shared',
               classifier: str = 'gde_ledoit_wolf', reg_covar: float = 1e-6,
               sigma: float | None = None, limit: int = oneclass.LIMIT):
    """Checks the arguments.

    Args:
      pretext: the task, whose encoder has `maps`.
      stages: whose maps stand side by side, the first is 1.
      neighbourhood: see `stages.look`.
      sigma: None is 4 pixels, as PaDiM and PatchCore have it.
      seed, positions, classifier, reg_covar, limit: as of `_Grid`.
    """
    super().__init__(seed, positions, classifier, reg_covar,
                     4.0 if sigma is None else sigma, limit)
    _check_whole('neighbourhood', neighbourhood)
    if neighbourhood % 2 == 0:
      raise InputError(f'localize.neighbourhood={neighbourhood} must be odd')
    self.stages = tuple(stages) if _is_several(stages) else (stages,)
    self.neighbourhood = neighbourhood
    stage_maps.check(pretext, self.stages)
    self._pretext = pretext
    self._embed = stage_maps.embedder(pretext, self.stages, neighbourhood)

  def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the largest map's rows and columns."""
    return tuple(map(np.arange, self._shape(height, width)[:2]))

  def enlarge(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spreads f[n, gh, gw] over pixels, f64[n, h, w]."""
    return _spread_over(score, height, width, [
        (np.arange(cells) + 0.5) * length / cells - 0.5 for length, cells
        in zip((height, width), score.shape[1:], strict=True)], self.sigma)

  def embed(self, variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to the features of all places, f32[n, gh, gw, d].
    """
    return stage_maps.look(
        self._pretext, self.stages, self.neighbourhood, variables, image)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able."""
    return super().parameters() | {
        'stages': list(self.stages), 'neighbourhood': self.neighbourhood}

  def _dimension(self, image):
    return self._shape(*image.shape[1:3])[2]

  def _shape(self, height, width):
    return stage_maps.shape(self._pretext, self.stages, height, width)


class Multiscale:
  """Multiplies the maps of windows of several sizes, by element.

  Yi and Yoon, ACCV 2020 (https://arxiv.org/abs/2006.16067), section 3.4: what
  is far from the normal at every size is abnormal. Scores have to be distances,
  from 0 on.
  """
  learns_from = 'image'

  def __init__(self, pretext: nn.Module, seed: int, *, side: Sequence[int],
               stride: Sequence[int], positions: str = 'shared',
               classifier: str = 'knn(k=1)', reg_covar: float = 1e-6,
               sigma: float | None = None, limit: int = oneclass.LIMIT):
    """Checks the arguments.

    Args:
      pretext: the task, whose encoder embeds windows of each `side`.
      seed: see `Windows`, as for all that are not here.
      side, stride: of the windows of each size, in pixels.
      positions: see `Windows`.
      classifier: one of `DISTANCES`, unless each position has its density.
      reg_covar: see `Windows`.
      sigma: see `Windows`.
      limit: see `Windows`; of each size.

    Raises:
      InputError: as of `Windows`, sizes without as many strides, or scores that
        may be below 0.
    """
    side, stride = (each if _is_several(each) else (each,)
                    for each in (side, stride))
    if len(side) != len(stride) or not side:
      raise InputError(f'localize has {len(side)} sides of windows and '
                       f'{len(stride)} strides; give one of each per size')
    self.scales = [Windows(
        pretext, seed, side=each, stride=apart, positions=positions,
        classifier=classifier, reg_covar=reg_covar, sigma=sigma, limit=limit)
                   for each, apart in zip(side, stride, strict=True)]
    if positions != 'each' and classifier.partition('(')[0] not in DISTANCES:
      raise InputError(
          f'maps of several sizes are multiplied, and scores by {classifier} '
          'may be below 0; localize.classifier must be one of '
          f"{', '.join(DISTANCES)}, or localize.positions 'each'")
    self.classifier = classifier

  def check(self, height: int, width: int) -> None:
    """Raises InputError if the windows do not fit such images."""
    for each in self.scales:
      each.check(height, width)

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'Multiscale':
    """Fits the densities to normal u8[n, h, w, c]."""
    for each in self.scales:
      each.fit(variables, train, each.about(description))
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    return np.prod([each.maps(image, each.about(description))
                    for each in self.scales], axis=0)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both, holding the densities of one size at once."""
    return np.prod([
        each.fit_maps(variables, train, image, each.about(description))
        for each in self.scales], axis=0)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able.

    A list of each size's, where they differ.
    """
    scales = [each.parameters() for each in self.scales]
    found = {}
    for name in scales[0]:
      values = [each[name] for each in scales]
      alike = all(value == values[0] for value in values)
      found[name] = values[0] if alike else values
    return found


class GradCam:
  """Explains the score of whole images by Grad-CAM on the last feature map.

  The density is one of pooled features, and Gaussian.
  """
  learns_from = 'pool'

  def __init__(self, pretext: nn.Module, seed: int, *,
               classifier: str = 'gde_ledoit_wolf'):
    """Checks the arguments.

    Args:
      pretext: the task, trained on whole images.
      seed: not used.
      classifier: one of `densities.GAUSSIANS`.
    """
    del seed
    if classifier not in densities.GAUSSIANS:
      raise errors.unknown('density for Grad-CAM', classifier,
                           densities.GAUSSIANS)
    if getattr(pretext, 'crop', 0):
      raise InputError('Grad-CAM explains an encoder of whole images; this one '
                       'was trained on crops: localize.name=windows')
    self.classifier = classifier
    self._encoder = pretext.encoder
    self._embed = jax.jit(functools.partial(_feature_map, pretext))

  def check(self, height: int, width: int) -> None:
    """Raises InputError unless the features are the mean of a feature map."""
    features, found = pretexts.shapes(self._encoder, height, width)
    if found is None or found[3:] != features[1:]:
      raise InputError('Grad-CAM takes the feature map of which the features '
                       'are the mean; this encoder sows '
                       + ('another' if found else 'no map'))

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'GradCam':
    """Fits the density to the pooled features f[n, d] of normal images."""
    del description  # it takes no time
    self._look = functools.partial(self._embed, variables)
    self.density_ = oneclass.fit(self.classifier, train)
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    heat = _in_parts(lambda part: gradcam.heat(
        self.density_, np.asarray(self._look(part))), image, description)
    return gradcam.resize(heat, *image.shape[1:3]).astype(np.float32)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both."""
    return self.fit(variables, train).maps(image, description)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted density, JSON-able."""
    return oneclass.parameters(self.density_) | {
        'classifier': self.classifier}


class ScoreMap:
  """Takes what the task itself says of each position of the encoder's map.

  Each position is spread over the pixels by a Gaussian, as in Liznerski et al.,
  ICLR 2021; the weights of a pixel sum to one, see
  `windows.upsample`.
  """
  learns_from = 'nothing'

  def __init__(self, pretext: nn.Module, seed: int, *, sigma: float = 12.0):
    """Checks the arguments.

    Args:
      pretext: the task, with `score_map`.
      seed: not used.
      sigma: of the Gaussian, in pixels.
    """
    del seed
    if not hasattr(pretext, 'score_map'):
      raise InputError("localize.name='task' takes a task that has a map of "
                       "its own, as pretext.name='fcdd'")
    if (not hasattr(pretext.encoder, 'stride')
        or hasattr(pretext.encoder, 'receptive_field')):
      raise InputError("localize.name='task' takes an encoder that pads and "
                       "knows where its map lies, as encoder.name='fcdd'")
    _check_sigma(sigma)
    self.sigma, self._stride = sigma, pretext.encoder.stride
    self._embed = jax.jit(functools.partial(score_map, pretext))
    self.classifier, *more = pretexts.names(pretext, 'score_map')
    if more or self.classifier not in pretexts.names(pretext, 'scores'):
      raise InputError("the pretext task's `score_map` must have one name, and "
                       'that of one of its `scores`')

  def check(self, height: int, width: int) -> None:
    """Does nothing: images of any size have a map."""

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'ScoreMap':
    """Takes the variables of the network, and nothing of the images."""
    del train, description
    self._look = functools.partial(self._embed, variables)
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    score = _in_parts(self._look, image, description)
    return self.enlarge(score, *image.shape[1:3]).astype(np.float32)

  def enlarge(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spreads f[n, gh, gw] over pixels, f64[n, h, w]."""
    return _spread_over(score, height, width, [
        self._stride * np.arange(cells) for cells in score.shape[1:]],
                        self.sigma)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both."""
    return self.fit(variables, train).maps(image, description)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the maps, JSON-able."""
    return {'classifier': self.classifier, 'sigma': self.sigma}


def score_map(pretext: nn.Module, variables: Mapping[str, Any],
              image: jax.Array) -> jax.Array:
  """Maps u8 or f32[n, h, w, c] to the task's `score_map`, f32[n, gh, gw]."""
  with convolution.precise():  # for the reason that features have
    [found] = pretext.apply(
        variables, step.to_float(image), method='score_map').values()
    return found


def _check_whole(key: str, value: object) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise InputError(f'localize.{key} is {value!r}; it must be a whole number '
                     'from 1 on')


def _check_sigma(sigma: object) -> None:
  if isinstance(sigma, bool) or not (
      isinstance(sigma, numbers.Real) and 1e-3 <= sigma < np.inf):
    raise InputError(f'localize.sigma is {sigma!r}; it must be above 0, by a '
                     'thousandth of a pixel at least')


def _spread_over(score: np.ndarray, height: int, width: int,
                 places: Sequence[np.ndarray], sigma: float) -> np.ndarray:
  """Spreads f[n, gh, gw] over pixels, f64[n, h, w], by a Gaussian.

  `places`, f[gh] and f[gw], are where rows and columns lie, in pixels.
  """
  rows, columns = (_spread(length, place, sigma) for length, place
                   in zip((height, width), places, strict=True))
  return np.einsum('ij,njk,lk->nil', rows, score, columns, optimize=True)


def _spread(length: int, place: np.ndarray, sigma: float) -> np.ndarray:
  """Returns f64[length, cells], rows of sum one, of cells at f[cells]."""
  offset = np.arange(length)[:, None] - place
  nearest = np.abs(offset).min(axis=1, keepdims=True)
  # In terms of the nearest, so that some cell weighs something.
  weight = np.exp(-0.5 * (offset**2 - nearest**2) / sigma**2)
  return weight / weight.sum(axis=1, keepdims=True)


def _feature_map(pretext, variables, image):
  with convolution.precise():  # for the reason that features have
    return windows.feature_map(pretext, variables, step.to_float(image))


METHODS = {'windows': Windows, 'gradcam': GradCam, 'task': ScoreMap}
Method = Windows | Stages | Multiscale | GradCam | ScoreMap


def name(group: Mapping[str, Any]) -> str:
  """Returns which of `METHODS` a config's group `localize` names."""
  return group.get('name', 'windows')


def create(group: Mapping[str, Any], pretext: nn.Module, seed: int
           ) -> Method:
  """Returns what the group `localize` of a config names, unfitted.

  Raises:
    InputError: an unknown name or field, or what the method refuses.
  """
  if name(group) not in METHODS:
    raise errors.unknown('localize.name', name(group), METHODS)
  fields = {key: value for key, value in group.items() if key != 'name'}
  method = METHODS[name(group)]
  if method is Windows and 'stages' in fields:
    method = Stages
  elif method is Windows:
    sizes = [fields.get(key) for key in ('side', 'stride')]
    if all(_is_several(each) and len(each) == 1 for each in sizes):
      fields |= {'side': sizes[0][0], 'stride': sizes[1][0]}
    elif any(map(_is_several, sizes)):
      method = Multiscale
  return plugins.call(
      method, fields, 'localize', pretext=pretext, seed=seed)


def _in_parts(look: Callable, image: np.ndarray, description: str | None
              ) -> np.ndarray:
  """Concatenates what is found of u8[m, h, w, c], so many at once."""
  found = []
  for begin in _bar(range(0, len(image), _IMAGES), description, 'score'):
    part = image[begin:begin + _IMAGES]
    padding = [(0, _IMAGES - len(part))] + [(0, 0)] * 3  # one program for all
    found.append(np.asarray(look(np.pad(part, padding)))[:len(part)])
  return np.concatenate(found)


def _is_several(value: object) -> bool:
  return isinstance(value, (list, tuple))


def _some(rng: np.random.Generator, values: np.ndarray, count: int
          ) -> np.ndarray:
  count = min(count, len(values))
  return np.sort(rng.choice(values, count, replace=False))


def _bar(each: Iterable, description: str | None, what: str) -> Iterator:
  return iter(progress.bar(each, f'{description} {what}', leave=False,
                           unit='batches', disable=not description))
