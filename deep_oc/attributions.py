"""Which pixels raise an anomaly score: four explanations of one scalar.

A score maps f32[n, h, w, c] in [0, 1] to f[n], higher = more anomalous, each
image by itself: any function that JAX differentiates, or a
`differentiable.Score`. It is evaluated under `jax.enable_x64`, some images at a
time. Attributions are positive where a pixel makes the image more anomalous.
"""
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import gen_batches

from deep_oc import differentiable, gradcam, orientation, pretexts, windows

Score = Callable[[jax.Array], jax.Array]

_FORWARD = 2**18  # pixels at once, of all views; bounds the memory
_BACKWARD = 2**16  # the same, where the activations of all layers are kept

STEPS = 50  # the usual number to begin with
TOLERANCE = 0.01  # of the completeness error


def _in_float64(function: Callable) -> Callable:
  """Calls a function where float64 is left as it is."""
  @functools.wraps(function)
  def called(*args):
    with jax.enable_x64(True):
      return function(*args)
  return called


class Integrated(NamedTuple):
  """Integrated gradients of n images.

  Attributes:
    attribution: f64[n, h, w, c].
    score, score_of_baseline: f64[n].
    error: f64[n], the completeness error |sum_j IG_j - rise| / |rise|, with
      rise = s(x) - s(x0).
    steps: i64[n], gradients that each took.
  """
  attribution: np.ndarray
  score: np.ndarray
  score_of_baseline: np.ndarray
  error: np.ndarray
  steps: np.ndarray


def integrated_gradients(
    score: Score, image: np.ndarray, baseline: np.ndarray, *,
    steps: int = STEPS, tolerance: float = TOLERANCE, most: int = 27 * STEPS
) -> Integrated:
  """Divides the rise of the score since a baseline among the pixels.

    IG_j = (x_j - x0_j) * int_0^1 ds/dx_j (x0 + a (x - x0)) da

  Sundararajan et al., ICML 2017 (https://arxiv.org/abs/1703.01365). Complete:
  the IG_j add up to s(x) - s(x0). The integral is taken by the midpoint rule,
  for the images whose sum is not yet within the tolerance with three times the
  steps: a third of their points are those that there are.

  Args:
    score: s.
    image: x, f32[n, h, w, c].
    baseline: x0, f32[n, h, w, c] or f32[h, w, c].
    steps: of the first attempt.
    tolerance: the completeness error to reach; inf takes the first attempt.
    most: steps at most.
  """
  image = np.asarray(image, np.float32)
  baseline = np.broadcast_to(np.float32(baseline), image.shape)
  path, rows = image - baseline, np.arange(len(image))
  end, start = values(score, image), values(score, baseline)
  position = (np.arange(steps) + 0.5) / steps

  def gradient(rows, position):
    def point(i, j):
      return baseline[rows[i]] + np.float32(position[j])[
          :, None, None, None] * path[rows[i]]
    return _mean_gradient(score, image[rows], len(position), point)

  mean, taken = gradient(rows, position), np.full(len(image), steps)
  while True:
    error = completeness_error((mean * path).sum((1, 2, 3)), end - start)
    rows = np.flatnonzero((error > tolerance) & (3 * taken <= most))
    if not len(rows):
      return Integrated(mean * path, end, start, error, taken)
    steps *= 3
    finer = (np.arange(steps) + 0.5) / steps
    mean[rows] = (mean[rows] + 2 * gradient(
        rows, finer[np.arange(steps) % 3 != 1])) / 3
    taken[rows] = steps


