"""What a run begins with: another one's weights, or a PyTorch network's."""
import hashlib
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from models_test import apply, conv, random_variables
from PIL import Image

import deep_oc
from deep_oc import (checkpoints, embeddings, evaluate, experiment, models,
                     pretexts, runs, scored, step, tables, together, train,
                     trained_run, weights)
from deep_oc.errors import InputError
from deep_oc.models import resnet
from tests import saved, tiny, untrained

EPSILON = 1e-5


@pytest.fixture(scope='module')
def source(digits_npz, tmp_path_factory):
  """A run of seed 1, whose network has random weights of its own."""
  config = untrained.digits(digits_npz)
  config.seed = 1
  return untrained.run(config, tmp_path_factory.mktemp('source') / 'run')


def read(workdir):
  """Returns the arrays of a run's newest checkpoint by their paths."""
  with checkpoints.Checkpoints(workdir) as saved:
    _, variables = saved.variables()
  return by_path(variables)


def by_path(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'):
          np.asarray(leaf) for path, leaf
          in jax.tree_util.tree_flatten_with_path(tree)[0]}


def first_state(config, ema=0.0):
  """Returns the state at step 0 of a run of this config."""
  config.train.ema = ema
  problem = experiment.problem(config)
  config = experiment.resolved(config, problem)
  images = problem.train.image
  return experiment.first_state(
      config, experiment.pretext(config),
      experiment.optimizer(config, len(images)), images)


def beginning(digits_npz, where, **fields):
  """Returns a config of seed 0 that begins with `where`."""
  config = untrained.digits(digits_npz)
  config.train.ema = 0.0
  with config.unlocked():
    config.encoder.weights = str(where)
  config.update_from_flattened_dict(fields)
  return config


def test_the_same_task_begins_with_all_of_the_run(source, digits_npz):
  state = first_state(beginning(digits_npz, source))
  found, wanted = by_path(state.variables), read(source)
  assert found.keys() == wanted.keys() and len(found) > 8
  for name in found:
    np.testing.assert_array_equal(found[name], wanted[name], name)
  plain = by_path(first_state(untrained.digits(digits_npz)).variables)
  moved = {name for name in found if (found[name] != plain[name]).any()}
  assert {'params/encoder/Conv_0/kernel', 'params/encoder/Conv_1/kernel',
          'params/classifier/kernel'} <= moved
  assert int(state.step) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_another_task_begins_with_what_both_have(source, digits_npz):
  config = beginning(digits_npz, source)
  config.pretext = ConfigDict(dict(
      name='rotation', head=(16,), augment=dict(crop=0.75)))
  found, wanted = by_path(first_state(config).variables), read(source)
  plain = untrained.digits(digits_npz)
  plain.pretext = config.pretext
  plain = by_path(first_state(plain).variables)
  for name in found:  # the head has another shape, the classifier has not
    there = wanted if 'encoder' in name or 'classifier' in name else plain
    np.testing.assert_array_equal(found[name], there[name], name)


