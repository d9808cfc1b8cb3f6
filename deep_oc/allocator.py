"""What the C library does with the memory that XLA's CPU backend gives back."""
import ctypes
import importlib.util
from collections.abc import Mapping

import jax

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}


def keep_freed_memory() -> None:
  """Keeps what the CPU backend frees for what it allocates next.

  It allocates the temporaries of each call anew. By default large ones go back
  to the system, and each page of the next is a fault. Call it before anything
  is computed: there is to be one arena, for those of further threads are too
  small, and the backend's threads keep what they have. Nothing happens on
  accelerators, or where the C library is not glibc.
  """
  if _cpu_alone():
    _set({_ARENA_MAX: 1})
  if jax.default_backend() == 'cpu':  # the backend starts, with its threads
    _set(_KEPT)


def _cpu_alone() -> bool:
  """Tells whether JAX can have no backend but the CPU's; it is not started."""
  platforms = jax.config.jax_platforms
  if platforms:
    return platforms == 'cpu'
  return not any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))


def _set(parameters: Mapping[int, int]) -> None:
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  for name, value in parameters.items():
    mallopt(name, value)
