"""Patch SVDD: where one patch lies beside another, and neighbours near.

Yi and Yoon, "Patch SVDD: Patch-level SVDD for Anomaly Detection and
Segmentation", ACCV 2020 (https://arxiv.org/abs/2006.16067). For patches of K
pixels of an image, at every level of the encoder f (`models.hierarchical`):

  cross-entropy(y, C(f(p1) - f(p2)))  p2 one of the eight neighbours of p1, y
                                      which (section 3.2)
  λ |f(p) - f(p')|                    p' a few pixels beside p (equation 3)

summed (equation 6). An image's score is that of its patches, by how far the
nearest patch of the training images is: the product of the maps of all levels
(`deep_oc.maps.Multiscale`), not a score of the task's own.

As in the authors' code, a neighbour begins 3/4 to almost all of a patch away,
and at the edge of the image as far as it can; p' within K / 32 pixels; colours
of p1 and p2 are shifted and have noise; and the classifier's last layer keeps
its random weights, scaled to length 1 for each input. That code subtracts the
mean of the training images, pixel by pixel, from each image, and so sees that a
part is missing; so it is here with `centre`.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from deep_oc import crops, errors, initializers, pretexts
from deep_oc.errors import InputError

# The directions, rows and columns, of the neighbours: classes in this order.
NEIGHBOURS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)


class Pretext(nn.Module):
  """Tells where patches of images lie beside others.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d], of `levels` and with the methods of
      `models.hierarchical`.
    augment: drawn anew for each image, before patches are; none in the paper.
    dtype: unused; classifiers and the loss are float32.
    pull: λ, the weight of distances; where it is too large, the encoder makes
      one feature of everything.
    noise: standard deviation of the noise on each value of a patch, and of the
      shift of each of its colours, of 1; of neighbours only.
    centre: whether the mean training image is subtracted from each, or grey.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  pull: float = 1e-3
  noise: float = 0.02
  centre: bool = False

  def __post_init__(self):
    for name in ('pull', 'noise'):
      errors.check_number(f'pretext.{name}', getattr(self, name))
    if not hasattr(self.encoder, 'look'):
      raise InputError("the task 'patch_svdd' needs an encoder of patches of "
                       'several sizes: encoder.name=hierarchical')
    super().__post_init__()

  @property
  def inputs_per_image(self) -> int:
    """Patches: two pairs at each level."""
    return 4 * (self.encoder.levels + 1)

  def setup(self):
    if self.centre:
      self.mean = pretexts.MeanImage()
    self.position = [Position() for _ in range(self.encoder.levels + 1)]

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the loss of all levels, and metrics."""
    self.encoder.check(*image.shape[1:3], self.encoder.levels)
    key, image = self.make_rng('views'), self.centred(image)
    image = pretexts.views(
        self.augment, self.make_rng('views'), image, 1)[:, 0]
    loss, metrics = 0., []
    for level, position in enumerate(self.position):
      patches, label = self._pairs(jax.random.fold_in(key, level), image,
                                   self.encoder.smallest * 2**level)
      feature = self._features(patches, level, train)
      beside, near = jnp.moveaxis(feature[:, :, 0] - feature[:, :, 1], 1, 0)
      logits, distance = position(beside), length(near).mean()
      loss += optax.softmax_cross_entropy_with_integer_labels(
          logits, label).mean() + self.pull * distance
      metrics.append({
          'accuracy': (logits.argmax(axis=1) == label).mean(),
          'distance': distance})
    means = jax.tree.map(lambda *each: sum(each) / len(each), *metrics)
    return loss, means | {'chance': 1 / len(NEIGHBOURS)}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features 'pool' f32[n, d].

    Of an image larger than a patch, the mean over all its patches.
    """
    return {'pool': self.encoder(self.centred(image), train=False)}

  def centred(self, image: jax.Array) -> jax.Array:
    """Maps whole images f32[n, h, w, c] to such that have the mean 0.5."""
    return image - self.mean(image.shape[1:]) + 0.5 if self.centre else image

  def _pairs(self, key, image, side):
    """Returns patches f32[n, 2, 2, k, k, c] and labels i32[n].

    Of each image a pair of neighbours, of which the label is, and another.
    """
    keys = jax.random.split(key, 3)
    shape = image.shape[1:3]
    draw = jax.vmap(neighbours, in_axes=(0, None, None))
    beside, label = draw(jax.random.split(keys[0], len(image)), shape, side)
    near = jax.vmap(jittered, in_axes=(0, None, None))(
        jax.random.split(keys[1], len(image)), shape, side)
    cut = jax.vmap(jax.vmap(crops.cut, in_axes=(None, 0, None)),
                   in_axes=(0, 0, None))
    beside = cut(image, beside, side)
    colour, pixel = jax.random.split(keys[2])
    beside += self.noise * jax.random.normal(
        colour, (*beside.shape[:2], 1, 1, beside.shape[-1]))
    beside += self.noise * jax.random.normal(pixel, beside.shape)
    # Not one after the other: images that are spread stay where they are.
    return jnp.stack([beside, cut(image, near, side)], axis=1), label

  def _features(self, patches, level, train):
    """Maps patches f32[n, 2, 2, k, k, c] to features f32[n, 2, 2, d]."""
    x = patches.reshape(-1, *patches.shape[3:])
    x = self.encoder.look(x, level, train=train)
    return x.astype(jnp.float32).reshape(*patches.shape[:3], -1)


