"""Denoising autoencoder: what was the image before noise was added?

Vincent et al., "Extracting and Composing Robust Features with Denoising
Autoencoders", ICML 2008, with the Gaussian noise of their JMLR 2010 paper
(https://www.jmlr.org/papers/v11/vincent10a.html). Sohn et al., ICLR 2021,
compare with one-class classifiers on its encoder's features. Neither their
noise nor their decoder is published. Without noise it is an autoencoder, by
which the authors' PyTorch code of Deep SVDD first trains its network.
"""
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deep_oc import (batch_norm, convolution, crops, errors, initializers,
                     pretexts)


class Pretext(nn.Module):
  """Restores an augmented view to which Gaussian noise was added.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d]. In training it sees noise, so its
      running statistics are of noisy images.
    augment: drawn anew for each image, before the noise.
    dtype: of the decoder's matrix products; the loss is float32.
    noise: standard deviation; images are in [0, 1].
    dim: of the code, which a linear layer without bias makes of the features,
      as `deep_svdd` makes its representation; 0 = the features themselves.
    decoder: channels of `Decoder`.
    crop: side in pixels of the patch that the task is asked of, cut out before
      anything else; 0 = the whole image.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  noise: float = 0.1
  dim: int = 0
  decoder: Sequence[int] = (256, 128, 64, 32)
  crop: int = 0

  inputs_per_image: ClassVar[int] = 1

  def __post_init__(self):
    crops.check(self.crop)
    errors.check_number('pretext.noise', self.noise)
    errors.check_whole('pretext.dim', self.dim, 0)
    errors.check_several('pretext.decoder', self.decoder)
    super().__post_init__()

  def setup(self):
    if self.dim:
      self.represent = nn.Dense(
          self.dim, use_bias=False, kernel_init=initializers.pytorch_uniform)
    self.decode = Decoder(self.decoder, dtype=self.dtype)

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean squared error, and metrics."""
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 1, self.crop)[:, 0]
    noise = self.noise * jax.random.normal(self.make_rng('views'), view.shape)
    loss = self._error(view + noise, view, train=train).mean()
    return loss, {}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c], without noise, to features f32[n, d] by name.

    'pool' are the encoder's, 'head' is the code, if there is one. Of an image
    larger than the crop, the mean over the crops that tile it.
    """
    pool = self.encoder(crops.tiles(image, self.crop), train=False)
    found = {'pool': pool}
    if self.dim:
      found['head'] = self.represent(pool)
    return crops.over_tiles(jnp.mean, found, image.shape[0])

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c], without noise, to the reconstruction error f32[n].

    The mean square over pixels and channels, from 0 up, the same with `log`.
    Of an image larger than the crop, the largest of its tiles.
    """
    del log
    tile = crops.tiles(image, self.crop)
    return crops.over_tiles(
        jnp.max, {'reconstruction': self._error(tile, tile, train=False)},
        image.shape[0])

  def _error(self, seen: jax.Array, wanted: jax.Array, *, train: bool
             ) -> jax.Array:
    """Maps f32[n, h, w, c] twice to the mean squared error of each, f32[n]."""
    code = self.encoder(seen, train=train)
    if self.dim:
      code = self.represent(code)
    restored = self.decode(code, wanted.shape[1:], train=train)
    return jnp.square(restored - wanted).mean((1, 2, 3))


class Decoder(nn.Module):
  """Doubles a map's side until it is an image.

  A dense layer makes of the feature the smallest map, of the first number of
  channels. Each further one doubles the map (nearest neighbour) and has a 3x3
  convolution; all have BatchNorm and ReLU. Doubled once more, a convolution
  with bias makes of it the image: k channels begin with 2^-k of its side.

  Attributes:
    channels: of each map.
    dtype: of the computation but the last layer's; parameters, statistics and
      output are float32.
  """
  channels: Sequence[int]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, feature: jax.Array, shape: Sequence[int], *, train: bool
               ) -> jax.Array:
    """Maps f32[n, d] to images f32[n, *shape] of any shape h, w, c."""
    *size, colours = shape
    first, *others = self.channels
    # Of each map, rounded up: what is too much after doubling is cut off.
    sizes = [[-(-side // 2**k) for side in size]
             for k in range(len(self.channels), -1, -1)]
    height, width = sizes[0]
    x = nn.Dense(height * width * first, use_bias=False,
                 kernel_init=initializers.he_truncated,
                 dtype=self.dtype)(feature)
    x = self._activated(x.reshape(-1, height, width, first), train)
    for channels, size in zip(others, sizes[1:-1], strict=True):
      x = self._activated(self._conv(
          channels, use_bias=False, kernel_init=initializers.he_truncated,
          dtype=self.dtype)(_doubled(x, *size)), train)
    return self._conv(colours, dtype=jnp.float32)(_doubled(x, *sizes[-1]))

  def _conv(self, channels: int, **kwargs: Any) -> nn.Conv:
    return nn.Conv(channels, (3, 3), padding=((1, 1), (1, 1)),
                   conv_general_dilated=convolution.convolve, **kwargs)

  def _activated(self, x: jax.Array, train: bool) -> jax.Array:
    return nn.relu(batch_norm.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5,
        dtype=self.dtype)(x))


def _doubled(x: jax.Array, height: int, width: int) -> jax.Array:
  """Maps [n, h, w, c] to twice the sides, less what exceeds height, width."""
  return x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
