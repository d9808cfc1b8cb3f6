"""CutPaste, 3-way, of an EfficientNet-B4 that begins with ImageNet's weights.

  export MVTEC_AD=/where/mvtec_ad/lies
  python -m deep_oc.train \\
      --config=configs/cutpaste_efficientnet_mvtec.py:bottle \\
      --config.encoder.weights=tf_efficientnet_b4.pth
  python -m deep_oc.evaluate --runs='runs/cutpaste_efficientnet_mvtec_*/**'

Li et al., CVPR 2021, table 3: mean AUROC over the 15 categories 96.6 ± 0.1
(standard error, five seeds), and 97.1 ± 0.0 of the last but one stage, their
level 7 (--config.encoder.head=False, --config.method=cutpaste_3way_b4_level7).
As in their section A.4, the head alone learns for ten epochs of 256 steps, all
layers for 64 more; BatchNorm keeps ImageNet's statistics throughout. Whether
their 24 images a step are source images or, as here, the views of eight, is not
stated. A category takes 18,944 steps of 24 network inputs, 0.006 EFLOP.

The weights are those of `imagenet_mvtec`.
"""
from ml_collections import ConfigDict

from configs import cutpaste_mvtec, imagenet_mvtec


def get_config(category: str = 'bottle') -> ConfigDict:
  config = cutpaste_mvtec.get_config(category)
  config.experiment = f'cutpaste_efficientnet_mvtec_{category}'
  config.method = 'cutpaste_3way_b4'
  config.encoder = imagenet_mvtec.get_config(category).encoder
  with config.encoder.unlocked():
    config.encoder.update(
        freeze_batch_norm=True,
        remat=False)  # True: less memory, a forward pass more a step
  config.optimizer.update(learning_rate=1e-4)
  with config.optimizer.unlocked():
    # The encoder rests at first. That the head's rate is constant then, and
    # the cosine is of the steps after, is how section A.4 is read here.
    config.optimizer.update(head_steps=2_560, head_learning_rate=0.03)
  config.train.update(batch=8, steps=18_944)
  return config


def sweep():
  """Yields the overrides of the paper's table: 15 categories, five seeds."""
  yield from cutpaste_mvtec.points('cutpaste_efficientnet_mvtec')
