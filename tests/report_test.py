import base64
import csv
import dataclasses
import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as etree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn import metrics as sklearn_metrics

from deep_oc import (embeddings, evaluate, heat_colours, oneclass,
                     report, tables)
from deep_oc.errors import InputError
from deep_oc.page import (
    charts,
    contamination,
    curves,
    heatmaps,
    markup,
    mistakes,
    protocols,
    results,
    runs,
    uniformity,
)
from deep_oc.scored import Request
from tests import forked

# What a data set may call a class.
NASTY = '</script><script>alert(1)</script><img src=x onerror=alert(2)>&"\''
META = {'experiment': 'dacl_shapes', 'dataset': 'shapes',
        'protocol': 'one_vs_rest', 'normal_class': 3, 'normal_name': NASTY,
        'seed': 0, 'pretext': 'dacl',
        'encoder': f'convnet(sd=[{1 / 3}, {1 / 3}, {1 / 3}])', 'step': 7,
        'checkpoint_rule': 'last', 'config_hash': 'abc'}
CLASS_NAMES = ['dot', 'bar', 'box', NASTY, 'ring', 'cup']
VOID = {'meta', 'img', 'input', 'br', 'wbr', 'image'}


def _split(seed, n, anomalous=0):
  random = np.random.default_rng(seed)
  anomaly = np.arange(n) < anomalous
  pool = random.normal(1, 0.5, (n, 6)).astype(np.float32)
  pool[anomaly, :3] -= 1
  return {'pool': pool, 'head': pool[:, :4] ** 2, 'random': pool[:, ::-1] + 1,
          'pixels': random.integers(0, 256, (n, 8 * 8 * 3), np.uint8),
          'label': np.where(anomaly, 5, 3).astype(np.int32),
          'anomaly': anomaly, 'index': np.arange(n) + 100}


def _maps(seed, n, anomalous):
  random = np.random.default_rng(seed)
  anomaly = np.arange(n) < anomalous
  mask = np.zeros((n, 16, 16), bool)
  mask[anomaly, 4:10, 3:12] = True
  heat = random.gamma(2, size=(n, 16, 16)) + 5 * mask
  return {'map_windows': heat.astype(np.float32), 'mask': mask,
          'image': random.integers(0, 256, (n, 16, 16, 3), np.uint8),
          'label': anomaly.astype(np.int32), 'anomaly': anomaly}


