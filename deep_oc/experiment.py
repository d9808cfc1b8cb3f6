"""Turns a config into the objects that it names.

A config has these groups; each is the arguments of one function:

  experiment, method, seed, dtype, distribution    values
  data       deep_oc.data.load             what images there are
  protocol   deep_oc.protocols.one_class   which of them are normal
  pretext    deep_oc.pretexts.create       what the encoder is asked
  encoder    deep_oc.models.create
  optimizer  deep_oc.optimizers.create
  train      Plan                          how long, how often
  localize   a function of deep_oc.localize, or no such group
  embed      Embed                       what else is embedded, or no such group
"""
import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence

import ml_collections

from deep_oc import data, distribution, errors, plugins, protocols, runs
from deep_oc.errors import InputError

if typing.TYPE_CHECKING:  # JAX takes seconds, and flags need none of it
  import flax.linen as nn
  import jax.numpy as jnp
  import numpy as np
  import optax

  from deep_oc import step, weights

_KEYS = ('experiment', 'method', 'seed', 'dtype', 'distribution', 'data',
         'protocol', 'pretext', 'encoder', 'optimizer', 'train')
# Of `deep_oc.orientation`.
VIEWS = ('none', 'flip', 'rot', 'flip_rot', 'crop_flip_rot')
_OPTIONAL = ('localize', 'embed')
_MANY = 2**30  # steps, where a schedule's length changes nothing


@dataclasses.dataclass(frozen=True)
class Plan:
  """The group `train`: how long to train and how often to report.

  Attributes:
    batch: source images per step, over all devices.
    epochs: passes over the training set, its augmented copies included.
    steps: if not 0, the number of steps, and `epochs` does not matter.
    log_every: steps between rows of metrics; one dispatch on accelerators.
    monitor_every: steps between looks at the representation.
    checkpoint_every: steps; where one process trains alone, a quarter of an
      hour at most.
    batch_norm_groups: equal parts of the batch with BatchNorm statistics of
      their own; 1 = global, whatever the devices. As many as there are devices
      is what the published code does.
    accumulate: equal parts of the batch that pass one after the other, for
      want of memory; the step follows the mean of their gradients. Contrastive
      negatives and BatchNorm's statistics are of a part.
    ema: decay of the exponential moving average of weights and BatchNorm's
      statistics over the steps, from 0 to 1; if not 0, the average is what is
      evaluated.
    placement: where the training set lies, one of `storage.PLACEMENTS`, or
      'auto': the first that fits the devices' memory.
  """
  batch: int
  epochs: float = 1.0
  steps: int = 0
  log_every: int = 100
  monitor_every: int = 1000
  checkpoint_every: int = 2000
  batch_norm_groups: int = 1
  accumulate: int = 1
  ema: float = 0.0
  placement: str = 'auto'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int:
        errors.check_whole(f'train.{field.name}', value,
                           0 if field.name == 'steps' else 1)
    errors.check_number('train.epochs', self.epochs)
    errors.check_number('train.ema', self.ema, below=1)
    if self.batch % self.accumulate:
      raise InputError(f'train.batch={self.batch} does not divide into train.'
                       f'accumulate={self.accumulate} parts')
    if self.part % self.batch_norm_groups:
      raise InputError(f'train.batch={self.batch} does not divide into train.'
                       f'batch_norm_groups={self.batch_norm_groups}' + (
                           f' of each of train.accumulate={self.accumulate} '
                           'parts' * (self.accumulate > 1)))

  @property
  def part(self) -> int:
    """The images that pass at once."""
    return self.batch // self.accumulate

  def steps_per_epoch(self, images: int) -> int:
    """Returns the number of full batches."""
    if images < self.batch:
      raise InputError(f'the training set has {images} normal images, fewer '
                       f'than train.batch={self.batch}; lower the batch')
    return images // self.batch

  def total_steps(self, images: int) -> int:
    """Returns the number of steps of the run."""
    steps = self.steps or round(self.epochs * self.steps_per_epoch(images))
    if not steps:
      raise InputError(f'train.epochs={self.epochs} of {images} images is not '
                       f'one step of train.batch={self.batch}')
    return steps


