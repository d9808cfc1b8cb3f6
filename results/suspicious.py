"""How many of the defects among training images are found: suspicious.csv.

  bash results/imagenet.sh
  PYTHONPATH=. python results/suspicious.py

So many of the anomalous test images as the share says, drawn at random, join
the training images, and `deep_oc.suspicious` ranks all. Nothing is trained in
these runs, so that the features are those of a run that had them in its folder.
"""
import numpy as np

import imagenet_runs
from deep_oc import embeddings, experiment, metrics, suspicious, trained_run

COLUMNS = ('experiment', 'feature', 'classifier', 'share', 'images', 'defects',
           'draws', 'among_the_first', 'average_precision')
CLASSIFIERS = ('gde_ledoit_wolf', 'kde', 'nn')
SHARES = (0.02, 0.05, 0.1)
DRAWS, DRAWS_OF_MAPS = 10, 3  # which take longer


def found(normal, defects, score, draw):
  """Returns the share among the first k, and the average precision."""
  scores = suspicious.scores(np.concatenate([normal, defects]), score, draw)
  order = np.argsort(-scores, kind='stable')
  ranking = suspicious.Ranking('', '', scores[order], order, None,
                               order >= len(normal))
  return (100 * ranking.found() / len(defects),
          metrics.auprc(ranking.score, ranking.contaminant))


def row(normal, anomalous, score, share, draws):
  """Returns the cells from 'share' on."""
  k = round(share * len(normal))
  first, precision = np.mean([
      found(normal, anomalous[np.random.default_rng(draw).choice(
          len(anomalous), k, False)], score, draw) for draw in range(draws)], 0)
  return (f'{share:g}', len(normal) + k, k, draws, f'{first:.1f}',
          f'{precision:.1f}')


def rows(workdir):
  train, test, _ = embeddings.read_run(workdir)
  anomaly = test['anomaly']
  detector = trained_run.load(workdir, feature='pool')
  method, images = detector.localizer()
  variables = detector.parts().variables
  defects = experiment.problem(detector.parts().config).test.image[anomaly]

  def largest(fitted, others):
    return method.fit_maps(variables, fitted, others).max(axis=(1, 2))

  for share in SHARES:
    for name in CLASSIFIERS:
      yield 'pool', name, *row(
          train['pool'], test['pool'][anomaly],
          suspicious.by_classifier(name, 0), share, DRAWS)
    yield 'windows', method.classifier, *row(
        images, defects, largest, share, DRAWS_OF_MAPS)


if __name__ == '__main__':
  imagenet_runs.write('results/suspicious.csv', COLUMNS, rows)
