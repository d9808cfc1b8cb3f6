"""What tells defects best, by ImageNet's features: imagenet_folds.csv.

  bash results/imagenet.sh
  PYTHONPATH=. python results/imagenet_folds.py

Two of hazelnut's and of transistor's test images are normal, which settles
nothing. So here the normal images are those of the training, each scored by
what was fitted to the other four fifths of them, and the anomalous ones those
of the test, whose score is the mean over the five fits. Nothing is trained.
"""
import numpy as np

import imagenet_runs
from deep_oc import (embeddings, experiment, maps, metrics, suspicious,
                     thresholds, trained_run)

COLUMNS = ('experiment', 'feature', 'classifier', 'border', 'normal',
           'anomalous', 'auroc', 'auroc_low', 'auroc_high')
CLASSIFIERS = ('gde_ledoit_wolf', 'kde', 'nn')
BORDERS = (0, 8, 16, 32)  # pixels of 256


def cells(normal, anomalous, score):
  """Returns the cells from 'normal' on."""
  held_out, of_anomalous = np.empty(len(normal)), np.zeros(len(anomalous))
  for kept, others in thresholds.split(len(normal), 5, 0):
    found = score(normal[kept], np.concatenate([normal[others], anomalous]))
    held_out[others] = found[:len(others)]
    of_anomalous += found[len(others):] / 5
  scores = np.concatenate([held_out, of_anomalous])
  anomaly = np.arange(len(scores)) >= len(normal)
  return (len(normal), len(anomalous), *(f'{value:.2f}' for value in (
      metrics.auroc(scores, anomaly),
      *metrics.auroc_interval(scores, anomaly))))


def rows(workdir):
  train, test, _ = embeddings.read_run(workdir)
  config = experiment.of_run(workdir)
  problem = experiment.problem(config)
  parts = trained_run.load(workdir, feature='pool').parts()
  for name in CLASSIFIERS:
    yield 'pool', name, '', *cells(
        train['pool'], test['pool'][test['anomaly']],
        suspicious.by_classifier(name, 0))
  for border in BORDERS:
    method = maps.create(dict(config.localize, border=border), parts.pretext,
                         config.seed)
    yield 'windows', method.classifier, border, *cells(
        problem.fitted.image, problem.test.image[problem.test.anomaly],
        lambda fitted, others, method=method: method.fit_maps(
            parts.variables, fitted, others).max(axis=(1, 2)))


if __name__ == '__main__':
  imagenet_runs.write('results/imagenet_folds.csv', COLUMNS, rows)
