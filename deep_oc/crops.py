"""Crops: what a task sees that is asked of patches, not of whole images.

In training one patch of each image, anywhere in it; afterwards all that tile
it. So Sohn et al. (ICLR 2021) and Li et al. (CVPR 2021) learn the small defects
of MVTec AD, whose images are far larger than what is wrong with them.

`side` is a patch's, in pixels. 0 stands for the whole image and changes
nothing, so that a task is written once.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deep_oc import errors
from deep_oc.errors import InputError


def check(side: int) -> None:
  """Raises InputError unless `side` is a number of pixels, or 0."""
  errors.check_whole('pretext.crop', side, 0)


def random_crop(key: jax.Array, image: jax.Array, side: int) -> jax.Array:
  """Cuts a square of `side` pixels out of f32[h, w, c], from anywhere."""
  if not side:
    return image
  _check_fits(side, image.shape)
  free = jnp.array(image.shape[:2]) - side
  start = jnp.floor(jax.random.uniform(key, (2,)) * (free + 1)).astype(int)
  return cut(image, start, side)


def cut(image: jax.Array, start: jax.Array, side: int) -> jax.Array:
  """Cuts a square of `side` pixels out of f32[h, w, c], from i32[2] on."""
  return jax.lax.dynamic_slice(
      image, (*start, 0), (side, side, image.shape[-1]))


def random_crops(key: jax.Array, image: jax.Array, side: int) -> jax.Array:
  """Cuts one crop out of each of f32[n, h, w, c], each from elsewhere."""
  keys = jax.random.split(key, len(image))
  return jax.vmap(lambda key, image: random_crop(key, image, side))(keys, image)


def tiles(image: jax.Array, side: int) -> jax.Array:
  """Cuts f32[n, h, w, c] into f32[n * t, side, side, c], from its middle.

  Row by row, the tiles of one image after those of another. What is left over
  at the edges is less than a tile.
  """
  if not side:
    return image
  _check_fits(side, image.shape[1:])
  n, height, width, channels = image.shape
  rows, columns = height // side, width // side
  top, left = (height - rows * side) // 2, (width - columns * side) // 2
  image = image[:, top:top + rows * side, left:left + columns * side]
  image = image.reshape(n, rows, side, columns, side, channels)
  return image.swapaxes(2, 3).reshape(-1, side, side, channels)


def over_tiles(reduce: Callable, values: dict[str, Any], images: int
               ) -> dict[str, jax.Array]:
  """Reduces what was found of tiles to what is said of images.

  Args:
    reduce: (array, axis) -> array, as `jnp.mean`.
    values: f32[n * t, ...] by name, in the order of `tiles`.
    images: n.

  Returns:
    f32[n, ...] by name.
  """
  return {name: x if x.shape[0] == images else reduce(
      x.reshape(images, -1, *x.shape[1:]), axis=1)
          for name, x in values.items()}


def _check_fits(side: int, shape: tuple[int, ...]) -> None:
  if side > min(shape[:2]):
    raise InputError(f'pretext.crop={side} is larger than the images, '
                     f'{shape[0]}x{shape[1]}')
