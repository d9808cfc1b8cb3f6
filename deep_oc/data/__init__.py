"""Images, and the one-class problem that is made of them.

A source, `deep_oc/data/<source>.py`, has one public function
`load(**kwargs) -> Split`: images as they are, u8[n, h, w, c] or u8[n, h, w],
with the data set's own labels. All that is the same for every source happens
here: three channels, padding, and which images are normal.
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
  """A data set, divided as its authors did."""
  name: str
  train: Examples
  test: Examples
  class_names: tuple[str, ...]  # of label 0, 1, ...


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """Normal images to learn from, and normal and abnormal ones to tell apart.

  Attributes:
    train: normal images only.
    test: with `anomaly` set. The evaluation set: under the protocol
      'validation' it is a part of the training split.
    train_index, test_index: i64[n], rows of the data set's own split.
    normal_class: the label of what is normal.
    normal_name: its name.
    protocol: how the split was made.
    dataset: the data set's name.
    class_names: of label 0, 1, ...
  """
  train: Examples
  test: Examples
  train_index: np.ndarray
  test_index: np.ndarray
  normal_class: int
  normal_name: str
  protocol: str
  dataset: str
  class_names: tuple[str, ...]


def load(source: str, *, pad: int = 0, **kwargs: Any) -> Split:
  """Returns the images of `source`, all with three channels.

  Args:
    source: name of a module of this package.
    pad: zeros around the image, in pixels; 2 makes 32 of 28.
    **kwargs: of the source's own `load`; see there.

  Raises:
    InputError: an unknown source or key, or what the source cannot read.
  """
  if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
    raise InputError(f'data.pad={pad!r} must be a whole number from 0 on')
  read = plugins.find('deep_oc.data', source, 'load')
  split = plugins.call(read, kwargs, 'data')
  split = dataclasses.replace(split, train=_finish(split.train, pad),
                              test=_finish(split.test, pad))
  shapes = split.train.image.shape[1:], split.test.image.shape[1:]
  if shapes[0] != shapes[1]:
    raise InputError(f"the training images of '{split.name}' have shape "
                     f'{shapes[0]}, its test images {shapes[1]}')
  return split


def one_class(split: Split, *, name: str = 'one_vs_rest',
              normal: int | str = 0, seed: int = 0) -> Problem:
  """Makes one class normal and all others abnormal.

  Whatever the source itself calls abnormal stays so.

  Args:
    split: the data set.
    name: 'one_vs_rest' trains on all normal training images and evaluates on
      the whole test split; 'validation' leaves the test split alone: see
      `_validation`.
    normal: label or name of the normal class.
    seed: of what a protocol draws. 'validation' draws the same images for
      every seed, so that runs are compared on the same ones.

  Raises:
    InputError: an unknown protocol or class, or one without images.
  """
  del seed  # for protocols that draw what is trained on
  if name not in _PROTOCOLS:
    raise errors.unknown('protocol', name, _PROTOCOLS)
  label = _label(normal, split.class_names)
  train_index, held_out, test_index = _PROTOCOLS[name](split, label)
  if not len(train_index):
    raise InputError(f"'{split.name}' has no training image of class "
                     f"'{split.class_names[label]}' for protocol '{name}'")
  return Problem(
      train=_marked(split.train, label).take(train_index),
      test=_marked(held_out, label).take(test_index),
      train_index=train_index, test_index=test_index, normal_class=label,
      normal_name=split.class_names[label], protocol=name, dataset=split.name,
      class_names=split.class_names)


def _one_vs_rest(split: Split, label: int):
  return (np.flatnonzero(~_marked(split.train, label).anomaly), split.test,
          np.arange(len(split.test)))


def _validation(split: Split, label: int):
  """Takes a tenth of the normal training images and as many outliers.

  The split by which Sohn et al. chose hyper-parameters, from seed 1 as theirs:
  no test image is seen.
  """
  rng = np.random.default_rng(1)
  anomaly = _marked(split.train, label).anomaly
  normal = rng.permutation(np.flatnonzero(~anomaly))
  kept, held_out = np.split(normal, [len(normal) * 9 // 10])
  outliers = rng.permutation(np.flatnonzero(anomaly))[:len(held_out)]
  if len(outliers) < len(held_out):
    raise InputError(
        f"protocol 'validation' needs {len(held_out)} abnormal images in the "
        f"training split of '{split.name}'; it has {len(outliers)}")
  return (np.sort(kept), split.train,
          np.sort(np.concatenate([held_out, outliers])))


# (split, label) -> training rows, the examples to evaluate on, their rows.
_PROTOCOLS = {'one_vs_rest': _one_vs_rest, 'validation': _validation}


def _label(normal: int | str, class_names: tuple[str, ...]) -> int:
  if normal in class_names:
    return class_names.index(normal)
  if isinstance(normal, str) and normal.isdecimal():
    normal = int(normal)  # command lines and JSON know only one type
  if isinstance(normal, str):
    raise errors.unknown('normal class', normal, class_names)
  if isinstance(normal, bool) or normal not in range(len(class_names)):
    raise InputError(f'unknown normal class {normal}; the labels are 0 to '
                     f'{len(class_names) - 1}: ' + ', '.join(class_names))
  return int(normal)


def _marked(examples: Examples, label: int) -> Examples:
  """Returns the examples with `anomaly` bool[n] set."""
  anomaly = examples.label != label
  if examples.anomaly is not None:
    anomaly |= examples.anomaly
  return dataclasses.replace(examples, anomaly=anomaly)


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
