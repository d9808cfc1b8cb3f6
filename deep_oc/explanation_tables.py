"""What explanations say in numbers: rows of the CSV, and their summary.

A row is of one image and one method. Columns that begin with `random_` are of
the network with random weights: its own scores and completeness error, and how
well its map finds what the trained network's score rests on (deletion and
insertion) and the mask. What is not known, or does not apply, is empty.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deep_oc import (chosen, detector, explainer, faithfulness, pixel_metrics,
                     rendering)

COLUMNS = (
    'image', 'index', 'class', 'anomaly', 'chosen_as', 'method', 'explained',
    'score', 'p_value', 'verdict', 'baseline', 'score_of_baseline', 'steps',
    'completeness_error', 'deletion', 'insertion', 'pixel_auroc',
    'random_score', 'random_score_of_baseline', 'random_completeness_error',
    'random_deletion', 'random_insertion', 'random_pixel_auroc', 'similarity',
    'nearest', 'distances')
_OF_BOTH = ('completeness_error', 'deletion', 'insertion', 'pixel_auroc')
_AVERAGED = ('deletion', 'random_deletion', 'insertion', 'random_insertion',
             'similarity')

Maps = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]]


def rows(image: chosen.Chosen, trained: explainer.Explained,
         untrained: explainer.Explained,
         neighbours: Sequence[explainer.Neighbour],
         judged: detector.Judged | None, **about: str
         ) -> Iterator[dict[str, str]]:
  """Yields the rows of an image.

  Args:
    image: what was explained.
    trained, untrained: how, of the two networks.
    neighbours: nearest first.
    judged: the verdict; None if the score has none.
    **about: 'explained', the name of the score, and 'baseline'.
  """
  known = about | {
      'image': image.path or image.name, 'index': image.index,
      'class': image.kind, 'anomaly': image.anomaly, 'chosen_as': image.why,
      'score': trained.score, 'score_of_baseline': trained.score_of_baseline,
      'random_score': untrained.score,
      'random_score_of_baseline': untrained.score_of_baseline,
      'nearest': ' '.join(str(each.index) for each in neighbours),
      'distances': ' '.join(f'{each.distance:.6g}' for each in neighbours)}
  if judged:
    known |= {'p_value': judged.p_value[0],
              'verdict': 'anomalous' if judged.anomalous[0] else 'normal'}
  for method, each in trained.maps.items():
    other = untrained.maps[method]
    row = known | {'method': method, 'steps': each.steps or ''} | {
        prefix + name: getattr(found, name) for name in _OF_BOTH
        for prefix, found in (('', each), ('random_', other))}
    row['similarity'] = faithfulness.similarity(
        each.attribution, other.attribution)
    yield {name: _cell(row.get(name, '')) for name in COLUMNS}


def _cell(value):
  if isinstance(value, float):
    return '' if value != value else f'{value:.6g}'
  return str(value).encode('utf-8', 'backslashreplace').decode()


def summary(table: Sequence[Mapping[str, str]], maps: Maps
            ) -> dict[str, dict[str, float | int | None]]:
  """Returns the summary by method.

  Deletion, insertion and similarity are medians over images, for where the
  rise since the baseline is small their shares of it are large; the
  completeness error is the largest; AUROC is over the pixels of all images.

  Args:
    table: all `rows`.
    maps: by method, of each image the trained network's f[h, w], the untrained
      one's, and the mask bool[h, w], None if not known.
  """
  found = {}
  for method, of_images in maps.items():
    lines = [row for row in table if row['method'] == method]
    left = [float(row['completeness_error']) for row in lines
            if row['completeness_error']]
    found[method] = {'images': len(lines),
                     'completeness_error': max(left, default=None)}
    found[method] |= {name: _median(row[name] for row in lines)
                      for name in _AVERAGED}
    found[method] |= _pixels(of_images)
  return found


def _pixels(maps):
  """Returns the AUROC over all pixels of all images with a mask, in percent."""
  known = [each for each in maps if each[2] is not None]
  masks = np.array([mask for _, _, mask in known])
  if not masks.any() or masks.all():
    return {'pixel_auroc': None, 'random_pixel_auroc': None}
  return {name: pixel_metrics.pixel_auroc(
      np.stack([each[i] for each in known]), masks)
          for i, name in enumerate(('pixel_auroc', 'random_pixel_auroc'))}


def _median(values):
  found = [float(value) for value in values if value]
  return float(np.median(found)) if found else None


def show(found: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the summary as a table."""
  table = [('method', 'completeness', 'deletion', 'random', 'insertion',
            'random', 'pixel AUROC', 'random', 'similarity')]
  table += [(method, *(_shown(each[name], form) for name, form in (
      ('completeness_error', '.2%'), ('deletion', '.3f'),
      ('random_deletion', '.3f'), ('insertion', '.3f'),
      ('random_insertion', '.3f'), ('pixel_auroc', '.2f'),
      ('random_pixel_auroc', '.2f'), ('similarity', '.2f'))))
            for method, each in found.items()]
  return rendering.aligned(table, left=1)


def _shown(value, form):
  return '' if value is None else format(value, form)


def warnings(table: Sequence[Mapping[str, str]], tolerance: float
             ) -> Iterator[str]:
  """Yields what the reader of the pictures has to know."""
  left = [float(row['completeness_error']) for row in table
          if row['completeness_error']]
  worse = [each for each in left if each > tolerance]
  if worse:
    yield (f'integrated gradients of {len(worse)} of {len(left)} images miss '
           f'the rise of the score by more than {tolerance:.2%}, by up to '
           f'{max(worse):.2%}; --steps takes more, --baseline another rise')
  below = {row['image'] for row in table if not row['deletion']}
  if below:
    yield (f'{len(below)} images score no higher than their baseline: deletion '
           'and insertion are empty; another --baseline may be more normal')
