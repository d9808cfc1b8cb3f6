"""Why augmenting the distribution helps: a picture of where features lie.

Contrastive learning spreads the training images evenly over the sphere, which
leaves no place for anomalies; when turned copies take part, as other images,
the normal ones stay together (Sohn et al., 2021, section 3.2).
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import spatial
from sklearn import preprocessing

from deep_oc.page import charts, curves, runs
from deep_oc.page.markup import Element, number, table, tag

METHODS = {'simclr': 'without', 'dacl': 'with'}
_ROWS = 400  # of a kind; all pairs of them
_PAIRS = 3  # that are shown
_SAME = ('dataset', 'normal_class', 'protocol', 'seed')


class View(NamedTuple):
  """Unit features seen along the mean of the training images.

  Attributes:
    train, normal, anomalous: f[n, 2]; the cosine to the mean direction, and
      the part along where what is left varies most.
    uniformity: log mean exp(-2 d²) over pairs of training images (Wang &
      Isola, 2020).
    together, apart: cosines f[k] of pairs of training images, and of a
      training image and an anomaly.
  """
  train: np.ndarray
  normal: np.ndarray
  anomalous: np.ndarray
  uniformity: float
  together: np.ndarray
  apart: np.ndarray


def view(scored: runs.ScoredRun, feature: str) -> View:
  """Returns a run's features as the picture shows them."""
  random = np.random.default_rng(0)
  test, anomaly = scored.test[feature], scored.anomaly
  train, normal, anomalous = (_sample(rows, random) for rows in (
      scored.train[feature], test[~anomaly], test[anomaly]))
  mean = preprocessing.normalize(train.mean(axis=0, keepdims=True))[0]
  everything = np.concatenate([train, normal, anomalous])
  rest = everything - np.outer(everything @ mean, mean)
  across = np.linalg.svd(rest, full_matrices=False)[2][0]
  flat = everything @ np.stack([mean, across], axis=1)
  parts = np.split(flat, np.cumsum([len(train), len(normal)]))
  distance = spatial.distance.pdist(train)
  return View(
      *parts, float(np.log(np.exp(-2 * distance ** 2).mean())),
      1 - distance ** 2 / 2, (train @ anomalous.T).ravel())


def _sample(rows, random):
  kept = random.permutation(len(rows))[:_ROWS]
  return preprocessing.normalize(rows[kept].astype(np.float64))


def pairs(found: Sequence[runs.Run]) -> list[dict[str, runs.Run]]:
  """Returns {'without': run, 'with': run} of each class and seed.

  Those with both come first, and one-vs-rest.
  """
  groups = {}
  for run in found:
    kind = METHODS.get(run.about['pretext'].removesuffix('_patch'))
    if kind:
      same = tuple(run.about[key] for key in _SAME)
      groups.setdefault(same, {}).setdefault(kind, run)
  return sorted(groups.values(), key=lambda pair: (
      -len(pair), next(iter(pair.values())).about['protocol'] != 'one_vs_rest'))


def section(found: Sequence[runs.Run]) -> Element | None:
  """Returns the section, of at most _PAIRS pairs of runs, or None without any.

  Raises:
    InputError: the embeddings of one are unfit.
  """
  known = pairs(found)
  shown = [pair for pair in known if len(pair) == 2][:_PAIRS] or known[:1]
  if not shown:
    return None
  parts = [tag(
      'p', 'Contrastive learning spreads images evenly over a sphere. Where '
      'the normal ones lie everywhere, no place is left for anomalies. With '
      'distribution augmentation (DA) turned copies count as other images and '
      'take up room, so that the normal images stay closer together.')]
  if len(shown[0]) < 2:
    missing = 'dacl, with' if 'without' in shown[0] else 'simclr, without'
    parts.append(tag(
        'p', f'Only one side is here: a run of {missing} DA, on the same data '
        'and class, is missing.', class_='warning'))
  left_out = len(known) - len(shown)
  if left_out:
    parts.append(tag('p', f'{left_out} more classes, seeds or protocols are '
                     'left out.', class_='quiet'))
  for i, pair in enumerate(shown):
    parts += _pair(f'da{i}', pair)
  return tag('section', parts, id='uniformity')


