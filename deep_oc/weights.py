"""Weights that an encoder begins with: those of another run, or published ones.

`encoder.weights` of a config is where they come from:

  runs/rotation_cifar10/3/seed0    a run, whose newest checkpoint counts
  resnet18.safetensors, .pth, .pt  parameters of a PyTorch network, by the names
                                   that an encoder's `checkpoint_names` has

In it, {normal} and {seed} stand for the run's own, so that a sweep's runs each
begin with another one's. A file that is not there may be one of an installed
package, <package>/<path in it>. Of a run, what else the two tasks have in
common is taken, too: parts of the same name and shapes, as heads. A file is
read as plain arrays, and never unpickled.
"""
import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from deep_oc import checkpoints, files, step, torch_file
from deep_oc.errors import InputError

SUFFIXES = '.safetensors', *torch_file.SUFFIXES
_KEPT = ('params', 'batch_stats')  # collections that belong to weights
# What PyTorch calls what Flax has.
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias',
           'mean': 'running_mean', 'var': 'running_var'}


class Weights(NamedTuple):
  """What a run begins with.

  Attributes:
    parts: arrays by collection, part of the task, and their names in it.
    about: JSON-able: 'path', 'step' of a run or 'sha256' of a file, and which
      'parts'.
  """
  parts: dict[str, dict[str, Any]]
  about: dict[str, Any]

  def __str__(self) -> str:
    *others, last = self.about['parts']
    at = f", step {self.about['step']}" if 'step' in self.about else ''
    return (f"begins with {', '.join(others)}{' and ' * bool(others)}{last} of "
            f"{self.about['path']}{at}")


def read(config: ml_collections.ConfigDict, task: nn.Module, like: step.State
         ) -> Weights | None:
  """Returns what a run of this config begins with, None if with nothing.

  Args:
    config: a resolved one.
    task: its pretext task.
    like: the shapes of its state.

  Raises:
    InputError: there is no such run or file, it cannot be read, it is of
      another encoder, or nothing is named where trained weights are needed.
  """
  where = config.encoder.get('weights')
  if not where:
    _check_untrained(task)
    return None
  if not isinstance(where, str):
    raise InputError(f'encoder.weights={where!r} must be the path of a run or '
                     f'of a file that ends with {" or ".join(SUFFIXES)}')
  where = where.replace('{normal}', config.protocol.normal).replace(
      '{seed}', str(config.seed))
  wanted = _parts({'params': like.params, **like.collections})
  if 'encoder' not in wanted:
    raise InputError('encoder.weights: the pretext task has no encoder of its '
                     'own parameters')
  if where.endswith(SUFFIXES):
    arrays, about = _file(where)
    encoder = _converted(where, arrays, task.encoder, wanted['encoder'])
    found = {'encoder': encoder}
  else:
    if not files.exists(files.path(where) / 'config.json'):
      raise InputError(
          f'encoder.weights={where} is no run, for it has no config.json, and '
          f'no file that ends with {" or ".join(SUFFIXES)}')
    with checkpoints.Checkpoints(where) as saved:
      at, variables = saved.variables()
    found, about = _parts(variables), {'step': at}
    _check(where, found.get('encoder', {}), wanted['encoder'])
    found = {name: part for name, part in found.items()
             if name in wanted and _shapes(part) == _shapes(wanted[name])}
  return Weights(
      {name: {part: tree[name] for part, tree in found.items() if name in tree}
       for name in _KEPT},
      {'path': where, **about, 'parts': sorted(found)})


def begun(state: step.State, found: Weights | None) -> step.State:
  """Returns the state at step 0 with these weights; its average has them, too.
  """
  if found is None:
    return state
  parts = jax.tree.map(jnp.asarray, found.parts)
  state = state.replace(params=state.params | parts.pop('params'))
  state = state.replace(collections=state.collections | {
      name: state.collections[name] | part for name, part in parts.items()
      if name in state.collections})
  if state.average is None:
    return state
  # A copy: the train step donates every buffer, and each but once.
  return state.replace(average=jax.tree.map(jnp.copy, {
      'params': state.params, **{name: state.collections[name] for name
                                 in state.average if name != 'params'}}))


