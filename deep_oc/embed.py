"""Between the stages: writes the features of a trained run as plain arrays.

  python -m deep_oc.embed --workdir=runs/dacl_cifar10/0/seed0

reads the run's config and its newest checkpoint (or --step), and writes
`embeddings/train.npz` and `embeddings/test.npz`: the features of the normal
training images, un-augmented, and of the test images, beside two baselines:
`random`, the same encoder before training, and `pixels`, the images themselves.
`deep_oc.train` does the same at its end. With --views=flip_rot there is also
the feature `pool_flip_rot`, of eight views of each image, which takes eight
forward passes: what stage 2 makes of it is often better. Mirrors are for tasks
that mirror in training; an encoder of digits, say, has only --views=rot. With
--views=crop_flip_rot there are forty, of five crops, for tasks that crop. With
--stages=2 it is of the encoder's last two stages, as `stages2_flip_rot`, or as
`stages2` of the upright image alone, which takes no longer than `pool`.
"""
from __future__ import annotations

import ml_collections
from absl import flags

from deep_oc import (cli, distributed, embeddings, experiment, files,
                     protocols)
from deep_oc.errors import InputError

if cli.works(__name__):
  import flax.linen as nn

  from deep_oc import allocator, checkpoints, features, pretexts, step


def define_flags() -> None:
  distributed.define_flags()
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_integer(
      'step', None, 'Step of the checkpoint to embed; the newest by default.')
  flags.DEFINE_integer('batch', 256, 'Images per forward pass.', 1)
  flags.DEFINE_string(
      'data_dir', None, 'Where the images lie now, if they moved.')
  flags.DEFINE_enum(
      'views', None, experiment.VIEWS, 'Add the feature of several views of '
      'each image, mirrored, turned or both, and of five crops, as '
      "pool_flip_rot; by default what the config's embed.views says.")
  flags.DEFINE_integer(
      'stages', None, "Of how many of the encoder's last stages it is, as "
      "stages2_flip_rot; by default what the config's embed.stages says.", 1)


def restore(workdir: str, at: int | None = None, data_dir: str | None = None,
            **asked: object
            ) -> tuple[ml_collections.ConfigDict, protocols.Problem, nn.Module,
                       step.State]:
  """Returns config, images, pretext task and state of a trained run.

  What is not None of `asked` stands in the config's group `embed`.
  """
  config = experiment.of_run(workdir, data_dir)
  asked = {name: value for name, value in asked.items() if value is not None}
  with config.unlocked():
    config.embed = {**config.get('embed', {}), **asked}
  problem = experiment.problem_of_run(config)
  if data_dir is not None:
    _check_same(workdir, problem, data_dir)
  pretext = experiment.pretext(config)
  like = experiment.state_like(
      config, pretext, problem.train.image.shape[1:])
  with checkpoints.Checkpoints(workdir) as saved:
    return config, problem, pretext, saved.restore(like, at)


def _check_same(workdir: str, problem: protocols.Problem, data_dir: str
                ) -> None:
  """Raises InputError if these are not the images of the run's embeddings."""
  path = files.path(workdir) / 'embeddings' / 'train.npz'
  if not files.exists(path):
    return
  embeddings.check_same(embeddings.read(path)[0].get('pixels'),
                      problem.fitted.image, f'--data_dir={data_dir}')


def main() -> None:
  workdir = flags.FLAGS.workdir
  if not workdir:
    raise InputError('--workdir is required: the folder of a trained run')
  with distributed.joined():
    allocator.keep_freed_memory()
    config, problem, pretext, state = restore(
        workdir, flags.FLAGS.step, flags.FLAGS.data_dir,
        views=flags.FLAGS.views, stages=flags.FLAGS.stages)
    batch = flags.FLAGS.batch
    if pretexts.lacks_statistics(state.variables):
      state = features.concluded(pretext, state, problem.fitted.image, batch)
    features.export(workdir, config, problem, pretext, state, batch)
    if distributed.is_first():
      print(f'wrote {workdir}/embeddings; next: python -m deep_oc.evaluate '
            f"--runs='{workdir}'")


if __name__ == '__main__':
  cli.run(main, define_flags)
