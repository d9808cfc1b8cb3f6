import csv
import os
import statistics

import pytest

from deep_oc import tables
from deep_oc.errors import InputError


def _row(normal_class='0', seed='0', auroc='90.00', **kwargs):
  row = dict.fromkeys(tables.RESULTS, '') | {
      'dataset': 'cifar10', 'protocol': 'one_vs_rest', 'pretext': 'rotation',
      'encoder': 'resnet18', 'feature': 'pool', 'classifier': 'kde',
      'normal_class': normal_class, 'normal_name': f'name{normal_class}',
      'seed': seed, 'auroc': auroc, 'auroc_low': '89.00',
      'auroc_high': '91.00', 'config_hash': 'abc', 'experiment': 'e',
      'run': f'runs/e/{normal_class}/seed{seed}'}
  return row | kwargs


def _line(lines, normal_class):
  found, = [x for x in lines if x['normal_class'] == normal_class]
  return found


def test_a_class_has_the_mean_and_sd_of_its_seeds():
  lines = tables.summarize([_row(seed=str(i), auroc=x) for i, x in
                            enumerate(('90.00', '92.00', '97.00'))])
  line = _line(lines, '0')
  assert (line['n_seeds'], line['auroc_mean']) == (3, '93.00')
  assert line['auroc_sd'] == f'{statistics.stdev([90, 92, 97]):.2f}'


def test_one_seed_has_no_sd_but_its_interval():
  line = _line(tables.summarize([_row()]), '0')
  assert line['auroc_sd'] == ''
  assert (line['auroc_low'], line['auroc_high']) == ('89.00', '91.00')


def test_the_sd_of_the_mean_is_over_seeds_not_classes():
  rows = [_row('0', '0', '80.00'), _row('1', '0', '90.00'),
          _row('0', '1', '82.00'), _row('1', '1', '92.00')]
  line = _line(tables.summarize(rows), 'mean')
  assert line['auroc_mean'] == '86.00'
  assert line['auroc_sd'] == f'{statistics.stdev([85, 87]):.2f}'
  assert (line['n_seeds'], line['n_classes']) == (2, 2)


def test_a_seed_that_lacks_classes_is_not_in_the_mean():
  rows = [_row('0', '0', '80.00', aupro='70.00'),
          _row('1', '0', '90.00', aupro='80.00'),
          _row('0', '1', '10.00', aupro='10.00')]
  line = _line(tables.summarize(rows), 'mean')
  assert (line['auroc_mean'], line['n_seeds']) == ('85.00', 1)
  assert line['aupro_mean'] == '75.00'


def test_of_seeds_with_other_classes_the_first_is_in_the_mean():
  rows = [_row('0', '10', '80.00'), _row('1', '9', '90.00')]
  for given in rows, rows[::-1]:
    line = _line(tables.summarize(given), 'mean')
    assert (line['auroc_mean'], line['n_classes']) == ('90.00', 1)


def test_a_mean_over_some_classes_is_marked_and_has_no_gap():
  lines = tables.summarize([_row(str(i)) for i in range(7)])
  line = _line(lines, 'mean')
  assert (line['n_classes'], line['of_classes']) == (7, 10)
  assert 'gap' not in line


def test_the_gap_is_ours_less_the_papers():
  lines = tables.summarize([_row(str(i)) for i in range(10)])
  assert _line(lines, 'mean')['paper'] == '91.3'
  assert _line(lines, 'mean')['gap'] == '-1.30'
  assert _line(lines, '0')['paper'] == '88.5'
  assert _line(lines, '0')['gap'] == '+1.50'


def test_the_kind_of_the_papers_spread_stands_beside_it():
  for row, spread in ((_row(), ('0.3', 'sd5')), (_mvtec(), ('0.5', 'se5'))):
    line, _ = tables.summarize([row])
    assert (line['paper_spread'], line['paper_spread_kind']) == spread
    assert line.keys() <= set(tables.SUMMARY)


def test_classes_are_in_the_order_of_numbers():
  lines = tables.summarize([_row(x) for x in ('10', '9', '0')])
  assert [x['normal_class'] for x in lines] == ['0', '9', '10', 'mean']


@pytest.mark.parametrize('key, value', [
    ('feature', 'head'), ('feature', 'pixels'), ('dataset', 'mnist'),
    ('pretext', 'own'), ('classifier', 'nn'), ('protocol', 'validation')])
def test_what_the_paper_did_not_do_has_no_paper_number(key, value):
  for line in tables.summarize([_row(**{key: value})]):
    assert 'paper' not in line


def test_a_random_encoder_is_compared_with_the_papers_random_one():
  rows = [_row(str(i), feature='random') for i in range(10)]
  assert _line(tables.summarize(rows), 'mean')['paper'] == '60.5'


