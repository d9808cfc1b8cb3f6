"""What stage 2 sees of an image: orientations of it, stages of the encoder.

An image may be cropped, mirrored, moved and then turned by quarter turns. Tasks
that augment by mirroring want features that do not change with it, but learn so
only nearly: the mean over both is nearer; where none is mirrored in training it
harms, and 'rot' alone remains. So it is with crops, of which there are five, as
Krizhevsky et al. (NeurIPS 2012) have them at test time: the corners and the
middle. Tasks that tell turns apart know each turn on its own: their features
stand side by side. Sohn et al., ICLR 2021, look at upright images alone; that
turns and crops are an ensemble is CSI's idea (Tack et al., NeurIPS 2020), of
scores.

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
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import augment, crops, heads, pretexts
from deep_oc.errors import InputError

_SIDE = 7 / 8  # of a crop, as a share of the image's


class Member(NamedTuple):
  """One look at an image.

  Attributes:
    mirrored: left to right.
    turn: quarter turns counter-clockwise, after that.
    crop: before both, where the crop lies, down and right, as shares of the way
      from one edge to the other; None = the whole image.
    shift: how far it is moved before it is turned, down and right, as shares of
      its side; edges reflect.
  """
  mirrored: bool = False
  turn: int = 0
  crop: tuple[float, float] | None = None
  shift: tuple[float, float] = (0., 0.)


Members = Sequence[Member]

_BOTH = (False, True)
_FIVE = ((0., 0.), (0., 1.), (1., 0.), (1., 1.), (0.5, 0.5))
FAMILIES = {
    'none': (Member(),),
    'flip': tuple(Member(mirrored) for mirrored in _BOTH),
    'rot': tuple(Member(turn=turn) for turn in range(4)),
    'flip_rot': tuple(Member(mirrored, turn)
                      for turn in range(4) for mirrored in _BOTH),
    'crop_flip_rot': tuple(
        Member(mirrored, turn, crop)
        for turn in range(4) for mirrored in _BOTH for crop in _FIVE),
}


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


def of_scores(task: nn.Module) -> Members:
  """Returns how a task's own scores see an image."""
  return getattr(task, 'score_views', FAMILIES['none'])


def views(image: jax.Array, members: Members) -> jax.Array:
  """Maps f32[n, h, w, c] to its orientations f32[n, m, h, w, c].

  Raises:
    InputError: images to be turned are not square.
  """
  height, width = image.shape[1:3]
  if height != width and any(each.turn % 2 for each in members):
    raise InputError('quarter turns need square images, '
                     f'not {height}x{width}')
  return jnp.stack([_view(image, *each) for each in members], axis=1)


def _view(image, mirrored, turn, crop, shift):
  if crop:
    size = image.shape[1]  # square, for all families with crops have turns
    top, left = (share * (1 - _SIDE) * size for share in crop)
    image = jax.vmap(augment.stretch, (0, None, None, None))(
        image, top, left, _SIDE * size)
  if mirrored:
    image = jnp.flip(image, 2)
  if any(shift):
    move = [int(share * size) for share, size in
            zip(shift, image.shape[1:3], strict=True)]
    image = jax.vmap(lambda each: augment.translate(
        each, *move, most=[abs(pixels) for pixels in move]))(image)
  return jnp.rot90(image, turn, axes=(1, 2))


def undone(heat: np.ndarray, members: Members) -> np.ndarray:
  """Maps f[n, m, h, w], of what `views` returns, to upright f[n, m, h, w].

  What lies outside a crop is 0, and so is what was moved out of the image; what
  its edges reflect is left out.
  """
  return np.stack([_upright(heat[:, i], *each)
                   for i, each in enumerate(members)], axis=1)


def _upright(heat, mirrored, turn, crop, shift):
  heat = np.rot90(heat, -turn, axes=(1, 2))
  if any(shift):
    heat = _placed(heat, [-share for share in shift], 1)
  if mirrored:
    heat = np.flip(heat, 2)
  if crop:
    heat = _placed(heat, [share * (1 - _SIDE) for share in crop], _SIDE)
  return heat


def _placed(heat, start, side):
  """Puts f[n, h, w] of a part, in shares of the whole, to where that lies."""
  rows, columns = (_spread(size, share, side) for size, share
                   in zip(heat.shape[1:], start, strict=True))
  return np.einsum('ij,njk,lk->nil', rows, heat, columns)


def _spread(size, start, side):
  """Returns weights f64[size, size]: of the part's cells, in each cell of the
  whole; bilinear."""
  cell = np.arange(size)
  source = (cell + 0.5 - start * size) / side - 0.5
  within = np.abs(source - (size - 1) / 2) <= size / 2
  source = np.clip(source, 0, size - 1)
  return within[:, None] * np.maximum(0, 1 - np.abs(source[:, None] - cell))


def together(pooled: jax.Array, members: Members) -> jax.Array:
  """Returns the features of an image's orientations as one.

  Each is scaled to length 1; of crops, mirrored and not, the mean counts; turns
  stand side by side.

  Args:
    pooled: f32[n, m, d].
    members: m, of a family; those of a turn together.

  Returns:
    f32[n, t * d], t the number of turns.
  """
  n, m, d = pooled.shape
  turns = len({each.turn for each in members})
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
  levels = (found['pool'],)
  if stages > 1:
    levels = sown.get('stage', ())[-stages:]
    if len(levels) < stages or any(each.ndim != 2 for each in levels):
      raise InputError(
          f"{stages} stages are asked for; as 'stage' the encoder sowed "
          f'{[str(jax.typeof(each)) for each in levels]}, not f32[n, d] each')
  per_tile = (tiles.shape[0], len(seen), -1)
  value = jnp.concatenate(
      [together(level.reshape(per_tile), seen) for level in levels], axis=1)
  return crops.over_tiles(jnp.mean, {feature: value}, image.shape[0]), sown