@dataclasses.dataclass(frozen=True)
class Embed:
  """The group `embed`: which features there are beside the task's own.

  Attributes:
    views: a family of `deep_oc.orientation`; where it is not 'none', or there
      are several stages, their feature is added.
    stages: of how many of the encoder's last stages that feature is.
  """
  views: str = 'none'
  stages: int = 1

  def __post_init__(self):
    if self.views not in VIEWS:
      raise errors.unknown('embed.views', self.views, VIEWS)
    errors.check_whole('embed.stages', self.stages)

  @property
  def feature(self) -> str:
    """Its name; 'pool' is the task's own. See `deep_oc.orientation`."""
    level = 'pool' if self.stages == 1 else f'stages{self.stages}'
    return level if self.views == 'none' else f'{level}_{self.views}'


def of_run(workdir: str, data_dir: str | os.PathLike | None = None
           ) -> ml_collections.ConfigDict:
  """Returns the config of a trained run.

  Args:
    data_dir: where the images lie now, if they moved.

  Raises:
    InputError: there is no run, or `check` finds its config wrong.
  """
  config = runs.read_config(workdir)
  check(config)
  if data_dir is not None:
    prepared = 'data_dir' in config.data and not config.data.get('path')
    config.data['data_dir' if prepared else 'path'] = str(data_dir)
  return config


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError if a group is missing or misspelt, or if a name,
  the seed, `train` or `embed` is wrong whatever the images are."""
  for key in config:
    if key not in _KEYS + _OPTIONAL:
      raise errors.unknown('config key', key, _KEYS + _OPTIONAL)
  for key in _KEYS:
    if key not in config:
      raise InputError(f'the config lacks {key}')
  for key in ('experiment', 'method'):  # of folders, and in every row
    if not isinstance(config[key], str) or not config[key]:
      raise InputError(f'{key}={config[key]!r} must be a name')
  normal = config.protocol.get('normal', '0')
  if not isinstance(normal, str):  # flags know but one type
    raise InputError(f"protocol.normal={normal!r} must be text, as '{normal}'")
  errors.check_whole('seed', config.seed, 0)
  if config.seed >= 2**32:  # a key has 32 bits
    raise InputError(f'seed={config.seed} must be 2**32-1 at most')
  plan(config)
  embed(config)


def check_parts(config: ml_collections.ConfigDict) -> None:
  """Raises InputError if what a config names cannot be made.

  Task, encoder, optimizer, copies and where images lie, as far as can be said
  before there are images. It takes JAX, but no device.
  """
  from deep_oc import storage
  config = config.copy_and_resolve_references()
  if config.dtype == 'auto':  # which asks for the devices
    config.dtype = 'float32'
  pretext(config)
  _optimizer(config, _MANY, _MANY)
  distribution.copies(config.distribution)
  storage.check(plan(config).placement)


def embed(config: ml_collections.ConfigDict) -> Embed:
  """Returns the group `embed`."""
  return plugins.call(Embed, config.get('embed', {}), 'embed')


def plan(config: ml_collections.ConfigDict) -> Plan:
  """Returns the group `train`."""
  return plugins.call(Plan, config.train, 'train')


def problem(config: ml_collections.ConfigDict, split: data.Split | None = None
            ) -> protocols.Problem:
  """Splits images, by default those that it loads, into a one-class problem.

  Raises:
    InputError: it cannot be, or `embed.views` turns what is not square, images
      or, if the task has a crop, their tiles.
  """
  found = plugins.call(
      protocols.one_class, config.protocol, 'protocol',
      split=split or data.load(**config.data), seed=config.seed)
  height, width = found.train.image.shape[1:3]
  views, whole = embed(config).views, not config.pretext.get('crop', 0)
  if 'rot' in views and whole and height != width:
    raise InputError(f"embed.views='{views}' turns images, which must be "
                     f'square, not {height}x{width}')
  return found


def problem_of_run(config: ml_collections.ConfigDict) -> protocols.Problem:
  """Returns the problem that a trained run was given, by its config.

  Raises:
    InputError: as `problem`; of images that cannot be read it says that they
      may have moved.
  """
  try:
    split = data.load(**config.data)
  except InputError as error:
    raise InputError(f'the training images cannot be read ({error}); '
                     '--data_dir says where they lie now') from error
  return problem(config, split)


def resolved(config: ml_collections.ConfigDict, problem: protocols.Problem
             ) -> ml_collections.ConfigDict:
  """Returns the config with the normal class as its label, not its name, and
  with the protocol's defaults.

  So that a run is the same run however it was asked for. Where a label is the
  name of another class, the name stays: it is what a config means first.
  """
  labels, names = str(problem.normal_class), problem.class_names
  mistaken = any(each in names and names.index(each) != int(each)
                 for each in labels.split('+'))
  return with_protocol(config, problem.normal_name if mistaken else labels,
                       problem.settings)


def with_protocol(config: ml_collections.ConfigDict, normal: str,
                  settings: Mapping[str, float]) -> ml_collections.ConfigDict:
  """Returns the config with these in its group `protocol`.

  The setting 'calibration' is there only if images are held out.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.protocol.update(normal=normal, **settings)
    if 'calibration' in config.protocol and 'calibration' not in settings:
      del config.protocol['calibration']
  return config


