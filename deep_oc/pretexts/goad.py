"""GOAD: each transformation's features lie around a centre of their own.

Bergman and Hoshen, "Classification-Based Anomaly Detection for General Data",
ICLR 2020, on the 72 transformations of GEOM. In the paper a transformation is
classified by the distance to its centre; the published code for images, as
here, trains a linear classifier of the features beside the centres, which
alone score. In training a centre is the batch's mean, later that over the
training set as the trained network sees it, where the code has the mean over
the last epoch, of features that change meanwhile.
"""
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deep_oc import crops, errors, pretexts, scores
from deep_oc.pretexts import transformations


class Pretext(transformations.Pretext):
  """Draws all 72 transformations of each image to their centres.

  The attributes of `transformations.Pretext` but those that have one value
  here, and:

  Attributes:
    margin: by how much the square distance to another centre is to exceed that
      to the own (the paper's s).
    triplet_weight: of the mean shortfall, max(0, |z - c_m|² + s -
      min_k |z - c_k|²).
    norm_weight: of the mean square of the features' elements.
  """
  margin: float = 1.0
  triplet_weight: float = 0.1
  norm_weight: float = 10.0

  flip: ClassVar[bool] = True
  factorised: ClassVar[bool] = False
  _dirichlet: ClassVar[bool] = False
  inputs_per_image: ClassVar[int] = 72
  fewest_images: ClassVar[int] = 2  # one is its own centre

  def __post_init__(self):
    for name in ('margin', 'triplet_weight', 'norm_weight'):
      errors.check_number(f'pretext.{name}', getattr(self, name))
    super().__post_init__()

  def setup(self):
    super().setup()
    self.centre = pretexts.Fitted()

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the sum of the three losses, and metrics."""
    n, m = len(image), self.inputs_per_image
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, m, self.crop)
    label = jnp.broadcast_to(jnp.arange(m), (n, m))
    feature = self._features(
        transformations.transformed(view, label, self.score_views), train=train)
    logits, = self._logits(feature)
    told = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
    triplet = triplet_centre(
        square_distances(feature, feature.mean(axis=0)), self.margin)
    if self.is_initializing():
      self.centre(feature.shape[1:])
    loss = (told + self.triplet_weight * triplet
            + self.norm_weight * jnp.square(feature).mean())
    right = (jnp.argmax(logits, axis=-1) == label).mean()
    return loss, {'triplet_loss': triplet, 'accuracy': right,
                  'chance': 1 / m}

  def statistics(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features of all transformations, f32[n, m, d].

    Of an image larger than the crop, the mean over its tiles.
    """
    return crops.over_tiles(
        jnp.mean, {'centre': self._all(image)}, image.shape[0])

  def _scores(self, feature: jax.Array, log: bool) -> dict[str, jax.Array]:
    """Maps f32[n, m, d] to f32[n], with `log` too: it is a logarithm."""
    del log
    return {'transformation': scores.centres(square_distances(
        feature, self.centre(feature.shape[1:])))}


def square_distances(feature: jax.Array, centre: jax.Array) -> jax.Array:
  """Maps f32[n, m, d] and f32[k, d] to |z - c|², f32[n, m, k]."""
  return jnp.square(feature[:, :, None] - centre).sum(axis=-1)


def triplet_centre(square_distance: jax.Array, margin: float) -> jax.Array:
  """Returns the mean shortfall of f32[n, m, m]; the diagonal is the own one."""
  own = jnp.diagonal(square_distance, axis1=1, axis2=2)
  others = jnp.where(jnp.eye(own.shape[1], dtype=bool), jnp.inf,
                     square_distance).min(axis=-1)
  return nn.relu(own + margin - others).mean()