def test_the_rotation_classifier_is_compared_with_rotnets():
  rows = [_row(str(i), feature='score', classifier='upright',
               pretext='rotnet') for i in range(10)]
  assert _line(tables.summarize(rows), 'mean')['paper'] == '86.8'


def test_experiments_are_kept_apart():
  lines = tables.summarize([_row(), _row(experiment='f', auroc='10.00')])
  assert [x['auroc_mean'] for x in lines] == ['90.00', '90.00', '10.00',
                                              '10.00']


def test_a_copy_of_a_run_counts_once():
  lines = tables.summarize([_row(), _row(run='runs/copy')])
  assert _line(lines, '0')['n_seeds'] == 1


def test_two_different_runs_of_one_seed_are_an_error_that_names_both():
  with pytest.raises(InputError, match='runs/e/0/seed0 and runs/again'):
    tables.summarize([_row(), _row(run='runs/again', config_hash='other')])


def test_seeds_of_other_steps_are_an_error_that_names_both():
  with pytest.raises(InputError, match='seed0 .* 9 steps but runs/e/0/seed1 '):
    tables.summarize([_row(step='9'), _row(seed='1', step='8')])
  tables.summarize([_row(step='9'), _row('1', step='8'),
                    _row(seed='1', step='8', experiment='short')])


def test_written_rows_are_read_back(tmp_path):
  tables.write(tmp_path / 'a.csv', tables.RESULTS, [_row()])
  row, = tables.read(tmp_path / 'a.csv')
  assert row == {key: _row()[key] for key in tables.RESULTS}


def test_a_path_in_another_encoding_is_written_escaped(tmp_path):
  rows = [{'path': os.fsdecode(b'caf\xe9.png'), 'p': 0.5}]
  tables.write(tmp_path / 'a.csv', ['path', 'p'], rows)
  assert (tmp_path / 'a.csv').read_text('utf-8') == (
      'path,p\ncaf\\udce9.png,0.5\n')


@pytest.mark.parametrize('content', [b'', b'a,b\n1,2\n', b'\xff\xfe\n'])
def test_what_is_not_a_results_file_is_an_error_that_names_it(
    tmp_path, content):
  (tmp_path / 'a.csv').write_bytes(content)
  with pytest.raises(InputError, match='a.csv'):
    tables.read(tmp_path / 'a.csv')


@pytest.mark.parametrize('name, cell', [
    ('auroc', ''), ('auroc', 'nan'), ('auroc', '97;5'), ('aupro', 'inf')])
def test_a_result_that_is_no_number_is_an_error_that_names_it(
    tmp_path, name, cell):
  tables.write(tmp_path / 'a.csv', tables.RESULTS, [_row(**{name: cell})])
  with pytest.raises(InputError, match=f"'{name}' in .*a.csv is '{cell}'"):
    tables.read(tmp_path / 'a.csv')


def test_a_results_file_that_was_cut_off_is_an_error_that_names_it(tmp_path):
  tables.write(tmp_path / 'a.csv', tables.RESULTS, [_row(), _row('1')])
  text = (tmp_path / 'a.csv').read_text()
  for missing in 10, 80:
    (tmp_path / 'a.csv').write_text(text[:-missing])
    with pytest.raises(InputError, match=r'a\.csv has a row that ends early'):
      tables.read(tmp_path / 'a.csv')


def _published_images():
  """Returns the numbers of images by their keys less the level."""
  return {(*key[:3], key[4]): row for key, row in tables.published().items()
          if key[3] == 'image'}


def test_published_means_are_the_means_of_the_published_classes():
  """To rounding: the printed class values have one decimal."""
  found = _published_images()
  checked = 0
  for (dataset, pretext, classifier, normal_class), row in found.items():
    values = [float(found[dataset, pretext, classifier, str(i)]['auroc'])
              for i in range(tables.CLASSES.get(dataset, 0))
              if (dataset, pretext, classifier, str(i)) in found]
    disputed = pretext == 'denoising' and dataset not in (
        'cifar10', 'cifar100_coarse')  # table 7 differs from 10 and 11
    if normal_class == 'mean' and values and not disputed:
      assert len(values) == tables.CLASSES[dataset]
      mean = float(row['auroc'])
      assert statistics.fmean(values) == pytest.approx(mean, abs=0.101)
      checked += 1
  assert checked == 36


def test_published_totals_weight_classes_equally():
  """Over 43 classes; the paper's ImageNet rows are off by up to 0.3."""
  found = _published_images()
  sizes = {name: n for name, n in tables.CLASSES.items() if name != 'mvtec_ad'}
  for (dataset, pretext, classifier, _), row in found.items():
    if dataset == 'all':
      mean = sum(n * float(found[name, pretext, classifier, 'mean']['auroc'])
                 for name, n in sizes.items()) / 43
      slack = 0.35 if pretext == 'imagenet' else 0.15
      assert mean == pytest.approx(float(row['auroc']), abs=slack)


