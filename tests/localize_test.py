"""Heat maps of whole runs, on generated fabric whose flaws are known."""
import shutil

import numpy as np
import pytest
from configs import cutpaste_quickstart
from conftest import the_error
from ml_collections import ConfigDict

from deep_oc import (embed, embeddings, localize, maps, suspicious, tables,
                     thresholds, trained_run)
from deep_oc.errors import InputError

_SHORT = ('--config.encoder.channels=(8,8,16)',
          '--config.encoder.strides=(1,2,2)', '--config.train.steps=60',
          '--config.train.monitor_every=60', '--config.localize.stride=8')
_CONFIG = 'configs/cutpaste_quickstart.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fabric') / 'run'


@pytest.fixture
def run(folder, binary):
  """A short run with maps of windows, made once."""
  if not (folder / 'embeddings' / 'maps.npz').exists():
    done = binary('train', f'--workdir={folder}', *_SHORT, config=_CONFIG)
    assert done.returncode == 0, done.stderr
  return folder


def test_train_and_evaluate_find_pixels_and_draw_them(run, binary, tmp_path):
  done = binary('evaluate', f'--runs={run}',
                f'--output={tmp_path / "summary.csv"}')
  assert done.returncode == 0, done.stderr
  rows = {(row['feature'], row['level']): row
          for row in tables.read(run / 'results.csv')
          if row['classifier'] == 'gde_ledoit_wolf'}
  pixel = rows['windows', 'pixel']
  assert float(pixel['auroc']) > 60  # 50 is guessing
  assert 0 < float(pixel['aupro']) < 100
  assert '"positions": "shared"' in pixel['classifier_params']
  assert ('random_windows', 'pixel') in rows
  image = rows['windows', 'image']
  assert image['n_test_normal'] == '60' and image['aupro'] == ''
  arrays, _ = embeddings.read_maps(run)
  drawn = list((run / 'pictures').rglob('*.png'))
  assert len(drawn) >= len(arrays['label'])
  assert 'windows, pixels' in done.stdout


def test_maps_differ_between_images_and_stand_out_where_the_masks_are(run):
  arrays, _ = embeddings.read_maps(run)
  maps, mask = arrays['map_windows'], arrays['mask']
  assert maps.shape == mask.shape and maps.std(axis=0).min() > 0
  flawed = mask.any(axis=(1, 2))
  inside = np.mean([each[m].mean() for each, m in zip(
      maps[flawed], mask[flawed], strict=True)])
  assert inside > maps[~flawed].mean()


def test_training_images_are_ranked_by_maps_that_others_made(run):
  ranking = suspicious.rank(run, feature='windows', folds=2)
  assert ranking.classifier == 'gde_ledoit_wolf'
  method, image = trained_run.load(str(run)).localizer()
  kept, held_out = thresholds.split(len(image), 2, 0)[0]
  state = embed.restore(str(run))[-1]
  wanted = method.fit(state.variables, image[kept]).maps(image[held_out])
  score = ranking.score[np.argsort(ranking.index)]
  np.testing.assert_allclose(score[held_out], wanted.max(axis=(1, 2)),
                             rtol=1e-4)


def test_localize_makes_the_maps_again_with_another_setting(run, binary):
  before, _ = embeddings.read_maps(run)
  done = binary('localize', f'--workdir={run}', '--set=stride=16')
  assert done.returncode == 0, done.stderr
  coarse, meta = embeddings.read_maps(run)
  assert meta['map_params']['stride'] == 16
  assert np.abs(coarse['map_windows'] - before['map_windows']).max() > 0
  found = trained_run.load(str(run))  # makes them as they were made last
  np.testing.assert_allclose(found.heat_maps(coarse['image'][:4]),
                             coarse['map_windows'][:4], rtol=1e-3)
  assert found.map_parameters() == meta['map_params']
  done = binary('localize', f'--workdir={run}')  # the config's own
  assert done.returncode == 0, done.stderr
  again, _ = embeddings.read_maps(run)
  np.testing.assert_array_equal(again['map_windows'], before['map_windows'])
  assert trained_run.load(str(run)).localizer()[0].stride == 8


@pytest.mark.parametrize('settings, words', [
    (['--set=strid=4'], "unknown config key 'localize.strid'"),
    (['--set=stride'], 'not of the form key=value'),
    (['--set=name=gradcm'], 'gradcam'),
    (['--set=name=gradcam'], 'trained on crops'),
    (['--set=side=65'], 'windows of 65 pixels'),
    (['--set=positions=all'], 'known: shared, each'),
    (['--data_dir=/not/there'], '--data_dir says where they lie now')])
