"""Files of torch.save are read as they are defined; nothing in them runs."""
import collections
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from deep_oc import torch_file
from tests import saved
from tests.saved import Tensor, archived, legacy, whole


@pytest.fixture
def torch(monkeypatch):
  return saved.modules(monkeypatch)


class Other:
  """What a training script saves beside the weights."""

  def __init__(self, value):
    self.value = value


WRITERS = pytest.mark.parametrize('write', [archived, legacy])


def _arrays():
  rng = np.random.default_rng(0)
  return {'layer.weight': rng.normal(size=(4, 3, 2)).astype(np.float32),
          'layer.bias': rng.normal(size=4).astype(np.float32),
          'count': np.array(7, np.int64)}


@WRITERS
@pytest.mark.parametrize('protocol', [2, 4])
def test_every_array_is_read_by_its_name(write, protocol, torch):
  arrays = _arrays()
  found = torch_file.read(write(torch, collections.OrderedDict(
      (name, whole(each)) for name, each in arrays.items()), protocol))
  assert list(found) == list(arrays)
  for name, each in arrays.items():
    assert found[name].dtype == each.dtype and found[name].shape == each.shape
    np.testing.assert_array_equal(found[name], each)


@WRITERS
@pytest.mark.parametrize('dtype', saved.STORAGES)
def test_every_type_of_number_is_read(write, dtype, torch):
  dtype = ml_dtypes.bfloat16 if dtype == 'bfloat16' else np.dtype(dtype)
  array = np.arange(-3, 3).astype(dtype)
  found, = torch_file.read(write(torch, {'x': whole(array)})).values()
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, array)


@WRITERS
def test_tensors_may_share_their_numbers_and_lie_in_any_order(write, torch):
  flat = np.arange(24, dtype=np.float32)
  found = torch_file.read(write(torch, {
      'turned': Tensor(flat, 0, (4, 6), (1, 4)),
      'part': Tensor(flat, 7, (2, 3), (6, 2)),
      'same': Tensor(flat, 5, (3, 2), (0, 1)),
      'expanded': Tensor(flat[:1], 0, (3,), (0,)),
      'none': Tensor(flat, 24, (0, 3), (3, 1)),
      'one': Tensor(flat, 23, (), ())}))
  np.testing.assert_array_equal(found['turned'], flat.reshape(6, 4).T)
  np.testing.assert_array_equal(found['part'], [[7, 9, 11], [13, 15, 17]])
  np.testing.assert_array_equal(found['same'], [[5, 6]] * 3)
  np.testing.assert_array_equal(found['expanded'], [0] * 3)
  assert found['none'].shape == (0, 3) and found['one'] == 23


@WRITERS
@pytest.mark.parametrize('key', ['state_dict', 'model'])
def test_what_a_training_script_adds_is_left_out(write, key, torch):
  array = np.ones(3, np.float32)
  found = torch_file.read(write(torch, {
      'epoch': 3, 'args': Other({'lr': 0.1}), 'best': {1, 2}, 'names': ['a'],
      'optimizer': {'state': [whole(np.zeros(2, np.float32)), None, True]},
      key: {'w': saved.Parameter(whole(array)), 'version': 2,
            'more': Other(1)}}))
  assert list(found) == ['w']
  np.testing.assert_array_equal(found['w'], array)


class _Harmful:

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@WRITERS
def test_nothing_in_a_file_is_run(write, torch, tmp_path):
  content = write(torch, {'w': whole(np.ones(3, np.float32)),
                          'x': _Harmful(str(tmp_path / 'made'))})
  assert b'mkdir' in content and str(tmp_path / 'made').encode() in content
  assert list(torch_file.read(content)) == ['w']
  assert not list(tmp_path.iterdir())


@WRITERS
@pytest.mark.parametrize('tensor', [
    (0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (4, 1)), (-1, (2,), (1,)),
    (0, (-2,), (1,)), (0, (2,), (-1,)), (0, (2,), ()), (4, (9,), (0,)),
    (10**30, (1,), (1,)), (0, (10**30,), (0,)), (0, ('2',), (1,))])
def test_a_tensor_beyond_its_numbers_is_refused(write, tensor, torch):
  flat = np.zeros(4, np.float32)
  with pytest.raises(ValueError):
    torch_file.read(write(torch, {'x': Tensor(flat, *tensor)}))


@WRITERS
@pytest.mark.parametrize('value', [
    [1, 2], {'a': 1}, {}, 'text', Other(3), {'state_dict': {}}])
