"""Pretext tasks: what an encoder is asked so that it learns the normal.

A task is a file here with one public class, a Flax module:

  class Pretext(nn.Module):
    encoder: nn.Module                  image f32[n, h, w, c] -> f32[n, d]
    augment: Callable                   (key, image) -> image, one image
    dtype: Any                          the compute dtype
    crop: int = 0, optional             side of the patches it is asked of
    side: int = 0, optional             to which images are resized first
    seen(image), optional               -> an image or a tile as the encoder is
                                        given it, if more than `centred`
                                        changes it: grey, resized, ...
    centre: bool = False, optional      whether it sees images only `centred`
    centred(image), optional            -> f32[n, h, w, c], whole images, less
                                        the `MeanImage` with `centre`

    inputs_per_image: int               network inputs per source image

    __call__(image, *, train)           -> (loss, metrics), scalars
    embed(image)                        -> {'pool': f32[n, d], ...}
    scores(image, *, log), optional     -> {name: f32[n]}
    score_map(image), optional          -> {name: f32[n, gh, gw]}, of one name,
                                        one of `scores`; see `maps.ScoreMap`
    score_views: Members, optional      how `scores` sees an image, if not as
                                        it is; see `deep_oc.orientation`
    statistics(image), optional         -> {name: f32[n, ...]}, whose means over
                                        the training images `scores` needs
    fitted(means), optional             -> {name: array} for `Fitted`, in place
                                        of these means, which are in float64
    trains: bool = True, optional       False: no step changes anything
    fewest_images: int = 1, optional    that a step compares

Images are f32[n, h, w, c] in [0, 1]; parameters are made by a call with `train`
False. Views, targets, heads and the loss live in the task; whatever is not
trained by gradient lives in a Linen collection. Its randomness comes from
`self.make_rng('views')`. Metrics that tell of guessing come in pairs:
`accuracy` and its `chance`. Scores are anomaly scores: higher means more
anomalous. Some are one minus a probability; with `log`, False by default, these
are minus the log of it, which `deep_oc.scores` tells more of: explanations are
of these. Others are distances, errors or densities, of any scale, and the same
with `log`. The train step serves every task and never changes.

A task with a `crop` sees one patch of each image in training (`deep_oc.crops`);
0 means whole images. Later an image's features are the mean over the tiles of
`crop` pixels that it holds, its scores the largest. The feature of any single
window is `pretext.clone(crop=0).embed(window)['pool']`.
"""
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deep_oc import augment as augmentations
from deep_oc import crops, models, plugins
from deep_oc.errors import InputError


ENCODER = ('encoder',)  # its path in a task

# What methods return, and the fewest and most axes that may have.
_RETURNED = {'embed': ("{'pool': f32[n, d], ...}", 2, 2),
             'scores': ('{name: f32[n]}', 1, 1),
             'score_map': ('{name: f32[n, gh, gw]}', 3, 3),
             'statistics': ('{name: f32[n, ...]}', 1, math.inf)}


class MeanImage(nn.Module):
  """The mean training image, in [0, 1], which does not change in training.

  NaN in `step.init`; `step.begun` knows it. It is made in the call that makes
  the parameters.
  """

  @nn.compact
  def __call__(self, shape: tuple[int, ...]) -> jax.Array:
    """Returns f32[*shape], of an image."""
    return self.variable(
        'mean_image', 'value', jnp.full, shape, jnp.nan).value


class Fitted(nn.Module):
  """What a task's scores need of the training images, one array by its name.

  NaN until training ends, when the trained network has seen them once more. It
  is made in the call that makes the parameters.
  """

  @nn.compact
  def __call__(self, shape: tuple[int, ...]) -> jax.Array:
    """Returns f32[*shape]."""
    return self.variable(
        'statistics', 'value', jnp.full, shape, jnp.nan).value


def lacks_statistics(variables: Mapping[str, Any]) -> bool:
  """Tells whether `Fitted` of a task's variables is not known yet."""
  return any(np.isnan(each).any()
             for each in jax.tree.leaves(variables.get('statistics', {})))


def create(name: str, *, encoder: Mapping[str, Any], dtype: Any,
           augment: Mapping[str, Any] | None = None, **kwargs) -> nn.Module:
  """Returns the task `name`; the arguments are groups of a config."""
  task = plugins.find('deep_oc.pretexts', name, 'Pretext')
  return plugins.call(
      task, kwargs, 'pretext', dtype=dtype,
      encoder=models.create(**encoder, dtype=dtype),
      augment=plugins.call(
          augmentations.Chain, augment or {}, 'pretext.augment'))


