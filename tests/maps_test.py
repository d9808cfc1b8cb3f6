"""Maps of windows of several sizes against those of each size."""
import json

import numpy as np
import pytest
from sklearn import neighbors

from deep_oc import errors, localize, maps, pretexts, step, windows
from deep_oc.bundle import passes
from deep_oc.maps import _batches

_SIZES = dict(side=(16, 8), stride=(8, 4), classifier='knn(k=1)', sigma=1e4)
_ONE = dict(side=8, stride=8)


def _task():
  """Returns a task whose encoder sees windows of 8 and of 16 pixels."""
  pretext = pretexts.create('patch_svdd', dtype=np.float32, encoder=dict(
      name='hierarchical', channels=(4, 8), hidden=8))
  variables = step.init(pretext, 0, (24, 24, 3))
  rng = np.random.default_rng(2)  # larger than at first, as after training
  variables['params']['encoder'] = {
      name: {key: rng.normal(0, 0.5, x.shape).astype(np.float32)
             for key, x in layer.items()}
      for name, layer in variables['params']['encoder'].items()}
  return pretext, variables


def _images(n, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, 24, 24, 3), np.uint8)


def _create(pretext, **kwargs):
  return maps.create({'name': 'windows'} | _SIZES | kwargs, pretext, 0)


def test_each_pixel_is_the_product_of_mean_distances_to_the_nearest_window():
  pretext, variables = _task()
  train, test = _images(5), _images(3, 1)
  wanted = np.ones((3, 24, 24))
  for side, stride in ((16, 8), (8, 4)):
    begin = windows.starts(24, side, stride)
    embed = windows.embedder(pretext, side)
    features = [embed(variables, image, windows.places(
        len(image), begin, begin)) for image in (train, test)]
    nearest = neighbors.NearestNeighbors(n_neighbors=1).fit(features[0])
    distance = nearest.kneighbors(features[1])[0].reshape(
        3, len(begin), len(begin))
    total, count = np.zeros((3, 24, 24)), np.zeros((24, 24))
    for i, y in enumerate(begin):
      for j, x in enumerate(begin):
        total[:, y:y + side, x:x + side] += distance[:, i, j, None, None]
        count[y:y + side, x:x + side] += 1
    wanted *= total / count
  method = _create(pretext)
  assert isinstance(method, maps.Multiscale)
  found = method.fit(variables, train).maps(test)
  assert found.dtype == np.float32 and found.std() > 0
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  np.testing.assert_array_equal(
      _create(pretext).fit_maps(variables, train, test), found)


def test_an_image_is_left_out_at_every_size():
  pretext, variables = _task()
  train, some = _images(5), np.array([4, 1])
  found = _create(pretext).fit(variables, train).left_out(train, some)
  assert found.shape == (2, 24, 24) and found.dtype == np.float32
  for i, heat in zip(some, found, strict=True):
    others = _create(pretext).fit(variables, np.delete(train, i, axis=0))
    np.testing.assert_allclose(
        heat, others.maps(train[i:i + 1])[0], rtol=1e-4)


@pytest.mark.parametrize('group, leaves_out', [
    (_SIZES, True), (_SIZES | dict(
        positions='each', classifier='gde_ledoit_wolf'), False),
    (_ONE, False), (_ONE | dict(classifier='knn_cosine'), True),
    (_ONE | dict(classifier="knn(metric='manhattan')"), False)])
def test_images_are_left_out_where_neighbours_among_all_places_judge(
    group, leaves_out):
  pretext, _ = _task()
  assert maps.create(group, pretext, 0).leaves_out == leaves_out


def test_at_most_a_thousand_images_are_left_out(monkeypatch):
  monkeypatch.setattr(maps, '_LEFT_OUT', 3)
  pretext, variables = _task()
  train = _images(5)
  method = maps.create(_ONE | dict(classifier='nn'), pretext, 0).fit(
      variables, train)
  found = maps.left_out(method, train, seed=1)
  some = np.sort(np.random.default_rng(1).choice(5, 3, replace=False))
  np.testing.assert_array_equal(
      found, method.left_out(train, some).max(axis=(1, 2)))


def test_a_density_for_each_position_may_be_multiplied():
  pretext, variables = _task()
  train, test = _images(9), _images(2, 1)
  how = dict(positions='each', classifier='gde_ledoit_wolf')
  each = [maps.create(dict(side=side, stride=stride, sigma=1e4, **how),
                      pretext, 0) for side, stride in ((16, 8), (8, 4))]
  wanted = np.prod([method.fit_maps(variables, train, test)
                    for method in each], axis=0)
  method = _create(pretext, **how)
  np.testing.assert_array_equal(
      method.fit_maps(variables, train, test), wanted)
  found = json.loads(json.dumps(method.parameters()))
  assert found['side'] == [16, 8] and found['positions'] == 'each'
  assert len(set(found['shrinkage'])) == 2


