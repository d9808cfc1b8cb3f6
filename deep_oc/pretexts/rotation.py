"""Rotation prediction: by which quarter turn was the image rotated?

Gidaris et al., "Unsupervised Representation Learning by Predicting Image
Rotations", ICLR 2018 (RotNet: a linear classifier on the encoder), with the
deep MLP head of Sohn et al., ICLR 2021, section 3.
"""
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deep_oc import crops, heads, orientation, pretexts, scores
from deep_oc.errors import InputError


class Pretext(nn.Module):
  """Classifies four independently augmented views, one a quarter turn each.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d].
    augment: drawn anew for each of the four views, before the turn.
    dtype: of the head's matrix products.
    head: widths of the MLP between encoder and classifier; () is RotNet.
    crop: side in pixels of the patch that the task is asked of, cut out before
      anything else; 0 = the whole image. The four views are of one patch of
      each image; whether Sohn et al. draw one for each view is not known.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  head: Sequence[int] = (512,) * 8
  crop: int = 0

  inputs_per_image: ClassVar[int] = 4
  score_views: ClassVar[orientation.Members] = orientation.FAMILIES['rot']

  def __post_init__(self):
    crops.check(self.crop)
    super().__post_init__()

  def setup(self):
    self.mlp = heads.MLP(self.head, bias=True, dtype=self.dtype)
    self.classifier = nn.Dense(
        4, kernel_init=nn.initializers.glorot_uniform())

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean cross-entropy and metrics."""
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 4, self.crop)
    logits = self._logits(turned(view), train=train)
    target = jnp.broadcast_to(jnp.arange(4), logits.shape[:2])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    correct = jnp.argmax(logits, axis=-1) == target
    return loss.mean(), {'accuracy': correct.mean(), 'chance': 0.25}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c], upright, to features f32[n, d] by name.

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    return pretexts.features(self, image)

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the classifier's own scores, f32[n] each.

    Of an image larger than the crop, the largest of its tiles.
    """
    return turn_scores(self._logits, image, self.crop, log)

  def _logits(self, view: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[n, 4, h, w, c] to f32[n, 4, 4] in one forward pass."""
    n, v = view.shape[:2]
    pool = self.encoder(view.reshape(n * v, *view.shape[2:]), train=train)
    return self.classifier(self.mlp(pool, train=train)).reshape(n, v, 4)


def turned(view: jax.Array) -> jax.Array:
  """Turns [:, i] of f32[n, 4, ..., h, w, c] by i quarter turns.

  Raises:
    InputError: the images are not square.
  """
  square_side(view)
  return jnp.stack([jnp.rot90(view[:, k], k, axes=(-3, -2))
                    for k in range(4)], axis=1)


def square_side(view: jax.Array) -> int:
  """Returns the side of [..., h, w, c].

  Raises:
    InputError: the images are not square.
  """
  height, width = view.shape[-3:-1]
  if height != width:
    raise InputError('a task that tells quarter turns needs square images, '
                     f'not {height}x{width}')
  return height


def turn_scores(logits_of: Callable, image: jax.Array, crop: int, log: bool
                ) -> dict[str, jax.Array]:
  """Returns what `Pretext.scores` does, of any classifier of the four turns.

  Args:
    logits_of: f32[n, 4, h, w, c], view i turned i times -> f32[n, 4, 4].
    image, crop, log: those of `Pretext`.
  """
  tile = crops.tiles(image, crop)
  view = jnp.broadcast_to(tile[:, None], (tile.shape[0], 4, *tile.shape[1:]))
  logits = logits_of(turned(view))
  return crops.over_tiles(
      jnp.max, {'upright': scores.upright(logits[:, 0], log=log),
                'rotation': scores.rotation(logits, log=log)}, image.shape[0])
