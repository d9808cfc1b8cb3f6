"""Finds what a config names: one module a plug-in, one public name in it."""
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Mapping
from typing import Any

from deep_oc import errors


def module(package: str, name: str) -> types.ModuleType:
  """Returns the module `<package>.<name>`.

  Raises:
    InputError: there is none, and the nearest.
  """
  parent = importlib.import_module(package)
  known = sorted(each.name for each in pkgutil.iter_modules(parent.__path__)
                 if not each.name.startswith('_'))
  if name not in known:
    raise errors.unknown(package.rsplit('.', 1)[-1].rstrip('s'), name, known)
  return importlib.import_module(f'{package}.{name}')


def find(package: str, name: str, attribute: str) -> Callable[..., Any]:
  """Returns `attribute` of the module `<package>.<name>`.

  Raises:
    InputError: no such module, or it lacks the attribute.
  """
  found = module(package, name)
  if not hasattr(found, attribute):
    raise errors.InputError(f"{found.__file__} lacks '{attribute}'; the "
                            f'docstring of {package} says what it must be')
  return getattr(found, attribute)


def call(function: Callable[..., Any], kwargs: Mapping[str, Any], where: str,
         **given: Any) -> Any:
  """Calls `function(**given, **kwargs)`; `kwargs` come from a config.

  Args:
    function: a function or class with keyword arguments.
    kwargs: the config group; lists (from JSON) become tuples.
    where: the group's name in the config, for the message.
    **given: what the program adds itself.

  Raises:
    InputError: a key that the function does not take, or one that it needs.
  """
  parameters = inspect.signature(function).parameters
  takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
  for name in given:
    if name not in parameters and not takes_any:
      raise errors.InputError(
          f"{function.__module__}.{function.__name__} lacks '{name}', which "
          f'every {where} is given')
  linen = ('parent', 'name') if 'parent' in parameters else ()
  known = [name for name, each in parameters.items()
           if each.kind is not each.VAR_KEYWORD
           and name not in given and name not in linen]
  for key in kwargs:
    if key not in known:
      raise errors.unknown('config key', f'{where}.{key}',
                           [f'{where}.{each}' for each in known])
  for name in known:
    if parameters[name].default is inspect.Parameter.empty \
        and name not in kwargs:
      raise errors.InputError(f'the config lacks {where}.{name}')
  values = {key: tuple(value) if isinstance(value, list) else value
            for key, value in kwargs.items()}
  return function(**given, **values)
