"""Every config, and every point of every sweep, is one that can be run."""
import dataclasses
import importlib
import inspect
import pathlib
import re
import sys

import jax.numpy as jnp
import pytest
from absl import flags
from configs import cutpaste_mvtec
from conftest import ROOT
from ml_collections import ConfigDict, config_flags

from deep_oc import (augment, cli, config_files, cutpaste, distribution, errors,
                     experiment, models, plugins, runs)

NAMES = sorted(path.stem for path in pathlib.Path('configs').glob('*.py'))


@pytest.fixture(params=NAMES)
def module(request):
  return importlib.import_module(f'configs.{request.param}')


def test_the_issues_configs_are_there():
  assert {'quickstart'} | {
      f'{pretext}_{name}' for pretext in ('rotnet', 'rotation', 'simclr',
                                          'dacl', 'denoising')
      for name in ('cifar10', 'fmnist', 'cifar20', 'cifar100', 'catdog',
                   'celeba')} | {
          'cutpaste_mvtec', 'cutpaste_patch_mvtec', 'cutpaste_folder',
          'cutpaste_patchnet_mvtec', 'cutpaste_quickstart',
          'rotnet_mvtec', 'rotation_mvtec', 'simclr_mvtec', 'dacl_mvtec',
          'deep_svdd_cifar10', 'deep_svdd_fmnist'
      } <= set(NAMES)


def test_the_docstring_gives_the_command_and_the_folder(module):
  name = module.__name__.removeprefix('configs.')
  assert f'--config=configs/{name}.py' in module.__doc__
  assert f"--runs='runs/{name}" in module.__doc__
  # With the default of its argument, if it has one: cutpaste_mvtec_bottle.
  assert module.get_config().experiment in (
      name, f'{name}_bottle', f'{name}_rotation')


def test_its_groups_build_what_they_name(module):
  config = module.get_config()
  experiment.check(config)
  plan = experiment.plan(config)
  assert plan.total_steps(5000) > 0
  assert experiment.pretext(config).encoder == models.create(
      **config.encoder, dtype=jnp.dtype('float32'))
  assert distribution.copies(config.distribution) >= 1
  experiment.optimizer(config, 5000)


def test_every_field_of_the_plan_can_be_set_by_a_flag(module):
  fields = {field.name for field in dataclasses.fields(experiment.Plan)}
  assert set(module.get_config().train) == fields


def test_other_features_can_be_asked_of_it_by_flags(module):
  config = module.get_config()
  config.update_from_flattened_dict({'embed.views': 'rot', 'embed.stages': 2})
  if config.pretext.get('centre'):  # the mean image does not turn
    config.pretext.centre = False
  assert experiment.embed(config) == experiment.Embed('rot', 2)
  assert experiment.pretext(config).encoder.stages >= 2


def test_every_point_of_its_sweep_is_a_valid_and_different_config(module):
  hashes = set()
  for point in module.sweep():
    config = module.get_config()
    config.update_from_flattened_dict(point)
    experiment.check(config)
    hashes.add((runs.default_workdir(config), runs.config_hash(config)))
  assert len(hashes) == len(list(module.sweep())) > 1


@pytest.mark.parametrize('name, images, steps', [
    ('rotation_cifar10', 5000, 159_744), ('simclr_cifar10', 5000, 319_488),
    ('dacl_cifar10', 20_000, 1_280_000), ('rotation_fmnist', 6000, 190_464),
    ('simclr_fmnist', 6000, 382_976), ('dacl_fmnist', 24_000, 1_536_000),
    ('hendrycks_cifar10', 5000, 70_200), ('goad_cifar10', 5000, 20_000),
    ('arnet_cifar10', 5000, 19_500),
    ('rotnet_cifar20', 2500, 79_872), ('rotation_cifar20', 2500, 79_872),
    ('simclr_cifar20', 2500, 159_744), ('dacl_cifar20', 10_000, 638_976),
    ('rotnet_cifar100', 500, 14_336), ('rotation_cifar100', 500, 14_336),
    ('simclr_cifar100', 500, 30_720), ('dacl_cifar100', 2000, 126_976),
    ('rotnet_catdog', 10_000, 319_488), ('rotation_catdog', 10_000, 319_488),
    ('simclr_catdog', 10_000, 638_976), ('dacl_catdog', 40_000, 2_560_000),
    ('denoising_cifar10', 5000, 159_744), ('denoising_cifar20', 2500, 79_872),
    ('denoising_fmnist', 6000, 190_464), ('denoising_cifar100', 500, 14_336),
    ('denoising_catdog', 10_000, 319_488)])
