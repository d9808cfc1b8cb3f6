"""No half checkpoint is loaded, and the newest good one is."""
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deep_oc import checkpoints, errors, files, runs, step


def _state(k):
  """A state whose every array says of which step it is."""
  params = {'kernel': jax.random.normal(jax.random.key(k), (32, 32)),
            'bias': jnp.full(7, k, jnp.float32)}
  return step.State(
      step=jnp.int32(k), params=params,
      collections={'batch_stats': {'mean': jnp.arange(3.) * k}},
      opt_state=optax.sgd(0.1, 0.9).init(params))


def _equal(a, b):
  return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  with checkpoints.Checkpoints(workdir) as saved:
    for k in (20, 40, 60):
      saved.save(_state(k))
  return workdir


def _files(folder):
  return [each for each in sorted(folder.rglob('*')) if each.is_file()]


def test_whichever_file_is_cut_what_is_loaded_is_one_whole_state(
    run, tmp_path, capfd):
  passed_over = 0
  for i, file in enumerate(_files(run / 'checkpoints' / '60')):
    damaged = tmp_path / str(i)
    shutil.copytree(run, damaged)
    cut = damaged / file.relative_to(run)
    cut.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    with checkpoints.Checkpoints(damaged) as saved:
      got = saved.restore(_state(0))
    told = f'{damaged}/checkpoints/60' in capfd.readouterr().err
    assert _equal(got, _state(40 if told else 60)), file
    passed_over += told
  assert passed_over >= 3  # the arrays and the index among them


def test_a_folder_that_orbax_cannot_name_is_said_before_any_step(tmp_path):
  with pytest.raises(errors.InputError, match='is no UTF-8'):
    checkpoints.Checkpoints(tmp_path / os.fsdecode(b'r\xff'))


def _cut(workdir, *steps):
  for k in steps:
    for file in _files(pathlib.Path(workdir) / 'checkpoints' / str(k)):
      file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def test_the_step_of_a_damaged_checkpoint_is_saved_again(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  _cut(tmp_path / 'run', 60)
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    assert int(saved.restore(_state(0)).step) == 40
    saved.save(_state(60))
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    assert _equal(saved.restore(_state(0)), _state(60))


def test_an_earlier_step_than_a_damaged_one_is_saved_and_found(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  _cut(tmp_path / 'run', 60)
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    saved.restore(_state(0))
    saved.save(_state(50))
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    assert _equal(saved.restore(_state(0)), _state(50))


def test_if_all_are_damaged_the_error_names_them_and_nothing_is_removed(
    run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  _cut(tmp_path / 'run', 40, 60)
  with checkpoints.Checkpoints(tmp_path / 'run') as saved, pytest.raises(
      errors.InputError, match='run/checkpoints .* 40 and 60 are damaged'):
    saved.restore(_state(0))
  assert {each.name for each in (tmp_path / 'run/checkpoints').iterdir()} == {
      '40', '60'}


def test_what_orbax_had_not_renamed_yet_does_not_count(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  folder = tmp_path / 'run/checkpoints'
  (folder / '60').rename(folder / '60.orbax-checkpoint-tmp')
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    assert saved.newest() == 40
    assert _equal(saved.restore(_state(0)), _state(40))


def test_only_who_saves_removes_what_was_not_finished(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  folder = tmp_path / 'run/checkpoints'
  (folder / '60').rename(folder / '60.orbax-checkpoint-tmp')
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    saved.restore(_state(0))
  assert {each.name for each in folder.iterdir()} == {
      '40', '60.orbax-checkpoint-tmp'}
  with checkpoints.Checkpoints(tmp_path / 'run') as saved:
    saved.save(_state(50))
    saved.save(_state(70))
  assert {each.name for each in folder.iterdir()} == {'50', '70'}


def test_several_runs_that_stop_say_once_where_they_go_on(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  with pytest.raises(files.WriteError) as said, \
      checkpoints.Checkpoints(run), checkpoints.Checkpoints(tmp_path):
    raise files.WriteError('cannot write it')
  assert str(said.value) == (
      'cannot write it; the checkpoint of step 60 is good, and the same '
      'command resumes from it')


def test_a_folder_named_like_a_pattern_has_its_checkpoints(run, tmp_path):
  workdir = tmp_path / 'exp[1]*'
  assert not runs.has_checkpoints(workdir)
  shutil.copytree(run, workdir)
  assert runs.has_checkpoints(workdir)
  (tmp_path / 'exp1').mkdir()
  assert not runs.has_checkpoints(tmp_path / 'exp1')


def test_a_folder_that_cannot_be_opened_is_not_one_that_cannot_be_written(
    tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise OSError('no such protocol')
  monkeypatch.setattr(checkpoints.ocp.training, 'Checkpointer', refuse)
  with pytest.raises(errors.InputError, match='cannot write .*checkpoints'):
    checkpoints.Checkpoints(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(errors.InputError, match='cannot open .*no such protocol'):
    checkpoints.Checkpoints(tmp_path)
