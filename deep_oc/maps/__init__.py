"""Heat maps of any images, most of them by densities that are fitted once.

`METHODS` are the values of `localize.name`; the group's other fields are the
arguments of one. A method has

- `check(height, width)`: raises InputError if it has no map of such images;
- `learns_from`: normal images, 'image', their pooled features, 'pool', or
  'nothing';
- `fit(variables, train)`, of a network's variables and what is learnt from;
- `maps(image)`: u8[m, h, w, c] to f32[m, h, w], higher = more anomalous;
- `fit_maps(variables, train, image)`: both, in less memory;
- `leaves_out`: whether it has `left_out(train, some)`, maps of images that it
  was fitted to, each as if it had not been;
- `classifier`: the density's name, and `parameters()`: what defines it.

Those of densities of places are in `grids`, of several sizes in `multiscale`,
those of whole images in `whole`.
"""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from deep_oc import errors, oneclass, plugins
from deep_oc.maps import _arguments
from deep_oc.maps.grids import Grid, Part, Stages, Windows
from deep_oc.maps.multiscale import Multiscale
from deep_oc.maps.whole import GradCam, ScoreMap, score_map

__all__ = ['METHODS', 'GradCam', 'Grid', 'Method', 'Multiscale', 'Part',
           'ScoreMap', 'Stages', 'Windows', 'create', 'left_out', 'name',
           'score_map']

_LEFT_OUT = 1000  # images, for false-alarm rates of 0.1 % and more

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
    if all(_arguments.is_several(each) and len(each) == 1 for each in sizes):
      fields |= {'side': sizes[0][0], 'stride': sizes[1][0]}
    elif any(map(_arguments.is_several, sizes)):
      method = Multiscale
  return plugins.call(
      method, fields, 'localize', pretext=pretext, seed=seed)


def left_out(method: Method, train: np.ndarray, seed: int,
             description: str | None = None) -> np.ndarray:
  """Returns the largest values of maps of fitted images, each left out, f64[m].

  Thresholds by them hold what `deep_oc.thresholds` promises, and no image is
  given up for it. Conformal prediction would compare each of these images with
  the image to judge, too. That can only make neighbours nearer, so scores
  without it are no lower, and flag no more.

  Args:
    method: fitted, and `leaves_out`.
    train: u8[n, h, w, c], as they were fitted.
    seed: which are taken, if they are more than 1,000.
    description: of a bar, if there is to be one.
  """
  some = oneclass.drawn(len(train), _LEFT_OUT, seed)
  return np.float64(
      method.left_out(train, some, description).max(axis=(1, 2)))
