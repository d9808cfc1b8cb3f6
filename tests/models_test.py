import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from deep_oc import convolution, models
from deep_oc.errors import InputError
from deep_oc.models import lenet, resnet, wide_resnet

IMAGE = np.random.default_rng(3).uniform(size=(4, 8, 8, 3)).astype(np.float32)


def apply(module, variables, x):
  return jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)


def shapes(model, side=32, channels=3):
  image = jnp.zeros((2, side, side, channels))
  return jax.eval_shape(
      lambda: model.init(jax.random.key(0), image, train=True))


def sizes(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(module, x, seed=0):
  """Returns variables of usual scale, none of them neutral; nothing runs."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    if leaf.ndim == 1:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return rng.normal(0, std, leaf.shape).astype(np.float32)

  return jax.tree.map(draw, jax.eval_shape(
      lambda: module.init(jax.random.key(0), x, train=False)))


def conv(x, kernel, stride):
  """Convolves n h w c with k k c d in zeros: k // 2 on every side."""
  size = kernel.shape[0]
  pad = size // 2
  x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
  return np.einsum('nhwcij,ijcd->nhwd', windows[:, ::stride, ::stride], kernel,
                   optimize=True)


def norm(x, variables, *path):
  params, stats = variables['params'], variables['batch_stats']
  for name in path:
    params, stats = params[name], stats[name]
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return x * params['scale'] + params['bias']


def block(x, variables, name, strides):
  """Computes a residual block with NumPy and SciPy."""
  y = x
  for i, stride in enumerate(strides):
    y = np.maximum(y, 0) if i else y
    kernel = variables['params'][name][f'Conv_{i}']['kernel']
    y = norm(conv(y, kernel, stride), variables, name, f'BatchNorm_{i}')
  last = len(strides)
  if f'Conv_{last}' in variables['params'][name]:
    kernel = variables['params'][name][f'Conv_{last}']['kernel']
    assert kernel.shape[:2] == (1, 1)
    x = norm(conv(x, kernel, max(strides)), variables, name,
             f'BatchNorm_{last}')
  return np.maximum(x + y, 0)


def stem(image, variables, stride):
  x = conv(image, variables['params']['Conv_0']['kernel'], stride)
  return np.maximum(norm(x, variables, 'BatchNorm_0'), 0)


def test_the_reference_convolution_equals_scipy():
  image = IMAGE[:1, ..., :1]
  kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 1))
  expected = signal.correlate2d(image[0, ..., 0], kernel[..., 0, 0], 'same')
  np.testing.assert_allclose(conv(image, kernel, 2)[0, ..., 0],
                             expected[::2, ::2], atol=1e-5)


def test_resnet10_equals_numpy():
  image = np.random.default_rng(0).uniform(size=(2, 10, 10, 3))
  image = image.astype(np.float32)
  model = resnet.Model(depth=10, width=0.1)
  variables = random_variables(model, image)
  x = stem(image, variables, 1)
  for i in range(4):
    x = block(x, variables, f'Block_{i}', (2 if i else 1, 1))
  expected = x.mean(axis=(1, 2))
  assert expected.std() > 0.1
  np.testing.assert_allclose(apply(model, variables, image), expected,
                             rtol=2e-4, atol=2e-4)


