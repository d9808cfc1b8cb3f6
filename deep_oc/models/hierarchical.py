"""Patch SVDD's encoder: of a patch, and of its four quarters before that.

Yi and Yoon, "Patch SVDD: Patch-level SVDD for Anomaly Detection and
Segmentation", ACCV 2020 (https://arxiv.org/abs/2006.16067), section 3.3; layers
and widths are those of the authors' code. An encoder of 32 pixels sees the
quarters of a patch of 64, and what it finds there is put together. Nothing
pads, so that all patches of an image are one pass over it, as
`deep_oc.models.patchnet` tells: quarters, put together, are then neighbours
that lie a quarter's side apart.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import convolution, crops, errors, initializers
from deep_oc.errors import InputError

_SLOPE = 0.1  # of leaky ReLU below 0


class Model(nn.Module):
  """Embeds patches of 32 pixels; then, `levels` times, four neighbours in one.

  By default a patch of 32 pixels is 15, 13, 11, 9, 7, 5, 3 and 1 wide in turn.
  Features are in [-1, 1].

  Attributes:
    channels: of each convolution, the first with stride 2; the last is the
      features' dimension, at each level.
    hidden: channels between four features and one.
    levels: how often four neighbours' features become one; 0: patches of 32
      pixels, 1: of 64, and so on.
    dtype: of the computation; parameters and output are float32.
  """
  channels: tuple[int, ...] = (32, 64, 128, 128, 64, 32, 32, 64)
  hidden: int = 128
  levels: int = 1
  dtype: Any = jnp.float32

  def __post_init__(self):
    errors.check_several('encoder.channels', self.channels)
    errors.check_whole('encoder.hidden', self.hidden)
    errors.check_whole('encoder.levels', self.levels, 0)
    super().__post_init__()

  @property
  def smallest(self) -> int:
    """Side in pixels of the smallest patch: of one feature, and even."""
    return 4 * len(self.channels)

  @property
  def side(self) -> int:
    """Side in pixels of the patch that a feature is of."""
    return self.smallest * 2**self.levels

  @property
  def stages(self) -> int:
    """Sizes of patches, each of which counts as a stage."""
    return self.levels + 1

  @property
  def stride(self) -> int:
    """Pixels between neighbours of the last map."""
    return 2

  @property
  def receptive_field(self) -> int:
    """Side in pixels of what one position of the last map sees."""
    return self.side - 1

  def of_side(self, side: int) -> 'Model':
    """Returns the part of the encoder that embeds patches of `side` pixels.

    It takes the parameters of the whole.

    Raises:
      InputError: no part does.
    """
    sides = [self.smallest * 2**level for level in range(self.levels + 1)]
    if side not in sides:
      raise InputError(f'the encoder embeds windows of {sides} pixels, not of '
                       f'{side}')
    return self.clone(levels=sides.index(side))

  def setup(self):
    self.small = [
        nn.Conv(each, (3, 3), strides=1 if number else 2, padding='VALID',
                kernel_init=initializers.pytorch_uniform, dtype=self.dtype,
                conv_general_dilated=convolution.convolve)
        for number, each in enumerate(self.channels)]
    self.gather = self._dense(self.hidden)
    self.merge = self._dense(self.channels[-1])

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to features f32[n, d], the mean over all patches."""
    x = self.look(image, self.levels, train=train)
    self.sow('intermediates', 'map', x)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

  def look(self, image: jax.Array, levels: int, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to the features of all patches, [n, gh, gw, d].

    Every second pixel a patch begins, as large as `levels` say, of which the
    last row and column are not seen; the patches of fewer levels than the
    encoder has are seen on the way.

    Raises:
      InputError: the image is smaller than a patch.
    """
    del train  # nothing is drawn, and there are no statistics
    self.check(*image.shape[1:3], levels)
    n, *size, _ = image.shape
    side = self.smallest * 2**levels
    x = image.astype(self.dtype) - 0.5
    patch = size == [side, side]
    if patch:  # not more than its parts have to be seen
      x = crops.tiles(x, self.smallest)
    for number, layer in enumerate(self.small):
      x = layer(_leaky(x) if number else x)
    x = jnp.tanh(x)
    if patch:
      x = x.reshape(n, 2**levels, 2**levels, -1)
    self._sow_stage(x)
    for level in range(levels):
      x = _corners(x, None if patch else self.smallest // 2 * 2**level)
      x = jnp.tanh(self.merge[level](_leaky(self.gather[level](x))))
      self._sow_stage(x)
    return x

  def _sow_stage(self, x: jax.Array) -> None:
    pool = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    self.sow('intermediates', 'stage', pool)  # free unless asked for

  def check(self, height: int, width: int, levels: int) -> None:
    """Raises InputError if images are smaller than a patch of these levels."""
    side = self.smallest * 2**levels
    if min(height, width) < side:
      raise InputError(f'the encoder sees patches of {side} pixels, more than '
                       f'the {height}x{width} of the images; take fewer levels '
                       'or larger images')

  def _dense(self, channels: int) -> list[nn.Module]:
    return [nn.Dense(channels, kernel_init=initializers.pytorch_uniform,
                     dtype=self.dtype)
            for _ in range(self.levels)]


def _leaky(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, _SLOPE)


def _corners(x: jax.Array, apart: int | None) -> jax.Array:
  """Puts four features of [n, h, w, d] side by side, [n, h', w', 4 d].

  Those at the corners of each square, `apart` positions wide; None: of every
  second square of neighbours.
  """
  first, second = ((slice(0, None, 2), slice(1, None, 2)) if apart is None
                   else (slice(0, -apart), slice(apart, None)))
  return jnp.concatenate([x[:, i, j] for i in (first, second)
                          for j in (first, second)], axis=-1)
