"""Which training images do not look like the others: a list to look through.

  python -m deep_oc.suspicious --workdir=runs/rotation_cifar10/1/seed0

For who cannot be sure that all training images are normal. A classifier is
fitted to the features of four fifths of the images and scores the last fifth,
in turn, so that no image vouches for itself; under the protocol
'semi_supervised' it is fitted to the clean images and scores the others. Only
the encoder has seen them all.

`suspicious.csv` in the run's folder lists them, the most suspicious first:
rank, index (the row of the data set's training split), path, score (higher =
more anomalous) and, where the protocol put some in, contaminant: 1 or 0. Then
it is also said how many of the k contaminants are among the first k, and the
average precision, beside what a random order has.

JAX is not needed.
"""
import dataclasses
import pathlib

import numpy as np
from absl import flags

from deep_oc import (cli, embeddings, errors, files, metrics, oneclass,
                     provenance, rendering, tables, thresholds)
from deep_oc.errors import InputError

_COLUMNS = ('rank', 'index', 'path', 'score', 'contaminant')
_SHOWN = 10


def define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_string(
      'classifier', None, 'One of those that evaluate --classifiers takes. By '
      'default kde, of CutPaste and of fewer images than dimensions '
      'gde_ledoit_wolf.')
  flags.DEFINE_string('feature', 'pool', 'Name of an array in the embeddings.')
  flags.DEFINE_integer('folds', 5, 'Parts, each scored by the others.', 2)
  flags.DEFINE_integer('seed', 0, 'Of the folds, and of the order of ties.', 0,
                       2**32 - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
  """Training images, the most suspicious first.

  Attributes:
    classifier: that scored them.
    score: f[n], descending.
    index: i64[n], rows of the data set's training split.
    path: str[n], None if there are no files.
    contaminant: bool[n], the truth, None if it is not known.
  """
  classifier: str
  score: np.ndarray
  index: np.ndarray
  path: np.ndarray | None
  contaminant: np.ndarray | None

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


def scores(train: np.ndarray, classifier: str, seed: int = 0, folds: int = 5
           ) -> np.ndarray:
  """Maps f[n, d] to f[n]: each row's score by a classifier fitted without it.

  Raises:
    InputError: fewer rows than folds, or too few to fit to.
  """
  found = np.empty(len(train))
  for kept, held_out in thresholds.split(len(train), folds, seed):
    fitted = oneclass.fit(classifier, train[kept], seed)
    found[held_out] = oneclass.anomaly_score(fitted, train[held_out])
  return found


def rank(workdir: pathlib.Path, classifier: str | None = None,
         feature: str = 'pool', seed: int = 0, folds: int = 5) -> Ranking:
  """Ranks what a run's encoder was trained on, but not what is known clean.

  Args:
    workdir: a trained run's folder.
    classifier: a spec as `oneclass` takes, None for the recommended one.
    feature: name of an array in the embeddings.
    seed: of the folds, and of the order of ties.
    folds: parts, each scored by the others.

  Raises:
    InputError: the embeddings are unfit.
  """
  clean, arrays, task = _read(workdir, feature)
  fitted = arrays[feature] if clean is None else clean
  classifier = classifier or oneclass.recommended(task, *fitted.shape)
  if clean is None:
    score = scores(arrays[feature], classifier, seed, folds)
  else:
    score = oneclass.anomaly_score(
        oneclass.fit(classifier, clean, seed), arrays[feature])
  # Ties in random order: that of the rows may tell the classes.
  order = np.random.default_rng([seed, 4]).permutation(len(score))
  order = order[np.argsort(-score[order], kind='stable')]
  index = arrays.get('index', np.arange(len(score)))
  path, contaminant = (
      arrays[name][order] if name in arrays else None
      for name in ('path', 'contaminant'))
  return Ranking(classifier, score[order], index[order], path, contaminant)


def _read(workdir, feature):
  """Returns clean f[m, d] or None, the arrays to be ranked, and the task."""
  folder = workdir / 'embeddings'
  train, meta = embeddings.read(folder / 'train.npz')
  _check(train, feature, folder / 'train.npz')
  task = embeddings.task(meta)
  if not files.exists(folder / 'unlabelled.npz'):
    return None, train, task
  unlabelled, other = embeddings.read(folder / 'unlabelled.npz')
  _check(unlabelled, feature, folder / 'unlabelled.npz')
  if any(meta.get(key) != other.get(key) for key in ('config_hash', 'step')):
    raise InputError(f'train.npz and unlabelled.npz in {folder} are not of one '
                     'step of one run; embed again')
  return train[feature], unlabelled, task


def _check(arrays, feature, path):
  known = embeddings.features(arrays)
  if feature not in known:
    raise errors.unknown(f'feature in {path}', feature, known)


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
                 chosen.folds)
  tables.write(workdir / 'suspicious.csv', _COLUMNS, ranking.rows())
  print(f"{ranking.classifier} on '{chosen.feature}', fitted to the others; "
        f'the first of {len(ranking.score)} images\n\n{show(ranking)}\n\n'
        f'wrote {workdir}/suspicious.csv')


if __name__ == '__main__':
  cli.run(main, define_flags)
