"""Pictures of a woven fabric with flaws, and the pixels of each flaw.

Generated, not real: a plain weave of NumPy's, as a camera over a loom might see
it. Threads differ in tone and run a little crooked; the cloth lies at any
offset and slightly turned, under uneven light. So distances between pixels say
little: a detector has to learn the weave. It is for a first run on a CPU, at
image and at pixel level, and no benchmark: scores on it say nothing about
photographs of parts.

No flaw is made as CutPaste makes its own, or finding them would prove nothing:
no pixels are copied from elsewhere in the image. Flaws change the threads
before they are drawn, or what lies on them; but some are as long and thin as
CutPaste's scars.

Of the pixels that a flaw changes visibly, the largest connected region stays
and is the mask; the others are set back. So a pixel is in the mask if and only
if it differs from the cloth without the flaw.
"""
import dataclasses

import numpy as np
from scipy import ndimage

from deep_oc import data

_SIDE = 64  # of the images, in pixels
_TRAIN, _GOOD, _FLAWED = 200, 60, 20  # images; the last of each kind of flaw
_PITCH = 5.2, 5.5  # pixels from thread to thread
_TURN = 0.04  # radians, to either side
_VISIBLE = 8  # grey levels
_MARGIN = 14  # pixels from the middle of a flaw to the edge
_GREY = np.array([168, 168, 166])
_HUE = np.array([[-18, -10, 6], [18, 10, -6]])  # of warp and weft
_Y, _X = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Cloth:
  """What a picture is drawn from; maps are f32[64, 64] if not said otherwise.

  Attributes:
    warp, weft: where a pixel lies, counted in threads; threads are at integers.
      The warp's run down, the weft's across.
    tone: f32[2, 20], brightness of each thread of warp and weft.
    colour: f32[2, 3], of warp and weft, in grey levels.
    lift: of the warp over the weft, in thicknesses of a thread.
    dye: f32[64, 64, 3], factor of the colour.
    cover: opacity of what lies upon the cloth, or below a hole in it.
    cover_colour: f32[3], in grey levels.
    light: factor of the brightness.
    noise: f32[64, 64, 3] of the camera, in grey levels.
  """
  warp: np.ndarray
  weft: np.ndarray
  tone: np.ndarray
  colour: np.ndarray
  lift: np.ndarray
  dye: np.ndarray
  cover: np.ndarray
  cover_colour: np.ndarray
  light: np.ndarray
  noise: np.ndarray


def create() -> data.Split:
  """Returns the set; equal arrays on every call.

  Every image has a random stream of its own. The class of a test image is its
  flaw; it has the mask bool[64, 64] of the pixels that the flaw changed.
  """
  label = np.repeat(np.arange(len(_CLASSES), dtype=np.int32),
                    [_GOOD] + [_FLAWED] * len(_FLAWS))
  train = np.stack([_picture((0, i), 'good')[0] for i in range(_TRAIN)])
  image, mask = zip(*(_picture((1, i), _CLASSES[each])
                      for i, each in enumerate(label)), strict=True)
  return data.Split(
      'woven_fabric',
      data.Examples(train, np.zeros(_TRAIN, np.int32), np.zeros(_TRAIN, bool)),
      data.Examples(np.stack(image), label, label > 0, np.stack(mask)),
      _CLASSES)


def _picture(seed: tuple[int, int], kind: str):
  """Returns an image u8[64, 64, 3] and its mask bool[64, 64].

  Of one seed, pictures of all kinds show the same cloth in the same light.
  """
  rng = np.random.default_rng(seed)
  cloth = _draw(rng)
  good = _render(cloth)
  if kind == 'good':
    return good, np.zeros((_SIDE, _SIDE), bool)
  y, x = rng.uniform(_MARGIN, _SIDE - _MARGIN, 2)
  flawed = _render(_FLAWS[kind](rng, cloth, y, x))
  mask = _largest(abs(np.int16(flawed) - good).max(axis=-1) >= _VISIBLE)
  return np.where(mask[..., None], flawed, good), mask


def _largest(mask: np.ndarray) -> np.ndarray:
  """Returns the largest connected region of bool[h, w]; diagonals connect."""
  region, _ = ndimage.label(mask, np.ones((3, 3)))
  return region == 1 + np.argmax(np.bincount(region[mask])[1:])


def _draw(rng) -> _Cloth:
  """Draws a good cloth and the light on it."""
  turn, pitch = rng.uniform(-_TURN, _TURN), rng.uniform(*_PITCH, 2)
  slope = rng.uniform(-0.15, 0.15, 2)
  return _Cloth(
      warp=(_X + turn * _Y) / pitch[0] + rng.uniform(0, 2) + _waves(rng, 0.1),
      weft=(_Y - turn * _X) / pitch[1] + rng.uniform(0, 2) + _waves(rng, 0.1),
      tone=rng.normal(1, rng.uniform(0.02, 0.08), (2, 20)),
      colour=_GREY + rng.uniform(0.3, 1.3) * _HUE + rng.normal(0, 2, (2, 3)),
      lift=np.zeros_like(_X), dye=np.ones((_SIDE, _SIDE, 3)),
      cover=np.zeros_like(_X), cover_colour=np.zeros(3),
      light=rng.uniform(0.9, 1.1) + _waves(rng, 0.03)
      + slope[0] * (_X / _SIDE - 0.5) + slope[1] * (_Y / _SIDE - 0.5),
      noise=rng.normal(0, 2.5, (_SIDE, _SIDE, 3)))


