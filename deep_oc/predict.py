"""Scores images of your own with a trained run, any number of them.

  python -m deep_oc.predict --workdir=runs/dacl_cifar10/0/seed0 --input=photos

`--input` is a folder of images, with those further down, a pattern such as
'photos/*.png', or one file. The output folder, `predictions` in the run's
folder by default, gets

  predictions.csv   a row for each image, by path: its score, higher = more
                    anomalous; its conformal p-value, how often a normal image
                    scores so high; the verdict, `anomalous` if that is at most
                    the false-alarm rate
  regions.csv       if heat maps are judged, where: a row for each part of an
                    image whose heat map is above the threshold that the image
                    is judged by; the rectangle around it, x and y its left and
                    upper end, in pixels of the photo as it stands upright; its
                    area in percent of the image's, and its peak; none where the
                    data source cuts photos or pads them
  predictions.json  the command, versions, settings, counts, and the files that
                    could not be read
  maps/             where the run localizes, each image beside its heat map, and
                    that with the outlines of its regions, as a.jpg.png of
                    a.jpg, so that a.png has one of its own (--nomaps does
                    without; --arrays keeps the numbers too); those of a
                    prediction before, in this folder, are removed

Where the run has held images out of its training (--config.protocol.calibration
of `train`), these calibrate p-values and verdicts, or those that --calibration
names, normal and never trained with; then scores are `evaluate`'s.
Else classifiers are fitted to folds of the training images, so that those left
out calibrate them: scores differ a little, and an encoder that knows its
training images by heart flags more normal images than it should. Heat maps of
windows are drawn beside the verdicts and not judged, but with
--feature=windows, and by default where nothing was trained, as of ImageNet's
features: then the largest value of a map is its image's score, and by nearest
neighbours each training image calibrates by the places of all others.

A file that cannot be read is reported and skipped. The exit status is 0 if one
could be scored at least, and 2 if none could. The CSV appears when all is done;
memory does not grow with the number of images.
"""
from __future__ import annotations

import contextlib
import csv
import errno
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags
from PIL import PngImagePlugin

from deep_oc import (cli, files, heat_colours, oneclass, pictures,
                     provenance, thresholds, unseen)
from deep_oc.bundle import regions
from deep_oc.data import _layout
from deep_oc.errors import InputError

if cli.works(__name__):
  from deep_oc import allocator, detector, photos, trained_run

COLUMNS = ('path', 'score', 'p_value', 'verdict', 'false_alarm_rate',
           'classifier', 'feature')


def define_flags() -> None:
  unseen.define_flags()
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_string(
      'input', None, 'Folder of images, a pattern of files, or one file.')
  flags.DEFINE_string(
      'output', None, 'Folder of the results; by default `predictions` in the '
      "run's folder.")
  flags.DEFINE_string(
      'classifier', None, 'One of: ' + ', '.join(oneclass.CLASSIFIERS) +
      '; or as `deep_oc.evaluate` takes them. By default kde, of CutPaste and '
      'of fewer images than dimensions gde_ledoit_wolf.')
  flags.DEFINE_bool('maps', True, 'Draw heat maps, if the run localizes.')
  flags.DEFINE_bool(
      'arrays', False, 'Write each heat map as .npz, too: `map`, f32[h, w].')
  flags.DEFINE_string(
      'data_dir', None, 'Where the training images lie now, if they moved; '
      'heat maps of windows need them.')


