"""What the fields of the group `localize` may be."""
import numbers

import numpy as np

from deep_oc.errors import InputError


def check_sigma(sigma: object) -> None:
  if isinstance(sigma, bool) or not (
      isinstance(sigma, numbers.Real) and 1e-3 <= sigma < np.inf):
    raise InputError(f'localize.sigma is {sigma!r}; it must be above 0, by a '
                     'thousandth of a pixel at least')


def is_several(value: object) -> bool:
  return isinstance(value, (list, tuple))
