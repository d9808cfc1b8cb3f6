"""The JSON of answers, as the OpenAPI description tells it too."""
import base64
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pydantic
from PIL import Image

from deep_oc import bundle
from deep_oc.bundle import regions
from deep_oc.service import worker


class Colours(pydantic.BaseModel):
  """The scale of the run's own heat maps, as `deep_oc.heat_colours.Scale`.

  Attributes:
    low, high: the scores that are drawn darkest and lightest.
    knee: distance from low from which on colours follow the logarithm; null if
      they follow the score.
  """
  low: float
  high: float
  knee: float | None


class Model(pydantic.BaseModel):
  """Which model answers."""
  name: str | None
  dataset: str | None
  normal_name: str | None
  classifier: str | None
  feature: str | None
  step: int | None
  config_hash: str | None
  image_shape: tuple[int, int, int]
  threshold: float | None
  false_alarm_rate: float
  localizes: str | None
  heat_colours: Colours | None


Region = pydantic.create_model(
    'Region', __doc__=regions.Region.__doc__,
    **{name: (kind, ...)
       for name, kind in regions.Region.__annotations__.items()})


class Result(pydantic.BaseModel):
  """What it says of a picture.

  Attributes:
    score: higher = more anomalous.
    p_value: how often a normal picture scores so high.
    anomalous: whether that is the false-alarm rate at most.
    threshold: scores above it are anomalous; null if no one score says it.
    regions: where it is anomalous, the highest peak first; null if heat maps
      are not what is judged, or do not show the whole picture.
    heat_map: the pixels' scores as a grey PNG in a data URL, 0 = `heat_low`
      and 255 = `heat_high`; null unless asked for.
    picture: what the model saw, on which the heat map lies; the same.
  """
  name: str
  score: float
  p_value: float
  anomalous: bool
  threshold: float | None
  false_alarm_rate: float
  regions: list[Region] | None = None
  heat_map: str | None = None
  heat_low: float | None = None
  heat_high: float | None = None
  picture: str | None = None


class Scored(pydantic.BaseModel):
  """The answer to POST /score, pictures in their order."""
  results: list[Result]
  model: Model


class Health(pydantic.BaseModel):
  """The answer to GET /health."""
  status: str
  model: Model
  limits: dict[str, float]


class Failure(pydantic.BaseModel):
  """The answer to what is refused; `file` and `index` if it is one picture."""
  error: str
  file: str | None = None
  index: int | None = None


def model(found: bundle.Bundle) -> Model:
  """Describes a bundle, without what it tells of the place it was made in."""
  told = {name: found.about.get(name) for name in (
      'name', 'dataset', 'normal_name', 'classifier', 'feature', 'step',
      'config_hash')}
  return Model(
      **{name: value if name == 'step' or value is None else str(value)
         for name, value in told.items()},
      image_shape=found.image_shape, threshold=found.threshold,
      false_alarm_rate=found.false_alarm_rate, localizes=found.localizes,
      heat_colours=found.about.get('heat_colours'))  # older ones: none


def scored(found: bundle.Bundle, names: Sequence[str], images: np.ndarray,
           answer: worker.Answer, maps: bool) -> Scored:
  """Returns the answer about images u8[n, h, w, 3] of these names.

  With heat maps, if they are wanted.
  """
  return Scored(results=list(_results(found, names, images, answer, maps)),
                model=model(found))


def _results(found, names, images, answer, maps) -> Iterator[Result]:
  where = ([None] * len(names) if not found.has_regions else
           found.regions(answer.maps))
  for i, (name, score, p, anomalous) in enumerate(
      zip(names, *answer.judged, strict=True)):
    yield Result(
        name=name, score=score, p_value=p, anomalous=anomalous,
        threshold=found.threshold, false_alarm_rate=found.false_alarm_rate,
        regions=where[i] and [each._asdict() for each in where[i]],
        **(_drawn(images[i], answer.maps[i]) if maps else {}))


def _drawn(image, heat):
  low, high = float(heat.min()), float(heat.max())
  if not math.isfinite(high - low):
    raise ValueError('a heat map is not finite')
  level = np.rint((heat - low) * (255 / (high - low or 1))).astype(np.uint8)
  return {'heat_map': _data_url(level), 'heat_low': low, 'heat_high': high,
          'picture': _data_url(image)}


def _data_url(array: np.ndarray) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png(array)).decode()


def png(array: np.ndarray) -> bytes:
  """Returns u8[h, w] or u8[h, w, 3] as PNG."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'png', compress_level=3)
  return file.getvalue()
