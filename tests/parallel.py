"""Losses and gradients of every pretext task, on so many devices.

  JAX_NUM_CPU_DEVICES=8 python -m tests.parallel 1,8 QUICK <output>.npz

takes one step of plain gradient descent by a case, first on 1 device, then on
8, and says by how much these differ at most, of the largest entry if that is
above 1; with the flags of `deep_oc.distributed` as one of several processes.
"""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deep_oc import (cli, distributed, distribution, pretexts, sharding, step,
                     storage)

_SCAR = dict(scar_length=(4, 8), scar_width=(2, 4))
_NO_COLOUR = dict(brightness=0., contrast=0., saturation=0., hue=0.)
_TASKS = {
    'rotation': dict(name='rotation', head=(8, 8)),
    'contrastive': dict(name='contrastive', head=(8, 8)),
    'cutpaste': dict(name='cutpaste', head=(8, 8), defects=_SCAR | _NO_COLOUR),
    'cutpaste_colour': dict(name='cutpaste', head=(8, 8), defects=_SCAR),
    'cutpaste_crops': dict(name='cutpaste', head=(8, 8), task='cutpaste',
                           crop=12, joint=False),
    'csi': dict(name='csi', head=(8, 8)),
    'hendrycks': dict(name='transformations', flip=False, factorised=True,
                      inputs_per_image=4),
    'geom': dict(name='transformations'),
    'goad': dict(name='goad', head=(8,)),
    'denoising': dict(name='denoising', decoder=(8, 4)),
    'restoration': dict(name='restoration'),
    'patch_svdd': dict(name='patch_svdd'),
    'centred': dict(name='patch_svdd', centre=True),
    'fcdd': dict(name='fcdd', defects=dict(confetti_side=(3, 9))),
    'deep_svdd': dict(name='deep_svdd', dim=8),
    'soft_boundary': dict(name='deep_svdd', dim=8, warmup_steps=0,
                          objective='soft_boundary'),
    'dacl_nt_xent': dict(name='contrastive', head=(8, 8), loss='nt_xent')}

# by name: the task, BatchNorm's groups and where the images lie
QUICK = {'rotation': ('rotation', 1, 'replicated'),
         'contrastive': ('contrastive', 1, 'replicated'),
         'cutpaste': ('cutpaste', 1, 'replicated'),
         'grouped': ('rotation', 8, 'replicated'),
         'sharded': ('rotation', 1, 'sharded'),
         'streamed': ('rotation', 1, 'streamed')}
ALL = QUICK | {task: (task, 1, 'replicated') for task in _TASKS}


def pretext(task):
  """Returns the task with a network that compiles fast."""
  return pretexts.create(**_TASKS[task], encoder=encoder(task),
                         dtype=jnp.float32, augment=dict(flip=0.5))


def encoder(task):
  """Returns the arguments of the smallest encoder that the task takes."""
  special = {'restoration': 'unet', 'patch_svdd': 'hierarchical',
             'fcdd': 'fcdd'}
  name = special.get(_TASKS[task]['name'], 'convnet')
  more = dict(kernels=(3, 3), pools=(True, False)) if name == 'fcdd' else {}
  return dict(name=name, channels=(4, 8), **more)


def images(task):
  """Returns u8[20, 16, 16, 3], of which one batch is 16."""
  image = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
  return distribution.augment(image[:5], 'rot') if 'dacl' in task else image


def state(module, descent, shape):
  """Returns any state of the right shapes; a real one takes long to compile."""
  rng = np.random.default_rng(0)
  shapes = step.state_like(module, descent, shape)
  return shapes.replace(
      step=np.int32(0), params=jax.tree.map(
          lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes.params),
      collections=jax.tree.map(
          lambda x: np.ones(x.shape, x.dtype), shapes.collections))


def evaluate(case, mesh):
  """Returns loss, gradients and running statistics by name."""
  task, groups, placement = ALL[case]
  module, descent = pretext(task), optax.sgd(1.)
  image = images(task)
  before = state(module, descent, image.shape[1:])
  stored = storage.Storage(image, placement, mesh)
  [batch] = stored.batches(
      functools.partial(step.batch_index, 0, len(image), 16), 0, 1, 1)
  after, metrics = step.make_steps(module, descent, mesh, groups)(
      sharding.put(before, sharding.replicated(mesh)), stored.images, batch,
      step.root_key(0))
  gradients = jax.tree.map(np.subtract, before.params, after.params)
  found = {'gradient': gradients, 'collections': after.collections}
  return {f'{case} loss': np.asarray(metrics['loss'])} | {
      case + re.sub(r'\W+', ' ', jax.tree_util.keystr(path)): np.asarray(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def moved(mesh):
  """Returns the most bytes that devices exchange to have a batch of 16."""
  image = np.zeros((4096, 16, 16, 3), np.uint8)
  stored = storage.Storage(image, 'sharded', mesh)
  text = jax.jit(lambda image, index: image[index],
                 out_shardings=sharding.split(mesh)).lower(
                     stored.images, np.arange(16)).compile().as_text()
  sizes = re.findall(r' = u8\[([\d,]+)\]\S* (?:all-|reduce-|collective)', text)
  return max(np.prod([int(each) for each in size.split(',')])
             for size in sizes)


def main(devices, cases, output):
  with distributed.joined():
    found = {}
    for count in devices.split(','):
      mesh = jax.sharding.Mesh(
          np.array(jax.devices())[:int(count)], ('data',))
      values = {'moved': moved(mesh)} if mesh.size > 1 else {}
      for case in {'QUICK': QUICK, 'ALL': ALL}[cases]:
        values |= evaluate(case, mesh)
      found |= {f'{count} {name}': value for name, value in values.items()}
    if distributed.is_first():
      np.savez(output, **found)
      first, *others = devices.split(',')
      for count in others:
        worst, name = max(_differences(found, f'{first} ', f'{count} '))
        print(f'{count} devices against {first}: {worst:.3g}, {name}')


def _differences(found, one, other):
  for name, wanted in found.items():
    if name.startswith(one) and name != f'{one}moved':
      name = name.removeprefix(one)
      size = max(np.abs(wanted).max(initial=0), 1)
      yield np.abs(found[other + name] - wanted).max(initial=0) / size, name


if __name__ == '__main__':
  cli.run(main, distributed.define_flags, ('devices', 'cases', 'output'))
