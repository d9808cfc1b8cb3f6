"""AUROC against image passes, for the published recipe and for a faster one.

  export PYTHONPATH=.
  python results/fast_recipe.py --step=choose --data=fashion_mnist
  python results/fast_recipe.py --step=compare --data=fashion_mnist
  python results/fast_recipe.py --step=choose --data=cifar10
  python results/fast_recipe.py --step=compare --data=cifar10

The small encoder of configs/small_fmnist.py. `choose` takes one field after the
other in the order of CHOICES and keeps what raises the mean AUROC over the ten
classes of the protocol 'validation', at a tenth of the published recipe's image
passes; no test image is seen. For CIFAR-10 the first to be tried is what
Fashion-MNIST chose. `compare` trains both recipes for all ten classes and
evaluates them on the test split. An image pass is one network input. Each row
is written as it comes, and what is there is not computed again; two processes
may share a file if each has a method of its own.
"""
import collections
import csv
import itertools
import json
import pathlib
import statistics

import jax
import jax.numpy as jnp
import matplotlib
from absl import flags
from configs import small_fmnist

from deep_oc import (cli, distribution, experiment, features, files, metrics,
                     oneclass, sharding, step)
from deep_oc.errors import InputError

METHODS = ('rotation', 'dacl')
CLASSES = range(10)
COLUMNS = ('pretext', 'recipe', 'data', 'protocol', 'normal_class', 'passes',
           'steps', 'seed', 'auroc', 'overrides')

# Image passes of the comparison, by recipe. The most are those of
# configs/small_fmnist.py, and more where images are harder.
PASSES = {
    'fashion_mnist': {'published': (3200, 9600, 32_000),
                      'fast': (3200, 9600, 32_000)},
    'cifar10': {'published': (32_000, 96_000, 320_000),
                'fast': (32_000, 96_000)}}

_COLOURS = ('brightness', 'contrast', 'saturation', 'hue')
_DULL = {f'pretext.augment.{name}': 0.1 for name in _COLOURS}
_ADAM = {rate: {'optimizer.name': 'adam', 'optimizer.learning_rate': rate}
         for rate in (1e-3, 2e-3, 3e-3, 4e-3)}
# The four turns of an image, which count as images, are in one batch.
_TURNS = [{'pretext.name': 'csi', 'distribution': 'none', 'batch': 0.25,
           'pretext.turn_weight': weight} for weight in (1.0, 3.0, 10.0)]

# Tried in turn, beside what was kept so far. `warmup` is a share of the steps,
# `batch` a factor; the others are fields.
CHOICES = {'fashion_mnist': (
    [{'optimizer.learning_rate': rate} for rate in (0.01, 0.1)],
    [{'batch': factor} for factor in (2.0, 0.5, 0.25)],
    [{'optimizer.name': 'nesterov'}, _ADAM[1e-3], _ADAM[3e-3]],
    [{'warmup': 0.1}],
    [{'train.ema': 0.9}, {'train.ema': 0.97}],
    [{'pretext.loss': 'nt_xent'}],
    [{'pretext.augment.crop': side} for side in (0.8, 1.0)],
    [_DULL],
    [{'optimizer.weight_decay': 0.0}, {'optimizer.weight_decay': 3e-3}],
    [{'optimizer.momentum': 0.8}, {'optimizer.momentum': 0.95}]
), 'cifar10': (
    [{'optimizer.name': 'nesterov'}, _ADAM[1e-3], _ADAM[3e-3]],
    [{'pretext.temperature': value} for value in (0.05, 0.1, 0.5)],
    [{'pretext.augment.crop': side} for side in (0.3, 0.8, 1.0)],
    [{'batch': factor} for factor in (0.5, 1.0, 2.0)],
    [_DULL],
    _TURNS,
    [_DULL],
    [_ADAM[2e-3], _ADAM[4e-3]],
    [{'pretext.loss': 'nt_xent'}])}
_CONTRASTIVE = {'pretext.loss', 'pretext.temperature', 'pretext.name'}


def define_flags() -> None:
  flags.DEFINE_enum('step', 'compare', ['choose', 'compare'], 'Which.')
  flags.DEFINE_enum('data', 'fashion_mnist', list(PASSES), 'Of which images.')
  flags.DEFINE_multi_enum('method', list(METHODS), list(METHODS), 'Of which.')
  flags.DEFINE_integer('seeds', 1, 'Of the comparison.', 1)
  flags.DEFINE_string('output', 'results', 'The folder of the tables.')


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


def aurocs(config, warmup, classes):
  """Yields the AUROC of KDE on pooled features, in percent, of each class."""
  embed = features.embedder(experiment.pretext(config), sharding.mesh())
  for problem, variables in trained(config, warmup, classes):
    train, test = (embed(variables, split.image)['pool']
                   for split in (problem.train, problem.test))
    yield auroc('kde', train, test, problem.test.anomaly)


def auroc(classifier: str, train, test, anomaly) -> float:
  """Returns that of a classifier of features, in percent."""
  score = oneclass.anomaly_score(oneclass.fit(classifier, train), test)
  return metrics.auroc(score, anomaly)


def trained(config, warmup, classes):
  """Yields the images and the trained network of each class."""
  mesh, plan = sharding.mesh(), experiment.plan(config)
  pretext, take_steps = experiment.pretext(config), None
  for normal in classes:
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
    yield problem, state.variables


