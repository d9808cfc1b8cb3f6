"""Transformation prediction: which of 72 transformations was applied?

Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric Transformations",
NeurIPS 2018 (GEOM): one softmax over flip, shift to the side, shift up or down,
and quarter turn. Hendrycks et al., "Using Self-Supervised Learning Can Improve
Model Robustness and Uncertainty", NeurIPS 2019: no flip, and a classifier for
each of the three factors.

The scores are the mean of the probabilities of what was applied, of both, and
of one softmax GEOM's better one, which its numbers are by: a Dirichlet density
of the softmax vectors of each transformation. Edges reflect without the
outermost pixel, as in Hendrycks et al.; GEOM's code repeats it.
"""
import itertools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from deep_oc import augment as augmentations
from deep_oc import crops, heads, orientation, pretexts, scores
from deep_oc.errors import InputError
from deep_oc.pretexts import rotation


class Pretext(nn.Module):
  """Tells flips, shifts and quarter turns of augmented images.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d].
    augment: drawn anew for each view, before it is transformed.
    dtype: of the head's matrix products.
    head: widths of the MLP between encoder and classifier; () is none.
    crop: side in pixels of the patch that the task is asked of, as in
      `rotation`; 0 = the whole image.
    flip: whether the transformations are 72, or 36 without flips.
    shift: how far images are moved, of their side.
    factorised: whether each factor has a softmax of its own, and the loss is
      the mean of theirs; False is one softmax over all.
    inputs_per_image: how many of the transformations a step draws of each
      image, no two alike; in groups of four, the turns of one flip and shift.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  head: Sequence[int] = ()
  crop: int = 0
  flip: bool = True
  shift: float = 0.25
  factorised: bool = False
  inputs_per_image: int = 1

  def __post_init__(self):
    crops.check(self.crop)
    for name in ('flip', 'factorised'):
      if not isinstance(getattr(self, name), bool):
        raise InputError(f'pretext.{name}={getattr(self, name)!r} must be True '
                         'or False')
    if not (isinstance(self.shift, numbers.Real) and 0 < self.shift <= 0.5):
      raise InputError(f'pretext.shift={self.shift!r} must be a number above '
                       '0, 0.5 at most')
    views, most = self.inputs_per_image, len(self.score_views)
    if type(views) is not int or not 1 <= views <= most:
      raise InputError(f'pretext.inputs_per_image={views!r} must be a whole '
                       f'number from 1 to {most}')
    super().__post_init__()

  @property
  def score_views(self) -> orientation.Members:
    """All transformations in GEOM's order; the first is the identity."""
    shifts = (0., -self.shift, self.shift)
    return tuple(
        orientation.Member(mirrored, turn, shift=(down, right))
        for mirrored, right, down, turn in itertools.product(
            (False, True) if self.flip else (False,), shifts, shifts, range(4)))

  @property
  def _dirichlet(self) -> bool:
    """Whether there is the density's score."""
    return not self.factorised

  @property
  def labels(self) -> np.ndarray:
    """What each classifier is to tell of each transformation, i64[m, k]."""
    number = np.arange(len(self.score_views))
    factors = (2, 3, 3, 4) if self.flip else (3, 3, 4)
    return np.stack(np.unravel_index(number, factors), axis=1) \
        if self.factorised else number[:, None]

  def setup(self):
    self.mlp = heads.MLP(self.head, bias=True, dtype=self.dtype)
    self.classifiers = [
        nn.Dense(classes, kernel_init=nn.initializers.glorot_uniform())
        for classes in self.labels.max(axis=0) + 1]
    if self._dirichlet:
      self.log_p, self.alpha = pretexts.Fitted(), pretexts.Fitted()

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean cross-entropy and metrics."""
    augment_key, key = jax.random.split(self.make_rng('views'))
    view = pretexts.views(
        self.augment, augment_key, image, self.inputs_per_image, self.crop)
    index = jax.vmap(self._draw)(jax.random.split(key, len(image)))
    view = transformed(view, index, self.score_views)
    logits = self._logits(self._features(view, train=train))
    label = jnp.asarray(self.labels)[index]
    loss = -_log_p(logits, label).mean()
    if self.is_initializing() and self._dirichlet:
      self._density()
    right = [(jnp.argmax(each, axis=-1) == label[..., i]).mean()
             for i, each in enumerate(logits)]
    return loss, {'accuracy': sum(right) / len(right),
                  'chance': np.mean([1 / each.shape[-1] for each in logits])}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features f32[n, d] by name.

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    return pretexts.features(self, image)

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the classifiers' own scores, f32[n] each.

    The density's is the same with `log`. Of an image larger than the crop, the
    largest of its tiles.
    """
    return crops.over_tiles(
        jnp.max, self._scores(self._all(image), log), image.shape[0])

  def statistics(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to what the Dirichlet densities are fitted to.

    Log-probabilities of all transformations in each of them, f32[n, m, m]; of
    an image larger than the crop, the mean over its tiles.
    """
    if not self._dirichlet:
      return {}
    log_p = jax.nn.log_softmax(self._logits(self._all(image))[0])
    return crops.over_tiles(jnp.mean, {'log_p': log_p}, image.shape[0])

  @staticmethod
  def fitted(means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the densities, if there are any, beside the means."""
    if 'log_p' not in means:
      return means
    return means | {'alpha': scores.dirichlet_parameters(means['log_p'])}

  def _density(self) -> tuple[jax.Array, jax.Array]:
    """Returns means of log-probabilities and parameters, f32[m, m] each."""
    shape = (len(self.score_views),) * 2
    return self.log_p(shape), self.alpha(shape)

  def _scores(self, feature: jax.Array, log: bool) -> dict[str, jax.Array]:
    """Maps f32[n, m, d], of all transformations, to f32[n] by name."""
    logits = self._logits(feature)
    log_p = _log_p(logits, jnp.asarray(self.labels))
    found = {'transformation': scores.transformation(log_p, log=log)}
    if self._dirichlet:
      found['dirichlet'] = scores.dirichlet(
          jax.nn.log_softmax(logits[0]), *self._density())
    return found

  def _all(self, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to features f32[t, m, d] of all transformations.

    Of an image larger than the crop, of each of its tiles.
    """
    return self._features(orientation.views(
        crops.tiles(image, self.crop), self.score_views))

  def _features(self, view: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps f32[n, v, h, w, c] to f32[n, v, d] in one forward pass."""
    n, v = view.shape[:2]
    pool = self.encoder(view.reshape(n * v, *view.shape[2:]), train=train)
    return self.mlp(pool, train=train).reshape(n, v, -1)

  def _logits(self, feature: jax.Array) -> list[jax.Array]:
    return [classifier(feature) for classifier in self.classifiers]

  def _draw(self, key: jax.Array) -> jax.Array:
    """Draws the transformations of an image, i32[v]."""
    fours = len(self.score_views) // 4
    four_key, key = jax.random.split(key)
    turn = jax.vmap(lambda key: jax.random.permutation(key, 4))(
        jax.random.split(key, fours))
    four = jax.random.permutation(four_key, fours)
    return (4 * four[:, None] + turn).reshape(-1)[:self.inputs_per_image]


def _log_p(logits: Sequence[jax.Array], label: jax.Array) -> jax.Array:
  """Returns the logarithms of the probabilities of what was applied.

  Args:
    logits: of each of k classifiers, f32[n, v, classes].
    label: i32[n, v, k] or i32[v, k].

  Returns:
    f32[n, v, k].
  """
  return -jnp.stack([
      optax.softmax_cross_entropy_with_integer_labels(
          each, jnp.broadcast_to(label[..., i], each.shape[:-1]))
      for i, each in enumerate(logits)], axis=-1)


def transformed(view: jax.Array, index: jax.Array,
                members: orientation.Members) -> jax.Array:
  """Applies to each of f32[n, v, h, h, c] the member of its index i32[n, v].

  Raises:
    InputError: images are not square, or too small to be moved by a pixel.
  """
  side = rotation.square_side(view)
  shift = np.array([[int(share * side) for share in each.shift]
                    for each in members])
  most = int(shift.max())
  if not most:
    raise InputError(f'pretext.shift moves images of {side}x{side} by less '
                     'than a pixel')
  mirrored, turn, shift = (jnp.asarray(each) for each in (
      [each.mirrored for each in members], [each.turn for each in members],
      shift))
  turns = [lambda image, k=k: augmentations.quarter_turn(image, k)
           for k in range(4)]

  def one(image, k):
    image = jnp.where(mirrored[k], image[:, ::-1], image)
    image = augmentations.translate(image, *shift[k], most=(most, most))
    return jax.lax.switch(turn[k], turns, image)

  return jax.vmap(jax.vmap(one))(view, index)
