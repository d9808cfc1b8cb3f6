"""Rotation prediction with an MLP head on cats and dogs, one of them normal.

  python -m deep_oc.train --config=configs/rotation_catdog.py \\
      --config.protocol.normal=dog
  python -m deep_oc.evaluate --runs='runs/rotation_catdog/**'

Sohn et al., ICLR 2021, table 7: mean AUROC of the two 86.4 ± 0.6 (KDE), 83.7 ±
0.6 (RBF OC-SVM), five seeds. A class takes 319,488 steps of 256 network inputs
of 64 × 64 pixels, 1.09 EFLOP.

Images are TFDS's `cats_vs_dogs`, or, on the paper's split, Kaggle's:
--config.data.path=dogs-vs-cats/train.zip; see deep_oc/data/cat_vs_dog.py. The
paper's numbers are of Kaggle's 5,000 test images, and stand beside theirs only,
not beside TFDS's 3,262.
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10


def get_config() -> ConfigDict:
  return on_pets(rotation_cifar10.get_config(), 'rotation_catdog')


def on_pets(config: ConfigDict, name: str) -> ConfigDict:
  """Returns a method's CIFAR-10 config for cats and dogs."""
  config.experiment = name
  config.data = ConfigDict(dict(
      source='cat_vs_dog', size=64, train_per_class=10_000,
      path=config_dict.placeholder(str),  # of Kaggle's images; None: TFDS
      data_dir=config_dict.placeholder(str),  # None: TFDS's own default
      cache_dir=config_dict.placeholder(str)))
  return config


def sweep():
  """Yields the overrides of the paper's table: two classes, five seeds."""
  for normal in range(2):
    for seed in range(5):
      yield {'protocol.normal': str(normal), 'seed': seed}
