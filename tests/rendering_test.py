"""The tables that people read hold the numbers of the summary."""
import re

import pytest

from deep_oc import rendering, tables

_NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
          'horse', 'ship', 'truck')


def _row(normal_class='0', seed='0', auroc='90.00', **kwargs):
  return dict.fromkeys(tables.RESULTS, '') | {
      'experiment': 'rotation_cifar10', 'dataset': 'cifar10',
      'protocol': 'one_vs_rest', 'pretext': 'rotation', 'encoder': 'resnet18',
      'feature': 'pool', 'classifier': 'kde', 'level': 'image',
      'normal_class': normal_class, 'normal_name': _NAMES[int(normal_class)],
      'seed': seed, 'auroc': auroc, 'auroc_low': '89.00',
      'auroc_high': '91.00', 'run': f'{normal_class}/{seed}'} | kwargs


def _sweep(classes=10, seeds=2, **kwargs):
  return [_row(str(c), str(seed), f'{90 + c / 10 + seed:.2f}', **kwargs)
          for c in range(classes) for seed in range(seeds)]


def _markdown(rows):
  """Returns the tables as lists of rows of cells, by their titles."""
  found = {}
  for block in rendering.markdown(tables.summarize(rows)).split('## ')[1:]:
    title, *lines = block.splitlines()
    cells = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
             for line in lines if line.startswith('|')]
    assert len({len(row) for row in cells}) == 1
    found[title] = [cells[0], *cells[2:]]  # without the rule
  return found


def _latex(rows):
  """Returns LaTeX's rows of cells, and the letters of the columns."""
  text = rendering.latex(tables.summarize(rows))
  columns = re.findall(r'\\begin\{tabular\}\{([lr]+)\}', text)
  rows = [re.split(r'(?<!\\)&', line.removesuffix(r' \\'))
          for line in text.splitlines() if line.endswith(r' \\')]
  return [[cell.strip() for cell in row] for row in rows], columns


def test_a_table_has_a_row_per_classifier_and_a_column_per_class():
  rows = _sweep() + _sweep(classifier='gde')
  (title, (header, *body)), = _markdown(rows).items()
  assert title == 'cifar10, one_vs_rest'
  assert header == ['method', 'feature', 'classifier', *_NAMES, 'mean',
                    'paper', 'gap']
  assert [row[:3] for row in body] == [
      ['rotation_cifar10', 'pool', 'kde'], ['rotation_cifar10', 'pool', 'gde']]
  assert body[0][3] == '90.50 ± 0.71' and body[0][12] == '91.40 ± 0.71'
  assert body[0][-3:] == ['90.95 ± 0.71', '91.3 ± 0.3', '-0.35']
  assert body[1][-2:] == ['', '']  # not in the paper


def test_the_caption_tells_of_the_seeds():
  text = rendering.markdown(tables.summarize(_sweep()))
  assert 'AUROC in percent, mean ± SD over 2 seeds.' in text
  text = rendering.markdown(tables.summarize(_sweep(seeds=1)))
  assert 'AUROC in percent, of one seed.' in text


def test_a_spread_of_the_paper_that_is_a_standard_error_says_so():
  summary = tables.summarize([_row(
      dataset='mvtec_ad/bottle', pretext='cutpaste_3way',
      experiment='cutpaste_mvtec_bottle', classifier='gde', seed=str(seed))
      for seed in range(2)])
  for render, cell in (
      (rendering.text, '95.2 ± 0.6 SE'), (rendering.markdown, '95.2 ± 0.6 SE'),
      (rendering.latex, r'95.2 $\pm$ 0.6 SE')):
    assert cell in render(summary)
    assert 'SE' not in render(tables.summarize(_sweep()))


def test_incomplete_sweeps_are_marked():
  rows = _sweep() + _sweep(7, 1, experiment='other')
  rows += [row for row in _sweep(experiment='third')
           if (row['normal_class'], row['seed']) != ('4', '1')]
  (_, whole, other, third), = _markdown(rows).values()
  assert whole[13] == '90.95 ± 0.71'
  assert other[13] == '90.30 (7 of 10 classes, 1 seed)'
  assert other[10:13] == ['–', '–', '–'] and other[-1] == ''
  assert third[13] == '90.45 (10 of 10 classes, 1 seed)'


def test_baselines_come_last_and_stand_once_if_they_are_the_same():
  rows = [row for name in ('a', 'b') for feature in ('pixels', 'random', 'pool')
          for row in _sweep(feature=feature, experiment=name)]
  (_, *body), = _markdown(rows).values()
  assert [row[:2] for row in body] == [
      ['a', 'pool'], ['b', 'pool'], ['–', 'random'], ['–', 'pixels']]
  for row in rows:
    if (row['experiment'], row['feature']) == ('b', 'random'):
      row['auroc'] = '50.00'
  (_, *body), = _markdown(rows).values()
  assert [row[:2] for row in body][2:4] == [['a', 'random'], ['b', 'random']]


