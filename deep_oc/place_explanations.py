"""Explains heat maps of windows: what is written of each image.

  <image>.png        the image, its heat map, and for each of its highest places
                     the normal places most like it
  explanations.csv   a row for each place and normal place: `COLUMNS`
  <image>.npz        with --arrays: `map` f[h, w]

Where places lie is told in percent of the image's width and height, from the
left and from above.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deep_oc import (chosen, detector, explainer, explanation_pictures, files,
                     heat_colours, places, progress, provenance, rendering)

COLUMNS = (
    'image', 'index', 'class', 'anomaly', 'chosen_as', 'score', 'p_value',
    'verdict', 'place', 'x', 'y', 'place_score', 'rank', 'nearest',
    'nearest_path', 'nearest_x', 'nearest_y', 'distance')

_PLACES = 3  # of an image


def write(found: detector.Detector, images: Sequence[chosen.Chosen],
          folder: Any, limits: heat_colours.Scale | None, *, count: int,
          arrays: bool, command: str) -> Iterator[dict[str, object]]:
  """Draws the images, and yields the rows of the CSV.

  Args:
    found: a detector by windows whose method has `places`.
    images: to explain.
    folder: to write to.
    limits: the scale of the heat maps; None for one of each image's own.
    count: of the normal places most like each.
    arrays: whether to write the heat maps.
    command: what made them, kept in the files.
  """
  for image in progress.bar(images, 'explain', unit='images'):
    score = found.method.scores(image.pixels[None])
    [heat] = found.method.spread(score, *image.pixels.shape[:2])
    judged = found.judge_maps(heat[None])
    highest = places.explain(found.method, found.normal.fitted, image.pixels,
                             score[0], _PLACES, count)
    near = [[explainer.neighbour(
        found.normal.problem, each.image, each.distance)
             for each in place.near] for place in highest]
    verdict = 'anomalous' if judged.anomalous[0] else 'normal'
    picture = explanation_pictures.draw_places(
        image.pixels, image.mask, heat_colours.overlay(
            image.pixels, heat, limits or heat_colours.scale(heat[None])),
        highest, near, {
            'name': image.title(),
            'verdict': f'{found.classifier} score {judged.score[0]:.4g}; p = '
            f'{judged.p_value[0]:.3g}, {verdict}{image.reason()}'},
        command)
    with files.replacing(folder / f'{image.name}.png', 'wb') as file:
      file.write(picture)
    if arrays:
      with files.replacing(folder / f'{image.name}.npz', 'wb') as file:
        np.savez(file, command=command, map=heat)
    about = {
        'image': provenance.written(image.path or image.name),
        'index': image.index,
        'class': image.kind, 'anomaly': image.anomaly, 'chosen_as': image.why,
        'score': judged.score[0], 'p_value': judged.p_value[0],
        'verdict': verdict}
    for row in _rows(highest, near):
      yield {key: f'{value:.6g}' if isinstance(value, float) else value
             for key, value in (about | row).items()}


def show(rows: Sequence[Mapping[str, object]]) -> str:
  """Returns the highest place of each image, and the normal one most like it.
  """
  shown = ('image', 'score', 'p_value', 'verdict', 'x', 'y', 'nearest',
           'distance')
  return rendering.aligned([shown] + [
      [str(row[name]) for name in shown[:-2]]
      + [str(row['nearest_path'] or row['nearest']), str(row['distance'])]
      for row in rows if row['place'] == row['rank'] == 1], left=1)


def _rows(highest, near):
  for number, (place, images) in enumerate(zip(highest, near, strict=True), 1):
    for rank, (where, image) in enumerate(
        zip(place.near, images, strict=True), 1):
      yield {'place': number, 'x': 100 * place.x, 'y': 100 * place.y,
             'place_score': place.score, 'rank': rank, 'nearest': image.index,
             'nearest_path': provenance.written(image.path),
             'nearest_x': 100 * where.x, 'nearest_y': 100 * where.y,
             'distance': where.distance}
