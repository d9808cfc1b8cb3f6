"""TensorFlow Datasets, read without TensorFlow.

Decoding takes half a minute for CIFAR-10; the decoded arrays are therefore kept
in one `.npz` file, which the source 'npz' reads too.
"""
import pathlib

import numpy as np

from deep_oc import data, errors, progress
from deep_oc.data import _cache, _records, npz
from deep_oc.errors import InputError

# By set and label. TFDS learns these only from the archive that it downloads.
_CLASS_NAMES = {
    ('cifar10', 'label'): (
        'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
        'horse', 'ship', 'truck'),
    ('cifar100', 'coarse_label'): (
        'aquatic_mammals', 'fish', 'flowers', 'food_containers',
        'fruit_and_vegetables', 'household_electrical_devices',
        'household_furniture', 'insects', 'large_carnivores',
        'large_man-made_outdoor_things', 'large_natural_outdoor_scenes',
        'large_omnivores_and_herbivores', 'medium_mammals',
        'non-insect_invertebrates', 'people', 'reptiles', 'small_mammals',
        'trees', 'vehicles_1', 'vehicles_2'),
    ('cifar100', 'label'): (
        'apple', 'aquarium_fish', 'baby', 'bear', 'beaver', 'bed', 'bee',
        'beetle', 'bicycle', 'bottle', 'bowl', 'boy', 'bridge', 'bus',
        'butterfly', 'camel', 'can', 'castle', 'caterpillar', 'cattle',
        'chair', 'chimpanzee', 'clock', 'cloud', 'cockroach', 'couch', 'crab',
        'crocodile', 'cup', 'dinosaur', 'dolphin', 'elephant', 'flatfish',
        'forest', 'fox', 'girl', 'hamster', 'house', 'kangaroo', 'keyboard',
        'lamp', 'lawn_mower', 'leopard', 'lion', 'lizard', 'lobster', 'man',
        'maple_tree', 'motorcycle', 'mountain', 'mouse', 'mushroom',
        'oak_tree', 'orange', 'orchid', 'otter', 'palm_tree', 'pear',
        'pickup_truck', 'pine_tree', 'plain', 'plate', 'poppy', 'porcupine',
        'possum', 'rabbit', 'raccoon', 'ray', 'road', 'rocket', 'rose', 'sea',
        'seal', 'shark', 'shrew', 'skunk', 'skyscraper', 'snail', 'snake',
        'spider', 'squirrel', 'streetcar', 'sunflower', 'sweet_pepper',
        'table', 'tank', 'telephone', 'television', 'tiger', 'tractor',
        'train', 'trout', 'tulip', 'turtle', 'wardrobe', 'whale',
        'willow_tree', 'wolf', 'woman', 'worm')}


def load(name: str, *, label: str = 'label', data_dir: str | None = None,
         cache_dir: str | None = None) -> data.Split:
  """Returns the splits 'train' and 'test' of a set with image and label.

  Args:
    name: as TFDS writes it: 'cifar10', 'fashion_mnist', 'cifar10:3.0.2'.
    label: which of its class labels. Result rows name any other than 'label'
      beside the set: 'coarse_label' makes 'cifar100' 'cifar100_coarse'.
    data_dir: where it was prepared; TFDS's own default otherwise. While the
      folder is away (another machine), its cache serves.
    cache_dir: for the decoded arrays; $DEEP_OC_CACHE or ~/.cache/deep_oc.

  Raises:
    InputError: no such set or label, not prepared, damaged, or not a set of
      images and labels.
  """
  folder = _records.folder(data_dir)
  cache = _cache_path(name, folder, cache_dir, label)
  arrays = _cache.kept(cache, _records.stamp(name, folder),
                       lambda: _decode(name, folder, label))
  kind = label.removesuffix('label').removesuffix('_')
  return npz.parse(arrays, cache, f'{name}_{kind}' if kind else name)


def _cache_path(name: str, folder: str, cache_dir: str | None,
                label: str = 'label') -> pathlib.Path:
  """Returns a name of its own for every set, label and folder."""
  called = name if label == 'label' else f'{name}-{label}'
  return _cache.path(called, f'{name}\n{folder}', cache_dir)


def _decode(name: str, folder: str, label: str) -> dict[str, np.ndarray]:
  """Reads the set from its records into the arrays that `npz` describes."""
  builder = _records.builder(name, folder)
  features = dict(builder.info.features or {})
  labels = [key for key, each in features.items() if hasattr(each, 'names')]
  if (getattr(features.get('image'), 'np_dtype', None) != np.uint8
      or not labels):
    raise InputError(f"TFDS set '{name}' is not one of 8-bit images with a "
                     f'class label; its features: {features}')
  if label not in labels:
    raise errors.unknown('data.label', label, labels)
  arrays = {}
  for part in ('train', 'test'):
    source = _records.source(builder, part, name, folder)
    arrays[f'x_{part}'], arrays[f'y_{part}'] = _read(
        source, label, f'{name} {part} in {folder}')
  class_names = tuple(features[label].names)
  if class_names == tuple(map(str, range(len(class_names)))):
    class_names = _CLASS_NAMES.get((builder.name, label), class_names)
  return arrays | {'class_names': np.array(class_names)}


def _read(source, key: str, what: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns u8[n, h, w, c] images and i32[n] labels."""
  image, label = None, np.empty(len(source), np.int32)
  for i in progress.bar(range(len(source)), f'decode {what}', unit='images'):
    example = _records.example(source, i, what)
    if image is None:
      image = np.empty((len(source), *example['image'].shape), np.uint8)
    if example['image'].shape != image.shape[1:]:
      raise InputError(
          f'images of {what} differ in size: {image.shape[1:]} and '
          f'{example["image"].shape}; write one size to an .npz file and use '
          "the source 'npz'")
    image[i], label[i] = example['image'], example[key]
  return image, label
