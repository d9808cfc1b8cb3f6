"""Whether a bundle on disk says what the trainer's own code says.

The bundle is read by a process of its own in which neither Flax nor deep_oc nor
scikit-learn can be imported.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deep_oc import detector, experiment, unseen
from deep_oc.bundle import passes
from deep_oc.errors import InputError

TOLERANCE = 1e-5  # of a score; see `relative`
MAP_TOLERANCE = 1e-4  # of a heat map in float32, relative to its largest value
SIZES = (1, 2, 7)  # of batches; the rest goes through at once
MAPS = 4  # how many images have their heat maps compared
_TIES = 2  # calibration scores that rounding may carry an image past
_REAL, _NOISE = 64, 14

# Images 0, 1-2, 3-9 and the rest are judged apart, as SIZES says.
_PROGRAM = '''
import sys
for name in ('flax', 'deep_oc', 'sklearn', 'ml_collections'):
  sys.modules[name] = None
import numpy as np
import bundle
given, taken, *pictures = sys.argv[1:]
found = bundle.load('.')
with np.load(given, allow_pickle=False) as file:
  images, ends, maps = file['images'], file['ends'], int(file['maps'])
judged = [found.judge(each) for each in np.split(images, ends)]
arrays = dict(zip(bundle.Judged._fields, map(np.concatenate, zip(*judged))))
if found.localizes:
  arrays['map'] = found.heat_maps(images[:maps])
for i, picture in enumerate(pictures):
  arrays[f'picture_{i}'] = found.prepare(picture)
np.savez(taken, **arrays)
'''


class Examples(NamedTuple):
  """Images u8[n, h, w, 3], and how many of them are of each kind."""
  images: np.ndarray
  kinds: dict[str, int]


def check(folder: pathlib.Path, found: detector.Detector, examples: Examples,
          maps: np.ndarray | None) -> dict[str, Any]:
  """Returns how far the bundle in a folder is from a detector.

  Args:
    folder: of the bundle.
    found: the detector.
    examples: to compare.
    maps: heat maps f32[m, h, w] of the first of them, by the trainer's code.

  Raises:
    InputError: it is further than it may be, or cannot be used.
  """
  images, kinds = examples
  wanted = _wanted(images, found)
  with tempfile.TemporaryDirectory() as aside:
    given, taken = (f'{aside}/{name}.npz' for name in ('given', 'taken'))
    pictures = list(_pictures(pathlib.Path(aside), found.image_shape,
                              found.parts().config.data))
    np.savez(given, images=images, ends=np.cumsum(SIZES), maps=MAPS)
    got = _judged(folder, given, taken, pictures)
    same = [np.array_equal(found.prepare(picture), got[f'picture_{i}'])
            for i, picture in enumerate(pictures)]
  if not all(same):
    raise InputError(f'the bundle prepares {len(same) - sum(same)} of '
                     f'{len(same)} pictures otherwise than the trainer does')
  report = {'images': kinds, 'batches': [*SIZES, len(images) - sum(SIZES)],
            'pictures': len(pictures)}
  report |= _scores(wanted, got, found)
  report['max_batch_difference'] = float(
      relative(wanted.score, found.judge(images).score, found).max())
  if maps is not None:
    report |= _maps(maps, got['map'])
  return report


def _wanted(images, found):
  """Returns what the detector says, of the batches that the bundle makes.

  Sums are taken in an order that depends on how many images there are, and a
  Gaussian of 209 images in 512 dimensions made 6e-5 of a score of the last bit
  of its features: of what is not the same, no 1e-5 could be asked.
  """
  judged = [found.judge(each, passes.padded(len(each), *images.shape[1:3]))
            for each in np.split(images, np.cumsum(SIZES))]
  return detector.Judged(*map(np.concatenate, zip(*judged, strict=True)))


def _by_maps(found):
  return found.feature == detector.WINDOWS


def relative(score: np.ndarray, other: np.ndarray, found: detector.Detector
             ) -> np.ndarray:
  """Returns how far scores f[n] are apart, relative to 1 or to their size.

  Those that are the largest of heat maps, relative to the largest, as maps, and
  so the task's own: a log-density may be near 0 and the sum of large terms.
  """
  size = np.abs(score)
  if _by_maps(found) or found.feature == detector.SCORE:
    size = size.max()
  return np.abs(other - score) / np.maximum(1, size)


def _scores(wanted, got, found):
  tolerance = MAP_TOLERANCE if _by_maps(found) else TOLERANCE
  off = relative(wanted.score, got['score'], found)
  worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
  if not off[worst] <= tolerance:
    raise InputError(
        f"the bundle's score of an image is {got['score'][worst]:.9g}, the "
        f"trainer's {wanted.score[worst]:.9g}: more than {tolerance:g} apart")
  p_off = np.abs(got['p_value'] - wanted.p_value)
  # A score that ties with a calibration score may come to lie below it.
  normals = sum(len(scores) for _, scores in found.parts().calibrated.parts)
  if p_off.max() > (_TIES + 0.5) / (1 + normals):
    raise InputError(f"p-values differ from the trainer's by {p_off.max():.3g}")
  return {'tolerance': tolerance, 'max_absolute_difference': float(
              np.abs(got['score'] - wanted.score).max()),
          'max_relative_difference': float(off.max()),
          'max_p_value_difference': float(p_off.max()),
          'verdicts_that_differ': int(
              (got['anomalous'] != wanted.anomalous).sum())}


def _maps(wanted, got):
  off = float(np.abs(got - wanted).max() / (np.abs(wanted).max() or 1))
  if not off <= MAP_TOLERANCE:
    raise InputError(f"heat maps differ from the trainer's by {off:.3g} of the "
                     f'largest value, more than {MAP_TOLERANCE:g}')
  return {'max_map_difference': off, 'map_tolerance': MAP_TOLERANCE}


def _judged(folder, given, taken, pictures):
  done = subprocess.run(
      [sys.executable, '-c', _PROGRAM, given, taken, *map(str, pictures)],
      cwd=folder, capture_output=True, text=True, check=False,
      env=os.environ | {'PYTHONDONTWRITEBYTECODE': '1'})
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ['it was ended'])[-1]
    raise InputError(f'the bundle cannot be used by itself: {last}')
  with np.load(taken, allow_pickle=False) as file:
    return dict(file)


def examples(found: detector.Detector) -> Examples:
  """Returns test images and noise."""
  rng = np.random.default_rng(0)
  shape = found.image_shape
  noise = rng.integers(0, 256, (_NOISE, *shape), np.uint8)
  noise[0], noise[1] = 0, 255
  try:
    test = experiment.problem(found.parts().config).test.image
  except InputError as error:
    print(f'compare noise only, for no image can be read: {error}')
    return Examples(noise, {'noise': len(noise)})
  some = np.linspace(0, len(test) - 1, min(_REAL, len(test))).astype(int)
  return Examples(np.concatenate([test[some], noise]), {
      'test': len(some), 'noise': len(noise)})


def _pictures(folder: pathlib.Path, shape: tuple[int, int, int],
              data: Mapping[str, Any]) -> Iterator[pathlib.Path]:
  """Writes pictures of all kinds; yields their paths."""
  rng = np.random.default_rng(1)
  size = unseen.described(data)['size']
  height, width = size[::-1] if size else (shape[0] + 13, 2 * shape[1] - 7)
  colour = rng.integers(0, 256, (height, width, 4), np.uint8)
  kinds = {'rgb.png': colour[..., :3], 'rgba.png': colour,
           'grey.png': colour[..., 0], 'rgb.jpg': colour[..., :3],
           'wide.png': colour[..., 0].astype(np.uint16) * 201}
  for name, array in kinds.items():
    Image.fromarray(array).save(folder / name)
    yield folder / name
  Image.fromarray(colour[..., :3]).quantize(32).save(folder / 'palette.png')
  yield folder / 'palette.png'


def shown(report: dict[str, Any]) -> str:
  """Returns the report in words."""
  count = sum(report['images'].values())
  return (f"{count} images ({json.dumps(report['images'])[1:-1]}): scores "
          f"within {report['max_relative_difference']:.2g}, p-values within "
          f"{report['max_p_value_difference']:.2g}, "
          f"{report['verdicts_that_differ']} verdicts differ; between batches "
          'of different sizes the trainer differs from itself by '
          f"{report['max_batch_difference']:.2g}")

