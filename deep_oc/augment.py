"""Augmentations: pure functions of one key and one image f32[h, w, c].

Images are from 0 to 1, and strengths are of this range.

`jax.vmap` makes them work on batches, each image with a key of its own, so
that a batch is augmented alike on any number of devices:

  chain = augment.Chain(**augment.DROC)
  image = jax.vmap(chain)(jax.random.split(key, len(image)), image)

Shapes never depend on the draws: one program serves them all. Colours follow
TensorFlow's tf.image and work on values outside [0, 1] too.
"""
import dataclasses
import functools
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deep_oc.errors import InputError

# The training chain of Sohn et al., ICLR 2021, as their code runs it: nothing
# is clipped, and the blur that its name promises is never applied.
DROC = dict(crop=0.5, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4,
            hue=0.4, grey=0.2)

_GREY = (0.2989, 0.587, 0.114)


def crop_and_resize(key: jax.Array, image: jax.Array,
                    min_side: float = 0.5) -> jax.Array:
  """Stretches a random square of f32[h, w, c] to the whole of it.

  Its side is a whole number of pixels, uniform from `min_side` of the image's
  shorter one up to all of it; bilinear, as to crop first and resize then.
  """
  height, width, _ = image.shape
  shorter = min(height, width)
  smallest = max(1, int(min_side * shorter))
  draw = jax.random.uniform(key, (3,))  # one call: cheaper than three randint
  side = smallest + jnp.floor(draw[0] * (shorter + 1 - smallest))
  top = jnp.floor(draw[1] * (height - side + 1))
  left = jnp.floor(draw[2] * (width - side + 1))
  return stretch(image, top, left, side)


def stretch(image: jax.Array, top: jax.Array | float, left: jax.Array | float,
            side: jax.Array | float) -> jax.Array:
  """Stretches a square of f32[h, w, c], in pixels, to the whole of it."""
  height, width, _ = image.shape
  return _separable(_resize(height, top, side), image,
                    _resize(width, left, side))


def _resize(size: int, start: jax.Array | float,
            side: jax.Array | float) -> jax.Array:
  """Returns the weights f32[size, size] that stretch [start, start + side)."""
  pixel = jnp.arange(size)
  source = (pixel + 0.5) * (side / size) - 0.5  # half-pixel centres
  source = start + jnp.clip(source, 0, side - 1)
  return jnp.maximum(0, 1 - jnp.abs(source[:, None] - pixel))


def _separable(rows: jax.Array, image: jax.Array,
               columns: jax.Array) -> jax.Array:
  # HIGHEST: accelerators would round the pixels to bfloat16 or TF32.
  return jnp.einsum('ij,jkc,lk->ilc', rows, image, columns,
                    precision=jax.lax.Precision.HIGHEST)


def shift(key: jax.Array, image: jax.Array,
          fraction: float = 0.125) -> jax.Array:
  """Moves f32[h, w, c] by up to `fraction` of its sides; edges reflect."""
  most = [int(fraction * side) for side in image.shape[:2]]
  draw = jax.random.uniform(key, (2,))
  down, right = (m - jnp.floor(each * (2 * m + 1)).astype(int)
                 for each, m in zip(draw, most, strict=True))
  return translate(image, down, right, most)


def translate(image: jax.Array, down: jax.Array | int, right: jax.Array | int,
              most: Sequence[int]) -> jax.Array:
  """Moves f32[h, w, c] by whole pixels, `most` of them; edges reflect."""
  padded = jnp.pad(image, [(m, m) for m in most] + [(0, 0)], mode='reflect')
  return jax.lax.dynamic_slice(
      padded, (most[0] - down, most[1] - right, 0), image.shape)


def flip(key: jax.Array, image: jax.Array, p: float = 0.5) -> jax.Array:
  """Mirrors f32[h, w, c] left to right with probability `p`."""
  return jnp.where(jax.random.bernoulli(key, p), image[:, ::-1], image)


def vertical_flip(key: jax.Array, image: jax.Array,
                  p: float = 0.5) -> jax.Array:
  """Mirrors f32[h, w, c] upside down with probability `p`."""
  return jnp.where(jax.random.bernoulli(key, p), image[::-1], image)


def quarter_turn(image: jax.Array, k: int) -> jax.Array:
  """Turns f32[h, w, c] by `k` times 90 degrees counter-clockwise."""
  return jnp.rot90(image, k)


