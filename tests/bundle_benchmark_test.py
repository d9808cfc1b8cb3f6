"""How long a bundle takes is counted as it says."""
import csv
import itertools

import pytest

from deep_oc import bundle, bundle_benchmark
from deep_oc.errors import InputError
from tests import served


@pytest.fixture
def fake(monkeypatch):
  """A bundle on a clock: 10 ms an image, 20 ms a heat map, 1 ms a call."""
  found, now = served.Fake(), [0.]

  def call(method, cost):
    def called(images):
      now[0] += 0.001 + cost * len(images)
      return method(images)
    return called

  monkeypatch.setattr(found, 'judge', call(found.judge, 0.01))
  monkeypatch.setattr(found, 'heat_maps', call(found.heat_maps, 0.02))
  monkeypatch.setattr(bundle, 'load', lambda folder: found)
  monkeypatch.setattr(bundle_benchmark.time, 'perf_counter', lambda: now[0])
  return found


def _rows(*args):
  return {row['part']: row['value'] for row in bundle_benchmark.benchmark(
      'folder', *args)}


def test_images_alone_and_at_once_are_timed_in_turns(fake):
  rows = _rows(2, 0.03)
  assert rows['first answer, with compilation'] == '0.011'
  assert rows['an image alone, median'] == '11'
  assert rows['its heat map, median'] == '21'
  assert float(rows['8 images at once']) == pytest.approx(8 / 0.081, rel=1e-3)
  assert float(rows['at once / one after the other']) == pytest.approx(
      8 * 0.011 / 0.081, rel=1e-3)
  calls = [len(list(each)) for _, each in itertools.groupby(fake.seen)]
  # Once to the first answer and once as all are compiled; then 30 ms of each.
  assert fake.seen[0] == 1 and calls == [2, 1, 3, 1, 3, 1]
  assert fake.mapped == [1] * 5


def test_what_most_calls_take_is_told_beside_the_median(fake, monkeypatch):
  slow = itertools.cycle([0.] * 14 + [0.1])  # more often than 1 in 20
  clock = bundle_benchmark.time.perf_counter
  late = [0.]
  monkeypatch.setattr(bundle_benchmark.time, 'perf_counter',
                      lambda: clock() + late[0])
  judge = fake.judge

  def hesitate(images):
    late[0] += next(slow) * (len(images) == 1)
    return judge(images)

  monkeypatch.setattr(fake, 'judge', hesitate)
  rows = _rows(60, 0.)
  assert rows['an image alone, median'] == '11'
  assert float(rows['an image alone, 95 % within']) == pytest.approx(111)


def test_the_maps_that_are_judged_are_not_timed_twice(fake):
  fake.by_maps = True
  assert 'its heat map, median' not in _rows(1, 0.)
  assert not fake.mapped


def test_no_bundle_is_one_line(tmp_path):
  with pytest.raises(InputError, match='no bundle in'):
    bundle_benchmark.benchmark(tmp_path, 1, 0.)


def test_the_binary_writes_the_table_of_a_bundle(binary, tmp_path, digits_npz):
  import deep_oc
  from deep_oc import export
  from tests import untrained
  run = untrained.run(untrained.digits(digits_npz), tmp_path / 'run')
  export.export(deep_oc.load(run), tmp_path / 'bundle', [], '')
  done = binary('benchmark', f'--bundle={tmp_path}/bundle', '--rounds=1',
                '--seconds=0', f'--output={tmp_path}/b.csv')
  assert not done.returncode, done.stderr
  with (tmp_path / 'b.csv').open(newline='') as file:
    rows = {row['part']: row for row in csv.DictReader(file)}
  assert rows['judges by']['value'] == 'kde, pool'
  assert rows['image']['value'] == '20 × 20'
  assert float(rows['256 images at once']['value']) > 0
  assert all(part in done.stdout for part in rows)