def test_the_head_is_in_the_csv_only():
  (_, *body), = _markdown(_sweep() + _sweep(feature='head')).values()
  assert [row[1] for row in body] == ['pool']


def test_a_method_is_told_by_what_differs():
  rows = (_sweep() + _sweep(encoder='resnet50') +
          _sweep(experiment='other', encoder='resnet50'))
  (_, *body), = _markdown(rows).values()
  assert [row[0] for row in body] == [
      'rotation_cifar10, resnet18', 'rotation_cifar10, resnet50', 'other']


@pytest.mark.parametrize('encoder, shown', [
    (f'efficientnet(head=True,mean=[{127 / 255}, {127 / 255}, {127 / 255}],'
     'sd=[0.502, 0.502, 0.502],weights=package/models/lite0-57.pth)',
     'efficientnet(head=True,mean=0.498,sd=0.502,weights=lite0-57.pth)'),
    (f'resnet(mean=[0.485, 0.456, {1 / 3}],width=0.25)',
     'resnet(mean=[0.485, 0.456, 0.333],width=0.25)'),
    *[(each, each) for each in (
        'convnet(channels=[32, 32, 32])', 'resnet18',
        'lenet(gcn=True,weights=runs/v0.12345/{normal}/seed{seed})')]])
def test_an_encoder_is_shown_in_brief(encoder, shown):
  assert rendering.brief(encoder) == shown
  summary = tables.summarize(_sweep(encoder=encoder, experiment=''))
  assert rendering.text(summary).splitlines()[0] == (
      f'cifar10  one_vs_rest  rotation  {shown}')
  (_, *body), = _markdown(_sweep(encoder=encoder, experiment='')).values()
  assert body[0][0] == f'rotation, {shown}'.replace('[', r'\[')
  assert {line['encoder'] for line in summary} == {encoder}


def test_encoders_that_look_alike_in_brief_have_rows_of_their_own():
  (_, *body), = _markdown(
      _sweep(encoder='resnet(width=0.33331)') +
      _sweep(encoder='resnet(width=0.33332)')).values()
  assert [row[0] for row in body] == [
      'rotation_cifar10, resnet(width=0.333)'] * 2


def test_protocols_levels_and_data_sets_have_tables_of_their_own():
  found = _markdown(_sweep() + _sweep(protocol='validation') + _sweep(
      dataset='mine', experiment='mine') + _sweep(level='pixel', aupro='80.00'))
  assert list(found) == ['cifar10, one_vs_rest', 'cifar10, validation',
                         'mine, one_vs_rest', 'cifar10, one_vs_rest, pixels']
  assert 'AUPRO' in found['cifar10, one_vs_rest, pixels'][0]
  assert 'AUPRO' not in found['cifar10, one_vs_rest'][0]
  assert found['mine, one_vs_rest'][0][-1] == 'mean'  # no paper, no gap


def test_more_than_20_classes_have_no_columns():
  rows = [_row('0', auroc='90.00', dataset='many') | {
      'normal_class': str(i), 'normal_name': f'n{i}', 'run': str(i)}
      for i in range(21)]
  assert _markdown(rows)['many, one_vs_rest'][0][3] == 'mean'
  assert _markdown(rows[:20])['many, one_vs_rest'][0][3:5] == ['n0', 'n1']


def test_classes_without_a_name_and_runs_without_anything_have_tables():
  rows = [_row() | dict.fromkeys(
      ('experiment', 'dataset', 'protocol', 'pretext', 'encoder',
       'normal_class', 'normal_name', 'level'), '')]
  (title, (_, row)), = _markdown(rows).items()
  assert title == 'results' and row[0] == '–'


def test_all_data_sets_are_columns_of_one_table():
  rows = _sweep() + _sweep(dataset='fashion_mnist', seeds=1,
                           experiment='rotation_fmnist')
  header, row = _markdown(rows)['all, one_vs_rest']
  assert header == ['method', 'feature', 'classifier', 'cifar10',
                    'fashion_mnist', 'mean', 'plain mean', 'paper']
  assert row == ['rotation', 'pool', 'kde', '90.95 ± 0.71', '90.45',
                 '90.45 (20 of 43 tasks, 1 seed)', '90.45', '88.2']
  header, row = _markdown(rows[2:])['all, one_vs_rest']
  assert row[3] == '91.00 ± 0.71 (9 of 10)'


def test_latex_has_the_cells_of_markdown():
  rows = _sweep(3) + _sweep(classifier='gde', experiment='a')
  found, (columns,) = _latex(rows)
  expected, = _markdown(rows).values()
  tex = {'±': r'$\pm$', '_': r'\_', '–': '--', '-0.35': '$-0.35$'}
  for row, want in zip(found, expected, strict=True):
    assert len(row) == len(columns)
    for cell, text in zip(row, want, strict=True):
      for plain, escaped in tex.items():
        text = text.replace(plain, escaped)
      assert cell == text
  assert columns == 'lll' + 'r' * (len(expected[0]) - 3)