def completeness_error(total: np.ndarray, rise: np.ndarray) -> np.ndarray:
  """Returns |total - rise| / |rise| of f[n] each; 0 where both are 0."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(total == rise, 0., np.abs((total - rise) / rise))


def smooth_grad(score: Score, image: np.ndarray, key: jax.Array, *,
                samples: int = 50, noise: float = 0.15) -> np.ndarray:
  """Returns the gradient's mean over noisy copies of an image, f64[n, h, w, c].

    mean_k grad s(x + e_k), e_k ~ N(0, sigma^2 I)

  Smilkov et al., 2017 (https://arxiv.org/abs/1706.03825), where 50 samples and
  a sigma of 10 to 20 % of the image's range are recommended.

  Args:
    score: s.
    image: x, f32[n, h, w, c].
    key: of the noise; image i has that of fold_in(key, i).
    samples: how many copies.
    noise: sigma as a share of max(x) - min(x).
  """
  image = np.asarray(image, np.float32)
  sigma = noise * np.ptp(image, axis=(1, 2, 3), keepdims=True)

  def point(i, k):
    return image[i] + sigma[i] * np.asarray(
        _normal(key, i, k, image.shape[1:]))
  return _mean_gradient(score, image, samples, point)


@functools.partial(jax.jit, static_argnums=3)
def _normal(key, i, k, shape):
  def draw(i, k):
    each = jax.random.fold_in(jax.random.fold_in(key, i), k)
    return jax.random.normal(each, shape, jnp.float32)
  return jax.vmap(draw)(i, k)


def grad_cam(score: differentiable.Score, image: np.ndarray) -> np.ndarray:
  """Returns the last map's channels, weighted by the gradient, f64[n, h, w].

    relu(sum_k ds/dp_k A_k), p the mean of the map A over positions

  Selvaraju et al., ICCV 2017; `deep_oc.gradcam` tells why no backward pass
  through the encoder is needed. Where the encoder sees several tiles of an
  image their maps are put together; where it sees it turned or mirrored, the
  maps are put upright and added up. Pixels in no tile are 0.
  """
  image = np.asarray(image, np.float32)
  parts = _parts(image, _pixels(score, image, _FORWARD))
  heat = np.concatenate([_cam(score, part) for part in parts])[:len(image)]
  side = score.pretext.crop if getattr(score.pretext, 'crop', 0) else 0
  height, width = (length // side * side if side else length
                   for length in image.shape[1:3])
  return _centred(gradcam.resize(heat, height, width), image.shape[1:3])


def _cam(score, image):
  """Maps f32[n, h, w, c] to f64[n, gh, gw], all tiles in one."""
  weight, feature_map = _weights(score, image)
  heat = np.einsum('nyxk,nk->nyx', np.float64(feature_map), weight)
  seen = score.orientations
  heat = heat.reshape(-1, len(seen), *heat.shape[1:])
  heat = orientation.undone(heat, seen).sum(1)
  return np.maximum(_untiled(heat, score.pretext, image.shape), 0)


@_in_float64
@jax.jit
def _weights(score, image):
  seen = score.look(image)
  weight = jax.grad(lambda pooled: score.of_pooled(
      pooled, seen.earlier, image).sum())(seen.pooled)
  # Of features that are the whole map, as the mean's: summed over positions.
  channels = seen.map.shape[-1]
  return weight.reshape(len(weight), -1, channels).sum(1), seen.map


def _untiled(heat, pretext, shape):
  """Puts f[n * t, gh, gw] together to f[n, rows * gh, columns * gw]."""
  n, side = shape[0], getattr(pretext, 'crop', 0)
  if not side:
    return heat
  rows, columns = shape[1] // side, shape[2] // side
  heat = heat.reshape(n, rows, columns, *heat.shape[1:]).swapaxes(2, 3)
  return heat.reshape(n, rows * heat.shape[2], -1)


def _centred(heat, shape):
  """Adds zeros around f[n, h, w]."""
  free = [wanted - there for wanted, there in
          zip(shape, heat.shape[1:], strict=True)]
  return np.pad(heat, [(0, 0), *((each // 2, each - each // 2)
                                 for each in free)])


def occlusion(score: Score, image: np.ndarray, fill: np.ndarray | float, *,
              side: int, stride: int) -> np.ndarray:
  """Returns how far the score falls when a window is hidden, f64[n, h, w].

    s(x) - s(x with the window filled), of a pixel the mean over its windows

  Zeiler & Fergus, ECCV 2014 (https://arxiv.org/abs/1311.2901).

  Args:
    score: s.
    image: x, f32[n, h, w, c].
    fill: what windows are filled with: a value, or what is there of
      f32[n, h, w, c] or f32[h, w, c].
    side, stride: of the windows, in pixels; the last ones end at the edge.

  Raises:
    InputError: the windows do not fit.
  """
  image = np.asarray(image, np.float32)
  n, *shape = image.shape[:3]
  rows, columns = (windows.starts(length, side, stride) for length in shape)
  fill = np.broadcast_to(np.float32(fill), image.shape)
  place = windows.places(n, rows, columns)
  fall = np.repeat(values(score, image), len(rows) * len(columns))
  for part in gen_batches(len(place), _size(len(place), shape, _FORWARD)):
    hidden = image[place[part, 0]]
    for each, (i, y, x) in zip(hidden, place[part], strict=True):
      window = np.s_[y:y + side, x:x + side]
      each[window] = fill[i][window]
    fall[part] -= values(score, hidden)
  total, count = np.zeros((n, *shape)), np.zeros((n, *shape))
  for (i, y, x), each in zip(place, fall, strict=True):
    total[i, y:y + side, x:x + side] += each
    count[i, y:y + side, x:x + side] += 1
  return np.divide(total, count, out=total, where=count > 0)


def signed(attribution: np.ndarray) -> np.ndarray:
  """Sums f[n, h, w, c] over channels: what a pixel adds to the score."""
  return attribution.sum(axis=-1)


def magnitude(gradient: np.ndarray) -> np.ndarray:
  """Sums |f[n, h, w, c]| over channels: how much hangs on a pixel.

  A gradient's sign says whether brighter is more anomalous, not whether the
  pixel is.
  """
  return np.abs(gradient).sum(axis=-1)


def values(score: Score, image: np.ndarray) -> np.ndarray:
  """Maps f32[n, h, w, c] to the scores f64[n]."""
  parts = [_value(_argument(score), part)
           for part in _parts(image, _pixels(score, image, _FORWARD))]
  return np.float64(np.concatenate(parts)[:len(image)])


def _mean_gradient(score, image, count, point):
  """Returns the mean of the gradients at some points for each image.

  Args:
    score: s.
    image: f32[n, h, w, c], for its shape.
    count: of points.
    point: (i64[m], i64[m]), images and points, -> f32[m, h, w, c].
  """
  total = np.zeros(image.shape)
  i, k = np.divmod(np.arange(len(image) * count), count)
  size = _size(len(i), image.shape[1:3], _pixels(score, image, _BACKWARD))
  score = _argument(score)
  for part in gen_batches(len(i), size):
    found = _gradient(score, _padded(point(i[part], k[part]), size))
    np.add.at(total, i[part], np.float64(found[:len(i[part])]))
  return total / count


@_in_float64
@jax.jit
def _value(score, image):
  return score(image)


@_in_float64
@jax.jit
def _gradient(score, image):
  return jax.grad(lambda x: score(x).sum())(image)


def _argument(score: Any):
  """Returns what can be an argument of a jitted function."""
  leaf = jax.tree.structure(score) == jax.tree.structure(0)
  return jax.tree_util.Partial(score) if leaf else score


def _pixels(score, image, most):
  """Returns how many pixels of f[n, h, w, c] are seen as so many of all views.
  """
  if not isinstance(score, differentiable.Score):
    return most
  height, width = image.shape[1:3]
  seen = math.prod(pretexts.extent(score.pretext, height, width))
  return most * height * width // (seen * len(score.orientations))


def _parts(image, pixels):
  """Yields f32[n, h, w, c] in parts of one size, the last one padded."""
  size = _size(len(image), image.shape[1:3], pixels)
  for part in gen_batches(len(image), size):
    yield _padded(np.float32(image[part]), size)


def _size(n, shape, pixels):
  """Returns a power of two: so many of n images at once."""
  most = max(pixels // (shape[0] * shape[1]), 1)
  return min(2 ** (n - 1).bit_length(), 2 ** (most.bit_length() - 1))


def _padded(image, size):
  return np.pad(image, [(0, size - len(image))] + [(0, 0)] * (image.ndim - 1))
