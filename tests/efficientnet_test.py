"""EfficientNets against NumPy, by definition, and published counts and names.
"""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deep_oc import convolution, models
from deep_oc.errors import InputError
from deep_oc.models import efficientnet

MEAN, SD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
# Of B0: blocks, channels, kernel, stride of the first, expansion.
STAGES = ((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6),
          (3, 80, 3, 2, 6), (3, 112, 5, 1, 6), (4, 192, 5, 2, 6),
          (1, 320, 3, 1, 6))


def images(n=4, height=48, width=48):
  return np.random.default_rng(0).random((n, height, width, 3), np.float32)


def shapes(module, side=32, channels=3):
  image = jnp.zeros((2, side, side, channels))
  return jax.eval_shape(
      lambda: module.init(jax.random.key(0), image, train=True))


def random_variables(module, x):
  """Returns variables of usual scale, none of them neutral; nothing runs."""
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    if leaf.ndim == 4:
      std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
      return rng.normal(0, std, leaf.shape).astype(np.float32)
    low, high = {'bias': (-0.5, 0.5), 'mean': (-0.5, 0.5), 'scale': (0.5, 1.5),
                 'var': (1, 3)}[path[-1].key]
    return rng.uniform(low, high, leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(
      lambda: module.init(jax.random.key(0), x, train=False)))


