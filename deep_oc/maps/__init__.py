"""Heat maps of any images, most of them by densities that are fitted once.

`METHODS` are the values of `localize.name`; the group's other fields are the
arguments of one. A method has

- `check(height, width)`: raises InputError if it has no map of such images;
- `learns_from`: normal images, 'image', their pooled features, 'pool', or
  'nothing';
- `fit(variables, train)`, of a network's variables and what is learnt from;
- `maps(image)`: u8[m, h, w, c] to f32[m, h, w], higher = more anomalous;
- `fit_maps(variables, train, image)`: both, in less memory;
- `classifier`: the density's name, and `parameters()`: what defines it.

Those of densities of places are in `grids`, of several sizes in `multiscale`,
those of whole images in `whole`.
"""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from deep_oc import errors, plugins
from deep_oc.maps import _arguments
from deep_oc.maps.grids import Grid, Part, Stages, Windows
from deep_oc.maps.multiscale import Multiscale
from deep_oc.maps.whole import GradCam, ScoreMap, score_map

__all__ = ['METHODS', 'GradCam', 'Grid', 'Method', 'Multiscale', 'Part',
           'ScoreMap', 'Stages', 'Windows', 'create', 'name', 'score_map']

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
