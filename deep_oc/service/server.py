"""From an address to the end of the last request."""
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import fastapi
import uvicorn

from deep_oc.errors import InputError
from deep_oc.service.limits import Limits

_MARGIN = 10  # seconds, for a client to read its answer


class _Server(uvicorn.Server):
  """Says when it listens; ends by itself on a signal.

  Uvicorn would raise the signal once more.
  """

  def __init__(self, config: uvicorn.Config, listens: Callable[[], object]):
    super().__init__(config)
    self._listens = listens

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    if self.started:
      self._listens()

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    before = {each: signal.signal(each, self._stop)
              for each in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for each, handler in before.items():
        signal.signal(each, handler)

  def _stop(self, *_: Any) -> None:
    """Takes nothing new; asked again, it waits for nothing either."""
    self.force_exit = self.should_exit
    self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
  """Returns a socket of this address that does not listen yet.

  Raises:
    InputError: there is no such address, or it is taken.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(address)
    return found
  except (OSError, UnicodeError) as error:
    raise InputError(f'cannot serve on --host={host} --port={port}: '
                     f'{getattr(error, "strerror", None) or error}') from error


def url(found: socket.socket) -> str:
  """Returns where a browser finds it."""
  host, port = found.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def run(app: fastapi.FastAPI, found: socket.socket,
        listens: Callable[[], object], limits: Limits) -> None:
  """Serves until SIGTERM or Ctrl-C, and then what was accepted before.

  A client that does not read is waited for no longer than an upload and its
  answer may take.

  Args:
    app: what serves.
    found: a socket that does not listen yet.
    listens: called once it does.
    limits: of the app.
  """
  # h11, unlike httptools, bounds what a header may be.
  server = _Server(uvicorn.Config(
      app, http='h11', ws='none', access_log=False, log_level='warning',
      server_header=False, timeout_graceful_shutdown=_MARGIN + math.ceil(
          2 * limits.timeout)), listens)
  server.run(sockets=[found])
