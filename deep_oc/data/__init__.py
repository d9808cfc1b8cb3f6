"""Images with what is known of them.

A source, `deep_oc/data/<source>.py`, has one public function
`load(**kwargs) -> Split`: images as they are, u8[n, h, w, 3], u8[n, h, w, 1] or
u8[n, h, w], with the data set's own labels, from 0 on. All that is the same for
every source happens here: that it returned what it must, three channels and
padding. Which images are normal `deep_oc.protocols` says.

Other pictures, those of `predict` for example, are squeezed to the size of the
source's images. A source that cuts its images out says how, by `CUT`, the name
of one of `deep_oc.unseen.CUTS`, and, if it takes pictures of one size alone, by
`PICTURE`, its width and height.
"""
import dataclasses
from typing import Any

import numpy as np

from deep_oc import errors, plugins
from deep_oc.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Images with what is known of each.

  Attributes:
    image: u8[n, h, w, 3].
    label: i32[n], the data set's own.
    anomaly: bool[n]; None if only the choice of a normal class tells.
    mask: bool[n, h, w], the abnormal pixels.
    path: str[n], where each image came from.
  """
  image: np.ndarray
  label: np.ndarray
  anomaly: np.ndarray | None = None
  mask: np.ndarray | None = None
  path: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.label)

  def take(self, index: np.ndarray) -> 'Examples':
    """Returns the examples at i64[m] `index`, in its order."""
    return Examples(**{
        field.name: None if getattr(self, field.name) is None
        else getattr(self, field.name)[index]
        for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """A data set, divided as its authors did.

  Attributes:
    name: of the data set.
    train, test: its images.
    class_names: of label 0, 1, ...
    notes: lines that whoever trains on it should read.
  """
  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]
  notes: tuple[str, ...] = ()


def load(source: str, *, pad: int = 0, **kwargs: Any) -> Split:
  """Returns the images of `source`, all with three channels.

  Args:
    source: name of a module of this package.
    pad: zeros around the image, in pixels; 2 makes 32 of 28.
    **kwargs: of the source's own `load`; see there.

  Raises:
    InputError: an unknown source or key, what the source cannot read, or what
      it returns is not as it must be.
  """
  errors.check_whole('data.pad', pad, 0)
  read = plugins.find('deep_oc.data', source, 'load')
  split = plugins.call(read, kwargs, 'data')
  _check_source(source, split)
  split = dataclasses.replace(split, train=_finish(split.train, pad),
                              test=_finish(split.test, pad))
  shapes = split.train.image.shape[1:], split.test.image.shape[1:]
  if shapes[0] != shapes[1]:
    raise InputError(f"the training images of '{split.name}' have shape "
                     f'{shapes[0]}, its test images {shapes[1]}')
  return split


# Kinds of dtype and numbers of axes.
_ARRAYS = {'image': ('u', (3, 4)), 'label': ('iu', (1,)),
           'anomaly': ('b', (1,)), 'mask': ('b', (3,)), 'path': ('U', (1,))}


def _check_source(source: str, split: Any) -> None:
  """Raises InputError if a source did not return what `Split` says."""
  def check(right: bool, said: str):
    if not right:
      raise InputError(f"data source '{source}': {said}")

  check(isinstance(split, Split), f'load returned {type(split).__name__}, not '
        'deep_oc.data.Split')
  check(all(isinstance(each, str) for each in split.class_names),
        'class_names must be strings')
  for part in ('train', 'test'):
    examples = getattr(split, part)
    for name, (kinds, axes) in _ARRAYS.items():
      array = getattr(examples, name)
      if array is None and name not in ('image', 'label'):
        continue
      check(isinstance(array, np.ndarray),
            f'{part}.{name} is a {type(array).__name__}, not an array')
      said = f'{part}.{name} is {array.dtype}{list(array.shape)}'
      check(array.dtype.kind in kinds and array.ndim in axes
            and len(array) == len(examples.image) > 0,
            f'{said}, not as deep_oc.data.Examples says')
      if name == 'image':
        check(array.dtype == np.uint8
              and (array.ndim == 3 or array.shape[3] in (1, 3)),
              f'{said}, not u8[n, h, w], u8[n, h, w, 1] or u8[n, h, w, 3]')
      if name == 'mask':
        check(array.shape == examples.image.shape[:3],
              f'{said}, not of the size of the images')
    low, high = examples.label.min(), examples.label.max()
    check(low >= 0 and high < len(split.class_names),
          f'{part}.label is from {low} to {high}, and there are '
          f'{len(split.class_names)} class_names')


def _finish(examples: Examples, pad: int) -> Examples:
  """Makes three channels of one and pads images and masks."""
  image, mask = examples.image, examples.mask
  if image.ndim == 3:
    image = image[..., None]
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  if pad:
    border = ((0, 0), (pad, pad), (pad, pad))
    image = np.pad(image, (*border, (0, 0)))
    mask = None if mask is None else np.pad(mask, border)
  return dataclasses.replace(examples, image=image, mask=mask)
