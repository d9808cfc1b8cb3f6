"""Tests of what is trained on, and of who is told what about it."""
import dataclasses
import json

import numpy as np
import pytest
from ml_collections import config_dict

from deep_oc import (data, embeddings, experiment, features, protocols, runs,
                     train)
from deep_oc.errors import InputError
from tests import tiny

CLASS_NAMES = ('cat', 'dog', 'frog', 'c++')
BLIND = ('contaminated', 'semi_supervised')


def _split(train=400, test=40, class_names=CLASS_NAMES):
  """Returns equally many images of each class; an image tells its row."""
  def examples(n, first):
    image = np.zeros((n, 2, 2, 3), np.uint8)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = np.divmod(np.arange(n) + first, 256)
    label = np.arange(n) % len(class_names)
    return data.Examples(image, label.astype(np.int32))
  return data.Split('pets', examples(train, 0), examples(test, train),
                    class_names)


def _problem(name='contaminated', normal=1, **kwargs):
  return protocols.one_class(_split(), name=name, normal=normal, **kwargs)


def _config(digits_npz, **overrides):
  config = tiny.get_config()
  config.data.path = str(digits_npz)
  with config.unlocked():
    config.update_from_flattened_dict(overrides)
  return config


# One class against the rest.


def test_training_sees_every_normal_image_and_no_other():
  problem = _problem('one_vs_rest')
  assert (problem.train.label == 1).all() and len(problem.train) == 100
  assert not problem.train.anomaly.any()


def test_the_whole_test_split_is_evaluated_and_other_classes_are_anomalies():
  problem, pets = _problem('one_vs_rest'), _split()
  np.testing.assert_array_equal(problem.test.image, pets.test.image)
  np.testing.assert_array_equal(problem.test.anomaly, pets.test.label != 1)


def test_indices_point_at_the_rows_of_the_data_sets_own_split():
  problem, pets = _problem('one_vs_rest', 2), _split()
  np.testing.assert_array_equal(
      pets.train.image[problem.train_index], problem.train.image)
  np.testing.assert_array_equal(
      pets.test.image[problem.test_index], problem.test.image)
  assert problem.train_index.dtype == problem.test_index.dtype == np.int64


def test_a_problem_says_what_is_normal_by_label_or_name():
  by_label = _problem('one_vs_rest', 1)
  for normal in (1, 'dog', '1'):  # the last from a command line
    problem = _problem('one_vs_rest', normal)
    assert (problem.normal_class, problem.normal_name) == (1, 'dog')
    assert (problem.dataset, problem.protocol) == ('pets', 'one_vs_rest')
    np.testing.assert_array_equal(problem.train_index, by_label.train_index)


def test_what_the_source_calls_abnormal_is_not_trained_on():
  pets = _split()
  odd = np.arange(400) == 5  # label 1
  train = data.Examples(pets.train.image, pets.train.label, anomaly=odd)
  problem = protocols.one_class(
      data.Split('pets', train, train, CLASS_NAMES), normal=1)
  assert 5 not in problem.train_index and len(problem.train) == 99
  assert problem.test.anomaly[5]


def test_a_normal_class_without_training_images_is_an_error():
  pets = _split()
  pets = data.Split('pets', pets.train.take(pets.train.label != 2), pets.test,
                    CLASS_NAMES)
  with pytest.raises(InputError, match="no training image of class 'frog'"):
    protocols.one_class(pets, normal='frog')


# Validation.


def test_validation_holds_out_a_tenth_and_as_many_outliers():
  problem = _problem('validation')
  assert len(problem.train) == 90
  assert problem.test.anomaly.tolist().count(False) == 10
  assert problem.test.anomaly.tolist().count(True) == 10
  np.testing.assert_array_equal(
      problem.test.anomaly, problem.test.label != 1)


def test_validation_trains_and_evaluates_on_different_training_images():
  problem, pets = _problem('validation'), _split()
  assert not set(problem.train_index) & set(problem.test_index)
  assert len(set(problem.test_index)) == 20
  np.testing.assert_array_equal(
      pets.train.image[problem.test_index], problem.test.image)
  np.testing.assert_array_equal(
      pets.train.image[problem.train_index], problem.train.image)


