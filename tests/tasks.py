"""A task or an encoder by itself, each call compiled as one program.

Operation by operation the first call takes several times as long.
"""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


def init(module: nn.Module, image: jax.Array) -> dict[str, Any]:
  """Returns the variables of an untrained network for f32[n, h, w, c]."""
  keys = {'params': jax.random.key(0), 'views': jax.random.key(1)}
  return jax.jit(lambda: module.init(keys, image, train=False))()


def apply(module: nn.Module, variables: Mapping[str, Any], x: jax.Array,
          *args: Any, **kwargs: Any) -> Any:
  """Returns what `module.apply` does; no more than `x` is traced of the rest.
  """
  return jax.jit(lambda variables, x: module.apply(
      variables, x, *args, **kwargs))(variables, x)
