"""EfficientNets (Tan and Le, ICML 2019), to be begun from ImageNet weights.

https://arxiv.org/abs/1905.11946, and EfficientNet-Lite, of the same authors'
code for devices that have few operations. Layers, padding, BatchNorm and how
weights are drawn are as in that code, of TensorFlow, so that weights which
others converted from it give the same features. CutPaste's appendix (Li et al.,
CVPR 2021, https://arxiv.org/abs/2104.04015) has the pooled features of B4 and
those of its 'level 7', the last of the seven stages of blocks.
"""
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from deep_oc import batch_norm, convolution, errors, initializers, models


class _Stage(NamedTuple):
  repeats: int
  channels: int
  kernel: int
  stride: int  # of the first block
  expand: int


_STAGES = (_Stage(1, 16, 3, 1, 1), _Stage(2, 24, 3, 2, 6),
           _Stage(2, 40, 5, 2, 6), _Stage(3, 80, 3, 2, 6),
           _Stage(3, 112, 5, 1, 6), _Stage(4, 192, 5, 2, 6),
           _Stage(1, 320, 3, 1, 6))
_STEM, _HEAD = 32, 1280  # channels
# Factors of the channels and of the blocks' repeats.
_SCALES = {'b0': (1.0, 1.0), 'b1': (1.0, 1.1), 'b2': (1.1, 1.2),
           'b3': (1.2, 1.4), 'b4': (1.4, 1.8), 'b5': (1.6, 2.2),
           'b6': (1.8, 2.6), 'b7': (2.0, 3.1), 'lite0': (1.0, 1.0),
           'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2), 'lite3': (1.2, 1.4),
           'lite4': (1.4, 1.8)}
_UNIT = 8  # channels are multiples of it
_SQUEEZE = 4  # a block's input has so many times the channels

_norm = functools.partial(batch_norm.BatchNorm, momentum=0.99, epsilon=1e-3)
# Variance 2 / (k k d) for d channels out, not cut; the code counts one channel
# out of a depthwise kernel, and so its variance is 2 / (k k).
_init = initializers.he_normal
_init_depthwise = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def _conv(channels: int, kernel: int, stride: int = 1, *, dtype: Any,
          depthwise: bool = False, bias: bool = False,
          name: str | None = None) -> nn.Conv:
  return nn.Conv(channels, (kernel, kernel), strides=(stride, stride),
                 padding='SAME', use_bias=bias,
                 feature_group_count=channels if depthwise else 1,
                 kernel_init=_init_depthwise if depthwise else _init,
                 dtype=dtype, name=name,
                 conv_general_dilated=convolution.convolve)


