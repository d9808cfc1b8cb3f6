"""One program on any number of devices: a mesh with the one axis `data`.

The state is replicated, the batch is spread. Under `jax.jit` a batch is one
global array, so BatchNorm's statistics and contrastive negatives are global
with nothing written down. The devices may belong to several processes; see
`deep_oc.distributed`.
"""
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deep_oc.errors import InputError


def mesh() -> Mesh:
  """Returns the mesh of all devices."""
  return jax.make_mesh((jax.device_count(),), ('data',),
                       axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Every device holds its share along `axis`."""
  return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'data'))


def put(tree: Any, where: NamedSharding) -> Any:
  """Places arrays that every process has whole, each what its devices hold."""
  if where.is_fully_addressable:
    return jax.device_put(tree, where)
  return jax.tree.map(lambda x: jax.make_array_from_callback(
      x.shape, where, np.asarray(x).__getitem__), tree)


def check_batch(batch: int, mesh: Mesh, parts: int = 1) -> None:
  """Raises InputError unless the devices share each part of it evenly."""
  shares = mesh.size * parts
  if batch % shares:
    below, above = np.array([0, 1]) * shares + batch // shares * shares
    near = ' or '.join(str(each) for each in (below, above) if each)
    of = f' of {jax.process_count()} processes' * (jax.process_count() > 1)
    of += f' in train.accumulate={parts} parts' * (parts > 1)
    raise InputError(f'train.batch={batch} does not divide over {mesh.size} '
                     f'devices{of}; {near} would')
