"""A run's folder: its config, and the file names that the binaries share."""
import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from deep_oc import embeddings, files, provenance
from deep_oc.errors import InputError

# Where data lies and how often to report change no result; what `localize` says
# changes none of the training, and stands in the rows of the maps, what `embed`
# says in the names of features.
_NOT_HASHED = re.compile(
    r'data\.(data|cache)_dir|train\.(log|monitor|checkpoint)_every|'
    r'train\.placement|(localize|embed)\..*')
# Without a value they are as if they were not there.
_UNASKED = 'encoder.weights', 'data.skip_corrupt'


def default_workdir(config: ml_collections.ConfigDict,
                    protocol: str = 'one_vs_rest') -> str:
  """Returns runs/<experiment>/<normal class>/seed<k>.

  Under any other protocol than one-vs-rest, its title comes before the seed.
  """
  parts = [config.experiment, config.protocol.normal]
  parts += [] if protocol == 'one_vs_rest' else [protocol]
  return '/'.join(['runs', *parts, f'seed{config.seed}'])


def claim(workdir: str, config: ml_collections.ConfigDict, write: bool = True,
          weights: Mapping[str, object] | None = None) -> None:
  """Writes `config.json`, or checks that the run there has the same config.

  Fields that change no result may differ; the file then gets the new values.

  Args:
    workdir: the run's folder.
    config: resolved.
    write: False only checks, where another process writes.
    weights: what a run begins with that has no checkpoint yet, JSON-able.

  Raises:
    InputError: the folder holds a run of another config, or cannot be
      written to.
  """
  path, about = files.path(workdir) / 'config.json', provenance.about()
  there = files.exists(path)
  if there:
    about = _read(path)  # the versions stay those that began the run
    old, new = _flat(about['config']), _flat(config.to_dict())
    differing = [f'{key}={old.get(key)!r} there, {new.get(key)!r} here'
                 for key in sorted(old.keys() | new.keys())
                 if old.get(key) != new.get(key)
                 and not _NOT_HASHED.fullmatch(key)
                 and key != 'data.anomalous_path']  # for tests alone
    if differing:
      raise InputError(
          f'{workdir} holds a run of another config ('
          f'{"; ".join(differing[:3])}); choose another --workdir or '
          '--config.experiment, or delete that folder')
    there = old == new
  if weights and about.get('weights') != weights:
    about, there = {**about, 'weights': dict(weights)}, False
  if there or not write:
    return
  with files.replacing(path) as file:
    json.dump({**about, 'config': config.to_dict()}, file, indent=2)
    file.write('\n')


def has_checkpoints(workdir: object) -> bool:
  """Tells whether a run has checkpoints, good or damaged."""
  folder = glob.escape(str(files.path(workdir) / 'checkpoints'))
  return any(name.rstrip('/').rpartition('/')[2].isdigit()
             for name in files.glob(f'{folder}/*'))


@contextlib.contextmanager
def held(workdir: str) -> Iterator[None]:
  """Keeps other processes from training in a folder on disk meanwhile.

  Raises:
    InputError: one is at it.
  """
  if files.is_remote(workdir):  # an object store has no locks
    yield
    return
  folder = os.open(files.path(workdir), os.O_RDONLY)
  try:
    try:
      fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(f'another process is training in {workdir}') from error
    except OSError:  # a file system without locks
      pass
    yield
  finally:
    os.close(folder)


def read_config(workdir: str) -> ml_collections.ConfigDict:
  """Returns the config of the run in `workdir`.

  Raises:
    InputError: there is no run, or its config cannot be read.
  """
  return ml_collections.ConfigDict(
      _read(files.path(workdir) / 'config.json')['config'])


def localize(config: ml_collections.ConfigDict, of_maps: Mapping[str, Any]
             ) -> Mapping[str, Any] | None:
  """Returns the group `localize` by which a run's heat maps were made last.

  The config's own if `embeddings.maps_meta` of the run does not say it.
  """
  return of_maps.get('localize', config.get('localize'))


def finished(workdir: str, config: ml_collections.ConfigDict,
             feature: str = 'pool') -> bool:
  """Tells whether the run in `workdir` is of this config and at its end.

  Args:
    workdir: the run's folder.
    config: a resolved one, but it may have the normal class by its name.
    feature: that its embeddings must have.
  """
  try:
    there = read_config(workdir)
    names, meta = embeddings.contents(f'{workdir}/embeddings/test.npz')
  except InputError:
    return False
  if not re.fullmatch(r'[\d+]+', config.protocol.normal):
    config = config.copy_and_resolve_references()
    config.protocol.normal = there.protocol.normal
  return (config_hash(there) == config_hash(config) and feature in names
          and meta.get('checkpoint_rule') == 'last' and (
              not config.get('localize')
              or files.exists(f'{workdir}/embeddings/maps.npz')))


def config_hash(config: ml_collections.ConfigDict) -> str:
  """Returns 12 hexadecimal digits that name what the results depend on."""
  flat = _flat(config.to_dict())
  kept = {key: value for key, value in flat.items()
          if not _NOT_HASHED.fullmatch(key)
          and (value or key not in _UNASKED)}
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: Any) -> dict:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    content['config'].items()  # a mapping, or this raises
    return content
  except FileNotFoundError as error:
    here = '' if files.is_remote(path) else glob.escape(str(path.parent))
    below = [each for depth in ('*', '*/*', '*/*/*') if here
             for each in sorted(files.glob(f'{here}/{depth}/config.json'))][:3]
    hint = '; below are ' + ', '.join(
        each.removesuffix('/config.json') for each in below) if below else ''
    raise InputError(
        f'no run in {path.parent}: {path} is missing{hint}') from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f'cannot read {path} ({error})') from error


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns {'a.b': value}, with tuples as lists, as JSON has them."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = json.loads(json.dumps(value))
  return flat
