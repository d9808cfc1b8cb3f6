"""Pictures of what a run finds: heat maps and montages, beside the plots.

  <folder>/<class>/<image>.png   input | heat map | with the mask's outline
  <folder>/montage_<class>.png   a dozen of a class, highest score first
  <folder>/roc.png  <folder>/histogram.png

One scale serves all pictures of a run, by `deep_oc.heat_colours`: equal scores
have equal colours. Each of these files says of itself where it lies, so that
`remove_others` knows it. Everything but `write`, `save` and that is a pure
function; scores are higher = more anomalous.
"""
import contextlib
import functools
import io
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from scipy import ndimage

from deep_oc import files, heat_colours, plots, progress
from deep_oc.errors import InputError

_GAP = 8  # pixels between parts of a picture
_SMALL = 256  # smaller images are enlarged to this
_TILE = 192  # side of an image in a montage
_MOST = 12  # images in a montage
_COLUMNS = 6  # pictures side by side in a gallery
_CAPTION = 160  # a caption is at least this wide
_NARROW = 440  # a picture is at least this wide, for its text
_DEVICES = {'con', 'prn', 'aux', 'nul'} | {
    f'{port}{i}' for port in ('com', 'lpt') for i in range(10)}


def write(folder: str | os.PathLike, *, images: np.ndarray, maps: np.ndarray,
          masks: np.ndarray | None, scores: np.ndarray, anomaly: np.ndarray,
          labels: np.ndarray, class_names: Sequence[str],
          paths: Sequence[str] | None = None, title: str = '',
          command: str = '', within: str = '') -> list[pathlib.Path]:
  """Writes all pictures of a run, and returns their files.

  The images' own are the first, in their order. Files of these names are
  replaced, others are left. Without normal images, or without anomalies, there
  is no ROC curve.

  Args:
    folder: where to; made if it is not there.
    images: u8[n, h, w, 3].
    maps: f[n, h, w], a score for each pixel.
    masks: bool[n, h, w], True = defect; None if not known.
    scores: f[n], of the images.
    anomaly: bool[n].
    labels: i[n], indices into class_names.
    class_names: of label 0, 1, ...
    paths: str[n], to name the files after; numbers by default.
    title: what the scores are of, for the plots: 'pool, kde'.
    command: what made them, kept in each file.
    within: a folder in that one, where these pictures are one kind of several.

  Raises:
    InputError: shapes do not fit, a score is not a finite number, the folder
      cannot be written to, or matplotlib is missing.
  """
  scores, labels = np.asarray(scores, float), np.asarray(labels)
  anomaly = np.asarray(anomaly, bool)
  _check(images, maps, masks, scores, labels, class_names, paths, anomaly)
  folder, limits = files.path(folder), heat_colours.scale(maps, anomaly)
  homes, written = file_names(class_names), []
  names = _names(labels, paths)
  outlined = None if masks is None else 'the mask'

  def draw(i, name, side=None):
    return panel(images[i], maps[i], None if masks is None else masks[i],
                 scores[i], name, limits, side)

  def put(picture, name):
    place = f'{within}/{name}.png'.lstrip('/')
    save(picture, folder / place, command, place)
    written.append(folder / place)

  for i in progress.bar(range(len(images)), 'pictures', unit='images'):
    name = f'{class_names[labels[i]]} / {names[i]}'
    put(with_legend(draw(i, name), limits, outlined),
        f'{homes[labels[i]]}/{names[i]}')
  for label in np.unique(labels):
    member = np.flatnonzero(labels == label)
    chosen = member[spread(scores[member])]
    put(montage([draw(i, names[i], _TILE) for i in chosen], class_names[label],
                len(member), limits, outlined), f'montage_{homes[label]}')
  if anomaly.any() and not anomaly.all():
    put(_opened(plots.roc(scores, anomaly, title)), 'roc')
  put(_opened(plots.histogram(scores, anomaly, labels, class_names, title)),
      'histogram')
  return written


