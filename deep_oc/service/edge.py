"""What every request goes through, whatever becomes of it.

Headers that leave a browser no choice; counts; an answer in JSON to what fails;
and patience: who is refused in the middle of an upload may say the rest, within
bounds, for a connection that is closed on unread bytes loses the reason.
"""
import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from starlette import datastructures, requests

from deep_oc.service.measures import Measures

HEADERS = {
    'content-security-policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"),
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cross-origin-resource-policy': 'same-origin',
    'cache-control': 'no-cache'}
_LINGER = 5  # seconds
_UNREAD = 64 * 2**20  # bytes that are taken in beside what is allowed
GONE = 499  # the client left; as nginx counts it


class Edge:
  """The ASGI application around another."""

  def __init__(self, app: Any, measures: Measures, paths: Iterable[str]):
    """Counts `paths` by their names, and all others as one."""
    self._app, self._measures = app, measures
    self._paths = frozenset(paths)

  async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    exchange = _Exchange(scope, receive, send)
    begin = time.monotonic()
    try:
      await self._app(scope, exchange.receive, exchange.send)
    except (requests.ClientDisconnect, asyncio.CancelledError):
      exchange.status = GONE  # or it does not read, and the service ends
    except Exception:
      logging.getLogger(__name__).exception('a request failed')
      await exchange.apologize()
    finally:
      self._count(scope, exchange.status, time.monotonic() - begin)

  def _count(self, scope, status, seconds):
    path = scope['path'] if scope['path'] in self._paths else 'other'
    self._measures.requests.labels(path, status).inc()
    self._measures.seconds.labels(path).observe(seconds)
    if scope.get('state', {}).get('accepted'):
      self._measures.finished.inc()


class _Exchange:
  """One request, and its answer."""

  def __init__(self, scope, receive, send):
    self.status = GONE
    self._receive, self._send = receive, send
    self._headers = datastructures.Headers(scope=scope)
    self._ended = False

  async def receive(self):
    message = await self._receive()
    self._ended = not message.get('more_body')  # so it is of a disconnect
    return message

  async def send(self, message):
    if message['type'] == 'http.response.start':
      self.status = message['status']
      headers = datastructures.MutableHeaders(raw=message['headers'])
      for name, value in HEADERS.items():
        headers.setdefault(name, value)
      await self._linger()
    await self._send(message)

  async def _linger(self):
    """Takes in what the client still sends, unless it waits to be asked."""
    declared = self._headers.get('content-length', '0')
    chunked = 'transfer-encoding' in self._headers
    if (self.status in (408, GONE) or 'expect' in self._headers
        or not chunked and declared == '0'):
      return
    left = _UNREAD
    try:
      async with asyncio.timeout(_LINGER):
        while not self._ended and left > 0:
          left -= len((await self.receive()).get('body', b''))
    except TimeoutError:
      pass

  async def apologize(self):
    """Answers 500, unless an answer had begun."""
    if self.status != GONE:
      return
    body = json.dumps({'error': 'the service failed; its log says why'})
    await self.send({'type': 'http.response.start', 'status': 500, 'headers': [
        (b'content-type', b'application/json'),
        (b'content-length', str(len(body)).encode())]})
    await self._send({'type': 'http.response.body', 'body': body.encode()})