class MapWriter:
  """Draws heat maps, on the scale of the run's own pictures.

  Where it has none, the first images set the scale. An image whose name leaves
  no room for that of its heat map has none.

  Attributes:
    written: the files, as text.
  """

  def __init__(self, found: detector.Detector, workdir: str, folder: Any,
               arrays: bool, command: str):
    self._found, self._folder = found, folder
    self._arrays, self._command = arrays, command
    self._limits = heat_colours.of_run(workdir, found.localizes)
    self.written: set[str] = set()

  def write(self, names: Sequence[str], images: np.ndarray,
            judged: detector.Judged, maps: np.ndarray | None = None) -> None:
    """Writes `<folder>/<name>.png` for each of u8[n, h, w, 3].

    With what is said of it, and of maps f32[n, h, w], if they are known.
    """
    if maps is None:
      maps = self._found.heat_maps(images)
    if self._limits is None:
      self._limits = heat_colours.scale(maps)
    info = PngImagePlugin.PngInfo()
    info.add_itxt('command', self._command)
    outlined = 'its regions' if self._found.has_regions else None
    for name, image, heat, score, p, anomalous in zip(
        names, images, maps, *judged, strict=True):
      verdict = f"p = {p:.2g}: {'anomalous' if anomalous else 'normal'}"
      above = regions.above(heat, self._found.threshold_) if outlined else None
      picture = pictures.with_legend(pictures.panel(
          image, heat, above, score, name, self._limits, verdict=verdict),
                                     self._limits, outlined)
      with _where_it_fits(), self._replacing(f'{name}.png') as file:
        picture.save(file, 'png', compress_level=4, pnginfo=info)
      if self._arrays:
        with _where_it_fits(), self._replacing(f'{name}.npz') as file:
          np.savez(file, map=heat, command=self._command)

  def _replacing(self, name):
    self.written.add(str(self._folder / name))
    return files.replacing(self._folder / name, 'wb')


@contextlib.contextmanager
def _where_it_fits() -> Iterator[None]:
  """Passes over a file whose name would be too long, and says so."""
  try:
    yield
  except files.WriteError as error:
    if getattr(error.__cause__, 'errno', None) != errno.ENAMETOOLONG:
      raise
    tqdm.tqdm.write(f'skipped: {photos.shown(str(error))}', sys.stderr)


def _rows(paths, judged, found):
  """Yields the rows of the CSV."""
  for path, score, p, anomalous in zip(paths, *judged, strict=True):
    yield (provenance.written(path), f'{score:.9g}', f'{p:.6g}',
           'anomalous' if anomalous else 'normal',
           f'{found.false_alarm_rate:g}', found.classifier, found.feature)


def _regions(paths, found):
  """Yields the rows of regions.csv; a picture that has some is opened again."""
  for path, each in zip(paths, found, strict=True):
    if each:
      yield from regions.rows(
          provenance.written(path), each, unseen.size(path))


def _table(stack: contextlib.ExitStack, path: Any, columns: Sequence[str]):
  """Returns the writer of a CSV that appears when all is done."""
  writer = csv.writer(stack.enter_context(files.replacing(path)),
                      lineterminator='\n')
  writer.writerow(columns)
  return writer


def summary(tally: photos.Tally, rate: float, threshold: float | None = None
            ) -> str:
  """Returns what is printed at the end."""
  above = '' if threshold is None else f' (a score above {threshold:.6g})'
  lines = [f'scored {tally.scored} images in {tally.seconds:.1f} s '
           f'({tally.scored / tally.seconds:.1f} images/s); could not read '
           f'{len(tally.unreadable)}',
           f'anomalous: {tally.anomalous}, '
           f'{100 * tally.anomalous / tally.scored:.1f} %; of normal images '
           f'{100 * rate:g} % may be{above}', '', 'most anomalous:']
  return '\n'.join(lines + [
      f'{score:12.6g}  p = {p:<8.4g}  {photos.shown(path)}'
      for score, p, path in tally.top])


def _about(found: detector.Detector, workdir: str) -> dict[str, object]:
  """Returns what predictions.json says of the detector."""
  return {
      'workdir': workdir, 'run': found.about, 'classifier': found.classifier,
      'feature': found.feature, 'false_alarm_rate': found.false_alarm_rate,
      'threshold': found.threshold_, 'calibration': found.calibration}


def _counts(images: unseen.Found, tally: photos.Tally) -> dict[str, object]:
  """Returns what predictions.json says of the images."""
  return {
      'scored': tally.scored, 'anomalous': tally.anomalous,
      'seconds': round(tally.seconds, 3), 'left_out': dict(images.ignored),
      'unreadable': [dict(zip(('path', 'error'), map(provenance.written, each),
                              strict=True)) for each in tally.unreadable]}


