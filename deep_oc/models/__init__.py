"""Encoders: `models/<name>.py` with a `class Model(nn.Module)` each.

The contract: the module's fields are `dtype`, the compute dtype, and the
config's keys, and

  __call__(image, *, train: bool)  f32[n, h, w, c] -> features f32[n, d]
  maps(image, *, train), optional  f32[n, h, w, c] -> [f[n, h', w', d'], ...],
                                   the map of each stage, for decoders, and
                                   the last for tasks that score positions

for any n, and any h and w that are not too small. Images are in [0, 1], not
standardised. Parameters and the collection 'batch_stats' are float32 whatever
the compute dtype; `train` chooses the batch's statistics over the running ones.
What is drawn in training, as by dropout, is drawn from the stream 'views'. An
encoder may sow as 'intermediates' its last feature map, 'map', [n, gh, gw, d],
for Grad-CAM, of which the features are the mean over positions, or all of it,
flattened, and the pooled features of each of its stages, 'stage', the last of
which it returns, if it tells how many, `stages`; one that does not pad may tell
the map's geometry, `receptive_field` and `stride` in pixels, and overlapping
windows of an image share one computation. One that pads may tell the `stride`
alone, if position k of the last map lies at pixel k * stride. One that embeds
windows of several sizes may return its part for one of them, `of_side(pixels)`.
"""
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from deep_oc import plugins


def create(name: str, *, dtype: Any = jnp.float32, **kwargs: Any
           ) -> nn.Module:
  """Returns the encoder `name`, with `dtype` and `kwargs` as its fields."""
  return plugins.call(plugins.find(__name__, name, 'Model'), kwargs, 'encoder',
                      dtype=dtype)
