"""Contrastive learning: two views of one image alike, all others apart.

Chen et al., "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020, as trained for one class by Sohn et al., ICLR 2021.
Distribution augmentation is a property of the data (`config.distribution`): a
rotated copy is another image, hence a negative.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deep_oc import crops, errors, heads, pretexts
from deep_oc.errors import InputError


class Pretext(nn.Module):
  """Tells the other view of an image from the views of other images.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d].
    augment: drawn anew for each view.
    dtype: of the head's matrix products; the loss is float32.
    head: widths of the projection MLP.
    temperature: divides the cosines.
    loss: 'one_directional' (the official code) or 'nt_xent' (SimCLR's).
    crop: side in pixels of the patch that the task is asked of, cut out before
      anything else; 0 = the whole image. Both views are of one patch of each
      image, or places that differ would be called alike; how Sohn et al. do it
      is not known.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  head: Sequence[int] = (512,) * 8 + (128,)
  temperature: float = 0.2
  loss: str = 'one_directional'
  crop: int = 0

  inputs_per_image: ClassVar[int] = 2
  fewest_images: ClassVar[int] = 2  # of one there is no other

  def __post_init__(self):
    crops.check(self.crop)
    if self.loss not in LOSSES:
      raise errors.unknown('pretext.loss', self.loss, LOSSES)
    if not 0 < self.temperature < math.inf:
      raise InputError(f'pretext.temperature={self.temperature} must be a '
                       'number above 0')
    super().__post_init__()

  def setup(self):
    self.mlp = heads.MLP(self.head, bias=False, dtype=self.dtype)

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean loss over anchors, and metrics."""
    n = len(image)
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 2, self.crop)
    pool = self.encoder(view.reshape(2 * n, *view.shape[2:]), train=train)
    return self.contrast(pool, train=train)

  def contrast(self, pool: jax.Array, *, train: bool):
    """Maps f32[2n, d], two views of each image, to the loss and metrics."""
    z = heads.unit(self.mlp(pool, train=train)).reshape(len(pool) // 2, 2, -1)
    loss, accuracy, chance = LOSSES[self.loss](z, self.temperature)
    return loss, {'accuracy': accuracy, 'chance': chance,
                  'alignment': alignment(z), 'uniformity': uniformity(z)}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features f32[n, d] by name.

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    return pretexts.features(self, image)


def one_directional(z: jax.Array, temperature: float):
  """The official loss: view 1 are anchors, view 2 of the others negatives.

  mean_i -log( exp(z_i·z'_i/τ) / Σ_j exp(z_i·z'_j/τ) ); it is not symmetrised
  and never compares views of the same kind.

  Args:
    z: f32[n, 2, d] unit vectors, the two views of n images.
    temperature: τ.

  Returns:
    The loss, the share of anchors whose positive is nearest, and its chance.
  """
  logits = _cosines(z[:, 0], z[:, 1]) / temperature
  return (*_identify(logits, jnp.arange(len(z))), 1 / len(z))


def nt_xent(z: jax.Array, temperature: float):
  """SimCLR's NT-Xent (equation 1): 2n anchors, 2n - 2 negatives each.

  Args and returns as `one_directional`.
  """
  n = len(z)
  logits = jnp.stack([jnp.stack([_cosines(z[:, v], z[:, w]) for w in (0, 1)],
                                axis=-1) for v in (0, 1)], axis=1)
  logits = logits / temperature  # [anchor, its view, other, its view]
  itself = jnp.eye(n, dtype=bool)[:, None, :, None] & jnp.eye(
      2, dtype=bool)[:, None]
  logits = jnp.where(itself, -jnp.inf, logits).reshape(n, 2, 2 * n)
  other_view = 2 * jnp.arange(n)[:, None] + jnp.array([1, 0])
  return (*_identify(logits, other_view), 1 / (2 * n - 1))


LOSSES = {'one_directional': one_directional, 'nt_xent': nt_xent}


def alignment(z: jax.Array) -> jax.Array:
  """Mean squared distance of the two views (Wang & Isola 2020, α = 2)."""
  return ((z[:, 0] - z[:, 1]) ** 2).sum(-1).mean()


def uniformity(z: jax.Array) -> jax.Array:
  """log of the mean exp(-2 d²) over pairs of images (Wang & Isola, t = 2)."""
  n = len(z)
  squared = 2 - 2 * _cosines(z[:, 0], z[:, 0])
  kernel = jnp.where(jnp.eye(n, dtype=bool), 0, jnp.exp(-2 * squared))
  return jnp.log(kernel.sum() / max(n * (n - 1), 1))


def _cosines(a: jax.Array, b: jax.Array) -> jax.Array:
  # Accelerators round the factors of a matrix product unless told not to.
  return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _identify(logits: jax.Array, target: jax.Array):
  """Mean cross-entropy and accuracy over all leading axes."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  return loss.mean(), (jnp.argmax(logits, axis=-1) == target).mean()
