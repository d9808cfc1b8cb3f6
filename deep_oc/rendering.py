"""Summaries, those of `tables.summarize`, as text, Markdown and LaTeX."""
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from deep_oc import files, provenance, tables

Line = Mapping[str, object]

_RUN = ('experiment', 'dataset', 'protocol', 'pretext', 'encoder')
_MEANS = ('mean', 'plain_mean')  # what a summary has beside classes
_HIDDEN = ('head',)  # in the CSV only: the papers have `pool`
_OPTIONAL = ('aupro_mean', 'false_alarms_mean', 'detected_mean')
_WIDEST = 20  # classes with columns of their own
_WORDS = ('method', 'feature', 'classifier')

_TEX = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}', '<': r'\textless{}', '>': r'\textgreater{}',
        '|': r'\textbar{}', '±': r'$\pm$', '–': '--',
        '[': '{[}', '*': '{*}',  # which would belong to the \\ before
        **{char: f'\\{char}' for char in '&%$#_{}'}}


def text(summary: Sequence[Line]) -> str:
  """Returns for each experiment the means over classes, to be read at once;
  or, where it is a single run, that run's AUROC with its interval."""
  blocks = {}
  for line in summary:
    blocks.setdefault(tuple(line[key] for key in _RUN), []).append(line)
  return '\n\n'.join(_block(key, lines) for key, lines in blocks.items())


def markdown(summary: Sequence[Line], command: str = '') -> str:
  """Returns a table for each data set and level: a row per method, a column
  per class if there are not too many; then the command that made them."""
  made = ['Made by', '', f'    {_line(command)}', ''] if command else []
  return '\n'.join([*map(_markdown, _tables(summary)), *made])


def latex(summary: Sequence[Line], command: str = '') -> str:
  """Returns the tables of `markdown`, for a LaTeX document to \\input."""
  made = [f'% Made by {_line(command)}'] if command else []
  return '\n'.join([*made, '% \\usepackage{booktabs,graphicx}\n',
                    *map(_latex, _tables(summary))])


def brief(encoder: str) -> str:
  """Returns what a heading has room for of an encoder; the CSV has all.

  Long numbers rounded, equal ones of all colours as one, a file without its
  folder.
  """
  found = re.sub(r'(?<=[=\[ ])\d+\.\d{4,}',
                 lambda number: f'{float(number[0]):.3g}', encoder)
  found = re.sub(r'\b(mean|sd)=\[([\d.]+)(, \2)+\]', r'\1=\2', found)
  return re.sub(r'\bweights=[^,]*/([^/,]+\.\w+[,)])', r'weights=\1', found)


def _line(text):
  return ' '.join(text.split())


def write(path: str | os.PathLike, summary: Sequence[Line]) -> str:
  """Writes Markdown and LaTeX beside the summary at `path`; returns the names.

  Raises:
    InputError: a file cannot be written.
  """
  beside = []
  for suffix, render in (('.md', markdown), ('.tex', latex)):
    beside.append(files.path(path).with_suffix(suffix))
    with files.replacing(beside[-1]) as file:
      file.write(render(summary, provenance.command()))
  return ', '.join(each.name for each in beside)