class Block(nn.Module):
  """A depthwise convolution between two 1x1 ones, and a shortcut.

  The first widens (not if `expand` is 1), the last has no activation.
  Squeeze-and-excitation (Hu et al., CVPR 2018) weighs the channels between by
  what the image has of them all. The shortcut is there if shapes permit.

  Attributes:
    channels: of the result.
    kernel: side in pixels of the depthwise convolution's.
    stride: of the depthwise convolution.
    expand: how many times as many channels it has as the input.
    lite: ReLU6 instead of swish, and no squeeze-and-excitation.
    dtype: of the computation; parameters and statistics are float32.
  """
  channels: int
  kernel: int
  stride: int = 1
  expand: int = 6
  lite: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/s, w/s, d], rounded up."""
    conv = functools.partial(_conv, dtype=self.dtype)
    norm = functools.partial(_norm, use_running_average=not train,
                             dtype=self.dtype)
    act = _activation(self.lite)
    before, wide = x.shape[-1], self.expand * x.shape[-1]
    y = x
    if self.expand != 1:
      y = act(norm(name='expand_norm')(conv(wide, 1, name='expand')(y)))
    y = conv(wide, self.kernel, self.stride, depthwise=True,
             name='depthwise')(y)
    y = act(norm(name='depthwise_norm')(y))
    if not self.lite:
      weight = jnp.mean(y, axis=(1, 2), keepdims=True)
      weight = act(conv(max(1, before // _SQUEEZE), 1, bias=True,
                        name='squeeze')(weight))
      y *= nn.sigmoid(conv(wide, 1, bias=True, name='excite')(weight))
    y = norm(name='project_norm')(conv(self.channels, 1, name='project')(y))
    return x + y if self.stride == 1 and before == self.channels else y


class Model(nn.Module):
  """EfficientNet-B0 to B7 or Lite0 to Lite4 without a classification layer.

  No block is left out at random in training (drop-connect): pre-trained weights
  are used as they are. What 'SAME' pads depends on the image's size, so no
  `stride` is told.

  Attributes:
    variant: 'b0' to 'b7', which scale channels and repeats, or 'lite0' to
      'lite4': without squeeze-and-excitation, ReLU6 instead of swish; stem and
      head are not widened, the first and the last stage not repeated.
    head: whether the last 1x1 convolution is there; without it features are
      those of 'level 7'.
    mean, sd, freeze_batch_norm: as of `resnet.Model`.
    remat: whether a training step keeps no more than what goes from block to
      block, and computes what is within a block once more for its gradient
      (Chen et al., 2016, https://arxiv.org/abs/1604.06174).
    dtype: of the computation; parameters, statistics, output are float32.
  """
  variant: str = 'b0'
  head: bool = True
  mean: tuple[float, ...] = ()
  sd: tuple[float, ...] = ()
  freeze_batch_norm: bool = False
  remat: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.variant not in [*_SCALES]:
      raise errors.unknown('efficientnet variant', self.variant, _SCALES)
    models.check_standard('efficientnet', self.mean, self.sd)
    super().__post_init__()

  @property
  def stages(self) -> int:
    """Its stages of blocks, and the head, which counts as one."""
    return len(_STAGES) + bool(self.head)

  @property
  def _lite(self) -> bool:
    return self.variant.startswith('lite')

  def setup(self):
    width = 1 if self._lite else _SCALES[self.variant][0]
    self.stem = _conv(_channels(_STEM, width), 3, 2, dtype=self.dtype)
    self.stem_norm = _norm(dtype=self.dtype)
    self.blocks = [
        Block(stage.channels, stage.kernel, 1 if number else stage.stride,
              stage.expand, self._lite, self.dtype)
        for stage in _stages(self.variant) for number in range(stage.repeats)]
    if self.head:
      self.last = _conv(_channels(_HEAD, width), 1, dtype=self.dtype)
      self.last_norm = _norm(dtype=self.dtype)

  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Maps f32[n, h, w, c] to features f32[n, d], the last map's mean."""
    return models.pooled(self, self.maps(image, train=train))

  def maps(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps f32[n, h, w, c] to the map of each stage, the head's last.

    Their sides are a 2nd, 4th, 8th, 16th, 16th, 32nd, 32nd and 32nd of the
    image's, rounded up.

    Raises:
      InputError: the images have not as many colours as `mean` tells of.
    """
    fresh = train and not self.freeze_batch_norm  # statistics
    act = _activation(self._lite)

    def apply(block, x):
      return block(x, train=fresh)

    apply = nn.remat(apply) if train and self.remat else apply
    x = models.standardised(image, self.mean, self.sd)
    x = self.stem(x.astype(self.dtype))
    x = act(self.stem_norm(x, use_running_average=not fresh))
    found, blocks = [], iter(self.blocks)
    for stage in _stages(self.variant):
      for _ in range(stage.repeats):
        x = apply(next(blocks), x)
      found.append(x)
    if self.head:
      x = self.last_norm(self.last(x), use_running_average=not fresh)
      found.append(act(x))
    return found

  def checkpoint_names(self) -> Sequence[Mapping[str, str]]:
    """Returns what published PyTorch checkpoints call the layers.

    Each of the mappings is one naming scheme, from the layer's path in the
    parameters, joined with '/', to its prefix in the checkpoint: timm's
    (tf_efficientnet_b4), and that of EfficientNet-PyTorch, which
    efficientnet_lite_pytorch shares. All were converted from the authors'
    weights; others, as of networks with symmetric padding, do not fit.
    """
    return [dict(self._timm_names()), dict(self._efficientnet_pytorch_names())]

  def _timm_names(self) -> Iterator[tuple[str, str]]:
    yield from (('stem', 'conv_stem'), ('stem_norm', 'bn1'))
    number = 0
    for place, stage in enumerate(_stages(self.variant)):
      layers = {'depthwise': 'conv_dw', 'depthwise_norm': 'bn1',
                'project': 'conv_pw', 'project_norm': 'bn2'}
      if stage.expand != 1:
        layers = {'expand': 'conv_pw', 'expand_norm': 'bn1',
                  'depthwise': 'conv_dw', 'depthwise_norm': 'bn2',
                  'project': 'conv_pwl', 'project_norm': 'bn3'}
      if not self._lite:
        layers |= {'squeeze': 'se.conv_reduce', 'excite': 'se.conv_expand'}
      for repeat in range(stage.repeats):
        for ours, theirs in layers.items():
          yield f'blocks_{number}/{ours}', f'blocks.{place}.{repeat}.{theirs}'
        number += 1
    if self.head:
      yield from (('last', 'conv_head'), ('last_norm', 'bn2'))

  def _efficientnet_pytorch_names(self) -> Iterator[tuple[str, str]]:
    yield from (('stem', '_conv_stem'), ('stem_norm', '_bn0'))
    number = 0
    for stage in _stages(self.variant):
      layers = {'depthwise': '_depthwise_conv', 'depthwise_norm': '_bn1',
                'project': '_project_conv', 'project_norm': '_bn2'}
      if stage.expand != 1:
        layers |= {'expand': '_expand_conv', 'expand_norm': '_bn0'}
      if not self._lite:
        layers |= {'squeeze': '_se_reduce', 'excite': '_se_expand'}
      for _ in range(stage.repeats):
        for ours, theirs in layers.items():
          yield f'blocks_{number}/{ours}', f'_blocks.{number}.{theirs}'
        number += 1
    if self.head:
      yield from (('last', '_conv_head'), ('last_norm', '_bn1'))


def _activation(lite: bool):
  return nn.relu6 if lite else nn.swish


def _stages(variant: str) -> list[_Stage]:
  """Returns the stages as the variant scales them."""
  width, depth = _SCALES[variant]
  ends = (0, len(_STAGES) - 1) if variant.startswith('lite') else ()
  return [stage._replace(
      channels=_channels(stage.channels, width),
      repeats=(stage.repeats if place in ends else
               math.ceil(depth * stage.repeats)))
          for place, stage in enumerate(_STAGES)]


def _channels(channels: int, width: float) -> int:
  """Returns the nearest multiple of 8 that is no less than nine tenths."""
  wanted = width * channels
  nearest = max(_UNIT, int(wanted + _UNIT / 2) // _UNIT * _UNIT)
  return nearest if nearest >= 0.9 * wanted else nearest + _UNIT


