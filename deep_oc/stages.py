"""Features of places by the maps of an encoder's stages, in one pass.

What a position of a map sees is a window as large as its receptive field; an
encoder that pads sees all at once so. Maps of several stages stand side by
side, as in SPADE (Cohen and Hoshen, 2020, https://arxiv.org/abs/2005.02357),
PaDiM (Defard et al., ICPR workshops 2021, https://arxiv.org/abs/2011.08785) and
PatchCore (Roth et al., CVPR 2022, https://arxiv.org/abs/2106.08265), whose
encoders have learnt ImageNet.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import (convolution, features, pretexts, progress, sharding,
                     step, windows)
from deep_oc.errors import InputError

_IMAGES = 32  # per forward pass, at most, as many as are scored at once


def check(pretext: nn.Module, stages: Sequence[int]) -> None:
  """Raises InputError unless the task's encoder has maps of these stages."""
  encoder = pretext.encoder
  if not hasattr(encoder, 'maps'):
    raise InputError('localize.stages are of an encoder that has `maps`, as '
                     "encoder.name='resnet' or 'efficientnet'")
  known = range(1, encoder.stages + 1)
  if not stages or any(type(each) is not int or each not in known
                       for each in stages):
    raise InputError(f'localize.stages={tuple(stages)} must be numbers of the '
                     f"encoder's stages, from 1 to {encoder.stages}")


def look(pretext: nn.Module, stages: Sequence[int], neighbourhood: int,
         variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
  """Maps f32[n, h, w, c] to features of places, f32[n, gh, gw, d].

  The grid is that of the largest map; others are interpolated, bilinearly.

  Args:
    pretext: the task, whatever its crop.
    stages: of its encoder, the first is 1.
    neighbourhood: side of the square of positions over which a map is averaged
      first, odd; at the edges over those that there are (PatchCore: 3).
    variables: of the network.
    image: in [0, 1].
  """
  def maps(task, image):
    seen = task.seen(image) if hasattr(task, 'seen') else image
    found = task.encoder.maps(seen, train=False)
    return [found[each - 1] for each in stages]

  found = [nn.avg_pool(
      x.astype(jnp.float32), window_shape=(neighbourhood,) * 2, padding='SAME',
      count_include_pad=False) for x in pretext.apply(
          variables, windows.centred(pretext, variables, image), method=maps)]
  height, width = (max(x.shape[axis] for x in found) for axis in (1, 2))
  return jnp.concatenate([_resized(x, height, width) for x in found], axis=-1)


def _resized(x: jax.Array, height: int, width: int) -> jax.Array:
  # Not `jax.image.resize`, which wants n as a number where ONNX is made of it.
  if x.shape[1:3] == (height, width):
    return x
  scale = jnp.float32([height / x.shape[1], width / x.shape[2]])
  return jax.image.scale_and_translate(
      x, (x.shape[0], height, width, x.shape[3]), (1, 2), scale,
      jnp.zeros(2), 'bilinear')


@functools.cache
def shape(pretext: nn.Module, stages: Sequence[int], height: int, width: int
          ) -> tuple[int, int, int]:
  """Returns the grid's gh and gw and the features' d, for images of a size."""
  colours = len(getattr(pretext.encoder, 'mean', ())) or 3
  image = jnp.zeros((1, height, width, colours))
  return jax.eval_shape(lambda: look(pretext, stages, 1, pretext.init(
      {'params': jax.random.key(0), 'views': jax.random.key(0)}, image,
      train=False), image)).shape[1:]


def embedder(pretext: nn.Module, stages: Sequence[int], neighbourhood: int
             ) -> Callable:
  """Returns (variables, image u8[n, h, w, c], place i64[k, 3]) -> f32[k, d].

  The features of the positions (image, row, column) of the grid. A description
  as the fourth argument shows a progress bar.
  """
  whole = pretext.clone(crop=0) if hasattr(pretext, 'crop') else pretext

  @jax.jit
  def forward(variables, image):
    with convolution.precise():  # for the reason that features have
      return look(pretext, stages, neighbourhood, variables,
                  step.to_float(image))

  def embed(variables, image, place, description=None):
    used, number = np.unique(place[:, 0], return_inverse=True)
    size = features.at_once(1, *pretexts.extent(whole, *image.shape[1:3]),
                            sharding.mesh(), _IMAGES)
    found = None
    for begin in progress.batches(range(0, len(used), size), description):
      some = image[used[begin:begin + size]]
      padding = [(0, size - len(some))] + [(0, 0)] * 3  # one program for all
      grid = np.asarray(forward(variables, np.pad(some, padding)))
      member = (begin <= number) & (number < begin + size)
      if found is None:
        found = np.empty((len(place), grid.shape[-1]), np.float32)
      found[member] = grid[number[member] - begin, *place[member, 1:].T]
    return found

  return embed