def _check_untrained(task: nn.Module) -> None:
  """Raises InputError if a task makes no sense with random weights."""
  for needs, what in (
      (not getattr(task, 'trains', True), 'the pretext task trains nothing'),
      (getattr(task.encoder, 'freeze_batch_norm', False),
       'encoder.freeze_batch_norm keeps the statistics that it begins with')):
    if needs:
      raise InputError(
          f'{what}, so there must be trained weights: --config.encoder.weights='
          "a run or a file, see 'Trained weights' in deep_oc/README.md")


def _parts(variables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns {part: {collection: tree}} of what belongs to weights."""
  parts = {}
  for name in _KEPT:
    for part, tree in variables.get(name, {}).items():
      parts.setdefault(part, {})[name] = tree
  return parts


def _shapes(part: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  return {name: tuple(leaf.shape) for name, leaf
          in flax.traverse_util.flatten_dict(part, sep='/').items()}


def _check(where: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
           ) -> None:
  there, here = _shapes(found), _shapes(wanted)
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise InputError(
          f'encoder.weights={where} is of another encoder: {name} is '
          f'{there.get(name, "absent")} there and {here.get(name, "absent")} '
          'here')


def _file(where: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns the arrays of a file, and which file it is."""
  path = files.path(where)
  if not files.exists(where):
    path = _packaged(where)
  try:
    content = path.read_bytes()
    if where.endswith(torch_file.SUFFIXES):
      arrays = torch_file.read(content)
    else:
      import safetensors.numpy  # only those need it
      arrays = safetensors.numpy.load(content)
  except Exception as error:  # the disk's, a store's, or the package's own
    reason = ' '.join(str(error).split())[:200]
    raise InputError(f'cannot read encoder.weights={where} '
                     f'({type(error).__name__}: {reason})') from error
  return arrays, {'sha256': hashlib.sha256(content).hexdigest()}


def _packaged(where: str) -> pathlib.Path:
  """Returns the path of a file of an installed package, which is not imported.

  Raises:
    InputError: there is no such file.
  """
  package, _, rest = where.partition('/')
  named = rest and package.isidentifier()
  spec = importlib.util.find_spec(package) if named else None
  for folder in spec and spec.submodule_search_locations or ():
    if (pathlib.Path(folder) / rest).is_file():
      return pathlib.Path(folder) / rest
  packaged = f', nor in an installed package {package}' if named else ''
  raise InputError(
      f"there is no file encoder.weights={where}{packaged}; see 'Trained "
      "weights' in deep_oc/README.md")


def _converted(where: str, arrays: Mapping[str, np.ndarray],
               encoder: nn.Module, wanted: Mapping[str, Any]
               ) -> dict[str, Any]:
  """Returns a PyTorch network's arrays as variables like those of an encoder.

  What else is in the file, as a classifier, does not matter.
  """
  if not hasattr(encoder, 'checkpoint_names'):
    raise InputError(f'encoder.weights={where}: this encoder has no published '
                     'weights; those of a run it can begin with')
  scheme = _scheme(encoder.checkpoint_names(), arrays)
  flat = {}
  for path, like in flax.traverse_util.flatten_dict(wanted).items():
    *layer, leaf = path[1:]
    name = f"{scheme['/'.join(layer)]}.{_LEAVES[leaf]}"
    if name not in arrays:
      raise InputError(f'encoder.weights={where} is of another encoder: it '
                       f'lacks {name}')
    array = arrays[name]
    if leaf == 'kernel':  # out, in, height, width there
      array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if array.shape != tuple(like.shape):
      raise InputError(
          f'encoder.weights={where} is of another encoder: {name} is '
          f'{array.shape} there, in the order of Flax, and '
          f'{tuple(like.shape)} here')
    flat[path] = np.asarray(array, np.float32)
  return flax.traverse_util.unflatten_dict(flat)


def _scheme(schemes: Sequence[Mapping[str, str]],
            arrays: Mapping[str, np.ndarray]) -> Mapping[str, str]:
  """Returns the names of which the file has the most."""
  return max(schemes, key=lambda scheme: sum(
      f'{name}.weight' in arrays for name in scheme.values()))
