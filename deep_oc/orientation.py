"""The eight orientations of an image, and features of several of them.

An image may be mirrored and then turned by quarter turns. Tasks that augment by
mirroring want features that do not change with it, but learn so only nearly:
the mean over both is nearer; where none is mirrored in training it harms, and
'rot' alone remains. Tasks that tell turns apart know each turn on its
own: their features stand side by side. Sohn et al., ICLR 2021, look at upright
images alone; that turns are an ensemble is CSI's idea (Tack et al., NeurIPS
2020), of scores and with crops.

Such a feature is called by its family, as 'pool_flip_rot'. It needs nothing of
the task but its own pooled features, and no training.
"""
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import crops, heads
from deep_oc.errors import InputError

# What is seen of an image: (mirrored, quarter turns counter-clockwise then).
Members = Sequence[tuple[bool, int]]

UPRIGHT = ((False, 0),)
FAMILIES = {
    'flip': tuple((flip, 0) for flip in (False, True)),
    'rot': tuple((False, k) for k in range(4)),
    'flip_rot': tuple((flip, k) for k in range(4) for flip in (False, True)),
}


def name(family: str) -> str:
  """Returns the name of a family's feature."""
  return f'pool_{family}'


def members(feature: str) -> Members:
  """Returns what a feature sees of an image, by its name."""
  return FAMILIES.get(feature.removeprefix('pool_'), UPRIGHT)


def embedding(feature: str) -> str | Callable:
  """Returns the method of a task that makes the feature, for `task.apply`."""
  return _METHODS.get(feature, 'embed')


def views(image: jax.Array, members: Members) -> jax.Array:
  """Maps f32[n, h, w, c] to its orientations f32[n, m, h, w, c].

  Raises:
    InputError: images to be turned are not square.
  """
  height, width = image.shape[1:3]
  if height != width and any(k % 2 for _, k in members):
    raise InputError('quarter turns need square images, '
                     f'not {height}x{width}')
  return jnp.stack([
      jnp.rot90(jnp.flip(image, 2) if flip else image, k, axes=(1, 2))
      for flip, k in members], axis=1)


def undone(heat: np.ndarray, members: Members) -> np.ndarray:
  """Maps f[n, m, h, w], of what `views` returns, to upright f[n, m, h, w]."""
  upright = [np.rot90(heat[:, i], -k, axes=(1, 2))
             for i, (_, k) in enumerate(members)]
  return np.stack([np.flip(each, 2) if flip else each
                   for each, (flip, _) in zip(upright, members, strict=True)],
                  axis=1)


def features(embed: Callable[[jax.Array], jax.Array], image: jax.Array,
             members: Members) -> jax.Array:
  """Returns the features of an image's orientations as one.

  Each is scaled to length 1; mirrored and not, their mean counts; turns stand
  side by side.

  Args:
    embed: f32[k, h, w, c] -> f32[k, d].
    image: f32[n, h, w, c].
    members: of a family, those of a turn together.

  Returns:
    f32[n, t * d], t the number of turns.
  """
  n, turns = image.shape[0], len({k for _, k in members})
  view = views(image, members)
  feature = heads.unit(embed(view.reshape(-1, *image.shape[1:])))
  columns = feature.shape[-1]
  feature = feature.reshape(n, turns, len(members) // turns, columns)
  return feature.mean(2).reshape(n, turns * columns)


def _embed(task: nn.Module, image: jax.Array, family: str
           ) -> dict[str, jax.Array]:
  """Maps f32[n, h, w, c] to a family's feature, f32[n, t * d], by its name.

  Of an image larger than the task's crop, the mean over its tiles.
  """
  feature = features(lambda view: task.embed(view)['pool'],
                     crops.tiles(image, getattr(task, 'crop', 0)),
                     FAMILIES[family])
  return crops.over_tiles(jnp.mean, {name(family): feature}, image.shape[0])


_METHODS = {name(family): functools.partial(_embed, family=family)
            for family in FAMILIES}  # made once, for what is cached by them
