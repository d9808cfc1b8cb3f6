"""From the places that were scored to the pixels of an image."""
import numpy as np


def weights(length: int, place: np.ndarray, sigma: float) -> np.ndarray:
  """Returns what cells at f[g] are worth to a pixel, f64[length, g].

  By a Gaussian; rows sum to one, as those of `windows.weights`.
  """
  offset = np.arange(length)[:, None] - place
  nearest = np.abs(offset).min(axis=1, keepdims=True)
  # In terms of the nearest, so that some cell weighs something.
  weight = np.exp(-0.5 * (offset**2 - nearest**2) / sigma**2)
  return weight / weight.sum(axis=1, keepdims=True)
