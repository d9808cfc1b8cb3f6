"""Deep SVDD: all normal images near one point.

Ruff et al., "Deep One-Class Classification", ICML 2018
(https://proceedings.mlr.press/v80/ruff18a.html). A network phi maps images to
the neighbourhood of a centre c, of which the distance is the anomaly score:

  one class      mean ||phi(x) - c||²                              (equation 4)
  soft boundary  R² + 1/ν mean max(0, ||phi(x) - c||² - R²)        (equation 3)

Weight decay is the optimizer's. A bias in phi, or an affine BatchNorm, would
let it map whatever image to c (proposition 2): `models.lenet` has neither.

The authors' PyTorch code first trains an autoencoder (`encoder.weights`, of a
run of `configs/autoencoder_cifar10.py`), their Theano scripts for CIFAR-10 do
not. Its centre is the mean over the training set in evaluation mode. Here it is
that of the first batch, by its own BatchNorm statistics: an encoder that begins
with none has no others yet.
"""
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deep_oc import crops, errors, initializers, pretexts
from deep_oc.errors import InputError

OBJECTIVES = ('one_class', 'soft_boundary')
_FARTHER = 0.1  # a coordinate of the centre so near to 0 is pushed away from it


class Pretext(nn.Module):
  """Maps images near a centre, which is fixed at the first step.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d], phi but for its last layer.
    augment: drawn anew for each image; none in the paper.
    dtype: unused; the representation and the loss are float32.
    objective: one of `OBJECTIVES`.
    nu: share of the images that a soft boundary leaves outside, in (0, 1].
    warmup_steps: after which the radius of a soft boundary is found, 0 until
      then; parts of a batch count as steps of their own (train.accumulate).
    dim: of the representation phi(x).
    crop: side in pixels of the patch that the task is asked of, cut out before
      anything else; 0 = the whole image.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  objective: str = 'one_class'
  nu: float = 0.1
  warmup_steps: int = 250
  dim: int = 128
  crop: int = 0

  inputs_per_image: ClassVar[int] = 1

  def __post_init__(self):
    crops.check(self.crop)
    if self.objective not in OBJECTIVES:
      raise errors.unknown('pretext.objective', self.objective, OBJECTIVES)
    if not 0 < self.nu <= 1:
      raise InputError(f'pretext.nu={self.nu} must be above 0 and at most 1')
    errors.check_whole('pretext.warmup_steps', self.warmup_steps, 0)
    errors.check_whole('pretext.dim', self.dim)
    super().__post_init__()

  def setup(self):
    self.represent = nn.Dense(
        self.dim, use_bias=False, kernel_init=initializers.pytorch_uniform)
    self.centre = self.variable('svdd', 'centre', jnp.zeros, (self.dim,))
    self.radius = self.variable('svdd', 'radius', jnp.zeros, ())
    self.steps = self.variable('svdd', 'steps', jnp.zeros, (), jnp.int32)

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the objective, and metrics."""
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 1, self.crop)[:, 0]
    z = self.represent(self.encoder(view, train=train))
    if train:
      self.centre.value = jnp.where(
          self.steps.value > 0, self.centre.value, centre_of(z))
    distance, radius = self._distance(z), self.radius.value
    metrics = {'distance': distance.mean()}
    if self.objective == 'soft_boundary':
      loss = soft_boundary(distance, radius, self.nu)
      metrics['radius'] = radius
      if train:  # by the distances before this step, for the next
        self.radius.value = jnp.where(
            self.steps.value < self.warmup_steps, radius, jnp.quantile(
                jnp.sqrt(jax.lax.stop_gradient(distance)), 1 - self.nu))
    else:
      loss = distance.mean()
    if train:
      self.steps.value += 1
    return loss, metrics

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features f32[n, d] by name.

    'pool' are the encoder's, as of all tasks, though `models.lenet` pools
    nothing, and 'head' the representation phi(x). Of an image larger than the
    crop, the mean over the crops that tile it.
    """
    pool = self.encoder(crops.tiles(image, self.crop), train=False)
    feature = {'pool': pool, 'head': self.represent(pool)}
    return crops.over_tiles(jnp.mean, feature, image.shape[0])

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the squared distance to the centre, f32[n].

    Of a soft boundary less the squared radius: what is outside is above 0. The
    same with `log`. Of an image larger than the crop, the largest of its tiles.
    """
    del log
    pool = self.encoder(crops.tiles(image, self.crop), train=False)
    distance = self._distance(self.represent(pool)) - self.radius.value**2
    return crops.over_tiles(jnp.max, {'distance': distance}, image.shape[0])

  def _distance(self, z: jax.Array) -> jax.Array:
    """Maps f32[n, d] to squared distances to the centre, f32[n]."""
    return jnp.square(z - self.centre.value).sum(-1)


def centre_of(z: jax.Array) -> jax.Array:
  """Returns the mean f32[d] of f32[n, d], no coordinate nearer to 0 than 0.1.

  One that is could be met by weights of 0. It has no gradient.
  """
  mean = jax.lax.stop_gradient(z).mean(0)
  pushed = jnp.where(mean < 0, -_FARTHER, _FARTHER)
  return jnp.where(jnp.abs(mean) < _FARTHER, pushed, mean)


def soft_boundary(distance: jax.Array, radius: jax.Array, nu: float
                  ) -> jax.Array:
  """Returns R² + 1/ν mean max(0, d² - R²) of squared distances f32[n]."""
  outside = jnp.maximum(distance - radius**2, 0)
  return radius**2 + outside.mean() / nu
