"""Heat maps by densities of places: of windows, or of an encoder's stages."""
import abc
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from deep_oc import densities, errors, oneclass, windows
from deep_oc import stages as stage_maps
from deep_oc.errors import InputError
from deep_oc.maps import _arguments, _batches, _pixels

_MEMORY = 2**29  # bytes of window features, of training and of others

# Where the rows of windows of a band begin, i64[r], and the density there.
Part = tuple[np.ndarray, densities.SharedDensity | densities.PositionDensity]


class Normal(NamedTuple):
  """What a shared density is fitted to.

  Attributes:
    place: i64[k, 3], image, row and column.
    feature: f32[k, d].
  """
  place: np.ndarray
  feature: np.ndarray


class Grid(abc.ABC):
  """Scores the places of a grid and spreads the scores over pixels.

  A subclass has `_embed`, (variables, image u8[n, h, w, c], place i64[k, 3]) to
  features f32[k, d], with a bar if a description is given, and the abstract
  methods.
  """
  learns_from = 'image'

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
      _arguments.check_sigma(sigma)
    errors.check_number('localize.reg_covar', reg_covar)
    errors.check_whole('localize.limit', limit, 2)
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
  def weights(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the places are worth to the pixels, f64[h, gh], f64[w, gw].
    """

  @abc.abstractmethod
  def middles(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the places' middles lie, f64[gh], f64[gw], in pixels."""

  @abc.abstractmethod
  def _dimension(self, image: np.ndarray) -> int:
    """Returns how many columns the features of u8[n, h, w, c] have."""

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'Grid':
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

  @property
  def leaves_out(self) -> bool:
    """Whether it has `left_out`: one density for all, by neighbours."""
    return self._new().leaves_out

  def left_out(self, train: np.ndarray, some: np.ndarray,
               description: str | None = None) -> np.ndarray:
    """Maps images that were fitted, each by the places of all others.

    Args:
      train: u8[n, h, w, c], as they were fitted.
      some: which of them, i64[m].
      description: of a bar, if there is to be one.

    Returns:
      f32[m, h, w].
    """
    image, (rows, _) = train[some], self.grid(*train.shape[1:3])
    owner = self.normal_.place[:, 0]
    return self.spread(np.concatenate([
        self.density_.left_out(self._features(image[block], rows),
                               some[block, None] == owner)
        for block in self._blocks(image, rows, description, 'left out')]),
                       *image.shape[1:3])

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able."""
    return self.density_.parameters() | {
        'classifier': self.classifier, 'sigma': self.sigma}

  def maps_by(self, parts: Iterable[Part], image: np.ndarray,
              description: str | None = None) -> np.ndarray:
    """Does what `maps` does, with densities that may be fitted meanwhile."""
    return self.spread(
        self._scores(parts, image, description), *image.shape[1:3])

  def scores(self, image: np.ndarray) -> np.ndarray:
    """Maps u8[m, h, w, c] to scores of the places, f64[m, gh, gw]."""
    return self._scores(self.parts_, image, None)

  def spread(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps scores of the places f[m, gh, gw] to the maps f32[m, h, w]."""
    return windows.upsample(
        score, *self.weights(height, width)).astype(np.float32)

  def features(self, image: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Maps u8[m, h, w, c] and places i64[k, 3] to features f32[k, d]."""
    return self._look(image, place)

  def fits(self, variables: Mapping[str, Any], train: np.ndarray,
           description: str | None = None) -> Iterator[Part]:
    """Yields the densities of `fit`, for bands of the grid in turn.

    Those of each position that have been used need not be held any longer.
    """
    self._look = functools.partial(self._embed, variables)
    rows, _ = self.grid(*train.shape[1:3])
    if self.positions == 'shared':
      place = self._sample(*train.shape[:3])
      feature = self._look(train, place, description and f'{description} fit')
      self.density_ = self._new().fit(feature)
      fitted = oneclass.drawn(len(place), self.limit, self.seed)
      self.normal_ = Normal(place[fitted], feature[fitted])
      yield rows, self.density_
      return
    bands = np.array_split(
        rows, min(len(rows), -(-len(train) * self._bytes(train, rows)
                               // _MEMORY)))
    shrinkage = []
    for band in _batches.bar(bands, description, 'fit'):
      self.density_ = self._new().fit(self._features(train, band))
      shrinkage.append(self.density_.shrinkage_)
      yield band, self.density_
    self.density_.shrinkage_ = np.concatenate(shrinkage)  # of the whole grid

  def _sample(self, n, height, width):
    """Returns random places of all n images, i64[k, 3]."""
    rows, columns = self.grid(height, width)
    # So many of all, in proportion of rows and of columns.
    share = min(self.limit / (n * len(rows) * len(columns)), 1)**0.5
    down, across = (max(round(share * len(each)), 1)
                    for each in (rows, columns))
    rng = np.random.default_rng(self.seed)
    return np.concatenate([
        windows.places(1, _some(rng, rows, down), _some(rng, columns, across))
        + [i, 0, 0] for i in range(n)])

  def _scores(self, parts, image, description):
    return np.concatenate([self._score(density, image, rows, description)
                           for rows, density in parts], axis=1)

  def _score(self, density, image, rows, description):
    return np.concatenate([
        density.score(self._features(image[block], rows))
        for block in self._blocks(image, rows, description, 'score')])

  def _blocks(self, image, rows, description, what):
    """Yields slices of the images whose features are held at once."""
    many = max(_MEMORY // self._bytes(image, rows), 1)
    if self.positions == 'shared':  # else it is by position that it takes long
      many = min(many, _batches.IMAGES)
    for begin in _batches.bar(range(0, len(image), many), description, what):
      yield slice(begin, begin + many)

  def _features(self, image, rows):
    """Returns the features of the places in `rows`, f[n, r, c, d]."""
    _, columns = self.grid(*image.shape[1:3])
    return self._look(image, windows.places(len(image), rows, columns)).reshape(
        len(image), len(rows), len(columns), -1)

  def _bytes(self, image, rows):
    """Returns how many bytes an image's features take in these rows."""
    _, columns = self.grid(*image.shape[1:3])
    return 4 * self._dimension(image) * len(rows) * len(columns)


class Windows(Grid):
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
      seed, positions, classifier, reg_covar, limit: as of `Grid`.
    """
    super().__init__(seed, positions, classifier, reg_covar, sigma, limit)
    errors.check_whole('localize.side', side)
    errors.check_whole('localize.stride', stride)
    if stride > side:
      raise InputError(f'localize.stride={stride} leaves pixels that no window '
                       f'of {side} sees; take {side} at most')
    self.side, self.stride = side, stride
    self._embed = windows.embedder(pretext, side)

  def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the windows begin, i64[gh] and i64[gw].

    Raises:
      InputError: they are larger than the image.
    """
    return tuple(windows.starts(length, self.side, self.stride)
                 for length in (height, width))

  def weights(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns f64[h, gh] and f64[w, gw]; see `windows.weights`."""
    return tuple(windows.weights(length, self.side, self.stride, self.sigma)
                 for length in (height, width))

  def middles(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns f64[gh] and f64[gw], in pixels."""
    return tuple(begin + self.side / 2 for begin in self.grid(height, width))

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


class Stages(Grid):
  """Scores every position of the maps of an encoder's stages.

  One pass over an image; see `deep_oc.stages`. A score is spread over the
  pixels by a Gaussian around the middle of what its position stands for.
  """

  def __init__(self, pretext: nn.Module, seed: int, *, stages: Sequence[int],
               neighbourhood: int = 1, border: int = 0,
               positions: str = 'shared',
               classifier: str = 'gde_ledoit_wolf', reg_covar: float = 1e-6,
               sigma: float | None = None, limit: int = oneclass.LIMIT):
    """Checks the arguments.

    Args:
      pretext: the task, whose encoder has `maps`.
      stages: whose maps stand side by side, the first is 1.
      neighbourhood: see `stages.look`.
      border: pixels at each edge; positions whose middle lies there are left
        out, and the map is that of the nearest others. Features still see them,
        where PaDiM and PatchCore cut out the inner 224 of 256 pixels first.
      sigma: None is 4 pixels, as PaDiM and PatchCore have it.
      seed, positions, classifier, reg_covar, limit: as of `Grid`.
    """
    super().__init__(seed, positions, classifier, reg_covar,
                     4.0 if sigma is None else sigma, limit)
    errors.check_whole('localize.neighbourhood', neighbourhood)
    if neighbourhood % 2 == 0:
      raise InputError(f'localize.neighbourhood={neighbourhood} must be odd')
    errors.check_whole('localize.border', border, least=0)
    self.stages = tuple(stages) if _arguments.is_several(stages) else (stages,)
    self.neighbourhood, self.border = neighbourhood, border
    stage_maps.check(pretext, self.stages)
    self._pretext = pretext
    self._embed = stage_maps.embedder(pretext, self.stages, neighbourhood)

  def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the largest map's rows and columns.

    Raises:
      InputError: none is inside the border.
    """
    inside = [np.flatnonzero((self.border <= middle) & (
        middle <= length - self.border)) for length, middle in zip(
            (height, width), self._middles(height, width), strict=True)]
    if not all(map(len, inside)):
      raise InputError(f'localize.border={self.border} leaves no place of an '
                       f'image of {height}x{width}')
    return tuple(inside)

  def weights(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns f64[h, gh] and f64[w, gw], of Gaussians around the middles."""
    return tuple(_pixels.weights(length, middle - 0.5, self.sigma)
                 for length, middle in zip(
                     (height, width), self.middles(height, width), strict=True))

  def middles(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns f64[gh] and f64[gw], in pixels."""
    return tuple(middle[inside] for middle, inside in zip(
        self._middles(height, width), self.grid(height, width), strict=True))

  def embed(self, variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to the features of the grid, f32[n, gh, gw, d]."""
    rows, columns = self.grid(*image.shape[1:3])
    found = stage_maps.look(
        self._pretext, self.stages, self.neighbourhood, variables, image)
    return found[:, rows][:, :, columns]

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted densities, JSON-able."""
    return super().parameters() | {
        'stages': list(self.stages), 'neighbourhood': self.neighbourhood,
        'border': self.border}

  def _middles(self, height, width):
    """Returns where the middles of rows and columns lie, f64 from the edge."""
    return [(np.arange(cells) + 0.5) * length / cells for length, cells in zip(
        (height, width), self._shape(height, width)[:2], strict=True)]

  def _dimension(self, image):
    return self._shape(*image.shape[1:3])[2]

  def _shape(self, height, width):
    return stage_maps.shape(self._pretext, self.stages, height, width)


def _some(rng: np.random.Generator, values: np.ndarray, count: int
          ) -> np.ndarray:
  count = min(count, len(values))
  return np.sort(rng.choice(values, count, replace=False))
