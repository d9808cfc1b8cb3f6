"""Whether regions are where defects are: regions.csv.

  bash results/imagenet_border.sh
  PYTHONPATH=. python results/regions.py

A defect is what touches in a mask, a region what `deep_oc.predict` has in
regions.csv, at a false-alarm rate of 5 %; one is on the other if they share a
pixel. Of all test images, by the images that were held out of everything.
"""
import glob
import sys

import numpy as np
from scipy import ndimage

from deep_oc import experiment, tables, trained_run
from deep_oc.bundle import regions

COLUMNS = ('experiment', 'images', 'defects', 'defects_found', 'regions',
           'regions_on_defects', 'normal_images', 'regions_on_normal_images')
TOUCHING = np.ones((3, 3))


def counts(heat, threshold, mask):
  """Returns defects, those found, regions, and those on a defect."""
  above = regions.above(heat, threshold)
  found = []
  for one, other in ((mask, above), (above, mask)):
    label, number = ndimage.label(one, TOUCHING)
    found += [number, len(np.unique(label[one & other]))]
  return np.array(found)


def row(workdir):
  detector = trained_run.load(workdir, feature='windows')
  test = experiment.problem(detector.parts().config).test
  each = np.array([counts(heat, detector.threshold_, mask) for heat, mask
                   in zip(detector.heat_maps(test.image), test.mask,
                          strict=True)])
  anomalies, normals = (each[test.anomaly == kind] for kind in (True, False))
  return dict(zip(COLUMNS, (
      detector.about['experiment'], len(anomalies), *anomalies.sum(axis=0),
      len(normals), normals[:, 2].sum()), strict=True))


def main():
  runs = sorted(glob.glob('runs/imagenet_border_*/*/*/seed0'))
  if not runs:
    sys.exit('no run of results/imagenet_border.sh in runs/')
  rows = list(map(row, runs))
  tables.write('results/regions.csv', COLUMNS, rows)
  for each in rows:
    print(*(f'{name} {value}' for name, value in each.items()), sep='  ')


if __name__ == '__main__':
  main()
