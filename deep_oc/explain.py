"""Why a trained run calls images anomalous: pictures, and how good they are.

  python -m deep_oc.explain --workdir=runs/rotation_cifar10/8/seed0
  python -m deep_oc.explain --workdir=runs/dacl_cifar10/0/seed0 --input=photos

explains the `--count` most telling test images, those of the highest scores and
the worst mistakes, or the most anomalous of images of your own. What is
explained is `--score`: that of a one-class classifier by name, or the pretext
task's own: 'rotation' for example, as minus the log of a probability, or
'distance', as it is. The output folder, `explanations` in the run's folder by
default, gets

  <image>.png        the image, each method's map, the same of the network with
                     random weights, and the nearest normal training images
  explanations.csv   a row for each image and method: `explanation_tables`
  explanations.json  the command, versions, settings, and the summary
  <image>.npz        with --arrays: each map, f64[h, w], by method

Integrated gradients take more steps by themselves until they add up within
`--tolerance` to the rise of the score since the baseline; the error that is
left is in the CSV. Deletion, insertion and pixel AUROC say how good a map is
(`deep_oc.faithfulness`). Maps of a network with random weights, where the
classifier is fitted anew to its features, should be worse at all of them, at
explaining the same score of the trained one, and unlike the trained one's.

Where heat maps of windows are judged (--feature=windows, by default of what
`deep_oc.predict` so judges) they are the maps themselves, and explained by what
they are compared with: each picture has the highest places, and of the normal
images the places most like them (`deep_oc.place_explanations`). A place that is
normal to the eye tells what normal images lack.
"""
from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from deep_oc import (cli, embeddings, errors, experiment, files, oneclass,
                     progress, protocols, provenance, tables, unseen)
from deep_oc.errors import InputError

if cli.works(__name__):
  from deep_oc import (allocator, attributions, chosen, detector,
                       differentiable, explainer, explanation_tables,
                       faithfulness, feature_explanations, heat_colours, photos,
                       place_explanations, places, pretexts, trained_run)

# Flags that say how a score of features is explained.
_OF_POOLED = ('score', 'method', 'baseline', 'steps', 'tolerance', 'side',
              'stride')


def define_flags() -> None:
  unseen.define_flags('That classifiers are fitted to: pool, head, '
                      'pool_flip_rot ...; or windows, whose heat map is '
                      'explained by the normal places most like its highest. '
                      'By default what predict judges by, or pool if a flag is '
                      'given that windows do not take.')
  flags.DEFINE_string('workdir', None, 'Folder of a trained run.')
  flags.DEFINE_string(
      'input', None, 'Folder of images, a pattern of files, or one file; by '
      "default test images of the run's data set.")
  flags.DEFINE_string(
      'output', None, "By default `explanations` in the run's folder.")
  flags.DEFINE_string(
      'score', None, 'A classifier, as kde, gde_ledoit_wolf, ocsvm_rbf or knn, '
      "or a score of the pretext task's own, as rotation; by default the "
      'classifier by which `deep_oc.predict` judges the feature.')
  flags.DEFINE_list(
      'method', [], 'Some of integrated_gradients, smoothgrad, gradcam, '
      'occlusion; by default all.')
  flags.DEFINE_string(
      'baseline', None, 'What images are compared with, and what hidden pixels '
      'are replaced by: mean (of the normal training images), black, blur (the '
      'image itself), nearest (normal training image), or expected (the mean '
      'over several of them). By default mean, or nearest where the mean is '
      'itself called anomalous.')
  flags.DEFINE_integer('count', 12, 'How many images.', 1)
  flags.DEFINE_integer(
      'steps', None, 'Of integrated gradients, to begin with; by default 50.',
      1)
  flags.DEFINE_float(
      'tolerance', None, 'Of the completeness error, as a share of the rise; '
      'by default 0.01.', 0.)
  flags.DEFINE_integer('samples', 50, 'Of SmoothGrad.', 1)
  flags.DEFINE_float('noise', 0.15, "Of SmoothGrad, of the image's range.", 0.)
  flags.DEFINE_integer(
      'side', None, "Of what occlusion hides; an eighth of the image's by "
      'default.', 1)
  flags.DEFINE_integer('stride', None, 'Half the side by default.', 1)
  flags.DEFINE_integer('neighbours', 5, 'Nearest training images to show.', 1)
  flags.DEFINE_bool('arrays', False, 'Write each map as .npz, too.')
  flags.DEFINE_string(
      'data_dir', None, 'Where the training images lie now, if they moved.')


def _explain_all(writer: feature_explanations.Writer,
                 images: Sequence[chosen.Chosen]) -> None:
  count = 2 * len(writer.maps) * len(images)
  with progress.bar(total=count, desc='explain', unit='maps') as bar:
    for image in images:
      writer.explain(image, bar.update)