def test_an_average_is_what_is_taken_and_where_an_average_begins(
    source, digits_npz, tmp_path):
  config = untrained.digits(digits_npz)
  config.train.ema = 0.5
  state = first_state(config, ema=0.5)
  state = state.replace(average=jax.tree.map(lambda x: x + 1, state.average))
  shutil.copy(source / 'config.json', tmp_path / 'config.json')
  with checkpoints.Checkpoints(tmp_path) as saved:
    saved.save(jax.device_put(state, jax.devices()[0]))
  found = first_state(beginning(digits_npz, tmp_path), ema=0.9)
  assert found.decay == 0.9
  for tree in (found.average, found.variables,
               {'params': found.params, **found.collections}):
    jax.tree.map(np.testing.assert_array_equal, tree['params'],
                 state.average['params'])
    jax.tree.map(np.testing.assert_array_equal, tree['batch_stats'],
                 state.average['batch_stats'])
  # Every buffer is donated once.
  leaves = jax.tree.leaves(found)
  assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_run_says_what_it_began_with_and_resumes_without_it(
    source, digits_npz, tmp_path, capsys):
  there = tmp_path / '3' / 'seed4'
  shutil.copytree(source, there)
  config = beginning(
      digits_npz, tmp_path / '{normal}' / 'seed{seed}',
      **{'protocol.normal': '3', 'seed': 4, 'train.steps': 2,
         'train.checkpoint_every': 1})
  workdir = train.train(config, str(tmp_path / 'run'))
  assert f'begins with classifier, encoder and mlp of {there}, step 0' in (
      capsys.readouterr().out)
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  named = str(tmp_path / '{normal}' / 'seed{seed}')
  assert stored['config']['encoder']['weights'] == named
  assert stored['weights'] == {
      'path': str(there), 'step': 0, 'parts': ['classifier', 'encoder', 'mlp']}
  meta = embeddings.read(f'{workdir}/embeddings/test.npz')[1]
  assert f'weights={named}' in meta['encoder']
  # The baseline is the random network still.
  trained, plain = (embeddings.read(each / 'embeddings' / 'test.npz')[0]
                    for each in (tmp_path / 'run', _plain(digits_npz, tmp_path))
                    )
  np.testing.assert_array_equal(trained['random'], plain['random'])
  assert np.abs(trained['pool'] - trained['random']).max() > 0.01
  resolved = runs.read_config(workdir)
  assert runs.finished(workdir, config) and runs.finished(workdir, resolved)

  shutil.rmtree(there)
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '2')
  before = read(tmp_path / 'run')
  train.train(config, workdir)
  after = read(tmp_path / 'run')
  assert before.keys() == after.keys()
  assert (before['params/encoder/Conv_0/kernel']
          != after['params/encoder/Conv_0/kernel']).any()
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert stored['weights']['path'] == str(there)  # still
  with pytest.raises(InputError, match='holds a run of another config .*weigh'):
    train.train(untrained_seed(config, digits_npz), workdir)


def _plain(digits_npz, folder):
  config = untrained.digits(digits_npz)
  config.seed = 4
  return untrained.run(config, folder / 'plain')


def untrained_seed(config, digits_npz):
  plain = untrained.digits(digits_npz)
  plain.seed = config.seed
  plain.train = config.train
  return plain


def test_a_field_that_names_nothing_changes_no_run(digits_npz, tmp_path):
  plain, asked = untrained.digits(digits_npz), untrained.digits(digits_npz)
  with asked.unlocked():
    asked.encoder.weights = None
  assert runs.config_hash(asked) == runs.config_hash(plain)
  assert experiment.pretext(asked) == experiment.pretext(plain)
  workdir = str(untrained.run(plain, tmp_path / 'run'))
  runs.claim(workdir, experiment.resolved(asked, experiment.problem(asked)))
  encoder = embeddings.read(f'{workdir}/embeddings/test.npz')[1]['encoder']
  again = untrained.run(asked, tmp_path / 'again')
  assert embeddings.read(
      again / 'embeddings' / 'test.npz')[1]['encoder'] == encoder


