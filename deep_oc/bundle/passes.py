"""How many images, or rows of features, pass a network at once."""
import os

BATCH = 256  # images at once, fewer if they are large
_PIXELS = 2**20  # of a batch
_ON_CPU = 128  # rows or images in one pass
_PIXELS_OF_A_CORE = 2**16  # the same


def batch(height: int = 1, width: int = 1) -> int:
  """Returns how many images are worked on at once, a power of two."""
  return _power_of_two(min(BATCH, _PIXELS // (height * width)))


def padded(count: int, height: int = 1, width: int = 1) -> int:
  """Returns how many rows, or images, so many are padded to in a pass."""
  most = _power_of_two(min(_ON_CPU if _is_cpu() else BATCH,
                           pixels_at_once() // (height * width)))
  return min(most, 1 << (count - 1).bit_length())


def pixels_at_once() -> int:
  """Returns how many pixels pass a network at once, at most.

  On a CPU fewer than are worked on: more gain nothing, for activations do not
  stay in its caches, and each page of theirs is a fault unless the process
  keeps the memory that it frees.
  """
  if not _is_cpu():
    return _PIXELS
  return min(_PIXELS, _PIXELS_OF_A_CORE * _cores())


def _is_cpu() -> bool:
  import jax
  return jax.default_backend() == 'cpu'


def _cores() -> int:
  """Returns how many cores the process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _power_of_two(most: int) -> int:
  """Returns the largest that is no more, 1 at least."""
  return 1 << (max(most, 1).bit_length() - 1)
