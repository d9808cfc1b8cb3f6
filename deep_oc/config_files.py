"""Where a config comes from: a file, and what is changed of it."""
import runpy
from collections.abc import Mapping

import ml_collections
from absl import flags
from ml_collections import config_flags

from deep_oc import cli, experiment
from deep_oc.errors import InputError


def define_flag() -> None:
  """Defines --config."""
  flags.disclaim_key_flags()  # --help tells the flags of the binary alone
  config_flags.DEFINE_config_file(
      'config', None, 'File of the experiment, for example '
      'configs/quickstart.py; --config.<field>=... overrides one field.')


def from_flag() -> ml_collections.ConfigDict:
  """Returns the checked config that --config names.

  Raises:
    InputError: none is named, or it cannot be loaded.
  """
  config = flags.FLAGS.config
  if config is None:
    raise InputError('--config is required, for example '
                     '--config=configs/quickstart.py')
  try:
    experiment.check(config)
  except OSError as error:  # ml_collections says so at the first use
    raise InputError(error) from error
  return config


def read(path: str, overrides: Mapping[str, object]
         ) -> ml_collections.ConfigDict:
  """Returns the config that `train` gets from these arguments.

  Raises:
    InputError: no such file or field, or a value of the wrong type.
  """
  cli.config_file(path)  # or it raises
  argv = ['train', *arguments(path, overrides)]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
      'config', None, flag_values=values, sys_argv=argv)
  try:
    values(argv)
    list(values.config)  # some errors wait for the first use
    return values.config
  except cli.UNFIT as error:
    raise InputError(cli.reason(error)) from error


def arguments(path: str, overrides: Mapping[str, object]) -> list[str]:
  """Returns the flags that make `read` of them."""
  return [f'--config={path}', *(f'--config.{key}={value}'
                                for key, value in overrides.items())]


def points(path: str) -> list[dict[str, object]]:
  """Returns what the sweep() of a config's file yields, [{}] without one."""
  sweep = runpy.run_path(path.partition(':')[0]).get('sweep')
  return list(sweep()) if sweep else [{}]