def remove_others(folder: str | os.PathLike, kept: Sequence[pathlib.Path]
                  ) -> None:
  """Removes what `write` wrote to a folder, but for the files `kept`.

  That is what lies where it says that it was written; all else stays there,
  copies of pictures too.
  """
  folder = files.path(folder)
  kept = {_place(folder, path) for path in kept}
  for path in list(folder.rglob('*.png')):
    place = _place(folder, path)
    if place not in kept and _said_place(path) == place:
      path.unlink()
      if not files.is_remote(folder):  # where there are no empty folders
        for above in path.relative_to(folder).parents[:-1]:
          with contextlib.suppress(OSError):  # it is not empty
            (folder / above).rmdir()


def _place(folder, path):
  return path.relative_to(folder).as_posix()


def _said_place(path):
  """Returns where a picture says that it was written, None if it does not."""
  try:
    with path.open('rb') as file, Image.open(file, formats=['PNG']) as picture:
      return picture.info.get('place')
  except Exception:  # whatever it is
    return None


def _opened(data):
  return Image.open(io.BytesIO(data))


def outline(mask: np.ndarray, width: int = 1) -> np.ndarray:
  """Marks in bool[h, w] the defects' pixels at most `width` from an end.

  Steps are along rows and columns; beyond the image is an end too.
  """
  return mask & ~ndimage.binary_erosion(mask, iterations=width)


def panel(image: np.ndarray, heat: np.ndarray, mask: np.ndarray | None,
          score: float, name: str, limits: heat_colours.Scale,
          side: int | None = None, verdict: str = '') -> Image.Image:
  """Draws input | heat map over it | the same with the mask's outline.

  Args:
    image: u8[h, w, 3].
    heat: f[h, w].
    mask: bool[h, w]; without one, the third picture is left out.
    score: of the image; stands above it, behind its name.
    name: shortened where it is too long.
    limits: from `heat_colours.scale`.
    side: longer side of each picture; as in the file by default, small images
      enlarged by a whole number to 256 pixels or more.
    verdict: stands behind the score.
  """
  size = _size(*image.shape[:2], side)
  hot = _resized(heat_colours.overlay(image, heat, limits), size)
  tiles = [_resized(image, size), hot]
  if mask is not None:
    tiles.append(_outlined(hot, _resized_mask(mask, size)))
  font = _font(max(size))
  wide = len(tiles) * (size[0] + _GAP) - _GAP
  width, top = max(wide, _NARROW), _line(font)
  canvas = Image.new('RGB', (width, top + size[1]), 'white')
  said = ', '.join(filter(None, (f'score {digits(score)}', verdict)))
  _heading(canvas, name, said, font)
  for i, tile in enumerate(tiles):
    left = (width - wide) // 2 + i * (size[0] + _GAP)
    canvas.paste(Image.fromarray(tile), (left, top))
  return canvas