def _render(cloth: _Cloth) -> np.ndarray:
  """Takes the picture, u8[64, 64, 3]."""
  cover = cloth.cover[..., None]
  colour = (1 - cover) * cloth.dye * _weave(cloth) + cover * cloth.cover_colour
  colour = cloth.light[..., None] * colour + cloth.noise
  return np.uint8(np.rint(np.clip(colour, 0, 255)))


def _weave(cloth: _Cloth) -> np.ndarray:
  """Returns the colour of the threads, f32[64, 64, 3]."""
  i, j = np.rint(cloth.warp), np.rint(cloth.weft)
  across, along = cloth.warp - i, cloth.weft - j
  # In a plain weave a thread passes over and under, its neighbours contrary.
  sign = 1 - 2 * ((i + j) % 2)
  over = cloth.lift + 0.5 * sign * (
      np.cos(np.pi * along) + np.cos(np.pi * across))
  warp, weft = _round(across), _round(along)
  top = _step(4 * (over + warp - weft))
  warp_tone, weft_tone = (  # a turned cloth begins before its first thread
      tone[np.int32(each) + 2]
      for tone, each in zip(cloth.tone, (i, j), strict=True))
  warp = top * warp * warp_tone * (0.85 + 0.15 * np.tanh(over))
  weft = (1 - top) * weft * weft_tone * (0.85 - 0.15 * np.tanh(over))
  return np.stack([warp, weft], axis=-1) @ cloth.colour


def _round(offset):
  """Returns the brightness of a round thread at `offset` from its middle."""
  return 0.3 + 0.7 * np.sqrt(np.maximum(0, 1 - (1.7 * offset) ** 2))


def _step(value):
  """Steps softly from 0 to 1 about 0."""
  return 0.5 + 0.5 * np.tanh(value)


def _waves(rng, size: float) -> np.ndarray:
  """Returns a smooth random map f32[64, 64] with values of about this size."""
  total = np.zeros_like(_X)
  for _ in range(4):
    fy, fx = rng.uniform(-0.25, 0.25, 2)
    total += np.cos(fy * _Y + fx * _X + rng.uniform(0, 2 * np.pi))
  return size * total / np.sqrt(2)


# Flaws: (rng, cloth, y, x) -> the same cloth with a flaw about pixel (y, x).


def _hole(rng, cloth, y, x):
  """Opens the cloth; what is behind lies in shadow."""
  inside = _step(8 * _blob(rng, y, x, rng.uniform(2.5, 4)))
  return dataclasses.replace(cloth, cover=0.8 * inside,
                             cover_colour=np.array([50, 50, 54]))


def _stain(rng, cloth, y, x):
  inside = _step(5 * _blob(rng, y, x, rng.uniform(7, 11)))[..., None]
  absorbed = rng.uniform(0.8, 1.2) * np.array([0.12, 0.17, 0.24])
  return dataclasses.replace(cloth, dye=cloth.dye * (1 - absorbed * inside))


def _fibre(rng, cloth, y, x):
  """Lays a loose fibre upon the cloth: an arc that no thread runs along."""
  angle = rng.uniform(0.3, 1.3) + rng.integers(4) * np.pi / 2
  along = (_X - x) * np.cos(angle) + (_Y - y) * np.sin(angle)
  aside = (_X - x) * np.sin(angle) - (_Y - y) * np.cos(angle)
  aside = aside - rng.uniform(-0.03, 0.03) * along ** 2
  cover = _step(3 * (0.8 - abs(aside))) * _step(
      rng.uniform(9, 14) - abs(along))
  return dataclasses.replace(cloth, cover=0.7 * cover,
                             cover_colour=np.array([225, 222, 214]))


def _broken_thread(rng, cloth, y, x):
  """Takes out a piece of a warp thread; the weft below lies in its shadow."""
  gap = _piece(rng, cloth, y, x, (3, 6))
  return dataclasses.replace(
      cloth, lift=cloth.lift - 4 * gap,
      dye=cloth.dye * (1 - 0.22 * gap[..., None]))


def _float(rng, cloth, y, x):
  """Leaves a warp thread on top where it should pass under; it shines."""
  piece = _piece(rng, cloth, y, x, (4, 8))
  return dataclasses.replace(
      cloth, lift=cloth.lift + 4 * piece,
      dye=cloth.dye * (1 + 0.1 * piece[..., None]))


def _pulled_threads(rng, cloth, y, x):
  """Pushes some warp threads aside."""
  near = np.exp(-((_Y - y) / rng.uniform(5, 8)) ** 2
                - ((_X - x) / rng.uniform(5, 7)) ** 2)
  push = rng.choice((-1, 1)) * rng.uniform(0.9, 1.2)
  return dataclasses.replace(cloth, warp=cloth.warp + push * near)


def _blob(rng, y, x, radius) -> np.ndarray:
  """Returns a map that is 1 at a point and 0 on an uneven outline about it."""
  angle = np.arctan2(_Y - y, _X - x)
  outline = 1 + sum(
      rng.uniform(0, 0.25) * np.cos(n * angle + rng.uniform(0, 2 * np.pi))
      for n in (2, 3, 5))
  return 1 - np.hypot(_Y - y, _X - x) / (radius * outline)


def _piece(rng, cloth, y, x, threads) -> np.ndarray:
  """Tells where a warp thread is, over a number of weft threads."""
  i, j = (np.rint(each[int(y), int(x)]) for each in (cloth.warp, cloth.weft))
  return ((np.rint(cloth.warp) == i)
          & (abs(cloth.weft - j) < rng.uniform(*threads) / 2))


_FLAWS = {'hole': _hole, 'stain': _stain, 'fibre': _fibre,
          'broken_thread': _broken_thread, 'float': _float,
          'pulled_threads': _pulled_threads}
_CLASSES = ('good', *_FLAWS)
