"""What a config means, and what is said of one before anything is written."""
import numpy as np
import pytest
from ml_collections import ConfigDict

from deep_oc import embeddings, experiment, runs, train
from deep_oc.errors import InputError
from tests import tiny

CONTRASTIVE = dict(name='contrastive', head=(8,))


def _config(path, **overrides):
  """Returns the config of tests/tiny.py; {'a.b': value}, dicts are groups."""
  config = tiny.get_config()
  config.unlock()
  for key, value in {'data.path': str(path), **overrides}.items():
    *groups, last = key.split('.')
    group = config
    for each in groups:
      group = group[each]
    with group.ignore_type():
      group[last] = ConfigDict(value) if isinstance(value, dict) else value
  return config


@pytest.fixture(scope='module')
def oblong(tmp_path_factory):
  """Images of 16x20, of classes whose names are others' labels."""
  path = tmp_path_factory.mktemp('oblong') / 'images.npz'
  random = np.random.default_rng(0)
  train_image, test_image = (
      random.integers(0, 255, (n, 16, 20, 3), np.uint8) for n in (60, 30))
  np.savez(path, x_train=train_image, x_test=test_image,
           y_train=np.arange(60) % 3, y_test=np.arange(30) % 3,
           class_names=np.array(['1', '2', '3']))
  return path


@pytest.mark.parametrize('overrides, words', [
    ({'optimizer.learning_rate': -1.}, 'learning_rate=-1.0 must be a number'),
    ({'optimizer.name': 'sdg'}, "did you mean 'sgd'"),
    ({'pretext.name': 'rotations'}, "did you mean 'rotation'"),
    ({'encoder.channels': ('8',)}, "encoder.channels='8' must be a whole"),
    ({'distribution': 'rott'}, "did you mean 'rot'"),
    ({'train.placement': 'stream'}, "did you mean 'streamed'"),
    ({'dtype': 'float'}, "unknown dtype 'float'")])
def test_what_no_image_changes_is_said_before_any_is_read_and_without_a_device(
    overrides, words, monkeypatch):
  config = _config('nowhere', **{'dtype': 'auto'} | overrides)
  monkeypatch.setattr('jax.default_backend', None)
  monkeypatch.setattr('jax.devices', None)
  with pytest.raises(InputError, match=words):
    train.train(config)


@pytest.mark.parametrize('overrides, words', [
    ({'localize': dict(name='window')}, "unknown localize.name 'window'"),
    ({'localize': dict(side=18)}, 'windows of 18 pixels'),
    ({'localize': dict(side=8, stride=0)}, 'localize.stride=0 must be'),
    ({'pretext': CONTRASTIVE, 'train.batch': 1}, 'compares images'),
    ({'pretext': CONTRASTIVE, 'train.accumulate': 16}, '2 at least, not 1'),
    ({'pretext.augment.turn': True}, 'augment.turn turns the images'),
    ({'pretext.augment.vertical_flip': 0.5}, 'vertical_flip turns the images'),
    ({'train.steps': 0, 'train.epochs': 0.01}, 'not one step'),
    ({'train.steps': 0, 'train.epochs': 0.}, 'not one step'),
    ({'train.epochs': float('nan')}, 'train.epochs=nan must be a number from'),
    ({'train.epochs': float('inf')}, 'train.epochs=inf must be a number from'),
    ({'train.ema': '0.9'}, "train.ema='0.9' must be a number from 0 to less"),
    ({'train.steps': 1e3}, 'train.steps=1000.0 must be a whole number from 0'),
    ({'train.log_every': 0}, 'train.log_every=0 must be a whole number from 1'),
    ({'encoder.channels': (4, 2.5)}, 'encoder.channels=2.5 must be a whole'),
    ({'encoder.channels': ('8',)}, "encoder.channels='8' must be a whole"),
    ({'optimizer.learning_rate': -1.}, 'learning_rate=-1.0 must be a number'),
    ({'optimizer.momentum': 1.}, 'momentum=1.0 must be a number from 0 to'),
    ({'optimizer.weight_decay': float('nan')}, 'decay=nan must be a number'),
    ({'optimizer.warmup_epochs': float('inf')}, 'epochs=inf must be a number'),
    ({'optimizer.milestones': ('1',)}, "milestones='1' must be a number"),
    ({'optimizer.milestones': 100}, 'milestones=100 must be epochs, as (100,'),
    ({'experiment': ''}, "experiment='' must be a name"),
    ({'protocol.normal': 3}, "protocol.normal=3 must be text, as '3'"),
    ({'method': 3}, 'method=3 must be a name'),
    ({'seed': True}, 'seed=True must be a whole number from 0 on'),
    ({'seed': 2**32}, 'seed=4294967296 must be 2**32-1 at most')])