def write(found: detector.Detector, images: unseen.Found, output: Any,
          draw: MapWriter | None, about: Mapping[str, object]) -> photos.Tally:
  """Scores the images and writes all files of the output folder.

  Args:
    found: what scores.
    images: the files.
    output: the folder.
    draw: draws the heat maps, or None.
    about: what else predictions.json says.

  Raises:
    InputError: no image can be read, or the folder cannot be written to.
  """
  again = files.exists(output / 'predictions.json')
  with contextlib.ExitStack() as stack:
    writer, where = (
        _table(stack, output / name, columns) if wanted else None
        for name, columns, wanted in (
            ('predictions.csv', COLUMNS, True),
            ('regions.csv', regions.COLUMNS, found.has_regions)))

    def add(paths, pixels, judged, maps):
      writer.writerows(_rows(paths, judged, found))
      if where:
        where.writerows(_regions(paths, found.regions(maps)))
      if draw:
        draw.write([_relative(path, images.root) for path in paths], pixels,
                   judged, maps)

    tally = photos.score(found, images.paths, add)
    if not tally.scored:
      raise InputError(f'none of {len(images.paths)} images could be read; the '
                       f'first: {photos.shown(tally.unreadable[0][1])}')
  if again:
    _remove_former(output / 'maps', draw.written if draw else set())
    if not found.has_regions:
      (output / 'regions.csv').unlink(missing_ok=True)
  provenance.write(output / 'predictions.csv',
                   dict(about) | _counts(images, tally))
  return tally


def _remove_former(folder: Any, written: set[str]) -> None:
  """Removes the heat maps of a prediction before, named as only they are."""
  for path in list(folder.rglob('*')) if files.exists(folder) else ():
    if (path.suffix in ('.png', '.npz') and unseen.is_image_name(path.stem)
        and str(path) not in written):
      path.unlink()


def main() -> None:
  args = flags.FLAGS
  for name in ('workdir', 'input'):
    if not args[name].value:
      raise InputError(f'--{name} is required; see --help')
  output = files.path(args.output or f'{args.workdir}/predictions')
  if output.suffix == '.csv':
    raise InputError(f'--output={args.output} names a folder, which gets '
                     'predictions.csv and more; give one that is no .csv')
  images = unseen.find(args.input, without=output)
  others = unseen.calibrating(args)
  both = len(set(map(os.path.realpath, images.paths))
             & set(map(os.path.realpath, others or ())))
  if both:
    raise InputError(f'{both} images of --input={args.input} are among those '
                     'that --calibration says are normal; give others')
  allocator.keep_freed_memory()
  found = trained_run.load_as_asked(
      args, args.classifier, args.feature, others)
  print(f"{len(images.paths)} images; {found.classifier} on '{found.feature}' "
        f'of {args.workdir}, step {found.about["step"]}'
        f'{_layout.left_out(images.ignored)}', flush=True)
  about, draw = _about(found, args.workdir), None
  if args.maps and found.localizes:
    about['maps'] = _fit_maps(found)
    draw = MapWriter(found, args.workdir, output / 'maps', args.arrays,
                     provenance.command())
  tally = write(found, images, output, draw, about)
  if tally.calibrating:
    print(f'warning: {len(tally.calibrating)} images of --input={args.input} '
          'are among those that --calibration says are normal, '
          f'{photos.shown(tally.calibrating[0])} for one; they calibrate '
          'themselves, and are hardly ever flagged', file=sys.stderr)
  wrote = ['predictions.csv', *['regions.csv'] * found.has_regions,
           *['maps'] * (draw is not None)]
  print(f'{summary(tally, found.false_alarm_rate, found.threshold_)}\n\n'
        f'{thresholds.described(found.calibration, found.learnt)}\nwrote '
        f'{output}/{", ".join(wrote)}')


def _fit_maps(found: detector.Detector) -> dict[str, object]:
  """Returns what defines the heat maps; fails before anything is scored."""
  print(found.about_maps(), flush=True)
  try:
    return found.map_parameters()
  except InputError as error:
    raise InputError(f'{error}; --nomaps does without') from error


def _relative(path: str, root: str) -> str:
  return pathlib.Path(path).relative_to(root).as_posix()


if __name__ == '__main__':
  cli.run(main, define_flags)
