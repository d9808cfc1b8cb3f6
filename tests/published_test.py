"""The papers' numbers agree with each other and with the configs' names."""
import csv
import importlib
import pathlib
import statistics

import pytest
from configs import cutpaste_mvtec

from deep_oc import cutpaste, tables

PATH = pathlib.Path(tables.__file__).with_name('published.csv')
ROWS = tables.read(PATH, ('level',))
MVTEC = [row for row in ROWS if row['dataset'] == 'mvtec_ad']
TABLE_1 = ('rotation', 'cutout_grey', 'scar', 'cutpaste', 'cutpaste_scar',
           'cutpaste_3way', 'cutpaste_3way_ensemble')


def _column(table, pretext):
  """Returns {category or 'mean': AUROC} of a column of Li et al."""
  return {row['normal_class']: float(row['auroc']) for row in MVTEC
          if (row['source'], row['table'], row['pretext'])
          == ('li2021', table, pretext)}


def test_every_row_has_a_value_in_every_column_that_it_must():
  with open(PATH, encoding='utf-8', newline='') as file:
    header, *lines = csv.reader(file)
  assert header == [
      'source', 'table', 'dataset', 'pretext', 'classifier', 'level',
      'normal_class', 'normal_name', 'auroc', 'spread', 'spread_kind']
  assert {len(line) for line in lines} == {len(header)}
  for row in ROWS:
    assert row['level'] in ('image', 'pixel')
    assert 0 <= float(row['auroc']) <= 100
    assert float(row['spread'] or 0) >= 0
    # Sohn et al. give deviations of five seeds, Li et al. standard errors.
    kind = {'sohn2021': 'sd5', 'li2021': 'se5'}[row['source']]
    assert row['spread_kind'] == (kind if row['spread'] else '')


def test_a_number_stands_once_in_its_table():
  keys = [tuple(row[key] for key in (
      'source', 'table', 'dataset', 'pretext', 'classifier', 'level',
      'normal_class')) for row in ROWS]
  assert len(set(keys)) == len(keys)


def test_only_numbers_read_second_hand_lack_table_and_classifier():
  rows = [row for row in ROWS if not (row['table'] and row['classifier'])]
  assert {(row['source'], row['dataset']) for row in rows} == {
      ('sohn2021', 'mvtec_ad')}
  assert {row['pretext'] for row in rows} == {
      'rotnet_patch', 'rotation_patch', 'dacl_patch'}
  assert not any(row['table'] or row['classifier'] or row['spread']
                 for row in rows)


@pytest.mark.parametrize('table, pretext', [
    *(('1', pretext) for pretext in (*TABLE_1, 'patch_svdd')),
    *(('3', f'{pretext}_b4{level}') for pretext in ('imagenet', 'cutpaste_3way')
      for level in ('', '_level7')),
    *(('2', pretext) for pretext in ('cutpaste_3way_patch', 'patch_svdd',
                                     'fcdd'))])
def test_the_mean_of_mvtec_is_that_of_its_fifteen_categories(table, pretext):
  column = _column(table, pretext)
  mean = column.pop('mean')
  assert set(column) == set(cutpaste_mvtec.CATEGORIES)
  digit = 0.5 if pretext == 'fcdd' else 0.1  # it is printed without any
  assert statistics.fmean(column.values()) == pytest.approx(mean, abs=digit)


def test_mvtecs_levels_are_those_of_its_tables():
  levels = {(row['source'], row['table']): set() for row in MVTEC}
  for row in MVTEC:
    levels[row['source'], row['table']].add(row['level'])
    assert row['normal_name'] == row['normal_class']
  assert levels == {
      ('li2021', '1'): {'image'}, ('li2021', '2'): {'pixel'},
      ('li2021', '3'): {'image'},
      ('li2021', '4'): {'image'}, ('li2021', '5'): {'image'},
      ('li2021', 's4.2'): {'pixel'},  # a section; by Grad-CAM
      ('sohn2021', ''): {'image', 'pixel'}}


def test_the_ablations_are_named_as_the_kinds_of_defect():
  found = {row['pretext'] for row in MVTEC if row['table'] in ('4', '5')}
  assert found < set(cutpaste.KINDS)
  assert set(cutpaste.KINDS) <= {row['pretext'] for row in MVTEC}


def test_table_1s_cutout_is_the_grey_one_of_table_4():
  assert 'cutout_grey' in cutpaste.KINDS
  column = _column('1', 'cutout_grey')
  assert (column['bottle'], column['mean']) == (88.7, 71.3)
  assert not _column('4', 'cutout_grey')  # the same column stands once


@pytest.mark.parametrize('name', [
    'cutpaste_mvtec', 'cutpaste_patch_mvtec', 'rotnet_mvtec', 'rotation_mvtec',
    'dacl_mvtec', 'patch_svdd_mvtec', 'fcdd_mvtec', 'imagenet_mvtec',
    'cutpaste_efficientnet_mvtec'])
def test_the_methods_of_the_mvtec_configs_are_published(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  assert config.method in {row['pretext'] for row in MVTEC}
