"""What features of several views of an image bring, without more training.

  PYTHONPATH=. python results/views.py --method=rotation
  PYTHONPATH=. python results/views.py --method=dacl
  PYTHONPATH=. python results/views.py --method=dacl --about=classifiers
  PYTHONPATH=. python results/views.py --method=dacl --about=crops

Each network of RECIPES is trained once, with the small encoder of
configs/small_fmnist.py on CIFAR-10, 32,000 image passes, and evaluated with
families of `deep_oc.orientation`: KDE on the feature; 'none' is that of the
upright image, as published. The protocol 'validation', which sees no test
image, is what chooses; 'one_vs_rest' is the test split. `classifiers` compares
the paper's five, on the upright image and on eight views, on the validation
part; `crops`, there too, eight views with and without crops. Each row is
written as it comes, and what is there is not computed again; two processes may
share a file if each has a method of its own.
"""
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import fast_recipe
from absl import flags

from deep_oc import cli, experiment, features, oneclass, sharding

PASSES = 32_000
COLUMNS = ('pretext', 'recipe', 'protocol', 'normal_class', 'passes', 'seed',
           'views', 'classifier', 'auroc')
_CHOSEN = pathlib.Path(__file__).with_name('fast_recipe_choice_cifar10.csv')

# The fast recipe of rotation has no crops with a small encoder, and has them
# with a ResNet-18.
RECIPES = {'rotation': ('published', 'fast', 'fast, crops'),
           'dacl': ('published', 'fast')}
_AT_FULL_SIZE = {'rotation': ('fast, crops',), 'dacl': ('fast',)}


class Question(NamedTuple):
  """What a table compares: recipes by method, protocols, and so on."""
  file: str
  recipes: dict[str, tuple[str, ...]]
  protocols: tuple[str, ...]
  families: tuple[str, ...]
  classifiers: tuple[str, ...]


QUESTIONS = {
    'views': Question(
        'views.csv', RECIPES, ('validation', 'one_vs_rest'),
        ('none', 'flip', 'rot', 'flip_rot'), ('kde',)),
    'crops': Question(
        'views_crops.csv', _AT_FULL_SIZE, ('validation',),
        ('flip_rot', 'crop_flip_rot'), ('kde', 'gde_ledoit_wolf')),
    'classifiers': Question(
        'views_classifiers.csv', _AT_FULL_SIZE, ('validation',),
        ('none', 'flip_rot'), oneclass.PUBLISHED)}


def define_flags() -> None:
  flags.DEFINE_enum('about', 'views', list(QUESTIONS), 'Which question.')
  flags.DEFINE_enum('method', 'rotation', list(RECIPES), 'Of which.')
  flags.DEFINE_string('output', 'results', 'The folder of the table.')


def configured(method: str, recipe: str, protocol: str):
  """Returns the config of a network, and its warm-up."""
  overrides = {} if recipe == 'published' else dict(
      fast_recipe.chosen(_CHOSEN)[method])
  if recipe == 'fast, crops':
    overrides['pretext.augment.crop'] = 0.5
  return fast_recipe.configured(method, overrides, PASSES, protocol, 'cifar10')


def evaluated(question: Question, pretext, problem, variables
              ) -> Iterator[tuple[str, str, float]]:
  """Yields families, classifiers and AUROCs, in percent."""
  for family in question.families:
    feature = experiment.Embed(family).feature
    embed = features.embedder(pretext, sharding.mesh(), feature=feature)
    train, test = (embed(variables, split.image)[feature]
                   for split in (problem.train, problem.test))
    for name in question.classifiers:
      yield family, name, fast_recipe.auroc(
          name, train, test, problem.test.anomaly)


def main() -> None:
  method = flags.FLAGS.method
  question = QUESTIONS[flags.FLAGS.about]
  path = pathlib.Path(flags.FLAGS.output) / question.file
  for protocol, recipe in itertools.product(
      question.protocols, question.recipes[method]):
    done = {row['normal_class'] for row in fast_recipe.read(path)
            if (row['pretext'], row['recipe'], row['protocol'])
            == (method, recipe, protocol)}
    missing = [each for each in fast_recipe.CLASSES if str(each) not in done]
    config, warmup = configured(method, recipe, protocol)
    pretext = experiment.pretext(config)
    for normal, (problem, variables) in zip(
        missing, fast_recipe.trained(config, warmup, missing), strict=True):
      rows = [dict(zip(COLUMNS, (
          method, recipe, protocol, str(normal), str(PASSES),
          str(config.seed), family, classifier, f'{auroc:.2f}'), strict=True))
              for family, classifier, auroc in evaluated(
                  question, pretext, problem, variables)]
      print(*rows, sep='\n', flush=True)
      fast_recipe.write(path, COLUMNS, [*fast_recipe.read(path), *rows])


if __name__ == '__main__':
  cli.run(main, define_flags)
