"""Rotation prediction with an MLP head on CelebA, faces without glasses normal.

  python -m deep_oc.train --config=configs/rotation_celeba.py
  python -m deep_oc.evaluate --runs='runs/rotation_celeba/**'

Sohn et al., ICLR 2021, table 7: AUROC 69.5 ± 1.7 (KDE), 65.8 ± 0.9 (RBF
OC-SVM), 62.6 ± 4.1 (linear OC-SVM), five seeds.

How long the paper trained on these 150,000 faces or so is not known. The
published scripts name CelebA beside the other sets and have one number of
epochs, 2,048: here some 5 million steps of 256 network inputs of 64 × 64
pixels, 16 EFLOP; config.train.steps shortens it. Classifiers are fitted to
20,000 of the faces.

With another of the 40 attributes as the anomaly:
--config=configs/rotation_celeba.py:Smiling.
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10


def get_config(attribute: str = 'Eyeglasses') -> ConfigDict:
  return on_faces(rotation_cifar10.get_config(), 'rotation_celeba', attribute)


def on_faces(config: ConfigDict, name: str, attribute: str) -> ConfigDict:
  """Returns a method's CIFAR-10 config for faces without the attribute."""
  config.experiment = name
  if attribute != 'Eyeglasses':
    config.experiment += f'_{attribute.lower()}'
  config.data = ConfigDict(dict(
      source='celeba', attribute=attribute, size=64,
      data_dir=config_dict.placeholder(str),  # None: TFDS's own default
      cache_dir=config_dict.placeholder(str)))
  return config


def sweep():
  """Yields five seeds; 0, without the attribute, is what is normal."""
  for seed in range(5):
    yield {'seed': seed}