def test_a_bottleneck_strides_in_its_middle_convolution():
  x = np.random.default_rng(0).normal(size=(2, 7, 7, 6)).astype(np.float32)
  layers = resnet.Model(depth=50)._layers(4, 2)
  assert layers == ((4, 1, 1), (4, 3, 2), (16, 1, 1))
  module = resnet.Block(layers)
  variables = random_variables(module, x)
  nested = {kind: {'block': tree} for kind, tree in variables.items()}
  np.testing.assert_allclose(
      apply(module, variables, x), block(x, nested, 'block', (1, 2, 1)),
      rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('depth, side, expected', [
    (18, 32, 11_168_832), (18, 64, 11_168_832), (18, 256, 11_176_512),
    (34, 256, 21_284_672), (50, 256, 23_508_032)])
def test_resnets_have_the_known_parameter_counts(depth, side, expected):
  assert sizes(shapes(resnet.Model(depth), side)['params']) == expected


def test_resnet10_is_resnet18_without_the_second_blocks():
  second = sum(2 * 9 * c * c + 4 * c for c in (64, 128, 256, 512))
  assert sizes(shapes(resnet.Model(10))['params']) == 11_168_832 - second


def wide_block(x, variables, name, stride):
  """Computes a pre-activation block with NumPy."""
  params = variables['params'][name]
  y = np.maximum(norm(x, variables, name, 'BatchNorm_0'), 0)
  if 'shortcut' in params:
    assert params['shortcut']['kernel'].shape[:2] == (1, 1)
    x = conv(y, params['shortcut']['kernel'], stride)
  y = conv(y, params['Conv_0']['kernel'], stride)
  y = np.maximum(norm(y, variables, name, 'BatchNorm_1'), 0)
  return x + conv(y, params['Conv_1']['kernel'], 1)


@pytest.mark.parametrize('depth', [10, 16])
def test_a_wide_resnet_equals_numpy(depth):
  image = np.random.default_rng(0).uniform(size=(2, 10, 10, 3))
  image = image.astype(np.float32)
  model = wide_resnet.Model(depth, width=2)
  variables = random_variables(model, image)
  x = conv(image, variables['params']['Conv_0']['kernel'], 1)
  each = (depth - 4) // 6
  for i in range(3 * each):
    shortcut = 'shortcut' in variables['params'][f'Block_{i}']
    assert shortcut == (i % each == 0)
    x = wide_block(x, variables, f'Block_{i}', 1 + (i in (each, 2 * each)))
  expected = np.maximum(norm(x, variables, 'BatchNorm_0'), 0).mean((1, 2))
  assert expected.shape == (2, 128) and expected.std() > 0.1
  np.testing.assert_allclose(apply(model, variables, image), expected,
                             rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('depth, width, with_ten_classes', [
    (28, 10, 36_479_194), (40, 4, 8_949_210), (16, 8, 10_961_370)])
def test_wide_resnets_have_the_known_parameter_counts(
    depth, width, with_ten_classes):
  found = sizes(shapes(wide_resnet.Model(depth, width))['params'])
  assert found + 10 * (64 * width + 1) == with_ten_classes


@pytest.mark.parametrize('side, kernel', [(32, 3), (64, 3), (65, 7), (256, 7)])
def test_the_stem_follows_the_image_size(side, kernel):
  params = shapes(resnet.Model(10), side)['params']
  assert params['Conv_0']['kernel'].shape == (kernel, kernel, 3, 64)


def feature_map(model, side):
  def apply():
    image = jnp.zeros((2, side, side, 3))
    variables = model.init(jax.random.key(0), image, train=False)
    return model.apply(variables, image, train=False, mutable='intermediates')
  out, state = jax.eval_shape(apply)
  return out, state['intermediates']['map'][0]


@pytest.mark.parametrize('side, expected', [(32, 4), (64, 8), (256, 8)])
def test_the_last_map_has_the_papers_size(side, expected):
  out, features = feature_map(resnet.Model(18), side)
  assert features.shape == (2, expected, expected, 512)
  assert out.shape == (2, 512)


@pytest.mark.parametrize('name, stages', [
    ('resnet', [64, 128, 256, 512]), ('convnet', [32, 64, 128, 128]),
    ('patchnet', [64, 64, 128, 128, 256, 256]),
    ('wide_resnet', [64, 128, 256])])
def test_an_encoder_tells_of_its_stages(name, stages):
  model = models.create(name)
  assert model.stages == len(stages)
  image = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
  variables = random_variables(model, image.astype(np.float32))
  out, state = jax.jit(lambda: model.apply(
      variables, image, train=False, mutable='intermediates',
      capture_intermediates=True))()
  seen = state['intermediates']
  assert [each.shape for each in seen['stage']] == [(2, d) for d in stages]
  np.testing.assert_array_equal(seen['stage'][-1], out)
  if name == 'wide_resnet':  # sums, but for the last
    maps = [*(seen[f'Block_{k}']['__call__'][0] for k in range(2)),
            np.maximum(seen['BatchNorm_0']['__call__'][0], 0)]
  elif name == 'resnet':  # two blocks a stage
    maps = [seen[f'Block_{2 * k + 1}']['__call__'][0] for k in range(4)]
  else:
    maps = [np.maximum(seen[f'BatchNorm_{k}']['__call__'][0], 0)
            for k in range(len(stages))]
  for pooled, each in zip(seen['stage'], maps, strict=True):
    np.testing.assert_allclose(
        pooled, np.asarray(each, np.float64).mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_the_large_stem_equals_numpy():
  image = np.random.default_rng(0).uniform(size=(1, 66, 66, 1))
  image = image.astype(np.float32)
  model = resnet.Model(10)
  variables = random_variables(model, image)
  # The first block has no shortcut layer: without its branch it is a ReLU.
  for name in ('scale', 'bias'):
    variables['params']['Block_0']['BatchNorm_1'][name][:] = 0
  _, state = jax.jit(lambda: model.apply(
      variables, image, train=False, mutable='intermediates',
      capture_intermediates=lambda module, _: module.name == 'Block_0'))()
  out, = state['intermediates']['Block_0']['__call__']
  x = stem(image, variables, 2)
  x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  expected = windows.max(axis=(-2, -1))[:, ::2, ::2]
  assert out.shape == (1, 17, 17, 64)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_no_map_is_kept_unless_asked_for():
  model = resnet.Model(10, width=0.1)
  assert set(shapes(model)) == {'params', 'batch_stats'}


def test_width_changes_all_channels_but_the_stems():
  params = shapes(resnet.Model(18, width=0.5))['params']
  assert params['Conv_0']['kernel'].shape[-1] == 64
  assert params['Block_0']['Conv_0']['kernel'].shape == (3, 3, 64, 32)
  assert params['Block_7']['Conv_1']['kernel'].shape == (3, 3, 256, 256)
  # 64 to 32 channels at stride 1: only the first shortcut can tell.
  assert params['Block_0']['Conv_2']['kernel'].shape == (1, 1, 64, 32)
  assert 'Conv_2' not in params['Block_1']


def test_convolutions_start_with_fan_out_variance_cut_at_two_deviations():
  x = jnp.zeros((1, 4, 4, 64))
  block = resnet.Block(((128, 3, 2), (128, 3, 1)))
  params = jax.jit(
      lambda: block.init(jax.random.key(0), x, train=True))()['params']
  kernel = np.asarray(params['Conv_0']['kernel'])
  std = np.sqrt(2 / (9 * 128))
  assert kernel.shape == (3, 3, 64, 128)
  assert kernel.std() == pytest.approx(std, rel=0.01)
  # A normal cut at two deviations has 0.88 of its standard deviation.
  assert 1.9 * std / 0.88 < np.abs(kernel).max() < 2.01 * std / 0.879
  # The last scale of a block starts at 1, as in the paper's code.
  assert np.all(params['BatchNorm_1']['scale'] == 1)


def train(model, variables, image):
  return jax.jit(lambda v, x: model.apply(
      v, x, train=True, mutable='batch_stats'))(variables, image)


def test_running_statistics_move_by_a_tenth():
  model = resnet.Model(depth=10, width=0.1)
  variables = random_variables(model, IMAGE)
  _, new = train(model, variables, IMAGE)
  x = conv(IMAGE, variables['params']['Conv_0']['kernel'], 1)
  old = variables['batch_stats']['BatchNorm_0']
  moving = new['batch_stats']['BatchNorm_0']
  axes = (0, 1, 2)
  np.testing.assert_allclose(
      moving['mean'], 0.9 * old['mean'] + 0.1 * x.mean(axes), atol=1e-5)
  np.testing.assert_allclose(
      moving['var'], 0.9 * old['var'] + 0.1 * x.var(axes), atol=1e-5)


@pytest.mark.parametrize('name, kwargs', [
    ('resnet', dict(depth=10, width=0.1)), ('convnet', dict(channels=(8, 8))),
    ('patchnet', dict(channels=(8, 8), strides=(1, 2))),
    ('wide_resnet', dict(width=1)), ('lenet', dict(channels=(8, 8)))])
def test_bfloat16_keeps_parameters_statistics_and_output_in_float32(
    name, kwargs):
  model = models.create(name, **kwargs, dtype=jnp.bfloat16)
  variables = random_variables(model, IMAGE)
  kinds = {leaf.dtype for leaf in jax.tree.leaves(
      jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, train=True)))}
  out, new = train(model, variables, IMAGE)
  kinds |= {leaf.dtype for leaf in jax.tree.leaves((new, out))}
  assert kinds == {jnp.dtype('float32')}
  exact, _ = train(models.create(name, **kwargs), variables, IMAGE)
  error = np.linalg.norm(out - exact) / np.linalg.norm(exact)
  assert 1e-4 < error < 0.1


def test_evaluating_depends_on_no_other_image_but_training_does():
  model = resnet.Model(depth=10, width=0.1)
  variables = random_variables(model, IMAGE)
  np.testing.assert_allclose(
      apply(model, variables, IMAGE[:1]), apply(model, variables, IMAGE)[:1],
      rtol=1e-4, atol=1e-5)
  alone, together = (
      train(model, variables, image)[0] for image in (IMAGE[:1], IMAGE))
  assert np.abs(alone - together[:1]).max() > 1e-2


@pytest.mark.parametrize('side, expected', [(28, 4), (32, 4), (64, 4),
                                            (256, 16), (3, 3)])
def test_convnet_halves_the_map_until_it_is_small(side, expected):
  out, features = feature_map(models.create('convnet'), side)
  assert features.shape == (2, expected, expected, 128)
  assert out.shape == (2, 128) and out.dtype == jnp.float32


@pytest.mark.parametrize('side, expected', [(32, 3), (35, 4), (23, 1)])
def test_patchnets_map_loses_its_edges(side, expected):
  out, features = feature_map(models.create('patchnet'), side)
  assert features.shape == (2, expected, expected, 256)
  assert out.shape == (2, 256) and out.dtype == jnp.float32


@pytest.mark.parametrize('strides', [(1, 1, 2, 1, 2, 1), (2, 1), (1, 2, 2)])
def test_a_position_of_patchnet_sees_its_receptive_field_only(strides):
  model = models.create('patchnet', channels=(4,) * len(strides),
                        strides=strides)
  side = model.receptive_field + model.stride  # two positions each way
  image = np.random.default_rng(0).uniform(size=(1, side, side, 3))
  variables = random_variables(model, image)

  def last_map(image):
    _, extra = model.apply(variables, image, train=False,
                           mutable=['intermediates'])
    return np.asarray(extra['intermediates']['map'][0])

  before = last_map(image)
  assert before.shape[1:3] == (2, 2)
  seen = np.zeros((side, side), bool)
  for y in range(side):
    moved = image.copy()
    moved[0, y, y] += 10
    seen[y, y] = np.abs(last_map(moved) - before)[0, 0, 0].max() > 1e-6
  assert not seen.diagonal()[model.receptive_field:].any()
  assert seen.diagonal()[model.receptive_field // 2]


def test_patchnet_equals_numpy():
  model = models.create('patchnet', channels=(5, 6), strides=(1, 2))
  image = np.random.default_rng(0).uniform(size=(2, 11, 12, 3))
  variables = random_variables(model, image)
  x = image
  for i, stride in enumerate((1, 2)):
    kernel = variables['params'][f'Conv_{i}']['kernel']
    # Without padding, or with it less what it touches.
    x = conv(x, kernel, 1)[:, 1:-1, 1:-1][:, ::stride, ::stride]
    x = np.maximum(norm(x, variables, f'BatchNorm_{i}'), 0)
  np.testing.assert_allclose(apply(model, variables, image), x.mean((1, 2)),
                             rtol=1e-4)


def test_lenet_has_the_parameters_of_its_three_kernels():
  found = shapes(models.create('lenet'))
  assert sizes(found['params']) == 25 * (3 * 32 + 32 * 64 + 64 * 128)
  # Nothing to scale or shift what is normalised, or to add to a product.
  assert set(found['params']) == {'Conv_0', 'Conv_1', 'Conv_2'}
  assert all(set(each) == {'kernel'} for each in found['params'].values())


@pytest.mark.parametrize('side, expected', [(32, 4), (28, 3), (8, 1)])
def test_lenets_features_are_the_whole_map(side, expected):
  out, features = feature_map(models.create('lenet'), side)
  assert features.shape == (2, expected, expected, 128)
  assert out.shape == (2, 128 * expected**2) and out.dtype == jnp.float32


def test_lenet_can_be_traced_for_any_number_of_images():
  model = models.create('lenet', channels=(4,))
  variables = random_variables(model, IMAGE)
  n, = jax.export.symbolic_shape('n')
  traced = jax.export.export(jax.jit(
      lambda x: model.apply(variables, x, train=False)))(
          jax.ShapeDtypeStruct((n, *IMAGE.shape[1:]), np.float32))
  np.testing.assert_allclose(
      traced.call(IMAGE), apply(model, variables, IMAGE), atol=1e-5)


def lenet_maps(image, variables, eps=1e-4):
  """Computes the map of each layer of the encoder with NumPy."""
  x = image - image.mean((1, 2, 3), keepdims=True)
  x = x / np.abs(x).mean((1, 2, 3), keepdims=True)
  for i in range(len(variables['params'])):
    x = conv(x, variables['params'][f'Conv_{i}']['kernel'], 1)
    stats = variables['batch_stats'][f'BatchNorm_{i}']
    x = (x - stats['mean']) / np.sqrt(stats['var'] + eps)
    x = np.where(x > 0, x, 0.01 * x)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2  # the rest is cut off
    x = x[:, :2 * rows, :2 * columns].reshape(
        len(x), rows, 2, columns, 2, -1).max((2, 4))
    yield x


@pytest.mark.parametrize('shape', [(8, 8, 3), (7, 10, 1)])
def test_lenet_equals_numpy(shape):
  model = models.create('lenet', channels=(5, 6))
  image = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
  variables = random_variables(model, image)
  # So small that epsilon counts.
  variables['batch_stats']['BatchNorm_0']['var'] *= 1e-3
  first, last = lenet_maps(image, variables)
  out, state = jax.jit(lambda: model.apply(
      variables, image, train=False, mutable='intermediates'))()
  np.testing.assert_allclose(out, last.reshape(3, -1), rtol=1e-3, atol=1e-3)
  seen = state['intermediates']
  np.testing.assert_allclose(seen['map'][0], last, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(
      seen['stage'][0], first.mean((1, 2)), rtol=1e-3, atol=1e-3)
  np.testing.assert_array_equal(seen['stage'][1], out)
  assert model.stages == len(seen['stage']) == 2


def test_contrast_is_normalised_over_all_of_an_image():
  image = np.random.default_rng(0).uniform(size=(3, 20, 20, 3))
  image[1] = 0.3  # of one colour, whose mean is rounded
  found = np.asarray(lenet.gcn(jnp.asarray(image, jnp.float32)))
  for i in (0, 2):
    centred = image[i] - image[i].mean()
    np.testing.assert_allclose(
        found[i], centred / np.abs(centred).mean(), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found[1], 0)
  gradient = jax.grad(lambda x: (lenet.gcn(x) ** 2).sum())(image)
  assert np.isfinite(gradient).all()


def test_lenet_does_not_see_brightness_or_contrast_unless_told_to():
  image = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
  for gcn in (True, False):
    model = models.create('lenet', channels=(4, 4), gcn=gcn)
    variables = random_variables(model, image)
    out, other = (apply(model, variables, each.astype(np.float32))
                  for each in (image, 0.5 * image + 0.2))
    assert (np.abs(out - other).max() < 1e-3 * np.abs(out).max()) == gcn


def test_lenet_starts_as_pytorch_does():
  kernel = np.asarray(jax.jit(lambda: models.create('lenet').init(
      jax.random.key(0), jnp.zeros((2, 8, 8, 3)), train=False))()[
          'params']['Conv_1']['kernel'])
  bound = 1 / np.sqrt(25 * 32)
  assert 0.99 * bound < np.abs(kernel).max() <= bound
  assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


def test_an_image_that_lenet_cannot_halve_so_often_is_one_line():
  with pytest.raises(InputError) as error:
    shapes(models.create('lenet'), 7)
  assert str(error.value) == (
      'lenet halves images 3 times, which need 8 pixels a side, not 7x7')


def test_an_image_smaller_than_patchnet_sees_is_one_line():
  with pytest.raises(InputError, match='sees 23 pixels at once.* 22x22'):
    shapes(models.create('patchnet'), 22)


def test_convnet_takes_grey_images():
  assert 'params' in shapes(models.create('convnet'), 28, channels=1)


def test_create_passes_the_fields_on():
  model = models.create('resnet', depth=34, width=2.0)
  assert (model.depth, model.width) == (34, 2.0)


def test_an_unknown_encoder_offers_the_nearest():
  with pytest.raises(InputError, match="'resnett'; did you mean 'resnet'"):
    models.create('resnett')


def test_an_unknown_field_offers_the_nearest():
  with pytest.raises(InputError, match="did you mean 'encoder.depth'"):
    models.create('resnet', depht=18)


@pytest.mark.parametrize('name, kwargs, match', [
    ('resnet', dict(depth=20), r'\[10, 18, 34, 50\], not 20'),
    ('resnet', dict(depth='18'), "not '18'"),
    ('resnet', dict(width=0), 'width .* not 0'),
    ('resnet', dict(width=float('inf')), 'width .* not inf'),
    ('wide_resnet', dict(depth=12), 'depth must .*, not 12'),
    ('wide_resnet', dict(depth=4), 'depth must .*, not 4'),
    ('wide_resnet', dict(width=0.5), 'width must .*, not 0.5'),
    ('convnet', dict(channels=()), r'channels=\(\) must be'),
    ('lenet', dict(channels=(8, 0)), 'channels=0 must be'),
    ('patchnet', dict(strides=(1, 0)), 'strides=0 must be'),
    ('patchnet', dict(strides=(1, 2)), '6 channels but 2 strides')])
def test_impossible_fields_are_refused_at_once(name, kwargs, match):
  with pytest.raises(InputError, match=match):
    models.create(name, **kwargs)


@pytest.mark.slow
def test_remat_takes_less_memory_and_changes_no_gradient():
  image = np.random.default_rng(0).uniform(size=(32, 16, 16, 3))
  image = image.astype(np.float32)
  variables = random_variables(resnet.Model(18, width=0.25), image)

  def gradient(remat):
    model = resnet.Model(18, width=0.25, remat=remat)

    def loss(params):
      feature, changed = model.apply(
          variables | {'params': params}, image, train=True,
          mutable='batch_stats')
      return jnp.square(feature).mean(), changed

    compiled = jax.jit(
        jax.grad(loss, has_aux=True),
        compiler_options=convolution.compiler_options()).lower(
            variables['params']).compile()
    return (compiled(variables['params']),
            compiled.memory_analysis().temp_size_in_bytes)

  (kept, most), (again, less) = gradient(False), gradient(True)
  assert less < 0.8 * most
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept))
  assert largest > 1e-3
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * largest), kept, again)
