"""Which training images do not look like the others: a list to look through.

  python -m deep_oc.suspicious --workdir=runs/rotation_cifar10/1/seed0

For who cannot be sure that all training images are normal. A classifier is
fitted to the features of four fifths of the images and scores the last fifth,
in turn, so that no image vouches for itself; under the protocol
'semi_supervised' it is fitted to the clean images and scores the others. Only
the encoder has seen them all. With --feature=windows, the default where nothing
was trained, as of ImageNet's features, the score is the largest value of the
heat map, whose densities are fitted in the same way: five passes over the
images instead of none.

`suspicious.csv` in the run's folder lists them, the most suspicious first:
rank, index (the row of the data set's training split), path, score (higher =
more anomalous) and, where the protocol put some in, contaminant: 1 or 0. Then
it is also said how many of the k contaminants are among the first k, and the
average precision, beside what a random order has. `suspicious.png` shows the
first --pictures of them, and the heat maps where these are what scored them, if
the data set is still there.

JAX is needed for heat maps alone.
"""
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from deep_oc import (cli, embeddings, errors, experiment, files, heat_colours,
                     metrics, oneclass, pictures, provenance, rendering, runs,
                     scored, tables, thresholds)
from deep_oc.errors import InputError
from deep_oc.scored import WINDOWS

_COLUMNS = ('rank', 'index', 'path', 'score', 'contaminant')
_SHOWN = 10


def define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_string(
      'classifier', None, 'One of those that evaluate --classifiers takes. By '
      'default kde, of CutPaste and of fewer images than dimensions '
      'gde_ledoit_wolf.')
  flags.DEFINE_string(
      'feature', None, 'Name of an array in the embeddings, or windows, the '
      'largest value of the heat map; by default pool, but windows of an '
      "encoder that nothing was trained in, as ImageNet's.")
  flags.DEFINE_integer('folds', 5, 'Parts, each scored by the others.', 2)
  flags.DEFINE_integer('seed', 0, 'Of the folds, and of the order of ties.', 0,
                       2**32 - 1)
  flags.DEFINE_integer(
      'pictures', 24, 'How many of the first are drawn; 0 draws none.', 0)
  flags.DEFINE_string(
      'data_dir', None, 'Where the training images lie now, if they moved; '
      'only heat maps and pictures need them.')


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
  """Training images, the most suspicious first.

  Attributes:
    feature, classifier: that scored them.
    score: f[n], descending.
    index: i64[n], rows of the data set's training split.
    path: str[n], None if there are no files.
    contaminant: bool[n], the truth, None if it is not known.
    maps: f32[n, h, w], the heat maps that scored them, None of a classifier.
  """
  feature: str
  classifier: str
  score: np.ndarray
  index: np.ndarray
  path: np.ndarray | None
  contaminant: np.ndarray | None
  maps: np.ndarray | None = None

  def rows(self) -> list[dict[str, str]]:
    """Returns the rows of suspicious.csv."""
    return [{'rank': str(i + 1), 'index': str(self.index[i]),
             'path': '' if self.path is None
             else provenance.written(str(self.path[i])),
             'score': f'{self.score[i]:.9g}',
             'contaminant': '' if self.contaminant is None
             else str(int(self.contaminant[i]))}
            for i in range(len(self.score))]

  def found(self) -> int:
    """Returns how many of the k contaminants are among the first k."""
    return int(self.contaminant[:self.contaminant.sum()].sum())


class _Judge(NamedTuple):
  """What scores rows, and which there are.

  Attributes:
    classifier: its name.
    score: maps rows to fit to and others to the scores of these, f[m], or to
      their heat maps f[m, h, w].
    fitted: rows of what is taken for normal.
    others: rows that are not fitted to, if there are any.
  """
  classifier: str
  score: Callable[[np.ndarray, np.ndarray], np.ndarray]
  fitted: np.ndarray
  others: np.ndarray | None


def scores(train: np.ndarray,
           score: Callable[[np.ndarray, np.ndarray], np.ndarray],
           seed: int = 0, folds: int = 5) -> np.ndarray:
  """Maps n rows to f[n, ...]: each by a fit to the other folds.

  Args:
    train: features f[n, d] or images u8[n, h, w, c].
    score: maps rows to fit to and m other rows to what these get, f[m, ...].
    seed: of the folds.
    folds: parts, each scored by the others.

  Raises:
    InputError: fewer rows than folds, or too few to fit to.
  """
  found = None
  for kept, held_out in thresholds.split(len(train), folds, seed):
    part = score(train[kept], train[held_out])
    if found is None:
      found = np.empty((len(train), *part.shape[1:]), part.dtype)
    found[held_out] = part
  return found


