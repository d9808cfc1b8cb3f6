"""FCDD: a map that is near 0 wherever an image is normal.

Liznerski et al., "Explainable Deep One-Class Classification", ICLR 2021
(https://arxiv.org/abs/2007.01760). Of phi, a number for each position of the
encoder's map, A = sqrt(phi^2 + 1) - 1 is the heat map, from 0 on, and its mean
||A|| the score. Where all that is known is normal, artificial defects are put
into half of the images:

  normal     ||A||
  defective  -log(1 - exp(-||A||))

The mean over both is the loss. The published numbers are of an encoder that
begins with weights learnt from ImageNet; here nothing is learnt beforehand.
"""
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deep_oc import cutpaste, errors, initializers, plugins, pretexts
from deep_oc.errors import InputError

_LEAST = 1e-6  # of a mean of A, for its logarithm


class Pretext(nn.Module):
  """Tells images with a defect from those without, by the mean of a map.

  Attributes:
    encoder: with `maps`, of which the last is taken; see `deep_oc.models`.
    augment: drawn anew for each image, before a defect is put in.
    dtype: unused; the map and the loss are float32.
    kind: of defect, one of `cutpaste.KINDS`.
    share: of images that have a defect, between 0 and 1.
    defects: fields of `cutpaste.Defects`.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  kind: str = 'confetti'
  share: float = 0.5
  defects: cutpaste.Defects | Mapping[str, Any] = cutpaste.Defects()

  inputs_per_image: ClassVar[int] = 1

  def __post_init__(self):
    if self.kind not in cutpaste.KINDS:
      raise errors.unknown('pretext.kind', self.kind, cutpaste.KINDS)
    if not 0 < self.share < 1:
      raise InputError(f'pretext.share={self.share} must be between 0 and 1')
    if not hasattr(self.encoder, 'maps'):
      raise InputError("the pretext task 'fcdd' needs an encoder that has "
                       '`maps`, as --config.encoder.name=fcdd')
    if not isinstance(self.defects, cutpaste.Defects):
      self.defects = plugins.call(
          cutpaste.Defects, self.defects, 'pretext.defects')
    super().__post_init__()

  def setup(self):
    self.phi = nn.Dense(1, kernel_init=initializers.pytorch_uniform)

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean loss, and metrics."""
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 1)[:, 0]
    view, defective = self._spoilt(self.make_rng('views'), view)
    far = self._deviation(view, train=train).mean(axis=(1, 2))
    loss = jnp.where(defective, -jnp.log(-jnp.expm1(-far - _LEAST)), far)
    told = jnp.exp(-far) < 0.5
    return loss.mean(), {
        'accuracy': (told == defective).mean(),
        'chance': max(self.share, 1 - self.share)}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features 'pool' f32[n, d]."""
    return {'pool': self.encoder(image, train=False)}

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the mean of `score_map` f32[n].

    From 0 on, the same with `log`.
    """
    del log
    return {name: each.mean(axis=(1, 2))
            for name, each in self.score_map(image).items()}

  def score_map(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to A, f32[n, gh, gw], at the encoder's stride."""
    return {'deviation': self._deviation(image, train=False)}

  def _deviation(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to A, f32[n, gh, gw]."""
    last = self.encoder.maps(image, train=train)[-1]
    square = jnp.square(self.phi(last.astype(jnp.float32))[..., 0])
    return square / (jnp.sqrt(square + 1) + 1)  # keeps the digits near 0

  def _spoilt(self, key: jax.Array, image: jax.Array
              ) -> tuple[jax.Array, jax.Array]:
    """Puts a defect into some of f32[n, h, w, c]; returns bool[n], which."""
    def one(key, image):
      chosen, drawn = jax.random.split(key)
      defective = jax.random.bernoulli(chosen, self.share)
      spoilt = cutpaste.KINDS[self.kind](drawn, image, self.defects)
      return jnp.where(defective, spoilt, image), defective
    return jax.vmap(one)(jax.random.split(key, len(image)), image)
