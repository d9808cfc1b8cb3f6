"""An encoder of small windows, whose computation overlapping windows share.

No convolution pads, so what it makes of a window does not depend on where the
window ends: all windows of an image are one pass over the image, cut into
pieces (Bailer et al., "Fast Feature Extraction with CNNs with Pooling Layers",
BMVC 2017). A network that pads, as ResNet, has to see every window by itself.
Not an encoder of CutPaste's paper.
"""
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, errors, initializers, models
from deep_oc.errors import InputError


class Model(nn.Module):
  """A 3x3 convolution without padding, BatchNorm and ReLU per channel entry.

  By default a window of 32 pixels is 30, 28, 13, 11, 5 and 3 wide in turn.

  Attributes:
    channels: of each layer; the last is the features' dimension.
    strides: of each layer.
    dtype: of the computation; parameters, statistics, output are float32.
  """
  channels: tuple[int, ...] = (64, 64, 128, 128, 256, 256)
  strides: tuple[int, ...] = (1, 1, 2, 1, 2, 1)
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    errors.check_several('encoder.strides', self.strides)
    if len(self.channels) != len(self.strides):
      raise InputError(f'patchnet has {len(self.channels)} channels but '
                       f'{len(self.strides)} strides; one of each per layer')
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its layers: each counts as a stage."""
    return len(self.channels)

  @property
  def stride(self) -> int:
    """Pixels between neighbours of the last map."""
    return math.prod(self.strides)

  @property
  def receptive_field(self) -> int:
    """Side in pixels of what one position of the last map sees."""
    side = 1
    for stride in reversed(self.strides):
      side = (side - 1) * stride + 3
    return side

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to pooled features f32[n, d]."""
    return models.pooled(self, self.maps(image, train=train))

  @nn.compact
  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each layer, [n, h', w', d'].

    Raises:
      InputError: the image is smaller than the receptive field.
    """
    if min(image.shape[1:3]) < self.receptive_field:
      raise InputError(
          f'patchnet sees {self.receptive_field} pixels at once, more than the '
          f'{image.shape[1]}x{image.shape[2]} of the images; take fewer layers '
          'or larger crops')
    x, found = image.astype(self.dtype), []
    for channels, stride in zip(self.channels, self.strides, strict=True):
      x = nn.Conv(channels, (3, 3), strides=(stride, stride), padding='VALID',
                  use_bias=False, kernel_init=initializers.he_truncated,
                  dtype=self.dtype,
                  conv_general_dilated=convolution.convolve)(x)
      x = batch_norm.BatchNorm(
          use_running_average=not train, momentum=0.9, epsilon=1e-5,
          dtype=self.dtype)(x)
      x = nn.relu(x)
      found.append(x)
    return found
