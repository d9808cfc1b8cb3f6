"""Whether a run, a feature or a classifier is better than another, or luckier.

  python -m deep_oc.compare --a=runs/dacl_cifar10/0/seed0 \\
      --b=runs/rotation_cifar10/0/seed0 --feature=pool --classifier=kde
  python -m deep_oc.compare --a=runs/dacl_cifar10/0/seed0 \\
      --feature=pool --classifier=kde --other_classifier=ocsvm_rbf,gde

fits what `evaluate` does to both runs, or twice to one, and compares the AUROCs
on the same test images: the difference a - b, its 95 % interval, and the
p-value of there being none, by the paired test of DeLong et al., 1988; of the
pixels of heat maps, which depend on each other, by that of Obuchowski, 1997.
Without --feature all are compared that both have, without --classifier all that
`evaluate` takes by default; of 20 comparisons where nothing differs, one has
p < 0.05.

The test knows how an AUROC varies with the images, not with the seed of the
training: that this network is better than that one does not say that its method
is.
"""
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from absl import flags

from deep_oc import (cli, embeddings, errors, files, metrics, oneclass,
                     pixel_metrics, rendering, run_scores, tables)
from deep_oc.errors import InputError
from deep_oc.scored import Key, Request, Scored

COLUMNS = ('a', 'b', 'level', 'feature', 'classifier', 'other_feature',
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


def check(a: pathlib.Path, b: pathlib.Path) -> None:
  """Raises InputError if two runs were tested on different images."""
  _, test_a, meta_a = embeddings.read_run(a)
  _, test_b, meta_b = embeddings.read_run(b)
  differs = [name for name in ('index', 'path', 'anomaly')
             if not np.array_equal(test_a.get(name), test_b.get(name))]
  if meta_a.get('dataset') != meta_b.get('dataset'):
    differs.insert(0, 'dataset')
  if differs:
    raise InputError(f"{a} and {b} were not tested on the same images: "
                     f"'{differs[0]}' in their embeddings/test.npz differs")


def fit(workdir: pathlib.Path, feature: str | None, classifier: str | None
        ) -> Scored:
  """Returns a run with those of its scores that are asked for.

  Raises:
    InputError: there is no such feature, classifier or score.
  """
  if feature and feature.endswith(('score', 'windows', 'gradcam', 'task')):
    specs, names = (), (classifier or '').split(',')  # nothing to fit
  else:
    specs = names = oneclass.specs(classifier or '')
  found = run_scores.score_run(workdir, Request(
      specs, [feature] if feature else ()))
  if not classifier:
    return found
  known = dict.fromkeys(key.classifier for key in found.scores)
  for name in names:
    if name not in known:
      raise errors.unknown(f"score by '{feature}' in {workdir}", name, known)
  return dataclasses.replace(found, scores={
      key: score for key, score in found.scores.items()
      if key.classifier in names})


def pairs(a: Iterable[Key], b: Iterable[Key], other_feature: bool,
          other_classifier: bool) -> Iterator[tuple[Key, Key]]:
  """Yields what to compare, images with images and pixels with pixels: of one
  name, but for what is to be another."""
  for key in a:
    for other in b:
      if (other.level == key.level and
          (other_feature or other.feature == key.feature) and
          (other_classifier or other.classifier == key.classifier)):
        yield key, other


def compare(a: Scored, key: Key, b: Scored, other: Key) -> dict[str, str]:
  """Returns the columns that say how two scores of the same images differ.

  Raises:
    InputError: they are of pixels, and the masks of the two runs differ.
  """
  score_a, score_b = a.scores[key].values, b.scores[other].values
  if key.level == 'pixel':
    if not np.array_equal(a.mask, b.mask):
      raise InputError(
          "the heat maps have other masks, of {} and {} pixels; localize both "
          'at one size'.format(*('×'.join(map(str, each.mask.shape[1:]))
                                 for each in (a, b))))
    truth, auroc, paired = (
        a.mask, pixel_metrics.pixel_auroc, pixel_metrics.paired)
  else:
    truth, auroc, paired = a.anomaly, metrics.auroc, metrics.paired
  difference, low, high, p = paired(score_a, score_b, truth)
  columns = {
      'level': key.level, 'feature': key.feature, 'classifier': key.classifier,
      'other_feature': other.feature, 'other_classifier': other.classifier,
      'auroc_a': f'{auroc(score_a, truth):.2f}',
      'auroc_b': f'{auroc(score_b, truth):.2f}',
      'difference': f'{difference:+.2f}',
      'n_test_normal': str((~a.anomaly).sum()),
      'n_test_anomalous': str(a.anomaly.sum())}
  if np.isnan(p):
    return columns
  return columns | {'low': f'{low:+.2f}', 'high': f'{high:+.2f}',
                    'p': f'{p:.2g}'}


def show(rows: Iterable[dict[str, str]]) -> str:
  """Returns comparisons as text."""
  table = [('a', 'b', 'AUROC a', 'AUROC b', 'a - b', '95 %', 'p')]
  for row in rows:
    pixels = ', pixels' * (row['level'] == 'pixel')
    table.append((
        f"{row['feature']} {row['classifier']}{pixels}",
        f"{row['other_feature']} {row['other_classifier']}{pixels}",
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
  check(a, b)
  scored_a = fit(a, chosen.feature, chosen.classifier)
  scored_b = fit(b, other_feature or chosen.feature,
                 other_classifier or chosen.classifier)
  rows = [
      {'a': str(a), 'b': str(b), **compare(scored_a, key, scored_b, other)}
      for key, other in pairs(scored_a.scores, scored_b.scores,
                              bool(other_feature), bool(other_classifier))
      if a != b or key != other]
  if not rows:
    same = a == b and other_feature in (None, chosen.feature)
    raise InputError(
        f'there is nothing to compare: {a} with itself' if same else
        f'there is nothing to compare: {a} and {b} have no two scores of these '
        'features and classifiers that are both of images or both of pixels')
  print(f'a: {a}\nb: {b}\n\n{show(rows)}')
  if chosen.output:
    tables.write(chosen.output, COLUMNS, rows)
    print(f'\nwrote {chosen.output}')


if __name__ == '__main__':
  cli.run(main, define_flags)