def test_a_setting_that_cannot_be_is_one_line(run, binary, settings, words):
  line = the_error(binary('localize', f'--workdir={run}', *settings))
  assert words.lower() in line.lower(), line


def test_it_is_said_before_any_image_is_read(never_stopped, binary):
  line = the_error(binary('localize', f'--workdir={never_stopped}',
                          '--set=positions=all', '--data_dir=/not/there'))
  assert "unknown localize.positions 'all'" in line


@pytest.mark.parametrize('sigma', [0, -1., 'wide'])
def test_windows_are_spread_by_a_width_above_0(sigma):
  with pytest.raises(InputError, match=f'sigma is {sigma!r}; .* above 0'):
    maps.Windows(None, 0, sigma=sigma)


@pytest.mark.parametrize('change', ['damaged', 'older', 'none'])
def test_maps_that_do_not_say_how_they_were_made_are_no_hindrance(
    run, tmp_path, change):
  shutil.copytree(run, tmp_path / 'run')
  path = tmp_path / 'run' / 'embeddings' / 'maps.npz'
  arrays, meta = embeddings.read(path)
  if change == 'older':
    del meta['localize']
    embeddings.write(str(path), arrays, meta)
  elif change == 'damaged':
    path.write_bytes(path.read_bytes()[:-100])
  else:
    path.unlink()
  found = trained_run.load(str(tmp_path / 'run'))
  assert found.localizer()[0].stride == 8  # the config's


def test_maps_of_another_step_are_not_measured(run, tmp_path):
  _, _, meta = embeddings.read_run(run)
  with pytest.raises(InputError, match='deep_oc.localize'):
    embeddings.read_maps(run, meta | {'step': 7})


@pytest.mark.slow
def test_gradcam_explains_a_model_of_whole_images(binary, tmp_path):
  done = binary(
      'train', f'--workdir={tmp_path}', *_SHORT, '--config.pretext.crop=0',
      config=_CONFIG)
  assert done.returncode == 0, done.stderr
  done = binary('localize', f'--workdir={tmp_path}', '--set=name=gradcam')
  assert done.returncode == 0, done.stderr
  with pytest.raises(InputError, match='are by gradcam, not of windows'):
    trained_run.load(str(tmp_path), feature='windows')
  arrays, meta = embeddings.read_maps(tmp_path)
  maps = arrays['map_gradcam']
  assert maps.shape == arrays['mask'].shape and maps.min() >= 0
  assert maps.std(axis=0).max() > 0
  assert meta['map_params']['classifier'] == 'gde_ledoit_wolf'
  done = binary('evaluate', f'--runs={tmp_path}', '--nopictures')
  assert done.returncode == 0, done.stderr
  levels = {row['level'] for row in tables.read(tmp_path / 'results.csv')
            if row['feature'] == 'gradcam'}
  assert levels == {'pixel'}


@pytest.mark.slow
def test_seeds_are_averaged_into_an_ensemble(run, binary, tmp_path):
  runs = tmp_path / 'runs'
  shutil.copytree(run, runs / 'seed0')
  done = binary('train', f'--workdir={runs / "seed1"}', '--config.seed=1',
                *_SHORT, config=_CONFIG)
  assert done.returncode == 0, done.stderr
  done = binary('evaluate', f'--runs={runs}', '--ensemble', '--nopictures',
                '--classifiers=kde')
  assert done.returncode == 0, done.stderr
  rows = tables.read(runs / 'ensemble_seed0' / 'results.csv')
  assert {row['seed'] for row in rows} == {'0+1'}
  assert {('pool', 'image'), ('windows', 'pixel')} <= {
      (row['feature'], row['level']) for row in rows}
  assert 'cutpaste_3way_patch_ensemble' in done.stdout


def test_another_method_forgets_the_fields_of_the_first():
  config = localize.overridden(
      cutpaste_quickstart.get_config(), ['name=gradcam'])
  assert config.localize.to_dict() == {'name': 'gradcam'}


def test_a_run_without_the_group_says_what_to_choose():
  with pytest.raises(InputError, match='--set=name=windows or'):
    localize.overridden(ConfigDict({'seed': 0}), [])
