"""The one-class problem that is made of a data set: what is normal.

A protocol says which images are learnt from and which are told apart;
`one_class` tells what each does.
"""
import dataclasses
import itertools
import numbers
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from deep_oc import data, errors
from deep_oc.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """Normal images to learn from, and normal and abnormal ones to tell apart.

  Encoders learn from `train.image`, classifiers from features of
  `fitted.image`; `train.anomaly` is the truth about what is blindly taken for
  normal, and is for reports alone.

  Attributes:
    train: normal images only, unless the protocol contaminates them.
    test: with `anomaly` set. The evaluation set: under the protocol
      'validation' it is a part of the training split.
    train_index, test_index: i64[n], rows of the data set's own split.
    normal_class: the label of what is normal; of several classes, '3+5'.
    normal_name: its name, 'cat' or 'cat+dog'.
    protocol: how the split was made, with its numbers: 'contaminated_5%'.
    dataset: the data set's name.
    class_names: of label 0, 1, ...
    settings: the protocol's own arguments, its defaults among them.
    clean: i64[m], the rows of `train` that are known to be normal, where only
      these are given to classifiers; None where all of `train` is.
    calibration: images taken for normal that nothing learns from, to calibrate
      false alarms with; none unless the protocol is told to hold some out.
    calibration_index: i64[k], their rows of the data set's own split.
  """
  train: data.Examples
  test: data.Examples
  calibration: data.Examples
  train_index: np.ndarray
  test_index: np.ndarray
  calibration_index: np.ndarray
  normal_class: int | str
  normal_name: str
  protocol: str
  dataset: str
  class_names: tuple[str, ...]
  settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
  clean: np.ndarray | None = None

  @property
  def fitted(self) -> data.Examples:
    """What classifiers are fitted to."""
    return self.train if self.clean is None else self.train.take(self.clean)

  @property
  def fitted_index(self) -> np.ndarray:
    """The rows of `fitted` in the data set's own split, i64[m]."""
    return self.train_index[slice(None) if self.clean is None else self.clean]

  @property
  def unlabelled(self) -> np.ndarray:
    """The rows of `train` that only the encoder sees, i64[n - m]."""
    fitted = slice(None) if self.clean is None else self.clean
    return np.delete(np.arange(len(self.train)), fitted)


def one_class(split: data.Split, *, name: str = 'one_vs_rest',
              normal: int | str = 0, seed: int = 0,
              contamination: float | None = None, clean: int | None = None,
              calibration: float | None = None) -> Problem:
  """Makes one class normal, or several, and all others abnormal.

  Whatever the source itself calls abnormal stays so.

  The protocols; all but 'validation' evaluate on the whole test split:

    one_vs_rest      trains on all normal training images.
    validation       leaves the test split alone: see `_validation`.
    contaminated     trains encoder and classifier, both blindly, on all normal
                     training images and on abnormal ones of the training split
                     that make up the share `contamination` of the whole.
    semi_supervised  trains the encoder on the same, the classifier on `clean`
                     of the normal images.

  Any of them may hold out a share of the images that its classifiers would be
  fitted to, from these and from the encoder: what is left then calibrates how
  many false alarms there will be (`deep_oc.thresholds`).

  Args:
    split: the data set.
    name: of the protocol.
    normal: label or name of the normal class; of several, '3+5' or 'cat+dog'.
    seed: of what a protocol draws. 'validation' draws the same images for
      every seed, so that runs are compared on the same ones.
    contamination: from 0 to 0.5; 0.05 if it is not given.
    clean: a number of images; 50 if it is not given.
    calibration: the share that is held out, up to 0.5; none if it is not given.

  Raises:
    InputError: an unknown protocol or class, one without images, too few of
      them, or a setting that the protocol does not take.
  """
  if name not in PROTOCOLS:
    raise errors.unknown('protocol', name, PROTOCOLS)
  labels = _labels(normal, split.class_names)
  split = dataclasses.replace(split, train=_marked(split.train, labels),
                              test=_marked(split.test, labels))
  named = '+'.join(split.class_names[label] for label in labels)
  _check_kinds(split, labels, named, name)
  settings = settings_of(name, contamination=contamination, clean=clean,
                         calibration=calibration)
  held_out = settings.get('calibration', 0)
  rows = PROTOCOLS[name][0](split, seed, **{
      key: settings[key] for key in PROTOCOLS[name][1]})
  if held_out:
    rows = _hold_out(rows, seed, held_out)
  return Problem(
      train=split.train.take(rows.train), test=rows.source.take(rows.test),
      calibration=split.train.take(rows.calibration),
      train_index=rows.train, test_index=rows.test,
      calibration_index=rows.calibration,
      normal_class=labels[0] if len(labels) == 1 else '+'.join(
          map(str, labels)),
      normal_name=named, protocol=title(name, settings, len(labels)),
      dataset=split.name, class_names=split.class_names, settings=settings,
      clean=rows.clean)


