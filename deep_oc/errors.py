"""The one exception that a user is meant to read."""
import difflib
import math
import numbers
import re
from collections.abc import Iterable


class InputError(ValueError):
  """Bad input, said in one line: what is wrong, its value, what to do.

  Binaries print it without a traceback and exit with its `status`.
  """
  status = 2


class OutOfMemory(InputError):
  """Memory was not enough, a device's or the machine's; others may have it."""
  status = 1


def explained(error: BaseException) -> InputError | None:
  """Returns what a user is to read of an error; None if it is a defect."""
  if isinstance(error, InputError):
    return error
  said = ' '.join(str(error).split())
  if isinstance(error, MemoryError):  # NumPy's says how much it was to be
    return OutOfMemory(f"this machine's memory is not enough ({said[:200]}); "
                       'take fewer or smaller images')
  if 'RESOURCE_EXHAUSTED' not in said:  # JAX has no type for it
    return None
  return OutOfMemory(f"a device's memory is not enough ({said[:200]}); lower "
                     'train.batch or raise train.accumulate, unless another '
                     'process has the memory')


def check_whole(key: str, value: object, least: int = 1) -> None:
  """Raises InputError unless a field's value is a whole number from `least`."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise InputError(
        f'{key}={value!r} must be a whole number from {least} on')


def check_several(key: str, values: object) -> None:
  """Raises InputError unless they are whole numbers from 1 on, and some."""
  if not isinstance(values, (tuple, list)) or not values:
    raise InputError(f'{key}={values!r} must be whole numbers')
  for each in values:
    check_whole(f'one of {key}', each)


def check_number(key: str, value: object, below: float = math.inf) -> None:
  """Raises InputError unless a field's value is from 0 to less than `below`."""
  if (isinstance(value, bool) or not isinstance(value, numbers.Real)
      or not 0 <= value < below):  # nor is it NaN
    to = 'on' if below == math.inf else f'to less than {below:g}'
    raise InputError(f'{key}={value!r} must be a number from 0 {to}')


def unknown_key(error: AttributeError | KeyError) -> InputError:
  """Returns the error for a field that ml_collections does not know."""
  said = error.args[0]
  said = said.args[0] if isinstance(said, KeyError) else said
  if "no attribute 'get_config'" in str(said):
    return InputError('the file of --config is none: it has no get_config()')
  name, _, hint = str(said).partition('\n')
  near = re.search('"(.*?)" instead', hint)
  return InputError(f'unknown config key {name}'
                    + (f"; did you mean '{near[1]}'?" if near else
                       "; a flag sets what the config's file has, so add it "
                       'there first'))


def unknown(what: str, name: object, known: Iterable[object]) -> InputError:
  """Returns the error for a name that is not in `known`, with the nearest."""
  known = [str(each) for each in known]
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  hint = f"did you mean '{near[0]}'?" if near else 'known: ' + ', '.join(known)
  return InputError(f"unknown {what} '{name}'; {hint}")
