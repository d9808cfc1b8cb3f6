"""A small encoder for CPUs: about 100 times fewer operations than ResNet-18.

For demonstrations, tests and grey digits; not an encoder of any paper.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, errors, initializers, models

_SMALLEST = 4  # a map this narrow is not halved again


class Model(nn.Module):
  """One 3x3 convolution, BatchNorm and ReLU per entry of `channels`.

  Each halves the map until that is 4 pixels wide, so that what happens at
  32 pixels (16, 8, 4, 4) stays cheap.

  Attributes:
    channels: of each layer; the last is the features' dimension.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  channels: tuple[int, ...] = (32, 64, 128, 128)
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its layers: each counts as a stage."""
    return len(self.channels)

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to pooled features f32[n, d]."""
    return models.pooled(self, self.maps(image, train=train))

  @nn.compact
  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each layer, [n, h', w', d']."""
    x, found = image.astype(self.dtype), []
    for channels in self.channels:
      stride = 2 if min(x.shape[1:3]) > _SMALLEST else 1
      x = nn.Conv(channels, (3, 3), strides=(stride, stride),
                  padding=((1, 1), (1, 1)), use_bias=False,
                  kernel_init=initializers.he_truncated, dtype=self.dtype,
                  conv_general_dilated=convolution.convolve)(x)
      x = batch_norm.BatchNorm(
          use_running_average=not train, momentum=0.9, epsilon=1e-5,
          dtype=self.dtype)(x)
      x = nn.relu(x)
      found.append(x)
    return found
