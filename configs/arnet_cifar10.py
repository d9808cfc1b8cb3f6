"""ARNet, which restores what was greyed and turned, on CIFAR-10.

  python -m deep_oc.train --config=configs/arnet_cifar10.py \\
      --config.protocol.normal=1
  python -m deep_oc.evaluate --runs='runs/arnet_cifar10/**'

Huang et al., IEEE TMM 2020: mean AUROC over the ten classes 86.6 (as quoted by
Sohn et al., ICLR 2021), of the task's own score. Network and schedule are those
of the one public implementation, which is not the authors'. It keeps the epoch
with the best test AUROC, where the last step counts here, and divides anew,
where the standard split is used here: it trains on 4/5 of the normal images of
both parts, and tests on the other 1/5 and the abnormal ones of both. What else
differs stands in `deep_oc.pretexts.restoration`. A class takes 19,500 steps of
32 network inputs.
"""
from ml_collections import ConfigDict, config_dict

from configs import rotation_cifar10

sweep = rotation_cifar10.sweep


def get_config() -> ConfigDict:
  config = rotation_cifar10.get_config()
  config.experiment = 'arnet_cifar10'
  config.method = 'arnet'
  config.pretext = ConfigDict(dict(
      name='restoration', augment=dict(flip=0.5)))
  config.encoder = ConfigDict(dict(
      name='unet', channels=(64, 128, 256, 512, 512),
      weights=config_dict.placeholder(str)))  # a run to begin with
  config.optimizer = ConfigDict(dict(
      name='sgd', learning_rate=0.1, momentum=0.0, weight_decay=0.0,
      schedule='step', factor=0.5,  # halved at each of these epochs
      milestones=(12., 25., 37., 50., 62., 75., 87., 100., 112.),
      per='epoch', warmup_epochs=0.0))
  config.train.update(batch=32, epochs=125.0)
  return config