class Position(nn.Module):
  """Tells from a difference of features which neighbour a patch is."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps f32[n, d] to logits f32[n, 8]."""
    for _ in range(2):
      x = nn.leaky_relu(nn.Dense(
          128, kernel_init=initializers.pytorch_uniform)(x), 0.1)
    kernel = self.param(
        'kernel', initializers.pytorch_uniform, (128, len(NEIGHBOURS)))
    bias = self.param('bias', nn.initializers.zeros, (len(NEIGHBOURS),))
    kernel = jax.lax.stop_gradient(kernel)  # fixed: only its scale is found
    return x @ (kernel / jnp.linalg.norm(kernel, axis=1, keepdims=True)) + bias


def neighbours(key: jax.Array, shape: tuple[int, int], side: int
               ) -> tuple[jax.Array, jax.Array]:
  """Draws a patch of an image and one of its eight neighbours.

  Args:
    key: of the draw.
    shape: height and width of the image.
    side: of the patches, in pixels.

  Returns:
    Row and column where each begins, i32[2, 2], and which neighbour, i32[].
  """
  place, which, extra = jax.random.split(key, 3)
  first = _place(place, shape, side)
  label = jax.random.randint(which, (), 0, len(NEIGHBOURS))
  distance = 3 * side // 4 + jax.random.randint(extra, (2,), 0, side // 4)
  second = first + jnp.array(NEIGHBOURS)[label] * distance
  return jnp.stack([first, _inside(second, shape, side)]), label


def jittered(key: jax.Array, shape: tuple[int, int], side: int) -> jax.Array:
  """Draws a patch and one moved by a pixel or more, side / 32 at most.

  As `neighbours` does. At the image's edge it may be moved by less, or stay.
  """
  place, which = jax.random.split(key)
  most = max(side // 32, 1)
  reach = np.arange(-most, most + 1)
  offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
  offsets = jnp.array(offsets[offsets.any(axis=1)])
  first = _place(place, shape, side)
  second = first + jax.random.choice(which, offsets)
  return jnp.stack([first, _inside(second, shape, side)])


def length(difference: jax.Array) -> jax.Array:
  """Maps f32[n, d] to lengths f32[n], whose gradient at 0 is 0."""
  square = jnp.square(difference).sum(axis=-1)
  known = square > 0
  return jnp.where(known, jnp.sqrt(jnp.where(known, square, 1.)), 0.)


def _place(key, shape, side):
  """Draws where a patch begins, i32[2], anywhere in the image."""
  return jax.random.randint(key, (2,), 0, jnp.array(shape) - side + 1)


def _inside(place, shape, side):
  return jnp.clip(place, 0, jnp.array(shape) - side)
