"""Explains scores of features: what is written of each image.

  <image>.png        its maps, those of the network with random weights, and the
                     nearest normal training images
  explanations.csv   a row for each method: `explanation_tables`
  <image>.npz        with --arrays: each map, f64[h, w], by method
"""
from collections.abc import Callable
from typing import Any

import numpy as np

from deep_oc import (chosen, explainer, explanation_pictures,
                     explanation_tables, files, protocols, step)


class Writer:
  """Explains images one by one, and writes what is found.

  Attributes:
    rows: of the CSV.
    maps: by method, and trained or not: map and mask of each image.
  """

  def __init__(self, folder: Any, both: tuple[explainer.Network, ...],
               problem: protocols.Problem, settings: explainer.Settings, *,
               name: str, baseline: str, cosine: bool, count: int,
               seed: int, arrays: bool, command: str):
    self._folder, self._networks, self._problem = folder, both, problem
    self._settings, self._name, self._baseline = settings, name, baseline
    self._cosine, self._count, self._arrays = cosine, count, arrays
    self._key, self._command = step.root_key(seed), command
    self.rows: list[dict[str, str]] = []
    self.maps = {method: [] for method in settings.methods}

  def explain(self, image: chosen.Chosen, done: Callable[[], object]) -> None:
    """Explains an image: a picture, arrays, rows."""
    trained, _ = self._networks
    distance, row = (each[0] for each in explainer.nearest(
        trained.train, trained.embed(image.pixels[None]), self._count,
        self._cosine))
    baseline, both = self._explained(image, row[0], done)
    judged = trained.judge and trained.judge(image.pixels[None])
    near = [explainer.neighbour(self._problem, *each)
            for each in zip(row, distance, strict=True)]
    self._draw(image, baseline, both, near, judged)
    self.rows += explanation_tables.rows(
        image, *both, near, judged, explained=self._name,
        baseline=self._baseline)
    for name, maps in self.maps.items():
      maps.append((*(each.maps[name].attribution for each in both), image.mask))

  def _explained(self, image, nearest, done):
    """Returns the baselines f32[b, h, w, 3] and what both networks say."""
    pixels = np.float32(image.pixels) / 255
    baseline = explainer.BASELINES[self._baseline](
        pixels, self._problem.fitted.image, nearest)
    return baseline, [explainer.explain(
        each.score, self._networks[0].score, pixels, baseline, image.mask,
        self._settings, self._key, done) for each in self._networks]

  def _draw(self, image, baseline, both, near, judged):
    picture = explanation_pictures.draw(
        image.pixels, image.mask, baseline.mean(0), *both, near,
        {'name': image.title(), 'verdict': self._said(image, both[0], judged),
         'baseline': self._baseline, 'distance':
         'cosine distance' if self._cosine else 'distance'}, self._command)
    with files.replacing(self._folder / f'{image.name}.png', 'wb') as file:
      file.write(picture)
    if self._arrays:
      maps = {f'{prefix}{name}': each.attribution
              for prefix, found in zip(('', 'random_'), both, strict=True)
              for name, each in found.maps.items()}
      with files.replacing(self._folder / f'{image.name}.npz', 'wb') as file:
        np.savez(file, command=self._command, **maps)

  def _said(self, image, found, judged):
    said = f'{self._name} score {found.score:.4g}, of the baseline '
    said += f'{found.score_of_baseline:.4g}'
    if judged:
      said += (f'; p = {judged.p_value[0]:.3g}, '
               f'{"anomalous" if judged.anomalous[0] else "normal"}')
    return said + image.reason()
