"""Artificial defects: CutPaste and what it was compared with.

Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly
Detection and Localization", CVPR 2021, https://arxiv.org/abs/2104.04015,
sections 2.2, 5.1 and A.2. There is no official code.

Pure functions of one key, one image f32[h, w, c] in [0, 1] and `Defects`;
`jax.vmap` makes them work on batches. Every defect is a rectangle, drawn anew
for each image, and one program serves all sizes: it works in a window of fixed
size, as large as the largest rectangle, and masks what lies outside this one.
"""
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deep_oc import augment, errors
from deep_oc.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defects:
  """Sizes and colours of the defects; the defaults are section A.2's.

  Pairs are the smallest and the largest value.

  Attributes:
    area: of a patch, as a part of the image's.
    aspect: height of a patch divided by its width.
    aspect_law: 'log_uniform', or 'two_intervals': one of (low, 1) and (1,
      high) with equal probability, then uniform. The paper's (0.3, 1) ∪ (1,
      3.3) is either; it follows torchvision's RandomErasing, which is
      log-uniform.
    angle: of a patch in degrees, counter-clockwise; the paper turns none.
    scar_width, scar_length: in whole pixels (the paper's images have 256). The
      paper does not say which way a scar of angle 0 lies: here it stands.
    scar_angle: in degrees.
    brightness, contrast, saturation, hue: largest change of the colours of what
      is pasted; see `colour_jitter`.
    interpolation: of what is pasted at an angle. 'nearest' keeps the values of
      single pixels, as PIL's `rotate` and hence the known implementations do,
      and does not smooth what the network is to find; 'bilinear' does.
    confetti_side: of each of two coloured squares, in whole pixels (FCDD's).
    confetti_blur: standard deviation of the Gaussian that smooths what they
      add, in pixels; 0 for none. FCDD's code has 5.
  """
  area: tuple[float, float] = (0.02, 0.15)
  aspect: tuple[float, float] = (0.3, 3.3)
  aspect_law: str = 'log_uniform'
  angle: tuple[float, float] = (0.0, 0.0)
  scar_width: tuple[int, int] = (2, 16)
  scar_length: tuple[int, int] = (10, 25)
  scar_angle: tuple[float, float] = (-45.0, 45.0)
  brightness: float = 0.1
  contrast: float = 0.1
  saturation: float = 0.1
  hue: float = 0.1
  interpolation: str = 'nearest'
  confetti_side: tuple[int, int] = (8, 54)
  confetti_blur: float = 0.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _check_field(field.name, getattr(self, field.name))


class Box(NamedTuple):
  """A rectangle inside an image, turned about its own centre.

  Attributes:
    height, width: f32, whole pixels.
    angle: f32, radians, counter-clockwise for who looks at the image.
    top, left: f32, whole; of the upright rectangle that just holds it.
  """
  height: jax.Array
  width: jax.Array
  angle: jax.Array
  top: jax.Array
  left: jax.Array

  @property
  def span(self) -> tuple[jax.Array, jax.Array]:
    """Height and width of the upright rectangle that just holds it."""
    cos, sin = jnp.abs(jnp.cos(self.angle)), jnp.abs(jnp.sin(self.angle))
    return (self.height * cos + self.width * sin,
            self.width * cos + self.height * sin)


def patch_box(key: jax.Array, shape: tuple[int, ...], how: Defects) -> Box:
  """Draws a rectangle of `how`'s area and aspect in an image of `shape`.

  A patch that would not fit into an oblong image is not drawn: the aspects
  that its area leaves are drawn from, where RandomErasing draws again.
  """
  height, width = shape[:2]
  keys = jax.random.split(key, 4)
  area = height * width * _uniform(keys[0], *how.area)
  aspect = _ASPECT_LAWS[how.aspect_law](
      keys[1], jnp.maximum(how.aspect[0], area / width ** 2),
      jnp.minimum(how.aspect[1], height ** 2 / area))
  size = (jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, height),
          jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, width))
  return _place(keys[2], shape, *size, _degrees(keys[3], *how.angle))


def scar_box(key: jax.Array, shape: tuple[int, ...], how: Defects) -> Box:
  """Draws a long, thin rectangle at an angle in an image of `shape`."""
  keys = jax.random.split(key, 4)
  return _place(keys[0], shape, _whole(keys[1], *how.scar_length),
                _whole(keys[2], *how.scar_width),
                _degrees(keys[3], *how.scar_angle))