def by_classifier(name: str, seed: int
                  ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """Returns what maps features to fit to and others to scores of these."""
  return lambda fitted, others: oneclass.anomaly_score(
      oneclass.fit(name, fitted, seed), others)


def rank(workdir: pathlib.Path, classifier: str | None = None,
         feature: str | None = None, seed: int = 0, folds: int = 5,
         data_dir: str | None = None) -> Ranking:
  """Ranks what a run's encoder was trained on, but not what is known clean.

  Args:
    workdir: a trained run's folder.
    classifier: a spec as `oneclass` takes, None for the recommended one.
    feature: name of an array in the embeddings, or 'windows', the largest
      value of the heat map; None for what `deep_oc.scored` recommends.
    seed: of the folds, and of the order of ties.
    folds: parts, each scored by the others.
    data_dir: where the images lie now, if they moved; only for heat maps.

  Raises:
    InputError: the embeddings are unfit, or their images are not there.
  """
  train, unlabelled, meta = _read(workdir)
  arrays = train if unlabelled is None else unlabelled
  feature = feature or scored.recommended(
      embeddings.task(meta), _localizes(workdir), classifier)
  judge = (_by_windows(workdir, classifier, train, meta, data_dir)
           if feature == WINDOWS else
           _by_features(workdir, classifier, feature, seed, train, unlabelled,
                        embeddings.task(meta)))
  score = (scores(judge.fitted, judge.score, seed, folds)
           if unlabelled is None else judge.score(judge.fitted, judge.others))
  maps = None
  if feature == WINDOWS:
    maps, score = score, score.max(axis=(1, 2))
  # Ties in random order: that of the rows may tell the classes.
  order = np.random.default_rng([seed, 4]).permutation(len(score))
  order = order[np.argsort(-score[order], kind='stable')]
  index = arrays.get('index', np.arange(len(score)))
  path, contaminant = (
      arrays[name][order] if name in arrays else None
      for name in ('path', 'contaminant'))
  return Ranking(feature, judge.classifier, score[order], index[order], path,
                 contaminant, None if maps is None else maps[order])


def _read(workdir):
  """Returns the arrays of the training images, and of unlabelled ones or None.

  And the meta.
  """
  folder = workdir / 'embeddings'
  train, meta = embeddings.read(folder / 'train.npz')
  if not files.exists(folder / 'unlabelled.npz'):
    return train, None, meta
  unlabelled, other = embeddings.read(folder / 'unlabelled.npz')
  if any(meta.get(key) != other.get(key) for key in ('config_hash', 'step')):
    raise InputError(f'train.npz and unlabelled.npz in {folder} are not of one '
                     'step of one run; embed again')
  return train, unlabelled, meta


def _localizes(workdir):
  """Returns the method of the run's heat maps, None if it makes none."""
  if not files.exists(workdir / 'config.json'):  # embeddings alone
    return None
  group = runs.localize(
      runs.read_config(workdir), embeddings.maps_meta(workdir))
  return group.get('name', WINDOWS) if group else None


def _by_features(workdir, classifier, feature, seed, train, unlabelled, task):
  for name, arrays in ('train', train), ('unlabelled', unlabelled):
    if arrays is not None and feature not in embeddings.features(arrays):
      windows = [WINDOWS] * (_localizes(workdir) == WINDOWS)
      raise errors.unknown(f'feature in {workdir}/embeddings/{name}.npz',
                           feature, [*embeddings.features(arrays), *windows])
  fitted = train[feature]
  classifier = classifier or oneclass.recommended(task, *fitted.shape)
  return _Judge(classifier, by_classifier(classifier, seed), fitted,
                None if unlabelled is None else unlabelled[feature])


def _by_windows(workdir: pathlib.Path, classifier: str | None,
                train: Mapping[str, np.ndarray], meta: Mapping[str, Any],
                data_dir: str | None) -> _Judge:
  from deep_oc import allocator, embed, trained_run  # and JAX
  allocator.keep_freed_memory()
  method, *_ = trained_run.windows(workdir, classifier)
  _, problem, _, state = embed.restore(workdir, meta['step'], data_dir)
  embeddings.check_same(train.get('pixels'), problem.fitted.image,
                      problem.dataset)
  def score(fitted, others):
    return method.fit_maps(state.variables, fitted, others, 'heat maps')
  return _Judge(method.classifier, score, problem.fitted.image,
                problem.train.image[problem.unlabelled])


def draw(workdir: pathlib.Path, ranking: Ranking, most: int,
         data_dir: str | None = None) -> Image.Image:
  """Draws the most suspicious images, `most` of them.

  Beside each is its heat map, if that scored it; one scale serves all.

  Raises:
    InputError: the images are not there, or others.
  """
  config = experiment.of_run(str(workdir), data_dir)
  problem = experiment.problem_of_run(config)
  train, _ = embeddings.read(workdir / 'embeddings' / 'train.npz', ['pixels'])
  embeddings.check_same(train.get('pixels'), problem.fitted.image,
                        problem.dataset)
  first = slice(min(most, len(ranking.score)))
  place = {index: i for i, index in enumerate(problem.train_index)}
  captions = [_caption(row) for row in ranking.rows()[first]]
  images = problem.train.image[[place[each] for each in ranking.index[first]]]
  limits = None if ranking.maps is None else heat_colours.scale(ranking.maps)
  picture = pictures.gallery(
      [(image,) for image in images] if limits is None else
      [(image, heat_colours.overlay(image, heat, limits))
       for image, heat in zip(images, ranking.maps[first], strict=True)],
      captions, f"{config.experiment}: {ranking.classifier} on "
      f"'{ranking.feature}', fitted to the others",
      f'{len(captions)} of {len(ranking.score)}, most suspicious first')
  return picture if limits is None else pictures.with_legend(
      picture, limits, None)


def _caption(row):
  """Returns what stands below an image, to the left and to the right."""
  known = 'contaminant, ' if row['contaminant'] == '1' else ''
  score = pictures.digits(float(row['score']))
  name = pathlib.PurePath(row['path'] or row['index']).name
  return f"{row['rank']}: {name}", known + score


def show(ranking: Ranking) -> str:
  """Returns the most suspicious images as text, and how good the list is."""
  shown = [name for name in _COLUMNS if name not in ('path', 'contaminant')
           or getattr(ranking, name) is not None]
  table = [shown] + [[row[name] for name in shown]
                     for row in ranking.rows()[:_SHOWN]]
  lines = rendering.aligned(table, left=0)
  return lines if ranking.contaminant is None else (
      f'{lines}\n\n{_quality(ranking)}')


def _quality(ranking):
  n, k = len(ranking.score), int(ranking.contaminant.sum())
  if not 0 < k < n:
    return f'{k} of these {n} images are contaminants'
  return (f'of the {k} most suspicious of {n} images {ranking.found()} are '
          f'contaminants: precision {100 * ranking.found() / k:.1f} %, average '
          'precision '
          f'{metrics.auprc(ranking.score, ranking.contaminant):.1f} %; '
          f'chance {100 * k / n:.1f} %')


def main() -> None:
  chosen = flags.FLAGS
  if not chosen.workdir:
    raise InputError('--workdir is required: the folder of a trained run')
  workdir = files.path(chosen.workdir)
  ranking = rank(workdir, chosen.classifier, chosen.feature, chosen.seed,
                 chosen.folds, chosen.data_dir)
  tables.write(workdir / 'suspicious.csv', _COLUMNS, ranking.rows())
  print(f"{ranking.classifier} on '{ranking.feature}', fitted to the others; "
        f'the first of {len(ranking.score)} images\n\n{show(ranking)}\n')
  drawn, picture = '', workdir / 'suspicious.png'
  if files.exists(picture):
    picture.unlink()  # of another ranking
  if chosen.pictures and files.exists(workdir / 'config.json'):
    try:
      pictures.save(draw(workdir, ranking, chosen.pictures, chosen.data_dir),
                    picture, provenance.command())
      drawn = ' and suspicious.png'
    except InputError as error:
      print(f'warning: no picture of them: {error}', file=sys.stderr)
  print(f'wrote {workdir}/suspicious.csv{drawn}')


if __name__ == '__main__':
  cli.run(main, define_flags)
