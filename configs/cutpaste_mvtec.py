"""CutPaste, 3-way, on one category of MVTec AD at 256 pixels.

  export MVTEC_AD=/where/mvtec_ad/lies
  python -m deep_oc.train --config=configs/cutpaste_mvtec.py:bottle
  python -m deep_oc.evaluate --runs='runs/cutpaste_mvtec_*/**'

Li et al., CVPR 2021, table 1: mean AUROC over the 15 categories 95.2 ± 0.6
(standard error, five seeds), by a Gaussian density of the pooled features. A
category takes 65,536 steps of 96 network inputs, 0.09 EFLOP. Half as many steps
(--config.train.steps=32768) cost nothing measurable: 95.4 ± 0.5, table 7.
`--config.pretext.task=cutpaste_scar` and its like, with --config.method of the
same name, are the rows of tables 1, 4 and 5; table 1's Cutout is cutout_grey.
Heat maps are by Grad-CAM: 88.3 pixel AUROC in section 4.2.
"""
import os

from ml_collections import ConfigDict, config_dict

from deep_oc import errors

CATEGORIES = ('bottle', 'cable', 'capsule', 'carpet', 'grid', 'hazelnut',
              'leather', 'metal_nut', 'pill', 'screw', 'tile', 'toothbrush',
              'transistor', 'wood', 'zipper')

# Objects that stand alike in all images (section A.5): each position has a
# density of its own.
ALIGNED = ('bottle', 'cable', 'capsule', 'metal_nut', 'pill', 'toothbrush',
           'transistor', 'zipper')


def get_config(category: str = 'bottle') -> ConfigDict:
  return ConfigDict(dict(
      **of_category('cutpaste_mvtec', category),
      method='cutpaste_3way',
      seed=0,
      dtype='auto',  # compute: bfloat16 on GPU and TPU, float32 on CPU
      protocol=dict(
          name='one_vs_rest', normal='good',
          # Share of the normal images that nothing learns from: for alarms.
          calibration=config_dict.placeholder(float)),
      distribution='none',
      pretext=dict(
          name='cutpaste',
          task='3way',  # or 'cutpaste', 'cutpaste_scar', 'union', 'scar', ...
          crop=0,  # the whole image
          # Depth and width are not in the paper, which follows Sohn et al.
          head=(512,) * 8,
          shared=False,  # each view of an image is augmented on its own
          joint=True,  # one pass: the views share BatchNorm's statistics
          normalise='none',  # pixels in [0, 1]
          # Translation and jitter, by amounts that the paper does not state. Up
          # to 8 pixels: further, what the border reflects of an object looks
          # like a pasted patch. The jitter is as strong as the patch's.
          augment=dict(
              shift=1 / 32, brightness=0.1, contrast=0.1, saturation=0.1,
              hue=0.1, jitter_order='random', clip=True),
          defects=dict(  # section A.2; sizes in pixels are those at 256
              area=(0.02, 0.15), aspect=(0.3, 3.3), aspect_law='log_uniform',
              angle=(0.0, 0.0),
              scar_width=(2, 16), scar_length=(10, 25),
              scar_angle=(-45.0, 45.0),
              brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1,
              interpolation='nearest')),
      encoder=dict(
          name='resnet', depth=18, width=1.0,
          weights=config_dict.placeholder(str),  # None: from scratch
          remat=False),  # True: less memory, a forward pass more a step
      optimizer=dict(
          name='sgd', learning_rate=0.03, momentum=0.9,
          weight_decay=3e-5,  # coupled L2 on all parameters
          schedule='cosine', per='step', warmup_epochs=0.0),
      train=dict(
          batch=32,  # source images: the paper's 96 are three views of each
          epochs=1.0,
          steps=65_536,  # "65k": 256 epochs of 256 updates, as the paper counts
          batch_norm_groups=1,  # 8: statistics of each of 8 parts of a batch
          accumulate=1,  # parts of a batch, one after the other
          ema=0.0,  # decay of an average of the weights, which then counts
          placement='auto',  # of the images: replicated, sharded or streamed
          log_every=256, monitor_every=2048, checkpoint_every=4096),
      # Of which layer and score, the paper does not state.
      localize=dict(name='gradcam', classifier='gde_ledoit_wolf'),
      embed=dict(views='none', stages=1)))


def sweep():
  """Yields the overrides of the paper's table: 15 categories, five seeds."""
  yield from points('cutpaste_mvtec')


def of_category(name: str, category: str) -> dict:
  """Returns the part of a config that tells one category from another."""
  if category not in CATEGORIES:
    raise errors.unknown('MVTec AD category', category, CATEGORIES)
  root = os.environ.get('MVTEC_AD', 'data/mvtec_ad')
  return dict(
      experiment=f'{name}_{category}',  # names the run's folder
      data=dict(
          source='folder', path=f'{root}/{category}', size=256,
          name=f'mvtec_ad/{category}',  # what result rows call it
          skip_corrupt=config_dict.placeholder(bool),
          cache_dir=config_dict.placeholder(str)))


def windows(category: str) -> dict:
  """Returns the group `localize` of a task of patches (section A.5)."""
  return dict(
      name='windows', side=32, stride=4,
      positions='each' if category in ALIGNED else 'shared',
      classifier='gde_ledoit_wolf',
      reg_covar=1e-6,  # of 'each': of scikit-learn's GaussianMixture
      sigma=config_dict.placeholder(float))  # that of the windows' side


def points(name: str, patches: bool = False):
  """Yields the overrides for every category and five seeds."""
  for category in CATEGORIES:
    group = of_category(name, category)
    point = {'experiment': group['experiment'],
             'data.path': group['data']['path'],
             'data.name': group['data']['name']}
    if patches:
      point['localize.positions'] = windows(category)['positions']
    for seed in range(5):
      yield point | {'seed': seed}
