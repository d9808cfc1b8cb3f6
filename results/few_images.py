"""Which recipe, where the encoder can learn its images by heart?

  PYTHONPATH=. python results/few_images.py --about=crops --method=csi \\
      --classes=10

is one question about one task. The tables have ten classes of rotation about
augmentation, optimizer, stages, crops, shifts and what is faster, and of CSI's
task about classifiers, stages, turns, crops and what is faster; and the first
five, which is the default, of rotation about resnet, and of CSI's task about
augmentation and batch.

A small encoder never learns the 5,000 images of a CIFAR-10 class by heart; a
ResNet-18 does. So here the small encoder of configs/small_fmnist.py has 200
images, and sees each as often as configs/fast_*_cifar10.py see theirs: 820
times for rotation, 1,640 for CSI's task. From row to row the augmentation alone
differs (few_images.csv); or weight decay and learning rate, with crops and the
weaker jitter (few_images_optimizer.csv); or the batch (few_images_batch.csv);
or the classifier (few_images_classifiers.csv), which elsewhere is KDE, fitted
to the same 200 images; or how many stages of the encoder the feature is of
(few_images_stages.csv, and few_images_resnet.csv of a small ResNet); or how
much the turns count in CSI's task, with its published contrast alone in the end
(few_images_turns.csv); or of how many views the feature is, with crops or not
(few_images_crops.csv); or what a GPU would take less time for, larger batches
and half the passes (few_images_faster.csv); or whether shifts are told as well
as turns, as Hendrycks et al. do (few_images_shifts.csv). The protocol is
'validation': no test image is seen. The rows of a run are written as they come,
and what is there is not computed again.
"""
import pathlib
import statistics
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

import fast_recipe
from deep_oc import (cli, errors, experiment, features, protocols, sharding,
                     step)

IMAGES = 200
COLUMNS = ('pretext', 'recipe', 'normal_class', 'images', 'passes', 'steps',
           'seed', 'accuracy', 'feature', 'classifier', 'auroc')
_CHOSEN = pathlib.Path(__file__).with_name('fast_recipe_choice_cifar10.csv')
METHODS = {'rotation': ('rotation', 820), 'csi': ('dacl', 1640)}
_BOTH = ('pool', 'pool_flip_rot')
_STAGES = ('pool', 'stages2', 'pool_flip_rot', 'stages2_flip_rot')
_CROPS = (*_BOTH, 'pool_crop_flip_rot')
_TWO = ('kde', 'gde_ledoit_wolf')
_RESNET = dict(name='resnet', depth=10, width=0.25)


class Question(NamedTuple):
  """What a table compares.

  Attributes:
    recipes: by method and name, what differs from the choice with a small
      encoder; and what 'share' of the image passes is made, if not all.
    features: whose AUROC is in the table,
    classifiers: by these.
    encoder: whose, where it is not the small one.
  """
  file: str
  recipes: dict[str, dict[str, dict]]
  features: tuple[str, ...] = _BOTH
  classifiers: tuple[str, ...] = ('kde',)
  encoder: dict | None = None


def _augment(crop: float, jitter: float) -> dict:
  colours = ('brightness', 'contrast', 'saturation', 'hue')
  return {'pretext.augment.crop': crop, **{
      f'pretext.augment.{name}': jitter for name in colours}}


def _batch(images: int, rate: float = 2e-3, crop: float = 0.5,
           jitter: float = 0.1) -> dict:
  return _augment(crop, jitter) | {
      'train.batch': images, 'optimizer.learning_rate': rate}


def _optimizer(decay: float, rate: float) -> dict:
  return _augment(0.5, 0.1) | {
      'optimizer.weight_decay': decay, 'optimizer.learning_rate': rate}


_FAST = {  # as at full size
    'rotation': {'crops from 0.5': _augment(0.5, 0.1)},
    'csi': {'batch 32, crops from 0.75': _batch(32, crop=0.75)}}

