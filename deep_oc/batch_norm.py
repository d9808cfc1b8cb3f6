"""BatchNorm's statistics over parts of a batch, as if devices had one each.

Under `jax.jit` a batch is one array, so statistics are the global batch's. The
published code of Sohn et al. normalises on each device by itself. Here that is
a number of groups, not of devices, so that 8 groups are the same on one device
as on 8, where no statistic crosses from one to another. It is a property of
the train step: no network or task says anything of it.
"""
import contextlib
import functools

import jax
from flax import linen as nn


def in_groups(groups: int) -> contextlib.AbstractContextManager:
  """Makes every BatchNorm that is called inside normalise so many groups apart.

  Group k is the k-th of `groups` equal parts of the rows; views of an image are
  neighbours and stay together. The running statistics are the mean over groups.
  Nothing changes where running statistics are used, or with one group.
  """
  if groups == 1:
    return contextlib.nullcontext()
  return nn.intercept_methods(functools.partial(_apart, groups))


def _apart(groups, call, args, kwargs, context):
  norm = context.module
  if (not isinstance(norm, nn.BatchNorm) or context.method_name != '__call__'
      or not norm.path  # the copy below, which comes here too
      or nn.merge_param('use_running_average', norm.use_running_average,
                        kwargs.get('use_running_average'))):
    return call(*args, **kwargs)
  x, = args
  one = functools.partial(norm.clone(parent=None, name=None).apply,
                          norm.variables, mutable=['batch_stats'], **kwargs)
  y, new = jax.vmap(one)(x.reshape(groups, -1, *x.shape[1:]))
  for name, value in new['batch_stats'].items():
    norm.put_variable('batch_stats', name, value.mean(0))
  return y.reshape(x.shape)
