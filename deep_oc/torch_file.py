"""Reads arrays that `torch.save` wrote, without PyTorch and without unpickling.

Such a file, .pth or .pt, holds a pickle, which is a program: unpickling it may
run anything. Here the few instructions that describe tensors are followed as
data. No class is looked up and no function is called: what a name stands for is
known for those of `_KNOWN`, and anything else becomes an `Opaque` that is left
out. Both formats are read, the zip archives of PyTorch 1.6 and later and the
files before them.
"""
import functools
import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

SUFFIXES = '.pth', '.pt'

_MAGIC = 0x1950a86a20f9469cfc6c  # the first thing in a file of the old format
_VERSION = 1001
_DTYPES = {'Double': '<f8', 'Float': '<f4', 'Half': '<f2', 'Long': '<i8',
           'Int': '<i4', 'Short': '<i2', 'Char': 'i1', 'Byte': 'u1',
           'Bool': '?', 'BFloat16': ml_dtypes.bfloat16,
           'ComplexFloat': '<c8', 'ComplexDouble': '<c16'}
_DIMENSIONS = 32  # of a tensor at most
_WRAPPED = 'state_dict', 'model'  # by what training scripts add to it

_MARK = object()


class _Name(NamedTuple):
  """What a pickle calls a class or function."""
  name: str


class Opaque:
  """What is neither an array nor a container of arrays."""


class _Storage(NamedTuple):
  dtype: np.dtype
  key: str
  size: int  # elements


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]


def read(content: bytes) -> dict[str, np.ndarray]:
  """Returns the arrays of a file, by name.

  Of what a training script saved beside them, as 'state_dict' or 'model', too;
  numbers and the like are left out.

  Raises:
    ValueError: it is no such file, is damaged, or holds no named arrays.
  """
  try:
    found, load = (_archive if content.startswith(b'PK') else _legacy)(content)
    named = _named(found)
    return {name: _array(each, load) for name, each in named.items()}
  except ValueError:
    raise
  except Exception as error:  # of many kinds, where bytes are damaged
    raise ValueError(f'damaged, or not by torch.save ({error})') from error


def _named(found: Any) -> dict[str, _Tensor]:
  for name in _WRAPPED:
    if isinstance(found, dict) and isinstance(found.get(name), dict):
      found = found[name]
  named = {str(name): each for name, each in found.items()
           if isinstance(each, _Tensor)} if isinstance(found, dict) else {}
  if not named:
    raise ValueError('it holds no arrays by name; save a state_dict')
  return named


def _array(tensor: _Tensor, load: Callable[[_Storage], np.ndarray]
           ) -> np.ndarray:
  """Returns a tensor's part of its storage, which is not copied."""
  flat, (_, offset, shape, stride) = load(tensor.storage), tensor
  count = math.prod(shape)
  last = offset + sum((n - 1) * step for n, step in zip(
      shape, stride, strict=True))
  if count and last >= len(flat):
    raise ValueError(f'a tensor of shape {shape} beyond its storage')
  if not count:
    return np.empty(shape, flat.dtype)
  return np.lib.stride_tricks.as_strided(
      flat[offset:], shape, [step * flat.itemsize for step in stride],
      writeable=False)


