"""Encoders: `models/<name>.py` with a `class Model(nn.Module)` each.

The contract: the module's fields are `dtype`, the compute dtype, and the
config's keys, and

  __call__(image, *, train: bool)  f32[n, h, w, c] -> features f32[n, d]
  maps(image, *, train), optional  f32[n, h, w, c] -> [f[n, h', w', d'], ...],
                                   the map of each stage: for decoders, for
                                   tasks that score positions (the last), and
                                   for heat maps by stages (`deep_oc.stages`)

for any n, and any h and w that are not too small. Images are in [0, 1]; an
encoder that begins with PyTorch's weights may standardise them (`standardised`)
and keep BatchNorm's statistics (`freeze_batch_norm`). Parameters and the
collection 'batch_stats' are float32 whatever the compute dtype; `train` chooses
the batch's statistics over the running ones. What is drawn in training, as by
dropout, is drawn from the stream 'views'. An encoder may also

  sow 'map' as 'intermediates'     its last map, [n, gh, gw, d], for Grad-CAM:
                                   the features are its mean over positions, or
                                   all of it, flattened
  sow 'stage', once a stage        the pooled features of each, [n, d], the last
                                   of which it returns
  stages: int                      how many these are
  receptive_field, stride: int     the geometry of the map, in pixels, if it
                                   does not pad; overlapping windows of an image
                                   then share one computation
  stride: int, alone               if it pads, and position k of the last map
                                   lies at pixel k * stride
  of_side(pixels)                  its part for windows of this size, if it
                                   embeds windows of several

Where PyTorch has trained one, it may say how its layers are called there:

  checkpoint_names(), optional     -> [{layer: name}, ...], for each of several
                                   ways to call them

with the layer's path in the parameters, joined by '/', and the name that stands
before '.weight'. See `deep_oc.weights`.
"""
import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import plugins
from deep_oc.errors import InputError


def create(name: str, *, dtype: Any = jnp.float32, weights: str | None = None,
           **kwargs: Any) -> nn.Module:
  """Returns the encoder `name`, with `dtype` and `kwargs` as its fields.

  Its weights are not its own: a run reads them once, see `deep_oc.weights`.
  """
  del weights
  return plugins.call(plugins.find(__name__, name, 'Model'), kwargs, 'encoder',
                      dtype=dtype)


def pooled(encoder: nn.Module, maps: Sequence[jax.Array]) -> jax.Array:
  """Returns an encoder's features f32[n, d], the mean of its last map.

  And sows what a bound encoder may, of the map [n, h, w, d] of each stage.
  """
  for x in maps:
    pool = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    encoder.sow('intermediates', 'stage', pool)  # free unless asked for
  encoder.sow('intermediates', 'map', x)
  return pool


def check_standard(name: str, mean: Sequence[float], sd: Sequence[float]
                   ) -> None:
  """Raises InputError unless an encoder can standardise images by these."""
  for field, values in (('mean', mean), ('sd', sd)):
    if not isinstance(values, (tuple, list)) or not all(
        isinstance(each, numbers.Real) and not isinstance(each, bool)
        and math.isfinite(each) for each in values):
      raise InputError(f'{name} {field} must be a number per colour, or () to '
                       f'leave images as they are, not {values!r}')
  if not all(each > 0 for each in sd):
    raise InputError(f'{name} sd must be positive numbers, not {sd!r}')
  if len(mean) != len(sd):
    raise InputError(f'{name} has {len(mean)} mean but {len(sd)} sd; one of '
                     'each per colour')


def standardised(image: jax.Array, mean: Sequence[float], sd: Sequence[float]
                 ) -> jax.Array:
  """Returns (f32[n, h, w, c] - mean) / sd, by colour; as it is without both.

  Raises:
    InputError: they are of other colours.
  """
  if not mean:
    return image
  if len(mean) != image.shape[-1]:
    raise InputError(f'encoder.mean and encoder.sd are of {len(mean)} colours, '
                     f'but images have {image.shape[-1]}')
  return (image - jnp.array(mean, jnp.float32)) / jnp.array(sd, jnp.float32)