def test_published_rows_say_where_they_stand():
  path = tables.pathlib.Path(tables.__file__).with_name('published.csv')
  with open(path, encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == [
      'source', 'table', 'dataset', 'pretext', 'classifier', 'level',
      'normal_class', 'normal_name', 'auroc', 'spread', 'spread_kind']
  assert {row['table'] for row in rows if row['source'] == 'sohn2021'} == {
      '', 'main', '5', '7', '8', '9', '10', '11'}
  assert all(bool(row['spread']) == bool(row['spread_kind']) for row in rows)


def _mvtec(category='bottle', **kwargs):
  return _row(dataset=f'mvtec_ad/{category}', normal_class='0', level='image',
              experiment=f'cutpaste_mvtec_{category}', normal_name='good',
              pretext='cutpaste_3way', classifier='gde_ledoit_wolf', **kwargs)


def test_categories_are_the_classes_of_their_family():
  rows = [_mvtec('bottle', auroc='90.00'), _mvtec('screw', auroc='80.00')]
  lines = tables.summarize(rows)
  assert {line['experiment'] for line in lines} == {'cutpaste_mvtec'}
  assert {line['dataset'] for line in lines} == {'mvtec_ad'}
  assert _line(lines, 'bottle')['gap'] == '-8.30'  # the paper's 98.3
  assert _line(lines, 'mean')['auroc_mean'] == '85.00'
  assert _line(lines, 'mean')['of_classes'] == 15


@pytest.mark.parametrize('kwargs, paper', [
    (dict(pretext='cutpaste_3way_patch', feature='windows', level='pixel'),
     '97.6'),
    (dict(pretext='cutpaste_3way_patch', feature='pool', level='image'), None),
    (dict(pretext='cutpaste_3way_patch', feature='windows', level='image'),
     None),
    (dict(pretext='patch_svdd', feature='windows', classifier='knn(k=1)'),
     '98.6'),
    (dict(pretext='patch_svdd', feature='windows', classifier='knn(k=1)',
          level='pixel'), '98.1'),
    (dict(pretext='patch_svdd', feature='pool', classifier='knn(k=1)'), None),
    (dict(pretext='fcdd', feature='task', classifier='deviation',
          level='pixel'), '97'),
    (dict(pretext='fcdd', feature='score', classifier='deviation'), None),
    (dict(feature='gradcam', level='pixel'), None),  # published as a mean only
    (dict(feature='windows', level='image'), None),
    (dict(classifier='kde'), None),
    (dict(pretext='cutout_grey'), '88.7'),
    (dict(pretext='cutpaste_3way_ensemble'), '98.2')])
def test_a_number_stands_beside_its_own_kind(kwargs, paper):
  line = _line(tables.summarize([_mvtec() | kwargs]), 'bottle')
  assert line.get('paper') == paper


def test_flagged_images_are_averaged_where_every_row_counts_them():
  rows = [_row(normal_class=str(i), normal_name=str(i), detected=f'{i}.00',
               false_alarms='5.00' if i else '') for i in range(3)]
  *_, mean = tables.summarize(rows)
  assert mean['detected_mean'] == '1.00'
  assert 'false_alarms_mean' not in mean


@pytest.mark.parametrize('rows, shared', [
    (('unseen_20', 'unseen_20'), 'unseen_20'),
    (('unseen_20', 'unseen_19'), 'unseen'),
    (('held_out_20', 'folds_5'), 'folds, held_out'),
    (('held_out_20', ''), ''), (('', ''), '')])
def test_what_calibrates_is_told_as_far_as_it_is_the_same(rows, shared):
  rows = [_row(normal_class=str(i), normal_name=str(i), calibration=each)
          for i, each in enumerate(rows)]
  lines = tables.summarize(rows)
  assert [line['calibration'] for line in lines] == [
      *(row['calibration'] for row in rows), shared]


def test_pixels_are_apart_from_images_and_have_an_aupro():
  rows = [_mvtec(feature='windows', auroc='95.00'),
          _mvtec(feature='windows', auroc='97.00') | {
              'level': 'pixel', 'aupro': '88.00', 'aupro_low': '86.00',
              'aupro_high': '90.00'}]
  lines = tables.summarize(rows)
  assert [(line['level'], line['auroc_mean'], line.get('aupro_mean'),
           line['aupro_low'], line['aupro_high'])
          for line in lines if line['normal_class'] == 'bottle'] == [
              ('image', '95.00', None, '', ''),
              ('pixel', '97.00', '88.00', '86.00', '90.00')]


# Experiments on the five data sets: how many classes, and all their AUROC.
_FIVE = {'rotation_cifar10': ('cifar10', 10, 90.),
         'rotation_cifar20': ('cifar100_coarse', 20, 80.),
         'rotation_fmnist': ('fashion_mnist', 10, 95.),
         'rotation_catdog': ('cat_vs_dog', 2, 85.),
         'rotation_celeba': ('celeba', 1, 70.)}


# As many as Kaggle's cats and dogs.
_TESTED = {'n_test_normal': '2500', 'n_test_anomalous': '2500'}


def _sweep(experiments=tuple(_FIVE), seeds=('0',), **kwargs):
  """Rows of complete sweeps; each seed is worth a point more."""
  return [_row(str(c), seed, f'{auroc + int(seed):.2f}', experiment=name,
               dataset=dataset, run=f'{name}/{c}/{seed}', **_TESTED | kwargs)
          for name, (dataset, n, auroc) in _FIVE.items() if name in experiments
          for c in range(n) for seed in seeds]


def _totals(rows):
  """Returns {normal_class: line} of 'all' data sets."""
  return {line['normal_class']: line for line in tables.summarize(rows)
          if line['dataset'] == 'all'}


def test_the_mean_over_43_classes_weights_data_sets_by_their_classes():
  lines = _totals(_sweep(seeds=('0', '1')))
  assert list(lines) == ['cifar10', 'cifar100_coarse', 'fashion_mnist',
                         'cat_vs_dog', 'celeba', 'mean', 'plain_mean']
  mean, plain = lines['mean'], lines['plain_mean']
  weighted = (10 * 90 + 20 * 80 + 10 * 95 + 2 * 85 + 70) / 43
  assert mean['auroc_mean'] == f'{weighted + 0.5:.2f}'
  assert mean['auroc_sd'] == f'{statistics.stdev([0, 1]):.2f}'
  assert plain['auroc_mean'] == f'{(90 + 80 + 95 + 85 + 70) / 5 + 0.5:.2f}'
  for line in mean, plain:
    assert (line['n_classes'], line['of_classes']) == (43, 43)
    assert (line['experiment'], line['n_seeds']) == ('rotation', 2)


def test_the_mean_over_43_classes_stands_beside_table_7s():
  lines = _totals(_sweep())
  assert lines['mean']['paper'] == '88.2'
  assert lines['mean']['gap'] == (
      f"{float(lines['mean']['auroc_mean']) - 88.2:+.2f}")
  assert 'paper' not in lines['plain_mean']
  assert lines['cifar10']['paper'] == '91.3'
  assert lines['cifar10']['gap'] == '-1.30'


@pytest.mark.parametrize('kind', _TESTED)
def test_other_cats_and_dogs_than_kaggles_have_no_paper_number(kind):
  kaggle, tfds = (tables.summarize(_sweep(**{kind: count}))
                  for count in ('2500', '1620'))
  lost = [(line['dataset'], line['normal_class'])
          for line, other in zip(kaggle, tfds, strict=True)
          if line.keys() - other.keys()]
  assert lost == [
      ('cat_vs_dog', '0'), ('cat_vs_dog', '1'), ('cat_vs_dog', 'mean'),
      ('all', 'cat_vs_dog'), ('all', 'mean')]
  assert not any('paper' in line or 'gap' in line for line in tfds
                 if (line['dataset'], line['normal_class']) in lost)


def test_a_mean_over_fewer_than_43_classes_says_so_and_has_no_gap():
  rows = _sweep(('rotation_cifar10', 'rotation_celeba'))
  mean = _totals(rows)['mean']
  assert (mean['n_classes'], mean['of_classes']) == (11, 43)
  assert mean['paper'] == '88.2' and 'gap' not in mean
  assert _totals(rows[3:])['cifar10']['n_classes'] == 7


def test_a_seed_that_lacks_a_data_set_is_not_in_the_mean_over_all():
  rows = _sweep() + _sweep(['rotation_cifar10'], ('9',))
  assert _totals(rows)['mean'] == _totals(_sweep())['mean']


def test_one_data_set_has_no_mean_over_all():
  assert not _totals(_sweep(['rotation_cifar10']))
  assert not _totals([_mvtec(), *_sweep(['rotation_cifar10'])])


def test_methods_are_not_averaged_with_one_another():
  rows = _sweep(['rotation_cifar10']) + [
      row | {'experiment': f'own_{row["experiment"]}'}
      for row in _sweep(['rotation_fmnist'])]
  assert not _totals(rows)
  lines = tables.summarize(_sweep() + _sweep(classifier='gde'))
  assert len([line for line in lines if line['dataset'] == 'all']) == 14


def test_the_other_rows_do_not_change_with_the_mean_over_all():
  alone = tables.summarize(_sweep(['rotation_cifar10']))
  assert tables.summarize(_sweep())[:len(alone)] == alone