def test_parameters_are_a_list_where_sizes_differ():
  pretext, variables = _task()
  method = _create(pretext, limit=7).fit(variables, _images(3))
  assert method.parameters() == {
      'density': 'knn(k=1)', 'classifier': 'knn(k=1)', 'positions': 'shared',
      'seed': 0, 'k': 1, 'metric': 'euclidean', 'distance': 'mean',
      'norm': None, 'n_limit': 7, 'side': [16, 8], 'stride': [8, 4],
      'sigma': 1e4}


def test_a_limit_bounds_the_windows_that_are_learnt():
  pretext, variables = _task()
  train, test = _images(6), _images(3, 1)
  few, all_, same = (maps.create(dict(
      side=8, stride=4, classifier='knn(k=1)', limit=limit), pretext, 0).fit(
          variables, train) for limit in (20, 6 * 25, 20_000))
  assert len(few.density_.density_.train_) == 20
  assert len(all_.density_.density_.train_) == 6 * 25
  assert few.maps(test).mean() > all_.maps(test).mean()
  np.testing.assert_array_equal(all_.maps(test), same.maps(test))


@pytest.mark.parametrize('changes, words', [
    (dict(stride=(8,)), '2 sides of windows and 1 strides'),
    (dict(side=(), stride=()), '0 sides of windows and 0 strides'),
    (dict(side=(16, 12)), r'windows of \[8, 16\] pixels, not of 12'),
    (dict(classifier='gde_ledoit_wolf'),
     'by gde_ledoit_wolf may be below 0; localize.classifier must be one of '
     'knn, knn_cosine, nn, mahalanobis'),
    (dict(classifier='knn(k=1'), "cannot read"),
    (dict(classifier='knn(l=1)'), "unknown parameter of knn 'l'"),
    (dict(classifier='knm(k=1)', side=8, stride=4), "did you mean 'knn'"),
    (dict(classifier=3), 'localize.classifier is 3; it must be the name'),
    (dict(classifier=None), 'localize.classifier is None; it must be'),
    (dict(side=(16, 8.0)), 'localize.side=8.0 must be a whole number'),
    (dict(stride=(4, 'a')), "localize.stride='a' must be a whole"),
    (dict(stride=(4, 0)), 'localize.stride=0 must be a whole number'),
    (dict(stride=(17, 8)), 'stride=17 leaves pixels that no window of 16'),
    (dict(sigma=(1, 2)), r'localize.sigma is \(1, 2\); it must be above 0'),
    (dict(reg_covar=-1.), 'localize.reg_covar=-1.0 must be a number from 0'),
    (dict(limit=1), 'localize.limit=1 must be a whole number from 2'),
    (dict(limit=2.5), 'localize.limit=2.5 must be a whole number'),
    (dict(stride=4), '2 sides of windows and 1 strides'),
    (dict(side=16), '1 sides of windows and 2 strides'),
    (dict(strides=(1, 2)), "unknown config key 'localize.strides'")])
def test_sizes_that_cannot_be_are_one_line(changes, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    _create(_task()[0], **changes)
  assert '\n' not in str(caught.value)


def test_each_size_has_to_fit_the_images():
  method = _create(_task()[0])
  method.check(24, 16)
  with pytest.raises(errors.InputError, match='windows of 16 pixels'):
    method.check(24, 12)


def test_a_setting_may_be_a_list_of_sizes():
  config = localize.ml_collections.ConfigDict(dict(localize=_SIZES))
  found = localize.overridden(config, ['side=(16,8)', 'stride=[8,2]'])
  method = maps.create(found.localize, _task()[0], 0)
  assert [(each.side, each.stride) for each in method.scales] == [
      (16, 8), (8, 2)]
  found = localize.overridden(config, ['side=(8,)', 'stride=[4]'])
  method = maps.create(found.localize, _task()[0], 0)
  assert isinstance(method, maps.Windows)  # it is not several
  assert (method.side, method.stride) == (8, 4)


@pytest.mark.parametrize('limit, wanted', [
    (20_000, 4 * 9 * 3), (4 * 9 * 3, 4 * 9 * 3), (4 * 12, 4 * 6 * 2), (2, 2)])
def test_random_windows_are_in_proportion_of_rows_and_columns(limit, wanted):
  pretext, variables = _task()
  for shape in (40, 16), (16, 40):
    train = np.random.default_rng(0).integers(
        0, 256, (4, *shape, 3), np.uint8)
    method = maps.create(dict(side=8, stride=4, classifier='knn(k=1)',
                              limit=limit), pretext, 0).fit(variables, train)
    assert len(method.density_.density_.train_) == wanted


def test_whole_images_pass_in_parts_of_one_size(monkeypatch):
  sizes, image = [], np.random.default_rng(0).random((10, 6, 8, 3))
  monkeypatch.setattr(passes, 'padded', lambda *of: {(32, 6, 8): 4}[of])
  found = _batches.in_parts(lambda part: (
      sizes.append(len(part)), part.mean((1, 2, 3)))[1], image, None)
  assert sizes == [4, 4, 4]
  np.testing.assert_array_equal(found, image.mean((1, 2, 3)))