def pretext(config: ml_collections.ConfigDict) -> 'nn.Module':
  """Returns the pretext task with its encoder.

  Raises:
    InputError: the task is to tell turns or flips, and the images are turned or
      mirrored already; a step has fewer images than the task compares; nothing
      is to be trained, and the learning rate is not 0; images are centred and
      have several views; or the encoder has not as many stages as `embed` asks
      for.
  """
  from deep_oc import pretexts
  task = pretexts.create(**config.pretext, encoder=config.encoder,
                         dtype=dtype(config.dtype))
  _check_not_told(config, task)
  _check_steps(config, task)
  _check_embed(config, task)
  return task


def _check_not_told(config: ml_collections.ConfigDict, task: 'nn.Module'
                    ) -> None:
  """Raises InputError if images show already what the task is to tell.

  Not so with shifts: where an edge is reflected, a further one still tells.
  """
  from deep_oc import orientation
  views, family = orientation.of_scores(task), config.distribution
  if any(view.turn for view in views):
    _check_upright(config, task, 'turns the images whose turn',
                   not distribution.upright(family), ('turn', 'vertical_flip'))
  if any(view.mirrored for view in views):
    _check_upright(config, task, 'mirrors the images whose flip',
                   distribution.mirrors(family), ('flip',))


def _check_upright(config: ml_collections.ConfigDict, task: 'nn.Module',
                   what: str, copied: bool, fields: Sequence[str]) -> None:
  """Raises InputError if copies or augmentations do what is to be told."""
  said = f"{what} the pretext task '{config.pretext.name}' is to tell"
  if copied:
    raise InputError(f"distribution='{config.distribution}' {said}; "
                     '--config.distribution=none')
  for field in fields:
    if getattr(task.augment, field):
      raise InputError(f'pretext.augment.{field} {said}')


def _check_steps(config: ml_collections.ConfigDict, task: 'nn.Module') -> None:
  """Raises InputError if a step has too few images, or is to do nothing."""
  name, part = config.pretext.name, plan(config).part
  fewest = getattr(task, 'fewest_images', 1)
  if part < fewest:
    raise InputError(f"the pretext task '{name}' compares images: train.batch "
                     f'by train.accumulate must be {fewest} at least, not '
                     f'{part}')
  rate = config.optimizer.get('learning_rate')
  if not getattr(task, 'trains', True) and rate != 0:  # weights would decay
    raise InputError(f"the pretext task '{name}' trains nothing: optimizer."
                     f'learning_rate must be 0, not {rate}')


