"""The projection head between an encoder and a pretext task's loss."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, errors


class MLP(nn.Module):
  """Dense-BatchNorm-ReLU layers, then a linear one (Sohn et al., ICLR 2021).

  The hidden layers have no bias, for BatchNorm has its own.

  Attributes:
    dims: of each layer; the last is linear. Empty: the features themselves.
    bias: whether the linear layer has one: DROC gives it one only where a
      classification layer follows.
    dtype: of the hidden layers; the linear one, parameters, statistics and
      output are float32.
  """
  dims: tuple[int, ...]
  bias: bool
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.dims != ():
      errors.check_several('pretext.head', self.dims)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, d] to f32[n, dims[-1]]."""
    init = nn.initializers.glorot_uniform()  # Keras' default, not Flax's
    for dim in self.dims[:-1]:
      x = nn.Dense(dim, use_bias=False, kernel_init=init, dtype=self.dtype)(x)
      x = batch_norm.BatchNorm(
          use_running_average=not train, momentum=0.9, epsilon=1e-5,
          dtype=self.dtype)(x)
      x = nn.relu(x)
    x = x.astype(jnp.float32)
    for dim in self.dims[-1:]:
      x = nn.Dense(dim, use_bias=self.bias, kernel_init=init)(x)
    return x


def unit(x: jax.Array) -> jax.Array:
  """Scales the rows of f32[n, d] to length 1; a zero row stays zero."""
  return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))
