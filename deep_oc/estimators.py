"""Estimators by name, with parameters, from a command line or a config.

A spec is one of

  kde                                             a known name
  kde(gamma_scale=5)                              with parameters
  sklearn.ensemble.IsolationForest(n_estimators=50)
  pyod.models.ecod.ECOD                           any class with fit and scores

Parameters are Python literals; nothing is evaluated. What takes a random_state
gets the run's seed.
"""
import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deep_oc import errors
from deep_oc.errors import InputError

# Spaces, but not those between quotes.
_SPACE = re.compile(r"""('[^']*'|"[^"]*")|\s+""")


def split(text: str) -> list[str]:
  """Returns the specs of a list, sweeps written out, each once.

  Raises:
    InputError: it cannot be read.
  """
  text = f'[{_SPACE.sub(lambda found: found[1] or "", text)}]'
  return list(dict.fromkeys(
      spec for node in _parse(text).elts for spec in _sweep(text, node)))


def create(spec: str, known: Mapping[str, Callable[..., Any]], seed: int = 0
           ) -> Any:
  """Returns the estimator of a spec, unfitted.

  Args:
    spec: see the module.
    known: estimators by name.
    seed: for a random_state.

  Raises:
    InputError: no such estimator or parameter, or one that needs labels.
  """
  parsed = _parse(f'[{spec}]').elts
  if len(parsed) != 1:
    raise InputError(f"'{spec}' is not one classifier")
  name, nodes = _call(parsed[0])
  new = known.get(name) or _import(name, known)
  kwargs = _arguments(name, _signature(new), nodes, seed)
  try:
    found = new(**kwargs)
  except (TypeError, ValueError) as error:
    raise InputError(f'cannot create {spec}: {error}') from error
  _check_unsupervised(name, found)
  return found


def scoring(classifier: Any) -> tuple[str, int]:
  """Returns the method that scores, and 1 if it is higher for anomalies.

  `score_samples` is higher for the more normal, and so is the
  `decision_function` of scikit-learn; that of PyOD is not.
  """
  kind = type(classifier)
  packages = {each.__module__.partition('.')[0] for each in kind.__mro__}
  if 'pyod' in packages and hasattr(classifier, 'decision_function'):
    return 'decision_function', 1
  if hasattr(classifier, 'score_samples'):
    return 'score_samples', -1
  if 'sklearn' in packages and hasattr(classifier, 'decision_function'):
    return 'decision_function', -1
  raise InputError(
      f'{kind.__module__}.{kind.__name__} as given has no `score_samples` for '
      'new rows, nor a `decision_function` of scikit-learn or PyOD')


def _parse(text: str) -> ast.List:
  try:
    found = ast.parse(text, mode='eval').body
  except (SyntaxError, ValueError):
    found = None
  if not isinstance(found, ast.List):
    raise InputError(f"cannot read the classifiers '{text[1:-1]}'; write "
                     'them as nn,kde(gamma_scale=1|3)')
  return found


def _sweep(text: str, node: ast.expr) -> Iterator[str]:
  """Yields the specs of a node of the text; 1|3 is a choice of values."""
  name, nodes = _call(node)
  choices = [[f'{key}={ast.get_source_segment(text, value)}'
              for value in _alternatives(node)] for key, node in nodes.items()]
  for chosen in itertools.product(*choices):
    yield f"{name}({','.join(chosen)})" if chosen else name


def _alternatives(node: ast.expr) -> list[ast.expr]:
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    return _alternatives(node.left) + _alternatives(node.right)
  return [node]


def _call(node: ast.expr) -> tuple[str, dict[str, ast.expr]]:
  """Returns the name that a spec begins with, and its parameters."""
  call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
  name = ast.unparse(call.func)
  found = {each.arg: each.value for each in call.keywords}
  if call.args or None in found or len(found) < len(call.keywords):
    raise InputError(f"cannot read '{ast.unparse(node)}'; each parameter needs "
                     'its name, once, as in knn(k=3)')
  return name, found


def _literal(name: str, key: str, node: ast.expr) -> Any:
  try:
    return ast.literal_eval(node)
  except (TypeError, ValueError) as error:
    raise InputError(f"the value of {key}={ast.unparse(node)} of {name} is no "
                     'literal; text needs quotes') from error


def _import(path: str, known: Mapping[str, Any]) -> Callable[..., Any]:
  """Returns the class at an import path."""
  module, _, name = path.rpartition('.')
  if not module:
    raise errors.unknown('classifier', name, known)
  try:
    found = vars(importlib.import_module(module))
  except ImportError as error:
    raise InputError(f"cannot import '{module}' ({error})") from error
  if not isinstance(found.get(name), type):
    raise errors.unknown(f'class of {module}', name, [
        key for key, each in found.items() if isinstance(each, type)
    ] or ['none'])
  return found[name]


def _signature(function: Callable[..., Any]
               ) -> Mapping[str, inspect.Parameter]:
  try:
    return inspect.signature(function).parameters
  except ValueError:  # of some classes written in C
    return {}


def _arguments(name, known, nodes, seed):
  """Returns the keyword arguments that nodes give to a known signature."""
  takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
  for key in nodes:
    if not known:
      raise InputError(f"unknown parameter '{key}'; {name} has none")
    if key not in known and not takes_any:
      raise errors.unknown(f'parameter of {name}', key, known)
  seeded = {'random_state': seed} if 'random_state' in known else {}
  return seeded | {key: _literal(name, key, node)
                   for key, node in nodes.items()}


def _check_unsupervised(name: str, found: Any) -> None:
  """Raises InputError if this is not to be fitted to rows alone."""
  if not hasattr(found, 'fit'):
    raise InputError(f'{name} has no method `fit`; it is no classifier')
  needed = [each.name for each in list(_signature(found.fit).values())[1:]
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
  if needed:
    raise InputError(f'{name} needs {needed[0]} to be fitted, and normal rows '
                     'have none; it is no one-class classifier')
  scoring(found)
