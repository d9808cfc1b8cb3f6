"""Attribute restoration: what was the image before it was greyed and turned?

Huang et al., "Attribute Restoration Framework for Anomaly Detection", IEEE
Transactions on Multimedia 2020 (ARNet, https://arxiv.org/abs/1911.10676; first
called an inverse-transform autoencoder). What is abnormal is restored as if it
were normal, and the error tells. Their code is not public: the network and the
range of what it restores are those of the one implementation that is
(github.com/yuxiao-ash/ITAE-Pytorch-Anomaly_Detection), but that maps are
enlarged between the centres of pixels, not from corner to corner, and that the
network sees what is in [-1, 1], too: there it is rounded to 8 bits on its way.
It also mixes the training and test images of the normal class and divides them
80 to 20; here a data set's own split stands.
"""
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deep_oc import convolution, crops, orientation, pretexts
from deep_oc.errors import InputError
from deep_oc.models import unet
from deep_oc.pretexts import rotation


class Pretext(nn.Module):
  """Restores colours and orientation of an augmented view.

  Attributes:
    encoder: f32[n, h, w, 1] -> f32[n, d], with `maps`; see `deep_oc.models`.
    augment: drawn anew for each image, before anything is erased.
    dtype: of the decoder's convolutions but the last; the error is float32.
    crop: side in pixels of the patch that the task is asked of, cut out before
      anything else; 0 = the whole image.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  crop: int = 0

  inputs_per_image: ClassVar[int] = 1
  score_views: ClassVar[orientation.Members] = orientation.FAMILIES['rot']

  def __post_init__(self):
    crops.check(self.crop)
    if not hasattr(self.encoder, 'maps'):
      raise InputError("the pretext task 'restoration' needs an encoder that "
                       'has `maps`, as --config.encoder.name=unet')
    super().__post_init__()

  def setup(self):
    self.decode = Decoder(self.dtype)
    self.error = pretexts.Fitted()

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean squared error, and metrics."""
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 1, self.crop)[:, 0]
    turn = jax.random.randint(self.make_rng('views'), (len(view),), 0, 4)
    # Not by one index of all, for which devices would exchange the images.
    seen = jax.vmap(lambda turns, k: turns[k])(_turned(view), turn)
    restored = self._restored(seen, view.shape[-1], train=train)
    if self.is_initializing():
      self.error((4,))
    return jnp.square(restored - _signed(view)).mean(), {}

  def seen(self, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to what the encoder sees, grey."""
    return _grey(image)

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c], greyed but not turned, to features f32[n, d].

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    pool = self.encoder(self.seen(crops.tiles(image, self.crop)), train=False)
    return crops.over_tiles(jnp.mean, {'pool': pool}, image.shape[0])

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the restoration error f32[n].

    The mean over the four turns of the error of each, in terms of its mean
    over the training images; the same with `log`. Of an image larger than the
    crop, the largest of its tiles.
    """
    del log
    errors = self._errors(image)
    relative = (errors / self.error((4,))).mean(axis=1)
    return crops.over_tiles(
        jnp.max, {'restoration': relative}, image.shape[0])

  def statistics(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the error of each turn, f32[n, 4].

    Of an image larger than the crop, the mean over its tiles.
    """
    return crops.over_tiles(
        jnp.mean, {'error': self._errors(image)}, image.shape[0])

  def _errors(self, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to the mean absolute error f32[t, 4] of tiles."""
    tile = crops.tiles(image, self.crop)
    seen = _turned(tile)
    restored = self._restored(
        seen.reshape(-1, *tile.shape[1:]), tile.shape[-1], train=False)
    far = restored.reshape(seen.shape) - _signed(tile)[:, None]
    return jnp.abs(far).mean(axis=(2, 3, 4))

  def _restored(self, seen: jax.Array, colours: int, *, train: bool
                ) -> jax.Array:
    """Maps turned f32[n, h, w, c] to what it says they were, in [-1, 1]."""
    maps = self.encoder.maps(_grey(seen), train=train)
    if maps[0].shape[1:3] != seen.shape[1:3]:
      raise InputError("the pretext task 'restoration' needs an encoder whose "
                       'first map is as large as the image, as '
                       '--config.encoder.name=unet')
    return self.decode(maps, colours, train=train)


class Decoder(nn.Module):
  """The expanding half of a U-Net.

  From level to level up, the map is enlarged (bilinear) and put beside that of
  the encoder, and both have a level of convolutions.

  Attributes:
    dtype: of the computation but the last layer's; parameters, statistics and
      output are float32.
  """
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: list[jax.Array], colours: int, *, train: bool
               ) -> jax.Array:
    """Maps those of the encoder to images f32[n, h, w, colours] in [-1, 1]."""
    *skipped, x = maps
    for number in reversed(range(len(skipped))):
      beside = skipped[number]
      x = jax.image.resize(
          x, (*beside.shape[:3], x.shape[-1]), 'bilinear')
      width = skipped[max(number - 1, 0)].shape[-1]
      x = unet.Level(width, self.dtype)(
          jnp.concatenate([beside, x], axis=-1), train=train)
    return nn.tanh(nn.Conv(
        colours, (3, 3), padding=((1, 1), (1, 1)), use_bias=False,
        conv_general_dilated=convolution.convolve)(x))


def _turned(image: jax.Array) -> jax.Array:
  """Maps f32[n, h, w, c] to its four quarter turns, f32[n, 4, h, w, c]."""
  return rotation.turned(jnp.broadcast_to(
      image[:, None], (image.shape[0], 4, *image.shape[1:])))


def _grey(image: jax.Array) -> jax.Array:
  """Maps f32[n, h, w, c] in [0, 1] to its mean colour f32[n, h, w, 1]."""
  return _signed(image).mean(axis=-1, keepdims=True)


def _signed(image: jax.Array) -> jax.Array:
  """Maps [0, 1] to [-1, 1]."""
  return 2 * image - 1
