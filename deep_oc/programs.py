"""Programs that JAX runs without the code that they were traced from.

StableHLO by `jax.export`, for any number of rows and for several kinds of
devices. A program is a function of named arrays, which are kept beside it, and
of rows. Matrix products and convolutions are asked for in full precision, so
that a GPU does not round to 10 bits what a CPU does not.

JAX reads what it wrote for six months at least.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export, lax

from deep_oc import (classifiers, convolution, jitted, oneclass, orientation,
                     step)
from deep_oc.errors import InputError

PLATFORMS = ('cpu', 'cuda', 'tpu')

Arrays = dict[str, np.ndarray]


class Program(NamedTuple):
  """What a bundle has of a function.

  Attributes:
    content: the serialized StableHLO.
    arrays: its first argument.
    double: whether it computes in float64.
    shape: of its result for one row.
    function: what was traced, of arrays and of rows.
  """
  content: bytes
  arrays: Arrays
  double: bool
  shape: tuple[int, ...]
  function: Callable[[Mapping[str, Any], jax.Array], jax.Array]


def network(function: Callable[[Any, jax.Array], jax.Array],
            variables: Mapping[str, Any], shape: Sequence[int]) -> Program:
  """Returns the program u8[n, h, w, c] -> f32[n, ...] of a network.

  Args:
    function: maps variables and f32[n, h, w, c] in [0, 1] to f[n, ...]; it may
      not ask for n as a number. As a whole, for the order of its sums to be
      that of the trainer.
    variables: of the network; those that do not matter are left out.
    shape: h, w, c.
  """
  flat = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep='/')

  def program(arrays, images):
    arrays = {name: arrays.get(name, np.zeros_like(x))
              for name, x in flat.items()}
    nested = traverse_util.unflatten_dict(arrays, sep='/')
    return function(nested, step.to_float(images)).astype(jnp.float32)

  used = _used(program, flat, np.zeros((1, *shape), np.uint8))
  return _program(program, {name: flat[name] for name in used}, shape,
                  np.uint8, double=False)


def _used(function, arrays, rows):
  """Returns the names of the arrays that a function of them looks at."""
  jaxpr = jax.make_jaxpr(function)(arrays, rows).jaxpr
  needed = set(map(id, jaxpr.outvars))
  for equation in reversed(jaxpr.eqns):
    if needed & set(map(id, equation.outvars)):
      needed |= set(map(id, equation.invars))
  return [name for name, variable in zip(sorted(arrays), jaxpr.invars[:-1],
                                         strict=True)
          if id(variable) in needed]


def pooled(pretext: nn.Module, feature: str = 'pool') -> Callable:
  """Returns a function for `network`, to a feature of the task's, f[n, d]."""
  return lambda variables, image: orientation.look(
      pretext, variables, image, feature)[0][feature]


def judged(pretext: nn.Module, feature: str, classifier: str) -> Callable:
  """Returns a function for `network`, to what a detector's classifier judges.

  A feature, f[n, d], or of 'score' the task's own of that name, f[n, 1].
  """
  if feature != 'score':
    return pooled(pretext, feature)
  return lambda variables, image: pretext.apply(
      variables, image, method='scores')[classifier][:, None]


def classifier(fitted: Sequence[Any], columns: int) -> Program:
  """Returns the program f32[n, d] -> anomaly scores f64[n, k] of k classifiers.

  Raises:
    InputError: one of them has no twin in `deep_oc.jitted`.
  """
  twins = [jitted.twin(each) for each in fitted]
  if None in twins:
    raise InputError(
        f'{type(fitted[0]).__name__} cannot be exported, for JAX cannot score '
        f"it; these can: {', '.join(oneclass.with_twins())}")
  arrays = {f'{i}/{name}': np.asarray(array) for i, twin in enumerate(twins)
            for name, array in twin.arrays.items()}

  def program(arrays, feature):
    nested = traverse_util.unflatten_dict(dict(arrays), sep='/')
    return jnp.stack([-twin.function(nested.get(str(i), {}), feature)
                      for i, twin in enumerate(twins)], axis=1)

  return _program(program, arrays, (columns,), np.float32, double=True)


def heat(density: classifiers.ShrunkGDE, shape: Sequence[int]) -> Program:
  """Returns the program of `gradcam.heat`, f32[n, gh, gw, d] -> f64[n, gh, gw].

  Args:
    density: of pooled features.
    shape: gh, gw, d.
  """
  arrays = {'location': density.location_,
            'whitener': jitted.whitener(density)}

  def program(arrays, feature_map):
    feature_map = feature_map.astype(jnp.float64)
    unit = feature_map.mean((1, 2))
    length = jnp.linalg.norm(unit, axis=1, keepdims=True)
    length = jnp.where((length > 0) & (density.norm is not None), length, 1.)
    unit = unit / length
    g = (unit - arrays['location']) @ arrays['whitener'] @ arrays['whitener'].T
    if density.norm:
      g = g - (g * unit).sum(axis=1, keepdims=True) * unit
    return jnp.maximum(jnp.einsum('nyxk,nk->nyx', feature_map, g / length), 0)

  return _program(program, arrays, shape, np.float32, double=True)


def positions(arrays: Arrays, norm: str | None) -> Program:
  """Returns the program f32[n, g, d] -> f64[n, g] of densities side by side.

  Args:
    arrays: as `densities.PositionDensity.compact` returns them.
    norm: 'l2' if rows are scaled to length 1.
  """
  def score(position):
    feature, kept = position
    far = (feature - kept['mean']).astype(jnp.float32)
    along = far @ kept['axes'].T
    beside = far - along @ kept['axes']
    return ((_square(along) / kept['variance']).sum(axis=1)
            + _square(beside).sum(axis=1) / kept['rest']) / 2

  def program(arrays, feature):
    feature = feature.astype(jnp.float64)
    if norm:
      length = jnp.linalg.norm(feature, axis=-1, keepdims=True)
      feature = feature / jnp.where(length > 0, length, 1.)
    # One after the other: a batch of such products took five times as long.
    return lax.map(score, (jnp.moveaxis(feature, 1, 0), dict(arrays))).T

  return _program(program, arrays, arrays['mean'].shape, np.float32,
                  double=True)


def _square(x):
  return jnp.square(x.astype(jnp.float64))


def _program(function, arrays, shape, dtype, double):
  found = _traced(function, arrays, shape, dtype, double)
  return Program(bytes(found.serialize()), arrays, double,
                 found.out_avals[0].shape[1:], function)


def _traced(function, arrays, shape, dtype, double):
  """Returns the function of arrays and of rows [n, *shape], for any n."""
  n, = export.symbolic_shape('n')
  with jax.enable_x64(double), jax.default_matmul_precision('highest'), \
      convolution.precise():  # whatever device it is for
    like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in arrays.items()}
    return export.export(jax.jit(function), platforms=PLATFORMS)(
        like, jax.ShapeDtypeStruct((n, *shape), dtype))