def _settings(args: Any, shape: Sequence[int]) -> explainer.Settings:
  for name in args.method:
    if name not in explainer.METHODS:
      raise errors.unknown('method', name, explainer.METHODS)
  if args.baseline and args.baseline not in explainer.BASELINES:
    raise errors.unknown('baseline', args.baseline, explainer.BASELINES)
  side = args.side or max(max(shape[:2]) // 8, 1)
  if side > min(shape[:2]):
    raise InputError(f'--side={side} is larger than the images, '
                     f'{shape[0]}x{shape[1]}')
  if args.stride and args.stride > side:
    raise InputError(f'--stride={args.stride} leaves pixels that are never '
                     f'hidden by --side={side}; take {side} at most')
  return explainer.Settings(
      methods=tuple(dict.fromkeys(args.method or explainer.METHODS)),
      steps=args.steps or attributions.STEPS,
      tolerance=(attributions.TOLERANCE if args.tolerance is None
                 else args.tolerance), samples=args.samples, noise=args.noise,
      side=side, stride=args.stride or max(side // 2, 1),
      points=faithfulness.POINTS)


def _possible(methods: tuple[str, ...], asked: bool,
              found: detector.Detector, name: str) -> tuple[str, ...]:
  """Leaves out Grad-CAM if the score of this name is of no map for it.

  Raises:
    InputError: it was asked for.
  """
  task = found.parts().pretext
  _, seen = pretexts.shapes(task.encoder, *found.image_shape[:2])
  own = name in pretexts.names(task, 'score_map')
  if 'gradcam' not in methods or (seen and len(seen) == 4 and not own):
    return methods
  if asked:
    reason = ('explains scores of pooled features, and this one is the mean of '
              'a map of its own' if own else
              'takes a feature map, and this encoder sows none')
    raise InputError(f'Grad-CAM {reason}; leave gradcam out of --method')
  return tuple(each for each in methods if each != 'gradcam')


def _feature(args: Any) -> str:
  """Returns what the explained score is of.

  Raises:
    InputError: that of windows cannot be explained, or takes no such flag.
  """
  given = [name for name in _OF_POOLED if getattr(args, name) not in (None, [])]
  feature = args.feature or (
      'pool' if given else trained_run.recommended(args.workdir))
  if feature != detector.WINDOWS:
    return feature
  method, *_ = trained_run.windows(args.workdir)
  if not places.have(method) and not args.feature:
    return 'pool'
  if given or not places.have(method):
    raise InputError(
        f"--feature={feature} explains a heat map by the normal places most "
        'like its highest, ' + (
            f'and takes no --{given[0]}' if given else
            'where all places of one size share a density '
            "(localize.positions='shared')")
        + '; --feature=pool explains the score of pooled features')
  return feature


def _load(args: Any, feature: str) -> tuple[detector.Detector, str]:
  """Returns the detector, and the name of the score to explain."""
  own = differentiable.task_scores(
      experiment.pretext(experiment.of_run(args.workdir)))
  if args.feature == detector.SCORE:
    raise InputError('--feature names what a classifier is fitted to; to '
                     "explain the task's own score give "
                     f"--score={' or '.join(own)}" if own else
                     f"the task has no '{detector.SCORE}' of its own")
  spec = args.score
  if spec and spec not in own and spec.isidentifier() \
      and spec not in oneclass.CLASSIFIERS:
    raise errors.unknown('score', spec, [*oneclass.CLASSIFIERS, *own])
  found = trained_run.load_as_asked(
      args, None if spec in own else spec, feature, unseen.calibrating(args))
  if spec in own:
    trained_run.check_statistics(found.parts().variables)
  return found, spec or found.classifier


def _problem(found: detector.Detector, stored: Mapping[str, Any]
             ) -> protocols.Problem:
  problem = experiment.problem_of_run(found.parts().config)
  if len(problem.fitted) != len(stored[found.feature]):
    raise InputError(
        f'the data set has {len(problem.fitted)} normal training images, '
        f'embeddings/train.npz {len(stored[found.feature])}; embed again')
  embeddings.check_same(
      stored.get('pixels'), problem.fitted.image, problem.dataset)
  return problem


def _test_scores(found: detector.Detector, network: explainer.Network,
                 name: str, workdir: str) -> np.ndarray:
  """Returns the scores f[n] of the test images, from their embeddings."""
  _, arrays, _ = embeddings.read_run(workdir)
  if not network.judge:
    return arrays[f'score_{name}']
  return found.parts().calibrated.judge(arrays[found.feature])[0]


def _baseline(asked: str | None, network: explainer.Network,
              normal: np.ndarray) -> str:
  """Returns the baseline that is asked for, or the one to use without.

  That is 'mean', or 'nearest' where no normal image looks like their mean. Of
  photographs that is a blur: by features that know edges an anomaly, and
  nothing that is wrong with an image shows beside it.

  Args:
    asked: its name, or None.
    network: that is explained.
    normal: training images u8[n, h, w, 3].
  """
  if asked:
    return asked
  mean = np.uint8(np.rint(normal.mean(axis=0)))
  if network.judge and network.judge(mean[None]).anomalous[0]:
    return 'nearest'
  return 'mean'


def _is_cosine(found: detector.Detector, network: explainer.Network) -> bool:
  """Tells whether the classifier looks at directions only, or none is asked."""
  fitted, _ = found.parts().calibrated.parts[0]
  return network.judge is None or explainer.is_cosine(fitted)


def _check_apart(images: Sequence[chosen.Chosen], others: np.ndarray | None
                 ) -> None:
  """Raises InputError if one is among u8[m, h, w, 3], which calibrate it."""
  known = set() if others is None else {each.tobytes() for each in others}
  both = sum(image.pixels.tobytes() in known for image in images)
  if both:
    raise InputError(f'{both} of the {len(images)} images to explain are among '
                     'those that --calibration says are normal; give others')


def _explain_places(args: Any, given: unseen.Found | None, output: Any
                    ) -> None:
  """Explains heat maps, by the normal places most like their highest."""
  found, name = _load(args, detector.WINDOWS)
  print(f"{name} on '{found.feature}' of {args.workdir}, step "
        f'{found.about["step"]}', flush=True)
  about = _about(args, found, name)
  if given:
    images, tally = chosen.of_files(given, found, args.count)
    about |= _counts(tally)
  else:
    problem = found.normal.problem
    images = chosen.of_test(problem, found.judge_maps(
        found.heat_maps(problem.test.image)).score, args.count)
  _check_apart(images, found.parts().others)
  rows = list(place_explanations.write(
      found, images, output, heat_colours.of_run(
          args.workdir, found.localizes), count=args.neighbours,
      arrays=args.arrays, command=provenance.command()))
  tables.write(output / 'explanations.csv', place_explanations.COLUMNS, rows,
               about | {'images': len(images)})
  print(f'{place_explanations.show(rows)}\n\nwrote {output}')


def _about(args: Any, found: detector.Detector, name: str
           ) -> dict[str, object]:
  """Returns what explanations.json says of what is explained."""
  return {'workdir': args.workdir, 'run': found.about, 'explained': name,
          'feature': found.feature,
          'false_alarm_rate': found.false_alarm_rate,
          'calibration': found.calibration}


def _counts(tally: photos.Tally) -> dict[str, object]:
  return {'scored': tally.scored,
          'unreadable': [path for path, _ in tally.unreadable]}


def main() -> None:
  args = flags.FLAGS
  if not args.workdir:
    raise InputError('--workdir is required; see --help')
  errors.check_number('--noise', args.noise)
  output = files.path(args.output or f'{args.workdir}/explanations')
  given = unseen.find(args.input, without=output) if args.input else None
  stored, meta = embeddings.read(
      files.path(args.workdir) / 'embeddings' / 'train.npz')
  allocator.keep_freed_memory()
  settings = _settings(args, meta.get('image_shape', (1, 1)))
  feature = _feature(args)
  if feature == detector.WINDOWS:
    _explain_places(args, given, output)
    return
  found, name = _load(args, feature)
  settings = dataclasses.replace(settings, methods=_possible(
      settings.methods, bool(args.method), found, name))
  problem = _problem(found, stored)
  both = explainer.networks(found, name, stored, problem)
  baseline = _baseline(args.baseline, both[0], problem.fitted.image)
  print(f"{name} on '{feature}' of {args.workdir}, step "
        f'{found.about["step"]}; baseline: {baseline}', flush=True)
  about = _about(args, found, name) | {
      'baseline': baseline, 'settings': settings.__dict__}
  if given:
    images, tally = chosen.of_files(
        given, found, args.count, None if both[0].judge else both[0].score)
    about |= _counts(tally)
  else:
    images = chosen.of_test(problem, _test_scores(
        found, both[0], name, args.workdir), args.count)
  _check_apart(images, found.parts().others)
  writer = feature_explanations.Writer(
      output, both, problem, settings, name=name, baseline=baseline,
      cosine=_is_cosine(found, both[0]), count=args.neighbours,
      seed=found.about.get('seed', 0), arrays=args.arrays,
      command=provenance.command())
  _explain_all(writer, images)
  about |= {'images': len(images), 'methods': explanation_tables.summary(
      writer.rows, writer.maps)}
  tables.write(output / 'explanations.csv', explanation_tables.COLUMNS,
               writer.rows, about)
  print(f'{explanation_tables.show(about["methods"])}\n\nwrote {output}')
  for line in explanation_tables.warnings(writer.rows, settings.tolerance):
    print(f'warning: {line}', file=sys.stderr)


if __name__ == '__main__':
  cli.run(main, define_flags)
