"""A run's anomaly score as a function of images, to be differentiated.

Encoder, head and classifier in one: `one_class` with the jitted twin of a
fitted one-class classifier, frozen as the encoder is, `task` with the pretext
task's own classifier. BatchNorm is in inference mode.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from deep_oc import errors, jitted, oneclass, orientation, pretexts
from deep_oc.errors import InputError


class Look(NamedTuple):
  """What the encoder makes of the m images that it gets to see.

  There are as many as images, but for tiles and orientations.

  Attributes:
    pooled: f32[m, d].
    earlier: pooled features of its stages but the last, f32[m, d'] each.
    map: the last one, [m, gh, gw, d].
  """
  pooled: jax.Array
  earlier: tuple[jax.Array, ...]
  map: jax.Array


class Score(flax.struct.PyTreeNode):
  """Maps f32[n, h, w, 3] in [0, 1] to f[n], higher = more anomalous.

  A pytree: what is jitted takes it as an argument. So the weights are constants
  of no program, and a trained network and an untrained one share theirs. Under
  `jax.enable_x64(True)` all that follows the network is in float64.

  Attributes:
    variables: of the network.
    arrays: what each classifier has learnt; () for the task's own score.
    pretext: the task.
    name: of the feature, or of the task's score.
    functions: of the classifiers' twins; the score is the mean of theirs.
  """
  variables: Mapping[str, Any]
  arrays: tuple[jitted.Arrays, ...]
  pretext: nn.Module = flax.struct.field(pytree_node=False)
  name: str = flax.struct.field(pytree_node=False)
  functions: tuple[Callable, ...] = flax.struct.field(pytree_node=False)

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps f32[n, h, w, 3] to f[n]."""
    return self._judge(self._look(image)[0][self.name])

  def look(self, image: jax.Array) -> Look:
    """Maps f32[n, h, w, 3] to what the encoder makes of it."""
    sown = self._look(image)[1]
    return Look(sown['__call__'][0], sown.get('stage', ())[:-1], sown['map'][0])

  def of_pooled(self, pooled: jax.Array, earlier: Sequence[jax.Array],
                image: jax.Array) -> jax.Array:
    """Maps what `look` returned to f[n]; of the images, only the shape."""
    def instead(call, args, kwargs, context):
      encoder = context.module
      if encoder.path != pretexts.ENCODER or context.method_name != '__call__':
        return call(*args, **kwargs)
      for each in (*earlier, pooled):
        encoder.sow('intermediates', 'stage', each)
      return pooled
    with nn.intercept_methods(instead):
      return self(jnp.zeros_like(image))

  @property
  def orientations(self) -> orientation.Members:
    """How the encoder sees each image."""
    if self.functions:
      return orientation.members(self.name)
    return orientation.of_scores(self.pretext)

  def _look(self, image):
    if self.functions:
      return orientation.look(self.pretext, self.variables, image, self.name)
    return pretexts.look(
        self.pretext, self.variables, image, method='scores', log=True)

  def _judge(self, found):
    if not self.functions:
      return found
    return -sum(function(arrays, found) for function, arrays in zip(
        self.functions, self.arrays, strict=True)) / len(self.functions)


def one_class(pretext: nn.Module, variables: Mapping[str, Any], feature: str,
              classifiers: Sequence[Any]) -> Score:
  """Returns the score by fitted classifiers of a feature, the mean of theirs.

  Args:
    pretext, variables: the network.
    feature: what they were fitted to, as 'pool' and 'head'.
    classifiers: of one kind.

  Raises:
    InputError: they have no twin, so no gradient either.
  """
  twins = [jitted.twin(each) for each in classifiers]
  if None in twins:
    raise InputError(
        f'the score of {type(classifiers[0]).__name__} has no gradient that is '
        'known here, so no explanation; choose one of '
        + ', '.join(oneclass.with_twins()))
  with jax.enable_x64(True):  # or the arrays would be rounded to float32
    arrays = tuple(jax.device_put(dict(each.arrays)) for each in twins)
  return Score(variables, arrays, pretext, feature,
               tuple(each.function for each in twins))


def task(pretext: nn.Module, variables: Mapping[str, Any], name: str) -> Score:
  """Returns the task's own score, with `log`; see `deep_oc.scores`.

  Raises:
    InputError: the task has no such score.
  """
  if not hasattr(pretext, 'scores'):
    raise InputError('the pretext task has no score of its own, so not '
                     f"'{name}' either")
  known = task_scores(pretext)
  if name not in known:
    raise errors.unknown("score of the pretext task's own", name, known)
  return Score(variables, (), pretext, name, ())


def task_scores(pretext: nn.Module) -> tuple[str, ...]:
  """Returns the names of the task's own scores, () if it has none."""
  return pretexts.names(pretext, 'scores')
