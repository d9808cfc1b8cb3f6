"""Where the training set lies while a run reads it.

  replicated   whole on every device: nothing moves but the numbers of images
  sharded      an equal part on each: every step moves one batch between them
  streamed     with the host, which sends batches ahead of the steps

The same (config, step) means the same images wherever they lie. All processes
have the whole set at hand, as arrays or as a file mapped into memory.
"""
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from deep_oc import errors, sharding

PLACEMENTS = ('replicated', 'sharded', 'streamed')

_SHARE = 0.5  # of a device's memory; the rest is for activations
_AHEAD = 4  # batches that wait on the devices, and threads that make them


def check(wanted: str) -> None:
  """Raises InputError unless it is one of PLACEMENTS, or 'auto'."""
  if wanted not in ('auto', *PLACEMENTS):
    raise errors.unknown('train.placement', wanted, ('auto', *PLACEMENTS))


def choose(wanted: str, size: int, mesh: jax.sharding.Mesh) -> str:
  """Returns the first of PLACEMENTS that a set of `size` bytes fits.

  Where no device tells of its memory, as on CPUs, it is 'replicated'.

  Args:
    wanted: 'auto', or the answer.
    size: in bytes.
    mesh: of the devices.

  Raises:
    InputError: `wanted` is not known.
  """
  check(wanted)
  if wanted != 'auto':
    return wanted
  memory = min((device.memory_stats() or {}).get('bytes_limit', np.inf)
               for device in mesh.local_devices)
  needed = np.array([size, size / mesh.size, 0])
  choice = np.argmax(needed <= _SHARE * memory)
  return PLACEMENTS[int(multihost_utils.broadcast_one_to_all(choice))]


class Storage:
  """A training set, read by the number of the step.

  Attributes:
    placement: one of PLACEMENTS.
    images: what the train step is given as `images`: u8[N, h, w, c] on the
      devices, or None.
  """

  def __init__(self, images: np.ndarray, placement: str,
               mesh: jax.sharding.Mesh):
    self.placement = placement
    self.images = None
    self._host, self._mesh = images, mesh
    if placement == 'replicated':
      self.images = sharding.put(images, sharding.replicated(mesh))
    elif placement == 'sharded':
      missing = -len(images) % mesh.size
      padding = [(0, missing)] + [(0, 0)] * (images.ndim - 1)
      self.images = sharding.put(
          np.pad(images, padding) if missing else images, sharding.split(mesh))

  def __str__(self) -> str:
    where = {'replicated': 'whole on each of', 'sharded': 'in parts on',
             'streamed': 'streamed from the host to'}[self.placement]
    devices = f'{self._mesh.size} device' + 's' * (self._mesh.size > 1)
    processes = (f' of {jax.process_count()} processes' *
                 (jax.process_count() > 1))
    return (f'{self._host.nbytes / 2**20:.1f} MiB of training images, {where} '
            f'{devices}{processes}')

  def batches(self, index: Callable[[int, int], np.ndarray], start: int,
              total: int, at_once: int) -> Iterator[jax.Array]:
    """Yields what the train step is given as `batch`, from `start` to `total`.

    Args:
      index: (step, count) -> i32[count, n], rows of the images.
      start: the first step.
      total: the number of steps of the run.
      at_once: steps per dispatch, aligned to its multiples. Streamed batches
        come one by one, for they need memory.
    """
    everywhere = sharding.replicated(self._mesh)
    if self.images is None:
      yield from self._streamed(index, start, total)
    while self.images is not None and start < total:
      count = min(at_once - start % at_once, total - start)
      yield sharding.put(index(start, count), everywhere)
      start += count

  def _streamed(self, index, start, total):
    import grain  # takes a second, and is seldom needed
    options = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
    steps = grain.MapDataset.range(start, total)
    return iter(steps.map(lambda step: self._on_devices(index(step, 1)))
                .to_iter_dataset(options))

  def _on_devices(self, index: np.ndarray) -> jax.Array:
    """Places images [k, n]; each process reads those of its own devices."""
    return jax.make_array_from_callback(
        (*index.shape, *self._host.shape[1:]), sharding.split(self._mesh, 1),
        lambda at: self._host[index[at[:2]]])
