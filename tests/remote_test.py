"""Runs on object stores: one in memory, and a server that speaks S3."""
import json
import os
import socket
import subprocess
import sys
import time
import types
import uuid

import jax
import numpy as np
import pytest

from deep_oc import (checkpoints, cli, compare, embed, embeddings, errors,
                     evaluate, files, scored, suspicious, tables, train, unseen)
from tests import tiny

pytest.importorskip('upath', reason='the extra `remote`')


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.update_from_flattened_dict({'data.path': str(digits_npz), **overrides})
  return config


@pytest.fixture
def memory():
  return f'memory://{uuid.uuid4().hex}'


def test_an_object_appears_whole_or_not_at_all(memory):
  path = f'{memory}/a/b.txt'
  with files.replacing(path) as file:
    file.write('whole')
    file.flush()
    assert not files.exists(path)
  with pytest.raises(RuntimeError), files.replacing(path) as file:
    file.write('half')
    raise RuntimeError
  assert files.path(path).read_text() == 'whole'
  assert files.glob(f'{memory}/**/*.txt') == [path.replace('://', ':///')]


def test_a_store_that_refuses_is_one_line(memory, monkeypatch):
  def refuse(*_):
    raise ConnectionError('no\nroute')
  monkeypatch.setattr(files.path(memory).fs, 'put_file', refuse)
  with pytest.raises(files.WriteError, match=f'cannot write {memory}/a: no;'), \
      files.replacing(f'{memory}/a') as file:
    file.write('x')


@pytest.mark.parametrize('protocol', ['nonsense', 'abfs'])
def test_a_protocol_that_is_not_installed_names_the_extra(protocol):
  with pytest.raises(errors.InputError, match=r'deep_oc\[remote\]'):
    files.path(f'{protocol}://bucket/run')


