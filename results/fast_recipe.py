"""AUROC against image passes, for the published recipe and for a faster one.

  export PYTHONPATH=.
  python results/fast_recipe.py --step=choose
  python results/fast_recipe.py --step=compare
  python results/fast_recipe.py --step=transfer
  python results/fast_recipe.py --step=choose --data=cifar10 \\
      --choice=results/fast_recipe_choice_cifar10.csv

Fashion-MNIST with the small encoder of configs/small_fmnist.py. `choose` takes
one field after the other in the order of CHOICES and keeps what raises the mean
AUROC over the ten classes of the protocol 'validation', at a tenth of that
config's image passes; no test image is seen. `compare` trains both recipes for
all ten classes, to the same numbers of passes, and evaluates them on the test
split. `transfer` asks the validation part of CIFAR-10 what it thinks of them;
its own choice is of fewer fields and takes ten times the passes. An image pass
is one network input. What is done is not repeated.
"""
import csv
import itertools
import json
import pathlib
import statistics

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from configs import small_fmnist

from deep_oc import (cli, distribution, experiment, features, metrics, oneclass,
                     sharding, step)

# Image passes of which a recipe is to do with a tenth; those of
# configs/small_fmnist.py, and more for images that are harder.
FULL = {'fashion_mnist': 32_000, 'cifar10': 320_000}
METHODS = ('rotation', 'dacl')
CLASSES = range(10)
PASSES = (3200, 9600, 32_000)
COLUMNS = ('pretext', 'recipe', 'data', 'protocol', 'normal_class', 'passes',
           'steps', 'seed', 'auroc', 'overrides')

_COLOURS = ('brightness', 'contrast', 'saturation', 'hue')

# Tried in turn, beside what was kept so far. `warmup` is a share of the steps,
# `batch` a factor; the others are fields.
CHOICES = {'fashion_mnist': (
    [{'optimizer.learning_rate': rate} for rate in (0.01, 0.1)],
    [{'batch': factor} for factor in (2.0, 0.5, 0.25)],
    [{'optimizer.name': 'nesterov'},
     {'optimizer.name': 'adam', 'optimizer.learning_rate': 1e-3},
     {'optimizer.name': 'adam', 'optimizer.learning_rate': 3e-3}],
    [{'warmup': 0.1}],
    [{'train.ema': 0.9}, {'train.ema': 0.97}],
    [{'pretext.loss': 'nt_xent'}],
    [{'pretext.augment.crop': side} for side in (0.8, 1.0)],
    [{f'pretext.augment.{name}': 0.1 for name in _COLOURS}],
    [{'optimizer.weight_decay': 0.0}, {'optimizer.weight_decay': 3e-3}],
    [{'optimizer.momentum': 0.8}, {'optimizer.momentum': 0.95}]
), 'cifar10': (
    [{'batch': factor} for factor in (2.0, 0.5)],
    [{'optimizer.name': 'nesterov'}],
    [{'pretext.loss': 'nt_xent'}],
    [{'pretext.augment.crop': side} for side in (0.8, 1.0)],
    [{'batch': factor} for factor in (1.0, 0.5)],  # once more
    [{'optimizer.weight_decay': 3e-3}])}


def define_flags() -> None:
  flags.DEFINE_enum('step', 'compare', ['choose', 'compare', 'transfer'],
                    'Which.')
  flags.DEFINE_enum('data', 'fashion_mnist', list(FULL), 'Of the choice.')
  flags.DEFINE_list('methods', list(METHODS), 'Of the choice.')
  flags.DEFINE_integer('seeds', 1, 'Of the comparison.', 1)
  flags.DEFINE_string('output', 'results/fast_recipe.csv', 'Of the comparison.')
  flags.DEFINE_string('choice', 'results/fast_recipe_choice.csv',
                      'What --step=choose has written.')


def configured(method: str, overrides: dict, passes: int, protocol: str,
               data: str):
  """Returns the config that spends so many image passes, and its warm-up."""
  config = small_fmnist.get_config(method)
  config.protocol.name = protocol
  if data == 'cifar10':
    config.data.update(name='cifar10', pad=0)
  given = dict(overrides)
  warmup = given.pop('warmup', 0.0)
  config.train.batch = round(config.train.batch * given.pop('batch', 1.0))
  with config.unlocked():
    config.train.ema = 0.0
    config.update_from_flattened_dict(given)
  inputs = config.train.batch * experiment.pretext(config).inputs_per_image
  config.train.steps = passes // inputs
  return config, warmup


def aurocs(config, warmup):
  """Yields the AUROC of KDE on pooled features, a class after the other."""
  mesh, plan = sharding.mesh(), experiment.plan(config)
  pretext, take_steps = experiment.pretext(config), None
  embed = features.embedder(pretext, mesh)
  for normal in CLASSES:
    config.protocol.normal = str(normal)
    problem = experiment.problem(config)
    images = distribution.augment(problem.train.image, config.distribution)
    if take_steps is None:  # all classes have as many images
      config.optimizer.warmup_epochs = (
          warmup * config.train.steps / plan.steps_per_epoch(len(images)))
      optimizer = experiment.optimizer(config, len(images))
      take_steps = step.make_steps(pretext, optimizer, mesh)
      first = step.create_state(
          pretext, optimizer, config.seed, images.shape[1:], plan.ema)
    state = jax.tree.map(jnp.copy, first)
    stored = jax.device_put(images)
    for now in range(plan.total_steps(len(images))):
      batch = step.batch_index(config.seed, len(images), plan.batch, now, 1)
      state, _ = take_steps(state, stored, batch, step.root_key(config.seed))
    train, test = (embed(state.variables, split.image)['pool']
                   for split in (problem.train, problem.test))
    score = oneclass.anomaly_score(oneclass.fit('kde', train), test)
    yield metrics.auroc(score, problem.test.anomaly)


