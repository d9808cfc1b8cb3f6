"""Writes files as torch.save does, by Python's own pickle.

What PyTorch adds to that is which names stand for what, and where the numbers
lie. `modules` are of PyTorch's names, for pickle to refer to.
"""
import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

STORAGES = {'float64': 'Double', 'float32': 'Float', 'float16': 'Half',
             'int64': 'Long', 'int32': 'Int', 'int16': 'Short', 'int8': 'Char',
             'uint8': 'Byte', 'bool': 'Bool', 'bfloat16': 'BFloat16'}


class Tensor:
  """What torch.save sees: a part of a flat array, which may have others."""

  def __init__(self, flat, offset, shape, stride):
    self.flat, self.layout = flat, (offset, shape, stride)


class Parameter:
  """As nn.Parameter: a tensor that says that it is one."""

  def __init__(self, data):
    self.data = data


def modules(monkeypatch):
  """Returns a module `torch`, which can be imported in this test alone."""
  root, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
    exec(f'def {name}(*args): pass', utils.__dict__)
  for name in STORAGES.values():
    storage = type(f'{name}Storage', (), {'__module__': 'torch'})
    setattr(root, storage.__name__, storage)
  root._utils = utils
  monkeypatch.setitem(sys.modules, 'torch', root)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return root


class _Pickler(pickle.Pickler):

  def __init__(self, file, torch, protocol, legacy):
    super().__init__(file, protocol)
    self.torch, self.legacy, self.flat = torch, legacy, {}

  def persistent_id(self, value):
    if not isinstance(value, np.ndarray):
      return None
    key = next((key for key, flat in self.flat.items() if flat is value),
               str(len(self.flat)))
    self.flat[key] = value
    name = STORAGES[value.dtype.name]
    view = (None,) if self.legacy else ()
    return ('storage', getattr(self.torch, f'{name}Storage'), key, 'cpu',
            value.size, *view)

  def reducer_override(self, value):
    utils = self.torch._utils
    if isinstance(value, Tensor):
      offset, shape, stride = value.layout
      return utils._rebuild_tensor_v2, (
          value.flat, offset, shape, stride, False, collections.OrderedDict())
    if isinstance(value, Parameter):
      return utils._rebuild_parameter, (
          value.data, True, collections.OrderedDict())
    return NotImplemented


def archived(torch, value, protocol=2, compression=zipfile.ZIP_STORED,
             order=b'little'):
  """Returns a file of PyTorch 1.6 and later."""
  content, described = io.BytesIO(), io.BytesIO()
  pickler = _Pickler(described, torch, protocol, legacy=False)
  pickler.dump(value)
  with zipfile.ZipFile(content, 'w', compression) as archive:
    archive.writestr('model/data.pkl', described.getvalue())
    archive.writestr('model/byteorder', order)
    for key, flat in pickler.flat.items():
      archive.writestr(f'model/data/{key}', flat.tobytes())
    archive.writestr('model/version', b'3\n')
  return content.getvalue()


def legacy(torch, value, protocol=2, little=True):
  """Returns a file from before."""
  file = io.BytesIO()
  for part in (0x1950a86a20f9469cfc6c, 1001, {
      'protocol_version': 1001, 'little_endian': little,
      'type_sizes': {'short': 2, 'int': 4, 'long': 4}}):
    pickle.dump(part, file, protocol)
  pickler = _Pickler(file, torch, protocol, legacy=True)
  pickler.dump(value)
  keys = sorted(pickler.flat)
  pickle.dump(keys, file, protocol)
  for key in keys:
    file.write(struct.pack('<q', pickler.flat[key].size))
    file.write(pickler.flat[key].tobytes())
  return file.getvalue()


def whole(array):
  """Returns a tensor of an array, in rows."""
  stride = [each // array.itemsize for each in array.strides]
  return Tensor(np.ascontiguousarray(array).ravel(), 0, array.shape,
                tuple(stride))
