"""How many normal images are flagged, where the encoder knows its own by heart?

  PYTHONPATH=. python results/false_alarms.py --method=rotation --classes=10
  PYTHONPATH=. python results/false_alarms.py --method=csi --classes=10

The encoder learns from 200 images as in `few_images.py`, by the fast recipe at
that size. A classifier is to flag 5 % of normal images. Three kinds of normal
images calibrate it: those that the encoder learns from, held out of a second
fit ('seen'); and 20 or 200 others, that nothing learns from, as
`protocol.calibration` holds out a part. The normal and the abnormal images of
the validation part of CIFAR-10's training split are tested; no test image is
seen. The rows of a run are written as they come, and what is there is not
computed again.
"""
import pathlib

from absl import flags

import fast_recipe
import few_images
from deep_oc import cli, features, sharding, thresholds

ALPHA = 0.05
COLUMNS = ('pretext', 'normal_class', 'images', 'passes', 'steps', 'seed',
           'feature', 'classifier', 'calibration', 'false_alarm_rate',
           'false_alarms', 'detected')
_FEATURES = ('pool', 'head', 'pool_flip_rot')
_CLASSIFIERS = ('kde', 'gde_ledoit_wolf', 'nn')
_UNSEEN = (20, 200)


def define_flags() -> None:
  flags.DEFINE_enum('method', 'rotation', list(few_images.METHODS), 'Of which.')
  flags.DEFINE_integer('first', 0, 'The first class.', 0, 9)
  flags.DEFINE_integer('classes', 10, 'How many, from the first on.', 1)
  flags.DEFINE_string('output', 'results', 'The folder of the table.')


def _recipe(method: str) -> dict:
  recipes = few_images.QUESTIONS['crops'].recipes[method]
  return next(iter(recipes.values()))


def evaluated(config) -> list[tuple]:
  """Trains, and returns the last six columns of each row."""
  pretext, problem, state, _ = few_images.trained(config)
  images = {'train': problem.train.image[:few_images.IMAGES],
            'unseen': problem.train.image[few_images.IMAGES:][:max(_UNSEEN)],
            'test': problem.test.image}
  rows = []
  for feature in _FEATURES:
    embed = features.embedder(pretext, sharding.mesh(), feature=(
        'pool' if feature == 'head' else feature))
    found = {name: embed(state.variables, image)[feature]
             for name, image in images.items()}
    for classifier in _CLASSIFIERS:
      for count in (None, *_UNSEEN):
        judged = thresholds.calibrated(
            found['train'], classifier, ALPHA, config.seed,
            unseen=None if count is None else found['unseen'][:count])
        flagged = judged.judge(found['test'])[1] <= ALPHA
        rows.append((
            feature, classifier, 'seen' if count is None else f'unseen_{count}',
            f'{100 * ALPHA:.2f}', *(f'{100 * flagged[kind].mean():.2f}'
                                    for kind in (~problem.test.anomaly,
                                                 problem.test.anomaly))))
  return rows


def main() -> None:
  args = flags.FLAGS
  path = pathlib.Path(args.output) / 'false_alarms.csv'
  for normal in range(args.first, args.first + args.classes):
    if any((args.method, str(normal)) == (row['pretext'], row['normal_class'])
           for row in fast_recipe.read(path)):
      continue
    config = few_images.configured(args.method, _recipe(args.method), normal)
    about = (args.method, normal, few_images.IMAGES,
             few_images.passes(args.method, _recipe(args.method)),
             config.train.steps, config.seed)
    rows = [dict(zip(COLUMNS, (*about, *row), strict=True))
            for row in evaluated(config)]
    print(*rows, sep='\n', flush=True)
    fast_recipe.write(path, COLUMNS, [*fast_recipe.read(path), *rows])


if __name__ == '__main__':
  cli.run(main, define_flags)