def confetti_box(key: jax.Array, shape: tuple[int, ...], how: Defects) -> Box:
  """Draws a square at any angle up to 45 degrees in an image of `shape`."""
  keys = jax.random.split(key, 3)
  side = _whole(keys[0], *how.confetti_side)
  return _place(keys[1], shape, side, side, _degrees(keys[2], -45, 45))


def cutpaste(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Pastes a patch of f32[h, w, c] elsewhere in it, its colours jittered."""
  return _paste(key, image, how, patch_box, _patch_reach(image.shape, how))


def cutpaste_scar(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Pastes a thin patch of f32[h, w, c] elsewhere, turned and jittered."""
  return _paste(key, image, how, scar_box, _scar_reach(image.shape, how))


def union(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Pastes a patch or a scar, with equal probability."""
  return jnp.where(
      jax.random.bernoulli(jax.random.fold_in(key, 2)),
      cutpaste(jax.random.fold_in(key, 0), image, how),
      cutpaste_scar(jax.random.fold_in(key, 1), image, how))


def cutout_grey(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Makes a patch of f32[h, w, c] grey."""
  return _cutout(key, image, how, jnp.full(image.shape[-1], 0.5))


def cutout_mean(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Gives a patch of f32[h, w, c] the image's mean colour."""
  return _cutout(key, image, how, image.mean(axis=(0, 1)))


def cutout_colour(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Gives a patch of f32[h, w, c] a random colour."""
  colour = jax.random.uniform(jax.random.fold_in(key, 1), image.shape[-1:])
  return _cutout(jax.random.fold_in(key, 0), image, how, colour)


def scar(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Puts a long, thin, turned box of a random colour into f32[h, w, c]."""
  box = scar_box(jax.random.fold_in(key, 0), image.shape, how)
  colour = jax.random.uniform(jax.random.fold_in(key, 1), image.shape[-1:])
  return _stamp(image, box, _scar_reach(image.shape, how),
                lambda old, inside, y, x: colour)


def confetti(key: jax.Array, image: jax.Array, how: Defects) -> jax.Array:
  """Shifts the colours of two turned squares of f32[h, w, c].

  After the confetti noise of FCDD (Liznerski et al., ICLR 2021), which has two
  squares a 256 px image on average. Where they overlap, both shift.
  """
  reach = _turned_reach('confetti_side', image.shape,
                        *(how.confetti_side[1],) * 2)
  noise = jnp.zeros_like(image)
  for each in jax.random.split(key, 2):
    box = confetti_box(jax.random.fold_in(each, 0), image.shape, how)
    shift = _uniform(jax.random.fold_in(each, 1), -1, 1, image.shape[-1:])
    noise = _stamp(noise, box, reach, lambda old, inside, y, x, shift=shift:
                   old + shift)
  if how.confetti_blur:
    noise = augment.gaussian(
        noise, how.confetti_blur, math.ceil(2.4 * how.confetti_blur))
  return jnp.clip(image + noise, 0, 1)


KINDS = {'cutpaste': cutpaste, 'cutpaste_scar': cutpaste_scar, 'union': union,
         'cutout_grey': cutout_grey, 'cutout_mean': cutout_mean,
         'cutout_colour': cutout_colour, 'scar': scar, 'confetti': confetti}


def colour_jitter(key: jax.Array, image: jax.Array, inside: jax.Array, *,
                  brightness: float, contrast: float, saturation: float,
                  hue: float) -> jax.Array:
  """Changes the colours of f32[h, w, 3] as torchvision's ColorJitter does.

  Brightness, contrast and saturation mix the image with black, its mean grey
  and its own grey; the factor is U[1 - strength, 1 + strength]. Hue turns by
  U[-strength, strength] of the circle. Each is clipped to [0, 1]; their order
  is random.

  Args:
    key: of all draws.
    image: f32[h, w, 3].
    inside: bool[h, w], the pixels that the mean grey is taken of.
    brightness, contrast, saturation, hue: strengths.
  """
  keys = jax.random.split(key, 3)
  order = jax.random.permutation(keys[0], 4)  # of the four; 3 is hue
  strength = jnp.array([brightness, contrast, saturation])
  factor = jnp.maximum(0, 1 + strength * _uniform(keys[1], -1, 1, (3,)))
  place = jnp.argmax(order == 3)
  # Hue costs as much as the rest: rather three places on each side of one hue,
  # of which three stay empty, than four places that each could be hue.
  for i in range(3):
    image = _mix(image, inside, order[i], factor, i < place)
  if hue:
    turn = _uniform(keys[2], -hue, hue)
    image = jnp.clip(augment.turn_hue(image, turn), 0, 1)
  for i in range(1, 4):
    image = _mix(image, inside, order[i], factor, i > place)
  return image


def _mix(image: jax.Array, inside: jax.Array, op: jax.Array,
         factor: jax.Array, active: jax.Array) -> jax.Array:
  """Mixes with black, the mean grey or the image's own: op 0, 1 or 2."""
  grey = augment.luma(image)
  mean = jnp.sum(grey, where=inside) / jnp.sum(inside)
  base = jnp.where(op == 0, 0, jnp.where(op == 1, mean, grey))[..., None]
  factor = jnp.where(active, factor[op], 1)
  return jnp.clip(factor * image + (1 - factor) * base, 0, 1)


def _paste(key: jax.Array, image: jax.Array, how: Defects, draw: Callable,
           reach: tuple[int, int]) -> jax.Array:
  """Fills a box with an upright one of its size from elsewhere in the image.

  Both lie anywhere, independently; only where it is pasted, it is turned.
  """
  keys = jax.random.split(key, 3)
  box = draw(keys[0], image.shape, how)
  source = _place(keys[1], image.shape, box.height, box.width,
                  jnp.zeros_like(box.angle))
  strengths = {name: getattr(how, name) for name in _STRENGTHS}

  def content(old, inside, y, x):
    del old
    # Half a pixel from the edge: no pixel from outside of the source.
    y = jnp.clip(y + box.height / 2, 0.5, box.height - 0.5)
    x = jnp.clip(x + box.width / 2, 0.5, box.width - 0.5)
    new = _SAMPLERS[how.interpolation](image, source.top + y, source.left + x)
    if not any(strengths.values()):
      return new
    return colour_jitter(keys[2], new, inside, **strengths)

  return _stamp(image, box, reach, content)


def _cutout(key: jax.Array, image: jax.Array, how: Defects,
            colour: jax.Array) -> jax.Array:
  return _stamp(image, patch_box(key, image.shape, how),
                _patch_reach(image.shape, how),
                lambda old, inside, y, x: colour)


def _stamp(image: jax.Array, box: Box, reach: tuple[int, int],
           content: Callable) -> jax.Array:
  """Replaces what `box` covers of f32[h, w, c].

  Args:
    image: f32[h, w, c].
    box: belongs to it each pixel whose centre lies in it.
    reach: (rows, columns), of the window to work in.
    content: (old f32[rows, columns, c], inside bool[rows, columns], y, x) ->
      new f32[rows, columns, c] or f32[c]; y and x f32[rows, columns] are the
      box's own coordinates, 0 at its centre.
  """
  rows, columns = reach
  span = box.span
  top = jnp.minimum(box.top, image.shape[0] - rows)
  left = jnp.minimum(box.left, image.shape[1] - columns)
  down = top + jnp.arange(rows)[:, None] + 0.5 - (box.top + span[0] / 2)
  right = left + jnp.arange(columns) + 0.5 - (box.left + span[1] / 2)
  cos, sin = jnp.cos(box.angle), jnp.sin(box.angle)
  x, y = right * cos - down * sin, right * sin + down * cos
  inside = (abs(y) < box.height / 2) & (abs(x) < box.width / 2)
  corner = (top.astype(int), left.astype(int), 0)
  old = jax.lax.dynamic_slice(image, corner, (rows, columns, image.shape[-1]))
  new = jnp.where(inside[..., None], content(old, inside, y, x), old)
  return jax.lax.dynamic_update_slice(image, new, corner)


def _nearest(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
  """Reads f32[h, w, c] at f32[...], where pixel i reaches from i to i + 1."""
  return image[y.astype(int), x.astype(int)]


def _bilinear(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
  """As `_nearest`, mixing the four nearest pixels."""
  y, x = y - 0.5, x - 0.5
  top, left = jnp.floor(y), jnp.floor(x)
  down, right = (y - top)[..., None], (x - left)[..., None]

  def row(offset):  # indices beyond the edge are clamped and weigh nothing
    pixel = _nearest(image, top + offset, left)
    return pixel + right * (_nearest(image, top + offset, left + 1) - pixel)

  return row(0) + down * (row(1) - row(0))


_SAMPLERS = {'nearest': _nearest, 'bilinear': _bilinear}


def _place(key: jax.Array, shape: tuple[int, ...], height: jax.Array,
           width: jax.Array, angle: jax.Array) -> Box:
  """Puts a rectangle anywhere that it lies inside, on whole pixels."""
  box = Box(height, width, angle, jnp.zeros_like(angle), jnp.zeros_like(angle))
  free = [side - jnp.ceil(span)
          for side, span in zip(shape, box.span, strict=False)]
  draw = jax.random.uniform(key, (2,))
  return box._replace(top=jnp.floor(draw[0] * (free[0] + 1)),
                      left=jnp.floor(draw[1] * (free[1] + 1)))


def _patch_reach(shape: tuple[int, ...], how: Defects) -> tuple[int, int]:
  height, width = shape[:2]
  largest = how.area[1] * height * width
  if any(how.angle):
    # Of one area, the rectangle of the most extreme aspect is the longest.
    return _turned_reach('area', shape, *(max(
        ((math.sqrt(largest * a), math.sqrt(largest / a)) for a in how.aspect),
        key=max)))
  return (min(height, math.ceil(math.sqrt(largest * how.aspect[1])) + 1),
          min(width, math.ceil(math.sqrt(largest / how.aspect[0])) + 1))


def _scar_reach(shape: tuple[int, ...], how: Defects) -> tuple[int, int]:
  return _turned_reach('scar_length', shape, how.scar_length[1],
                       how.scar_width[1])


def _turned_reach(name: str, shape: tuple[int, ...], height: float,
                  width: float) -> tuple[int, int]:
  """Returns the window that holds a rectangle at every angle."""
  reach = math.ceil(math.hypot(height, width))
  if reach > min(shape[:2]):
    raise InputError(
        f'defects of {math.ceil(height)}x{math.ceil(width)} pixels do not fit '
        f'at every angle into {shape[0]}x{shape[1]}; lower '
        f'pretext.defects.{name}')
  return min(reach + 1, shape[0]), min(reach + 1, shape[1])


def _log_uniform(key: jax.Array, low: Any, high: Any) -> jax.Array:
  return jnp.exp(_uniform(key, jnp.log(low), jnp.log(high)))


def _two_intervals(key: jax.Array, low: Any, high: Any) -> jax.Array:
  flat = jax.random.bernoulli(jax.random.fold_in(key, 1))
  flat = (flat | (high < 1)) & (low < 1)
  return _uniform(key, jnp.where(flat, low, jnp.maximum(low, 1)),
                  jnp.where(flat, jnp.minimum(high, 1), high))


_ASPECT_LAWS = {'log_uniform': _log_uniform, 'two_intervals': _two_intervals}


def _uniform(key: jax.Array, low: Any, high: Any,
             shape: tuple[int, ...] = ()) -> jax.Array:
  return jax.random.uniform(key, shape, minval=low, maxval=high)


def _degrees(key: jax.Array, low: float, high: float) -> jax.Array:
  return jnp.deg2rad(_uniform(key, low, high))


def _whole(key: jax.Array, low: int, high: int) -> jax.Array:
  """Draws a whole number from `low` to `high`, both included, as f32."""
  return jnp.minimum(jnp.floor(_uniform(key, low, high + 1)), high)


_STRENGTHS = ('brightness', 'contrast', 'saturation', 'hue')
_SINGLE = (*_STRENGTHS, 'confetti_blur')
_NAMES = {'aspect_law': _ASPECT_LAWS, 'interpolation': _SAMPLERS}
_LIMITS = {'area': (1e-6, 1), 'aspect': (1e-3, 1e3), 'angle': (-360, 360),
           'scar_angle': (-360, 360), 'hue': (0, 0.5),
           'confetti_blur': (0, 1024)}
_WHOLE = ('scar_width', 'scar_length', 'confetti_side')


def _check_field(name: str, value: Any) -> None:
  if name in _NAMES:
    if value not in _NAMES[name]:
      raise errors.unknown(f'pretext.defects.{name}', value, _NAMES[name])
    return
  single = name in _SINGLE
  kind = numbers.Integral if name in _WHOLE else numbers.Real
  low, high = _LIMITS.get(name, (1, 4096) if name in _WHOLE else (0, 1))
  values = (value,) if single else value
  if not (isinstance(values, tuple) and len(values) == 2 - single
          and all(isinstance(each, kind) and not isinstance(each, bool)
                  and low <= each <= high for each in values)
          and values[0] <= values[-1]):
    what = 'a number' if single else 'a pair (smallest, largest)'
    whole = ' of whole numbers' if name in _WHOLE else ''
    raise InputError(f'pretext.defects.{name}={value!r} must be {what}{whole} '
                     f'in [{low:g}, {high:g}]')
