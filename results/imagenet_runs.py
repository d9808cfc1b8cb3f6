"""What is computed of each run of imagenet.sh, as a table."""
import glob
import sys

from deep_oc import experiment, tables


def write(path, columns, rows):
  """Writes and prints a CSV of the rows of each run, by its experiment.

  Args:
    path: of the CSV.
    columns: the first is 'experiment'.
    rows: maps a run's folder to the other cells of its rows.
  """
  runs = sorted(glob.glob('runs/lite0_imagenet_mvtec_*/*/seed0'))
  if not runs:
    sys.exit('no run of results/imagenet.sh in runs/')
  table = []
  for run in runs:
    name = experiment.of_run(run).experiment
    for cells in rows(run):
      table.append(dict(zip(columns, (name, *cells), strict=True)))
      print(name, *cells, sep='  ', flush=True)
  tables.write(path, columns, table)