def _archive(content: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
  """Returns the object of a zip archive, and what loads its storages."""
  archive = zipfile.ZipFile(io.BytesIO(content))
  [path] = [name for name in archive.namelist()
            if name.count('/') == 1 and name.endswith('/data.pkl')]
  folder = path.removesuffix('data.pkl')

  def part(name: str) -> bytes:
    info = archive.getinfo(folder + name)
    if info.compress_type != zipfile.ZIP_STORED:  # or it may be a bomb
      raise ValueError(f'{name} is compressed')
    return archive.read(info)

  if f'{folder}byteorder' in archive.namelist() and part(
      'byteorder') != b'little':
    raise ValueError('of a machine with the other order of bytes')
  machine, _ = _follow(part('data.pkl'))
  return machine.found, functools.cache(lambda storage: _elements(
      storage, part(f'data/{storage.key}')))


def _legacy(content: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
  """Returns the object of the old format, and what loads its storages."""
  at, parts = 0, []
  for wanted in (_MAGIC, _VERSION, None, None, None):
    machine, at = _follow(content, at)
    parts.append(machine)
    if wanted not in (None, machine.found):
      raise ValueError('not by torch.save')
  _, _, system, described, keys = parts
  if not system.found.get('little_endian'):
    raise ValueError('of a machine with the other order of bytes')
  places = {}
  for key in keys.found:  # one storage after the other: its size, its bytes
    size, = struct.unpack_from('<q', content, at)
    if type(key) is not str or key not in described.storages:
      raise ValueError('numbers of an unknown kind')
    if size != described.storages[key].size:
      raise ValueError(f'storage {key} is of another size than it says')
    places[key] = at + 8
    at += 8 + size * described.storages[key].dtype.itemsize

  def load(storage: _Storage) -> np.ndarray:
    begin = places[storage.key]
    return _elements(storage, memoryview(content)[
        begin:begin + storage.size * storage.dtype.itemsize])
  return described.found, load


def _elements(storage: _Storage, content: bytes | memoryview) -> np.ndarray:
  if len(content) != storage.size * storage.dtype.itemsize:
    raise ValueError(f'storage {storage.key} is cut off')
  return np.frombuffer(content, storage.dtype)


def _follow(content: bytes, at: int = 0) -> tuple['_Machine', int]:
  """Follows one pickle; returns what it has made, and where it ends."""
  file, machine = io.BytesIO(content), _Machine()
  file.seek(at)
  for code, argument, _ in pickletools.genops(file):
    if code.name == 'STOP':
      return machine, file.tell()
    if code.name not in _STEPS:
      raise ValueError('an instruction that no saved tensor has')
    _STEPS[code.name](machine, argument)
  raise ValueError('a pickle without an end')


class _Machine:
  """What the instructions of a pickle work on: a stack, and what they kept.

  Each method is one of them, with its argument, if it has one.
  """

  def __init__(self):
    self.stack, self.memo, self.storages = [], {}, {}

  @property
  def found(self) -> Any:
    """What the pickle describes."""
    found, = self.stack
    return found

  def push(self, value: Any) -> None:
    self.stack.append(value)

  def keep(self, place: int) -> None:
    self.memo[place] = self.stack[-1]

  def memoize(self, _: None) -> None:
    self.memo[len(self.memo)] = self.stack[-1]

  def recall(self, place: int) -> None:
    self.push(self.memo[place])

  def name(self, name: str) -> None:
    self.push(_Name(name.replace(' ', '.')))

  def name_of_stack(self, _: None) -> None:
    name, module = self.stack.pop(), self.stack.pop()
    if type(name) is not str or type(module) is not str:
      raise ValueError('a name that is no text')
    self.push(_Name(f'{module}.{name}'))

  def since_mark(self) -> list:
    """Takes what is above the last mark, and the mark."""
    taken = []
    while (each := self.stack.pop()) is not _MARK:
      taken.append(each)
    return taken[::-1]

  def tuple(self, _: None) -> None:
    self.push(tuple(self.since_mark()))

  def short_tuple(self, count: int) -> None:
    taken = [self.stack.pop() for _ in range(count)]
    self.push(tuple(taken[::-1]))

  def frozen_set(self, _: None) -> None:
    self.since_mark()
    self.push(Opaque())

  def extend(self, _: None) -> None:
    self.add(self.since_mark())

  def append(self, _: None) -> None:
    self.add([self.stack.pop()])

  def add(self, taken: list) -> None:
    if isinstance(self.stack[-1], list):
      self.stack[-1].extend(taken)

  def set_items(self, _: None) -> None:
    self.update(self.since_mark())

  def set_item(self, _: None) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self.update([key, value])

  def update(self, taken: list) -> None:
    if isinstance(self.stack[-1], dict):
      # To hash what is nested may take for ever.
      self.stack[-1].update(
          (key, value) for key, value in zip(
              taken[::2], taken[1::2], strict=True) if type(key) in (str, int))

  def storage(self, _: None) -> None:
    kind, name, key, _, size, *view = self.stack.pop()
    if kind != 'storage' or type(key) is not str or type(size) is not int or (
        size < 0 or any(view)):
      raise ValueError('no storage')
    dtype = _DTYPES.get(
        name.name.removeprefix('torch.').removesuffix('Storage'))
    if dtype is None:
      self.push(Opaque())
      return
    self.storages[key] = _Storage(np.dtype(dtype), key, size)
    self.push(self.storages[key])

  def call(self, _: None) -> None:
    arguments, name = self.stack.pop(), self.stack.pop()
    make = _KNOWN.get(name.name) if isinstance(name, _Name) else None
    self.push(make(*arguments) if make else Opaque())

  def new(self, count: int) -> None:
    del self.stack[-count:]
    self.push(Opaque())

  def build(self, _: None) -> None:
    self.stack.pop()  # attributes


def _tensor(storage, offset, shape, stride, *_) -> _Tensor | Opaque:
  if isinstance(storage, Opaque):
    return storage
  if not isinstance(storage, _Storage) or not (
      type(shape) is type(stride) is tuple
      and len(shape) == len(stride) <= _DIMENSIONS) or not all(
          type(each) is int and 0 <= each < 2**63
          for each in (offset, *shape, *stride)):
    raise ValueError('no tensor')
  return _Tensor(storage, offset, shape, stride)


_KNOWN: Mapping[str, Callable] = {
    'collections.OrderedDict': lambda: {},  # its items follow
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda data, *_: data}

# By the names that `pickletools` has for instructions.
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    'PROTO': lambda machine, _: None, 'FRAME': lambda machine, _: None,
    'MARK': lambda machine, _: machine.push(_MARK),
    'NONE': lambda machine, _: machine.push(None),
    'NEWTRUE': lambda machine, _: machine.push(True),
    'NEWFALSE': lambda machine, _: machine.push(False),
    'EMPTY_DICT': lambda machine, _: machine.push({}),
    'EMPTY_LIST': lambda machine, _: machine.push([]),
    'EMPTY_TUPLE': lambda machine, _: machine.push(()),
    'EMPTY_SET': lambda machine, _: machine.push(Opaque()),
    'FROZENSET': _Machine.frozen_set,
    'DUP': lambda machine, _: machine.push(machine.stack[-1]),
    'POP': lambda machine, _: machine.stack.pop(),
    'POP_MARK': lambda machine, _: machine.since_mark(),
    **dict.fromkeys((
        'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT',
        'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'SHORT_BINBYTES',
        'BINBYTES', 'BINSTRING', 'SHORT_BINSTRING'), _Machine.push),
    **dict.fromkeys(('BINPUT', 'LONG_BINPUT', 'PUT'), _Machine.keep),
    **dict.fromkeys(('BINGET', 'LONG_BINGET', 'GET'), _Machine.recall),
    'MEMOIZE': _Machine.memoize, 'GLOBAL': _Machine.name,
    'STACK_GLOBAL': _Machine.name_of_stack, 'TUPLE': _Machine.tuple,
    'TUPLE1': lambda machine, _: machine.short_tuple(1),
    'TUPLE2': lambda machine, _: machine.short_tuple(2),
    'TUPLE3': lambda machine, _: machine.short_tuple(3),
    'APPEND': _Machine.append, 'APPENDS': _Machine.extend,
    'ADDITEMS': _Machine.extend, 'SETITEM': _Machine.set_item,
    'SETITEMS': _Machine.set_items, 'BINPERSID': _Machine.storage,
    'REDUCE': _Machine.call, 'BUILD': _Machine.build,
    'NEWOBJ': lambda machine, _: machine.new(2),
    'NEWOBJ_EX': lambda machine, _: machine.new(3)}
