"""The update rule and its learning rate."""
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from deep_oc import errors
from deep_oc.errors import InputError


SCHEDULES = ('cosine', 'constant', 'step', 'exponential')


def create(*, total_steps: int, steps_per_epoch: int, name: str = 'sgd',
           learning_rate: float = 0.01, momentum: float = 0.9,
           weight_decay: float = 3e-4, schedule: str = 'cosine',
           per: str = 'epoch', warmup_epochs: float = 0.0,
           milestones: Sequence[float] = (), factor: float = 0.1,
           head_steps: int = 0, head_learning_rate: float = 0.03
           ) -> optax.GradientTransformation:
  """Returns the optimizer of a config's group `optimizer`.

  SGD is Keras' as the official code uses it: v ← m·v - lr·(g + wd·w),
  w ← w + v. The L2 term is coupled (it passes through the momentum) and covers
  all parameters, BatchNorm's and biases included.

  Args:
    total_steps: of the whole run.
    steps_per_epoch: batches in one pass over the training set.
    name: 'sgd', 'nesterov', 'adam' (decoupled decay: AdamW) or 'adam_l2' (the
      L2 term coupled, as in PyTorch's Adam).
    learning_rate: the peak.
    momentum: m, of SGD.
    weight_decay: wd.
    schedule: 'cosine' (to zero), 'constant', 'step' (multiplied by `factor`
      at each of the milestones) or 'exponential' (to `factor` of the peak).
    per: 'epoch' holds the rate through an epoch, as the official code does;
      'step' does not.
    warmup_epochs: of linear growth from zero.
    milestones: epochs, of the schedule 'step'.
    factor: between 0 and 1, of the schedules 'step' and 'exponential'.
    head_steps: so many at first in which the encoder's parameters stay as they
      begin, and only what stands on it learns; the schedule is of those that
      follow, and SGD's velocity begins anew with them. BatchNorm's statistics
      move unless the encoder freezes them.
    head_learning_rate: in these, constant.

  Raises:
    InputError: an unknown name, schedule or `per`, a number that cannot be,
      steps without milestones, a factor that does not lower the rate, or no
      step that follows.
  """
  if not isinstance(milestones, (tuple, list)):
    raise InputError(f'optimizer.milestones={milestones!r} must be epochs, as '
                     '(100, 150)')
  for key, value in (('learning_rate', learning_rate),
                     ('weight_decay', weight_decay),
                     ('warmup_epochs', warmup_epochs),
                     *(('milestones', each) for each in milestones)):
    errors.check_number(f'optimizer.{key}', value)
  errors.check_number('optimizer.momentum', momentum, below=1)
  make = functools.partial(
      _update, name, momentum=momentum, weight_decay=weight_decay)
  if not head_steps:
    return make(learning_rate_schedule(
        learning_rate, schedule, per, total_steps, steps_per_epoch,
        round(warmup_epochs * steps_per_epoch), milestones, factor))
  if type(head_steps) is not int or not 0 < head_steps < total_steps:
    raise InputError(f'optimizer.head_steps={head_steps!r} must be from 0 to '
                     f'less than the {total_steps} steps of the run')
  if (isinstance(head_learning_rate, bool)
      or not isinstance(head_learning_rate, numbers.Real)
      or not 0 < head_learning_rate < math.inf):
    raise InputError(f'optimizer.head_learning_rate={head_learning_rate!r} '
                     'must be a number above 0')
  rate = learning_rate_schedule(
      learning_rate, schedule, per, total_steps - head_steps, steps_per_epoch,
      round(warmup_epochs * steps_per_epoch), milestones, factor)
  return _head_first(make(head_learning_rate), make(rate), head_steps)


def _update(name: str, rate: optax.ScalarOrSchedule, *, momentum: float,
            weight_decay: float) -> optax.GradientTransformation:
  """Returns the optimizer of a name, with this learning rate."""
  if name == 'adam':
    return optax.adamw(rate, weight_decay=weight_decay)
  if name == 'adam_l2':
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(rate))
  if name not in ('sgd', 'nesterov'):
    raise errors.unknown(
        'optimizer', name, ('sgd', 'nesterov', 'adam', 'adam_l2'))
  return optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.scale_by_learning_rate(rate),  # inside the velocity, as in Keras
      optax.trace(momentum, nesterov=name == 'nesterov'))


def _head_first(head: optax.GradientTransformation,
                whole: optax.GradientTransformation, steps: int
                ) -> optax.GradientTransformation:
  """Returns one that is `head` for some steps, of all but the encoder.

  And then is `whole`, as if it were at its first step.
  """
  def init(params):
    return jnp.zeros((), jnp.int32), head.init(_heads(params)), whole.init(
        params)

  def first(gradients, state, params):
    count, state, other = state
    updates, state = head.update(_heads(gradients), state, _heads(params))
    still = jax.tree.map(jnp.zeros_like, gradients)
    return still | updates, (count + 1, state, other)

  def later(gradients, state, params):
    count, other, state = state
    updates, state = whole.update(gradients, state, params)
    return updates, (count + 1, other, state)

  def update(gradients, state, params=None):
    return jax.lax.cond(state[0] < steps, first, later, gradients, state,
                        params)

  return optax.GradientTransformation(init, update)


def _heads(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a task's parameters but for those of its encoder."""
  return {name: part for name, part in tree.items() if name != 'encoder'}


def learning_rate_schedule(
    peak: float, name: str, per: str, total_steps: int, steps_per_epoch: int,
    warmup_steps: int, milestones: Sequence[float] = (), factor: float = 0.1
    ) -> Callable:
  """Returns step -> learning rate."""
  if per not in ('epoch', 'step'):
    raise errors.unknown('optimizer.per', per, ('epoch', 'step'))
  if name not in SCHEDULES:
    raise errors.unknown('schedule', name, SCHEDULES)
  if name == 'step' and not milestones:
    raise InputError("optimizer.schedule='step' needs optimizer.milestones, "
                     'the epochs from which on the rate is lower')
  if not (isinstance(factor, numbers.Real) and 0 < factor < 1):
    raise InputError(f'optimizer.factor={factor} must be between 0 and 1')
  drops = [round(epoch * steps_per_epoch) for epoch in milestones]
  grain = steps_per_epoch if per == 'epoch' else 1

  def rate(step):
    warm = jnp.minimum((step + 1) / max(warmup_steps, 1), 1)
    if name == 'constant':
      return peak * warm
    start = step // grain * grain
    if name == 'step':
      return peak * warm * factor ** sum(start >= drop for drop in drops)
    if name == 'exponential':
      return peak * warm * factor ** (start / total_steps)
    done = jnp.maximum(start - warmup_steps, 0) / max(
        total_steps - warmup_steps, 1)
    return peak * warm * 0.5 * (1 + jnp.cos(math.pi * done))

  return rate