def test_validation_draws_from_all_rows_of_both_kinds():
  problem = _problem('validation')
  for anomaly in False, True:
    index = problem.test_index[problem.test.anomaly == anomaly]
    assert index.min() < 133 and index.max() > 266


def test_validation_needs_no_test_split():
  pets = _split()
  without = data.Split('pets', pets.train, pets.test.take([]), CLASS_NAMES)
  assert len(protocols.one_class(without, name='validation').test) == 20


def test_validation_draws_the_same_images_for_every_seed():
  first, second = (_problem('validation', seed=seed) for seed in (0, 7))
  np.testing.assert_array_equal(first.test_index, second.test_index)


def test_validation_without_outliers_says_so():
  pets = _split()
  pets = data.Split('pets', pets.train.take(pets.train.label == 0), pets.test,
                    CLASS_NAMES)
  with pytest.raises(InputError, match='needs 10 abnormal images'):
    protocols.one_class(pets, name='validation')


# Contaminated.


@pytest.mark.parametrize('share', [0.005, 0.01, 0.025, 0.05, 0.1, 0.5])
def test_anomalies_are_the_chosen_share_of_what_is_trained_on(share):
  problem = protocols.one_class(
      _split(train=20_000), name='contaminated', normal=1, contamination=share)
  anomalies, n = problem.train.anomaly.sum(), len(problem.train)
  assert n - anomalies == 5000  # all normals stay
  assert anomalies == round(share * 5000 / (1 - share))
  assert anomalies / n == pytest.approx(share, abs=0.5 / n)


@pytest.mark.parametrize('name', BLIND)
def test_contaminants_are_training_images_of_the_other_classes(name):
  problem = _problem(name, contamination=0.2)
  pets = _split()
  np.testing.assert_array_equal(
      pets.train.image[problem.train_index], problem.train.image)
  np.testing.assert_array_equal(problem.train.anomaly, problem.train.label != 1)
  assert set(problem.train.label) == {0, 1, 2, 3}
  assert len(set(problem.train_index)) == len(problem.train) == 125


@pytest.mark.parametrize('name', BLIND)
def test_contamination_leaves_the_test_split_as_it_is(name):
  problem, plain = _problem(name), _problem('one_vs_rest')
  np.testing.assert_array_equal(problem.test_index, plain.test_index)
  np.testing.assert_array_equal(problem.test.image, plain.test.image)
  np.testing.assert_array_equal(problem.test.anomaly, plain.test.anomaly)


def test_no_contamination_is_one_vs_rest():
  problem, plain = _problem(contamination=0.), _problem('one_vs_rest')
  np.testing.assert_array_equal(problem.train_index, plain.train_index)
  assert problem.protocol == 'contaminated_0%'


