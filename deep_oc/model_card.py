"""What a bundle says of itself to those who use it: its README.md."""
import csv
import textwrap
from collections.abc import Mapping
from typing import Any

from deep_oc import files, parity, rendering, thresholds
from deep_oc.bundle import pictures

_TEXT = '''# {name}

Tells pictures that are not like those it learnt from: a score, higher = more
anomalous, a p-value and a verdict for each. Nothing here is unpickled, and
neither the training code nor Flax is needed.

```sh
pip install -r requirements.txt
python predict.py photos --output=predictions.csv{maps}{regions}
```

```python
import bundle  # this folder is the working directory, or on the path
found = bundle.load('.')
judged = found.judge(np.stack([found.prepare(path) for path in paths]))
```
{onnx}
## What is normal

{normal} of {dataset}, {count} training images, of which the classifier saw no
label. Protocol: {protocol}; seed {seed}; config {config_hash}; step {step},
{chosen}.

Encoder {encoder}, {taught}; classifier {classifier} on
'{feature}'. A picture is anomalous if its p-value is at most
{false_alarm_rate:g}: of normal pictures like those that calibrate, so many are
flagged.

{calibrated}

## Results

{results}

## Intended use and limits

For pictures taken as the training images were; another camera, light, crop or
compression makes normal things look abnormal, and the false-alarm rate no
longer holds. What is anomalous was never seen in training: a defect unlike all
that was tested may be missed. A verdict is a reason to look, not a finding.

Pictures of any size are brought to {shape} pixels ({method}){padded};
transparent pixels become black. Input of the program: {input}.

## Parity

Against the trainer's own code, by a process without it: {parity}. On CPU; an
accelerator's float32 may round otherwise.

Written {created} by

```sh
{command}
```
'''
_ONNX = '''
`model.onnx` says it to ONNX Runtime, in float32: {input}, to {output}; an image
is anomalous{above}.
'''
# How the step was chosen, by `checkpoint_rule`.
_CHOSEN = {'last': 'the last one: nothing was chosen by test images',
           'chosen': 'an earlier one than the last, asked for by hand'}
_UNWRAPPED = '#', '|', '```'  # how headings, tables and code begin


def write(about: Mapping[str, Any], results: list[dict[str, str]]) -> str:
  """Returns the text, its prose in lines of 80 characters at most.

  Args:
    about: the content of bundle.json.
    results: rows of results.csv of this feature and classifier.
  """
  run, how = about['run'], about['preprocessing']
  return _wrapped(_TEXT.format(**run | about | {
      'maps': ' --maps=maps' if about['localizes'] else '',
      'regions': ' --regions=regions.csv' * (
          about['feature'] == 'windows' and pictures.keeps_all(how)),
      'onnx': _onnx(about),
      'normal': f"'{run['normal_name']}'", 'count': about['n_train'],
      'encoder': rendering.brief(run['encoder']),
      'chosen': _CHOSEN[run['checkpoint_rule']],
      'taught': (f"taught by the task {run['pretext']}" if about['learnt'] else
                 f"as it was given ({run['pretext']})"),
      'calibrated': thresholds.described(
          about['calibration'], about['learnt']),
      'results': _table(results, about['calibration']), 'method': how['method'],
      'shape': '{1}×{0}'.format(*about['image_shape']),
      'padded': f", with {how['pad']} black ones on each side" * bool(
          how['pad']),
      'parity': parity.shown(about['parity'])}))


def _onnx(about):
  found = about.get('onnx')
  if not found:
    return ''
  threshold = about['threshold']
  return _ONNX.format(
      input=found['input'],
      output=' and '.join(found[name] for name in ('output', 'heat_map')
                          if name in found),
      above=' by its p-value alone' if threshold is None else
      f' above {threshold:.9g}')


def _wrapped(text: str) -> str:
  return '\n\n'.join(
      each if each.startswith(_UNWRAPPED) else textwrap.fill(
          each, 80, break_long_words=False, break_on_hyphens=False)
      for each in text.split('\n\n'))


def results(workdir: str, feature: str, classifier: str
            ) -> list[dict[str, str]]:
  """Returns the rows of a run's results.csv of a feature and a classifier."""
  path = files.path(f'{workdir}/results.csv')
  if not files.exists(path):
    return []
  with path.open(encoding='utf-8', newline='') as file:
    return [row for row in csv.DictReader(file)
            if row.get('feature') == feature
            and row.get('classifier') == classifier
            and row.get('level', 'image') == 'image']


def _table(rows: list[dict[str, str]], calibration: str) -> str:
  if not rows:
    return ('None beside the run when this was written; `python -m '
            'deep_oc.evaluate` makes them.')
  other = ('' if calibration.startswith(('unseen', 'left_out')) else
           ', by a classifier fitted to all of the training images (here: less '
           'those that calibrate)')
  lines = [f'On the test images, in percent{other}:', '',
           '| AUROC | 95 % | AUPRC | FPR at 95 % | normal | anomalous |',
           '|---|---|---|---|---|---|']
  for row in rows:
    cells = [row.get('auroc', ''), '{}–{}'.format(
        row.get('auroc_low', ''), row.get('auroc_high', '')),
        *(row.get(key, '') for key in ('auprc', 'fpr95', 'n_test_normal',
                                       'n_test_anomalous'))]
    lines.append(f"| {' | '.join(cells)} |")
  return '\n'.join(lines)