def aligned(table: Sequence[Sequence[str]], left: int = 2) -> str:
  """Returns rows of cells as lines, the first columns flush left."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join('  '.join(_padded(row, widths, left)).rstrip()
                   for row in table)


def _padded(row, widths, left):
  return [cell.ljust(width) if i < left else cell.rjust(width)
          for i, (cell, width) in enumerate(zip(row, widths, strict=True))]


def _block(key, lines):
  single = all(line['n_classes'] == line['n_seeds'] == 1 for line in lines) \
      and len({line['normal_class'] for line in lines}) == 2
  kept = [line for line in lines
          if (line['normal_class'] not in _MEANS) == single]
  *about, encoder = map(str, key)
  title = '  '.join(filter(None, [*about, brief(encoder)]))
  if single and kept[0]['normal_class']:
    title += f"  normal: {kept[0]['normal_name'] or kept[0]['normal_class']}"
  table = [('feature', 'classifier', 'AUROC', '95 %' if single else '± SD',
            'AUPRO', '95 %', 'false alarms', 'detected', 'seeds', 'classes',
            'paper', 'gap')]
  table += [_cells(line) for line in kept]
  shown = [cells for cells in zip(*table, strict=True) if any(cells[1:])
           and not (single and cells[0] in ('seeds', 'classes'))]
  table = list(zip(*shown, strict=True))
  return f"{title.strip() or 'results'}\n{aligned(table)}"


def _cells(line):
  classes = str(line['n_classes'])
  if line['of_classes'] not in ('', line['n_classes']):
    classes += f" of {line['of_classes']}"  # incomplete
  feature = (line['feature'] + ', pixels' * (line['level'] == 'pixel') +
             ', plain mean' * (line['normal_class'] == 'plain_mean'))
  aupro, *alarms = (line.get(name, '') for name in _OPTIONAL)
  return (feature, line['classifier'], line['auroc_mean'],
          _interval(line, 'auroc') or line['auroc_sd'], aupro,
          _interval(line, 'aupro'), *alarms, str(line['n_seeds']), classes,
          _paper(line), line.get('gap', ''))


def _interval(line, metric):
  """Returns a metric's interval, '' for a mean, which has none."""
  low = line.get(f'{metric}_low')
  return f"{low}-{line[f'{metric}_high']}" if low else ''


def _spread(mean, spread):
  return f'{mean} ± {spread}' if spread else str(mean)


def _paper(line):
  """Returns the paper's cell, which says so if its spread is no SD."""
  cell = _spread(line.get('paper', ''), line.get('paper_spread'))
  return cell + ' SE' * (line.get('paper_spread_kind') == 'se5')


@dataclasses.dataclass(frozen=True)
class _Table:
  """What both formats show: cells of plain text, those of _WORDS first."""
  title: str
  caption: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]


def _tables(summary: Sequence[Line]) -> Iterator[_Table]:
  groups = {}
  for line in summary:
    if line['feature'] not in _HIDDEN:
      pixels = 'pixels' * (line['level'] == 'pixel')
      groups.setdefault((line['dataset'], line['protocol'], pixels),
                        []).append(line)
  for key, lines in groups.items():
    yield _table(key, lines)


def _table(key, lines):
  noun = 'tasks' if key[0] == 'all' else 'classes'
  means = [line for line in lines if line['normal_class'] in _MEANS]
  size = max(line['of_classes'] or line['n_classes'] for line in means)
  seeds = max(line['n_seeds'] for line in lines)
  names = _class_names(lines)
  shown = names if len(names) <= _WIDEST else {}
  rows = []
  for label, found in _by_method(lines).items():
    by_class = {line['normal_class']: line for line in found}
    rows.append([*label, *(_part(by_class.get(name)) for name in shown),
                 *_mean_cells(by_class, size, noun, seeds)])
  rows = [[brief(method), *rest] for method, *rest in _baselines_last(rows)]
  header = [*_WORDS, *shown.values(), 'mean', 'plain mean', 'AUPRO',
            'false alarms', 'detected', 'paper', 'gap']
  caption = 'AUROC in percent' + (
      f', mean ± SD over {seeds} seeds' if seeds > 1 else ', of one seed')
  return _Table(', '.join(filter(None, key)) or 'results', caption,
                *_without_empty(header, rows))


def _class_names(lines):
  """Returns {class: name} in their order; of 'all', the data sets' names."""
  found = {}
  for line in lines:
    if line['normal_class'] not in _MEANS:
      found.setdefault(line['normal_class'],
                       line['normal_name'] or line['normal_class'])
  order = list(tables.TOTAL)
  return dict(sorted(found.items(), key=lambda item: (
      order.index(item[0]) if item[0] in order else 0,
      tables.natural(item[0]))))


