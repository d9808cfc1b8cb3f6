"""The routes of the service."""
import asyncio
import concurrent.futures
import contextlib
import http
import pathlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import fastapi
import numpy as np
from fastapi import exceptions, responses
from starlette.exceptions import HTTPException

import deep_oc
from deep_oc import bundle, heat_colours, page
from deep_oc.service import (answers, decoding, measures, uploads, worker)
from deep_oc.service.edge import Edge
from deep_oc.service.limits import Limits, Refused

_HERE = pathlib.Path(__file__).parent
_DECODERS = 2  # threads; each may hold a picture of `max_pixels`
_RETRY = 1  # seconds
_PAGE = {'/': (_HERE / 'index.html', 'text/html; charset=utf-8'),
         '/app.js': (_HERE / 'app.js', 'text/javascript; charset=utf-8'),
         '/style.css': (_HERE / 'style.css', 'text/css; charset=utf-8'),
         '/page.css': (pathlib.Path(page.__file__).with_name('page.css'),
                       'text/css; charset=utf-8')}
_PATHS = ('/score', '/health', '/metrics', '/openapi.json', '/colours.png',
          *_PAGE)
_BODY = {'requestBody': {'required': True, 'content': {
    'multipart/form-data': {'schema': {
        'type': 'object', 'required': [uploads.FIELD], 'properties': {
            uploads.FIELD: {'type': 'array', 'items': {
                'type': 'string', 'format': 'binary'}}}}},
    'image/*': {'schema': {'type': 'string', 'format': 'binary'}}}}}


class Service:
  """What the routes share.

  Attributes:
    measures: what is counted.
  """

  def __init__(self, found: bundle.Bundle, limits: Limits):
    self._bundle, self._limits = found, limits
    self._in_hand = 0
    self.measures = measures.Measures()
    self._worker = worker.Worker(found, self.measures.batch)
    self._decoders = concurrent.futures.ThreadPoolExecutor(
        _DECODERS, 'decoder')
    self.measures.queue.set_function(lambda: self._in_hand)
    self.measures.waiting.set_function(lambda: self._worker.waiting)

  @property
  def alive(self) -> bool:
    return self._worker.alive

  async def score(self, request: fastapi.Request, maps: bool
                  ) -> answers.Scored:
    """Answers POST /score.

    Raises:
      Refused: what is wrong with it, or that there is no place or time.
    """
    if maps and not self._bundle.localizes:
      raise Refused(422, 'this model has no heat maps; ask without `maps`')
    with self._place(request):
      files = await uploads.read(request, self._limits)
      try:
        async with asyncio.timeout(self._limits.timeout):
          return await self._answer(files, maps)
      except TimeoutError:
        raise Refused(504, f'no answer within {self._limits.timeout:g} s',
                      retry=_RETRY) from None

  @contextlib.contextmanager
  def _place(self, request: fastapi.Request) -> Iterator[None]:
    if self._in_hand >= self._limits.queue:
      raise Refused(503, f'{self._limits.queue} requests are being worked on; '
                    'try again', retry=_RETRY)
    self._in_hand += 1
    request.state.accepted = True
    self.measures.accepted.inc()
    try:
      yield
    finally:
      self._in_hand -= 1

  async def _answer(self, files, maps):
    loop, seconds = asyncio.get_running_loop(), self._limits.timeout
    names = [file.name for file in files]
    images = await loop.run_in_executor(
        self._decoders, self._prepare, files, time.monotonic() + seconds)
    answer = await asyncio.wrap_future(
        self._worker.submit(images, maps, seconds))
    for anomalous in answer.judged.anomalous:
      self.measures.images.labels(
          'anomalous' if anomalous else 'normal').inc()
    return await loop.run_in_executor(
        self._decoders, answers.scored, self._bundle, names, images, answer,
        maps)

  def _prepare(self, files: Sequence[uploads.Upload], until: float
               ) -> np.ndarray:
    """Returns u8[n, h, w, 3]; the first file that is no picture fails all."""
    images = []
    for i, file in enumerate(files):
      if time.monotonic() > until:
        raise TimeoutError
      try:
        images.append(decoding.read(file.content, self._bundle,
                                    self._limits.max_pixels))
      except Refused as error:
        raise Refused(error.status, f'{file.name}: {error.reason}',
                      file=file.name, index=i) from error
    return np.stack(images)

  def close(self) -> None:
    """Ends the threads, once they have done what was begun."""
    self._worker.close()
    self._decoders.shutdown()


def create_app(found: bundle.Bundle, limits: Limits = Limits()  # noqa: B008
               ) -> fastapi.FastAPI:
  """Returns the service over a bundle; `app.state.service` is its Service."""
  service = Service(found, limits)

  @contextlib.asynccontextmanager
  async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(service.close)

  # FastAPI's pages of documentation load scripts from elsewhere.
  app = fastapi.FastAPI(title='deep_oc', version=deep_oc.__version__,
                        docs_url=None, redoc_url=None, lifespan=lifespan)
  app.state.service = service
  app.add_middleware(Edge, measures=service.measures, paths=_PATHS)
  for kind, handler in ((Refused, _refused), (HTTPException, _no_route),
                        (exceptions.RequestValidationError, _no_query)):
    app.add_exception_handler(kind, handler)
  _add_routes(app, service, answers.model(found), limits)
  for path, (file, kind) in _PAGE.items():
    _add_file(app, path, file.read_bytes(), kind)
  _add_file(app, '/colours.png', answers.png(heat_colours.colours(
      np.linspace(0, 1, 256)[None], heat_colours.Scale(0, 1))), 'image/png')
  return app


def _add_routes(app, service, model, limits):
  refusals = {status: {'model': answers.Failure} for status in (
      400, 408, 413, 415, 422, 503, 504)}

  @app.post('/score', responses=refusals, openapi_extra=_BODY)
  async def score(request: fastapi.Request, maps: bool = False
                  ) -> answers.Scored:
    """Scores pictures: fields `image` of a form, or one as the body."""
    return await service.score(request, maps)

  @app.get('/health', responses={503: {'model': answers.Health}})
  async def health(response: fastapi.Response) -> answers.Health:
    """Says whether pictures are scored, and by which model."""
    response.status_code = 200 if service.alive else 503
    return answers.Health(status='ok' if service.alive else 'failed',
                          model=model, limits=limits._asdict())

  @app.get('/metrics', response_class=responses.PlainTextResponse)
  async def metrics() -> fastapi.Response:
    """Counts, in Prometheus' text format."""
    return fastapi.Response(service.measures.text(),
                            media_type=measures.TYPE)


def _add_file(app, path, content, kind):
  @app.get(path, include_in_schema=False)
  async def file() -> fastapi.Response:
    return fastapi.Response(content, media_type=kind)


async def _refused(request: fastapi.Request, error: Any) -> fastapi.Response:
  headers = {'retry-after': str(error.retry)} if error.retry else None
  return responses.JSONResponse({'error': error.reason} | error.more,
                                error.status, headers)


async def _no_route(request: fastapi.Request, error: Any) -> fastapi.Response:
  reason = http.HTTPStatus(error.status_code).phrase.lower()
  return responses.JSONResponse(
      {'error': f'{request.method} {request.url.path}: {reason}'},
      error.status_code, error.headers)


async def _no_query(request: fastapi.Request, error: Any) -> fastapi.Response:
  first = error.errors()[0]
  where = '.'.join(map(str, first['loc'][1:]))
  return responses.JSONResponse(
      {'error': f"{where}: {first['msg'].lower()}"}, 422)