def layers(tree):
  """Returns the paths of a collection's layers, joined with '/'."""
  return {'/'.join(each.key for each in path[:-1])
          for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def conv(x, kernel, stride=1):
  """Convolves n h w c; of k k c d, or each channel by its own of k k 1 c.

  As many pixels as the stride leaves, rounded up; what they see beyond the
  edges is zero, the odd one right and below.
  """
  side = kernel.shape[0]
  pads = []
  for length in x.shape[1:3]:
    missing = max((math.ceil(length / stride) - 1) * stride + side - length, 0)
    pads.append((missing // 2, missing - missing // 2))
  x = np.pad(np.float64(x), [(0, 0), *pads, (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
  windows = windows[:, ::stride, ::stride]
  if kernel.shape[2] == x.shape[-1]:
    return np.einsum('nhwcij,ijcd->nhwd', windows, kernel, optimize=True)
  return np.einsum('nhwcij,ijc->nhwc', windows, kernel[:, :, 0], optimize=True)


def norm(x, variables, name):
  params, stats = (variables[kind][name] for kind in ('params', 'batch_stats'))
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-3)
  return x * params['scale'] + params['bias']


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def swish(x):
  return x * sigmoid(x)


def relu6(x):
  return np.clip(x, 0, 6)


def block(x, variables, stride, lite):
  """Computes a block with NumPy."""
  act = relu6 if lite else swish
  params = variables['params']
  y = x
  if 'expand' in params:
    y = act(norm(conv(y, params['expand']['kernel']), variables,
                 'expand_norm'))
  assert params['depthwise']['kernel'].shape[2:] == (1, y.shape[-1])
  y = conv(y, params['depthwise']['kernel'], stride)
  y = act(norm(y, variables, 'depthwise_norm'))
  if not lite:
    squeeze, excite = params['squeeze'], params['excite']
    assert squeeze['bias'].shape == (max(1, x.shape[-1] // 4),)
    weight = act(y.mean((1, 2)) @ squeeze['kernel'][0, 0] + squeeze['bias'])
    weight = sigmoid(weight @ excite['kernel'][0, 0] + excite['bias'])
    y = y * weight[:, None, None]
  y = norm(conv(y, params['project']['kernel']), variables, 'project_norm')
  return x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y


def network(image, variables, lite):
  """Computes B0's or Lite0's maps with NumPy, the stages' and the head's."""
  act = relu6 if lite else swish
  params = variables['params']
  x = act(norm(conv(image, params['stem']['kernel'], 2), variables,
               'stem_norm'))
  found, number = [], 0
  for repeats, channels, kernel, stride, expand in STAGES:
    for repeat in range(repeats):
      name = f'blocks_{number}'
      assert params[name]['depthwise']['kernel'].shape == (
          kernel, kernel, 1, expand * x.shape[-1])
      x = block(x, {kind: variables[kind][name] for kind in variables},
                1 if repeat else stride, lite)
      assert x.shape[-1] == channels
      number += 1
    found.append(x)
  return [*found, act(norm(conv(x, params['last']['kernel']), variables,
                           'last_norm'))]


@pytest.mark.parametrize('lite', [False, True])
@pytest.mark.parametrize('height, width, before, channels, kernel, stride, '
                         'expand', [
    (7, 6, 8, 8, 3, 1, 6),  # with the shortcut
    (7, 6, 8, 8, 5, 2, 2),
    (9, 8, 8, 5, 3, 2, 6),
    (1, 2, 3, 5, 5, 1, 1)])
def test_a_block_equals_numpy(lite, height, width, before, channels, kernel,
                              stride, expand):
  x = np.random.default_rng(0).normal(size=(2, height, width, before))
  x = x.astype(np.float32)
  module = efficientnet.Block(channels, kernel, stride, expand, lite)
  variables = random_variables(module, x)
  assert ('expand' in variables['params']) == (expand != 1)
  assert ('squeeze' in variables['params']) != lite
  expected = block(x, variables, stride, lite)
  assert expected.shape == (2, -(-height // stride), -(-width // stride),
                            channels)
  assert expected.std() > 0.1
  np.testing.assert_allclose(
      jax.jit(lambda: module.apply(variables, x, train=False))(), expected,
      rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('height, width, kernel, stride', [
    (6, 9, 3, 2), (9, 6, 5, 2), (2, 1, 5, 1)])
def test_gradients_of_a_block_are_xlas_and_none_is_zero(
    height, width, kernel, stride):
  x = np.random.default_rng(0).normal(size=(3, height, width, 8))
  x = x.astype(np.float32)
  module = efficientnet.Block(8, kernel, stride, 2)
  variables = random_variables(module, x)

  def loss(params, x):
    out, _ = module.apply(variables | {'params': params}, x, train=True,
                          mutable='batch_stats')
    return jnp.square(out - 1).sum()

  def gradients():
    return jax.jit(jax.grad(lambda *args: loss(*args), (0, 1)))(
        variables['params'], x)

  found = gradients()
  with convolution.straightforward():
    expected = gradients()
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  for leaf in jax.tree.leaves(expected):
    assert np.abs(leaf).max() > 1e-4 * largest
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-5 * largest), found, expected)


@pytest.mark.parametrize('variant, with_1000_classes', [
    ('b0', 5_288_548), ('b4', 19_341_616), ('b7', 66_347_960),
    ('lite0', 4_652_008), ('lite4', 13_006_568)])
def test_the_networks_have_the_published_parameter_counts(
    variant, with_1000_classes):
  params = shapes(efficientnet.Model(variant))['params']
  features = params['last_norm']['bias'].size
  assert features == {'b4': 1792, 'b7': 2560}.get(variant, 1280)
  found = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert found + 1000 * (features + 1) == with_1000_classes


def test_convolutions_start_with_an_uncut_normal_by_channels_out():
  x = jnp.zeros((1, 4, 4, 64))
  module = efficientnet.Block(96, 5)
  params = jax.jit(lambda: module.init(jax.random.key(0), x, train=True))()
  for name, shape, outputs in (('expand', (1, 1, 64, 384), 384),
                               ('depthwise', (5, 5, 1, 384), 25),
                               ('squeeze', (1, 1, 384, 16), 16),
                               ('excite', (1, 1, 16, 384), 384),
                               ('project', (1, 1, 384, 96), 96)):
    kernel = np.asarray(params['params'][name]['kernel'])
    assert kernel.shape == shape
    std = np.sqrt(2 / outputs)
    assert kernel.std() == pytest.approx(std, rel=0.05)
    assert np.abs(kernel).max() > 2.5 * std


def looked(model, variables, image):
  """Returns features, what is sowed, and the maps."""
  return jax.jit(
      lambda variables, image: (
          *model.apply(variables, image, train=False, mutable='intermediates'),
          model.apply(variables, image, train=False, method='maps')),
      compiler_options=convolution.compiler_options())(variables, image)


@pytest.fixture(scope='module')
def lite():
  """Variables of Lite0, and images as it is to see them."""
  image = images()
  return (random_variables(efficientnet.Model('lite0'), image),
          (image - np.float32(MEAN)) / np.float32(SD))


@pytest.fixture(scope='module')
def lite_features(lite):
  return looked(efficientnet.Model('lite0', mean=MEAN, sd=SD), lite[0],
                images())


def check(found, expected):
  """Compares what `looked` returns with the maps."""
  out, state, maps = found
  sown = state['intermediates']
  assert len(maps) == len(sown['stage']) == len(expected) == 8
  for one, pooled, each in zip(maps, sown['stage'], expected, strict=True):
    assert each.std() > 0.1 and one.shape == each.shape
    scale = np.abs(each).max()
    np.testing.assert_allclose(one, each, rtol=1e-3, atol=1e-4 * scale)
    np.testing.assert_allclose(pooled, each.mean((1, 2)), rtol=1e-3,
                               atol=1e-4 * scale)
  np.testing.assert_array_equal(sown['stage'][-1], out)
  np.testing.assert_allclose(sown['map'][0], maps[-1], rtol=1e-6)


def test_lite0_of_standardised_images_equals_numpy(lite, lite_features):
  variables, image = lite
  check(lite_features, network(image, variables, lite=True))


def test_b0_of_images_of_odd_size_equals_numpy():
  model, image = efficientnet.Model(), images(2, 33, 38)
  variables = random_variables(model, image)
  check(looked(model, variables, image),
        network(image, variables, lite=False))


@pytest.mark.parametrize('variant, head, widths', [
    ('b0', True, (16, 24, 40, 80, 112, 192, 320, 1280)),
    ('b4', True, (24, 32, 56, 112, 160, 272, 448, 1792)),
    ('b4', False, (24, 32, 56, 112, 160, 272, 448)),
    ('lite4', True, (24, 32, 56, 112, 160, 272, 448, 1280))])
def test_maps_of_all_stages(variant, head, widths):
  model = models.create('efficientnet', variant=variant, head=head,
                        dtype=jnp.bfloat16)
  image = jnp.zeros((2, 97, 64, 3))

  def look():
    variables = model.init(jax.random.key(0), image, train=False)
    return (variables,
            model.apply(variables, image, train=False, method='maps'),
            *model.apply(variables, image, train=False,
                         mutable='intermediates'))

  variables, maps, out, state = jax.eval_shape(look)
  assert model.stages == len(widths)
  assert not hasattr(model, 'stride') and not hasattr(model, 'receptive_field')
  sides = ((49, 32), (25, 16), (13, 8), (7, 4), (7, 4), (4, 2), (4, 2), (4, 2))
  assert [each.shape for each in maps] == [
      (2, *side, width) for side, width in zip(sides, widths, strict=False)]
  sown = state['intermediates']
  assert [each.shape for each in sown['stage']] == [(2, d) for d in widths]
  assert sown['map'][0].shape == maps[-1].shape
  assert {each.dtype for each in maps} == {jnp.dtype('bfloat16')}
  assert {each.dtype for each in jax.tree.leaves(
      (variables, out, sown['stage']))} == {jnp.dtype('float32')}


def test_without_the_head_the_other_layers_are_the_same():
  whole, less = (shapes(efficientnet.Model('lite0', head=head))
                 for head in (True, False))
  for kind, dropped in (('params', {'last', 'last_norm'}),
                        ('batch_stats', {'last_norm'})):
    assert whole[kind].keys() - less[kind].keys() == dropped
    assert less[kind] == {name: whole[kind][name] for name in less[kind]}


@pytest.fixture(scope='module')
def frozen(lite):
  model = efficientnet.Model('lite0', freeze_batch_norm=True)
  return jax.jit(
      lambda variables, image: model.apply(
          variables, image, train=True, mutable='batch_stats'),
      compiler_options=convolution.compiler_options())(*lite)


def test_frozen_statistics_are_used_in_training_and_stay(
    lite, lite_features, frozen):
  out, changed = frozen
  np.testing.assert_allclose(out, lite_features[0], rtol=1e-4, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, changed['batch_stats'],
               lite[0]['batch_stats'])


def test_a_mean_and_sd_are_as_standardising_by_hand(lite_features, frozen):
  by_hand, _ = frozen  # of standardised images, and it does nothing to them
  np.testing.assert_allclose(lite_features[0], by_hand, rtol=1e-4, atol=1e-5)


def step(model, variables, image):
  """Returns the gradient in training and the changed statistics."""
  def loss(params, stats, image):
    feature, changed = model.apply(
        {'params': params, 'batch_stats': stats}, image, train=True,
        mutable='batch_stats')
    goal = jnp.linspace(-1, 1, feature.size).reshape(feature.shape)
    return jnp.square(feature - goal).mean(), changed['batch_stats']

  return jax.device_get(jax.jit(
      jax.grad(loss, has_aux=True),
      compiler_options=convolution.compiler_options())(
          variables['params'], variables['batch_stats'], image))


@pytest.fixture(scope='module')
def stepped(lite):
  with convolution.straightforward():  # takes less time to compile
    return step(efficientnet.Model('lite0'), *lite)


def test_a_step_changes_every_parameter(lite, stepped):
  gradient, _ = stepped
  changed = jax.tree.map(lambda p, g: p - 0.1 * g, lite[0]['params'], gradient)

  def check(path, before, after):
    name = '/'.join(each.key for each in path)
    assert np.isfinite(after).all()
    difference = np.abs(after - before).max()
    if name.endswith('project_norm/bias'):
      # All that see it are 1x1 convolutions whose BatchNorm takes it away.
      assert difference < 1e-6
    else:
      assert difference > 1e-5, name

  jax.tree_util.tree_map_with_path(check, lite[0]['params'], changed)


def test_running_statistics_move_by_a_hundredth(lite, stepped):
  variables, image = lite
  x = conv(image, variables['params']['stem']['kernel'], 2)
  old, new = (stats['stem_norm'] for stats in (variables['batch_stats'],
                                               stepped[1]))
  axes = (0, 1, 2)
  np.testing.assert_allclose(
      new['mean'], 0.99 * old['mean'] + 0.01 * x.mean(axes), atol=1e-5)
  np.testing.assert_allclose(
      new['var'], 0.99 * old['var'] + 0.01 * x.var(axes), rtol=1e-4)


@pytest.mark.slow
def test_remat_changes_no_number(monkeypatch):
  few = efficientnet._STAGES[:2]  # the others take long to compile
  monkeypatch.setattr(efficientnet, '_STAGES', few)
  both = [efficientnet.Model('b0', remat=remat) for remat in (False, True)]
  image = images(2, 24, 24)
  variables = random_variables(both[0], image)
  kept, again = (step(model, variables, image) for model in both)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept[0]))
  assert largest > 1e-3
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-5 * largest), kept, again)
  text = [str(jax.make_jaxpr(lambda x, model=model: model.apply(
      variables, x, train=True, mutable='batch_stats'))(image))
          for model in both]
  assert [each.count('remat') > 0 for each in text] == [False, True]


def test_it_can_be_traced_for_any_number_of_images():
  module = efficientnet.Block(8, 5, 2)
  x = np.random.default_rng(0).normal(size=(3, 7, 6, 8)).astype(np.float32)
  variables = random_variables(module, x)
  n, = jax.export.symbolic_shape('n')
  traced = jax.export.export(jax.jit(
      lambda x: module.apply(variables, x, train=False)))(
          jax.ShapeDtypeStruct((n, *x.shape[1:]), np.float32))
  np.testing.assert_allclose(
      traced.call(x), block(x, variables, 2, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant, head', [
    ('b0', True), ('b0', False), ('lite0', True), ('lite0', False)])
def test_checkpoint_names_cover_every_layer_once(variant, head):
  model = efficientnet.Model(variant, head=head)
  variables = shapes(model)
  for names in model.checkpoint_names():
    assert set(names) == layers(variables['params'])
    assert len(set(names.values())) == len(names)
    assert layers(variables['batch_stats']) == {
        each for each in names if each.endswith('_norm')}


@pytest.mark.parametrize('variant, expected', [
    ('b4', {
        'stem': ('conv_stem', '_conv_stem'),
        'stem_norm': ('bn1', '_bn0'),
        'blocks_0/depthwise': (
            'blocks.0.0.conv_dw', '_blocks.0._depthwise_conv'),
        'blocks_0/depthwise_norm': ('blocks.0.0.bn1', '_blocks.0._bn1'),
        'blocks_0/squeeze': (
            'blocks.0.0.se.conv_reduce', '_blocks.0._se_reduce'),
        'blocks_0/excite': (
            'blocks.0.0.se.conv_expand', '_blocks.0._se_expand'),
        'blocks_0/project': ('blocks.0.0.conv_pw', '_blocks.0._project_conv'),
        'blocks_0/project_norm': ('blocks.0.0.bn2', '_blocks.0._bn2'),
        'blocks_1/project': ('blocks.0.1.conv_pw', '_blocks.1._project_conv'),
        'blocks_31/expand': ('blocks.6.1.conv_pw', '_blocks.31._expand_conv'),
        'blocks_31/expand_norm': ('blocks.6.1.bn1', '_blocks.31._bn0'),
        'blocks_31/depthwise': (
            'blocks.6.1.conv_dw', '_blocks.31._depthwise_conv'),
        'blocks_31/depthwise_norm': ('blocks.6.1.bn2', '_blocks.31._bn1'),
        'blocks_31/squeeze': (
            'blocks.6.1.se.conv_reduce', '_blocks.31._se_reduce'),
        'blocks_31/excite': (
            'blocks.6.1.se.conv_expand', '_blocks.31._se_expand'),
        'blocks_31/project': (
            'blocks.6.1.conv_pwl', '_blocks.31._project_conv'),
        'blocks_31/project_norm': ('blocks.6.1.bn3', '_blocks.31._bn2'),
        'last': ('conv_head', '_conv_head'),
        'last_norm': ('bn2', '_bn1')}),
    ('lite0', {
        'blocks_0/project': ('blocks.0.0.conv_pw', '_blocks.0._project_conv'),
        'blocks_3/expand': ('blocks.2.0.conv_pw', '_blocks.3._expand_conv'),
        'blocks_15/project_norm': ('blocks.6.0.bn3', '_blocks.15._bn2')})])
def test_checkpoint_names_are_the_published_ones(variant, expected):
  names = efficientnet.Model(variant).checkpoint_names()
  assert {each: tuple(scheme[each] for scheme in names)
          for each in expected} == expected


@pytest.mark.parametrize('kwargs, match', [
    (dict(variant='b9'), "efficientnet variant 'b9'; did you mean 'b"),
    (dict(variant='lite5'), "'lite5'; did you mean 'lite"),
    (dict(variant=0), "variant '0'"),
    (dict(variant=['b0']), 'variant'),
    (dict(mean=(0.5,)), '1 mean but 0 sd; one of each per colour'),
    (dict(sd=(0.5, 0.5)), '0 mean but 2 sd'),
    (dict(mean=0.5, sd=(1,)), 'mean must be a number per colour.*, not 0.5'),
    (dict(mean=('a',), sd=(1,)), r"mean must .*, not \('a',\)"),
    (dict(mean=(math.nan,), sd=(1,)), 'mean must'),
    (dict(mean=(0,), sd=(True,)), 'sd must'),
    (dict(mean=(0, 0), sd=(1, 0)), r'sd must be positive .*, not \(1, 0\)')])
def test_impossible_fields_are_refused_at_once(kwargs, match):
  with pytest.raises(InputError, match=match) as error:
    efficientnet.Model(**kwargs)
  assert '\n' not in str(error.value)


def test_images_of_other_colours_than_the_means_are_refused():
  model = efficientnet.Model('lite0', mean=(0.5,), sd=(0.5,))
  with pytest.raises(InputError, match='are of 1 colours, but images have 3'):
    shapes(model)