class Table:
  """The rows of one CSV file, of some methods; computes those it lacks."""

  def __init__(self, path: pathlib.Path, data: str, protocol: str, methods):
    self._path, self._data, self._protocol = path, data, protocol
    self._methods = methods
    self._rows = [row for row in read(path) if row['pretext'] in methods]

  def rows(self, recipe: str, method: str, overrides: dict, passes: int,
           seed: int = 0) -> list[dict]:
    """Returns a row for each class, and calls them `recipe` from now on."""
    key = (method, _sorted(overrides), str(passes), str(seed))
    found = [row for row in self._rows if key == (
        row['pretext'], _sorted(json.loads(row['overrides'])), row['passes'],
        row['seed'])]
    done = {row['normal_class'] for row in found}
    missing = [normal for normal in CLASSES if str(normal) not in done]
    config, warmup = configured(method, overrides, passes, self._protocol,
                                self._data)
    config.seed = seed
    for normal, value in zip(missing, aurocs(config, warmup, missing),
                             strict=True):
      found.append(dict(zip(COLUMNS, (
          method, recipe, self._data, self._protocol, str(normal), str(passes),
          str(config.train.steps), str(seed), f'{value:.2f}',
          json.dumps(overrides)), strict=True)))
      self._rows.append(found[-1])
      self.write()
    for row in found:
      row['recipe'] = recipe
    print(method, recipe, passes, f'{mean(found):.2f}', overrides, flush=True)
    return found

  def forget(self, recipe: str, but: dict[str, dict]) -> None:
    """Drops the rows of a recipe whose overrides are not its method's."""
    self._rows = [row for row in self._rows if row['recipe'] != recipe
                  or json.loads(row['overrides']) == but[row['pretext']]]

  def write(self) -> None:
    others = [row for row in read(self._path)
              if row['pretext'] not in self._methods]
    write(self._path, COLUMNS, others + self._rows)


def _sorted(overrides):
  return json.dumps(overrides, sort_keys=True)


def read(path: pathlib.Path) -> list[dict]:
  if not path.exists():
    return []
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def write(path: pathlib.Path, columns, rows: list[dict]) -> None:
  """Writes the rows, those of a method together."""
  order = (*METHODS, 'csi')
  with files.replacing(path) as file:
    writer = csv.DictWriter(file, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(sorted(
        rows, key=lambda row: order.index(row['pretext'])))


def mean(rows: list[dict]) -> float:
  return statistics.fmean(float(row['auroc']) for row in rows)


def choose(table: Table, method: str, choices, passes: int) -> None:
  """Calls 'kept' what was kept; the last of them is the method's best."""
  kept, best = {}, -1.0
  for options in ([{}], *choices):
    if method == 'rotation' and _CONTRASTIVE & set(options[0]):
      continue
    found = [(table.rows('tried', method, kept | option, passes), kept | option)
             for option in options]
    rows, overrides = max(found, key=lambda each: mean(each[0]))
    if mean(rows) > best:
      best, kept = mean(rows), overrides
      for row in rows:
        row['recipe'] = 'kept'
  table.write()


def chosen(path: pathlib.Path) -> dict[str, dict]:
  """Returns the best of the overrides that were kept, by method.

  Raises:
    InputError: nothing was chosen for a method.
  """
  kept = collections.defaultdict(list)
  for row in read(path):
    if row['recipe'] == 'kept':
      kept[row['pretext'], row['overrides']].append(row)
  best = {method: json.loads(overrides) for (method, overrides), rows
          in sorted(kept.items(), key=lambda item: mean(item[1]))}
  for method in METHODS:
    if method not in best:
      raise InputError(f'{path} has no choice for {method}; --step=choose '
                       'makes it')
  return best


def compare(table: Table, methods, passes, fast: dict, seeds: int) -> None:
  table.forget('fast', but=fast)
  for seed in range(seeds):
    for recipe, counts in passes.items():
      for count, method in itertools.product(counts, methods):
        table.rows(recipe, method, fast[method] if recipe == 'fast' else {},
                   count, seed)
  table.write()


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
      axes.plot(passes, [mean([row for row in of if int(row['passes']) == x])
                         for x in passes], line, color=colour,
                label=f'{method}, {recipe}')
  axes.set(xscale='log', xlabel='image passes',
           ylabel='AUROC, mean over ten classes, %')
  passes = sorted({int(row['passes']) for row in rows})
  axes.set_xticks(passes, [f'{x:,}' for x in passes])
  axes.set_xticks([], minor=True)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(loc='outside upper center', ncols=2, frameon=False)
  figure.savefig(path, dpi=150)


def main() -> None:
  args = flags.FLAGS
  folder, data = pathlib.Path(args.output), args.data
  choices = {name: folder / f'fast_recipe_choice_{name}.csv' for name in PASSES}
  if args.step == 'choose':
    table = Table(choices[data], data, 'validation', args.method)
    for method in args.method:
      first = ([[chosen(choices['fashion_mnist'])[method]]]
               if data == 'cifar10' else [])
      choose(table, method, (*first, *CHOICES[data]), PASSES[data]['fast'][0])
  else:
    path = folder / f'fast_recipe_{data}.csv'
    table = Table(path, data, 'one_vs_rest', args.method)
    compare(table, args.method, PASSES[data], chosen(choices[data]), args.seeds)
    draw(read(path), path.with_suffix('.png'))


if __name__ == '__main__':
  cli.run(main, define_flags)
