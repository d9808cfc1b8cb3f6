"""Whether a run, a feature or a classifier is better than another, or luckier.

  python -m deep_oc.compare --a=runs/dacl_cifar10/0/seed0 \\
      --b=runs/rotation_cifar10/0/seed0 --feature=pool --classifier=kde
  python -m deep_oc.compare --a=runs/dacl_cifar10/0/seed0 \\
      --feature=pool --classifier=kde --other_classifier=ocsvm_rbf,gde

fits what `evaluate` does to both runs, or twice to one, and compares the AUROCs
on the same test images: the difference a - b, its 95 % interval, and the
p-value of there being none, by the paired test of DeLong et al., 1988. Without
--feature all are compared that both have, without --classifier all that
`evaluate` takes by default; of 20 comparisons where nothing differs, one has
p < 0.05.

The test knows how an AUROC varies with the images, not with the seed of the
training: that this network is better than that one does not say that its method
is. Pixels are not compared, for they are not independent.
"""
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from absl import flags

from deep_oc import (cli, embeddings, errors, files, metrics, oneclass,
                     rendering, run_scores, tables)
from deep_oc.errors import InputError
from deep_oc.scored import Key, Request

COLUMNS = ('a', 'b', 'feature', 'classifier', 'other_feature',
           'other_classifier', 'auroc_a', 'auroc_b', 'difference', 'low',
           'high', 'p', 'n_test_normal', 'n_test_anomalous')


def define_flags() -> None:
  flags.DEFINE_string('a', None, 'Folder of a run.')
  flags.DEFINE_string('b', None, 'Folder of another; by default the same.')
  flags.DEFINE_string('feature', None, 'A feature; by default all.')
  flags.DEFINE_string(
      'classifier', None, "Classifiers, as `evaluate` takes them; for the "
      "feature 'score' names of scores.")
  flags.DEFINE_string(
      'other_feature', None, "That of b; by default the same as a's.")
  flags.DEFINE_string(
      'other_classifier', None, "Those of b; by default the same as a's.")
  tables.define_flag('output', 'CSV to write the comparisons to.')


def truth(a: pathlib.Path, b: pathlib.Path) -> np.ndarray:
  """Returns which test images are anomalous, bool[n], of two runs alike.

  Raises:
    InputError: the runs were tested on different images.
  """
  _, test_a, meta_a = embeddings.read_run(a)
  _, test_b, meta_b = embeddings.read_run(b)
  differs = [name for name in ('index', 'path', 'anomaly')
             if not np.array_equal(test_a.get(name), test_b.get(name))]
  if meta_a.get('dataset') != meta_b.get('dataset'):
    differs.insert(0, 'dataset')
  if differs:
    raise InputError(f"{a} and {b} were not tested on the same images: "
                     f"'{differs[0]}' in their embeddings/test.npz differs")
  return test_a['anomaly'] != 0


def fit(workdir: pathlib.Path, feature: str | None, classifier: str | None
        ) -> dict[Key, np.ndarray]:
  """Returns the scores of a run's test images that are asked for.

  Raises:
    InputError: there is no such feature, classifier or score.
  """
  if feature and feature.endswith(('score', 'windows', 'gradcam', 'task')):
    specs, names = (), (classifier or '').split(',')  # nothing to fit
  else:
    specs = names = oneclass.specs(classifier or '')
  found = run_scores.score_run(workdir, Request(
      specs, [feature] if feature else ()))
  images = {key: score.values for key, score in found.scores.items()
            if key.level == 'image'}
  if not images:
    raise InputError(f"'{feature}' in {workdir} scores pixels, not images; "
                     'these are not compared')
  if not classifier:
    return images
  for name in names:
    if name not in {key.classifier for key in images}:
      raise errors.unknown(f"score by '{feature}' in {workdir}", name,
                           [key.classifier for key in images])
  return {key: score for key, score in images.items()
          if key.classifier in names}


def pairs(a: Iterable[Key], b: Iterable[Key], other_feature: bool,
          other_classifier: bool) -> Iterator[tuple[Key, Key]]:
  """Yields what to compare: of one name, but for what is to be another."""
  for key in a:
    for other in b:
      if ((other_feature or other.feature == key.feature) and
          (other_classifier or other.classifier == key.classifier)):
        yield key, other


def compare(score_a: np.ndarray, score_b: np.ndarray, anomaly: np.ndarray
            ) -> dict[str, str]:
  """Returns the columns that say how two scores f[n] of images differ."""
  difference, low, high, p = metrics.paired(score_a, score_b, anomaly)
  numbers = {'auroc_a': f'{metrics.auroc(score_a, anomaly):.2f}',
             'auroc_b': f'{metrics.auroc(score_b, anomaly):.2f}',
             'difference': f'{difference:+.2f}'}
  if not np.isnan(p):
    numbers |= {'low': f'{low:+.2f}', 'high': f'{high:+.2f}', 'p': f'{p:.2g}'}
  return numbers | {'n_test_normal': str((~anomaly).sum()),
                    'n_test_anomalous': str(anomaly.sum())}


def show(rows: Iterable[dict[str, str]]) -> str:
  """Returns comparisons as text."""
  table = [('a', 'b', 'AUROC a', 'AUROC b', 'a - b', '95 %', 'p')]
  for row in rows:
    table.append((
        f"{row['feature']} {row['classifier']}",
        f"{row['other_feature']} {row['other_classifier']}",
        row['auroc_a'], row['auroc_b'], row['difference'],
        f"{row['low']} to {row['high']}" if 'p' in row else '',
        row.get('p', '')))
  return rendering.aligned(table)


def main() -> None:
  chosen = flags.FLAGS
  other_feature, other_classifier = (
      chosen.other_feature, chosen.other_classifier)
  if not chosen.a:
    raise InputError('--a is required: the folder of a run')
  if not (chosen.b or other_feature or other_classifier):
    raise InputError('compare with what? Give --b, the folder of another run, '
                     'or --other_feature or --other_classifier')
  a, b = files.path(chosen.a), files.path(chosen.b or chosen.a)
  anomaly = truth(a, b)
  scores_a = fit(a, chosen.feature, chosen.classifier)
  scores_b = fit(b, other_feature or chosen.feature,
                 other_classifier or chosen.classifier)
  rows = [
      {'a': str(a), 'b': str(b), 'feature': key.feature,
       'classifier': key.classifier, 'other_feature': other.feature,
       'other_classifier': other.classifier,
       **compare(scores_a[key], scores_b[other], anomaly)}
      for key, other in pairs(scores_a, scores_b, bool(other_feature),
                              bool(other_classifier))
      if a != b or key != other]
  if not rows:
    raise InputError(
        f'there is nothing to compare: {a} with itself' if a == b else
        f'there is nothing to compare: {a} and {b} have no score of the same '
        'feature and classifier')
  print(f'a: {a}\nb: {b}\n\n{show(rows)}')
  if chosen.output:
    tables.write(chosen.output, COLUMNS, rows)
    print(f'\nwrote {chosen.output}')


if __name__ == '__main__':
  cli.run(main, define_flags)
