"""How each number came about: a row for each run."""
from collections.abc import Container, Iterator, Sequence

from deep_oc import rendering
from deep_oc.page import runs
from deep_oc.page.markup import Element, number, table, tag

# What the labels of training images were used for, by the protocol's name.
_LABELS = {
    'one_vs_rest': 'to take the normal class and nothing else',
    'contaminated': 'to put in the share of anomalies; hidden from encoder and '
                    'classifier',
    'semi_supervised': 'to put in the share of anomalies, hidden from the '
                       'encoder; the classifier gets images known to be normal',
    'validation': 'to take the normal class, and to measure on held-out '
                  'training images; the test split is untouched'}
_NUMBERS = ('auroc', 'auprc', 'fpr95', 'aupro')


def section(found: Sequence[runs.Run], shown: Container[str]) -> Element:
  """Returns the section; runs with a `key` in `shown` are linked to."""
  return tag(
      'section',
      tag('p', 'The programs choose nothing with test labels: they evaluate '
          'the last step of a training (rule “last”), and fit classifiers to '
          'the training file alone. Test labels go into the metrics, and on '
          'this page into the choice of pictures. Whether somebody chose a '
          'config by such scores, no file can tell.'),
      table('protocol-runs', 'The runs', (
          'Run', 'Folder', 'Data', 'Normal', 'Protocol',
          'Labels of training images were used', 'Pretext task', 'Encoder',
          'Step', 'Checkpoint rule', 'Seed', 'Fitted to', 'Test: normal',
          'anomalous', 'Config', 'deep_oc, commit', 'JAX', 'Flax'),
          [_row(run, run.key in shown) for run in found], sortable=True),
      id='protocol')


def _row(run, linked):
  about, versions = run.about, run.config().get('versions') or {}
  name = next((words for key, words in _LABELS.items()
               if about['protocol'].startswith(key)), 'not known')
  n_train = next((row['n_train'] for row in run.rows if row['n_train']), '')
  commit = str(versions.get('git', ''))[:12]
  return [
      tag('a', run.key, href=f'#{run.key}' if linked else None,
          id=f'protocol-{run.key}'),
      str(run.workdir), about['dataset'],
      about['normal_name'] or about['normal_class'], about['protocol'],
      tag('span', name, class_='wide'), about['pretext'],
      tag('span', rendering.brief(about['encoder']), class_='wide'),
      about['step'], about['checkpoint_rule'], about['seed'], n_train,
      about['n_test_normal'], about['n_test_anomalous'], about['config_hash'],
      ' '.join(filter(None, (versions.get('deep_oc', ''), commit))),
      versions.get('jax', ''), versions.get('flax', '')]


def commands(run: runs.Run) -> Iterator[Element]:
  """Yields the commands that trained and evaluated a run."""
  for command in run.commands():
    yield tag('p', tag('code', command), class_='quiet')


def numbers(run: runs.Run) -> Element:
  """Returns all rows of a run's results.csv."""
  flags = any(row['false_alarm_rate'] for row in run.rows)
  header = ['Feature', 'Classifier', 'What is scored', 'AUROC', '95 %',
            'AUPRC', '95 %', 'FPR95', '95 %', 'AUPRO', '95 %',
            *(['false alarms asked for', 'found', '95 %', 'detected',
               'calibration'] * flags),
            'Fitted to', 'Parameters']
  rows = [[row['feature'], row['classifier'],
           'pixels' if row['level'] == 'pixel' else 'images',
           *_measured(row), *(_flagged(row) if flags else ()), row['n_train'],
           tag('code', row['classifier_params'])] for row in run.rows]
  return table(f'{run.key}-results', f'results.csv of {run.title()}', header,
               rows, sortable=True)


def _measured(row):
  for name in _NUMBERS:
    yield number(row[name])
    yield _range(row, name)


def _flagged(row):
  return (number(row['false_alarm_rate']), number(row['false_alarms']),
          _range(row, 'false_alarms'), number(row['detected']),
          row['calibration'])


def _range(row, name):
  return ' to '.join(f'{float(row[key]):.1f}' for key in (
      f'{name}_low', f'{name}_high') if row[key])
