"""Many images, some at once, with a bar."""
from collections.abc import Callable, Collection, Iterator

import numpy as np

from deep_oc import progress

IMAGES = 32  # per forward pass of whole images, and scored at once by windows


def in_parts(look: Callable, image: np.ndarray, description: str | None
             ) -> np.ndarray:
  """Concatenates what is found of u8[m, h, w, c], so many at once."""
  found = []
  for begin in bar(range(0, len(image), IMAGES), description, 'score'):
    part = image[begin:begin + IMAGES]
    padding = [(0, IMAGES - len(part))] + [(0, 0)] * 3  # one program for all
    found.append(np.asarray(look(np.pad(part, padding)))[:len(part)])
  return np.concatenate(found)


def bar(each: Collection, description: str | None, what: str) -> Iterator:
  return iter(progress.batches(each, description and f'{description} {what}'))