# An augmentation is called by the smallest side of a crop and the strength of
# the jitter: first by the choice with a small encoder, with one of the two as
# published, and with both. Decay, rate and steps say how far decay alone would
# shrink the weights: as in configs/rotation_cifar10.py, by 2.3 powers of e,
# with the first pair and the third; as in configs/fast_rotation_cifar10.py, by
# a fifth of that, with the second.
QUESTIONS = {
    'augmentation': Question('few_images.csv', {
        'rotation': {
            'no crop, 0.1': _augment(1.0, 0.1), '0.5, 0.1': _augment(0.5, 0.1),
            'no crop, 0.4': _augment(1.0, 0.4), '0.5, 0.4': _augment(0.5, 0.4),
            '0.3, 0.1': _augment(0.3, 0.1), '0.75, 0.1': _augment(0.75, 0.1)},
        'csi': {
            '0.5, 0.1': _augment(0.5, 0.1), '0.5, 0.4': _augment(0.5, 0.4)}
    }, features=('pool',)),
    'optimizer': Question('few_images_optimizer.csv', {
        'rotation': {
            'decay 0.003, rate 0.03': _optimizer(0.003, 0.03),
            'decay 0.0006, rate 0.03': _optimizer(0.0006, 0.03),
            'decay 0.0009, rate 0.1': _optimizer(0.0009, 0.1),
            'decay 0.003, rate 0.1': _optimizer(0.003, 0.1),
            'Adam, rate 0.002': _optimizer(
                3e-4, 0.002) | {'optimizer.name': 'adam'},
            'decay 0.003, rate 0.03, EMA 0.999': _optimizer(
                0.003, 0.03) | {'train.ema': 0.999}}}),
    'batch': Question('few_images_batch.csv', {
        'csi': {
            'batch 8': _batch(8), 'batch 16': _batch(16),
            'batch 32': _batch(32),
            'batch 32, rate 0.004': _batch(32, rate=4e-3),
            'batch 32, crops from 0.75': _batch(32, crop=0.75),
            'batch 32, crops from 0.75, jitter 0.4': _batch(
                32, crop=0.75, jitter=0.4)}}),
    # Against the row of CSI's task in few_images_stages.csv, of turn weight 3.
    'turns': Question('few_images_turns.csv', {
        'csi': {
            'turn weight 1': _batch(32, crop=0.75) | {
                'pretext.turn_weight': 1.0},
            'turn weight 0.3': _batch(32, crop=0.75) | {
                'pretext.turn_weight': 0.3},
            'contrast alone, as published': _batch(
                8, rate=0.01, crop=0.5, jitter=0.4) | {
                    'pretext.turn_weight': 0.0, 'pretext.temperature': 0.2,
                    'optimizer.name': 'sgd'}}
    }, _STAGES, _TWO),
    # With 200 images to fit, the Gaussian needs a covariance that is shrunk.
    'classifiers': Question('few_images_classifiers.csv', {
        'csi': _FAST['csi']
    }, classifiers=('ocsvm_rbf', *_TWO, 'nn')),
    'stages': Question('few_images_stages.csv', _FAST, _STAGES, _TWO),
    'crops': Question('few_images_crops.csv', _FAST, _CROPS, _TWO),
    # Against the rows of few_images_crops.csv, of 8 source images a step for
    # rotation and 32 for CSI's task.
    'faster': Question('few_images_faster.csv', {
        'rotation': {
            'batch 16': _augment(0.5, 0.1) | {'train.batch': 16},
            'batch 32': _augment(0.5, 0.1) | {'train.batch': 32},
            'batch 32, rate 0.06': _augment(0.5, 0.1) | {
                'train.batch': 32, 'optimizer.learning_rate': 0.06}},
        'csi': {
            'batch 64, half the passes': _batch(64, crop=0.75) | {
                'share': 0.5},
            'half the passes': _batch(32, crop=0.75) | {'share': 0.5}}
    }, _CROPS, _TWO),
    # Against the row of rotation in few_images_crops.csv.
    'shifts': Question('few_images_shifts.csv', {
        'rotation': {'turns and shifts': _augment(0.5, 0.1) | {
            'pretext.name': 'transformations', 'pretext.flip': False,
            'pretext.factorised': True, 'pretext.inputs_per_image': 4}}
    }, _CROPS, _TWO),
    'resnet': Question('few_images_resnet.csv', {
        'rotation': _FAST['rotation']}, _STAGES, _TWO, _RESNET)}


