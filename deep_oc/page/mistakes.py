"""The test images that a run is surest about, rightly or wrongly."""
import numpy as np
from sklearn import neighbors, preprocessing

from deep_oc.page import runs
from deep_oc.page.markup import Element, brief, data_uri, tag

_MOST = 6  # images of a group
_SIDE = 128


def choose(score: np.ndarray, anomaly: np.ndarray) -> dict[str, np.ndarray]:
  """Returns groups of at most _MOST indices into f[n], the surest first.

  The mistakes, if there are any, are in the first two. No image is in two.
  """
  order = np.argsort(score, kind='stable')
  normal, wrong = order[~anomaly[order]], order[anomaly[order]]
  groups = {
      'Normal images that score highest': normal[::-1][:_MOST],
      'Anomalies that score lowest': wrong[:_MOST],
      'Anomalies that score highest': wrong[_MOST:][::-1][:_MOST],
      'Normal images that score lowest': normal[::-1][_MOST:][::-1][:_MOST]}
  return {title: group for title, group in groups.items() if len(group)}


def gallery(scored: runs.ScoredRun) -> list[Element]:
  """Returns the pictures, or why there are none."""
  if scored.image(0) is None:
    return [tag('p', 'No images are stored with this run’s embeddings.',
                class_='quiet')]
  found = [tag('p', 'Under each picture its score and, in brackets, how many '
               'percent of the other kind score lower: with '
               '0\N{NO-BREAK SPACE}% a normal image is no mistake, with '
               '100\N{NO-BREAK SPACE}% an anomaly is none. Beside those of '
               'the first two kinds the training image whose '
               f'{scored.run.embedded} feature is nearest by cosine.',
               class_='quiet')]
  groups = choose(scored.score, scored.anomaly).items()
  for number, (title, chosen) in enumerate(groups):
    nearest = _nearest(scored, chosen) if number < 2 else {}
    found += [tag('h4', title), tag('ul', [
        _item(scored, i, nearest.get(i)) for i in chosen.tolist()],
        class_='pictures')]
  return found


def _nearest(scored, chosen):
  """Returns {test image: index of the nearest training image}."""
  train, test = (preprocessing.normalize(arrays[scored.run.embedded].astype(
      np.float64)) for arrays in (scored.train, scored.test))
  index = neighbors.NearestNeighbors(n_neighbors=1).fit(train)
  found = index.kneighbors(test[chosen], return_distance=False)[:, 0]
  return dict(zip(chosen.tolist(), found.tolist(), strict=True))


def _item(scored, i, nearest):
  kind = _kind(scored, i)
  truth = 'anomalous' if scored.anomaly[i] else 'normal'
  others = scored.score[scored.anomaly != scored.anomaly[i]]
  below = 100 * (others < scored.score[i]).mean()
  near = None if nearest is None else scored.small(scored.train, nearest)
  about = f'{scored.name(i)}, {truth}' + (f', {kind}' if kind else '')
  return tag(
      'li', _picture(scored.image(i), about, 'whole'),
      None if near is None else _picture(
          near, f'nearest training image to {scored.name(i)}', 'near'),
      tag('div', kind or truth, tag('br'),
          f'{brief(scored.score[i])} ({below:.1f}\N{NO-BREAK SPACE}%)',
          tag('br'),
          tag('span', scored.name(i), class_='quiet')),
      class_=None if near is None else 'beside')


def _kind(scored, i):
  if 'label' not in scored.test:
    return ''
  label = int(scored.test['label'][i])
  return dict(enumerate(scored.class_names)).get(label, f'class {label}')


def _picture(image, about, style):
  small = ' small' * (max(image.shape[:2]) <= 64)
  return tag('img', src=data_uri(image, _SIDE), alt=about,
             class_=style + small)
