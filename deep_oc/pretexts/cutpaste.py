"""CutPaste: is the image as it was, or has something been pasted into it?

Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly
Detection and Localization", CVPR 2021, https://arxiv.org/abs/2104.04015,
sections 2.1 to 2.4. The defects themselves are in `deep_oc.cutpaste`.

Without official code, what the paper leaves open is a field here, with the
reason for its default.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deep_oc import crops, cutpaste, errors, heads, plugins, pretexts, scores
from deep_oc.errors import InputError

# The kinds of defect that each task tells from the normal image (class 0). The
# names are those of the paper's tables 1, 4 and 5: 'scar' is the coloured box
# that CutPaste-Scar was compared with.
TASKS = {'3way': ('cutpaste', 'cutpaste_scar')} | {
    kind: (kind,) for kind in cutpaste.KINDS}

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Pretext(nn.Module):
  """Classifies one normal view of each image and one view per kind of defect.

  Attributes:
    encoder: f32[n, h, w, c] -> f32[n, d].
    augment: applied before anything is pasted; the paper translates and jitters
      by amounts that it does not state.
    dtype: of the head's matrix products.
    head: widths of the MLP between encoder and classifier. The paper says only
      that it follows Sohn et al.; this is their classification head.
    task: '3way', 'union' or a kind of defect; see `TASKS`. Under 'union' an
      image has one of the two defects by chance: the paper's binary batch, 64,
      has no room for both.
    defects: fields of `cutpaste.Defects`.
    crop: side in pixels of the crop that the patch-level task is asked of, cut
      out before anything is pasted; 0 = the whole image.
    shared: whether the views of an image share one draw of `augment` and crop.
      The paper is silent; its patent draws a crop for each.
    joint: whether the views pass the encoder together and share BatchNorm's
      statistics, as in the code of Sohn et al. Otherwise each kind has its own.
    normalise: 'none', as Sohn et al., or 'imagenet' mean and deviation.
  """
  encoder: nn.Module
  augment: Callable
  dtype: Any = jnp.float32
  head: Sequence[int] = (512,) * 8
  task: str = '3way'
  defects: cutpaste.Defects | Mapping[str, Any] = cutpaste.Defects()
  crop: int = 0
  shared: bool = False
  joint: bool = True
  normalise: str = 'none'

  def __post_init__(self):
    if self.task not in TASKS:
      raise errors.unknown('pretext.task', self.task, TASKS)
    if self.normalise not in ('none', 'imagenet'):
      raise errors.unknown('pretext.normalise', self.normalise,
                           ('none', 'imagenet'))
    if self.normalise != 'none' and getattr(self.encoder, 'mean', ()):
      raise InputError(f'pretext.normalise={self.normalise} and encoder.mean '
                       "would standardise images twice; leave 'none'")
    crops.check(self.crop)
    if not isinstance(self.defects, cutpaste.Defects):
      self.defects = plugins.call(
          cutpaste.Defects, self.defects, 'pretext.defects')
    super().__post_init__()

  def setup(self):
    self.mlp = heads.MLP(self.head, bias=True, dtype=self.dtype)
    self.classifier = nn.Dense(
        self.inputs_per_image, kernel_init=nn.initializers.glorot_uniform())

  @property
  def inputs_per_image(self) -> int:
    """The normal view and one per kind of defect."""
    return 1 + len(TASKS[self.task])

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the mean cross-entropy and metrics."""
    logits = self._per_view(self.views(self.make_rng('views'), image), train)
    target = jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape[:2])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    correct = jnp.argmax(logits, axis=-1) == target
    return loss.mean(), {
        'accuracy': correct.mean(), 'chance': 1 / self.inputs_per_image}

  def embed(self, image: jax.Array) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to features f32[n, d] by name.

    Of an image larger than the crop, the mean over the crops that tile it.
    """
    pool = self._pool(crops.tiles(image, self.crop), train=False)
    feature = {'pool': pool}
    if self.head:
      feature['head'] = self.mlp(pool, train=False)
    return crops.over_tiles(jnp.mean, feature, image.shape[0])

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to 1 - p(normal), f32[n]; of tiles, the largest."""
    logits = self._logits(crops.tiles(image, self.crop), train=False)
    return crops.over_tiles(
        jnp.max, {'defect': scores.upright(logits, log=log)}, image.shape[0])

  def views(self, key: jax.Array, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, c] to f32[n, v, h, w, c], view 0 without defect."""
    base_key, defect_key = jax.random.split(key)
    kinds = TASKS[self.task]
    if self.shared:
      view = pretexts.views(self._base, base_key, image, 1)
      view = jnp.repeat(view, 1 + len(kinds), axis=1)
    else:
      view = pretexts.views(self._base, base_key, image, 1 + len(kinds))
    keys = jax.random.split(defect_key, (len(kinds), len(image)))
    defective = [self._defective(kind, keys[i], view[:, 1 + i])
                 for i, kind in enumerate(kinds)]
    return jnp.stack([view[:, 0], *defective], axis=1)

  def _base(self, key: jax.Array, image: jax.Array) -> jax.Array:
    """Augments and crops f32[h, w, c]: what is normal."""
    augment_key, crop_key = jax.random.split(key)
    image = self.augment(augment_key, image)
    return crops.random_crop(crop_key, image, self.crop)

  def _defective(self, kind: str, key: jax.Array, view: jax.Array) -> jax.Array:
    """Puts a defect into each of f32[n, h, w, c], with keys key[n]."""
    return jax.vmap(lambda key, view: cutpaste.KINDS[kind](
        key, view, self.defects))(key, view)

  def _per_view(self, view: jax.Array, train: bool) -> jax.Array:
    """Maps f32[n, v, h, w, c] to f32[n, v, v]."""
    n, v = view.shape[:2]
    if self.joint:
      flat = view.reshape(n * v, *view.shape[2:])
      return self._logits(flat, train).reshape(n, v, v)
    return jnp.stack([self._logits(view[:, i], train) for i in range(v)],
                     axis=1)

  def _logits(self, image: jax.Array, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to f32[n, v]."""
    return self.classifier(self.mlp(self._pool(image, train), train=train))

  def _pool(self, image: jax.Array, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to the encoder's features f32[n, d]."""
    if self.normalise == 'imagenet':
      image = (image - jnp.array(_MEAN)) / jnp.array(_STD)
    return self.encoder(image, train=train)
