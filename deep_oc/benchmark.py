"""How fast a config runs on this machine, and how near to its limit.

  python -m deep_oc.benchmark --config=configs/dacl_cifar10.py

times the train step, the augmentation alone and the embedding on random images,
so it needs no data set, and puts the train step beside the machine's measured
matrix-product peak. Figures are medians over rounds in which the parts take
turns, so that a noisy machine disturbs all of them alike.

On the CPU the train step also stands beside the straightforward one, in which
XLA computes all convolutions by itself (deep_oc.convolution) and BatchNorm is
left to Flax (deep_oc.batch_norm). It has a process of its own, where the C
library does with freed memory what it does by default (deep_oc.allocator).

Where the config localizes by windows, it also compares embedding all windows of
an image with embedding one after the other.

  python -m deep_oc.benchmark --classifiers=all

needs no config: it fits the one-class classifiers to random features and scores
others, in seconds by scikit-learn's own estimators, by NumPy and jitted.

  python -m deep_oc.benchmark --bundle=runs/imagenet_folder/0/seed0/bundle

times what `deep_oc.export` wrote, as a service or its `predict.py` runs it: the
first answer, an image alone, and as many as are worked on at once.
"""
from absl import flags

from deep_oc import cli, config_files, oneclass, tables
from deep_oc.errors import InputError

if cli.works(__name__):
  import jax

  from deep_oc import (allocator, bundle_benchmark, classifier_benchmark,
                       step_benchmark)
  from deep_oc.data import folder


# What may be timed, by its flag, and the flags that apply to some of them.
_APPLY = {'config': ('size', 'seconds', 'profile'),
          'classifiers': ('train_rows', 'test_rows', 'columns'),
          'bundle': ('seconds',)}


def define_flags() -> None:
  config_files.define_flag()
  flags.DEFINE_integer(
      'size', None, 'Side of square images in pixels; by default images are as '
      'data.size and data.width say, or of 32.', 8)
  flags.DEFINE_integer('rounds', 5, 'Rounds of which the median counts.', 1)
  flags.DEFINE_float(
      'seconds', 2.0, 'At least so long per part and round, and one call.', 0.0)
  tables.define_flag('output', 'CSV file for the table.')
  tables.define_flag(
      'profile', 'CSV file for the operations of a train step: how often each '
      'runs and how long, by the profiler.')
  flags.DEFINE_string(
      'classifiers', None, "Times one-class classifiers, not a config: 'all', "
      'or some as in deep_oc.evaluate.')
  flags.DEFINE_integer('train_rows', 5000, 'Rows they are fitted to.', 2)
  flags.DEFINE_integer('test_rows', 10_000, 'Rows they score.', 1)
  flags.DEFINE_integer('columns', 512, 'Columns of these.', 1)
  flags.DEFINE_string(
      'bundle', None, 'Times a bundle, not a config: a folder that '
      'deep_oc.export wrote.')


def main() -> None:
  args = flags.FLAGS
  _check_asked(args)
  jax.config.update('jax_enable_compilation_cache', False)  # it is timed
  if not args.bundle:  # which has its memory as it comes
    allocator.keep_freed_memory()
  if args.classifiers:
    rows = _benchmark_classifiers(args)
  else:
    rows = _benchmark_parts(args)
  if args.output:
    tables.write(args.output, list(rows[0]), rows)


def _check_asked(args: flags.FlagValues) -> None:
  """Raises InputError if several things are to be timed, or a flag that was
  given does not apply to what is."""
  named = [name for name in _APPLY if args[name].value]
  if len(named) > 1:
    raise InputError(f'give one of --{" and --".join(named)}')
  timed = named[0] if named else 'config'
  for name in sorted({*sum(_APPLY.values(), ())} - {*_APPLY[timed]}):
    if args[name].present:
      raise InputError(f'--{name} does not apply to --{timed}')


def _benchmark_parts(args: flags.FlagValues) -> list[dict[str, object]]:
  """Prints the table of a config or of a bundle, and returns it."""
  if args.bundle:
    rows = bundle_benchmark.benchmark(args.bundle, args.rounds, args.seconds)
  else:
    config = config_files.from_flag()
    size = folder.sides(args.size or config.data.get('size') or 32,
                        None if args.size else config.data.get('width'))
    rows = step_benchmark.benchmark(config, size, args.rounds, args.seconds,
                                    args.profile)
  for row in rows:
    print(f"{row['part']:32} {row['value']:>16} {row['unit']}")
  return rows


def _benchmark_classifiers(args: flags.FlagValues) -> list[dict[str, str]]:
  """Prints the table of the classifiers that flags name, and returns it."""
  specs = oneclass.specs('' if args.classifiers == 'all' else args.classifiers)
  found = classifier_benchmark.benchmark(
      specs or list(oneclass.CLASSIFIERS), *classifier_benchmark.features(
          args.train_rows, args.test_rows, args.columns), args.rounds)
  rows = [{key: f'{row[key]:.4g}' if isinstance(row.get(key), float)
           else row.get(key, '') for key in classifier_benchmark.COLUMNS}
          for row in found]
  for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]:
    first, *cells = row.values()
    print(f'{first:20}', *(f'{cell:>{max(len(key), 8)}}' for key, cell
                           in zip(list(row)[1:], cells, strict=True)))
  return rows


if __name__ == '__main__':
  cli.run(main, define_flags)
