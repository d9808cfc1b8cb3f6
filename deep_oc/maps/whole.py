"""Heat maps by what an encoder or its task makes of a whole image."""
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from deep_oc import (convolution, densities, errors, gradcam, oneclass,
                     pretexts, step, windows)
from deep_oc.errors import InputError
from deep_oc.maps import _arguments, _batches, _pixels


class GradCam:
  """Explains the score of whole images by Grad-CAM on the last feature map.

  The density is one of pooled features, and Gaussian.
  """
  learns_from = 'pool'
  leaves_out = False

  def __init__(self, pretext: nn.Module, seed: int, *,
               classifier: str = 'gde_ledoit_wolf'):
    """Checks the arguments.

    Args:
      pretext: the task, trained on whole images.
      seed: not used.
      classifier: one of `densities.GAUSSIANS`.
    """
    del seed
    if classifier not in densities.GAUSSIANS:
      raise errors.unknown('density for Grad-CAM', classifier,
                           densities.GAUSSIANS)
    if getattr(pretext, 'crop', 0):
      raise InputError('Grad-CAM explains an encoder of whole images; this one '
                       'was trained on crops: localize.name=windows')
    self.classifier = classifier
    self._encoder = pretext.encoder
    self._embed = jax.jit(functools.partial(_feature_map, pretext))

  def check(self, height: int, width: int) -> None:
    """Raises InputError unless the features are the mean of a feature map."""
    features, found = pretexts.shapes(self._encoder, height, width)
    if found is None or found[3:] != features[1:]:
      raise InputError('Grad-CAM takes the feature map of which the features '
                       'are the mean; this encoder sows '
                       + ('another' if found else 'no map'))

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'GradCam':
    """Fits the density to the pooled features f[n, d] of normal images."""
    del description  # it takes no time
    self._look = functools.partial(self._embed, variables)
    self.density_ = oneclass.fit(self.classifier, train)
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    heat = _batches.in_parts(lambda part: gradcam.heat(
        self.density_, np.asarray(self._look(part))), image, description)
    return gradcam.resize(heat, *image.shape[1:3]).astype(np.float32)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both."""
    return self.fit(variables, train).maps(image, description)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the fitted density, JSON-able."""
    return oneclass.parameters(self.density_) | {
        'classifier': self.classifier}


class ScoreMap:
  """Takes what the task itself says of each position of the encoder's map.

  Each position is spread over the pixels by a Gaussian, as in Liznerski et al.,
  ICLR 2021; the weights of a pixel sum to one, see `windows.weights`.
  """
  learns_from = 'nothing'
  leaves_out = False

  def __init__(self, pretext: nn.Module, seed: int, *, sigma: float = 12.0):
    """Checks the arguments.

    Args:
      pretext: the task, with `score_map`.
      seed: not used.
      sigma: of the Gaussian, in pixels.
    """
    del seed
    if not hasattr(pretext, 'score_map'):
      raise InputError("localize.name='task' takes a task that has a map of "
                       "its own, as pretext.name='fcdd'")
    if (not hasattr(pretext.encoder, 'stride')
        or hasattr(pretext.encoder, 'receptive_field')):
      raise InputError("localize.name='task' takes an encoder that pads and "
                       "knows where its map lies, as encoder.name='fcdd'")
    _arguments.check_sigma(sigma)
    self.sigma, self._stride = sigma, pretext.encoder.stride
    self._embed = jax.jit(functools.partial(score_map, pretext))
    self.classifier, *more = pretexts.names(pretext, 'score_map')
    if more or self.classifier not in pretexts.names(pretext, 'scores'):
      raise InputError("the pretext task's `score_map` must have one name, and "
                       'that of one of its `scores`')

  def check(self, height: int, width: int) -> None:
    """Does nothing: images of any size have a map."""

  def fit(self, variables: Mapping[str, Any], train: np.ndarray,
          description: str | None = None) -> 'ScoreMap':
    """Takes the variables of the network, and nothing of the images."""
    del train, description
    self._look = functools.partial(self._embed, variables)
    return self

  def maps(self, image: np.ndarray, description: str | None = None
           ) -> np.ndarray:
    """Maps u8[m, h, w, c] to f32[m, h, w], higher = more anomalous."""
    score = _batches.in_parts(self._look, image, description)
    return self.enlarge(score, *image.shape[1:3]).astype(np.float32)

  def enlarge(self, score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spreads f[n, gh, gw] over pixels, f64[n, h, w]."""
    rows, columns = (
        _pixels.weights(length, self._stride * np.arange(cells), self.sigma)
        for length, cells in zip(
            (height, width), score.shape[1:], strict=True))
    return windows.upsample(score, rows, columns)

  def fit_maps(self, variables: Mapping[str, Any], train: np.ndarray,
               image: np.ndarray, description: str | None = None
               ) -> np.ndarray:
    """Does both."""
    return self.fit(variables, train).maps(image, description)

  def parameters(self) -> dict[str, object]:
    """Returns what defines the maps, JSON-able."""
    return {'classifier': self.classifier, 'sigma': self.sigma}


def score_map(pretext: nn.Module, variables: Mapping[str, Any],
              image: jax.Array) -> jax.Array:
  """Maps u8 or f32[n, h, w, c] to the task's `score_map`, f32[n, gh, gw]."""
  with convolution.precise():  # for the reason that features have
    [found] = pretext.apply(
        variables, step.to_float(image), method='score_map').values()
    return found


def _feature_map(pretext, variables, image):
  with convolution.precise():  # for the reason that features have
    return windows.feature_map(pretext, variables, step.to_float(image))
