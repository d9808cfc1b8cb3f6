"""A resumed run's metrics hold each step once."""
import json
import pathlib

import pytest

from deep_oc import files, logs


def test_rows_after_the_checkpoint_and_half_rows_are_dropped(tmp_path):
  with logs.Metrics(tmp_path, 0) as log:
    for step in (10, 20, 30):
      log.write(step, {'loss': 1 / step})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 40, "lo')
  with logs.Metrics(tmp_path, 20) as log:
    log.write(30, {'loss': 0.5})
  rows = [json.loads(line)
          for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert rows == [{'step': 10, 'loss': 0.1}, {'step': 20, 'loss': 0.05},
                  {'step': 30, 'loss': 0.5}]
  assert list((tmp_path / 'tensorboard').glob('events*'))


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(),
                    reason='needs a device that is always full')
def test_a_row_that_finds_no_room_is_one_line(tmp_path):
  with logs.Metrics(tmp_path, 0) as log:
    (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
    with pytest.raises(files.WriteError, match='metrics.jsonl: No space left'):
      log.write(10, {'loss': 1.})
