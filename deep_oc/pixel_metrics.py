"""How well anomaly maps find defects: higher = more anomalous.

Every function takes maps f[n, h, w] and masks bool[n, h, w], True = defect,
and returns percent, always within [0, 100]. Defect-free images count: their
pixels are normal ones. Only the order of the scores matters, and every
distinct one is a threshold: nothing is binned or subsampled.
"""
import numpy as np
from scipy import ndimage

from deep_oc.errors import InputError

_PLANE = {4: ndimage.generate_binary_structure(2, 1),
          8: ndimage.generate_binary_structure(2, 2)}


def pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
  """Returns how often a defect's pixel scores above a normal one.

  Over all pairs of pixels of all images; a tie counts half.

  Raises:
    InputError: see `pro_curve`.
  """
  maps, masks = _checked(maps, masks)
  normal, defect = np.sort(maps[~masks]), np.sort(maps[masks])
  wins = sum(int(np.searchsorted(normal, defect, side).sum())
             for side in ('left', 'right'))  # each pair twice, a tie once
  return 50 * wins / (len(normal) * len(defect))


def aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3,
          connectivity: int = 8) -> float:
  """Returns the area under `pro_curve` up to FPR = limit, over limit.

  The trapezoid rule, by which the normal pixels of a tie count half; the curve
  ends on the straight line between its points next to the limit. Maps that
  are all one value have the diagonal, hence 50 limit (15 at 0.3), not 50.

  Raises:
    InputError: see `pro_curve`; or the limit is not in (0, 1].
  """
  if not 0 < limit <= 1:
    raise InputError(f'the FPR limit is {limit}; it must be in (0, 1]')
  fpr, pro = pro_curve(maps, masks, connectivity)
  end = np.searchsorted(fpr, limit, side='right')
  last = np.interp(limit, fpr[end - 1:end + 1], pro[end - 1:end + 1])
  area = np.trapezoid(np.append(pro[:end], last), np.append(fpr[:end], limit))
  return float(min(100 * area / limit, 100))  # rounding


def pro_curve(maps: np.ndarray, masks: np.ndarray, connectivity: int = 8
              ) -> tuple[np.ndarray, np.ndarray]:
  """Returns the false positive rate and the per-region overlap, f64[k] each.

  Both rise from 0 to 1 as the threshold falls, a point for each distinct score
  s, at which all pixels of score >= s are flagged: the share of the normal
  pixels of all images, and the share of a defect's pixels, averaged over
  defects great and small (Bergmann et al., 2021,
  https://doi.org/10.1007/s11263-020-01400-4). A defect is a connected
  component of a mask; pixels that touch by a corner are connected
  (connectivity 8), as in MVTec's evaluation code, or are not (4).

  Raises:
    InputError: shapes differ, a map has NaN, or the masks have no defect or
      nothing else.
  """
  maps, masks = _checked(maps, masks)
  region = _regions(masks, connectivity).ravel()
  order = np.argsort(maps, axis=None)[::-1]
  score, region = maps.ravel()[order], region[order]
  weight = 1 / np.bincount(region)
  weight[0] = 0  # normal pixels
  point = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)
  return (_rise(np.cumsum(region == 0)[point]),
          _rise(np.cumsum(weight[region])[point]))


def _rise(total):
  """Scales a rising f[k] to end at 1, and starts it at 0."""
  return np.insert(total / total[-1], 0, 0.)


def _regions(masks, connectivity):
  """Numbers the components of bool[n, h, w], in i32 of the shape; 0: none."""
  if connectivity not in _PLANE:
    raise InputError(f'connectivity is {connectivity}; it must be 4 or 8')
  within = np.pad(_PLANE[connectivity][None], ((1, 1), (0, 0), (0, 0)))
  return ndimage.label(masks, within)[0]  # not across images


def _checked(maps, masks):
  maps, masks = np.asarray(maps), np.asarray(masks) != 0
  if maps.ndim != 3 or maps.shape != masks.shape:
    raise InputError(f'anomaly maps {maps.shape} and masks {masks.shape} must '
                     'be of one shape, (images, height, width)')
  bad = np.flatnonzero(np.isnan(maps).any(axis=(1, 2)))
  if bad.size:
    raise InputError(f'anomaly map {bad[0]} has NaN')
  if not masks.any():
    raise InputError(f'none of the {len(masks)} masks marks a defect; pixel '
                     'metrics need one at least')
  if masks.all():
    raise InputError(f'the {len(masks)} masks mark every pixel as a defect; '
                     'pixel metrics need normal ones too')
  return maps, masks
