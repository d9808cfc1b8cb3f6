"""Windows of an image against one window and one pixel at a time."""
import jax
import numpy as np
import pytest
from conftest import peak_memory

from deep_oc import convolution, errors, pretexts, step, windows

_PATCHNET = dict(name='patchnet', channels=(4, 6, 8), strides=(1, 2, 2))
_RESNET = dict(name='resnet', depth=10, width=0.0625)


def _task(encoder, crop=16):
  pretext = pretexts.create('cutpaste', encoder=encoder, dtype=np.float32,
                            task='cutpaste', head=(), crop=crop)
  variables = step.init(pretext, 0, (32, 32, 3))
  # Statistics that are not zero and one, as after training.
  statistics = jax.tree.map(lambda x: x + 0.05 * (np.arange(len(x)) % 3),
                            variables['batch_stats'])
  return pretext, variables | {'batch_stats': statistics}


def _images(n, h, w):
  return np.random.default_rng(0).integers(0, 256, (n, h, w, 3), np.uint8)


def _naive(pretext, variables, image, side, place):
  """Each window cut out and embedded by itself."""
  embed = jax.jit(lambda image: pretext.clone(crop=0).apply(
      variables, step.to_float(image), method='embed')['pool'])
  return np.concatenate([embed(image[i:i + 1, y:y + side, x:x + side])
                         for i, y, x in place])


@pytest.mark.parametrize('encoder', [_PATCHNET, _RESNET],
                         ids=['patchnet', 'resnet'])
@pytest.mark.parametrize('side, stride', [(16, 4), (15, 3), (20, 6)])
def test_features_equal_those_of_every_window_by_itself(
    encoder, side, stride):
  pretext, variables = _task(encoder)
  image = _images(2, 33, 26)
  place = windows.places(2, windows.starts(33, side, stride),
                         windows.starts(26, side, stride))
  got = windows.embedder(pretext, side)(variables, image, place)
  wanted = _naive(pretext, variables, image, side, place)
  assert got.shape == (len(place), wanted.shape[1]) and wanted.std() > 1e-3
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_image_of_several_strips_equals_every_window_by_itself(monkeypatch):
  monkeypatch.setattr(windows, '_STRIP', 12)
  pretext, variables = _task(_PATCHNET)
  image = _images(2, 70, 24)
  place = windows.places(2, windows.starts(70, 16, 5),
                         windows.starts(24, 16, 4))
  place = np.random.default_rng(1).permutation(place)  # in any order
  got = windows.embedder(pretext, 16)(variables, image, place)
  np.testing.assert_allclose(
      got, _naive(pretext, variables, image, 16, place), rtol=1e-4, atol=1e-5)


def test_one_program_serves_all_images_and_places():
  pretext, variables = _task(_PATCHNET)
  embed = windows.embedder(pretext, 16)
  rows = windows.starts(40, 16, 4)
  embed(variables, _images(1, 40, 40), windows.places(1, rows, rows))
  program = windows._compiled(convolution.is_reformulated())
  before = program._cache_size()
  embed(variables, _images(3, 40, 40), windows.places(3, rows, rows))
  assert before and program._cache_size() == before


def test_each_formulation_of_convolutions_has_its_program():
  pretext, variables = _task(dict(
      name='patchnet', channels=(16, 16), strides=(1, 1)))
  embed = windows.embedder(pretext, 16)
  rows = windows.starts(48, 16, 4)
  image, place = _images(1, 48, 48), windows.places(1, rows, rows)
  ours = embed(variables, image, place)
  with convolution.straightforward():
    other = embed(variables, image, place)
  assert np.abs(ours - other).max() > 0  # in rounding
  np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)


def test_windows_smaller_than_what_the_encoder_sees_are_one_line():
  pretext, _ = _task(_PATCHNET)
  with pytest.raises(errors.InputError, match='smaller than what the encoder'):
    windows.embedder(pretext, 8)