def test_seeds_that_begin_each_with_its_own_are_one_line_of_the_table(
    source, digits_npz, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for seed in (0, 1):
    shutil.copytree(source, f'first/seed{seed}')
    config = beginning(digits_npz, 'first/seed{seed}', **{
        'seed': seed, 'train.steps': 1})
    train.train(config, f'runs/seed{seed}')
  for seed in (0, 1):
    stored = json.loads(
        pathlib.Path(f'runs/seed{seed}/config.json').read_text())
    assert stored['weights']['path'] == f'first/seed{seed}'
    assert stored['config']['encoder']['weights'] == 'first/seed{seed}'
  rows = [row for seed in (0, 1) for row in evaluate.evaluate(
      pathlib.Path(f'runs/seed{seed}'), scored.Request(('kde',), ('pool',)))]
  lines = tables.summarize(rows)
  assert {line['n_seeds'] for line in lines} == {2}
  assert all('weights=first/seed{seed}' in line['encoder'] for line in lines)


def test_runs_together_begin_each_with_its_own(
    source, digits_npz, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  other = untrained.digits(digits_npz)
  other.seed = 2
  for at, run in ((0, source), (1, untrained.run(other, tmp_path / 'other'))):
    shutil.copytree(run, tmp_path / 'first' / f'seed{at}')
  config = lambda seed: beginning(  # noqa: E731
      digits_npz, 'first/seed{seed}', **{
          'seed': seed, 'train.steps': 1, 'optimizer.learning_rate': 0.0,
          'optimizer.weight_decay': 0.0})
  members = [together.member(config(seed), 'runs') for seed in (0, 1)]
  assert members[0].shape == members[1].shape
  assert together.train_together(members, at_once=2) == []
  for at, each in enumerate(members):
    found, wanted = read(each.workdir), read(f'first/seed{at}')
    for name in found:
      if name.startswith('params'):  # at a rate of 0
        np.testing.assert_array_equal(found[name], wanted[name], name)


@pytest.mark.parametrize('where, said', [
    ('nothing', 'weights=nothing is no run, .* config.json, and no file that '
                'ends with .safetensors or .pth or .pt'),
    ('some.pth', "no file encoder.weights=some.pth; see 'Trained weights' in"),
    ('some.safetensors', 'no file encoder.weights=some.safetensors; see'),
    ('some_package/a.pth', 'some_package/a.pth, nor in an installed package '
                           'some_package; see'),
    ('sklearn/a.pth', 'sklearn/a.pth, nor in an installed package sklearn')])
def test_what_is_not_there_is_said_and_nothing_written(
    where, said, digits_npz, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=said):
    train.train(beginning(digits_npz, where), 'run')
  assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_says_what_it_begins_with_now(
    source, digits_npz, tmp_path):
  config = beginning(digits_npz, source, **{'train.steps': 1})
  resolved = experiment.resolved(config, experiment.problem(config))
  runs.claim(str(tmp_path / 'run'), resolved, weights={
      'path': str(source), 'step': 77, 'parts': ['encoder']})
  train.train(config, str(tmp_path / 'run'))
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert stored['weights'] == {
      'path': str(source), 'step': 0, 'parts': ['classifier', 'encoder', 'mlp']}


def test_a_path_is_a_string(digits_npz, tmp_path):
  config = beginning(digits_npz, source)
  with config.unlocked():
    config.encoder = dict(config.encoder, weights=3)
  with pytest.raises(InputError, match='encoder.weights=3 must be the path of'):
    train.train(config, str(tmp_path / 'run'))


def test_a_run_of_another_encoder_is_refused(source, digits_npz, tmp_path):
  config = beginning(digits_npz, source, **{'encoder.channels': (8, 12)})
  with pytest.raises(InputError, match=r'of another encoder: batch_stats/Batch'
                     r'Norm_1/mean is \(16,\) there and \(12,\) here') as error:
    train.train(config, str(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


# PyTorch's names and layouts.


def torch_block(rng, arrays, prefix, channels, into, stride):
  """Draws the parameters of one of torchvision's basic blocks."""
  convolution(rng, arrays, f'{prefix}.conv1', channels, into, 3)
  normalisation(rng, arrays, f'{prefix}.bn1', into)
  convolution(rng, arrays, f'{prefix}.conv2', into, into, 3)
  normalisation(rng, arrays, f'{prefix}.bn2', into)
  if stride > 1 or channels != into:
    convolution(rng, arrays, f'{prefix}.downsample.0', channels, into, 1)
    normalisation(rng, arrays, f'{prefix}.downsample.1', into)


def convolution(rng, arrays, name, channels, into, side):
  arrays[f'{name}.weight'] = rng.normal(
      0, np.sqrt(2 / (channels * side**2)),
      (into, channels, side, side)).astype(np.float32)


def normalisation(rng, arrays, name, channels):
  for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
    arrays[f'{name}.{leaf}'] = rng.uniform(
        0.5, 1.5, channels).astype(np.float32)
  arrays[f'{name}.num_batches_tracked'] = np.array(7)


@pytest.fixture(scope='module')
def published():
  """A ResNet-10 of a tenth of the width, as torchvision would have it."""
  rng, arrays = np.random.default_rng(0), {}
  convolution(rng, arrays, 'conv1', 3, 64, 7)
  normalisation(rng, arrays, 'bn1', 64)
  before = 64
  for stage in range(4):
    into = int(64 * 2**stage * 0.1)
    torch_block(rng, arrays, f'layer{stage + 1}.0', before, into,
                2 if stage else 1)
    before = into
  arrays['fc.weight'] = rng.normal(size=(5, before)).astype(np.float32)
  arrays['fc.bias'] = np.zeros(5, np.float32)
  return arrays


def forward(arrays, image):
  """Computes what that network does of f[n, h, w, c], up to its features."""
  def convolved(x, name, stride):
    return conv(x, arrays[f'{name}.weight'].transpose(2, 3, 1, 0), stride)

  def normalised(x, name):
    get = lambda leaf: arrays[f'{name}.{leaf}']  # noqa: E731
    x = (x - get('running_mean')) / np.sqrt(get('running_var') + EPSILON)
    return x * get('weight') + get('bias')

  x = np.maximum(normalised(convolved(image, 'conv1', 2), 'bn1'), 0)
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])  # it is from 0 on
  x = np.lib.stride_tricks.sliding_window_view(
      padded, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))
  for stage in range(4):
    name, stride = f'layer{stage + 1}.0', 2 if stage else 1
    y = np.maximum(normalised(
        convolved(x, f'{name}.conv1', stride), f'{name}.bn1'), 0)
    y = normalised(convolved(y, f'{name}.conv2', 1), f'{name}.bn2')
    if f'{name}.downsample.0.weight' in arrays:
      x = normalised(convolved(x, f'{name}.downsample.0', stride),
                     f'{name}.downsample.1')
    x = np.maximum(x + y, 0)
  return x.mean((1, 2))


MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet(path, **encoder):
  """Returns a config of features of a file's ResNet, of the digits' size."""
  config = tiny.get_config()
  config.pretext = ConfigDict(dict(name='frozen', side=72))
  config.encoder = ConfigDict(dict(
      name='resnet', depth=10, width=0.1, weights=str(path), mean=MEAN, sd=SD,
      **encoder))
  config.train.update(batch=4, steps=1)
  config.optimizer.learning_rate = 0.0
  return config


def written(path, arrays):
  safetensors.numpy.save_file(arrays, path)
  return path


def test_a_published_network_has_the_features_that_numpy_computes(
    published, tmp_path):
  path = written(tmp_path / 'resnet10.safetensors', published)
  config = imagenet(path)
  task = experiment.pretext(config)
  like = experiment.state_like(config, task, (72, 72, 3))
  found = weights.read(config, task, like)
  assert found.about['parts'] == ['encoder']
  assert len(found.about['sha256']) == 64 and 'step' not in found.about
  image = np.random.default_rng(1).uniform(size=(2, 72, 72, 3)).astype(
      np.float32)
  expected = forward(published, (image - MEAN) / SD)
  assert expected.std() > 0.1
  variables = {name: part['encoder'] for name, part in found.parts.items()}
  np.testing.assert_allclose(
      apply(task.encoder, variables, image), expected, rtol=1e-3, atol=1e-4)


def test_a_run_of_a_frozen_network_is_its_features(
    published, digits_npz, tmp_path):
  config = imagenet(written(tmp_path / 'a.safetensors', published))
  config.data = untrained.digits(digits_npz).data
  workdir = pathlib.Path(train.train(config, str(tmp_path / 'run')))
  trained = read(workdir)
  task = experiment.pretext(config)
  images = experiment.problem(config).test.image[:2]
  begun = weights.read(config, task, experiment.state_like(
      config, task, images.shape[1:]))
  for name, leaf in by_path(begun.parts).items():
    np.testing.assert_array_equal(trained[name], leaf, name)
  found = embeddings.read(workdir / 'embeddings' / 'test.npz')[0]
  large = np.asarray(jax.image.resize(
      np.float32(images) / 255, (2, 72, 72, 3), 'cubic')).clip(0, 1)
  np.testing.assert_allclose(
      found['pool'][:2], forward(published, (large - MEAN) / SD),
      rtol=1e-3, atol=1e-4)
  assert np.abs(found['pool'] - found['random']).max() > 0.1
  metrics = [json.loads(line) for line in
             (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert metrics[-1]['loss'] == 0


def test_heat_maps_judge_where_nothing_was_trained_unless_a_classifier_is_named(
    published, tmp_path):
  config = imagenet(written(tmp_path / 'a.safetensors', published))
  of_parts = untrained.parts(tmp_path / 'data')
  config.data, config.protocol = of_parts.data, of_parts.protocol
  with config.unlocked():
    config.localize = dict(name='windows', stages=(2, 3), classifier='knn(k=1)')
  workdir = untrained.run(config, tmp_path / 'run')
  found = deep_oc.load(workdir, false_alarm_rate=0.2)
  assert (found.feature, found.classifier) == ('windows', 'knn(k=1)')
  named = deep_oc.load(workdir, false_alarm_rate=0.2, classifier='kde')
  assert (named.feature, named.classifier) == ('pool', 'kde')
  assert trained_run.recommended(workdir) == 'windows'
  assert trained_run.recommended(workdir, 'kde') == 'pool'
  embeddings.write(workdir / 'embeddings/maps.npz', {'index': np.arange(1)},
                   {'localize': {'name': 'gradcam'}})  # by which it does now
  assert trained_run.recommended(workdir) == 'pool'


@pytest.mark.parametrize('mean, colours', [((), 1), ((0.5,), 1), (MEAN, 3)])
def test_grey_is_three_colours_to_what_has_learnt_three(mean, colours):
  task = pretexts.create('frozen', dtype='float32', side=9, encoder=dict(
      name='resnet', depth=10, width=0.1, mean=mean, sd=mean))
  image = np.random.default_rng(0).uniform(size=(2, 5, 7, 1)).astype(np.float32)
  seen = task.apply({}, image, method='seen')
  assert seen.shape == (2, 9, 9, colours)
  np.testing.assert_array_equal(seen, seen[..., :1].repeat(colours, -1))
  # Cubic interpolation of Keys, as Pillow has it where it enlarges.
  wanted = [Image.fromarray(each[..., 0]).resize(
      (9, 9), Image.Resampling.BICUBIC) for each in image]
  np.testing.assert_allclose(seen[..., 0], np.clip(wanted, 0, 1), atol=2e-3)


def test_what_is_enlarged_counts_by_what_the_encoder_sees():
  make = lambda **fields: pretexts.create(  # noqa: E731
      'frozen', dtype='float32', encoder=dict(name='resnet'), **fields)
  assert pretexts.extent(make(), 32, 40) == (32, 40)
  assert pretexts.extent(make(side=224), 32, 40) == (224, 224)
  assert pretexts.extent(make(side=64, crop=16), 32, 40) == (64 * 4, 64)


def test_what_trains_nothing_takes_no_learning_rate(tmp_path):
  config = imagenet(tmp_path / 'a.safetensors')
  config.optimizer.learning_rate = 0.1
  with pytest.raises(InputError, match="'frozen' trains nothing: optimizer.lea"
                     'rning_rate must be 0, not 0.1'):
    experiment.pretext(config)


@pytest.mark.parametrize('pretext, encoder, said', [
    (dict(name='frozen'), {}, 'the pretext task trains nothing, so there must'),
    (None, dict(freeze_batch_norm=True), 'freeze_batch_norm keeps the stat')])
def test_what_makes_no_sense_with_random_weights_is_refused(
    pretext, encoder, said, digits_npz, tmp_path):
  config = untrained.digits(digits_npz)
  config.encoder = ConfigDict(dict(
      name='resnet', depth=10, width=0.1, **encoder))
  if pretext:
    config.pretext = ConfigDict(pretext)
    config.optimizer.learning_rate = 0.0
  with pytest.raises(InputError, match=f'{said}.* --config.encoder.weights='):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('side', [-1, 2.5, True])
def test_a_side_is_a_number_of_pixels(side, tmp_path):
  config = imagenet(tmp_path / 'a.safetensors')
  config.pretext = ConfigDict(dict(name='frozen', side=side))
  with pytest.raises(InputError, match='pretext.side=.* must be a whole num'):
    experiment.pretext(config)


def broken(published, name, value=None):
  arrays = dict(published)
  if value is None:
    del arrays[name]
  else:
    arrays[name] = value
  return arrays


@pytest.mark.parametrize('arrays, encoder, said', [
    (lambda x: broken(x, 'layer2.0.bn1.running_var'), {},
     'of another encoder: it lacks layer2.0.bn1.running_var'),
    (lambda x: broken(x, 'conv1.weight', np.zeros((64, 3, 3, 3), np.float32)),
     {}, r'conv1.weight is \(3, 3, 3, 64\) there, .* \(7, 7, 3, 64\) here'),
    (lambda x: {'a': np.zeros(3)}, {}, 'it lacks bn1.bias'),
    (lambda x: x, {'name': 'convnet', 'channels': (8, 16)},
     'this encoder has no published weights'),
])
def test_a_file_of_another_network_is_refused(
    arrays, encoder, said, published, tmp_path):
  path = written(tmp_path / 'x.safetensors', arrays(published))
  config = imagenet(path)
  if encoder:
    config.encoder = ConfigDict(dict(encoder, weights=str(path)))
  task = experiment.pretext(config)
  like = experiment.state_like(config, task, (72, 72, 3))
  with pytest.raises(InputError, match=said) as error:
    weights.read(config, task, like)
  assert '\n' not in str(error.value)


def test_a_file_of_torch_save_in_an_installed_package_is_read_alike(
    published, tmp_path, monkeypatch):
  torch = saved.modules(monkeypatch)
  config = imagenet(written(tmp_path / 'x.safetensors', published))
  task = experiment.pretext(config)
  like = experiment.state_like(config, task, (72, 72, 3))
  wanted = weights.read(config, task, like)
  folder = tmp_path / 'packages' / 'published_weights' / 'models'
  folder.mkdir(parents=True)
  (folder.parent / '__init__.py').write_text('raise RuntimeError("imported")')
  (folder / 'x.pth').write_bytes(saved.archived(torch, {
      name: saved.whole(each) for name, each in published.items()}))
  monkeypatch.syspath_prepend(tmp_path / 'packages')
  config.encoder.weights = 'published_weights/models/x.pth'
  found = weights.read(config, task, like)
  jax.tree.map(np.testing.assert_array_equal, found.parts, wanted.parts)
  assert found.about['path'] == 'published_weights/models/x.pth'
  assert found.about['sha256'] == hashlib.sha256(
      (folder / 'x.pth').read_bytes()).hexdigest()


def test_a_file_that_is_no_safetensors_is_refused_and_not_unpickled(
    tmp_path, published):
  path = tmp_path / 'x.safetensors'
  for content in (b'', b'\x80\x04nonsense', pathlib.Path(
      written(tmp_path / 'y.safetensors', published)).read_bytes()[:-9]):
    path.write_bytes(content)
    config = imagenet(path)
    with pytest.raises(InputError, match='cannot read encoder.weights=') as e:
      weights.read(config, experiment.pretext(config), experiment.state_like(
          config, experiment.pretext(config), (72, 72, 3)))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('depth', [10, 18, 34, 50])
def test_every_layer_of_a_resnet_has_one_name(depth):
  model = resnet.Model(depth)
  variables = jax.eval_shape(lambda: model.init(
      jax.random.key(0), jnp.zeros((1, 72, 72, 3)), train=False))
  layers = {name.partition('/')[2].rpartition('/')[0]
            for name in by_path_of_shapes(variables)}
  names, = model.checkpoint_names()
  assert set(names) == layers
  assert len(set(names.values())) == len(names)


def by_path_of_shapes(tree):
  return [jax.tree_util.keystr(path, simple=True, separator='/')
          for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def test_a_resnet_50_has_torchvisions_names():
  names, = resnet.Model(50).checkpoint_names()
  assert names['Conv_0'] == 'conv1' and names['BatchNorm_0'] == 'bn1'
  assert names['Block_0/Conv_2'] == 'layer1.0.conv3'
  assert names['Block_0/Conv_3'] == 'layer1.0.downsample.0'
  assert names['Block_0/BatchNorm_3'] == 'layer1.0.downsample.1'
  assert names['Block_4/Conv_1'] == 'layer2.1.conv2'
  assert names['Block_15/BatchNorm_2'] == 'layer4.2.bn3'
  there = {f'layer{stage}.{block}.{layer}{i}' for stage, blocks in
           enumerate((3, 4, 6, 3), 1) for block in range(blocks)
           for i in (1, 2, 3) for layer in ('conv', 'bn')}
  there |= {f'layer{stage}.0.downsample.{i}' for stage in (1, 2, 3, 4)
            for i in (0, 1)} | {'conv1', 'bn1'}
  assert set(names.values()) == there
  # A basic block has none where neither size nor channels change.
  names, = resnet.Model(18).checkpoint_names()
  assert 'layer1.0.downsample.0' not in names.values()
  assert names['Block_2/Conv_2'] == 'layer2.0.downsample.0'


# What encoders with trained weights need.


def test_images_are_standardised_by_colour():
  image = np.random.default_rng(0).uniform(size=(2, 9, 9, 3)).astype(np.float32)
  plain = resnet.Model(depth=10, width=0.1)
  model = resnet.Model(depth=10, width=0.1, mean=MEAN, sd=SD)
  variables = random_variables(plain, image)
  np.testing.assert_allclose(
      apply(model, variables, image),
      apply(plain, variables, (image - np.float32(MEAN)) / np.float32(SD)),
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('fields, words', [
    (dict(mean=MEAN), 'resnet has 3 mean but 0 sd; one of each per colour'),
    (dict(sd=SD), 'resnet has 0 mean but 3 sd'),
    (dict(mean=0.5, sd=SD), 'resnet mean must be a number per colour'),
    (dict(mean=MEAN, sd=(0.2, 0.0, 0.2)), 'resnet sd must be positive'),
    (dict(mean=MEAN[:2], sd=SD[:2]), 'of 2 colours, but images have 3')])
def test_a_standard_of_other_colours_is_refused(fields, words):
  with pytest.raises(InputError, match=words):
    model = models.create('resnet', depth=10, width=0.1, **fields)
    jax.eval_shape(lambda: model.init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_frozen_statistics_are_those_of_evaluation_and_stay():
  image = np.random.default_rng(0).uniform(size=(2, 9, 9, 3)).astype(np.float32)
  model = resnet.Model(depth=10, width=0.1, freeze_batch_norm=True)
  variables = random_variables(model, image)
  found, changed = jax.jit(lambda v, x: model.apply(
      v, x, train=True, mutable=['batch_stats']))(variables, image)
  np.testing.assert_allclose(found, apply(model, variables, image), rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, changed['batch_stats'],
               variables['batch_stats'])


def test_deep_svdd_begins_with_its_autoencoder(digits_npz, tmp_path):
  svdd = untrained.digits(digits_npz)
  svdd.encoder = ConfigDict(dict(name='lenet', channels=(4, 8)))
  svdd.pretext = ConfigDict(dict(name='deep_svdd', dim=6, augment={}))
  before = by_path(first_state(svdd.copy_and_resolve_references()).variables)
  first = svdd.copy_and_resolve_references()
  first.pretext = ConfigDict(dict(
      name='denoising', noise=0.0, dim=6, decoder=(8, 4), augment={}))
  first.train.steps = 5
  workdir = train.train(first, str(tmp_path / 'first'))
  with svdd.unlocked():
    svdd.encoder.weights = workdir
  state = first_state(svdd)
  found, wanted = by_path(state.variables), read(workdir)
  for name in found:
    if name.startswith('svdd'):  # its centre is its own
      assert not found[name].any()
    else:
      np.testing.assert_array_equal(found[name], wanted[name], name)
      assert (found[name] != before[name]).any(), name
  assert {'params/represent/kernel'} < found.keys()
  # The code is the representation, and the file has it.
  arrays = embeddings.read(f'{workdir}/embeddings/test.npz')[0]
  np.testing.assert_allclose(
      arrays['head'], arrays['pool'] @ wanted['params/represent/kernel'],
      rtol=1e-4, atol=1e-5)


def test_a_step_from_trained_weights_is_a_step(source, digits_npz):
  config = beginning(digits_npz, source)
  config.train.ema = 0.5
  problem = experiment.problem(config)
  task = experiment.pretext(config)
  optimizer = experiment.optimizer(config, len(problem.train))
  state = first_state(config, ema=0.5)
  image = jnp.asarray(problem.train.image[:16])
  after, metrics = jax.jit(step.train_step, static_argnums=(0, 1))(
      task, optimizer, state, image, step.root_key(0))
  assert np.isfinite(metrics['loss'])
  for before, now in ((state.params, after.params),
                      (state.average, after.average)):
    assert all((x != y).any() for x, y in zip(
        jax.tree.leaves(before), jax.tree.leaves(now), strict=True))