def random_quarter_turn(key: jax.Array, image: jax.Array) -> jax.Array:
  """Turns f32[h, h, c] by 0, 90, 180 or 270 degrees."""
  height, width, _ = image.shape
  if height != width:
    raise InputError('quarter turns need square images, '
                     f'not {height}x{width}')
  turns = [functools.partial(quarter_turn, k=k) for k in range(4)]
  return jax.lax.switch(jax.random.randint(key, (), 0, 4), turns, image)


def brightness(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
  """Adds one number from U[-strength, strength]."""
  return image + _uniform(key, 0, strength)


def contrast(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
  """Scales about each channel's mean by U[1 - strength, 1 + strength]."""
  mean = jnp.mean(image, axis=(0, 1))
  return mean + (image - mean) * _uniform(key, 1, strength)


def saturation(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
  """Scales HSV's saturation by U[1 - strength, 1 + strength], up to 1."""
  _check_rgb('saturation', image)
  value = jnp.max(image, axis=-1, keepdims=True)
  depth = value - jnp.min(image, axis=-1, keepdims=True)
  # Saturation is depth / value and at most 1 afterwards. A pixel without a
  # positive channel has saturation 0 in TensorFlow, hence becomes grey.
  most = jnp.maximum(value, 0) / jnp.where(depth > 0, depth, 1)
  factor = jnp.minimum(_uniform(key, 1, strength), most)
  return value - (value - image) * factor


def hue(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
  """Turns the hue by U[-strength, strength] of the colour circle."""
  return turn_hue(image, _uniform(key, 0, strength))


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
  """Turns the hue of f32[h, w, 3] by `turn` of the colour circle.

  Each pixel keeps its largest and smallest channel.
  """
  _check_rgb('hue', image)
  red, green, blue = (image[..., c] for c in range(3))
  value = jnp.maximum(jnp.maximum(red, green), blue)
  depth = value - jnp.minimum(jnp.minimum(red, green), blue)
  scale = 1 / jnp.where(depth > 0, depth, 1)
  # In sixths of the circle, red at 0. Not `value == red`: XLA may compute a
  # channel twice and round it otherwise, so that none equals the largest.
  sixth = jnp.where(
      (red >= green) & (red >= blue), (green - blue) * scale, jnp.where(
          green >= blue, 2 + (blue - red) * scale, 4 + (red - green) * scale))

  def channel(offset):
    k = (offset + sixth) / 6 + turn
    k = 6 * (k - jnp.floor(k))
    return value - depth * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

  return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def colour_jitter(key: jax.Array, image: jax.Array, *, brightness: float,
                  contrast: float, saturation: float, hue: float,
                  p: float = 1.0, order: str = 'fixed') -> jax.Array:
  """Changes the colours of f32[h, w, 3] with probability `p`.

  `order` is 'fixed' (brightness, contrast, saturation, hue) or 'random', anew
  for every image. DROC's code draws it once a run for each branch, while it is
  traced.
  """
  strengths = (brightness, contrast, saturation, hue)
  active = [i for i, strength in enumerate(strengths) if strength > 0]
  ops = [lambda x, i=i: _JITTER[i](
      jax.random.fold_in(key, i), x, strengths[i]) for i in active]
  jittered = image
  if order == 'fixed':
    for op in ops:
      jittered = op(jittered)
  else:
    rank = jax.random.uniform(jax.random.fold_in(key, 4), (4,))
    places = jnp.argsort(rank[jnp.array(active, int)])
    for place in places:
      jittered = jax.lax.switch(place, ops, jittered)
  if p == 1:
    return jittered
  gate = jax.random.bernoulli(jax.random.fold_in(key, 5), p)
  return jnp.where(gate, jittered, image)


_JITTER = (brightness, contrast, saturation, hue)


def greyscale(key: jax.Array, image: jax.Array, p: float = 0.2) -> jax.Array:
  """Replaces the colours of f32[h, w, 3] by their luma with probability `p`."""
  _check_rgb('grey', image)
  return jnp.where(jax.random.bernoulli(key, p), luma(image)[..., None], image)


def luma(image: jax.Array) -> jax.Array:
  """Maps colours f[..., 3] to grey f[...], weighted as torchvision does."""
  return sum(weight * image[..., c] for c, weight in enumerate(_GREY))


def blur(key: jax.Array, image: jax.Array, p: float = 0.5) -> jax.Array:
  """Blurs f32[h, w, c] with probability `p`, as SimCLR does.

  A Gaussian of sigma U[0.1, 2] pixels, cut off at a twentieth of the height;
  zeros lie outside the image.
  """
  draw = jax.random.uniform(key, (2,))
  blurred = gaussian(image, 0.1 + 1.9 * draw[1], len(image) // 10 // 2)
  return jnp.where(draw[0] < p, blurred, image)


def gaussian(image: jax.Array, sigma: jax.Array | float, radius: int
             ) -> jax.Array:
  """Blurs f32[h, w, c] by a Gaussian; zeros lie outside.

  Args:
    image: f32[h, w, c].
    sigma: standard deviation, in pixels.
    radius: how many pixels away it is cut off.
  """
  def gauss(offset):
    return jnp.exp(-0.5 * (offset / sigma) ** 2) * (abs(offset) <= radius)

  def weights(size):
    pixel = jnp.arange(size)
    total = jnp.sum(gauss(jnp.arange(-radius, radius + 1)))
    return gauss(pixel[:, None] - pixel) / total

  height, width, _ = image.shape
  return _separable(weights(height), image, weights(width))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
  """Augmentations in the paper's order; the defaults leave each one out.

  Each draws from a key of its own, so leaving one out changes no other.

  Attributes:
    crop: smallest side of the crop, of the image's; 1 = no crop.
    shift: largest shift, of the image's side.
    flip, vertical_flip: probabilities.
    turn: whether to turn by a random multiple of 90 degrees.
    brightness, contrast, saturation, hue: strengths of the colour jitter.
    jitter: probability that it is applied at all.
    jitter_order: 'fixed' or 'random'; see `colour_jitter`.
    grey, blur: probabilities.
    clip: whether to clip the result to [0, 1].
  """
  crop: float = 1.0
  shift: float = 0.0
  flip: float = 0.0
  vertical_flip: float = 0.0
  turn: bool = False
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0
  jitter: float = 1.0
  jitter_order: str = 'fixed'
  grey: float = 0.0
  blur: float = 0.0
  clip: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _check_field(field, getattr(self, field.name))

  def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
    """Maps f32[h, w, c] to an augmented f32[h, w, c]."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
      raise InputError('augmentations take floats from 0 to 1, for example '
                       f'np.float32(images / 255), not {image.dtype}')
    colours = {name: getattr(self, name)
               for name in ('brightness', 'contrast', 'saturation', 'hue')}
    stages = [
        (self.crop < 1, crop_and_resize, dict(min_side=self.crop)),
        (self.shift > 0, shift, dict(fraction=self.shift)),
        (self.flip > 0, flip, dict(p=self.flip)),
        (self.vertical_flip > 0, vertical_flip, dict(p=self.vertical_flip)),
        (self.turn, random_quarter_turn, {}),
        (self.jitter > 0 and any(colours.values()), colour_jitter,
         dict(colours, p=self.jitter, order=self.jitter_order)),
        (self.grey > 0, greyscale, dict(p=self.grey)),
        (self.blur > 0, blur, dict(p=self.blur)),
    ]
    for position, (active, op, kwargs) in enumerate(stages):
      if active:
        image = op(jax.random.fold_in(key, position), image, **kwargs)
    return jnp.clip(image, 0, 1) if self.clip else image


def _check_field(field: dataclasses.Field, value: Any) -> None:
  name = f"augmentation '{field.name}'"
  if field.name == 'jitter_order':
    if value not in ('fixed', 'random'):
      raise InputError(f"{name} must be 'fixed' or 'random', not {value!r}")
  elif field.type is bool:
    if not isinstance(value, bool):
      raise InputError(f'{name} must be True or False, not {value!r}')
  else:
    low, high, words = _RANGES.get(field.name, (0, 1, 'in [0, 1]'))
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (real and low <= value <= high):
      raise InputError(f'{name} must be a number {words}, not {value!r}')


_RANGES = {
    'crop': (1e-6, 1, 'in (0, 1]'),
    'shift': (0, 0.5, 'in [0, 0.5]'),
    'hue': (0, 0.5, 'in [0, 0.5] (half of the colour circle)'),
}


def _check_rgb(name: str, image: jax.Array) -> None:
  if image.shape[-1] != 3:
    raise InputError(f"augmentation '{name}' needs 3 colour channels, "
                     f'not {image.shape[-1]}')


def _uniform(key: jax.Array, centre: float, strength: float) -> jax.Array:
  return jax.random.uniform(
      key, minval=centre - strength, maxval=centre + strength)