def _check_embed(config: ml_collections.ConfigDict, task: 'nn.Module') -> None:
  """Raises InputError unless the network has what `embed` asks for."""
  from deep_oc import pretexts
  asked, has = embed(config), getattr(task.encoder, 'stages', 1)
  if asked.views != 'none' and pretexts.centres(task):
    raise InputError(f"embed.views='{asked.views}' moves what is in an image, "
                     'and the mean image that is subtracted does not move; '
                     "take 'none', or train with pretext.centre=false")
  if asked.stages > has:
    raise InputError(f"embed.stages={asked.stages}, and the encoder "
                     f"'{config.encoder.name}' has {has}")


def optimizer(config: ml_collections.ConfigDict, images: int
              ) -> 'optax.GradientTransformation':
  """Returns the optimizer for a training set of so many images."""
  run = plan(config)
  return _optimizer(
      config, run.total_steps(images), run.steps_per_epoch(images))


def _optimizer(config, total_steps, steps_per_epoch):
  from deep_oc import optimizers
  return plugins.call(
      optimizers.create, config.optimizer, 'optimizer', total_steps=total_steps,
      steps_per_epoch=steps_per_epoch)


def first_state(config: ml_collections.ConfigDict, task: 'nn.Module',
                optimizer: 'optax.GradientTransformation', images: 'np.ndarray',
                begins_with: 'weights.Weights | None' = None) -> 'step.State':
  """Returns a run's state at step 0.

  Args:
    config: a resolved one.
    task, optimizer: from `pretext` and `optimizer`.
    images: u8[n, h, w, c], what it is trained on.
    begins_with: what `weights.read` returned of it, if it was read before.

  Raises:
    InputError: the weights that it is to begin with cannot be had.
  """
  from deep_oc import step, weights
  state = step.begun(step.create_state(
      task, optimizer, config.seed, images.shape[1:], plan(config).ema), images)
  return weights.begun(
      state, begins_with or weights.read(config, task, state))


def state_like(config: ml_collections.ConfigDict, task: 'nn.Module',
               image_shape: tuple[int, int, int]) -> 'step.State':
  """Returns what a run's checkpoint is like, for it to be read.

  Args:
    task: from `pretext`.

  Returns:
    Shapes and dtypes, to be placed on every device; see `step.state_like`.
  """
  from deep_oc import sharding, step
  return step.state_like(
      task, _optimizer(config, _MANY, _MANY), image_shape,
      plan(config).ema, sharding.replicated(sharding.mesh()))


def dtype(name: str) -> 'jnp.dtype':
  """Returns the compute dtype; 'auto' is bfloat16 on GPU and TPU."""
  import jax
  import jax.numpy as jnp
  if name not in ('auto', 'float32', 'bfloat16'):
    raise errors.unknown('dtype', name, ('auto', 'float32', 'bfloat16'))
  if name == 'auto':
    name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return jnp.dtype(name)


def meta(workdir: str, config: ml_collections.ConfigDict,
         problem: protocols.Problem, step: int) -> dict[str, object]:
  """Returns the columns that all result rows of a run share.

  And `image_shape` and `n_calibration`, how many images calibrate. The rule is
  'last' at the run's last step, and 'chosen' at any other.
  """
  encoder = config.encoder
  last = plan(config).total_steps(
      len(problem.train) * distribution.copies(config.distribution))
  shape = ','.join(f'{key}={_plain(encoder[key])}' for key in sorted(encoder)
                   if key not in ('name', 'remat')  # which changes no feature
                   and (encoder[key] or key != 'weights'))
  return {
      'experiment': config.experiment, 'dataset': problem.dataset,
      'protocol': problem.protocol, 'normal_class': problem.normal_class,
      'normal_name': problem.normal_name, 'seed': config.seed,
      'pretext': config.method, 'task': config.pretext.name,
      'encoder': f'{encoder.name}({shape})',
      'step': step, 'checkpoint_rule': 'last' if step == last else 'chosen',
      # Of what is stored: the images may have moved since.
      'config_hash': runs.config_hash(runs.read_config(workdir)),
      'image_shape': problem.train.image.shape[1:],
      'n_calibration': len(problem.calibration)}


def _plain(value: object) -> object:
  """A tuple is a list once it has been in a JSON file."""
  return list(value) if isinstance(value, tuple) else value
