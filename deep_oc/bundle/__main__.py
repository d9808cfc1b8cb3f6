"""Scores pictures with a bundle.

  python BUNDLE/predict.py photos --output=predictions.csv
"""
import argparse
import contextlib
import csv
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from . import Bundle, load, pictures, regions
from .errors import BundleError, PictureError, line

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
_EVERY = 10  # seconds between lines of progress, where there is no terminal
_COLUMNS = ('path', 'score', 'p_value', 'verdict', 'false_alarm_rate',
            'classifier', 'feature')


def _files(given: list[str]) -> list[str]:
  """Returns the images at these files and in or below these folders."""
  paths = []
  for each in map(pathlib.Path, given):
    paths += [each] if not each.is_dir() else sorted(
        path for path in each.rglob('*')
        if _is_image(path) and not _is_hidden(path.relative_to(each)))
  if not paths:
    raise BundleError(f"no image in {', '.join(given)}")
  return list(map(str, paths))


def _is_image(path: pathlib.Path) -> bool:
  return (path.is_file() and not path.is_symlink()
          and path.suffix.lower() in _SUFFIXES)


def _is_hidden(path: pathlib.Path) -> bool:
  return any(part.startswith('.') for part in path.parts)


def _read(bundle: Bundle, paths: list[str], skipped: list[str]
          ) -> Iterator[tuple[list[str], np.ndarray]]:
  """Yields paths and their images, a batch at a time; lists what is none."""
  started = said = time.monotonic()
  for begin in range(0, len(paths), bundle.batch):
    names, images = [], []
    for path in paths[begin:begin + bundle.batch]:
      try:
        images.append(bundle.prepare(path))
        names.append(path)
      except PictureError as error:
        skipped.append(line(error))
        print(f'skipped: {skipped[-1]}', file=sys.stderr)
    if names:
      yield names, np.stack(images)
    done = min(begin + bundle.batch, len(paths))
    if sys.stderr.isatty() or time.monotonic() - said > _EVERY:
      said = time.monotonic()
      print(f'{done} of {len(paths)} images, '
            f'{done / (said - started):.1f} images/s', file=sys.stderr)


def _predict(bundle: Bundle, paths: list[str], output: pathlib.Path,
             maps: str | None, where: str | None) -> dict[str, Any]:
  """Writes the CSV, and what else is wanted; returns the counts."""
  skipped, scored, anomalous = [], 0, 0
  with contextlib.ExitStack() as stack:
    writer = _table(stack, output, _COLUMNS)
    rectangles = where and _table(
        stack, pathlib.Path(where).expanduser(), regions.COLUMNS)
    for names, images in _read(bundle, paths, skipped):
      heat = bundle.heat_maps(images) if maps or bundle.by_maps else None
      judged = (bundle.judge_maps(heat) if bundle.by_maps else
                bundle.judge(images))
      writer.writerows(_rows(bundle, names, judged))
      if rectangles:
        rectangles.writerows(_rectangles(names, bundle.regions(heat)))
      if maps:
        _write_maps(pathlib.Path(maps).expanduser(), names, heat, scored)
      scored += len(names)
      anomalous += int(judged.anomalous.sum())
    if not scored:
      raise BundleError(f'none of {len(paths)} images could be read; the '
                        f'first: {skipped[0]}')
  return {'scored': scored, 'anomalous': anomalous, 'unreadable': skipped}


def _table(stack: contextlib.ExitStack, path: pathlib.Path,
           columns: Sequence[str]) -> Any:
  """Returns the writer of a CSV that appears when all is done."""
  file = stack.enter_context(_replacing(path))
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(columns)
  return writer


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[IO]:
  aside = path.with_name(f'.{path.name}.part')
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with aside.open('w', encoding='utf-8', errors='backslashreplace',
                    newline='') as file:
      yield file
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)


def _rectangles(names, found):
  for name, each in zip(names, found, strict=True):
    if each:
      yield from regions.rows(name, each, pictures.size(name))


def _rows(bundle, names, judged):
  for name, score, p, anomalous in zip(names, *judged, strict=True):
    yield (name, f'{score:.9g}', f'{p:.6g}',
           'anomalous' if anomalous else 'normal',
           f'{bundle.false_alarm_rate:g}', bundle.about['classifier'],
           bundle.about['feature'])


def _write_maps(folder, names, maps, first):
  folder.mkdir(parents=True, exist_ok=True)
  for i, (name, heat) in enumerate(zip(names, maps, strict=True), first):
    np.savez(folder / f'{i:06d}.npz', map=heat, path=name, command=_command())


def _command() -> str:
  return f'python {shlex.join(sys.argv)}'


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description='Scores pictures; higher = more anomalous.')
  parser.add_argument('input', nargs='+', help='Pictures, or folders of them.')
  parser.add_argument(
      '--bundle', default=pathlib.Path(__file__).parent.parent,
      help='Folder of the bundle; by default the one that this program is in.')
  parser.add_argument(
      '--output', default='predictions.csv',
      help='CSV file; a .json of its name is written beside it.')
  parser.add_argument('--maps', help='Folder of heat maps, an .npz each: `map` '
                      'f32[h, w] and `path`.')
  parser.add_argument(
      '--regions', help='CSV file: where, the rectangles around what is above '
      'the threshold, in pixels; of a bundle whose heat maps are judged.')
  return parser.parse_args()


def _same(name: str, *paths: pathlib.Path) -> bool:
  """Says whether a file of this name is one of the others."""
  given = pathlib.Path(name).expanduser().resolve()
  return given in [each.resolve() for each in paths]


def main() -> None:
  args = _arguments()
  output = pathlib.Path(args.output).expanduser()
  try:
    if output.suffix == '.json':
      raise BundleError(f'--output={output} names the CSV; what made it goes '
                        'beside it, as .json')
    if args.regions and _same(args.regions, output, output.with_suffix(
        '.json')):
      raise BundleError(f'--regions={args.regions} names a file that --output='
                        f'{output} makes; give another')
    bundle = load(args.bundle)
    if args.maps and not bundle.localizes:
      raise BundleError('this bundle has no heat maps; leave --maps out')
    if args.regions and not bundle.has_regions:
      raise BundleError('this bundle does not judge by heat maps that show all '
                        'of a picture; leave --regions out')
    counts = _predict(bundle, _files(args.input), output, args.maps,
                      args.regions)
    about = {'command': _command(), 'bundle': bundle.about['digest'],
             'false_alarm_rate': bundle.false_alarm_rate,
             'threshold': bundle.threshold}
    output.with_suffix('.json').write_text(
        json.dumps(about | counts, indent=2) + '\n', encoding='utf-8')
  except (BundleError, OSError) as error:
    print(f'error: {line(error)}', file=sys.stderr)
    sys.exit(2)
  written = filter(None, (output, args.regions, args.maps))
  print(f"scored {counts['scored']} images, {counts['anomalous']} anomalous; "
        f"could not read {len(counts['unreadable'])}; wrote "
        f"{', '.join(map(str, written))}")


if __name__ == '__main__':
  main()
