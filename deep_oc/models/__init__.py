"""Encoders: `models/<name>.py` with a `class Model(nn.Module)` each.

The contract: the module's fields are the config's keys, and

  __call__(image, *, train: bool)  f32[n, h, w, c] -> features f32[n, d]

for any n, and any h and w. Images are in [0, 1], not standardised. Parameters
and the collection 'batch_stats' are float32 whatever the compute dtype;
`train` chooses the batch's statistics over the running ones. An encoder may
sow as 'intermediates' its last feature map, 'map', for explanations, of which
the features are the mean over positions, or all of it, flattened, and the
pooled features of each of its stages, 'stage', the last of which it returns, if
it tells how many, `stages`; one that does not pad may tell the map's geometry,
`receptive_field` and `stride` in pixels, and overlapping windows of an image
share one computation.
"""
from typing import Any

from flax import linen as nn

from deep_oc import plugins


def create(name: str, **kwargs: Any) -> nn.Module:
  """Returns the encoder `name`, with `kwargs` as its fields."""
  return plugins.call(plugins.find(__name__, name, 'Model'), kwargs, 'encoder')
