"""The pictures in a request's body, read as it arrives and not on a byte more.

They are held in memory: nothing that was uploaded touches a disk.
"""
import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import fastapi
from python_multipart import multipart

from deep_oc.service.limits import Limits, Refused

FIELD = 'image'
_LONGEST = 200  # characters of a name
_PARTS = 16  # that are no pictures, beside those that are


class Upload(NamedTuple):
  """A file as it came."""
  name: str
  content: bytes


async def read(request: fastapi.Request, limits: Limits) -> list[Upload]:
  """Returns what was uploaded: the fields of a form, or the body itself.

  Raises:
    Refused: it is too much (413), too slow (408), malformed (400), or neither
      a form nor a picture (415); or there is nothing (422).
  """
  take = _reader(request, limits)
  declared = request.headers.get('content-length', '')
  if declared.isdecimal() and int(declared) > limits.max_bytes:
    raise _too_large(limits)
  try:
    async with asyncio.timeout(limits.timeout):
      found = await take(_chunks(request, limits))
  except TimeoutError:
    raise Refused(408, 'the upload took longer than '
                  f'{limits.timeout:g} s') from None
  if not found:
    raise Refused(422, f"there is no picture; send one in the field '{FIELD}'")
  return found


def _reader(request, limits):
  if request.headers.get('content-encoding', 'identity') != 'identity':
    raise Refused(415, 'a body must not be compressed (Content-Encoding)')
  kind, options = multipart.parse_options_header(
      request.headers.get('content-type'))
  kind = kind.decode('latin-1').lower()
  if kind == 'multipart/form-data':
    if not options.get(b'boundary'):
      raise Refused(400, 'the form has no boundary in its Content-Type')
    return _Form(options[b'boundary'], limits).read
  if kind.startswith('image/') or kind == 'application/octet-stream':
    return _whole
  raise Refused(415, 'send multipart/form-data, or one picture as image/*, not '
                f"'{kind[:_LONGEST]}'")


def _too_large(limits):
  return Refused(413, f'the upload has more than {limits.max_bytes:,} bytes')


async def _chunks(request, limits) -> AsyncIterator[bytes]:
  taken = 0
  async for chunk in request.stream():
    taken += len(chunk)
    if taken > limits.max_bytes:
      raise _too_large(limits)
    yield chunk


async def _whole(chunks):
  return [Upload(FIELD, b''.join([each async for each in chunks]))]


class _Form:
  """Takes the files out of multipart/form-data."""

  def __init__(self, boundary: bytes, limits: Limits):
    self._limits = limits
    self._found: list[Upload] = []
    self._others = 0
    self._ended = False
    names = ('part_begin', 'part_data', 'part_end', 'header_begin',
             'header_field', 'header_value', 'header_end', 'headers_finished',
             'end')
    self._parser = multipart.MultipartParser(boundary, {
        f'on_{name}': getattr(self, f'_{name}') for name in names})

  async def read(self, chunks: AsyncIterator[bytes]) -> list[Upload]:
    try:
      async for chunk in chunks:
        self._parser.write(chunk)
    except multipart.MultipartParseError as error:
      raise Refused(400, 'the form is malformed: '
                    f'{" ".join(str(error).split())[:_LONGEST]}') from error
    if not self._ended:
      raise Refused(400, 'the form is cut off: its last boundary is missing')
    return self._found

  def _part_begin(self):
    self._headers, self._content, self._name = {}, [], None

  def _header_begin(self):
    self._field, self._value = b'', b''

  def _header_field(self, data, begin, end):
    self._field += data[begin:end]

  def _header_value(self, data, begin, end):
    self._value += data[begin:end]

  def _header_end(self):
    self._headers[self._field.lower()] = self._value

  def _headers_finished(self):
    _, options = multipart.parse_options_header(
        self._headers.get(b'content-disposition'))
    field = _text(options.get(b'name', b''))
    is_file = b'filename' in options
    if is_file and field != FIELD:
      raise Refused(422, f"files go in the field '{FIELD}', not '{field}'")
    if is_file or field == FIELD:
      self._name = _text(options.get(b'filename', b'')) or FIELD
      if len(self._found) == self._limits.max_images:
        raise Refused(413, 'there are more than '
                      f'{self._limits.max_images} pictures in a request')
    else:
      self._others += 1
      if self._others > _PARTS:
        raise Refused(413, 'the form has too many fields')

  def _part_data(self, data, begin, end):
    if self._name is not None:
      self._content.append(data[begin:end])

  def _part_end(self):
    if self._name is not None:
      self._found.append(Upload(self._name, b''.join(self._content)))

  def _end(self):
    self._ended = True


def _text(value: bytes) -> str:
  return value.decode('utf-8', 'replace')[:_LONGEST]