def test_a_file_without_arrays_by_name_is_refused(write, value, torch):
  with pytest.raises(ValueError, match='no arrays by name'):
    torch_file.read(write(torch, value))


def test_what_is_stored_otherwise_is_refused(torch):
  value = {'x': whole(np.zeros(1000, np.float32))}
  for content in (archived(torch, value, compression=zipfile.ZIP_DEFLATED),
                  archived(torch, value, order=b'big'),
                  legacy(torch, value, little=False),
                  b'', b'PK', b'nonsense', pickle.dumps(1, 2)):
    with pytest.raises(ValueError):
      torch_file.read(content)


@WRITERS
def test_a_damaged_file_is_refused_or_read_and_never_breaks(write, torch):
  content = write(torch, {name: whole(each)
                          for name, each in _arrays().items()})
  for end in range(0, len(content), 7):
    with pytest.raises(ValueError):
      torch_file.read(content[:end])
  rng, refused = np.random.default_rng(0), 0
  for _ in range(3000):
    spoilt = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 5)):
      spoilt[at] = rng.integers(256)
    try:
      found = torch_file.read(bytes(spoilt))
      assert all(isinstance(each, np.ndarray) for each in found.values())
    except ValueError:
      refused += 1
  assert refused > 300


# Pickles of a few bytes that would take for ever, or all memory, to hash, to
# print or to copy what they nest: (t, t), of which t is one, and so on.
_NESTED = b'(t' + b'q\x000h\x00h\x00\x86' * 60
_HOSTILE = {
    'a list of itself': b']q\x00h\x00a',
    'a key in a key': b'}' + b'(t' + b'\x85' * 10**6 + b'K\x01s',
    'a key of twice a key': b'}' + _NESTED + b'K\x01s',
    'a storage of it': (b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\n'
                        + _NESTED + b'X\x03\x00\x00\x00cpuK\x01tQ'),
    'a name of it': b'X\x01\x00\x00\x00m' + _NESTED + b'\x93',
    'the same items again and again': (
        b']q\x01(' + b']' * 10**5 + b'ec' + b'collections\nOrderedDict\nq\x02'
        + b'h\x02h\x01\x85R0' * 10**4),
    'a size without end': b'\x8b' + b'\xff\xff\xff\x7f',
    'a tensor of many dimensions': (
        b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch'
        b'\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00('
        + b'K\x01' * 99 + b't(' + b'K\x01' * 99 + b't\x89NtR')}


@pytest.mark.parametrize('name', _HOSTILE)
def test_what_would_take_for_ever_is_refused_or_left_out(name):
  content = b''.join(pickle.dumps(part, 2) for part in (
      0x1950a86a20f9469cfc6c, 1001, {'little_endian': True})) + (
          b'\x80\x02' + _HOSTILE[name] + b'.' + pickle.dumps([], 2))
  resource = pytest.importorskip('resource')
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(ValueError):
    torch_file.read(content)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 2**18  # KiB on Linux


@WRITERS
def test_tensors_of_one_storage_do_not_copy_it(write, torch):
  flat = np.zeros(10**6, np.uint8)
  found = torch_file.read(write(torch, {
      str(i): Tensor(flat, i, (1,), (1,)) for i in range(2000)}))
  assert len(found) == 2000 and np.shares_memory(
      np.lib.stride_tricks.as_strided(found['0'], (10,)), found['5'])


@WRITERS
def test_numbers_of_an_unknown_kind_are_left_out_or_named(write, torch):
  torch.QInt8Storage = type('QInt8Storage', (), {'__module__': 'torch'})

  def saved_as(kind):
    content = write(torch, {'a': whole(np.ones(3, np.float32)),
                            'b': whole(np.ones(2, np.int8))})
    return content.replace(b'CharStorage', kind)
  assert list(torch_file.read(saved_as(b'CharStorage'))) == ['a', 'b']
  if write is archived:
    with pytest.raises(ValueError):  # the check sum of the archive
      torch_file.read(saved_as(b'CharStoragX'))
  else:
    with pytest.raises(ValueError, match='of an unknown kind'):
      torch_file.read(saved_as(b'OddlStorage'))


def test_a_size_that_is_not_the_one_described_is_refused(torch):
  content = legacy(torch, {'a': whole(np.ones(3, np.float32)),
                           'b': whole(np.ones(2, np.float32))})
  for size in (2, 4, -1):
    with pytest.raises(ValueError, match='of another size'):
      torch_file.read(content.replace(
          (3).to_bytes(8, 'little') + np.float32(1).tobytes(),
          size.to_bytes(8, 'little', signed=True) + np.float32(1).tobytes()))
