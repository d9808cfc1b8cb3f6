"""What outputs say of how they were made."""
import csv
import json
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from deep_oc import (embeddings, evaluate, files, provenance, rendering,
                     scored, tables)
from tests import conftest


def _embed(folder):
  rng = np.random.default_rng(0)
  for split, anomaly in (('train', np.zeros(20, bool)),
                         ('test', np.arange(12) < 6)):
    embeddings.write(folder / f'embeddings/{split}.npz', {
        'pool': rng.normal(size=(len(anomaly), 4)).astype(np.float32),
        'anomaly': anomaly, 'label': anomaly.astype(int)}, {'seed': 0})


def _asked(monkeypatch, module, *arguments):
  """Lets `python -m module arguments` be what was asked of the shell."""
  spec = type('Spec', (), {'name': module})()
  monkeypatch.setattr(sys.modules['__main__'], '__spec__', spec)
  monkeypatch.setattr(sys, 'argv', ['a path', *arguments])


@pytest.mark.parametrize('module, named', [
    ('deep_oc.train', 'deep_oc.train'),
    ('deep_oc.data.__main__', 'deep_oc.data'),
    ('launch.sweep', 'launch.sweep')])
def test_a_command_can_be_given_again(monkeypatch, module, named):
  given = ['--a', 'b c', "it's", '--d=*']
  _asked(monkeypatch, module, *given)
  assert shlex.split(provenance.command()) == ['python', '-m', named, *given]


def test_a_command_of_bytes_that_are_no_letters_can_be_written(monkeypatch):
  _asked(monkeypatch, 'deep_oc.predict', b'--input=\xff'.decode(
      errors='surrogateescape'))
  assert provenance.command().encode().endswith(rb"\udcff'")


def test_what_is_no_binary_of_ours_has_no_command(monkeypatch):
  _asked(monkeypatch, 'pytest.__main__')
  assert provenance.command() == ''
  monkeypatch.setattr(sys.modules['__main__'], '__spec__', None)
  assert provenance.command() == ''


def test_versions_are_those_installed():
  found = provenance.versions()
  assert found['jax'] == jax.__version__ and found['numpy'] == np.__version__
  commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=conftest.ROOT,
                          capture_output=True, text=True, check=False)
  assert commit.returncode or found['git'].startswith(commit.stdout.strip())


def test_every_output_of_evaluate_names_its_command(tmp_path, binary):
  _embed(tmp_path / 'run')
  given = [f'--runs={tmp_path}/run', '--classifiers=kde',
           '--false_alarm_rate=0.2', f'--output={tmp_path}/summary.csv']
  assert binary('evaluate', *given).returncode == 0
  wanted = shlex.join(['python', '-m', 'deep_oc.evaluate', *given])
  for name in ('run/results', 'run/p_values', 'summary'):
    assert (tmp_path / f'{name}.csv').exists()
    about = json.loads((tmp_path / f'{name}.json').read_text())
    assert about['command'] == wanted, name
    assert about['versions']['numpy'] == np.__version__
  assert f'    {wanted}\n' in (tmp_path / 'summary.md').read_text()
  assert (tmp_path / 'summary.tex').read_text().startswith(
      f'% Made by {wanted}\n')


def test_another_command_changes_no_result(tmp_path, monkeypatch):
  _embed(tmp_path)
  evaluate.evaluate(tmp_path)
  source = scored.origin(tmp_path)
  scored.remember(tmp_path, source)
  _asked(monkeypatch, 'deep_oc.embed', '--workdir=there')
  _embed(tmp_path)
  with np.load(tmp_path / 'embeddings/test.npz') as archive:
    assert str(archive['command']) == (
        'python -m deep_oc.embed --workdir=there')
  assert scored.recall(tmp_path, scored.origin(tmp_path))
  arrays, meta = embeddings.read(tmp_path / 'embeddings/test.npz')
  assert 'command' not in arrays and meta == {'seed': 0}


def test_a_summary_without_a_command_says_none():
  line = dict.fromkeys(tables.SUMMARY, '') | {
      'normal_class': 'mean', 'n_classes': 1, 'n_seeds': 1, 'of_classes': 1,
      'feature': 'pool', 'classifier': 'kde', 'auroc_mean': '50.00'}
  for render in (rendering.markdown, rendering.latex):
    assert 'Made by' not in render([line])
    assert 'Made by' in render([line], 'python -m deep_oc.evaluate')


def test_a_run_says_which_command_began_it(tmp_path, binary):
  workdir = tmp_path / 'run'
  done = binary('train', f'--workdir={workdir}', '--config.train.steps=2')
  assert done.returncode == 0, done.stderr
  wanted = shlex.join(['python', '-m', 'deep_oc.train', *done.args[3:]])
  about = json.loads((workdir / 'config.json').read_text())
  assert about['command'] == wanted
  for split in ('train', 'test'):
    with np.load(workdir / f'embeddings/{split}.npz') as archive:
      assert str(archive['command']) == wanted


def test_what_is_written_beside_a_table_may_say_more(tmp_path):
  path = files.path(tmp_path / 'a.csv')
  tables.write(path, ('b',), [{'b': 1}], {'count': 1})
  with path.open() as file:
    assert list(csv.DictReader(file)) == [{'b': '1'}]
  about = json.loads((tmp_path / 'a.json').read_text())
  assert about['count'] == 1 and about['versions'] == provenance.versions()