class _Rows(NamedTuple):
  """What a protocol draws."""
  train: np.ndarray  # i64[n], rows of the training split
  source: data.Examples  # the split to evaluate on
  test: np.ndarray  # i64[n], its rows
  clean: np.ndarray | None = None  # i64[m], rows of `train`
  calibration: np.ndarray = np.empty(0, np.int64)  # rows of the training split


def _one_vs_rest(split: data.Split, seed: int) -> _Rows:
  del seed  # nothing is drawn
  return _Rows(np.flatnonzero(~split.train.anomaly), split.test,
               np.arange(len(split.test)))


def _validation(split: data.Split, seed: int) -> _Rows:
  """Takes a tenth of the normal training images and as many outliers.

  As Sohn et al. chose hyper-parameters, but of other images: theirs are drawn
  from seed 1 too, by NumPy's old generator. No test image is seen.
  """
  del seed
  rng = np.random.default_rng(1)
  anomaly = split.train.anomaly
  normal = rng.permutation(np.flatnonzero(~anomaly))
  kept, held_out = np.split(normal, [len(normal) * 9 // 10])
  outliers = rng.permutation(np.flatnonzero(anomaly))[:len(held_out)]
  if len(outliers) < len(held_out):
    raise InputError(
        f"protocol 'validation' needs {len(held_out)} abnormal images in the "
        f"training split of '{split.name}'; it has {len(outliers)}")
  return _Rows(np.sort(kept), split.train,
               np.sort(np.concatenate([held_out, outliers])))


def _contaminated(split: data.Split, seed: int, contamination: float) -> _Rows:
  """Adds to the n normal training images c n / (1 - c) abnormal ones.

  Rounded to whole images, they are the share c of what is trained on. A higher
  share adds to what a lower one has of the same seed.
  """
  normal, others = (np.flatnonzero(split.train.anomaly == anomaly)
                    for anomaly in (False, True))
  wanted = _contaminants(len(normal), contamination)
  if wanted > len(others):
    raise InputError(
        f'protocol.contamination={contamination} needs {wanted} abnormal '
        f"images beside {len(normal)} normal ones; the training split of "
        f"'{split.name}' has {len(others)}")
  drawn = np.random.default_rng([seed, 1]).permutation(others)[:wanted]
  return _Rows(np.sort(np.concatenate([normal, drawn])), split.test,
               np.arange(len(split.test)))


def _contaminants(normals: int, contamination: float) -> int:
  wanted = round(contamination * normals / (1 - contamination))
  if contamination and not wanted:
    raise InputError(f'protocol.contamination={contamination} beside {normals} '
                     'normal images is not one whole image; raise it')
  return wanted


def _semi_supervised(split: data.Split, seed: int, contamination: float,
                     clean: int) -> _Rows:
  """Contaminates what the encoder sees, and vouches for some normal images.

  The clean images are among those that the encoder sees, and the same whatever
  the contamination.
  """
  rows = _contaminated(split, seed, contamination)
  normal = np.flatnonzero(~split.train.anomaly[rows.train])
  if clean > len(normal):
    raise InputError(f'protocol.clean={clean} is more than the {len(normal)} '
                     f"normal training images of '{split.name}'")
  drawn = np.random.default_rng([seed, 2]).permutation(normal)[:clean]
  return rows._replace(clean=np.sort(drawn))


def _hold_out(rows: _Rows, seed: int, share: float) -> _Rows:
  """Takes a share away from what classifiers are fitted to.

  Rounded to whole images, drawn by the seed; the encoder does not get them
  either.
  """
  fitted = rows.train if rows.clean is None else rows.train[rows.clean]
  drawn = np.random.default_rng([seed, 4]).permutation(fitted)
  drawn = np.sort(drawn[:round(share * len(fitted))])
  if not len(drawn):
    raise InputError(f'protocol.calibration={share} of {len(fitted)} images is '
                     'not one whole image; raise it')
  if len(fitted) - len(drawn) < 2:
    raise InputError(f'protocol.calibration={share} of {len(fitted)} images '
                     'leaves fewer than two to fit a classifier to; lower it')
  train = np.setdiff1d(rows.train, drawn)
  clean = None if rows.clean is None else np.flatnonzero(
      np.isin(train, fitted))
  return rows._replace(train=train, clean=clean, calibration=drawn)


# By name: (split, seed, **settings) -> _Rows, and the settings' defaults.
PROTOCOLS = {
    'one_vs_rest': (_one_vs_rest, {}),
    'validation': (_validation, {}),
    'contaminated': (_contaminated, {'contamination': 0.05}),
    'semi_supervised': (_semi_supervised, {'contamination': 0.05,
                                           'clean': 50})}


def settings_of(name: str, calibration: float | None = None,
                **given: float | None) -> dict[str, float]:
  """Returns what is given (not None) and the defaults of what is not.

  Of 'calibration' nothing if none is held out.

  Raises:
    InputError: what the protocol does not take, or no share or number that it
      could be of any images.
  """
  defaults = PROTOCOLS[name][1]
  given = {key: value for key, value in given.items() if value is not None}
  for key in given:
    if key not in defaults:
      takers = [f"'{each}'" for each, (_, taken) in PROTOCOLS.items()
                if key in taken]
      raise InputError(f"protocol '{name}' takes no protocol.{key}; "
                       f'protocol.name={" or ".join(takers)} does')
  found = defaults | given | ({'calibration': calibration} if calibration
                              else {})
  for key in ('contamination', 'calibration'):
    share = found.get(key, 0)
    if isinstance(share, bool) or not isinstance(share, numbers.Real) \
        or not 0 <= share <= 0.5:
      raise InputError(f'protocol.{key}={share} must be a share from 0 to 0.5')
  clean = found.get('clean', 2)
  if isinstance(clean, bool) or not isinstance(clean, int) or clean < 2:
    raise InputError(f'protocol.clean={clean} must be a number of images, two '
                     'at least')
  return found


def title(name: str, settings: Mapping[str, float], classes: int) -> str:
  """Returns the protocol with its numbers: 'semi_supervised_5%_50'.

  Where images are held out, how many in 100; of several normal classes, how
  many: papers' numbers are of one, and of all its images.
  """
  parts = [name]
  if 'contamination' in settings:
    parts.append(f"{100 * settings['contamination']:g}%")
  if 'clean' in settings:
    parts.append(str(settings['clean']))
  if 'calibration' in settings:
    parts.append(f"calibration_{100 * settings['calibration']:g}%")
  return '_'.join(parts + [f'{classes}_classes'] * (classes > 1))


def _labels(normal: int | str, class_names: tuple[str, ...]) -> list[int]:
  """Returns the normal labels, sorted."""
  several = isinstance(normal, str) and normal not in class_names
  labels = sorted(_label(each, class_names)
                  for each in (normal.split('+') if several else [normal]))
  for label, following in itertools.pairwise(labels):
    if label == following:
      raise InputError(f"protocol.normal={normal} names class {label}, "
                       f"'{class_names[label]}', twice")
  return labels


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


def _check_kinds(split: data.Split, labels: list[int], named: str, name: str
                 ) -> None:
  """Checks that there is something normal, and something that is not."""
  if split.train.anomaly.all():
    raise InputError(f"'{split.name}' has no training image of class "
                     f"'{named}' for protocol '{name}'")
  if 1 < len(labels) == len(split.class_names) and not split.test.anomaly.any():
    raise InputError(f"protocol.normal names all {len(labels)} classes of "
                     f"'{split.name}'; leave one out, to be abnormal")


def _marked(examples: data.Examples, labels: list[int]) -> data.Examples:
  """Returns the examples with `anomaly` bool[n] set."""
  anomaly = ~np.isin(examples.label, labels)
  if examples.anomaly is not None:
    anomaly |= examples.anomaly
  return dataclasses.replace(examples, anomaly=anomaly)
