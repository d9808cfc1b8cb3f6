"""Which part of an image makes it abnormal: Grad-CAM of a one-class score.

Selvaraju et al., ICCV 2017 (https://arxiv.org/abs/1610.02391): the channels of
a feature map, each weighted by the gradient of a scalar y, summed, without the
negative part. Li et al., CVPR 2021 (https://arxiv.org/abs/2104.04015), section
4.2, report it for the model of whole images, but neither say of which layer
nor of which scalar. Here the layer is the encoder's last one, and y is the
anomaly score, -log p of a Gaussian of the pooled features.
"""
import numpy as np
from scipy import linalg, ndimage
from sklearn import preprocessing

from deep_oc import classifiers, densities
from deep_oc.errors import InputError


def heat(density: classifiers.ShrunkGDE, feature_map: np.ndarray) -> np.ndarray:
  """Maps f[n, gh, gw, d] to the heat f64[n, gh, gw], 0 or higher = abnormal.

  The score sees a map A through its mean p over positions only. So dy/dA is
  the same at all of them, dy/dp over their number, and no backward pass
  through the encoder is needed: the heat is relu(sum_k dy/dp_k A_k). It leaves
  out the division by the number of positions, one factor for all images.

  Raises:
    InputError: the density is not one of `densities.GAUSSIANS`.
  """
  weight = gradient(density, feature_map.mean((1, 2), dtype=np.float64))
  return np.maximum(np.einsum('nyxk,nk->nyx', feature_map, weight), 0)


def gradient(density: classifiers.ShrunkGDE, pooled: np.ndarray) -> np.ndarray:
  """Maps f[n, d] to the gradient of its anomaly score, f64[n, d].

  It is g = Sigma^-1 (u - mu). If the density is of unit vectors u = f / |f|,
  the part across u is left, over the length: (g - (g.u) u) / |f|.

  Raises:
    InputError: the density is not one of `densities.GAUSSIANS`.
  """
  if not isinstance(density, classifiers.ShrunkGDE):
    raise InputError(f'Grad-CAM of {type(density).__name__} is not known; '
                     f"choose one of {', '.join(densities.GAUSSIANS)}")
  unit, length = np.asarray(pooled, np.float64), 1.
  if density.norm:
    unit, length = preprocessing.normalize(
        unit, density.norm, return_norm=True)
    length = np.where(length > 0, length, 1.)[:, None]
  g = linalg.cho_solve(
      (density.cholesky_, True), (unit - density.location_).T).T
  if density.norm:
    g = g - (g * unit).sum(axis=1, keepdims=True) * unit
  return g / length


def resize(heat: np.ndarray, height: int, width: int) -> np.ndarray:
  """Enlarges f[n, gh, gw] to f[n, height, width], bilinearly.

  Cells and pixels are squares, not points: of a cell 8 pixels wide, the value
  stands between its fourth and fifth. Beyond the outermost values all is flat.
  """
  n, gh, gw = heat.shape
  return ndimage.zoom(heat, (1, height / gh, width / gw), order=1,
                      mode='nearest', grid_mode=True)