def test_latex_opens_and_closes_everything():
  text = rendering.latex(tables.summarize(_sweep()))
  for name in ('table', 'tabular'):
    assert text.count(f'\\begin{{{name}}}') == 1
    assert text.count(f'\\end{{{name}}}') == 1
  plain = text.replace(r'\{', '').replace(r'\}', '')
  assert plain.count('{') == plain.count('}')
  for rule in ('top', 'mid', 'bottom'):
    assert text.count(f'\\{rule}rule') == 1


@pytest.mark.parametrize('plain, escaped', [
    ('a_b', r'a\_b'), ('50 %', r'50 \%'), ('R&D', r'R\&D'), ('#1', r'\#1'),
    ('$x$', r'\$x\$'), ('{}', r'\{\}'), ('~', r'\textasciitilde{}'),
    ('x^2', r'x\textasciicircum{}2'), ('\\', r'\textbackslash{}'),
    ('<|>', r'\textless{}\textbar{}\textgreater{}'),
    ('[a]*', r'{[}a]{*}'), ('two\nlines', 'two lines'), ('1 ± 2', r'1 $\pm$ 2'),
    ('3–4', '3--4')])
def test_latex_means_what_it_shows(plain, escaped):
  rows, _ = _latex(_sweep(1, normal_name=plain))
  assert rows[0][3] == escaped


@pytest.mark.parametrize('plain, escaped', [
    ('a|b', r'a\|b'), ('\\', '\\\\'), ('*x*', r'\*x\*'), ('<b>', r'\<b>'),
    ('`c`', r'\`c\`'), ('[d](e)', r'\[d](e)'), ('two\nlines', 'two lines'),
    ('a_b', 'a_b')])
def test_markdown_means_what_it_shows(plain, escaped):
  (header, _), = _markdown(_sweep(1, normal_name=plain)).values()
  assert header[3] == escaped


def test_markdown_is_aligned_for_those_who_read_it_raw():
  text = rendering.markdown(tables.summarize(_sweep(experiment='a|b')))
  lines = [line for line in text.splitlines() if line.startswith('|')]
  assert len({len(line) for line in lines}) == 1
  assert re.fullmatch(r'\|( -+ \|){3}( -+: \|)+', lines[1])


def test_files_lie_beside_the_summary(tmp_path):
  summary = tables.summarize(_sweep())
  named = rendering.write(tmp_path / 'out.csv', summary)
  assert named == 'out.md, out.tex'
  assert (tmp_path / 'out.md').read_text() == rendering.markdown(summary)
  assert (tmp_path / 'out.tex').read_text() == rendering.latex(summary)


def test_a_single_run_is_shown_with_its_interval():
  text = rendering.text(tables.summarize([_row(), _row(feature='pixels')]))
  assert 'airplane' in text
  assert text.count('89.00-91.00') == 2
  assert 'seeds' not in text and 'classes' not in text
  assert '88.5 ± 0.3' in text and '+1.50' in text


def test_many_runs_are_shown_as_means():
  text = rendering.text(tables.summarize(_sweep()))
  assert '89.00' not in text and 'airplane' not in text
  assert 'seeds' in text and 'classes' in text
  assert '-0.35' in text
  assert '7 of 10' in rendering.text(tables.summarize(_sweep(7)))


def test_pixels_are_shown_with_their_aupro():
  rows = [_row(feature='windows', level=level, **dict(zip(
      ('aupro', 'aupro_low', 'aupro_high'), aupro, strict=True)))
          for level, aupro in (('image', [''] * 3),
                               ('pixel', ['88.00', '86.00', '90.00']))]
  text = rendering.text(tables.summarize(rows))
  assert 'AUPRO' in text and 'windows, pixels' in text and '88.00' in text
  assert '86.00-90.00' in text
  assert 'AUPRO' not in rendering.text(tables.summarize(rows[:1]))
  seeds = rendering.text(tables.summarize(rows + [
      row | {'seed': '1'} for row in rows]))
  assert '88.00' in seeds and '86.00' not in seeds  # the spread is the seeds'


def test_flagged_images_are_shown_where_they_were_counted():
  rows = [_row(false_alarms='4.90', detected='66.70')]
  for render in (rendering.text, rendering.markdown, rendering.latex):
    found = render(tables.summarize(rows))
    assert 'false alarms' in found and '4.90' in found and '66.70' in found
    assert 'detected' not in render(tables.summarize([_row()]))


def test_the_means_over_all_data_sets_are_shown():
  text = rendering.text(tables.summarize(_sweep() + _sweep(
      dataset='fashion_mnist', experiment='rotation_fmnist')))
  assert 'rotation  all  one_vs_rest' in text
  assert 'pool, plain mean' in text and '20 of 43' in text
