"""How many of the defects among training images are found: suspicious.csv.

  bash results/imagenet.sh
  PYTHONPATH=. python results/suspicious.py

So many of the anomalous test images as the share says, drawn at random, join
the training images, and `deep_oc.suspicious` ranks all. Nothing is trained in
these runs, so that the features are those of a run that had them in its folder.
"""
import glob
import sys

import numpy as np

from deep_oc import embeddings, experiment, metrics, suspicious, tables

COLUMNS = ('experiment', 'classifier', 'share', 'images', 'defects', 'draws',
           'among_the_first', 'average_precision')
CLASSIFIERS = ('gde_ledoit_wolf', 'kde', 'nn')
SHARES = (0.02, 0.05, 0.1)
DRAWS = 10


def ranking(train, defects, classifier, draw):
  """Returns the ranking of train f[n, d] with defects f[k, d] among them."""
  score = suspicious.scores(np.concatenate([train, defects]), classifier, draw)
  order = np.argsort(-score, kind='stable')
  return suspicious.Ranking(classifier, score[order], order, None,
                            order >= len(train))


def rows(workdir):
  train, test, _ = embeddings.read_run(workdir, ('pool', 'anomaly'))
  train, anomalous = train['pool'], test['pool'][test['anomaly']]
  name = experiment.of_run(workdir).experiment
  for share in SHARES:
    k = round(share * len(train))
    picked = [np.random.default_rng(draw).choice(len(anomalous), k, False)
              for draw in range(DRAWS)]
    for classifier in CLASSIFIERS:
      found = [ranking(train, anomalous[each], classifier, draw)
               for draw, each in enumerate(picked)]
      first = np.mean([100 * each.found() / k for each in found])
      precision = np.mean([metrics.auprc(each.score, each.contaminant)
                           for each in found])
      yield dict(zip(COLUMNS, (
          name, classifier, f'{share:g}', len(train) + k, k, DRAWS,
          f'{first:.1f}', f'{precision:.1f}'), strict=True))


def main():
  runs = sorted(glob.glob('runs/lite0_imagenet_mvtec_*/*/seed0'))
  if not runs:
    sys.exit('no run of results/imagenet.sh in runs/')
  found = [row for run in runs for row in rows(run)]
  tables.write('results/suspicious.csv', COLUMNS, found)
  for row in found:
    print(*(f'{name} {value}' for name, value in row.items()), sep='  ')


if __name__ == '__main__':
  main()