def test_the_papers_grid_has_57_positions():
  begin = windows.starts(256, 32, 4)
  assert (len(begin), begin[0], begin[-1]) == (57, 0, 224)
  assert windows.starts(10, 4, 4).tolist() == [0, 4, 6]


def upsample(score, length, *how, **more):
  weights = windows.weights(length, *how, **more)
  return windows.upsample(score, weights, weights)


def test_a_constant_map_stays_constant_up_to_the_edges():
  score = np.full((1, 57, 57), -2000.)
  got = upsample(score, 256, 32, 4)
  assert got.shape == (1, 256, 256)
  np.testing.assert_allclose(got, -2000)


def test_upsampling_equals_a_transposed_convolution_inside():
  rng = np.random.default_rng(0)
  score = rng.normal(size=(1, 9, 9))
  kernel = np.outer(windows.gaussian(8, 2.), windows.gaussian(8, 2.))
  total, weight = np.zeros((24, 24)), np.zeros((24, 24))
  for i in range(9):
    for j in range(9):
      at = np.s_[2 * i:2 * i + 8, 2 * j:2 * j + 8]
      total[at] += kernel * score[0, i, j]
      weight[at] += kernel
  got = upsample(score, 24, 8, 2, sigma=2.)
  np.testing.assert_allclose(got[0], total / weight)


def test_one_high_score_is_brightest_in_the_middle_of_its_window():
  score = np.zeros((1, 57, 57))
  score[0, 10, 30] = 1
  got = upsample(score, 256, 32, 4)[0]
  y, x = np.unravel_index(got.argmax(), got.shape)
  assert abs(y - 55.5) <= 2 and abs(x - 135.5) <= 2


def test_pixels_between_windows_have_the_score_of_the_nearest():
  score = np.arange(4.).reshape(1, 2, 2)
  got = upsample(score, 20, 4, 16)
  assert np.isfinite(got).all()
  assert got[0, 5, 5] == 0 and got[0, 14, 14] == 3


def test_pixels_that_a_narrow_gaussian_leaves_out_have_it_too():
  score = np.arange(4.).reshape(1, 2, 2)
  got = upsample(score, 20, 16, 4, sigma=1e-3)
  assert got[0, 0, 0] == got[0, 9, 9] == 0 and got[0, 10, 10] == 3


def test_an_even_kernel_is_symmetric_with_its_centre_twice():
  for side in (5, 8, 32):
    taps = windows.gaussian(side)
    assert len(taps) == side
    np.testing.assert_allclose(taps, taps[::-1])
  assert windows.gaussian(8)[3] == windows.gaussian(8)[4] == 1
  odd = windows.gaussian(7, 1.5)
  np.testing.assert_allclose(windows.gaussian(8, 1.5), [*odd[:4], *odd[3:]])


@pytest.mark.parametrize('side, stride', [(33, 4), (0, 4), (8, 0)])
def test_windows_that_do_not_fit_are_one_line(side, stride):
  with pytest.raises(errors.InputError, match=f'windows of {side} pixels'):
    windows.starts(32, side, stride)


@pytest.mark.slow
def test_an_image_of_1024_pixels_takes_bounded_memory():
  """Beyond an image of 256: less than its features and a strip of maps."""
  code = '''
import sys
import numpy as np
from deep_oc import pretexts, step, windows
side = int(sys.argv[1])
pretext = pretexts.create('cutpaste', encoder=dict(name='patchnet'),
                          dtype=np.float32, task='cutpaste', head=(), crop=32)
variables = step.init(pretext, 0, (64, 64, 3))
image = np.zeros((1, side, side, 3), np.uint8)
rows = windows.starts(side, 32, 4)
windows.embedder(pretext, 32)(variables, image, windows.places(1, rows, rows))
'''
  small, large = (peak_memory('-c', code, side) / 2 ** 20
                  for side in ('256', '1024'))
  print(f'{small:.2f} GiB at 256 pixels, {large:.2f} GiB at 1024')
  assert large - small < 2
