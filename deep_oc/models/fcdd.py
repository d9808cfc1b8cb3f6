"""FCDD's encoder that is trained from scratch: convolutions and max-pooling.

Liznerski et al., "Explainable Deep One-Class Classification", ICLR 2021
(https://arxiv.org/abs/2007.01760); layers and widths are those of the authors'
code for 224 pixels (`FCDD_CNN224_W`), which takes any size. What its map says
of a place is of what is near: each position sees some 59 pixels.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import (batch_norm, convolution, errors, initializers, models,
                     pooling)
from deep_oc.errors import InputError
from deep_oc.models import lenet


class Model(nn.Module):
  """A convolution per channel entry, BatchNorm, leaky ReLU; some max-pooling.

  The last layer is the convolution alone. Pooling is of 3x3 pixels with a
  stride of 2; all layers pad.

  Attributes:
    channels: of each layer; the last is the features' dimension.
    kernels: side in pixels of each layer's, odd.
    pools: whether pooling follows each layer.
    gcn: whether each image's contrast is normalised first; see `lenet.gcn`.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  channels: tuple[int, ...] = (32, 128, 256, 256, 128)
  kernels: tuple[int, ...] = (5, 5, 3, 3, 3)
  pools: tuple[bool, ...] = (True, True, False, True, False)
  gcn: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    layers = len(self.channels)
    if not layers == len(self.kernels) == len(self.pools):
      raise InputError(
          f'fcdd has {layers} channels, {len(self.kernels)} kernels and '
          f'{len(self.pools)} pools; one of each per layer')
    if any(type(each) is not int or each < 1 or each % 2 == 0
           for each in self.kernels):
      raise InputError('fcdd kernels must be odd whole numbers, not '
                       f'{self.kernels!r}')
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its layers: each counts as a stage."""
    return len(self.channels)

  @property
  def stride(self) -> int:
    """Pixels between neighbours of the last map; the first lies at 0."""
    return 2 ** sum(map(bool, self.pools))

  def setup(self):
    self.convolutions = [
        nn.Conv(channels, (side, side), padding=((side // 2, side // 2),) * 2,
                kernel_init=initializers.pytorch_uniform, dtype=self.dtype,
                conv_general_dilated=convolution.convolve)
        for channels, side in zip(self.channels, self.kernels, strict=True)]
    self.norms = [batch_norm.BatchNorm(momentum=0.9, epsilon=1e-4,
                                       dtype=self.dtype)
                  for _ in self.channels[1:]]

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to features f32[n, d], the last map's mean."""
    return models.pooled(self, self.maps(image, train=train))

  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each layer, [n, h / 2^k, w / 2^k, d].
    """
    found = []
    x = (lenet.gcn(image) if self.gcn else image).astype(self.dtype)
    for number, pool in enumerate(self.pools):
      x = self.convolutions[number](x)
      if number < len(self.norms):
        x = nn.leaky_relu(
            self.norms[number](x, use_running_average=not train), 0.01)
      if pool:
        x = pooling.max_pool(x, 3, 2, 1)
      found.append(x)
    return found