def define_flags() -> None:
  flags.DEFINE_enum('about', 'augmentation', list(QUESTIONS), 'Which question.')
  flags.DEFINE_enum('method', 'rotation', list(METHODS), 'Of which.')
  flags.DEFINE_integer('first', 0, 'The first class.', 0, 9)
  flags.DEFINE_integer('classes', 5, 'How many, from the first on.', 1)
  flags.DEFINE_string('output', 'results', 'The folder of the table.')


def passes(method: str, changes: dict) -> int:
  return int(IMAGES * METHODS[method][1] * changes.get('share', 1))


def configured(method: str, changes: dict, normal: int,
               encoder: dict | None = None):
  """Returns the config of a run."""
  base, _ = METHODS[method]
  overrides = fast_recipe.chosen(_CHOSEN)[base] | changes
  overrides.pop('share', None)
  config, _ = fast_recipe.configured(
      base, overrides, passes(method, changes), 'validation', 'cifar10')
  config.protocol.normal = str(normal)
  if encoder:
    config.encoder = encoder
  return config


class Trained(NamedTuple):
  """A task, its images of which the first `IMAGES` were learnt, and the end.

  Attributes:
    accuracy: of telling turns in the last 100 steps, in percent.
  """
  pretext: nn.Module
  problem: protocols.Problem
  state: step.State
  accuracy: float


def trained(config) -> Trained:
  """Trains with the first `IMAGES` training images."""
  plan = experiment.plan(config)
  pretext, problem = experiment.pretext(config), experiment.problem(config)
  images = problem.train.image[:IMAGES]
  optimizer = experiment.optimizer(config, len(images))
  take_steps = step.make_steps(pretext, optimizer, sharding.mesh())
  state = step.create_state(
      pretext, optimizer, config.seed, images.shape[1:], plan.ema)
  stored, right = jax.device_put(images), []
  for now in range(plan.total_steps(len(images))):
    batch = step.batch_index(config.seed, len(images), plan.batch, now, 1)
    state, found = take_steps(state, stored, jnp.asarray(batch),
                              step.root_key(config.seed))
    right.append(found.get('turn_accuracy', found['accuracy']))
  return Trained(pretext, problem, state, 100 * statistics.fmean(
      float(x[0]) for x in right[-100:]))


def evaluated(config, question: Question
              ) -> tuple[float, dict[tuple[str, str], float]]:
  """Trains and evaluates.

  Returns:
    The accuracy of telling turns at the end, and AUROCs by feature and
    classifier, all in percent.
  """
  run = trained(config)
  test, aurocs = run.problem.test, {}
  for name in question.features:
    embed = features.embedder(run.pretext, sharding.mesh(), feature=name)
    rows, tested = (embed(run.state.variables, each)[name] for each in (
        run.problem.train.image[:IMAGES], test.image))
    for classifier in question.classifiers:
      aurocs[name, classifier] = fast_recipe.auroc(
          classifier, rows, tested, test.anomaly)
  return run.accuracy, aurocs


def main() -> None:
  args = flags.FLAGS
  question = QUESTIONS[args.about]
  recipes = question.recipes.get(args.method)
  if recipes is None:
    raise errors.unknown('method', args.method, question.recipes)
  path = pathlib.Path(args.output) / question.file
  for normal in range(args.first, args.first + args.classes):
    for name, changes in recipes.items():
      rows = fast_recipe.read(path)  # another method may have written
      if any((args.method, name, str(normal)) == (
          row['pretext'], row['recipe'], row['normal_class']) for row in rows):
        continue
      config = configured(args.method, changes, normal, question.encoder)
      accuracy, aurocs = evaluated(config, question)
      rows = [dict(zip(COLUMNS, (
          args.method, name, normal, IMAGES, passes(args.method, changes),
          config.train.steps, config.seed, f'{accuracy:.1f}', *by,
          f'{auroc:.2f}'), strict=True)) for by, auroc in aurocs.items()]
      print(*rows, sep='\n', flush=True)
      fast_recipe.write(path, COLUMNS, [*fast_recipe.read(path), *rows])


if __name__ == '__main__':
  cli.run(main, define_flags)
