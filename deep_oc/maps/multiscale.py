"""Heat maps by windows of several sizes."""
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from deep_oc import oneclass
from deep_oc.errors import InputError
from deep_oc.maps import _arguments
from deep_oc.maps.grids import Windows

# Classifiers whose scores are from 0 on.
DISTANCES = ('knn', 'knn_cosine', 'nn', 'mahalanobis')


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
    side, stride = (each if _arguments.is_several(each) else (each,)
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

  @property
  def leaves_out(self) -> bool:
    """Whether it has `left_out`."""
    return self.scales[0].leaves_out  # all are by the same classifier

  def left_out(self, train: np.ndarray, some: np.ndarray,
               description: str | None = None) -> np.ndarray:
    """Maps images that were fitted, as `Grid.left_out` does."""
    return np.prod([each.left_out(train, some, each.about(description))
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
