"""CSI's task: turned images are other images, and their turn is to be told.

Tack et al., "CSI: Novelty Detection via Contrastive Learning on
Distributionally Shifted Instances", NeurIPS 2020: contrastive
learning with distribution augmentation, the four turns of an image in one
batch, and a linear classifier of the turn on the encoder's features. The turns
are made here, so `config.distribution` is 'none'. Each of the eight views of an
image is augmented on its own and then turned; in CSI the four turns of a view
share one flip. CSI's test score, of ten copies of each image and the training
set's features, is not computed.
"""
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deep_oc import errors, orientation, pretexts
from deep_oc.pretexts import contrastive, rotation


class Pretext(contrastive.Pretext):
  """Contrasts the turns of all images, and classifies them.

  The attributes of `contrastive.Pretext`, with CSI's own defaults but for the
  BatchNorm of the head, which CSI has not, and:

  Attributes:
    turn_weight: of the turn's mean cross-entropy, which is added to the
      contrastive loss (CSI's λ).
  """
  head: Sequence[int] = (512, 128)
  temperature: float = 0.5
  loss: str = 'nt_xent'
  turn_weight: float = 1.0

  inputs_per_image: ClassVar[int] = 8
  fewest_images: ClassVar[int] = 1  # its turns are others
  score_views: ClassVar[orientation.Members] = orientation.FAMILIES['rot']

  def __post_init__(self):
    errors.check_number('pretext.turn_weight', self.turn_weight)
    super().__post_init__()

  def setup(self):
    super().setup()
    self.classifier = nn.Dense(
        4, kernel_init=nn.initializers.glorot_uniform())

  def __call__(self, image: jax.Array, *, train: bool):
    """Maps f32[n, h, w, c] to the sum of both losses, and metrics.

    Views are augmented and then turned, for a flip after a turn would make a
    quarter turn look like three.
    """
    n = len(image)
    view = pretexts.views(
        self.augment, self.make_rng('views'), image, 8, self.crop)
    pairs = rotation.turned(view.reshape(n, 4, 2, *view.shape[2:]))
    pool = self.encoder(pairs.reshape(8 * n, *view.shape[2:]), train=train)
    contrast, metrics = self.contrast(pool, train=train)
    logits = self.classifier(pool).reshape(n, 4, 2, 4)
    target = jnp.broadcast_to(jnp.arange(4)[:, None], logits.shape[:3])
    turn = optax.softmax_cross_entropy_with_integer_labels(
        logits, target).mean()
    loss = contrast + self.turn_weight * turn
    right = (jnp.argmax(logits, axis=-1) == target).mean()
    return loss, metrics | {'contrastive_loss': contrast, 'turn_loss': turn,
                            'turn_accuracy': right}

  def scores(self, image: jax.Array, *, log: bool = False
             ) -> dict[str, jax.Array]:
    """Maps f32[n, h, w, c] to the classifier's own scores, f32[n] each.

    Of an image larger than the crop, the largest of its tiles.
    """
    return rotation.turn_scores(self._logits, image, self.crop, log)

  def _logits(self, view: jax.Array) -> jax.Array:
    """Maps f32[n, 4, h, w, c] to f32[n, 4, 4]."""
    pool = self.encoder(view.reshape(-1, *view.shape[2:]), train=False)
    return self.classifier(pool).reshape(view.shape[0], 4, 4)
