"""Many images, some at once, with a bar."""
from collections.abc import Callable, Collection, Iterator

import numpy as np

from deep_oc import progress
from deep_oc.bundle import passes

IMAGES = 32  # scored at once


def in_parts(look: Callable, image: np.ndarray, description: str | None
             ) -> np.ndarray:
  """Concatenates what is found of u8[m, h, w, c], some in a forward pass."""
  found, size = [], passes.padded(IMAGES, *image.shape[1:3])
  for begin in bar(range(0, len(image), size), description, 'score'):
    part = image[begin:begin + size]
    padding = [(0, size - len(part))] + [(0, 0)] * 3  # one program for all
    found.append(np.asarray(look(np.pad(part, padding)))[:len(part)])
  return np.concatenate(found)


def bar(each: Collection, description: str | None, what: str) -> Iterator:
  return iter(progress.batches(each, description and f'{description} {what}'))
