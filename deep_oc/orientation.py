"""What stage 2 sees of an image: orientations of it, stages of the encoder.

An image may be mirrored and then turned by quarter turns. Tasks that augment by
mirroring want features that do not change with it, but learn so only nearly:
the mean over both is nearer; where none is mirrored in training it harms, and
'rot' alone remains. Tasks that tell turns apart know each turn on its
own: their features stand side by side. Sohn et al., ICLR 2021, look at upright
images alone; that turns are an ensemble is CSI's idea (Tack et al., NeurIPS
2020), of scores and with crops.

An encoder's last stage is the best fitted to the task, and to the training
images; the one before it sees more of what there is. Pooled features of several
levels are usual where the encoder was trained on other images (Rippel et al.,
ICPR 2020, https://arxiv.org/abs/2005.14140). Here they stand side by side.

Such a feature is called by its family and the number of its stages, if that is
not one: 'pool_flip_rot', 'stages2_flip_rot', 'stages2'. It needs nothing of the
task but its own pooled features, and no training.
"""
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import crops, heads, pretexts
from deep_oc.errors import InputError

# What is seen of an image: (mirrored, quarter turns counter-clockwise then).
Members = Sequence[tuple[bool, int]]

FAMILIES = {
    'none': ((False, 0),),
    'flip': tuple((flip, 0) for flip in (False, True)),
    'rot': tuple((False, k) for k in range(4)),
    'flip_rot': tuple((flip, k) for k in range(4) for flip in (False, True)),
}


def name(family: str, stages: int = 1) -> str:
  """Returns the name of a feature; 'pool' is that of the task itself."""
  level = 'pool' if stages == 1 else f'stages{stages}'
  return level if family == 'none' else f'{level}_{family}'


def _parts(feature: str) -> tuple[Members, int] | None:
  """Returns members and number of stages; None if it is the task's own."""
  found = re.fullmatch(r'(?:pool|stages(\d+))(?:_(\w+))?', feature)
  if not found or feature == 'pool':
    return None
  stages, family = found[1] or 1, found[2] or 'none'
  return (FAMILIES[family], int(stages)) if family in FAMILIES else None


def members(feature: str) -> Members:
  """Returns what a feature sees of an image, by its name."""
  parts = _parts(feature)
  return parts[0] if parts else FAMILIES['none']


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


def together(pooled: jax.Array, members: Members) -> jax.Array:
  """Returns the features of an image's orientations as one.

  Each is scaled to length 1; mirrored and not, their mean counts; turns stand
  side by side.

  Args:
    pooled: f32[n, m, d].
    members: m, of a family; those of a turn together.

  Returns:
    f32[n, t * d], t the number of turns.
  """
  n, m, d = pooled.shape
  turns = len({k for _, k in members})
  return heads.unit(pooled).reshape(n, turns, m // turns, d).mean(2).reshape(
      n, turns * d)


def look(task: nn.Module, variables: Mapping[str, Any], image: jax.Array,
         feature: str = 'pool') -> tuple[dict[str, jax.Array], Mapping]:
  """Maps f32[n, h, w, c] to features f32[n, d] by name.

  Those are all that the task has, or the one of several orientations or stages
  that is asked for. Of an image larger than the task's crop, it is the mean
  over its tiles.

  Returns:
    The features, and what the encoder sowed of each tile and orientation, as
    `pretexts.look`.
  """
  parts = _parts(feature)
  if not parts:
    return pretexts.look(task, variables, image)
  seen, stages = parts
  tiles = crops.tiles(image, getattr(task, 'crop', 0))
  view = views(tiles, seen)
  found, sown = pretexts.look(
      task.clone(crop=0) if hasattr(task, 'crop') else task, variables,
      view.reshape(-1, *view.shape[2:]))
  levels = sown['stage'][-stages:] if stages > 1 else (found['pool'],)
  per_tile = (tiles.shape[0], len(seen), -1)
  value = jnp.concatenate(
      [together(level.reshape(per_tile), seen) for level in levels], axis=1)
  return crops.over_tiles(jnp.mean, {feature: value}, image.shape[0]), sown