def _write(folder, seed=0, maps=False, evaluated=True, **meta):
  meta = META | meta
  embeddings.write(folder / 'embeddings/train.npz', _split(seed, 40), meta)
  embeddings.write(folder / 'embeddings/test.npz', _split(seed + 1, 30, 12),
                   meta | {'class_names': CLASS_NAMES})
  if maps:
    embeddings.write(
        folder / 'embeddings/maps.npz', _maps(seed, 30, 12), meta | {
            'class_names': ['good', NASTY], 'n_train': 40,
            'map_params': {'classifier': 'gde'}})
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps({
      'step': step, 'loss': 1 / step, 'uniformity': -step / 10,
      'accuracy': 0.5, 'turn_accuracy': step / 10, 'chance': 0.25}) + '\n'
                                               for step in range(1, 8)))
  (folder / 'config.json').write_text(json.dumps({
      'command': f'python -m deep_oc.train --config={NASTY}'}))
  if evaluated:
    evaluate.evaluate(folder, Request(['kde']))
  return folder


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Runs with and without DA, contaminated, with maps, not yet evaluated."""
  root = tmp_path_factory.mktemp('runs')
  _write(root / 'dacl')
  _write(root / 'dacl_4', 2, normal_class=4, normal_name='ring')
  _write(root / 'simclr', 3, pretext='simclr', experiment='simclr_shapes')
  _write(root / 'dirty', 4, protocol='contaminated_5%')
  _write(root / 'mapped', 5, maps=True, experiment='mapped',
         pretext='rotation')
  _write(root / 'new', 6, evaluated=False, experiment='new',
         pretext='rotation')
  return root


@pytest.fixture(scope='module')
def page(root):
  """The page, as bytes."""
  return report.page(report.find(str(root)), 'the command', details=9)


class _Parser(html.parser.HTMLParser):
  """Builds a tree as a browser would of a page without mistakes."""

  def __init__(self):
    super().__init__()
    self.builder = etree.TreeBuilder()
    self.open = []

  def handle_starttag(self, tag, attrs):
    self.builder.start(tag, {key: value or '' for key, value in attrs})
    self.open.append(tag)
    if tag in VOID - {'image'}:
      self.handle_endtag(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag
    self.builder.end(tag)

  def handle_data(self, data):
    if self.open:
      self.builder.data(data)


def _parse(page):
  parser = _Parser()
  parser.feed(page.decode())
  assert not parser.open
  return parser.builder.close()


@pytest.fixture(scope='module')
def tree(page):
  return _parse(page)


def _text(element):
  return ''.join(element.itertext())


def _find(tree, key):
  found, = (each for each in tree.iter() if each.get('id') == key)
  return found


def _table(tree, key):
  """Returns the header and the rows, cells as elements."""
  table = _find(tree, key)
  rows = [[cell for cell in row if cell.tag in ('th', 'td')]
          for row in table.iter('tr')]
  return [_text(cell) for cell in rows[0]], rows[1:]


def _value(cell):
  data = cell.find('.//data')
  return '' if data is None else data.get('value')


def test_the_page_asks_for_nothing_beside_itself(page, tree):
  assert b'http:' not in page and b'https:' not in page
  for element in tree.iter():
    for key in ('src', 'href', 'action', 'data'):
      assert element.get(key, '#').startswith(('#', 'data:image/'))
  style, = tree.iter('style')
  assert 'url(' not in style.text and '@import' not in style.text
  assert not list(tree.iter('link'))


def test_only_the_script_and_the_style_of_the_page_may_run(tree):
  policy, = (each.get('content') for each in tree.iter('meta')
             if each.get('http-equiv') == 'Content-Security-Policy')
  script, = tree.iter('script')
  style, = tree.iter('style')
  for name, text in ('script', script.text), ('style', style.text):
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{name}-src 'sha256-{digest}'" in policy
  assert "default-src 'none'" in policy and 'unsafe' not in policy
  assert not [each for each in tree.iter() if any(
      key == 'style' or key.startswith('on') for key in each.attrib)]


def test_the_name_of_a_class_is_text_whatever_it_is(tree):
  assert len(list(tree.iter('script'))) == 1
  assert all(each.get('src').startswith('data:') for each in tree.iter('img'))
  assert any(NASTY in (each.text or '') for each in tree.iter('h3'))
  told = [each.get('alt') or '' for each in tree.iter('img')]
  assert any(NASTY in each for each in told)
  assert any(each.endswith('anomalous, cup') for each in told)


@pytest.mark.parametrize('details', [9, 2])
def test_ids_are_unique_and_what_refers_to_one_finds_it(tree, root, details):
  if details < 9:
    tree = _parse(report.page(report.find(str(root)), 'command', details))
  keys = [each.get('id') for each in tree.iter() if each.get('id')]
  assert len(keys) == len(set(keys))
  wanted = []
  for each in tree.iter():
    for name in ('aria-labelledby', 'for', 'data-table', 'data-filter'):
      wanted += each.get(name, '').split()
    if each.get('href', '').startswith('#'):
      wanted.append(each.get('href')[1:])
    wanted += re.findall(r'url\(#(.*)\)', each.get('filter', ''))
  assert len(wanted) > 20
  assert sum(each.get('class') == 'run' for each in tree.iter()) == min(
      details, 6)
  assert set(wanted) <= set(keys)


def test_all_is_named_for_who_cannot_see_it(tree):
  assert tree.get('lang') == 'en'
  for name in ('main', 'nav', 'header', 'h1'):
    assert len(list(tree.iter(name))) == 1
  for table in tree.iter('table'):
    assert _text(table.find('caption'))
    assert {cell.get('scope') for cell in table.iter('th')} == {'row', 'col'}
  for picture in tree.iter('svg'):
    assert (picture.get('aria-hidden') == 'true'
            or picture.get('role') == 'img' and picture.find('title').text)
  assert all('alt' in each.attrib for each in tree.iter('img'))
  labels = {each.get('for') for each in tree.iter('label')}
  for each in tree.iter('input'):
    assert each.get('id') in labels or any(
        each in list(label) for label in tree.iter('label'))


def test_what_needs_a_script_is_hidden_until_there_is_one(tree):
  assert 'hidden' in _find(tree, 'theme').attrib
  for each in tree.iter():
    if each.get('class') in ('search', 'hands'):
      assert 'hidden' in each.attrib
  assert 'hidden' not in _find(tree, 'results').attrib


def test_the_numbers_of_a_run_are_those_of_its_results(root, tree):
  with open(root / 'dacl/results.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  header, shown = _table(tree, 'run1-results')
  assert len(shown) == len(rows) == 4
  for cells, row in zip(shown, rows, strict=True):
    for name in 'auroc', 'auprc', 'fpr95':
      cell = cells[header.index(name.upper())]
      assert _value(cell) == row[name]
      assert _text(cell) == f'{float(row[name]):.1f}'
    low, high = float(row['auroc_low']), float(row['auroc_high'])
    assert _text(cells[4]) == f'{low:.1f} to {high:.1f}'
    assert row['classifier_params'] == _text(cells[-1])


def test_the_summary_has_the_mean_over_classes(root, tree):
  with (open(root / 'dacl/results.csv', newline='') as a,
        open(root / 'dacl_4/results.csv', newline='') as b):
    values = {(feature, number): float(row['auroc'])
              for number, file in enumerate((a, b))
              for row in csv.DictReader(file)
              for feature in [row['feature']]}
  header, rows = _table(tree, 'overview')
  row, = (cells for cells in rows if _text(cells[0]) == 'dacl_shapes'
          and 'one_vs_rest' in map(_text, cells))
  for name, feature in (('AUROC', 'pool'), ('Untrained encoder', 'random'),
                        ('Pixels', 'pixels')):
    mean = (values[feature, 0] + values[feature, 1]) / 2
    shown = float(_value(row[header.index(name)]))
    assert shown == pytest.approx(mean, abs=6e-3)
  assert _text(row[header.index('Classes')]) == '2, complete'


def test_a_run_is_shown_by_what_it_was_evaluated_by_last(tmp_path):
  _write(tmp_path / 'run', evaluated=False)
  evaluate.evaluate(tmp_path / 'run', Request(['nn', 'knn(k=3)']))
  found = report.find(str(tmp_path / 'run'))
  assert found.runs[0].classifier == 'nn' and found.runs[0].row('pool')
  content = report.page(found, '').decode()
  assert not found.failures and 'scores of nn on pool' in content
  header, rows = _table(_parse(content.encode()), 'results')
  assert {_text(row[header.index('Class')]) for row in rows} == {
      found.runs[0].about['normal_name']}  # no mean of one class beside it
  [asked] = report.find(str(tmp_path / 'run'), classifier='kde').runs
  assert asked.classifier == 'kde'


def test_the_summary_counts_the_seeds_that_have_the_number(tmp_path):
  for seed, classifier in ((0, 'nn'), (1, 'kde'), (2, 'kde')):
    folder = _write(tmp_path / str(seed), seed, evaluated=False)
    evaluate.evaluate(folder, Request([classifier]))
    rows = tables.read(folder / 'results.csv')
    tables.write(folder / 'results.csv', tables.RESULTS,
                 [row | {'seed': str(seed)} for row in rows])
  found = report.find(str(tmp_path), classifier='kde')
  header, rows = _table(_parse(report.page(found, '')), 'overview')
  assert {_text(row[header.index('Seeds')]) for row in rows} == {'2'}


def test_the_overview_has_methods_with_runs_and_not_the_mean_of_data_sets():
  rows = [dict.fromkeys(tables.RESULTS, '') | {
      'experiment': f'dacl_{dataset}', 'dataset': dataset, 'auroc': '80',
      'normal_class': '0', 'feature': 'pool', 'classifier': 'kde',
      'level': 'image'} for dataset in ('cifar10', 'fashion_mnist')]
  lines = tables.summarize(rows)
  assert {line['dataset'] for line in lines} > {'all'}
  found = [runs.Run(f'run{i}', None, [row], 'kde', 'pool')
           for i, row in enumerate(rows)]
  header, cells = _table(results._overview(lines, found), 'overview')
  assert [_text(row[header.index('Data')]) for row in cells] == [
      'cifar10', 'fashion_mnist']


def test_heat_maps_have_both_their_intervals():
  row = dict.fromkeys(tables.RESULTS, '') | {
      'level': 'pixel', 'feature': 'windows', 'auroc': '97.04',
      'auroc_low': '95.01', 'auroc_high': '98.06', 'aupro': '88.04',
      'aupro_low': '86.01', 'aupro_high': '90.06'}
  wanted = {'AUROC': ['97.0', '95.0 to 98.1'],
            'AUPRO': ['88.0', '86.0 to 90.1']}
  for table, made in (
      ('results', results._everything(tables.summarize([row]))),
      ('run1-results', protocols.numbers(
          runs.Run('run1', None, [row], '', 'windows')))):
    header, (cells, *_) = _table(made, table)
    for name, shown in wanted.items():
      at = header.index(name)
      assert [_text(cell) for cell in cells[at:at + 2]] == shown


@pytest.mark.parametrize('meta, classifier, shown', [
    (dict(dataset='mvtec_ad/bottle', pretext='cutpaste_3way'),
     'gde_ledoit_wolf', '98.3 ± 0.5 SE'),
    (dict(dataset='cifar10', pretext='rotation'), 'kde', '78.3 ± 1.0')])
def test_the_papers_spread_says_where_it_is_a_standard_error(
    tmp_path, meta, classifier, shown):
  folder = _write(tmp_path / 'run', evaluated=False, **meta)
  evaluate.evaluate(folder, Request([classifier]))
  found = report.find(str(folder))
  for table in ('overview', 'results'):
    header, rows = _table(_parse(report.page(found, '')), table)
    papers = {_text(row[header.index('Paper')]) for row in rows}
    assert shown in papers and not any('None' in each for each in papers)
    assert 'Gap' in header


def test_beside_false_alarms_stands_what_calibrates_them(tree, tmp_path):
  _write(tmp_path / 'run', evaluated=False)
  evaluate.evaluate(tmp_path / 'run', Request(['kde'], ['pool'],
                                              false_alarm_rate=0.1))
  row, = tables.read(tmp_path / 'run/results.csv')
  # As images that nothing has learnt from would have it.
  row |= {'false_alarms_low': '3.04', 'false_alarms_high': '17.26'}
  tables.write(tmp_path / 'run/results.csv', tables.RESULTS, [row])
  page = _parse(report.page(report.find(str(tmp_path / 'run')), ''))
  header, rows = _table(page, 'results')
  at = header.index('calibration')
  assert header[at - 2:at] == ['false alarms', 'detected']
  for cells in rows:
    assert _value(cells[at - 2]) == row['false_alarms']
    assert _text(cells[at]) == row['calibration'] == 'folds_5'
  header, (cells,) = _table(page, 'run1-results')
  at = header.index('calibration')
  assert header[at - 4:at] == [
      'false alarms asked for', 'found', '95 %', 'detected']
  assert [_text(each) for each in cells[at - 4:at + 1]] == [
      '10.0', f"{float(row['false_alarms']):.1f}", '3.0 to 17.3',
      f"{float(row['detected']):.1f}", 'folds_5']
  for name in ('results', 'run1-results'):
    assert 'calibration' not in _table(tree, name)[0]


def _places(tree, key):
  """Returns the polylines of a plot by style, and a map from values in percent
  to its pixels, read off its grid."""
  plot = _find(tree, key)
  grid, = (each.get('d') for each in plot.iter('path')
           if each.get('class') == 'grid')
  xs = [float(x) for x in re.findall(r'M([\d.]+) [\d.]+V', grid)]
  ys = [float(y) for y in re.findall(r'M[\d.]+ ([\d.]+)H', grid)]
  lines = {each.get('class'): [tuple(map(float, point.split(',')))
                               for point in each.get('points').split()]
           for each in list(plot.iter('polyline'))[::-1]}

  def place(x, y):
    return (xs[0] + x * (xs[-1] - xs[0]), ys[0] + y * (ys[-1] - ys[0]))
  return lines, place


def test_the_roc_curve_is_that_of_sklearn(root, tree):
  train, test, _ = embeddings.read_run(root / 'dacl')
  lines, place = _places(tree, 'run1-roc')
  plot = _find(tree, 'run1-roc')
  for feature, style in ('pool', 'trained'), ('random', 'random'):
    score = oneclass.anomaly_score(oneclass.fit('kde', train[feature]),
                                   test[feature])
    false, true, _ = sklearn_metrics.roc_curve(test['anomaly'], score)
    points = [each.get('points') for each in plot.iter('polyline')
              if each.get('class') == f'line {style}'][0]
    drawn = [tuple(map(float, each.split(','))) for each in points.split()]
    assert len(drawn) == len(false) > 3
    np.testing.assert_allclose(drawn, np.stack(place(false, true), axis=1),
                               atol=0.06)
  assert 'line chance' in lines


def test_scores_that_nothing_is_fitted_for_have_a_page_too(tmp_path):
  folder = _write(tmp_path / 'run', 5, maps=True, evaluated=False)
  arrays, meta = embeddings.read_maps(folder)
  arrays['map_random_windows'] = arrays['map_windows'][:, ::-1] ** 2
  embeddings.write(folder / 'embeddings/maps.npz', arrays, meta)
  test, meta = embeddings.read(folder / 'embeddings/test.npz')
  test['score_upright'] = test['pool'][:, 0]
  embeddings.write(folder / 'embeddings/test.npz', test, meta)
  heat = arrays['map_windows'].max(axis=(1, 2))
  for feature, classifier, wanted in (
      ('windows', 'gde', {'windows': heat,
                          'random': (heat ** 2).astype(np.float32)}),
      ('score', 'upright', {'score': test['pool'][:, 0]})):
    [run] = report.find(str(folder), feature).runs
    assert (run.feature, run.classifier) == (feature, classifier)
    scores = runs.read(run).scores
    assert [*scores] == [*wanted]
    for name, score in scores.items():
      np.testing.assert_allclose(score, wanted[name], rtol=1e-6)
    found = report.find(str(folder), feature)
    content = report.page(found, '').decode()
    area = sklearn_metrics.roc_auc_score(test['anomaly'], wanted[feature])
    shown = float(f'{100 * area:.2f}')
    assert not found.failures and f'AUROC {shown:.1f} %' in content
    assert 'whose pool feature is nearest' in content
  row = runs.read(run).run.row(run.feature)
  assert row['auroc'] == f'{100 * area:.2f}'


@pytest.mark.parametrize('maps, classifier, feature, wanted', [
    (True, None, 'windows', 'gde'), (False, None, 'pool', 'kde'),
    (True, 'kde', 'pool', 'kde')])
def test_heat_maps_are_shown_where_nothing_was_trained_unless_told_otherwise(
    tmp_path, maps, classifier, feature, wanted):
  folder = _write(tmp_path / 'run', 5, maps=maps, task='frozen')
  [run] = report.find(str(folder), classifier=classifier).runs
  assert (run.feature, run.classifier) == (feature, wanted)


def test_nothing_is_called_trained_where_nothing_was(tree, tmp_path):
  folder = _write(tmp_path / 'run', 5, maps=True, task='frozen')
  (folder / 'metrics.jsonl').write_text('{"step": 1, "loss": 0.0}\n')
  other = _parse(report.page(report.find(str(folder)), ''))
  for page, words in (tree, 'trained'), (other, 'encoder as given'):
    header, rows = _table(page, 'results')
    kinds = {_text(row[header.index('Feature')]): _text(
        row[header.index('Kind')]) for row in rows}
    assert kinds['pool'] == kinds['windows'] == words
    assert kinds['random'] == 'baseline: untrained'
  assert 'trained, pool' in _text(_find(tree, 'run1-roc'))
  told = _text(_find(other, 'run1'))
  assert 'gde on windows; nothing was trained. How' in told
  assert 'windows' in _text(_find(other, 'run1-roc'))
  assert 'trained, ' not in told and 'training curves' not in told


@pytest.mark.parametrize('name, feature, words', [
    ('dacl', 'windows', "dacl/results.csv 'windows'; known: pool, head, "
     'random, pixels'),
    ('mapped', 'score', "mapped/results.csv 'score'; known: pool, head, "
     'random, pixels, windows'),
    ('dacl', 'zzz', "dacl 'zzz'; known: pool, head, random, pixels"),
    ('mapped', 'zzz', "mapped 'zzz'; known: pool, head, random, pixels, "
     'windows')])
def test_a_feature_that_a_run_has_not_is_left_out_and_those_it_has_are_told(
    root, name, feature, words):
  [failure] = report.find(str(root / name), feature).failures
  assert str(failure) == f'unknown feature in {root}/{words}'


def test_another_classifier_than_that_of_the_maps_is_left_out(root):
  [failure] = report.find(str(root / 'mapped'), 'windows', 'kde').failures
  assert re.search("'windows' .* 'kde'; did you mean 'gde'", str(failure))


def test_what_is_flagged_does_not_hang_on_the_corners_of_the_curve():
  """Of a level there is a normal and an anomaly each: all lies on a line."""
  score, anomaly = np.arange(200) // 2, np.arange(200) % 2 == 0
  for rate in 1, 20, 50:
    assert curves.detected(score, anomaly, rate) == pytest.approx(rate)


def test_training_curves_show_what_was_logged(tree):
  header, rows = _table(tree, 'run1-loss-numbers')
  assert header == ['Step', 'loss']
  np.testing.assert_allclose(
      [[float(_text(cell)) for cell in row] for row in rows],
      [[step, 1 / step] for step in range(1, 8)], rtol=1e-4)
  header, rows = _table(tree, 'run1-turn_accuracy-numbers')
  assert header == ['Step', 'accuracy of the turn, %']
  assert [float(_text(row[1])) for row in rows] == [
      10 * step for step in range(1, 8)]
  assert 'guessing, dashed, has 25' in _text(
      next(each for each in tree.iter('figure')
           if each[0].get('id') == 'run1-accuracy'))


def test_one_point_is_no_training_curve(tmp_path):
  folder = _write(tmp_path / 'run')
  (folder / 'metrics.jsonl').write_text(
      '{"step": 1, "loss": 2}\n{"step": 2, "loss": 1, "accuracy": 0.5}\n')
  found = report.find(str(folder))
  figure, = curves.training(found.runs[0])
  assert figure[0].get('id') == 'run1-loss'
  (folder / 'metrics.jsonl').write_text('{"step": 1, "loss": 2}\n')
  assert not curves.training(found.runs[0])
  assert 'No training curves' in report.page(found, '').decode()


def test_the_last_step_is_on_a_training_curve_of_too_many(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(''.join(
      f'{{"step": {step}, "loss": 1}}\n' for step in range(1, 1000)))
  run = runs.Run('run1', tmp_path, [META], 'kde', 'pool')
  figure, = curves.training(run)
  _, rows = _table(figure, 'run1-loss-numbers')
  shown = [int(_text(row[0])) for row in rows]
  assert shown == list(range(3, 1000, 4))


def test_histograms_add_up_to_all_images(tree):
  _, rows = _table(tree, 'run1-scores-numbers')
  total = np.array([[float(_value(cell)) for cell in row[1:]]
                    for row in rows]).sum(axis=0)
  np.testing.assert_allclose(total, 100, atol=0.2)


def test_the_surest_mistakes_come_first():
  score, anomaly = np.arange(32.)[::-1], np.arange(32) % 2 == 0
  alarms, misses, best, normal = mistakes.choose(score, anomaly).values()
  assert alarms.tolist() == [1, 3, 5, 7, 9, 11]
  assert misses.tolist() == [30, 28, 26, 24, 22, 20]
  assert best.tolist() == [0, 2, 4, 6, 8, 10]
  assert normal.tolist() == [31, 29, 27, 25, 23, 21]


def test_no_image_of_a_few_is_shown_twice():
  found = mistakes.choose(np.array([5., 1, 4, 2, 3, 0, 7, 8, 9, 6]),
                          np.array([0, 1, 0, 1, 1, 0, 1, 1, 1, 1]) == 1)
  assert {title: group.tolist() for title, group in found.items()} == {
      'Normal images that score highest': [0, 2, 5],
      'Anomalies that score lowest': [1, 3, 4, 9, 6, 7],
      'Anomalies that score highest': [8]}


def test_pictures_are_the_test_images_and_their_nearest_neighbours(
    root, tree):
  train, test, _ = embeddings.read_run(root / 'dacl')
  score = oneclass.anomaly_score(oneclass.fit('kde', train['pool']),
                                 test['pool'])
  i = np.argmax(np.where(test['anomaly'], -np.inf, score))
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True)
          for x in (train['pool'], test['pool'])]
  near = np.argmax(unit[0] @ unit[1][i])
  first = next(each for each in tree.iter('li') if each.find('img') is not None)
  shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(
      each.get('src').partition(',')[2])))) for each in first.iter('img')]
  for picture, flat in zip(shown, (test['pixels'][i], train['pixels'][near]),
                           strict=True):
    np.testing.assert_array_equal(picture, flat.reshape(8, 8, 3))
  lower = 100 * (score[test['anomaly']] < score[i]).mean()
  assert f'({lower:.1f}\N{NO-BREAK SPACE}%)' in _text(first)
  assert f'test image {i + 100}' in _text(first)


@pytest.mark.parametrize('shape, small', [
    ((64, 256), (8, 32)), ((90, 200), (12, 28)), ((30, 20), (30, 20))])
def test_small_pictures_are_of_the_shape_of_the_images(
    tmp_path, monkeypatch, shape, small):
  split = _split
  image = np.random.default_rng(0).integers(
      0, 256, (30, *shape, 3), np.uint8)
  monkeypatch.setitem(globals(), '_split', lambda seed, n, *anomalous: split(
      seed, n, *anomalous) | {'pixels': embeddings.pixels(
          np.resize(image, (n, *shape, 3)))})
  folder = _write(tmp_path / 'wide', image_shape=[*shape, 3])
  scored = runs.read(report.find(str(folder)).runs[0])
  found = scored.image(1)
  assert found.shape == (*small, 3)
  side = shape[0] // small[0]
  np.testing.assert_array_equal(
      found[2, 3], image[1, 2 * side:3 * side, 3 * side:4 * side].mean(
          (0, 1)).round())
  assert all(len(item.findall('img')) == 2 for item in mistakes.gallery(
      scored)[2])  # a mistake and what is nearest


def test_grey_images_are_small_and_photographs_are_jpegs():
  grey = np.repeat(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32, 1), 3, 2)
  found = Image.open(io.BytesIO(base64.b64decode(
      markup.data_uri(grey).partition(',')[2])))
  assert found.mode == 'L' and found.format == 'PNG'
  np.testing.assert_array_equal(found, grey[..., 0])
  photograph = np.random.default_rng(0).integers(0, 256, (300, 200, 3),
                                                 np.uint8)
  found = Image.open(io.BytesIO(base64.b64decode(
      markup.data_uri(photograph, 128).partition(',')[2])))
  assert found.format == 'JPEG' and found.size == (85, 128)


@pytest.mark.parametrize('knee', [np.inf, 0.7])
def test_levels_stand_for_the_scores_they_are_made_of(knee):
  limits = heat_colours.Scale(-2., 9., knee)
  values = np.linspace(-2, 9, 500).reshape(1, 20, 25)
  level = heatmaps.levels(values, limits)
  assert level.min() == 0 and level.max() == 255
  steps = np.diff(heatmaps.score_of(np.arange(256), limits))
  assert (steps > 0).all()
  back = heatmaps.score_of(level, limits)
  assert np.abs(back - values).max() <= steps.max() / 2 + 1e-9


def test_the_threshold_tells_how_much_is_above_it(root, tree):
  maps, _ = embeddings.read_maps(root / 'mapped')
  limits = heat_colours.scale(maps['map_windows'], maps['anomaly'])
  box, = (each for each in tree.iter() if each.get('class') == 'slider')
  told = json.loads(box.get('data-told'))
  share = 255 * limits.share(maps['map_windows'])
  for level in (0, 40, 255):
    above = share >= level - 0.5
    score, normal, abnormal = map(float, re.findall(
        r'-?\d[\d.e+-]*', told[level]))
    assert normal == pytest.approx(100 * above[~maps['anomaly']].mean(),
                                   abs=0.06)
    assert abnormal == pytest.approx(100 * above[maps['mask']].mean(),
                                     abs=0.06)
  slider, = (each for each in box.iter('input'))
  start = int(slider.get('value'))
  normal = share[~maps['anomaly']]
  assert (normal >= start - 0.5).mean() <= 0.01
  assert (normal >= start - 1.5).mean() > 0.01 or start == 255
  assert _text(box.find('output')) == told[start]


def test_maps_without_images_have_a_sentence_instead(root):
  scored = _scored(root, 'mapped')
  maps = {name: x for name, x in scored.maps.items() if name != 'image'}
  said, = heatmaps.gallery(dataclasses.replace(scored, maps=maps))
  assert "No array 'image' in maps.npz" in _text(said)
  maps = {name: x for name, x in maps.items() if name != 'map_windows'}
  assert not heatmaps.gallery(dataclasses.replace(scored, maps=maps))
  maps['map_random_windows'] = scored.maps['map_windows']  # a baseline's
  assert not heatmaps.gallery(dataclasses.replace(scored, maps=maps))


def test_a_mask_of_0_and_255_is_one_of_true_and_false(root):
  scored = _scored(root, 'mapped')
  maps = scored.maps | {'mask': 255 * scored.maps['mask'].astype(np.uint8)}
  found, wanted = (
      [etree.tostring(each) for each in heatmaps.gallery(one)]
      for one in (dataclasses.replace(scored, maps=maps), scored))
  assert found == wanted


def test_the_filter_cuts_between_two_levels(tree):
  cut, = (each for each in tree.iter('fefunca'))
  slider, = (each for each in tree.iter('input') if each.get('type') == 'range')
  level = np.arange(256) / 255
  alpha = np.clip(float(cut.get('slope')) * level +
                  float(cut.get('intercept')), 0, 1)
  np.testing.assert_allclose(alpha, np.arange(256) >= int(slider.get('value')),
                             atol=1e-9)


def test_the_outline_encloses_the_mask():
  mask = np.zeros((40, 50), bool)
  mask[10:25, 5:30] = True
  mask[30:, 40:] = True  # at the border of the image
  canvas = Image.new('1', (500, 400))
  for part in heatmaps.outline(mask).split('M')[1:]:
    points = [tuple(10 * float(x) for x in point.split())
              for point in part.rstrip('Z').split('L')]
    ImageDraw.Draw(canvas).polygon(points, fill=1)
  inside = np.asarray(canvas)[5::10, 5::10]  # at the centres of the pixels
  np.testing.assert_array_equal(inside, mask)


def _scored(root, name):
  found = report.find(str(root / name))
  return runs.read(found.runs[0])


def test_the_view_of_features_is_their_shadow_on_two_directions(root):
  scored = _scored(root, 'dacl')
  seen = uniformity.view(scored, 'pool')
  unit = scored.train['pool'].astype(float)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  mean = unit.mean(axis=0) / np.linalg.norm(unit.mean(axis=0))
  np.testing.assert_allclose(np.sort(seen.train[:, 0]), np.sort(unit @ mean))
  for part in seen[:3]:
    assert (np.linalg.norm(part, axis=1) <= 1 + 1e-9).all()
  gram = unit @ unit.T
  different = ~np.eye(len(unit), dtype=bool)
  assert seen.uniformity == pytest.approx(
      np.log(np.exp(-2 * (2 - 2 * gram))[different].mean()))
  np.testing.assert_allclose(seen.together.mean(), gram[different].mean())
  assert seen.apart.mean() < seen.together.mean()


def test_points_spread_evenly_have_uniformity_near_minus_four():
  random = np.random.default_rng(0)
  pool = random.normal(size=(300, 100))
  run = runs.Run('run1', None, [META], 'kde', 'pool')
  scored = runs.ScoredRun(run, {'pool': pool}, {
      'pool': pool[:100], 'anomaly': np.arange(100) < 50}, {}, {})
  seen = uniformity.view(scored, 'pool')
  assert seen.uniformity == pytest.approx(-4 + 8 / 100, abs=0.02)


def test_runs_with_and_without_da_stand_side_by_side(tree):
  section = _find(tree, 'uniformity')
  header, rows = _table(tree, 'da0-pool-table')
  assert [_text(row[0]).split()[0] for row in rows] == ['without', 'with']
  assert len([each for each in section.iter('svg')
              if each.get('role') == 'img']) == 8
  found = {_text(cells[0]): _value(cells[2]) for cells in
           _table(tree, 'overview')[1]}
  assert found['simclr_shapes'] == _value(rows[0][header.index('AUROC')])


def test_a_missing_side_of_da_is_said(root):
  found = report.find(str(root / 'simclr'))
  section = uniformity.section(found.runs)
  assert 'Only one side is here: a run of dacl, with DA' in _text(section)


def _run(protocol, name, auroc, seed=0):
  row = dict.fromkeys(META, '') | {
      'experiment': 'dacl', 'dataset': 'shapes', 'protocol': protocol,
      'normal_class': name, 'normal_name': '', 'feature': 'pool',
      'classifier': 'kde', 'level': 'image', 'auroc': str(auroc),
      'seed': str(seed)}
  return runs.Run(f'run{name}{protocol}', None, [row], 'kde', 'pool')


def test_contamination_curves_average_classes_that_every_share_has():
  found = [_run('one_vs_rest', '0', 90), _run('one_vs_rest', '0', 94, 1),
           _run('contaminated_5%', '0', 80), _run('one_vs_rest', '1', 70),
           _run('contaminated_5%', '1', 60), _run('one_vs_rest', '2', 10),
           _run('semi_supervised_5%_50', '2', 99)]
  (method, classes), = contamination.curves(found).items()
  assert method == 'dacl, shapes'
  assert classes == {'0': {0.: 92., 5.: 80.}, '1': {0.: 70., 5.: 60.}}
  section = contamination.section(found)
  means = [cell.get('value') for row in section.iter('tr')
           if 'mean of 2' in _text(row) for cell in row.iter('data')]
  assert means == ['81.00', '70.00']


@pytest.mark.parametrize('protocol', ['one_vs_rest', 'contaminated_5%'])
def test_one_share_of_contamination_is_no_curve(protocol):
  assert contamination.section([_run(protocol, '0', 90)]) is None


def test_lines_are_named_by_what_tells_them_apart():
  assert contamination.short_names(['a_b_dacl', 'a_b_dae']) == ['dacl', 'dae']
  assert contamination.short_names(['a_b', 'c_d']) == ['a_b', 'c_d']
  assert contamination.short_names(['a_b']) == ['a_b']


def test_what_has_nothing_to_show_is_left_out(root, tree):
  tree_of_one = _parse(report.page(report.find(str(root / 'mapped')), ''))
  for page, words in (tree, ('Uniformity', 'Contamination', 'Protocol')), (
      tree_of_one, ('Protocol',)):
    sections = [each.get('id') for each in page.iter('section')]
    links = [_text(each) for each in next(page.iter('nav')).iter('li')]
    assert links == ['Summary', 'Runs', *words]
    assert sections == list(map(str.lower, links))
  for key in 'overview', 'results':
    header, _ = _table(tree_of_one, key)
    assert not {'Paper', 'Gap'} & {*header}
  assert 'the paper' not in _text(tree_of_one)
  assert 'means over classes only' not in _text(tree_of_one)
  assert 'means over classes only' in _text(tree)


def test_runs_without_results_are_evaluated_and_the_page_says_so(tree, root):
  said, = (_text(each) for each in tree.iter('p')
           if _text(each).startswith('Evaluated for this page'))
  assert said.endswith(str(root / 'new'))
  assert (root / 'new/results.csv').exists()


def test_every_run_has_its_protocol(tree):
  header, rows = _table(tree, 'protocol-runs')
  by_folder = {_text(row[1]).rpartition('/')[2]: dict(
      zip(header, map(_text, row), strict=True)) for row in rows}
  assert len(by_folder) == 6
  dirty = by_folder['dirty']
  assert dirty['Protocol'] == 'contaminated_5%'
  assert 'hidden from encoder and classifier' in dirty[
      'Labels of training images were used']
  assert dirty['Encoder'] == 'convnet(sd=0.333)'
  assert dirty['Checkpoint rule'] == 'last' and dirty['Fitted to'] == '40'
  assert 'the command' in _text(next(tree.iter('header')))


def test_every_run_in_full_names_its_commands(tree, root):
  command = f'python -m deep_oc.train --config={NASTY}'
  shown = [each for each in tree.iter('details')
           if 'run' in (each.get('class') or '').split()]
  assert len(shown) == 6
  for each in shown:
    assert command in map(_text, each.iter('code'))


def test_details_are_shared_among_experiments():
  found = [_run(protocol, str(i), 90) for i in range(4)
           for protocol in ('one_vs_rest', 'contaminated_5%')]
  other = _run('one_vs_rest', '9', 90)
  other.rows[0]['experiment'] = 'simclr'
  kept = report.choose([*found, other], 3)
  assert [(run.about['experiment'], run.about['normal_class'])
          for run in kept] == [('dacl', '0'), ('dacl', '1'), ('simclr', '9')]
  assert all(run.about['protocol'] == 'one_vs_rest' for run in kept)


def test_results_of_another_training_are_refused(root, tmp_path):
  shutil.copytree(root / 'dacl', tmp_path / 'run')
  embeddings.write(tmp_path / 'run/embeddings/train.npz', _split(0, 40),
                   META | {'step': 8})
  shutil.copytree(root / 'dacl_4', tmp_path / 'right')
  found = report.find(str(tmp_path))
  assert [run.workdir for run in found.runs] == [tmp_path / 'right']
  assert {row['run'] for row in found.rows} == {str(tmp_path / 'right')}
  assert "its step is '7', not '8'; evaluate again" in str(found.failures[0])


def test_a_run_without_a_number_for_a_seed_has_scores(root):
  run, = report.find(str(root / 'dacl')).runs
  rows = [row | {'seed': 'best'} for row in run.rows]
  assert len(runs.read(dataclasses.replace(run, rows=rows)).score) == 30


def test_axes_hold_all_values_and_have_round_ticks():
  for values in ([0.13, 0.87], [3.], [-1e5, 2e5], [0.98, 0.99]):
    axis = charts.axis('x', values)
    assert axis.ticks[0] <= min(values) and axis.ticks[-1] >= max(values)
    steps = np.diff(axis.ticks)
    np.testing.assert_allclose(steps, steps[0])
    assert 2 <= len(axis.ticks) <= 8


def test_labels_at_the_ends_of_lines_do_not_overlap():
  frame = charts.Frame(charts.Axis('x', [0, 1]), charts.Axis('y', [0, 1]))
  found = charts.end_labels(frame, [(1, 0.5, 'a', 'c0'), (1, 0.51, 'b', 'c1'),
                                    (1, 0.49, 'c', 'c2')])
  heights = [float(each.get('y')) for each in found]
  assert [each.text for each in found] == ['b', 'a', 'c']
  assert (np.diff(heights) >= 12).all()


def _main(*args, cwd):
  return forked.run('deep_oc.report', *args, cwd=cwd, timeout=120)


def test_the_command_writes_what_it_can_and_names_what_it_cannot(
    root, tmp_path):
  shutil.copytree(root / 'dacl', tmp_path / 'runs/dacl')
  broken = shutil.copytree(root / 'simclr', tmp_path / 'runs/simclr')
  (broken / 'embeddings/test.npz').write_bytes(b'PK')
  done = _main('--runs=runs/**', cwd=tmp_path)
  error = done.stderr.splitlines()[-1]
  assert done.returncode == 2 and error.startswith('error: 1 left out')
  assert 'test.npz is not a readable' in error
  assert 'wrote runs/report.html: 2 runs' in done.stdout
  text = _text(_parse((tmp_path / 'runs/report.html').read_bytes()))
  assert "python -m deep_oc.report '--runs=runs/**'" in text
  assert 'test.npz is not a readable' in text


@pytest.mark.parametrize('flag, words', [
    ('--runs=nowhere', "no run at 'nowhere'"),
    ('--classifier=kde,nn', 'the plots show one'),
    ('--feature=poll', "did you mean 'pool'?")])
def test_bad_input_is_one_line(root, flag, words, capsys, monkeypatch):
  chosen = {'runs': str(root / 'dacl'), 'classifier': None, 'feature': 'pool',
            'limit': 100, 'details': 1, 'output': None}
  name, _, value = flag.removeprefix('--').partition('=')
  monkeypatch.setattr(report.flags, 'FLAGS', type(
      'Flags', (), chosen | {name: value}))
  with pytest.raises(InputError, match=re.escape(words)):
    report.main()


def test_the_report_needs_no_jax(root):
  code = ('import sys; from deep_oc import report; '
          f'report.page(report.find({str(root / "dacl")!r}), "command"); '
          "print([m for m in ('jax', 'flax', 'optax') if m in sys.modules])")
  assert subprocess.check_output([sys.executable, '-c', code],
                                 text=True).strip() == '[]'


def _open(browser, page, path, **options):
  """Returns the page in a browser, what went wrong, and what it asked for."""
  path.write_bytes(page)
  view = browser.new_context(**options).new_page()
  wrong, asked = [], []
  view.on('console', lambda message: wrong.append(message.text))
  view.on('pageerror', lambda error: wrong.append(str(error)))
  view.on('dialog', lambda dialog: wrong.append(dialog.message))
  view.on('request', lambda request: asked.append(request.url))
  view.goto(path.as_uri())
  assert asked.pop(0) == path.as_uri()
  assert all(url.startswith('data:image/') for url in asked)
  asked.clear()  # what comes later is wrong as well
  return view, wrong, asked


_SHOWN = """key => [...document.getElementById(key).tBodies[0].rows]
    .filter(row => row.getClientRects().length)
    .map(row => [...row.cells].map(cell => cell.textContent))"""


@pytest.mark.slow
def test_a_browser_sorts_and_searches(browser, page, tmp_path):
  view, wrong, asked = _open(browser, page, tmp_path / 'report.html')
  everything = view.evaluate(_SHOWN, 'results')
  column = view.locator('#results thead th').all_inner_texts().index('AUROC')
  heading = view.locator('#results thead th').nth(column)
  for order in 'ascending', 'descending':
    heading.locator('button').focus()
    view.keyboard.press('Enter')
    assert heading.get_attribute('aria-sort') == order
    values = [float(row[column]) for row in view.evaluate(_SHOWN, 'results')]
    assert values == sorted(values, reverse=order == 'descending')
    assert len(values) == len(everything)
  view.get_by_label('Search').fill('SIMCLR untrained')
  kept = view.evaluate(_SHOWN, 'results')
  assert kept and sorted(kept) == sorted(
      row for row in everything
      if 'simclr' in ' '.join(row) and 'untrained' in ' '.join(row))
  assert f'{len(kept)} of {len(everything)} rows' in view.locator(
      '.search').inner_text()
  view.get_by_label('Search').fill('')
  view.get_by_label('means over classes only').check()
  assert {row[2] for row in view.evaluate(_SHOWN, 'results')} == {'mean'}
  assert not wrong and not asked


@pytest.mark.slow
@pytest.mark.parametrize('width', [1000, 390])
def test_a_browser_shows_wide_pictures_as_wide_as_others(
    browser, tmp_path, width):
  pictures = [mistakes._picture(np.zeros((*shape, 3), np.uint8), '', style)
              for shape in ((16, 16), (16, 32)) for style in ('whole', 'near')]
  page = markup.document('', {'a': markup.tag('section', markup.tag(
      'ul', [markup.tag('li', each) for each in pictures], class_='pictures'),
      id='a')})
  view, wrong, _ = _open(browser, page, tmp_path / 'a.html',
                         viewport={'width': width, 'height': 800})
  boxes = [each.bounding_box() for each in view.locator('img').all()]
  for box, wide in zip(boxes[:2], boxes[2:], strict=True):
    assert box['height'] == pytest.approx(box['width'])
    assert wide['width'] == pytest.approx(box['width'])
    assert wide['height'] == pytest.approx(box['height'] / 2)
  assert not wrong


@pytest.mark.slow
def test_a_browser_shows_what_is_above_the_threshold(
    browser, page, root, tmp_path):
  view, wrong, _ = _open(browser, page, tmp_path / 'report.html')
  view.evaluate("document.querySelectorAll('details').forEach("
                'each => each.open = true)')
  slider = view.locator('input[type=range]')
  heat = view.locator('.gallery svg').first
  # The input away, what is left is the map where it is above the threshold.
  view.evaluate("document.querySelectorAll('.gallery svg').forEach(each => {"
                "each.style.background = '#00ff00'; each.style.width = '160px';"
                "each.querySelector('image').remove();"
                "each.querySelectorAll('path').forEach(path => path.remove());"
                "each.querySelector('.heat').style.imageRendering ="
                "'pixelated'; each.querySelector('.heat').style.opacity = 1})")
  maps, _ = embeddings.read_maps(root / 'mapped')
  level = 255 * heat_colours.scale(maps['map_windows'], maps['anomaly']).share(
      maps['map_windows'][np.argmax(maps['map_windows'].max(axis=(1, 2)))])
  for value in (30, 120, 250):
    slider.fill(str(value))
    told = slider.get_attribute('aria-valuetext')
    assert told == view.locator('.slider output').inner_text()
    picture = np.asarray(Image.open(io.BytesIO(heat.screenshot())).convert(
        'RGB').resize((16, 16), Image.Resampling.NEAREST))
    shown = (picture != [0, 255, 0]).any(axis=-1)
    np.testing.assert_array_equal(shown, np.rint(level) >= value)
  slider.focus()
  view.keyboard.press('ArrowLeft')
  assert slider.input_value() == '249'
  assert slider.get_attribute('aria-valuetext') != told
  assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize('scheme, other', [('dark', 'light'),
                                           ('light', 'dark')])
def test_a_browser_follows_its_theme_and_the_button(
    browser, page, tmp_path, scheme, other):
  view, wrong, _ = _open(browser, page, tmp_path / 'report.html',
                         color_scheme=scheme)

  def luminance():
    colour = view.evaluate('getComputedStyle(document.body).backgroundColor')
    return sum(map(int, re.findall(r'\d+', colour)))
  first = luminance()
  assert (first < 150) == (scheme == 'dark')
  view.get_by_role('button', name='Dark or light').click()
  assert (luminance() < 150) == (other == 'dark')
  view.get_by_role('button', name='Dark or light').click()
  assert luminance() == first and not wrong


@pytest.mark.slow
@pytest.mark.parametrize('script', [True, False])
def test_on_a_phone_only_tables_scroll_sideways(browser, page, tmp_path,
                                                script):
  view, wrong, asked = _open(
      browser, page, tmp_path / 'report.html', java_script_enabled=script,
      viewport={'width': 390, 'height': 844}, is_mobile=True)
  if script:
    view.evaluate("document.querySelectorAll('details').forEach("
                  'each => each.open = true)')
    assert view.evaluate('document.documentElement.scrollWidth') == 390
  assert view.locator('#results tbody tr').first.is_visible()
  assert view.locator('.search').is_visible() == script
  assert not wrong and not asked