def _by_method(lines):
  """Returns {(method, feature, classifier): lines}.

  A method goes by its experiment's name, and by what differs within that.
  """
  values = {}
  for line in lines:
    for key in ('pretext', 'encoder'):
      values.setdefault((line['experiment'], key), set()).add(line[key])
  found = {}
  for line in lines:
    name = line['experiment']
    label = [name, *(line[key] for key in ('pretext', 'encoder')
                     if not name or len(values[name, key]) > 1)]
    found.setdefault((', '.join(filter(None, label)) or '–', line['feature'],
                      line['classifier']), []).append(line)
  return found


def _part(line):
  """Returns the cell of a class, or of a data set among all."""
  if line is None:
    return '–'
  cell = _spread(line['auroc_mean'], line['auroc_sd'])
  if line['n_classes'] != (line['of_classes'] or line['n_classes']):
    cell += f" ({line['n_classes']} of {line['of_classes']})"
  return cell


def _mean_cells(by_class, size, noun, seeds):
  mean = by_class['mean']
  plain = by_class.get('plain_mean', {'auroc_mean': '', 'auroc_sd': ''})
  cell = _spread(mean['auroc_mean'], mean['auroc_sd'])
  n_classes, n_seeds = mean['n_classes'], mean['n_seeds']
  if n_classes < size or n_seeds < seeds:  # incomplete
    cell += (f" ({n_classes} of {size} {noun}, {n_seeds} "
             f"seed{'s' * (n_seeds > 1)})")
  return (cell, _spread(plain['auroc_mean'], plain['auroc_sd']),
          *(mean.get(name, '') for name in _OPTIONAL),
          _paper(mean), mean.get('gap', ''))


def _baselines_last(rows):
  """Sorts the untrained encoders and then the pixels behind what was learnt.

  They know nothing of methods: of those that tell the same one row is left.
  """
  found = {}
  for row in sorted(rows, key=_rank):
    same = tuple(row[1:] if _rank(row) else row)
    found[same] = ['–', *row[1:]] if same in found else row
  return list(found.values())


def _rank(row):
  return 2 if row[1] == 'pixels' else int(row[1].startswith('random'))


def _without_empty(header, rows):
  """Drops the columns that have nothing in any row."""
  kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
  return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _markdown(table):
  rows = [[_escape_markdown(cell) for cell in row]
          for row in (table.header, *table.rows)]
  widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
  rule = ['-' * width if i < len(_WORDS) else '-' * (width - 1) + ':'
          for i, width in enumerate(widths)]
  head, *body = [_padded(row, widths, len(_WORDS)) for row in rows]
  lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
  return '\n'.join([f'## {_escape_markdown(table.title)}', '',
                    f'{table.caption}.', '', *lines, ''])


def _escape_markdown(cell):
  return re.sub(r'([\\|*<`\[])', r'\\\1', ' '.join(cell.split()))


def _latex(table):
  head, *body = [' & '.join(map(_escape_latex, row)) + r' \\'
                 for row in (table.header, *table.rows)]
  words = len(_WORDS)
  columns = 'l' * words + 'r' * (len(table.header) - words)
  caption = _escape_latex(f'{table.title}. {table.caption}.')
  return '\n'.join([
      r'\begin{table}', r'\centering', rf'\caption{{{caption}}}',
      r'\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%',
      rf'\begin{{tabular}}{{{columns}}}', r'\toprule', head, r'\midrule', *body,
      r'\bottomrule', r'\end{tabular}}', r'\end{table}', ''])


def _escape_latex(cell):
  if re.fullmatch(r'[-+][\d.]+', cell):  # a sign, not a hyphen
    return f'${cell}$'
  return ''.join(_TEX.get(char, char) for char in ' '.join(cell.split()))