def test_what_cannot_be_is_said_before_the_folder_is_made(
    overrides, words, digits_npz, tmp_path):
  with pytest.raises(InputError) as error:
    train.train(_config(digits_npz, **overrides), str(tmp_path / 'run'))
  assert words in str(error.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('task', [
    'rotation', pytest.param('csi', marks=pytest.mark.slow)])
def test_quarter_turns_need_square_images_or_a_crop(task, oblong, tmp_path):
  config = _config(oblong, **{'protocol.normal': '1', 'train.steps': 1,
                              'pretext': dict(name=task, head=(8,))})
  with pytest.raises(InputError, match='square images, not 16x20'):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
  config.pretext.crop, config.embed = 8, ConfigDict(dict(views='rot'))
  train.train(config, str(tmp_path / 'run'))
  found, _ = embeddings.read(tmp_path / 'run/embeddings/test.npz')
  assert found['pool_rot'].shape == (30, 4 * 16)


def test_a_batch_of_one_is_enough_for_a_task_that_compares_turns(digits_npz):
  config = _config(digits_npz, pretext=dict(name='csi'), **{'train.batch': 1})
  assert experiment.pretext(config).fewest_images == 1


def test_a_label_that_is_another_class_s_name_is_not_written(oblong):
  config = _config(oblong, **{'protocol.normal': '2'})
  problem = experiment.problem(config)
  again = experiment.problem(experiment.resolved(config, problem))
  assert (problem.normal_class, problem.normal_name) == (1, '2')
  assert again.normal_class == problem.normal_class


@pytest.mark.parametrize('data, changed', [
    (dict(source='cat_vs_dog', path=None, data_dir='/old'), 'data_dir'),
    (dict(source='cat_vs_dog', path='/old/train.zip', data_dir=None), 'path'),
    (dict(source='tfds', name='cifar10', data_dir=None), 'data_dir'),
    (dict(source='npz', path='/old/a.npz'), 'path')])
def test_moved_images_are_read_as_before_from_elsewhere(
    data, changed, tmp_path):
  runs.claim(str(tmp_path), _config('', data=data))
  found = experiment.of_run(str(tmp_path), '/new').data.to_dict()
  assert found == data | {changed: '/new'}


# A run's folder.


def test_what_changes_no_result_may_change_and_is_written(tmp_path):
  runs.claim(str(tmp_path), _config('a.npz'))
  runs.claim(str(tmp_path), _config('a.npz', embed=dict(views='rot')), False)
  assert 'embed' not in runs.read_config(str(tmp_path))
  runs.claim(str(tmp_path), _config('a.npz', embed=dict(views='rot')))
  assert runs.read_config(str(tmp_path)).embed.views == 'rot'
  with pytest.raises(InputError, match="data.path='a.npz' there"):
    runs.claim(str(tmp_path), _config('b.npz'), False)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
  runs.claim(str(tmp_path), _config('a.npz'))
  with runs.held(str(tmp_path)):
    runs.claim(str(tmp_path), _config('a.npz', embed=dict(views='rot')))
    with (pytest.raises(InputError, match='another process is training'),
          runs.held(str(tmp_path))):
      pass
  with runs.held(str(tmp_path)):  # it is free again
    pass
