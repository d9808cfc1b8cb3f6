"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016).

Pre-activation blocks, few and wide (https://arxiv.org/abs/1605.07146): what
GEOM and GOAD have. Without dropout.
"""
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, initializers, models
from deep_oc.errors import InputError

_CHANNELS = 16, 32, 64  # of the stages at width 1


def _conv(channels: int, kernel: int, stride: int, dtype: Any,
          name: str | None = None) -> nn.Conv:
  return nn.Conv(channels, (kernel, kernel), strides=(stride, stride),
                 padding=((kernel // 2, kernel // 2),) * 2, use_bias=False,
                 kernel_init=initializers.he_normal, dtype=dtype,
                 conv_general_dilated=convolution.convolve, name=name)


def _activated(x: jax.Array, train: bool, dtype: Any) -> jax.Array:
  """Returns BatchNorm, then ReLU, of [n, h, w, c]."""
  return nn.relu(batch_norm.BatchNorm(
      use_running_average=not train, momentum=0.9, epsilon=1e-5,
      dtype=dtype)(x))


class Block(nn.Module):
  """Two convolutions, each after BatchNorm and ReLU, around a shortcut.

  A shortcut to more channels is a 1x1 convolution of what the first one sees.
  """
  channels: int
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/s, w/s, channels]."""
    conv = functools.partial(_conv, self.channels, dtype=self.dtype)
    y = _activated(x, train, self.dtype)
    if x.shape[-1] != self.channels or self.stride > 1:
      x = conv(kernel=1, stride=self.stride, name='shortcut')(y)
    y = conv(kernel=3, stride=self.stride)(y)
    return x + conv(kernel=3, stride=1)(_activated(y, train, self.dtype))


class Model(nn.Module):
  """WRN-depth-width without a classification layer.

  Attributes:
    depth: 6n + 4, of n blocks in each of three stages: 10, 16, 22, 28, ...
    width: multiplies the channels of the stages, 16, 32 and 64.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  depth: int = 10
  width: int = 4
  dtype: Any = jnp.float32

  def __post_init__(self):
    if type(self.depth) is not int or self.depth < 10 or self.depth % 6 != 4:
      raise InputError('wide_resnet depth must be 10, 16, 22, ... (6n + 4), '
                       f'not {self.depth!r}')
    if type(self.width) is not int or self.width < 1:
      raise InputError('wide_resnet width must be a whole number from 1 on, '
                       f'not {self.width!r}')
    super().__post_init__()

  @property
  def stages(self) -> int:
    """The number of stages, each of blocks with maps of one size."""
    return len(_CHANNELS)

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to pooled features f32[n, 64 * width]."""
    return models.pooled(self, self.maps(image, train=train))

  @nn.compact
  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each stage, [n, h', w', d']."""
    x, found = _conv(16, 3, 1, self.dtype)(image.astype(self.dtype)), []
    for stage, channels in enumerate(_CHANNELS):
      for block in range((self.depth - 4) // 6):
        stride = 2 if stage and not block else 1
        x = Block(channels * self.width, stride, self.dtype)(x, train=train)
      if channels == _CHANNELS[-1]:
        x = _activated(x, train, self.dtype)
      found.append(x)
    return found
