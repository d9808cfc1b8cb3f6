"""Notices a representation that collapses while there is time to stop."""
from collections.abc import Iterator, Mapping

import numpy as np

from deep_oc.errors import InputError


def statistics(feature: np.ndarray) -> dict[str, float]:
  """Returns the spread of features f32[n, d] of the training images.

  embedding_variance: mean squared distance of the unit rows to their mean, in
    [0, 1]; zero when all images look alike.
  effective_rank: exp of the entropy of the normalised singular values of the
    centred rows (Roy & Vetterli 2007), in [1, min(n, d)].

  Raises:
    InputError: some are not finite.
  """
  if not np.isfinite(feature).all():
    raise InputError('the features of training images are not finite numbers; '
                     'lower optimizer.learning_rate, or look at the weights '
                     'that the run began with')
  feature = feature.astype(np.float64)
  length = np.linalg.norm(feature, axis=1, keepdims=True)
  unit = feature / np.maximum(length, 1e-12)
  centred = unit - unit.mean(0)
  return {'embedding_variance': float((centred ** 2).sum(1).mean()),
          'effective_rank': effective_rank(centred)}


def effective_rank(centred: np.ndarray) -> float:
  """exp(-Σ p log p) with p the singular values over their sum."""
  values = np.linalg.svd(centred, compute_uv=False)
  if values.sum() < 1e-9:
    return 1.0
  p = values / values.sum()
  p = p[p > 0]
  return float(np.exp(-(p * np.log(p)).sum()))


def warnings(metrics: Mapping[str, float], progress: float) -> Iterator[str]:
  """Yields what looks like collapse, a sentence each.

  Args:
    metrics: the latest of the train step and of `statistics`.
    progress: share of the training that is done, in [0, 1]; guessing is
      normal in the first tenth.
  """
  if metrics.get('embedding_variance', 1) < 1e-4:
    yield ('all training images have nearly the same feature (variance '
           f'{metrics["embedding_variance"]:.1e}): collapsed')
  elif metrics.get('effective_rank', 99) < 1.5:
    yield ('the features span hardly more than one direction (effective rank '
           f'{metrics["effective_rank"]:.2f}): collapsed')
  accuracy, chance = metrics.get('accuracy'), metrics.get('chance')
  if None not in (accuracy, chance) and progress >= 0.1 and (
      accuracy < chance + min(0.5 * chance, 0.1 * (1 - chance))):
    yield (f'the pretext task is no better than guessing (accuracy '
           f'{accuracy:.3f}, chance {chance:.3f}): more steps, another '
           'seed or a lower learning rate may learn')