def test_the_published_schedules_have_their_number_of_steps(
    name, images, steps):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  assert experiment.plan(config).total_steps(images) == steps
  shown = re.findall(r'[\d,]{6,}', module.__doc__)
  assert f'{steps:,}' in shown


@pytest.mark.parametrize('name', ['rotation_cifar10', 'dacl_cifar10'])
def test_a_fast_recipe_takes_a_tenth_of_the_image_passes(name):
  def passes(name):
    config = importlib.import_module(f'configs.{name}').get_config()
    images = 5000 * distribution.copies(config.distribution)
    return (config.train.batch * experiment.pretext(config).inputs_per_image
            * experiment.plan(config).total_steps(images))
  assert passes(f'fast_{name}') / passes(name) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize('name', ['rotation_cifar10', 'fast_dacl_cifar10'])
def test_a_task_that_tells_turns_takes_no_turned_copies(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  config.distribution = 'hflip'
  experiment.pretext(config)
  config.distribution = 'rot'
  with pytest.raises(errors.InputError) as error:
    experiment.pretext(config)
  assert str(error.value) == (
      "distribution='rot' turns the images whose turn the pretext task "
      f"'{config.pretext.name}' is to tell; --config.distribution=none")


def test_its_data_group_has_keys_that_its_source_takes(module):
  config = module.get_config()
  read = plugins.find('deep_oc.data', config.data.source, 'load')
  given = {key: value for key, value in config.data.items()
           if key not in ('source', 'pad')}
  inspect.signature(read).bind(**given)


@pytest.mark.parametrize('name, images', [('cifar10', 5000), ('fmnist', 6000)])
def test_a_soft_boundary_is_warmed_up_for_ten_epochs(name, images):
  config = importlib.import_module(f'configs.deep_svdd_{name}').get_config()
  assert config.pretext.warmup_steps == (
      10 * experiment.plan(config).steps_per_epoch(images))


@pytest.mark.parametrize('pretext, name, classes', [
    ('deep_svdd', 'fmnist', 10), *(
        (pretext, *each) for pretext in ('rotnet', 'rotation', 'simclr', 'dacl',
                                         'denoising')
        for each in (('fmnist', 10), ('cifar20', 20), ('cifar100', 100),
                     ('catdog', 2), ('celeba', 1)))])
def test_a_data_set_differs_from_cifar10_in_its_data_only(
    pretext, name, classes):
  module = importlib.import_module(f'configs.{pretext}_{name}')
  cifar10 = importlib.import_module(
      f'configs.{pretext}_cifar10').get_config()
  config = module.get_config()
  if pretext == 'deep_svdd':  # in steps, of which an epoch has more or fewer
    config.pretext.warmup_steps = cifar10.pretext.warmup_steps
  for key in cifar10:
    if key not in ('experiment', 'data'):
      assert config[key] == cifar10[key]
  points = list(module.sweep())
  assert len(points) == 5 * classes
  assert {point.get('protocol.normal', '0') for point in points} == {
      str(label) for label in range(classes)}


def test_another_attribute_of_celeba_is_another_experiment():
  module = importlib.import_module('configs.simclr_celeba')
  config = module.get_config('Smiling')
  assert config.data.attribute == 'Smiling'
  assert config.experiment == 'simclr_celeba_smiling'


@pytest.mark.parametrize('name', ['cifar10', 'cifar20', 'fmnist'])
def test_imagenet_s_features_may_be_those_of_a_lite_network(name):
  module = importlib.import_module(f'configs.imagenet_{name}')
  config, other = module.get_config(), module.get_config('lite0')
  experiment.check(other)
  assert other.experiment == f'imagenet_lite0_{name}'
  assert other.method == 'imagenet_lite0'
  folder = importlib.import_module('configs.imagenet_folder').get_config()
  assert other.encoder == folder.encoder  # and how their authors see images
  assert {key for key in config if config[key] != other[key]} == {
      'experiment', 'method', 'encoder'}
  with pytest.raises(errors.InputError, match="did you mean 'lite0'"):
    module.get_config('lite1')


def test_of_a_folder_places_up_to_the_edges_are_looked_at():
  folder, mvtec = (importlib.import_module(f'configs.imagenet_{name}')
                   .get_config().localize for name in ('folder', 'mvtec'))
  assert (folder.border, mvtec.border) == (8, 16)
  assert folder == ConfigDict({**mvtec, 'border': 8})


def test_the_published_augmentation_is_the_official_chain():
  config = importlib.import_module('configs.dacl_cifar10').get_config()
  given = {key: value for key, value in config.pretext.augment.items()}
  assert augment.Chain(**given) == augment.Chain(**augment.DROC)


@pytest.mark.parametrize('name', [n for n in NAMES if n.endswith('_mvtec')])
def test_the_sweep_over_mvtec_has_fifteen_categories_and_five_seeds(name):
  module = importlib.import_module(f'configs.{name}')
  points = list(module.sweep())
  # Of trained weights one seed is all.
  assert len(points) == (15 if name == 'imagenet_mvtec' else 75)
  assert {point['experiment'].removeprefix(f'{name}_')
          for point in points} == set(cutpaste_mvtec.CATEGORIES)
  for point in points:
    category = point['experiment'].removeprefix(f'{name}_')
    config = module.get_config()
    config.update_from_flattened_dict(point)
    wanted = module.get_config(category)
    wanted.seed = point['seed']
    assert config == wanted
    assert config.data.name == f'mvtec_ad/{category}'


@pytest.mark.parametrize('name', ['rotnet', 'rotation', 'simclr', 'dacl'])
def test_mvtec_differs_from_cifar10_in_data_patches_and_steps_only(name):
  cifar10, mvtec = (
      importlib.import_module(f'configs.{name}_{each}').get_config()
      for each in ('cifar10', 'mvtec'))
  assert mvtec.pretext.crop == 32 and mvtec.train.steps == 65_536
  assert mvtec.protocol.normal == 'good'
  assert mvtec.train.batch == cifar10.train.batch
  assert mvtec.pretext == ConfigDict({**cifar10.pretext, 'crop': 32})
  assert mvtec.method == f'{cifar10.method}_patch'
  for key in ('dtype', 'distribution', 'encoder', 'optimizer'):
    assert mvtec[key] == cifar10[key]


@pytest.mark.parametrize('name', [n for n in NAMES if n.endswith('_mvtec')])
def test_toothbrushs_sixty_images_fill_a_batch(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config('toothbrush')
  images = 60 * distribution.copies(config.distribution)
  assert experiment.plan(config).steps_per_epoch(images) >= 1


def test_the_papers_cutpaste_defects_are_the_defaults():
  config = importlib.import_module('configs.cutpaste_mvtec').get_config()
  assert experiment.pretext(config).defects == cutpaste.Defects()
  assert config.train.steps * config.train.batch * 3 == 6_291_456


def test_a_folder_has_a_schedule_for_cpus_too():
  module = importlib.import_module('configs.cutpaste_folder')
  published, small = module.get_config(), module.get_config('small')
  experiment.check(small)
  experiment.pretext(small)
  experiment.optimizer(small, 60)
  assert runs.default_workdir(small) != runs.default_workdir(published)

  def pixels(config):
    return config.train.steps * config.train.batch * config.data.size ** 2
  assert pixels(published) / pixels(small) > 300
  with pytest.raises(errors.InputError, match="did you mean 'small'"):
    module.get_config('smal')


def test_a_misspelt_category_offers_the_nearest():
  module = importlib.import_module('configs.cutpaste_patch_mvtec')
  with pytest.raises(errors.InputError, match="did you mean 'hazelnut'"):
    module.get_config('hazlenut')


@pytest.mark.parametrize('key, said', [
    ('train.stepz', "unknown config key 'stepz'; did you mean 'steps'?"),
    ('trin.steps', "unknown config key 'trin'; did you mean 'train'?"),
    ('other', "unknown config key 'other'; a flag sets what the config's file "
     'has, so add it there first')])
def test_a_misspelt_field_offers_the_nearest(key, said, monkeypatch, capsys):
  with pytest.raises(errors.InputError) as caught:
    config_files.read('configs/quickstart.py', {key: 3})
  assert str(caught.value) == said
  argv = ['train', *config_files.arguments('configs/quickstart.py', {key: 3})]
  monkeypatch.setattr(flags, 'FLAGS', flags.FlagValues())
  config_flags.DEFINE_config_file(
      'config', flag_values=flags.FLAGS, sys_argv=argv)
  with pytest.raises(SystemExit):
    cli._parse(argv)
  assert capsys.readouterr().err == f'error: {said}\n'


@pytest.mark.parametrize('given, said', [
    ('configs/dacl_cifar1.py', "unknown config in configs/ 'dacl_cifar1'; did "
     "you mean 'dacl_cifar10'?"),
    ('configs/smal_fmnist.py:rotation', "unknown config in configs/ "
     "'smal_fmnist'; did you mean 'small_fmnist'?"),
    *((name, f"no config at '{name}'; this package's are in the folder configs "
       'of its repository: start there, or give the whole path')
      for name in ('nowhere/mine.py', ''))])
def test_a_config_that_is_not_there_offers_the_nearest(
    given, said, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  with pytest.raises(errors.InputError) as caught:
    config_files.read(given, {})
  assert str(caught.value) == said
  with pytest.raises(SystemExit):
    cli._parse(['train', f'--config={given}'])
  assert capsys.readouterr().err == f'error: {said}\n'


def test_a_file_that_is_no_config_is_said_to_be_none(tmp_path, monkeypatch):
  # The module of another config would lend it its own.
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  (tmp_path / 'mine.py').write_text('')
  with pytest.raises(errors.InputError, match='it has no get_config'):
    config_files.read(str(tmp_path / 'mine.py'), {})


@pytest.mark.parametrize('given, said', [
    ('configs/cutpaste_folder.py:smal',
     "unknown schedule 'smal'; did you mean 'small'?"),
    ('configs/quickstart.py:3',
     "configs/quickstart.py takes no argument; leave out ':3'")])
def test_what_a_config_refuses_is_said_without_where(
    given, said, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  with pytest.raises(errors.InputError) as caught:
    config_files.read(given, {})
  assert str(caught.value) == said
  argv = ['train', f'--config={given}']
  monkeypatch.setattr(flags, 'FLAGS', flags.FlagValues())
  config_flags.DEFINE_config_file(
      'config', flag_values=flags.FLAGS, sys_argv=argv)
  with pytest.raises(SystemExit):
    cli._parse(argv)
  assert capsys.readouterr().err == f'error: {said}\n'


def test_home_is_found_after_an_equals_sign(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  values = flags.FlagValues()
  monkeypatch.setattr(flags, 'FLAGS', values)
  for name in ('workdir', 'runs', 'config.data.path'):
    flags.DEFINE_string(name, '', '', flag_values=values)
  given = cli._parse(['train', '--workdir=~/run', '-runs=~/runs/**',
                      '--config.data.path=~/parts', 'a=~/b'])
  assert given == ['train', 'a=~/b']
  assert (values.workdir, values.runs) == (
      f'{tmp_path}/run', f'{tmp_path}/runs/**')
  assert values['config.data.path'].value == '~/parts'  # as in config.json


@pytest.mark.parametrize('flag', [['--config={}:x'], ['-config', '{}']])
def test_a_config_finds_its_neighbours_from_any_folder(
    flag, tmp_path, monkeypatch):
  folder = tmp_path / f'configs_of_{len(flag)}'
  folder.mkdir()
  (folder / 'base.py').write_text('seeds = (3,)')
  (folder / 'mine.py').write_text(
      f'from {folder.name} import base\n'
      'def sweep():\n'
      "  return [{'seed': seed} for seed in base.seeds]\n")
  monkeypatch.setattr(sys, 'path', list(sys.path))
  cli._find_neighbours(['', *(each.format(folder / 'mine.py')
                              for each in flag)])
  assert config_files.points(f'{folder}/mine.py') == [{'seed': 3}]