def run(method, recipe, overrides, passes, protocol, seed=0,
        data='fashion_mnist'):
  """Returns a row for each class."""
  config, warmup = configured(method, overrides, passes, protocol, data)
  config.seed = seed
  rows = [dict(zip(COLUMNS, (
      method, recipe, data, protocol, normal, passes, config.train.steps, seed,
      f'{value:.2f}', json.dumps(overrides)), strict=True))
          for normal, value in zip(CLASSES, aurocs(config, warmup),
                                   strict=True)]
  print(method, recipe, passes, f'{_mean(rows):.2f}', overrides, flush=True)
  return rows


def _mean(rows):
  return statistics.fmean(float(row['auroc']) for row in rows)


def choose(output: pathlib.Path, data: str, methods: list[str]) -> None:
  """Writes what was tried; the last of `kept` rows of a method is its best."""
  rows, before = [], {}
  for row in read(output):
    before.setdefault((row['pretext'], row['overrides']), []).append(
        row | {'recipe': 'tried'})
  for method in methods:
    kept, best = {}, -np.inf
    for options in ([{}], *CHOICES[data]):
      if method == 'rotation' and 'pretext.loss' in options[0]:
        continue
      found = []
      for option in options:
        tried = before.pop((method, json.dumps(kept | option)), None) or run(
            method, 'tried', kept | option, FULL[data] // 10, 'validation',
            data=data)
        rows += tried
        found.append((_mean(tried), kept | option, tried))
      value, overrides, tried = max(found, key=lambda each: each[0])
      if value > best:
        best, kept = value, overrides
        for row in tried:
          row['recipe'] = 'kept'
      write(output, rows + list(itertools.chain(*before.values())))


def chosen(path: str) -> dict[str, dict]:
  """Returns the overrides that were kept, by method."""
  return {row['pretext']: json.loads(row['overrides'])
          for row in read(pathlib.Path(path)) if row['recipe'] == 'kept'}


def compare(output: pathlib.Path, choice: str, seeds: int) -> None:
  rows = read(output)
  done = {(row['pretext'], row['recipe'], int(row['passes']), int(row['seed']))
          for row in rows}
  for seed, passes in itertools.product(range(seeds), PASSES):
    for method, fast in chosen(choice).items():
      for recipe, overrides in (('published', {}), ('fast', fast)):
        if (method, recipe, passes, seed) not in done:
          rows += run(method, recipe, overrides, passes, 'one_vs_rest', seed)
          write(output, rows)
  draw(rows, output.with_suffix('.png'))


def transfer(output: pathlib.Path, choice: str) -> None:
  """Trains both recipes on CIFAR-10, to a tenth of its passes."""
  rows = read(output)
  done = {(row['pretext'], row['recipe']) for row in rows}
  for method, fast in chosen(choice).items():
    for recipe, overrides in (('published', {}), ('fast', fast)):
      if (method, recipe) not in done:
        rows += run(method, recipe, overrides, FULL['cifar10'] // 10,
                    'validation', data='cifar10')
        write(output, rows)


def read(path: pathlib.Path) -> list[dict]:
  if not path.exists():
    return []
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def write(path: pathlib.Path, rows: list[dict]) -> None:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)


def draw(rows: list[dict], path: pathlib.Path) -> None:
  """Draws the means over classes."""
  matplotlib.use('Agg')
  from matplotlib import pyplot
  figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
  for method, colour in zip(METHODS, ('C0', 'C1'), strict=True):
    for recipe, line in (('published', 'o--'), ('fast', 's-')):
      of = [row for row in rows
            if (row['pretext'], row['recipe']) == (method, recipe)]
      passes = sorted({int(row['passes']) for row in of})
      axes.plot(passes, [_mean([row for row in of if int(row['passes']) == x])
                         for x in passes], line, color=colour,
                label=f'{method}, {recipe}')
  axes.set(xscale='log', xlabel='image passes',
           ylabel='AUROC, mean over ten classes, %')
  axes.set_xticks(PASSES, [f'{x:,}' for x in PASSES])
  axes.set_xticks([], minor=True)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(loc='outside upper center', ncols=2, frameon=False)
  figure.savefig(path, dpi=150)


def main() -> None:
  args = flags.FLAGS
  if args.step == 'choose':
    choose(pathlib.Path(args.choice), args.data, args.methods)
  elif args.step == 'transfer':
    transfer(pathlib.Path(args.output).with_stem('fast_recipe_transfer'),
             args.choice)
  else:
    compare(pathlib.Path(args.output), args.choice, args.seeds)


if __name__ == '__main__':
  cli.run(main, define_flags)
