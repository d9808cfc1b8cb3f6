"""No task at all: features of an encoder that stays as it begins.

What it begins with are trained weights (`encoder.weights`): ImageNet's, say, as
Sohn et al., ICLR 2021 (table 7), and Li et al., CVPR 2021 (table 3), have them
to compare with. A run takes one step, which changes nothing.
"""
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deep_oc import crops, errors


class Pretext(nn.Module):
  """Embeds, by an encoder's running statistics.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d].
    augment: unused.
    dtype: unused.
    side: in pixels, to which images or tiles are resized, both sides, by cubic
      interpolation: networks of large photographs see little in small ones. 0 =
      as they are.
    crop: side in pixels of the tiles over which features are the mean; 0 = the
      whole image.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  side: int = 0
  crop: int = 0

  inputs_per_image: ClassVar[int] = 1
  trains: ClassVar[bool] = False

  def __post_init__(self):
    crops.check(self.crop)
    errors.check_whole('pretext.side', self.side, 0)
    super().__post_init__()

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to 0, of which nothing has a gradient."""
    del train
    if self.is_initializing():
      self.encoder(self.seen(crops.tiles(image, self.crop)), train=False)
    return jnp.zeros(()), {}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features f32[n, d] by name.

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    tile = self.seen(crops.tiles(image, self.crop))
    pool = self.encoder(tile, train=False)
    return crops.over_tiles(jnp.mean, {'pool': pool}, image.shape[0])

  def seen(self, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to what the encoder sees.

    Grey is three colours to one that is standardised by three.
    """
    n, *size, colours = image.shape
    if colours == 1 and len(getattr(self.encoder, 'mean', ())) == 3:
      image, colours = image.repeat(3, axis=-1), 3
    if not self.side or size == [self.side] * 2:
      return image
    return jax.image.resize(
        image, (n, self.side, self.side, colours), 'cubic').clip(0, 1)
