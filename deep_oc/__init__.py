"""Deep one-class classification in JAX: learn from normal images alone.

  detector = deep_oc.load('runs/dacl_cifar10/0/seed0')
  scores = detector.decision_function(images)
  anomalous = detector.predict(images)
"""
import os
import typing

if typing.TYPE_CHECKING:
  from collections.abc import Iterable

  from deep_oc import detector, unseen

__version__ = '0.1.0'


def load(workdir: str | os.PathLike, *, classifier: str | None = None,
         feature: str | None = None, false_alarm_rate: float | None = None,
         calibration: 'Iterable[unseen.Picture] | None' = None,
         data_dir: str | None = None) -> 'detector.Detector':
  """Returns the detector of a trained run: `deep_oc.trained_run.load`."""
  from deep_oc import trained_run  # and JAX, for those who load
  return trained_run.load(
      workdir, classifier=classifier, feature=feature,
      false_alarm_rate=false_alarm_rate, calibration=calibration,
      data_dir=data_dir)