def _pair(key, pair):
  scored = {kind: runs.read(pair[kind]) for kind in ('without', 'with')
            if kind in pair}
  first = next(iter(pair.values()))
  about = first.about
  name = about['normal_name'] or about['normal_class']
  found = [tag('h3', ', '.join(filter(None, (
      about['dataset'], name, about['protocol']))))]
  for feature in dict.fromkeys(('head', first.embedded)):
    if all(feature in each.test for each in scored.values()):
      found += _feature(f'{key}-{feature}', feature, {
          kind: view(each, feature) for kind, each in scored.items()}, pair)
  return found


def _feature(key, feature, views: Mapping[str, View], pair):
  where = ('the outputs of the projection head, to which the loss applies'
           if feature == 'head' else 'the features that are evaluated')
  flat = np.concatenate([each for seen in views.values() for each in seen[:3]])
  x = charts.axis('cosine to the mean training image', flat[:, 0])
  reach = max(np.ptp(x.ticks) / 2, np.abs(flat[:, 1]).max())
  y = charts.axis('along the direction that varies most', [-reach, reach])
  plots = [_scatter(f'{key}-{kind}', feature, kind, seen, x, y)
           for kind, seen in views.items()]
  plots += _cosines(key, feature, views)
  return [tag('h4', f'{feature}: {where}'), _numbers(key, feature, views, pair),
          tag('div', plots, class_='plots pair' if len(views) > 1 else 'plots')]


def _numbers(key, feature, views, pair):
  rows = [[f'{kind} DA: {pair[kind].about["experiment"]}',
           *(f'{value:.4f}' for value in (
               seen.uniformity, seen.together.mean(), seen.apart.mean())),
           number(pair[kind].row(feature).get('auroc'))]
          for kind, seen in views.items()]
  return table(
      f'{key}-table', 'Uniformity is 0 if all images lie in one point and '
      'about -4 if they are spread evenly over a sphere of many dimensions',
      (feature, 'Uniformity', 'Mean cosine of two training images',
       'of a training image and an anomaly', 'AUROC'), rows)


def _scatter(key, feature, kind, seen, x, y):
  frame = charts.Frame(x, y, 360, 340)
  plot = frame.draw(
      key, f'{feature} {kind} DA, two dimensions of the unit sphere',
      f'cosine to the mean training image: training images '
      f'{seen.train[:, 0].mean():.2f} on average, normal test images '
      f'{seen.normal[:, 0].mean():.2f}, anomalies '
      f'{seen.anomalous[:, 0].mean():.2f}', charts.circle(frame),
      charts.crosses(frame, *seen.anomalous.T, 'anomalous'),
      charts.dots(frame, *seen.train.T, 'fitted'),
      charts.dots(frame, *seen.normal.T, 'normal'))
  return tag('figure', plot, tag(
      'figcaption', tag('strong', f'{kind} DA. '), 'Grey dots: '
      f'{len(seen.train)} training images; blue dots: {len(seen.normal)} '
      f'normal test images; orange crosses: {len(seen.anomalous)} anomalies. '
      'Thin line: the unit circle' + (
          '.' if np.ptp(x.ticks) == np.ptp(y.ticks) else
          '; the axes differ in their scales.')))


def _cosines(key, feature, views):
  """Returns histograms that share their axes."""
  kinds = {kind: (seen.together, seen.apart) for kind, seen in views.items()}
  everything = np.concatenate([each for two in kinds.values() for each in two])
  x = charts.axis('cosine of a pair', np.quantile(everything, [0.005, 1]))
  highest = max(curves.shares(each, x).max()
                for two in kinds.values() for each in two)
  return [curves.two_kinds(
      f'{key}-{kind}-cosines', f'Cosines of pairs, {feature} {kind} DA', x, two,
      ('Two training images', 'A training image and an anomaly'),
      'Where the two overlap, distance does not tell anomalies.', highest)
          for kind, two in kinds.items()]
