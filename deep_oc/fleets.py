"""Runs of one shape, side by side on the devices: a fleet and its members."""
from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from deep_oc import (checkpoints, experiment, protocols, sharding, step,
                     storage, weights)
from deep_oc.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
  """A run that is trained with others.

  Attributes:
    config: resolved.
    problem: its images.
    images: u8[N, h, w, c], what it is trained on.
    workdir: its folder.
    like: the shapes of its state.
    begins_with: trained weights, if it does and has no checkpoint yet.
  """
  config: ml_collections.ConfigDict
  problem: protocols.Problem
  images: np.ndarray
  workdir: str
  like: step.State
  begins_with: weights.Weights | None = None

  @functools.cached_property
  def start(self) -> int:
    """The step of its newest checkpoint that can be read, or 0.

    Raises:
      InputError: none can be.
    """
    with checkpoints.Checkpoints(self.workdir) as saved:
      if saved.newest() is None:
        return 0
      return int(saved.restore(self.like).step)

  @functools.cached_property
  def plan(self) -> experiment.Plan:
    return experiment.plan(self.config)

  @functools.cached_property
  def total(self) -> int:
    """How many steps it has."""
    return self.plan.total_steps(len(self.images))

  @property
  def name(self) -> str:
    """What its lines begin with."""
    return f'{self.problem.normal_name}, seed {self.config.seed}'

  @property
  def shape(self) -> str:
    """The same for members that one program can train."""
    config = self.config.to_dict()
    same = {key: config[key] for key in ('dtype', 'pretext', 'encoder',
                                         'optimizer', 'train')}
    return json.dumps([same, self.images.shape[1:], self.total, self.start,
                       len(self.images) // self.plan.batch], sort_keys=True)


class Program:
  """What members of one shape have in common; compiled once for a mesh."""

  def __init__(self, of: Member):
    self.pretext: nn.Module = experiment.pretext(of.config)
    self.optimizer: optax.GradientTransformation = experiment.optimizer(
        of.config, len(of.images))
    self.steps: Callable = functools.cache(functools.partial(
        step.make_steps_together, self.pretext, self.optimizer,
        groups=of.plan.batch_norm_groups,
        accumulate=of.plan.accumulate))


class Fleet:
  """Members of one shape on the first so many devices.

  Attributes:
    images: u8[m, N, h, w, c], the shorter sets padded.
    keys: key[m].
    take_steps: as `step.make_steps_together`.
  """

  def __init__(self, program: Program, members: Sequence[Member],
               devices: int):
    self.members = members
    self.mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ('data',))
    self.pretext, self.optimizer = program.pretext, program.optimizer
    self.take_steps = program.steps(self.mesh)
    self._spread = sharding.split(self.mesh)
    self.images = sharding.put(self._stacked_images(), self._spread)
    self.keys = jax.device_put(jnp.stack([
        step.root_key(each.config.seed) for each in members]), self._spread)

  def _stacked_images(self) -> np.ndarray:
    longest = max(len(each.images) for each in self.members)
    local = len(self.members) // self.mesh.size
    shape = longest, *self.members[0].images.shape[1:]
    size = local * int(np.prod(shape))
    if storage.choose('auto', size, self.mesh) != 'replicated':
      raise InputError(
          f'the training images of {local} runs, {size / 2**30:.2f} GiB, take '
          'more than half of a device; lower --at_once, or train one by one')
    stacked = np.zeros((len(self.members), *shape), np.uint8)
    for row, each in zip(stacked, self.members, strict=True):
      row[:len(each.images)] = each.images
    return stacked

  def initial(self) -> step.State:
    """Returns the states at step 0, stacked."""
    return self.stack([self.one(each) for each in self.members])

  def one(self, of: Member) -> step.State:
    """Returns a member's state at step 0."""
    return experiment.first_state(
        of.config, self.pretext, self.optimizer, of.images, of.begins_with)

  def stack(self, states: Sequence[step.State]) -> step.State:
    """Puts states on the devices of their members, arrays [m, ...]."""
    return jax.tree.map(lambda *x: sharding.put(
        np.stack([np.asarray(each) for each in x]), self._spread), *states)

  def batches(self, start: int, count: int) -> np.ndarray:
    """Returns rows of the images, i32[count, m, n]."""
    return np.stack([step.batch_index(
        each.config.seed, len(each.images), each.plan.batch, start, count)
                     for each in self.members], axis=1)
