"""What the C library does with the memory that XLA's CPU backend gives back."""
import contextlib
import ctypes
from collections.abc import Iterator, Mapping

import jax

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8

_KEPT = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# What glibc sets by itself, which learns its thresholds, up to these.
_GIVEN_BACK = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20,
               _TRIM_THRESHOLD: 64 << 20}


def keep_freed_memory() -> None:
  """Keeps what the CPU backend frees for what it allocates next.

  It allocates the temporaries of each call anew. By default large ones go back
  to the system, and each page of the next is a fault. One arena, for those of
  further threads are too small. Nothing happens on accelerators, or where the C
  library is not glibc.
  """
  if jax.default_backend() == 'cpu':
    _set(_KEPT)


@contextlib.contextmanager
def giving_memory_back() -> Iterator[None]:
  """Undoes `keep_freed_memory` for a while, to compare with."""
  _set(_GIVEN_BACK)
  try:
    yield
  finally:
    keep_freed_memory()


def _set(parameters: Mapping[int, int]) -> None:
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  for name, value in parameters.items():
    mallopt(name, value)
