"""Deep SVDD's encoder for CIFAR-10, of LeNet's kind (Ruff et al., ICML 2018).

https://proceedings.mlr.press/v80/ruff18a.html; as in the authors' PyTorch code,
but for the images: that code also scales them to [0, 1] by the least and the
largest value of each class. Its layers cannot make a constant of all images:
none has a bias, and BatchNorm has neither scale nor shift (propositions 2 and 3
of the paper tell what a bias or a bounded activation would allow).
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, errors, initializers, pooling
from deep_oc.errors import InputError

_ROUNDING = 1e-6  # a deviation of no more is none


class Model(nn.Module):
  """A 5x5 convolution, BatchNorm, leaky ReLU, 2x2 max-pool per channel count.

  Features are the whole last map, flattened: 4 * 4 * 128 of 32 pixels, 3 * 3 *
  128 of 28.

  Attributes:
    channels: of each layer.
    gcn: whether each image's contrast is normalised first; see `gcn`.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  channels: tuple[int, ...] = (32, 64, 128)
  gcn: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its layers: each counts as a stage."""
    return len(self.channels)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to flattened features f32[n, d]."""
    height, width = image.shape[1:3]
    if min(height, width) < 2**self.stages:
      raise InputError(f'lenet halves images {self.stages} times, which need '
                       f'{2**self.stages} pixels a side, not {height}x{width}')
    x = (gcn(image) if self.gcn else image).astype(self.dtype)
    for stage, channels in enumerate(self.channels, 1):
      x = nn.Conv(channels, (5, 5), padding=((2, 2), (2, 2)), use_bias=False,
                  kernel_init=initializers.pytorch_uniform, dtype=self.dtype,
                  conv_general_dilated=convolution.convolve)(x)
      x = batch_norm.BatchNorm(
          use_running_average=not train, use_scale=False, use_bias=False,
          momentum=0.9, epsilon=1e-4, dtype=self.dtype)(x)
      x = pooling.max_pool(nn.leaky_relu(x, 0.01), 2, 2)
      feature = (x.reshape(x.shape[0], -1).astype(jnp.float32)
                 if stage == self.stages else
                 jnp.mean(x, axis=(1, 2), dtype=jnp.float32))
      self.sow('intermediates', 'stage', feature)  # free unless asked for
    self.sow('intermediates', 'map', x)
    return feature


def gcn(image: jax.Array) -> jax.Array:
  """Normalises the global contrast of each of f32[n, h, w, c].

  Over all its pixels and channels: less the mean, over the mean absolute
  deviation. An image of one colour becomes zeros, however its mean is rounded.
  """
  axes = (1, 2, 3)
  image = image - image.mean(axes, keepdims=True)
  deviation = jnp.abs(image).mean(axes, keepdims=True)
  return jnp.where(deviation > _ROUNDING,
                   image / jnp.maximum(deviation, _ROUNDING), 0.)
