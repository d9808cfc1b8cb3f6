"""What features of several views of an image bring, without more training.

  PYTHONPATH=. python results/views.py --method=rotation
  PYTHONPATH=. python results/views.py --method=dacl

Each network of RECIPES is trained once, with the small encoder of
configs/small_fmnist.py on CIFAR-10, 32,000 image passes, and evaluated with
each family of `deep_oc.orientation`: KDE on the feature; 'none' is that of the
upright image, as published. The protocol
'validation', which sees no test image, is what chooses; 'one_vs_rest' is the
test split. Each row of views.csv is written as it comes, and what is there is
not computed again; two processes may share the file if each has a method of its
own.
"""
import functools
import pathlib

import fast_recipe
from absl import flags

from deep_oc import cli, experiment, features, orientation, sharding

PASSES = 32_000
PROTOCOLS = ('validation', 'one_vs_rest')
COLUMNS = ('pretext', 'recipe', 'protocol', 'normal_class', 'passes', 'seed',
           'views', 'auroc')
_CHOSEN = pathlib.Path(__file__).with_name('fast_recipe_choice_cifar10.csv')

# The fast recipe of rotation has no crops with a small encoder, and has them
# with a ResNet-18.
RECIPES = {'rotation': ('published', 'fast', 'fast, crops'),
           'dacl': ('published', 'fast')}


def define_flags() -> None:
  flags.DEFINE_enum('method', 'rotation', list(RECIPES), 'Of which.')
  flags.DEFINE_string('output', 'results', 'The folder of the table.')


def configured(method: str, recipe: str, protocol: str):
  """Returns the config of a network, and its warm-up."""
  overrides = {} if recipe == 'published' else dict(
      fast_recipe.chosen(_CHOSEN)[method])
  if recipe == 'fast, crops':
    overrides['pretext.augment.crop'] = 0.5
  return fast_recipe.configured(method, overrides, PASSES, protocol, 'cifar10')


def evaluated(pretext, problem, variables) -> dict[str, float]:
  """Returns the AUROC of each family, in percent."""
  def embed(image, family):
    feature = 'pool' if family == 'none' else orientation.name(family)
    look = features.embedder(pretext, sharding.mesh(), feature=feature)
    return look(variables, image)[feature]
  return {family: fast_recipe.auroc(
      problem, functools.partial(embed, family=family))
          for family in experiment.VIEWS}


def main() -> None:
  method = flags.FLAGS.method
  path = pathlib.Path(flags.FLAGS.output) / 'views.csv'
  for protocol in PROTOCOLS:
    for recipe in RECIPES[method]:
      done = {row['normal_class'] for row in fast_recipe.read(path)
              if (row['pretext'], row['recipe'], row['protocol'])
              == (method, recipe, protocol)}
      missing = [each for each in fast_recipe.CLASSES if str(each) not in done]
      config, warmup = configured(method, recipe, protocol)
      pretext = experiment.pretext(config)
      for normal, (problem, variables) in zip(
          missing, fast_recipe.trained(config, warmup, missing), strict=True):
        found = evaluated(pretext, problem, variables)
        rows = [dict(zip(COLUMNS, (
            method, recipe, protocol, str(normal), str(PASSES),
            str(config.seed), family, f'{auroc:.2f}'), strict=True))
                for family, auroc in found.items()]
        print(method, recipe, protocol, normal, found, flush=True)
        fast_recipe.write(path, COLUMNS, [*fast_recipe.read(path), *rows])


if __name__ == '__main__':
  cli.run(main, define_flags)
