"""The contracting half of a U-Net, whose maps of all sizes a decoder can use.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, with padding and BatchNorm; the widths are those of
an implementation of Huang et al. (`deep_oc.pretexts.restoration`), for 32
pixels.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, errors, pooling
from deep_oc.errors import InputError


class Model(nn.Module):
  """Levels of two convolutions each, with max-pooling between them.

  It sows no map: a score of them all is not one of the last.

  Attributes:
    channels: of each level; the last is the features' dimension.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  channels: tuple[int, ...] = (64, 128, 256, 512, 512)
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its levels."""
    return len(self.channels)

  def setup(self):
    self.levels = [Level(each, self.dtype) for each in self.channels]

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to features f32[n, d], the last map's mean."""
    for x in self.maps(image, train=train):
      pool = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
      self.sow('intermediates', 'stage', pool)  # free unless asked for
    return pool

  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each level, [n, h / 2^k, w / 2^k, d].

    Raises:
      InputError: the image is too small to be halved so often.
    """
    fewest = 2 ** (len(self.channels) - 1)
    if min(image.shape[1:3]) < fewest:
      raise InputError(f'encoder.channels of {len(self.channels)} levels take '
                       f'images of {fewest} pixels at least, not '
                       f'{image.shape[1]}x{image.shape[2]}')
    found, x = [], image
    for number, level in enumerate(self.levels):
      if number:
        x = pooling.max_pool(x, 2, 2)
      x = level(x, train=train)
      found.append(x)
    return found


class Level(nn.Module):
  """Twice a 3x3 convolution with bias, BatchNorm and ReLU."""
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h, w, channels]."""
    for _ in range(2):
      x = nn.Conv(self.channels, (3, 3), padding=((1, 1), (1, 1)),
                  dtype=self.dtype,
                  conv_general_dilated=convolution.convolve)(x)
      x = nn.relu(batch_norm.BatchNorm(
          use_running_average=not train, momentum=0.9, epsilon=1e-5,
          dtype=self.dtype)(x))
    return x