def views(augment, key: jax.Array, image: jax.Array, count: int, crop: int = 0
          ) -> jax.Array:
  """Draws `count` views of each image, independently.

  Args:
    augment: (key, f32[h, w, c]) -> f32[h, w, c].
    key: for the whole batch.
    image: f32[n, h, w, c].
    count: v.
    crop: side of the patch that all views of an image are of, drawn anew for
      each image; 0 = the whole image.

  Returns:
    f32[n, v, h, w, c]. The view axis follows the batch axis, so that a batch
    that is spread over devices stays where it is.
  """
  if crop:
    crop_key, key = jax.random.split(key)
    image = crops.random_crops(crop_key, image, crop)
  keys = jax.random.split(key, (len(image), count))
  per_view = jax.vmap(augment, in_axes=(0, None))
  return jax.vmap(per_view)(keys, image)


def features(task: nn.Module, image: jax.Array) -> dict[str, jax.Array]:
  """Returns what `embed` does of a bound task with an encoder and an MLP.

  'pool', and 'head' unless the MLP has no layer. Of an image larger than the
  crop, the mean over the crops that tile it.
  """
  pool = task.encoder(crops.tiles(image, task.crop), train=False)
  found = {'pool': pool}
  if task.head:
    found['head'] = task.mlp(pool, train=False)
  return crops.over_tiles(jnp.mean, found, image.shape[0])


def check_arrays(found: Any, method: str) -> None:
  """Raises InputError if a task's method does not return what it must.

  Where it is traced, for the values do not matter.
  """
  wanted, fewest, most = _RETURNED[method]
  if not isinstance(found, Mapping) or (
      method == 'embed' and 'pool' not in found) or not all(
          fewest <= jnp.ndim(each) <= most for each in found.values()):
    got = jax.tree.map(lambda x: str(jax.typeof(x)), found)
    raise InputError(
        f"the pretext task's `{method}` must return {wanted}, not {got}")


def names(task: nn.Module, method: str) -> tuple[str, ...]:
  """Returns the names of what a method of the task returns, () without it."""
  if not hasattr(task, method):
    return ()
  # Of any size that is large enough, the names are these.
  side = getattr(task, 'crop', 0) or 512
  found, _ = jax.eval_shape(
      functools.partial(task.init_with_output, method=method),
      jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
  check_arrays(found, method)
  return tuple(found)


def centres(task: nn.Module) -> bool:
  """Tells whether the task sees images only `centred`."""
  return hasattr(task, 'centred') and task.centre


def extent(task: nn.Module, height: int, width: int) -> tuple[int, int]:
  """Returns height and width of one image of as many pixels as are encoded.

  For an image of this height and width, once `side` and `crop` have made of it
  what the encoder is given; by it, batches are bounded.
  """
  side, crop = getattr(task, 'side', 0), getattr(task, 'crop', 0)
  if not side:
    return height, width
  tiles = (height // crop) * (width // crop) if crop else 1
  return side * tiles, side


def shapes(encoder: nn.Module, height: int, width: int
           ) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
  """Returns the shapes of an encoder's features and of its last map.

  Of one image; None for the map of an encoder that sows none.
  """
  image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
  features, found = jax.eval_shape(functools.partial(
      encoder.init_with_output, train=False, mutable=True),
                                   jax.random.key(0), image)
  sown = found.get('intermediates', {}).get('map')
  return features.shape, sown[0].shape if sown else None


def look(task: nn.Module, variables: Mapping[str, Any], image: jax.Array,
         method: str = 'embed', **kwargs: Any
         ) -> tuple[dict[str, jax.Array], Mapping[str, Any]]:
  """Calls a method of the task on f32[n, h, w, c].

  Returns:
    What it returns, and what its encoder sowed, tuples by name, with what the
    encoder returned as '__call__'. Under `jax.jit`, what is not used is free.
  """
  value, extra = task.apply(
      variables, image, method=method, mutable=['intermediates'],
      capture_intermediates=lambda module, _: module.path == ENCODER, **kwargs)
  check_arrays(value, method)
  return value, extra['intermediates']['encoder']
