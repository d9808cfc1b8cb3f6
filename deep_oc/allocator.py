"""What the C library does with the memory that XLA's CPU backend gives back."""
import ctypes

import jax

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
  """Keeps what the CPU backend frees for what it allocates next.

  It allocates the temporaries of each call anew. By default large ones go back
  to the system, and each page of the next is a fault. One arena, for those of
  further threads are too small. Nothing happens on accelerators, or where the C
  library is not glibc.
  """
  if jax.default_backend() != 'cpu':
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(_ARENA_MAX, 1)
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, -1)
