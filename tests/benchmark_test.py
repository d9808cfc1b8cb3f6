"""The benchmark counts what it says it counts."""
import csv
import math

from tests import tiny

from deep_oc import benchmark


def _config():
  config = tiny.get_config()
  config.data.path = 'not read'
  return config


def test_every_rate_is_positive_and_the_shares_agree():
  rows = {row['part']: row for row in benchmark.benchmark(
      _config(), size=16, rounds=1, seconds=0.01)}
  value = {name: float(row['value']) for name, row in rows.items()
           if row['unit']}
  assert all(each > 0 and math.isfinite(each) for each in value.values())
  step_seconds = value['train step'] / 1e3
  ratio = value['train, network inputs'] / value['train, source images']
  assert math.isclose(ratio, 4, rel_tol=1e-2)
  assert math.isclose(value['train, source images'], 16 / step_seconds,
                      rel_tol=1e-2)
  share = 100 * value['train step, achieved'] / value[
      'matrix-product peak, measured']
  assert math.isclose(value['share of the measured peak'], share, rel_tol=1e-2)


def test_the_operations_of_a_step_are_three_forward_passes():
  rows = {row['part']: row for row in benchmark.benchmark(
      _config(), size=16, rounds=1, seconds=0.01)}
  # Multiply-adds of a 16 px image: 8x8 maps of 8, 4x4 of 16, the dense layers.
  macs = 64 * 27 * 8 + 16 * 72 * 16 + 16 * 16 + 16 * 16 + 16 * 4
  wanted = 2 * macs * 3 * 64 / 1e9
  assert 0.6 * wanted < float(rows['operations of a step']['value']) \
      < 2 * wanted  # the first layer needs no input gradient; views are extra


def test_the_table_goes_to_a_csv(binary, tmp_path):
  done = binary('benchmark', '--config=tests/tiny.py', '--size=16',
                '--rounds=1', '--seconds=0.01', f'--output={tmp_path}/b.csv')
  assert not done.returncode, done.stderr
  with (tmp_path / 'b.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['part'] for row in rows] == [
      line[:32].strip() for line in done.stdout.splitlines()]