def montage(panels: Sequence[Image.Image], title: str, total: int,
            limits: heat_colours.Scale, outlined: str | None) -> Image.Image:
  """Draws panels of one size, in two columns if they are many, and a title.

  Args:
    panels: in their order, row by row.
    title: the class.
    total: how many images it has, drawn or not.
    limits: from `heat_colours.scale`.
    outlined: see `with_legend`.
  """
  columns = 2 if len(panels) > 3 else 1
  rows = -(-len(panels) // columns)
  w, h = panels[0].width + 3 * _GAP, panels[0].height + _GAP
  font = _font(400)
  top = _line(font)
  canvas = Image.new('RGB', (columns * w - 3 * _GAP, top + rows * h - _GAP),
                     'white')
  left_out = total - len(panels)
  more = f', {left_out} between them left out' if left_out else ''
  note = f'{len(panels)} of {total}, highest score first{more}'
  _heading(canvas, title, note, font)
  for i, each in enumerate(panels):
    canvas.paste(each, (i % columns * w, top + i // columns * h))
  return with_legend(canvas, limits, outlined)


def gallery(images: Sequence[Sequence[np.ndarray]],
            captions: Sequence[tuple[str, str]], title: str, note: str
            ) -> Image.Image:
  """Draws images row by row, each above its caption, and a title.

  Args:
    images: at least one; of each u8[h, w, 3], all of one size, what stands side
      by side.
    captions: what stands below each, to the left, shortened where it is too
      long, and to the right.
    title, note: stand above all, to the left and to the right.
  """
  beside = len(images[0])
  columns = min(_COLUMNS // beside, len(images))
  size = _size(*images[0][0].shape[:2], _TILE)
  w, h = beside * (size[0] + _GAP) - _GAP, size[1]
  font = _font(_TILE)
  line, wide = _line(font), max(w, _CAPTION)
  top, high = 2 * line, h + line + _GAP
  canvas = Image.new('RGB', (columns * (wide + 2 * _GAP),
                             top + -(-len(images) // columns) * high), 'white')
  heading = Image.new('RGB', (canvas.width - 2 * _GAP, line), 'white')
  _heading(heading, title, note, font)
  canvas.paste(heading, (_GAP, _GAP))
  for i, (each, caption) in enumerate(zip(images, captions, strict=True)):
    left = i % columns * (wide + 2 * _GAP) + _GAP
    upper = top + i // columns * high
    tile = Image.new('RGB', (wide, h + line), 'white')
    for j, image in enumerate(each):
      tile.paste(Image.fromarray(_resized(image, size)),
                 ((wide - w) // 2 + j * (size[0] + _GAP), 0))
    below = Image.new('RGB', (wide, line), 'white')
    _heading(below, *caption, font)
    tile.paste(below, (0, h))
    canvas.paste(tile, (left, upper))
  return canvas


def with_legend(picture: Image.Image, limits: heat_colours.Scale,
                outlined: str | None) -> Image.Image:
  """Adds a margin, and below, the colour bar and what stands side by side.

  Args:
    picture: panels.
    limits: from `heat_colours.scale`.
    outlined: what their third picture outlines, if they have one.
  """
  font = _font(picture.width // 3)
  w, h, line = picture.width, picture.height, _line(font)
  told = ['input | heat map: score of a pixel' + (
      f' | with outline of {outlined}' if outlined else ''),
          'one scale for all pictures']
  if font.getlength('; '.join(told)) <= w:
    told = ['; '.join(told)]
  canvas = Image.new(
      'RGB', (w + 2 * _GAP, h + 4 * _GAP + (2 + len(told)) * line), 'white')
  canvas.paste(picture, (_GAP, _GAP))
  bar = heat_colours.colours(np.broadcast_to(np.linspace(0, 1, w), (line, w)),
                             heat_colours.Scale(0, 1))
  top = h + 3 * _GAP
  canvas.paste(Image.fromarray(bar), (_GAP, top))
  draw = ImageDraw.Draw(canvas)
  middle = canvas.width // 2
  for x, value, anchor in ((_GAP, limits.low, 'la'), (
      middle, limits.middle(), 'ma'), (_GAP + w, limits.high, 'ra')):
    draw.text((x, top + line + 3), digits(value), 'black', font, anchor)
  for number, each in enumerate(told):
    draw.text((middle, top + (2 + number) * line), _short(each, font, w),
              'black', font, 'ma')
  return canvas


def spread(scores: np.ndarray, most: int = _MOST) -> np.ndarray:
  """Returns up to `most` indices i[m], highest of f[n] first, evenly in rank.

  The highest and the lowest are among them.
  """
  order = np.argsort(-np.asarray(scores), kind='stable')
  rank = np.linspace(0, len(order) - 1, min(most, len(order)))
  return order[np.rint(rank).astype(int)]


def file_names(texts: Sequence[str]) -> list[str]:
  """Returns a distinct file name, without suffix, for each of the texts.

  Letters, digits, '-' and '_' only, so no name leaves its folder, is hidden
  or has a suffix; distinct where case does not count, too.
  """
  taken, names = set(), []
  for text in texts:
    text = unicodedata.normalize('NFKC', str(text))
    base = re.sub(r'[^\w-]', '_', text)[:50] or '_'  # of 255 bytes
    base += '_' if base.casefold() in _DEVICES else ''
    name, count = base, 1
    while name.casefold() in taken:
      count += 1
      name = f'{base}_{count}'
    taken.add(name.casefold())
    names.append(name)
  return names


def _names(labels, paths):
  """Returns the name of each image's file, in the folder of its class."""
  if paths is None:
    paths = [f'{i:05d}' for i in range(len(labels))]
  stems = [pathlib.PurePosixPath(str(path).replace('\\', '/')).stem
           for path in paths]
  names = [''] * len(labels)
  for label in np.unique(labels):
    member = np.flatnonzero(labels == label)
    for i, name in zip(member, file_names([stems[i] for i in member]),
                       strict=True):
      names[i] = name
  return names


def _check(images, maps, masks, scores, labels, class_names, paths, anomaly):
  shape = images.shape[:-1]
  if (images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8
      or not len(images)):
    raise InputError(f'images are {images.dtype}{list(images.shape)}; pictures '
                     'need uint8[n, height, width, 3]')
  for name, each in ('anomaly maps', maps), ('masks', masks):
    if each is not None and each.shape != shape:
      raise InputError(f'{name} {each.shape} must be of the shape of the '
                       f'images, {shape}')
  for name, each in (('scores', scores), ('labels', labels), ('paths', paths),
                     ('anomaly', anomaly)):
    if each is not None and len(each) != len(images):
      raise InputError(f'{len(each)} {name} for {len(images)} images')
  if labels.min() < 0 or labels.max() >= len(class_names):
    raise InputError(f'labels {labels.min()} to {labels.max()} need as many '
                     f'class names; there are {len(class_names)}')
  for i, (each, score) in enumerate(zip(maps, scores, strict=True)):
    if not (np.isfinite(each).all() and np.isfinite(score)):
      raise InputError(f'image {i}: its anomaly map or its score, {score}, is '
                       'not finite')


def _size(h, w, side):
  """Returns width and height to draw an image of h × w pixels at."""
  factor = side / max(h, w) if side else -(-_SMALL // max(h, w))
  return max(1, round(w * factor)), max(1, round(h * factor))


def _resized(image, size):
  """Resizes u8[h, w, 3]: pixels stay sharp squares, or are averaged."""
  whole = -(-size[0] // image.shape[1])
  return np.asarray(Image.fromarray(image).resize(
      (whole * image.shape[1], whole * image.shape[0]), Image.Resampling.NEAREST
  ).resize(size, Image.Resampling.BOX))


def _resized_mask(mask, size):
  """Resizes bool[h, w] so that no defect is lost."""
  image = Image.fromarray(mask.astype(np.float32))
  if size[0] < image.width:
    return np.asarray(image.resize(size, Image.Resampling.BOX)) > 0
  return np.asarray(image.resize(size, Image.Resampling.NEAREST)) > 0


def _outlined(image, mask):
  """Draws a white line inside the mask's edge and a black one outside."""
  width = max(1, round(max(mask.shape) / 400))
  image = image.copy()
  image[ndimage.binary_dilation(mask, iterations=width) & ~mask] = 0
  image[outline(mask, width)] = 255
  return image


def _heading(canvas, left, right, font):
  """Writes one line at the top, shortening its left part."""
  draw = ImageDraw.Draw(canvas)
  draw.text((canvas.width, 2), right, 'black', font, 'ra')
  room = canvas.width - font.getlength(right) - 3 * _GAP
  draw.text((0, 2), _short(left, font, room), 'black', font)


def _short(text, font, width):
  text = plots.plain(text)
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '...') > width:
    text = text[:-1]
  return text + '...'


def digits(value: float) -> str:
  """Returns four digits, or all before the point if they are up to six."""
  if 9999.5 <= abs(value) < 999_999.5:  # as of many a density
    return f'{value:.0f}'
  return f'{value:#.4g}'.rstrip('.')  # 3.210, and 1234 for 1234.


@functools.cache
def _font(side):
  """Returns DejaVu Sans, which has ä, é, µ and ×; Pillow's own has not."""
  path = os.path.join(plots.matplotlib().get_data_path(), 'fonts', 'ttf',
                      'DejaVuSans.ttf')
  return ImageFont.truetype(path, max(14, side // 22))


def _line(font):
  return round(1.6 * font.size)


def save(picture: Image.Image, path: pathlib.Path, command: str,
         place: str = '') -> None:
  """Writes a picture as PNG, and in it what made it, and where if it is said.
  """
  info, data = PngImagePlugin.PngInfo(), io.BytesIO()
  info.add_itxt('command', command)
  if place:
    info.add_itxt('place', place)
  picture.save(data, 'png', pnginfo=info,
               compress_level=4)  # 6: as large, and twice as long
  with files.replacing(path, 'wb') as file:
    file.write(data.getvalue())
