"""Every window of an image: where they lie, their features, and the way back.

Li et al., CVPR 2021 (https://arxiv.org/abs/2104.04015), sections 2.4 and A.5:
an encoder that was trained on crops sees every window of an image, so many
pixels apart, and windows' scores are spread over the pixels that they saw.
"""
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import (convolution, features, pretexts, progress, sharding,
                     step)
from deep_oc.errors import InputError

BATCH = 512  # windows per forward pass, if each has one of its own
_CENTRED = 32  # images that are centred at once; bounds memory
_STRIP = 256  # rows of windows, in pixels, of one shared pass; bounds memory


def starts(length: int, side: int, stride: int) -> np.ndarray:
  """Returns where windows begin, i64[g]; the last one ends at the edge.

  Raises:
    InputError: the window is larger than the image.
  """
  if not 0 < side <= length or stride < 1:
    raise InputError(f'windows of {side} pixels every {stride} do not fit an '
                     f'image of {length}')
  begin = np.arange(0, length - side + 1, stride)
  last = length - side
  return begin if begin[-1] == last else np.append(begin, last)


def places(images: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Returns (image, row, column) of all windows, i64[images * r * c, 3]."""
  return np.stack(np.meshgrid(np.arange(images), rows, columns, indexing='ij'),
                  axis=-1).reshape(-1, 3)


def embedder(pretext: nn.Module, side: int) -> Callable:
  """Returns (variables, image u8[n, h, w, c], place i64[k, 3]) -> f32[k, d].

  The pooled feature of the window of `side` pixels at each place. Where the
  encoder does not pad, windows of an image share one pass; the features are
  the same, up to rounding. Memory does not grow with the image. A description
  as the fourth argument shows a progress bar.

  Args:
    pretext: the task that was trained, perhaps on crops.
    side: of the windows, in pixels.
  """
  seen = of_windows(pretext, side)
  least = getattr(seen.encoder, 'receptive_field', None)
  if least and side < least:
    raise InputError(f'windows of {side} pixels are smaller than what the '
                     f'encoder sees at once, {least}')
  embed = functools.partial(_shared if least else _one_by_one, seen, side)
  return functools.partial(
      _of_centred, pretext, embed) if pretexts.centres(pretext) else embed


def of_windows(pretext: nn.Module, side: int) -> nn.Module:
  """Returns the task as it sees windows of `side` pixels, each an image.

  What they are of is centred by now, if the task centres images.

  Raises:
    InputError: its encoder has a part for each side, and none for this one.
  """
  if pretexts.centres(pretext):
    pretext = pretext.clone(centre=False)
  if getattr(pretext, 'crop', 0):
    pretext = pretext.clone(crop=0)
  if hasattr(pretext.encoder, 'of_side'):
    pretext = pretext.clone(encoder=pretext.encoder.of_side(side))
  return pretext


def centred(pretext: nn.Module, variables: Mapping[str, Any], image: jax.Array
            ) -> jax.Array:
  """Maps whole images u8 or f32[n, h, w, c] to f32, what windows are cut of."""
  image = step.to_float(image)
  if not pretexts.centres(pretext):
    return image
  return pretext.apply(variables, image, method='centred')


def _of_centred(pretext: nn.Module, embed: Callable,
                variables: Mapping[str, Any], image: np.ndarray,
                place: np.ndarray, description: str | None = None
                ) -> np.ndarray:
  """Embeds windows of images that are centred before they are cut."""
  used, found = np.unique(place[:, 0]), None
  for begin in progress.batches(range(0, len(used), _CENTRED), description):
    some = used[begin:begin + _CENTRED]
    member = np.isin(place[:, 0], some)
    whole = np.asarray(centred(pretext, variables, image[some]))
    number = np.searchsorted(some, place[member, 0])
    feature = embed(variables, whole,
                    np.column_stack([number, place[member, 1:]]))
    if found is None:
      found = np.empty((len(place), feature.shape[-1]), np.float32)
    found[member] = feature
  return found


def _one_by_one(pretext: nn.Module, side: int, variables: Mapping[str, Any],
                image: np.ndarray, place: np.ndarray,
                description: str | None = None) -> np.ndarray:
  """Passes each window through the encoder, in batches of one size."""
  embed = features.embedder(pretext, sharding.mesh(), BATCH)
  view = np.lib.stride_tricks.sliding_window_view(image, (side, side), (1, 2))
  parts = []
  for begin in progress.batches(range(0, len(place), BATCH), description):
    i, y, x = place[begin:begin + BATCH].T
    window = np.moveaxis(view[i, y, x], 1, -1)  # the copy is of one batch
    parts.append(embed(variables, window)['pool'])
  return np.concatenate(parts)


def _shared(pretext: nn.Module, side: int, variables: Mapping[str, Any],
            image: np.ndarray, place: np.ndarray,
            description: str | None = None) -> np.ndarray:
  """Passes strips of images through the encoder, and means over windows."""
  found, stride = None, pretext.encoder.stride
  means = _compiled(convolution.is_reformulated())
  extent = _extent(image.shape[1] - side, np.ptp(place[:, 1])) + side
  for i, top, member in progress.batches(list(_strips(place)), description):
    # Zeros below and beside: where a window begins between two positions of
    # the map, the strip is moved by that much.
    strip = image[i, top:top + extent]
    strip = np.pad(strip, ((0, extent + stride - len(strip)), (0, stride),
                           (0, 0)))
    offset = place[member, 1:] - [top, 0]
    for phase in np.unique(offset % stride, axis=0):
      at = (offset % stride == phase).all(axis=1)
      row, column = (offset[at] // stride).T
      feature = np.asarray(means(pretext, side, variables, strip, phase))
      if found is None:
        found = np.empty((len(place), feature.shape[-1]), np.float32)
      found[member[at]] = feature[row, column]
  return found


def _extent(most: int, rows: int) -> int:
  """Returns how many rows of windows a strip has, in pixels.

  `rows` of at most `most` or a few more, so that there are few programs.
  """
  most = min(most, _STRIP)
  while most // 2 >= max(rows, 1):
    most //= 2
  return most


def _strips(place: np.ndarray):
  """Yields image, first row and members of at most _STRIP rows of windows."""
  for i in np.unique(place[:, 0]):
    of_image = np.flatnonzero(place[:, 0] == i)
    row = place[of_image, 1]
    while len(of_image):
      top = row.min()
      near = row <= top + _STRIP
      yield i, top, of_image[near]
      of_image, row = of_image[~near], row[~near]


@functools.cache
def _compiled(reformulated: bool) -> Callable:
  """Returns `_means` as a program, of one formulation of convolutions."""
  del reformulated  # it is in what is traced
  return jax.jit(lambda *args: _means(*args),  # traced for itself
                 static_argnums=(0, 1),
                 compiler_options=convolution.compiler_options())


def _means(pretext: nn.Module, side: int, variables: Mapping[str, Any],
           strip: jax.Array, phase: jax.Array) -> jax.Array:
  """Maps u8 or f32[h + s, w + s, c] to features of windows, f32[gh, gw, d].

  Windows begin at `phase` and every s = encoder.stride pixels from there.
  """
  encoder = pretext.encoder
  height, width = (length - encoder.stride for length in strip.shape[:2])
  strip = jax.lax.dynamic_slice(
      strip, (*phase, 0), (height, width, strip.shape[-1]))
  return shared_pass(pretext, side, variables, step.to_float(strip[None]))[0]


def align(encoder: nn.Module, *begin: np.ndarray) -> bool:
  """Says whether one `shared_pass` has all windows that begin there, i64[g]."""
  return hasattr(encoder, 'receptive_field') and not any(
      (each % encoder.stride).any() for each in begin)


def shared_pass(pretext: nn.Module, side: int, variables: Mapping[str, Any],
                image: jax.Array) -> jax.Array:
  """Maps f32[n, h, w, c] to the features of windows, f32[n, gh, gw, d].

  Of an encoder that does not pad; windows begin every encoder.stride pixels.
  """
  encoder = pretext.encoder
  positions = feature_map(pretext, variables, image)
  span = (side - encoder.receptive_field) // encoder.stride + 1
  total = jax.lax.reduce_window(
      positions.astype(jnp.float32), 0., jax.lax.add, (1, span, span, 1),
      (1, 1, 1, 1), 'VALID')
  return total / span ** 2


def feature_map(pretext: nn.Module, variables: Mapping[str, Any],
                image: jax.Array) -> jax.Array:
  """Maps f32[n, h, w, c] to the encoder's last map, [n, gh, gw, d]."""
  return pretexts.look(pretext, variables, image)[1]['map'][0]


def upsample(score: np.ndarray, rows: np.ndarray, columns: np.ndarray
             ) -> np.ndarray:
  """Spreads f[n, gh, gw] over pixels, f[n, h, w], by f[h, gh] and f[w, gw]."""
  return np.einsum('ij,njk,lk->nil', rows, score, columns, optimize=True)


def weights(length: int, side: int, stride: int, sigma: float | None = None
            ) -> np.ndarray:
  """Returns what the score of each window is worth to a pixel, f64[length, g].

  The receptive-field upsampling of Liznerski et al. (FCDD, ICLR 2021): each
  score is spread by a Gaussian as wide as its window. A pixel's weights are
  scaled to sum to one, or the edges, where fewer windows overlap, would stand
  out wherever scores are not around zero.
  """
  offset = np.arange(length)[:, None] - starts(length, side, stride)
  inside = (offset >= 0) & (offset < side)
  kernel = gaussian(side, sigma)[np.clip(offset, 0, side - 1)] * inside
  # Windows further apart than they are wide, or than a narrow Gaussian is above
  # 0, leave pixels to the nearest one.
  unseen = ~kernel.any(axis=1)
  nearest = np.abs(offset[unseen] - (side - 1) / 2).argmin(axis=1)
  kernel[np.flatnonzero(unseen), nearest] = 1
  return kernel / kernel.sum(1, keepdims=True)


def gaussian(side: int, sigma: float | None = None) -> np.ndarray:
  """Returns the taps f64[side] of FCDD's kernel.

  An even one is the next smaller odd one with its centre twice. The default
  sigma is that of the published code: 10 from 32 pixels on.
  """
  if sigma is None:
    sigma = 10.0 if side >= 32 else math.log10(0.45 * side + 1) + 0.25
  half = (side - 1) // 2
  taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
  return taps if side % 2 else np.insert(taps, half, taps[half])
