"""Which augmentation, where the encoder can learn its images by heart?

  PYTHONPATH=. python results/few_images.py --method=rotation
  PYTHONPATH=. python results/few_images.py --method=csi

A small encoder never learns the 5,000 images of a CIFAR-10 class by heart; a
ResNet-18 does. So here the small encoder of configs/small_fmnist.py has 200
images, and sees each as often as configs/fast_*_cifar10.py see theirs: 820
times for rotation, 1,640 for CSI's task. Only the augmentation differs from
row to row. The protocol is 'validation': no test image is seen. KDE on pooled
features, fitted to the same 200 images. Each row of few_images.csv is written
as it comes, and what is there is not computed again.
"""
import pathlib
import statistics

import jax
import jax.numpy as jnp
from absl import flags

import fast_recipe
from deep_oc import (cli, experiment, features, metrics, oneclass,
                     sharding, step)

IMAGES = 200
COLUMNS = ('pretext', 'augmentation', 'normal_class', 'images', 'passes',
           'steps', 'seed', 'accuracy', 'auroc')
_CHOSEN = pathlib.Path(__file__).with_name('fast_recipe_choice_cifar10.csv')

# The smallest side of a crop and the strength of the jitter: by the choice with
# a small encoder, with one of the two as published, and with both.
AUGMENTATIONS = {
    'rotation': {'no crop, 0.1': (1.0, 0.1), '0.5, 0.1': (0.5, 0.1),
                 'no crop, 0.4': (1.0, 0.4), '0.5, 0.4': (0.5, 0.4)},
    'csi': {'0.5, 0.1': (0.5, 0.1), '0.5, 0.4': (0.5, 0.4)}}
METHODS = {'rotation': ('rotation', 820), 'csi': ('dacl', 1640)}


def define_flags() -> None:
  flags.DEFINE_enum('method', 'rotation', list(METHODS), 'Of which.')
  flags.DEFINE_integer('classes', 5, 'How many, from the first on.', 1)
  flags.DEFINE_string('output', 'results', 'The folder of the table.')


def configured(method: str, crop: float, jitter: float, normal: int):
  """Returns the config of a run."""
  base, views = METHODS[method]
  overrides = dict(fast_recipe.chosen(_CHOSEN)[base])
  overrides |= {f'pretext.augment.{name}': jitter for name in (
      'brightness', 'contrast', 'saturation', 'hue')}
  overrides['pretext.augment.crop'] = crop
  config, _ = fast_recipe.configured(
      base, overrides, IMAGES * views, 'validation', 'cifar10')
  config.protocol.normal = str(normal)
  return config


def trained(config) -> tuple[float, float]:
  """Returns the accuracy of telling turns at the end and the AUROC, in %."""
  mesh, plan = sharding.mesh(), experiment.plan(config)
  pretext, problem = experiment.pretext(config), experiment.problem(config)
  images = problem.train.image[:IMAGES]
  optimizer = experiment.optimizer(config, IMAGES)
  take_steps = step.make_steps(pretext, optimizer, mesh)
  state = step.create_state(
      pretext, optimizer, config.seed, images.shape[1:], plan.ema)
  stored, right = jax.device_put(images), []
  for now in range(plan.total_steps(IMAGES)):
    batch = step.batch_index(config.seed, IMAGES, plan.batch, now, 1)
    state, found = take_steps(state, stored, jnp.asarray(batch),
                              step.root_key(config.seed))
    right.append(found.get('turn_accuracy', found['accuracy']))
  embed = features.embedder(pretext, mesh)
  train, test = (embed(state.variables, each)['pool']
                 for each in (images, problem.test.image))
  score = oneclass.anomaly_score(oneclass.fit('kde', train), test)
  return (100 * statistics.fmean(float(x[0]) for x in right[-100:]),
          metrics.auroc(score, problem.test.anomaly))


def main() -> None:
  args = flags.FLAGS
  path = pathlib.Path(args.output) / 'few_images.csv'
  for normal in range(args.classes):
    for name, (crop, jitter) in AUGMENTATIONS[args.method].items():
      rows = fast_recipe.read(path)  # another method may have written
      if any((args.method, name, str(normal)) == (
          row['pretext'], row['augmentation'], row['normal_class'])
             for row in rows):
        continue
      config = configured(args.method, crop, jitter, normal)
      accuracy, auroc = trained(config)
      views = METHODS[args.method][1]
      row = dict(zip(COLUMNS, (
          args.method, name, normal, IMAGES, IMAGES * views,
          config.train.steps, config.seed, f'{accuracy:.1f}', f'{auroc:.2f}'),
                     strict=True))
      print(row, flush=True)
      fast_recipe.write(path, COLUMNS, [*fast_recipe.read(path), row])


if __name__ == '__main__':
  cli.run(main, define_flags)
