"""ResNets for one-class classification (He et al., CVPR 2016), as in DROC.

Post-activation blocks; no max-pool for images of up to 64 pixels (Sohn et al.,
ICLR 2021, https://arxiv.org/abs/2011.02578).
"""
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, initializers, models, pooling
from deep_oc.errors import InputError

_STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3),
           50: (3, 4, 6, 3)}
_EXPANSION = 4  # of a bottleneck's last convolution
_SMALL = 64  # largest side that gets the 3x3 stem


def _conv(channels: int, kernel: int, stride: int, dtype: Any) -> nn.Conv:
  # Symmetric padding, as the published code: with stride 2, 'SAME' would pad
  # the right and bottom only.
  return nn.Conv(channels, (kernel, kernel), strides=(stride, stride),
                 padding=((kernel // 2, kernel // 2),) * 2, use_bias=False,
                 kernel_init=initializers.he_truncated, dtype=dtype,
                 conv_general_dilated=convolution.convolve)


class Block(nn.Module):
  """Convolutions with BatchNorm around a shortcut.

  Each layer is (channels, kernel, stride); the last has no ReLU of its own.
  """
  layers: tuple[tuple[int, int, int], ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/s, w/s, d]."""
    norm = functools.partial(
        batch_norm.BatchNorm, use_running_average=not train, momentum=0.9,
        epsilon=1e-5, dtype=self.dtype)
    y, total = x, 1
    for i, (channels, kernel, stride) in enumerate(self.layers):
      y = nn.relu(y) if i else y
      y = norm()(_conv(channels, kernel, stride, self.dtype)(y))
      total *= stride
    if total != 1 or x.shape[-1] != channels:
      x = norm()(_conv(channels, 1, total, self.dtype)(x))
    return nn.relu(x + y)


class Model(nn.Module):
  """ResNet-10, 18, 34 or 50 without a classification layer.

  Attributes:
    depth: 10, 18, 34 (basic blocks) or 50 (bottlenecks).
    width: multiplies all channels but the stem's 64.
    mean, sd: of each colour, in [0, 1], by which images are standardised; with
      neither they are not. ImageNet's are (0.485, 0.456, 0.406) and (0.229,
      0.224, 0.225).
    freeze_batch_norm: whether training, too, has BatchNorm's running
      statistics, which then do not change.
    remat: whether a training step keeps no more than what goes from block to
      block, and computes what is within a block once more for its gradient
      (Chen et al., 2016, https://arxiv.org/abs/1604.06174).
    dtype: of the computation; parameters, statistics, output are float32.
  """
  depth: int = 18
  width: float = 1.0
  mean: tuple[float, ...] = ()
  sd: tuple[float, ...] = ()
  freeze_batch_norm: bool = False
  remat: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.depth not in _STAGES:
      raise InputError(f'resnet depth must be one of {list(_STAGES)}, '
                       f'not {self.depth!r}')
    if not (isinstance(self.width, (int, float))
            and 1 <= 64 * self.width < math.inf):
      raise InputError(f'resnet width must leave at least one of 64 channels, '
                       f'not {self.width!r}')
    models.check_standard('resnet', self.mean, self.sd)
    super().__post_init__()

  @property
  def stages(self) -> int:
    """The number of stages, each of blocks with maps of one size."""
    return len(_STAGES[self.depth])

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to pooled features f32[n, d]."""
    return models.pooled(self, self.maps(image, train=train))

  @nn.compact
  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each stage, [n, h', w', d']."""
    fresh = train and not self.freeze_batch_norm  # statistics

    def apply(block, x):
      return block(x, train=fresh)

    apply = nn.remat(apply) if train and self.remat else apply
    x = models.standardised(image, self.mean, self.sd).astype(self.dtype)
    x, found = self._stem(x, fresh), []
    for stage, blocks in enumerate(_STAGES[self.depth]):
      channels = int(64 * 2**stage * self.width)
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        x = apply(Block(self._layers(channels, stride), self.dtype), x)
      found.append(x)
    return found

  def checkpoint_names(self) -> list[dict[str, str]]:
    """Returns the layers' names in checkpoints of torchvision and timm.

    Theirs are of width 1, see for images of more than 64 pixels a side.
    """
    names = {'Conv_0': 'conv1', 'BatchNorm_0': 'bn1'}
    before, number = 64, 0
    for stage, blocks in enumerate(_STAGES[self.depth]):
      for block in range(blocks):
        layers = self._layers(int(64 * 2**stage * self.width),
                              2 if stage and not block else 1)
        here, there = f'Block_{number}', f'layer{stage + 1}.{block}'
        for i in range(len(layers)):
          names[f'{here}/Conv_{i}'] = f'{there}.conv{i + 1}'
          names[f'{here}/BatchNorm_{i}'] = f'{there}.bn{i + 1}'
        if not block and (stage or layers[-1][0] != before):
          names[f'{here}/Conv_{i + 1}'] = f'{there}.downsample.0'
          names[f'{here}/BatchNorm_{i + 1}'] = f'{there}.downsample.1'
        before, number = layers[-1][0], number + 1
    return [names]

  def _layers(self, channels: int, stride: int):
    if self.depth < 50:
      return (channels, 3, stride), (channels, 3, 1)
    return ((channels, 1, 1), (channels, 3, stride),
            (channels * _EXPANSION, 1, 1))

  def _stem(self, x: jax.Array, train: bool) -> jax.Array:
    norm = batch_norm.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5,
        dtype=self.dtype)
    if max(x.shape[1:3]) <= _SMALL:
      return nn.relu(norm(_conv(64, 3, 1, self.dtype)(x)))
    x = nn.relu(norm(_conv(64, 7, 2, self.dtype)(x)))
    # It pads with -inf; after ReLU that equals the paper code's zeros.
    return pooling.max_pool(x, 3, 2, 1)
