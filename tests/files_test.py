"""Files are whole or absent, and messages are one line."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from deep_oc import embeddings, errors, files, plugins


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with pytest.raises(RuntimeError), files.replacing(path) as file:
    file.write('half')
    raise RuntimeError
  assert path.read_text() == 'old'
  assert [each.name for each in tmp_path.iterdir()] == ['a.txt']


def test_a_write_makes_the_folder_and_replaces_the_file(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  for text in ('one', 'two'):
    with files.replacing(path) as file:
      file.write(text)
  assert path.read_text() == 'two'
  assert path.stat().st_mode & 0o444 == 0o444  # others may read it


def test_a_name_may_be_as_long_as_any(tmp_path):
  path = tmp_path / ('字' * 85)  # 255 bytes
  with files.replacing(path) as file:
    file.write('one')
  assert path.read_text() == 'one'


def test_home_is_where_the_tilde_says(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  with files.replacing('~/a.txt'):
    pass
  assert files.exists(tmp_path / 'a.txt') and files.exists('~/a.txt')
  assert files.glob('~/*.txt') == [str(tmp_path / 'a.txt')]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError, match='cannot write .*file/a.txt'), \
      files.replacing(tmp_path / 'file' / 'a.txt'):
    pass


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(),
                    reason='needs a device that is always full')
def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setattr(files.tempfile, 'mkstemp', lambda **_: (
      files.os.open('/dev/full', files.os.O_WRONLY), str(tmp_path / 'aside')))
  with pytest.raises(errors.InputError, match='No space left'), \
      files.replacing(tmp_path / 'a.txt') as file:
    file.write('x' * 100_000)
  assert not (tmp_path / 'a.txt').exists()


def test_embeddings_come_back_as_they_were_written(tmp_path):
  arrays = {'pool': np.ones((3, 2), np.float32),
            'score_upright': np.arange(3.), 'anomaly': np.array([0, 1, 0]) > 0,
            'path': np.array(['a', 'bc', 'ä'])}
  embeddings.write(tmp_path / 'e.npz', arrays, {'seed': 0, 'dataset': 'x'})
  got, meta = embeddings.read(tmp_path / 'e.npz')
  assert meta == {'seed': 0, 'dataset': 'x'}
  assert set(got) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(got[name], array)
  assert set(embeddings.features(got)) == {'pool'}
  assert set(embeddings.scores(got)) == {'upright'}


def test_a_config_key_that_a_function_needs_is_named():
  def function(*, needed, other=1):
    return needed + other
  assert plugins.call(function, {'needed': 1}, 'group') == 2
  with pytest.raises(errors.InputError, match='lacks group.needed'):
    plugins.call(function, {}, 'group')
  with pytest.raises(errors.InputError, match="did you mean 'group.other'"):
    plugins.call(function, {'needed': 1, 'othr': 2}, 'group')
  with pytest.raises(errors.InputError, match="lacks 'dtype', which every"):
    plugins.call(function, {'needed': 1}, 'group', dtype='float32')


def test_a_file_without_the_name_that_is_looked_for_is_told():
  with pytest.raises(errors.InputError, match=r"convnet.py lacks 'Modell'; "):
    plugins.find('deep_oc.models', 'convnet', 'Modell')


@pytest.mark.parametrize('asked', ['', '--help'])
@pytest.mark.parametrize('lines', [1, 100_000])
def test_who_reads_no_further_is_told_nothing(lines, asked):
  code = ('from deep_oc import cli\n'
          f'text = "a line\\n" * {lines}\n'
          'import sys; sys.modules["__main__"].__doc__ = text\n'
          'cli.run(lambda: print(text), lambda: None)')
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
      [sys.executable, '-c', code, *asked.split()], stdout=write, text=True,
      stderr=subprocess.PIPE, check=False)
  os.close(write)
  assert (done.returncode, done.stderr) == (141, '')


@pytest.mark.parametrize('error, status', [
    ('errors.InputError("x")', 2), ('errors.OutOfMemory("x")', 1),
    ('RuntimeError("RESOURCE_EXHAUSTED: x")', 1), ('MemoryError("x")', 1)])
def test_too_little_memory_has_another_status_than_bad_input(error, status):
  code = ('from deep_oc import cli, errors\n'
          f'def main(): raise {error}\n'
          'cli.run(main, lambda: None)')
  done = subprocess.run([sys.executable, '-c', code], text=True,
                        stderr=subprocess.PIPE, check=False)
  assert done.returncode == status
  assert done.stderr.startswith('error: ') and 'x' in done.stderr


def test_a_file_is_not_blamed_for_what_nobody_reads(tmp_path):
  with pytest.raises(BrokenPipeError), files.replacing(tmp_path / 'a.txt'):
    raise BrokenPipeError
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['train', 'embed', 'evaluate', 'benchmark'])
def test_help_shows_the_command_and_every_flag(name):
  done = subprocess.run(
      [sys.executable, '-m', f'deep_oc.{name}', '--help'],
      capture_output=True, text=True, timeout=120)
  assert f'python -m deep_oc.{name}' in done.stdout
  flag = {'train': '--workdir', 'embed': '--step', 'evaluate': '--runs',
          'benchmark': '--rounds'}[name]
  assert flag in done.stdout
  assert 'Traceback' not in done.stderr
