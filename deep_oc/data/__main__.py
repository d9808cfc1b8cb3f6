"""Says what is in a folder of images, before anybody trains on it.

  python -m deep_oc.data path/to/mvtec_ad/bottle
  python -m deep_oc.data path/to/normal --anomalous_path=path/to/broken

deep_oc/data/folder.py tells which layouts are read. Every file is opened, as
training would: the exit status is 0 if training can, and 2 if it cannot.
"""
import collections
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags

from deep_oc import cli
from deep_oc.data import _layout, _pictures, folder
from deep_oc.errors import InputError

_HEAD = ('split', 'class', 'images', 'masks', 'size', 'mode', 'mask mode',
         'format')
_CALIBRATE = 19  # normal images, for a false-alarm rate of 5 %


def define_flags() -> None:
  flags.DEFINE_string(
      'anomalous_path', None, 'Folder of anomalous images, where the path is '
      'a plain folder of normal ones.')
  flags.DEFINE_integer(
      'size', 256, 'Height in pixels to train with, and width without --width.')
  flags.DEFINE_integer('width', None, 'Width in pixels to train with.')
  flags.DEFINE_bool(
      'skip_corrupt', False, 'Leave out files that cannot be used, as '
      'training does with config.data.skip_corrupt.')


def table(items: Sequence[_layout.Item], seen: Sequence[_pictures.Seen]) -> str:
  """Returns a line for each class of each split."""
  groups = {}
  for item, each in zip(items, seen, strict=True):
    groups.setdefault((item.part, item.kind), []).append((item, each))
  rows = [_HEAD] + [(*key, *_cells(group)) for key, group in groups.items()]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(_aligned(row, widths) for row in rows)


def _cells(group):
  masks = [each.mask_mode for _, each in group if each.mask_mode]
  known = [each for _, each in group if each.mode]
  return (str(len(group)), str(len(masks) or ''),
          _sizes([each.size for each in known]),
          _tally(each.mode for each in known), _tally(masks),
          _tally(each.format for each in known))


def _tally(values: Iterable[str]) -> str:
  """Returns 'RGB', or 'RGB 5, L 2' where there are several."""
  counts = collections.Counter(values).most_common()
  if len(counts) == 1:
    return counts[0][0]
  return ', '.join(f'{value} {n}' for value, n in counts)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
  known = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
  if len(known) < 2:
    return ''.join(map(_pictures.pixels, known))
  return (f'{_pictures.pixels(known[0])} to {_pictures.pixels(known[-1])} '
          f'({len(known)} sizes)')


def _aligned(row, widths):
  return '  '.join(cell.rjust(width) if i in (2, 3) else cell.ljust(width)
                   for i, (cell, width) in enumerate(
                       zip(row, widths, strict=True))).rstrip()


def shared(items: Sequence[_layout.Item], digests: Sequence[tuple[str, str]]
           ) -> list[str]:
  """Returns a line for each test image that is a training image too."""
  train = {digest: item.path for item, (digest, _) in zip(
      items, digests, strict=True) if item.part == 'train'}
  return [f'{item.path} is tested on, but is the same file as '
          f'{train[digest]}, which is trained on'
          for item, (digest, _) in zip(items, digests, strict=True)
          if item.part == 'test' and digest in train]


def blank(items: Sequence[_layout.Item], mask: np.ndarray | None,
          seen: Sequence[_pictures.Seen]) -> list[str]:
  """Returns a line for each mask of which nothing is left at this size."""
  return [f'no abnormal pixel in {item.mask} at '
          f'{_pictures.pixels(mask.shape[:0:-1])} pixels'
          for i, (item, each) in enumerate(zip(items, seen, strict=True))
          if item.kind != 'good' and each.mask_mode and not mask[i].any()]


def check(path: str, *, size: int = 256, width: int | None = None,
          anomalous_path: str | None = None, skip_corrupt: bool = False
          ) -> None:
  """Prints what was found, and each problem on a line.

  Raises:
    InputError: training would fail.
  """
  height, width = folder.sides(size, width)
  found = _layout.find(path, anomalous_path)
  _, mask, seen = _pictures.decode(found, height, width)
  print(f'{found.root}: {found.layout}\n\n{table(found.items, seen)}\n')
  for why, n in sorted(found.ignored.items()):
    print(f'left out: {n} {why}')
  notes = (found.notes + shared(found.items, _pictures.digests(found))
           + blank(found.items, mask, seen))
  corrupt = [folder.say(item, each.error) for item, each in zip(
      found.items, seen, strict=True) if each.error]
  problems = found.problems + ([] if skip_corrupt else corrupt)
  _list('note', notes)
  _list('skipped', corrupt if skip_corrupt else ())
  _list('problem', problems)
  _conclude(found, seen, problems, skip_corrupt)


def _list(what: str, lines: Iterable[str]) -> None:
  for line in lines:
    print(f'{what}:', ' '.join(line.split()))


def _conclude(found, seen, problems, skip_corrupt):
  if problems:
    count = f'{len(problems)} problem' + ('s' if problems[1:] else '')
    hint = '' if skip_corrupt or found.problems else \
        ', or leave the files out: --skip_corrupt'
    raise InputError(f'{count} in {found.root}; mend what is listed{hint}')
  counts = collections.Counter(
      (item.part, item.kind == 'good')
      for item, each in zip(found.items, seen, strict=True) if not each.error)
  train, normal, anomalous = (
      counts[key] for key in (('train', True), ('test', True), ('test', False)))
  if not train or not normal + anomalous:
    raise InputError(f'no normal image of {found.root} to train with, or no '
                     'image to test with, can be read')
  if train < _CALIBRATE:
    print(f'note: with {train} normal images to train with, predict may flag '
          f'more than 5 % of the normal ones; 5 % takes {_CALIBRATE}, of these '
          'or given it as --calibration')
  print(f'ready: {train} normal images to train with; {normal} normal and '
        f'{anomalous} anomalous to test with')


def main(path: str) -> None:
  for stream in (sys.stdout, sys.stderr):  # file names may be in any encoding
    stream.reconfigure(errors='backslashreplace')
  chosen = flags.FLAGS
  check(path, size=chosen.size, width=chosen.width,
        anomalous_path=chosen.anomalous_path, skip_corrupt=chosen.skip_corrupt)


if __name__ == '__main__':
  cli.run(main, define_flags, arguments=('path',))
