"""How many normal images heat maps flag, by who calibrates them.

  bash results/imagenet.sh
  PYTHONPATH=. python results/imagenet_alarms.py

writes imagenet_alarms.csv. 5 % of the normal images are to be flagged. In turn,
a fifth of the training images is tested, and all anomalous test images; the
other four fifths are all there is to fit to and to calibrate by. 'held_out':
some of them, 19 at least, are not fitted, and calibrate. 'left_out': all are
fitted, and each calibrates by the places of the others, as `deep_oc.predict`
does it. Heat maps are those of configs/imagenet_folder.py; nothing is trained.
"""
import numpy as np
from configs import imagenet_folder

import imagenet_runs
from deep_oc import experiment, maps, thresholds, trained_run

ALPHA = 0.05
COLUMNS = ('experiment', 'calibration', 'fitted', 'calibrating', 'normal',
           'false_alarms', 'false_alarms_least', 'false_alarms_most',
           'anomalous', 'detected', 'detected_least', 'detected_most')


def rows(workdir):
  config = experiment.of_run(workdir)
  problem = experiment.problem(config)
  normal, test = problem.fitted.image, problem.test
  parts = trained_run.load(workdir, feature='pool').parts()
  method = maps.create(
      imagenet_folder.get_config().localize, parts.pretext, config.seed)

  def largest(image):
    return method.maps(image).max(axis=(1, 2))

  for kind in ('held_out', 'left_out'):
    flagged = []
    for kept, others in thresholds.split(len(normal), 5, 0):
      fitted = kept
      if kind == 'held_out':
        some, rest = thresholds.parted(len(kept), ALPHA, config.seed)
        fitted = kept[some]
      method.fit(parts.variables, normal[fitted])
      calibration = (
          largest(normal[kept[rest]]) if kind == 'held_out' else
          maps.left_out(method, normal[fitted], config.seed))
      threshold = thresholds.threshold(calibration, ALPHA)
      flagged.append([largest(image) > threshold for image in (
          normal[others], test.image[test.anomaly])])
    yield (kind, len(fitted), len(calibration),
           *_shares([each for each, _ in flagged]), test.anomaly.sum(),
           *_shares([each for _, each in flagged])[1:])


def _shares(flagged):
  """Returns how many images there are, and the shares of them in percent."""
  each = np.array([images.mean() for images in flagged])
  return (sum(map(len, flagged)), *(f'{100 * value:.1f}' for value in (
      np.concatenate(flagged).mean(), each.min(), each.max())))


if __name__ == '__main__':
  imagenet_runs.write('results/imagenet_alarms.csv', COLUMNS, rows)
