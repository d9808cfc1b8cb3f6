"""A bundle without a model, a small real one, and a process that serves it."""
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np

from deep_oc import bundle

_ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPE = (16, 16, 3)
HOW = {'method': 'squeeze', 'pad': 0, 'size': None}
ABOUT = {
    'format': bundle.FORMAT, 'name': 'tiny', 'dataset': 'parts',
    'normal_name': '<b>good</b>', 'classifier': 'kde', 'feature': 'pool',
    'step': 60, 'config_hash': 'abc', 'image_shape': SHAPE, 'threshold': 100.,
    'false_alarm_rate': 0.05, 'localizes': 'windows', 'preprocessing': HOW,
    'command': 'python -m deep_oc.export --workdir=/home/secret/run'}


class Fake:
  """As `bundle.Bundle`: the mean of a picture is its score.

  Attributes:
    seen, mapped: how many images each call of `judge` and `heat_maps` had.
    delay: seconds that a batch takes.
    broken: what `judge` raises.
    gate: `judge` waits for it.
  """

  def __init__(self, **about):
    self.about = ABOUT | about
    self.image_shape = self.about['image_shape']
    self.threshold = self.about['threshold']
    self.false_alarm_rate = self.about['false_alarm_rate']
    self.localizes = self.about['localizes']
    self.by_maps = self.has_regions = self.about['feature'] == 'windows'
    self.batch, self.delay, self.broken = 8, 0., None
    self.seen, self.mapped = [], []
    self.gate = threading.Event()
    self.gate.set()

  def prepare(self, picture):
    return bundle.pictures.prepare(picture, self.image_shape, HOW)

  def judge(self, images):
    assert images.dtype == np.uint8 and images.shape[1:] == SHAPE
    self.gate.wait(20)
    time.sleep(self.delay)
    self.seen.append(len(images))
    if self.broken:
      raise self.broken
    return self._judged(images.mean(axis=(1, 2, 3), dtype=float))

  def judge_maps(self, heat):
    return self._judged(heat.max(axis=(1, 2)).astype(float))

  def regions(self, heat):
    return bundle.Bundle.regions(self, heat)

  def _judged(self, score):
    return bundle.Judged(score, 1 / (1 + score), score > self.threshold)

  def heat_maps(self, images):
    self.mapped.append(len(images))
    return images.mean(axis=-1, dtype=np.float32)


def write(folder: pathlib.Path, **more) -> pathlib.Path:
  """Writes a bundle that scores by the mean, too, but by StableHLO.

  `more` is said in its bundle.json, too.
  """
  import jax
  import jax.numpy as jnp
  from jax import export
  number, = export.symbolic_shape('n')

  def program(name, function, *shape, dtype):
    rows = jax.ShapeDtypeStruct((number, *shape), dtype)
    arrays = {'one': jax.ShapeDtypeStruct((), np.float32)}
    made = export.export(jax.jit(function))(arrays, rows)
    (folder / f'{name}.stablehlo').write_bytes(made.serialize())

  folder.mkdir(parents=True)
  program('model', lambda arrays, x: x.astype(jnp.float32).mean(
      (1, 2)) * arrays['one'], *SHAPE, dtype=np.uint8)
  program('classifier', lambda arrays, x: x.mean(1, keepdims=True), 3,
          dtype=np.float32)
  program('map', lambda arrays, x: x[:, ::2, ::2].astype(jnp.float32), *SHAPE,
          dtype=np.uint8)
  program('heat', lambda arrays, x: x.mean(-1), 8, 8, 3, dtype=np.float32)
  np.savez(folder / 'arrays.npz', one=np.float32(1))
  np.savez(folder / 'calibration.npz', **{'0': np.arange(20.) * 5})
  twice = np.repeat(np.eye(8), 2, axis=0)
  np.savez(folder / 'enlarge.npz', rows=twice, columns=twice)
  files = sorted(folder.iterdir())
  about = json.loads(json.dumps(ABOUT | {
      'localizes': 'gradcam',
      'heat_maps': [{'window': None, 'positions': None, 'suffix': ''}],
      'programs': {name: {'arrays': 'arrays.npz', 'names': ['one'],
                          'double': False}
                   for name in ('model', 'classifier', 'map', 'heat')},
      'files': {path.name: {'sha256': hashlib.sha256(
          path.read_bytes()).hexdigest()} for path in files}} | more))
  about['digest'] = bundle.digest(about)
  (folder / 'bundle.json').write_text(json.dumps(about))
  return folder


def metrics(text: str) -> dict[str, float]:
  """Reads what /metrics says of the service."""
  return {name: float(value) for name, value in re.findall(
      r'^(deep_oc_\S+) (\S+)$', text, re.MULTILINE)}


class Process:
  """`python -m deep_oc.serve`, once it serves."""

  def __init__(self, *args):
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'deep_oc.serve', '--port=0', *args], cwd=_ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    self.said = []
    for line in self.process.stdout:
      self.said.append(line)
      if found := re.match(r'serve on (\S+)', line):
        self.url = found[1]
        return
    raise AssertionError(''.join(self.said))

  def metrics(self):
    with urllib.request.urlopen(f'{self.url}/metrics') as answer:
      return metrics(answer.read().decode())

  def peak(self):
    """Returns the most memory it ever had, in MB."""
    with open(f'/proc/{self.process.pid}/status') as file:
      return int(re.search(r'VmHWM:\s+(\d+)', file.read())[1]) / 1024

  def end(self):
    self.process.send_signal(signal.SIGTERM)
    self.said += self.process.communicate(timeout=60)[0].splitlines()
    return self.process.returncode