def test_contaminants_depend_on_the_seed_alone():
  first, again, other = (_problem(contamination=0.2, seed=seed).train_index
                         for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_more_contamination_adds_to_the_same_anomalies():
  less, more = (set(_problem(contamination=share).train_index)
                for share in (0.05, 0.2))
  assert less < more


def test_what_the_source_calls_abnormal_contaminates_too():
  pets = _split()
  odd = (np.arange(400) % 20 == 1)  # 20 of the 100 dogs
  pets = dataclasses.replace(
      pets, train=dataclasses.replace(pets.train, anomaly=odd))
  problem = protocols.one_class(pets, name='contaminated', normal=1,
                                contamination=0.5)
  assert (~problem.train.anomaly).sum() == 80 == problem.train.anomaly.sum()
  assert (problem.train.anomaly & (problem.train.label == 1)).any()


# Semi-supervised.


def test_the_semi_supervised_encoder_sees_what_the_contaminated_one_sees():
  np.testing.assert_array_equal(
      _problem('semi_supervised', contamination=0.1, seed=3).train_index,
      _problem('contaminated', contamination=0.1, seed=3).train_index)


def test_the_semi_supervised_classifier_is_fitted_to_clean_normals_alone():
  problem = _problem('semi_supervised', clean=30)
  assert len(problem.fitted) == 30 and not problem.fitted.anomaly.any()
  np.testing.assert_array_equal(
      _split().train.image[problem.fitted_index], problem.fitted.image)
  assert len(_problem('semi_supervised').fitted) == 50


def test_what_is_fitted_and_what_is_unlabelled_are_all_and_share_nothing():
  problem = _problem('semi_supervised')
  np.testing.assert_array_equal(
      np.sort(np.concatenate([problem.clean, problem.unlabelled])),
      np.arange(len(problem.train)))


@pytest.mark.parametrize('name', ['one_vs_rest', 'validation', 'contaminated'])
def test_all_other_classifiers_are_fitted_to_what_the_encoder_saw(name):
  problem = _problem(name)
  assert problem.fitted is problem.train and not len(problem.unlabelled)
  np.testing.assert_array_equal(problem.fitted_index, problem.train_index)


def test_the_clean_images_do_not_depend_on_the_contamination():
  none, some, other = (
      _problem('semi_supervised', contamination=share, seed=seed).fitted_index
      for share, seed in ((0., 0), (0.3, 0), (0.3, 1)))
  np.testing.assert_array_equal(none, some)
  assert not np.array_equal(some, other)


# Several normal classes.


@pytest.mark.parametrize('normal', ['0+2', '2+0', 'cat+frog', 'frog+0'])
def test_several_classes_are_normal_in_whatever_way_they_are_named(normal):
  problem = _problem('one_vs_rest', normal)
  assert (problem.normal_class, problem.normal_name) == ('0+2', 'cat+frog')
  assert set(problem.train.label) == {0, 2} and len(problem.train) == 200
  np.testing.assert_array_equal(
      problem.test.anomaly, problem.test.label % 2 == 1)


def test_a_name_with_a_plus_is_a_name():
  assert _problem('one_vs_rest', 'c++').normal_class == 3


def test_several_classes_go_with_every_protocol():
  validation = _problem('validation', '0+1')
  assert (~validation.test.anomaly).sum() == 20 == validation.test.anomaly.sum()
  contaminated = _problem('contaminated', '0+1', contamination=0.1)
  assert contaminated.train.anomaly.sum() == 22
  assert set(contaminated.train.label[contaminated.train.anomaly]) == {2, 3}
  clean = _problem('semi_supervised', '0+1').fitted
  assert set(clean.label) == {0, 1} and len(clean) == 50


# Images that nothing learns from.

EVERY = ('one_vs_rest', 'validation', *BLIND)


@pytest.mark.parametrize('name', EVERY)
def test_a_share_of_what_is_fitted_is_held_out_of_everything(name):
  without, problem = _problem(name, 1), _problem(name, 1, calibration=0.167)
  held_out = problem.calibration_index
  assert len(held_out) == round(0.167 * len(without.fitted_index))
  assert (np.diff(held_out) > 0).all()
  assert set(held_out) <= set(without.fitted_index)
  for each, before in ((problem.train_index, without.train_index),
                       (problem.fitted_index, without.fitted_index)):
    assert not set(each) & set(held_out)
    np.testing.assert_array_equal(np.sort(np.concatenate(
        [each, held_out[np.isin(held_out, before)]])), np.sort(before))
  for images, index in ((problem.calibration, held_out),
                        (problem.fitted, problem.fitted_index)):
    np.testing.assert_array_equal(images.image, _split().train.image[index])
  np.testing.assert_array_equal(problem.test_index, without.test_index)
  if name != 'contaminated':  # which takes what it cannot tell for normal
    assert not problem.calibration.anomaly.any()


@pytest.mark.parametrize('name', BLIND)
def test_the_truth_about_what_is_held_out_is_written_beside_it(name):
  problem = _problem(name, 1, calibration=0.4)
  _, about = features._files(problem)['calibration']
  labels = _split().train.label[problem.calibration_index]
  np.testing.assert_array_equal(about['contaminant'], labels != 1)
  assert about['contaminant'].any() == (name == 'contaminated')


def test_nothing_is_held_out_unless_it_is_asked_for():
  for calibration in (None, 0, 0.):
    problem = _problem('one_vs_rest', calibration=calibration)
    assert len(problem.calibration) == len(problem.calibration_index) == 0
    assert len(problem.train) == 100 and not problem.settings


def test_half_of_the_images_may_be_held_out():
  problem = _problem('one_vs_rest', calibration=0.5)
  assert len(problem.calibration) == len(problem.train) == 50
  fewest = _problem('semi_supervised', clean=4, calibration=0.5)
  assert len(fewest.calibration) == len(fewest.fitted) == 2


def test_what_is_held_out_depends_on_the_seed_alone():
  first, again, other = (
      _problem('one_vs_rest', calibration=0.2, seed=seed).calibration_index
      for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


# What rows and configs say.


@pytest.mark.parametrize('kwargs, protocol', [
    (dict(name='one_vs_rest', calibration=0.1), 'one_vs_rest_calibration_10%'),
    (dict(calibration=0.125, normal='0+1'),
     'contaminated_5%_calibration_12.5%_2_classes'),
    (dict(name='one_vs_rest'), 'one_vs_rest'),
    (dict(name='validation'), 'validation'),
    (dict(), 'contaminated_5%'),
    (dict(contamination=0.025), 'contaminated_2.5%'),
    (dict(contamination=0.07), 'contaminated_7%'),
    (dict(name='semi_supervised', contamination=0.1), 'semi_supervised_10%_50'),
    (dict(name='semi_supervised', clean=20), 'semi_supervised_5%_20'),
    (dict(name='one_vs_rest', normal='0+1'), 'one_vs_rest_2_classes'),
    (dict(normal='0+1+2'), 'contaminated_5%_3_classes'),
])
def test_the_protocol_of_a_row_says_all_its_numbers(kwargs, protocol):
  assert _problem(**kwargs).protocol == protocol


@pytest.mark.parametrize('kwargs, words', [
    (dict(contamination=0.6), 'contamination=0.6 must be .* from 0 to 0.5'),
    (dict(contamination=-0.1), 'contamination=-0.1 must be'),
    (dict(contamination=float('nan')), 'contamination=nan must be'),
    (dict(contamination='5%'), 'contamination=5% must be'),
    (dict(contamination=True), 'contamination=True must be'),
    (dict(contamination=(0.1,)), r'contamination=\(0.1,\) must be'),
    (dict(contamination=0.001), '0.001 beside 100 normal .* not one whole'),
    (dict(normal='0+1+2', contamination=0.5),
     "needs 300 abnormal .* 300 normal .*'pets' has 100"),
    (dict(name='semi_supervised', clean=101), 'clean=101 .* than the 100 norm'),
    (dict(name='semi_supervised', clean=1), 'clean=1 must be a number'),
    (dict(name='semi_supervised', clean=9.5), 'clean=9.5 must be a number'),
    (dict(clean=50), "'contaminated' takes no protocol.clean; "
     "protocol.name='semi_supervised' does"),
    (dict(name='one_vs_rest', contamination=0.1),
     "takes no protocol.contamination; protocol.name='contaminated' or 'semi"),
    (dict(calibration=0.6), 'calibration=0.6 must be .* from 0 to 0.5'),
    (dict(calibration=-0.1), 'calibration=-0.1 must be'),
    (dict(calibration=float('nan')), 'calibration=nan must be'),
    (dict(calibration=True), 'calibration=True must be'),
    (dict(calibration=0.004), '0.004 of 105 images is not one whole'),
    (dict(name='semi_supervised', clean=2, calibration=0.5),
     'calibration=0.5 of 2 images leaves fewer than two'),
    (dict(name='contaminted'), "did you mean 'contaminated'"),
    (dict(name='one_vs_all'), "did you mean 'one_vs_rest'"),
    (dict(normal='dig'), "'dig'; did you mean 'dog'"),
    (dict(normal=4), r'class 4; the labels are 0 to 3: cat, dog, frog, c\+\+'),
    (dict(normal='4'), 'class 4'),
    (dict(normal=-1), 'class -1'),
    (dict(normal=True), 'class True'),
    (dict(normal='1+1'), "1[+]1 names class 1, 'dog', twice"),
    (dict(normal='dog+1'), "names class 1, 'dog', twice"),
    (dict(normal='0+dig'), "'dig'; did you mean 'dog'"),
    (dict(normal='0+7'), 'class 7; the labels are 0 to 3'),
    (dict(normal='0+'), "unknown normal class ''"),
    (dict(normal='0+1+2+3'), "all 4 classes of 'pets'"),
])
def test_what_a_protocol_cannot_do_is_one_clear_line(kwargs, words):
  with pytest.raises(InputError, match=words) as error:
    _problem(**kwargs)
  assert '\n' not in str(error.value)


def test_all_classes_may_be_normal_where_the_source_knows_the_anomalies():
  pets = _split()
  odd = dataclasses.replace(pets.test, anomaly=np.arange(40) < 5)
  pets = dataclasses.replace(pets, test=odd)
  problem = protocols.one_class(pets, normal='0+1+2+3')
  assert problem.test.anomaly.sum() == 5


def test_a_config_draws_by_its_own_seed(digits_npz):
  first, other = (experiment.problem(_config(
      digits_npz, seed=seed, **{'protocol.name': 'contaminated'}))
                  for seed in (0, 1))
  assert not np.array_equal(first.train_index, other.train_index)


def test_a_default_and_the_same_number_are_one_run(digits_npz):
  names = {'protocol.name': 'semi_supervised'}
  hashes = set()
  for given in ({}, {'protocol.contamination': 0.05},
                {'protocol.contamination': 0.05, 'protocol.clean': 50}):
    config = _config(digits_npz, **names, **given)
    found = experiment.resolved(config, experiment.problem(config))
    hashes.add(runs.config_hash(found))
    assert found.protocol.to_dict() == {
        'name': 'semi_supervised', 'normal': '3', 'contamination': 0.05,
        'clean': 50}
  assert len(hashes) == 1


def test_a_class_by_its_name_and_by_its_label_are_one_run(digits_npz):
  config = _config(digits_npz)
  problem = dataclasses.replace(
      experiment.problem(config), normal_name='three',
      class_names=('zero', 'one', 'two', 'three'))
  for asked in ('3', 'three'):
    config.protocol.normal = asked
    assert experiment.resolved(config, problem).protocol.normal == '3'


def test_a_config_may_leave_room_for_settings(digits_npz):
  room = {'protocol.contamination': config_dict.placeholder(float),
          'protocol.clean': config_dict.placeholder(int)}
  config = _config(digits_npz, **room)
  assert experiment.problem(config).protocol == 'one_vs_rest'
  config.update_from_flattened_dict({
      'protocol.name': 'contaminated', 'protocol.contamination': 0.1})
  problem = experiment.problem(config)
  assert problem.protocol == 'contaminated_10%'
  assert experiment.resolved(config, problem).protocol.contamination == 0.1


@pytest.mark.parametrize('asked', [None, 0.])
def test_a_run_that_holds_nothing_out_is_the_one_before_there_was_such_a_field(
    digits_npz, asked):
  before, config = _config(digits_npz), _config(
      digits_npz, **{'protocol.calibration': asked})
  found = experiment.resolved(config, experiment.problem(config))
  assert found.to_dict() == before.to_dict()


def test_a_config_without_settings_is_resolved_as_before(digits_npz):
  config = _config(digits_npz)
  found = experiment.resolved(config, experiment.problem(config))
  assert found.to_dict() == config.to_dict()


# The files of a run.


@pytest.fixture(scope='module')
def semi_supervised(digits_npz, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('semi_supervised')
  config = _config(digits_npz, **{
      'protocol.name': 'semi_supervised', 'protocol.normal': '1+3',
      'protocol.clean': 40, 'train.steps': 2})
  train.train(config, str(workdir))
  return workdir


def test_a_run_keeps_what_is_fitted_apart_from_what_the_encoder_saw(
    semi_supervised, digits_npz):
  fitted, meta = embeddings.read(semi_supervised / 'embeddings/train.npz')
  rest, _ = embeddings.read(semi_supervised / 'embeddings/unlabelled.npz')
  assert len(fitted['pool']) == 40 == len(fitted['index'])
  assert set(fitted['label']) == {1, 3} and not fitted['contaminant'].any()
  label = np.load(digits_npz)['y_train']
  normal = np.isin(label, (1, 3)).sum()
  assert len(rest['pool']) == normal - 40 + rest['contaminant'].sum()
  assert rest['contaminant'].sum() == round(0.05 * normal / 0.95)
  assert not set(fitted['index']) & set(rest['index'])
  for each in (fitted, rest):
    np.testing.assert_array_equal(each['label'], label[each['index']])
    np.testing.assert_array_equal(
        each['contaminant'], ~np.isin(each['label'], (1, 3)))
  assert (meta['protocol'], meta['normal_class'], meta['normal_name']) == (
      'semi_supervised_5%_40_2_classes', '1+3', '1+3')


def test_no_file_for_fitting_tells_what_is_abnormal(semi_supervised):
  for name in ('train', 'unlabelled'):
    arrays, _ = embeddings.read(semi_supervised / f'embeddings/{name}.npz')
    assert not arrays['anomaly'].any()
    assert 'contaminant' not in embeddings.features(arrays)


def test_embedding_again_draws_the_same_images(semi_supervised):
  from deep_oc import embed
  config, problem, _, _ = embed.restore(str(semi_supervised))
  fitted, meta = embeddings.read(semi_supervised / 'embeddings/train.npz')
  np.testing.assert_array_equal(problem.fitted_index, fitted['index'])
  assert runs.config_hash(config) == meta['config_hash']
  written = json.loads((semi_supervised / 'config.json').read_text())['config']
  assert written['protocol'] == {
      'name': 'semi_supervised', 'normal': '1+3', 'contamination': 0.05,
      'clean': 40}


# Of images that nothing learns from.


def _held_out(path, workdir):
  config = _config(path, **{
      'protocol.calibration': 0.2, 'train.steps': 4, 'embed': {
          'views': 'flip_rot', 'stages': 1}})
  train.train(config, str(workdir))
  return [embeddings.read(workdir / f'embeddings/{name}.npz')[0]
          for name in ('train', 'calibration', 'test')]


def test_no_bit_of_a_run_depends_on_what_is_held_out(digits_npz, tmp_path):
  fitted, held_out, tested = _held_out(digits_npz, tmp_path / 'run')
  assert len(held_out['index']) == round(
      0.2 * (len(held_out['index']) + len(fitted['index'])))
  assert not set(held_out['index']) & set(fitted['index'])
  assert not held_out['anomaly'].any() and set(held_out['label']) == {3}
  assert {*fitted} | {name for name in tested if name.startswith('score_')} == {
      *held_out}
  with np.load(digits_npz) as archive:
    arrays = dict(archive)
  arrays['x_train'][held_out['index']] ^= 255
  np.savez(tmp_path / 'other.npz', **arrays)
  again, changed, tested_again = _held_out(
      tmp_path / 'other.npz', tmp_path / 'other')
  for before, after in ((fitted, again), (tested, tested_again)):
    for name, array in before.items():
      np.testing.assert_array_equal(array, after[name], name)
  assert (changed['pool'] != held_out['pool']).any(axis=1).all()


def test_training_says_which_rates_what_is_held_out_can_calibrate(
    digits_npz, tmp_path, capsys):
  _, held_out, _ = _held_out(digits_npz, tmp_path / 'run')
  count = len(held_out['index'])
  assert (f'{count} normal images are held out, to calibrate false-alarm rates '
          f'from {100 / (count + 1):.3g} % on') in capsys.readouterr().out


def test_the_folder_of_a_run_says_what_is_held_out(digits_npz):
  config = _config(digits_npz, **{'protocol.calibration': 0.2})
  problem = experiment.problem(config)
  assert runs.default_workdir(
      experiment.resolved(config, problem), problem.protocol) == (
          'runs/tiny/3/one_vs_rest_calibration_20%/seed0')