def test_a_remote_output_is_no_folder_of_the_input(memory, tmp_path):
  for name in ('a.png', 'deep/b.png'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  found = unseen.find(str(tmp_path), files.path(f'{memory}/run/predictions'))
  assert found.paths == [f'{tmp_path}/a.png', f'{tmp_path}/deep/b.png']


def test_local_paths_load_nothing_of_fsspec(tmp_path):
  code = ('import sys; from deep_oc import embeddings, files\n'
          'with files.replacing(sys.argv[1]) as file: file.write("x")\n'
          'assert files.exists(sys.argv[1]) and files.glob(sys.argv[1] + "*")\n'
          'assert not {"fsspec", "upath"} & set(sys.modules)')
  subprocess.run([sys.executable, '-c', code, str(tmp_path / 'a')], check=True)


def _names(workdir):
  found = files.path(workdir)
  return {each.removeprefix(found.path).lstrip('/')
          for each in found.fs.find(found.path)}


def _assert_same(got, wanted):
  for a, b in zip(*(jax.tree.leaves(embed.restore(run)[3])
                    for run in (got, wanted)), strict=True):
    np.testing.assert_array_equal(a, b)
  for name in ('train', 'test'):
    a, b = (embeddings.read(f'{run}/embeddings/{name}.npz')[0]
            for run in (got, wanted))
    for key in b:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def _stopped_once(config, workdir, monkeypatch):
  """Trains until something fails after the checkpoint of step 40, then on."""
  write = train.logs.Metrics.write

  def fail(self, step, metrics):
    if step == 50:
      raise cli.Stopped('at step 50')
    write(self, step, metrics)
  with monkeypatch.context() as patch, pytest.raises(cli.Stopped):
    patch.setattr(train.logs.Metrics, 'write', fail)
    train.train(config, workdir)
  with checkpoints.Checkpoints(workdir) as saved:
    assert saved.newest() == 40
  train.train(config, workdir)


def test_a_run_on_a_store_is_resumed_and_equals_one_on_disk(
    never_stopped, digits_npz, memory, monkeypatch):
  _stopped_once(_config(digits_npz), memory, monkeypatch)
  _assert_same(memory, never_stopped)
  rows = files.path(f'{memory}/metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [10, 20, 30, 40, 50, 60]
  names = _names(memory)
  assert {'config.json', 'metrics.jsonl', 'embeddings/train.npz',
          'embeddings/test.npz'} == {
              name for name in names if not name.startswith('checkpoints')}
  assert {name.split('/')[1] for name in names
          if name.startswith('checkpoints')} == {'40', '60'}
  with pytest.raises(errors.InputError, match='another config'):
    train.train(_config(digits_npz, seed=1), memory)


def test_a_checkpoint_that_was_not_sent_to_its_end_does_not_count(
    never_stopped, memory):
  source = files.path(never_stopped) / 'checkpoints'
  for name in ('40', '60'):
    files.upload(source / name, files.path(memory) / 'checkpoints' / name)
  target = files.path(memory) / 'checkpoints' / '60'
  send, sent = target.fs.put_file, []

  def lose(*args):
    if len(sent) == 3:
      raise ConnectionError('lost')
    sent.append(args)
    send(*args)
  target.fs.put_file = lose
  try:
    with pytest.raises(files.WriteError, match='lost'):
      files.upload(source / '60', target)
  finally:
    del target.fs.put_file
  assert sent and target.exists()
  with checkpoints.Checkpoints(memory) as saved:
    assert saved.newest() == 40


def test_a_folder_with_brackets_in_its_name_has_its_checkpoints(
    never_stopped, memory):
  workdir = files.path(f'{memory}/run [1]')
  files.upload(files.path(never_stopped) / 'checkpoints' / '40',
               workdir / 'checkpoints' / '40')
  assert files.committed(workdir / 'checkpoints') == ['40']


def test_a_store_that_is_lost_leaves_the_checkpoint_it_has(
    digits_npz, memory, monkeypatch):
  fs = files.path(memory).fs
  send = fs.put_file

  def lose(source, target):
    if '/checkpoints/40/' in target:
      raise ConnectionError('lost')
    send(source, target)
  monkeypatch.setattr(fs, 'put_file', lose)
  with pytest.raises(files.WriteError, match='checkpoint of step 20 is good'):
    train.train(_config(digits_npz), memory)
  with checkpoints.Checkpoints(memory) as saved:
    assert saved.newest() == 20


@pytest.fixture
def bucket(monkeypatch):
  """A bucket on a server that speaks S3, in a process of its own."""
  pytest.importorskip('moto.server')
  s3fs = pytest.importorskip('s3fs')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  monkeypatch.setenv('AWS_ENDPOINT_URL', f'http://127.0.0.1:{port}')
  monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'test')
  monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'test')
  monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
  s3fs.S3FileSystem.clear_instance_cache()  # they keep the address
  process = subprocess.Popen(
      [sys.executable, '-m', 'moto.server', '-p', str(port)],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    deadline = time.time() + 120
    while socket.socket().connect_ex(('127.0.0.1', port)):
      assert process.poll() is None and time.time() < deadline
      time.sleep(0.1)
    s3fs.S3FileSystem().mkdir('bucket')
    yield 's3://bucket'
  finally:
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_run_on_s3_is_resumed_and_equals_one_on_disk(
    binary, never_stopped, digits_npz, bucket, monkeypatch):
  run = f'{bucket}/runs/tiny'
  _stopped_once(_config(digits_npz), run, monkeypatch)
  _assert_same(run, never_stopped)
  assert 'metrics.jsonl' in _names(run)
  done = binary('train', f'--workdir={run}', env=dict(os.environ))
  assert not done.returncode, done.stderr
  assert 'resuming at step 60 of 60' in done.stdout


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(binary, bucket):
  done = binary('train', '--workdir=s3://nowhere/run')
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  [line] = [line for line in done.stderr.splitlines() if 'error: ' in line]
  assert 's3://nowhere/run' in line


def test_runs_on_a_store_are_found_evaluated_and_recalled(memory):
  random = np.random.default_rng(0)
  run = f'{memory}/runs/e/0/seed0'
  anomaly = np.arange(20) < 8
  for name, shift in (('train', 0 * anomaly), ('test', 3 * anomaly)):
    embeddings.write(f'{run}/embeddings/{name}.npz', {
        'pool': random.normal(size=(20, 4)) + [9, 0, 0, 0] +
        shift[:, None] * np.array([0, 1, 1, 1]),
        'anomaly': anomaly & (name == 'test')}, {'experiment': 'e'})
  found, = evaluate.find_runs(f'{memory}/runs/**')
  assert str(found).endswith('/runs/e/0/seed0')
  row, = evaluate.evaluate(found, scored.Request(['kde']))
  assert float(row['auroc']) > 90
  assert tables.read(f'{run}/results.csv')[0]['auroc'] == row['auroc']
  scored.remember(found, scored.origin(found))
  assert scored.recall(found, scored.origin(found)) is not None
  assert str(evaluate.root(f'{memory}/runs/**')).endswith('/runs')


def test_a_run_on_a_store_is_ranked_and_compared(memory, monkeypatch, capsys):
  rng = np.random.default_rng(0)
  for name in ('train', 'test'):
    embeddings.write(f'{memory}/run/embeddings/{name}.npz', {
        'pool': rng.normal(size=(40, 4)).astype(np.float32),
        'head': rng.normal(size=(40, 4)).astype(np.float32),
        'anomaly': (np.arange(40) < 20) & (name == 'test'),
        'index': np.arange(40)}, {'config_hash': 'abc', 'step': 1})
  monkeypatch.setattr(suspicious.flags, 'FLAGS', types.SimpleNamespace(
      workdir=f'{memory}/run', classifier=None, feature='pool', seed=0,
      folds=5, data_dir=None))
  suspicious.main()
  assert f'wrote {memory}' in capsys.readouterr().out
  assert files.exists(f'{memory}/run/suspicious.csv')
  monkeypatch.setattr(compare.flags, 'FLAGS', types.SimpleNamespace(
      a=f'{memory}/run', b=None, feature='pool', classifier='kde',
      other_feature='head', other_classifier=None, output=None))
  compare.main()
  assert 'head kde' in capsys.readouterr().out
