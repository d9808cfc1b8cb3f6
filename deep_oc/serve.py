"""Serves a bundle over HTTP, with a page to drop pictures on.

  python -m deep_oc.serve --bundle=bundles/cutpaste
  curl -F image=@a.png -F image=@b.jpg http://127.0.0.1:8000/score
  curl -H 'Content-Type: image/png' --data-binary @a.png \
      http://127.0.0.1:8000/score?maps=true

  POST /score    pictures in, scores out, with regions if heat maps are judged;
                 ?maps=true draws heat maps, too
  GET /          the page
  GET /health    whether it serves, which model, which limits
  GET /metrics   counts and times, in Prometheus' text format

Pictures are PNG, JPEG, WebP, BMP or TIFF. One that cannot be scored refuses
its whole request, with a 4xx that names it and says why. A request is taken
while fewer than --queue are in hand, and then answered, whatever happens; else
the answer is 503 with Retry-After. SIGTERM ends the service once all that was
taken is answered, with status 0; a client that does not read its answer is
disconnected in the end.

It listens on this machine alone unless --host says otherwise. It asks for no
password and encrypts nothing: before it opens to others, put a proxy that does.
"""
import os
import warnings

from absl import flags

from deep_oc import bundle, cli
from deep_oc.errors import InputError
from deep_oc.service import limits

_LOCAL = ('127.0.0.1', '::1', 'localhost')


def define_flags() -> None:
  flags.DEFINE_string('bundle', None, 'Folder that `deep_oc.export` wrote.')
  flags.DEFINE_string(
      'host', '127.0.0.1', 'Address to listen on; 0.0.0.0 is all of them.')
  flags.DEFINE_integer(
      'port', 8000, 'Port to listen on; 0 takes a free one.', 0, 65535)
  flags.DEFINE_integer(
      'max_bytes', 16 * 2**20, "Of a request's body.", 1)
  flags.DEFINE_integer(
      'max_pixels', 30_000_000, 'Of a picture. Two are decoded at a time, at '
      f'up to {limits.BYTES_OF_WEBP} bytes a pixel.', 1, 100_000_000)
  flags.DEFINE_integer('max_images', 16, 'Of a request.', 1)
  flags.DEFINE_float(
      'timeout', 30., 'Seconds that an upload may take, and then its answer.',
      0.001)
  flags.DEFINE_integer(
      'queue', 64, 'Requests that are worked on or wait; more are told to come '
      'again. Each holds up to --max_bytes.', 1)


def _service():
  """Returns the modules that need the extra."""
  try:
    from deep_oc.service import app, server, worker
    return app, server, worker
  except ImportError as error:
    raise InputError(f"the service is an extra ({error}): pip install "
                     "'.[serve]'") from error


def main() -> None:
  args = flags.FLAGS
  app, server, worker = _service()
  if not args.bundle:
    raise InputError('--bundle is required; see --help')
  chosen = limits.Limits(**{name: args[name].value
                            for name in limits.Limits._fields})
  try:
    found = bundle.load(args.bundle)
    with server.bind(args.host, args.port) as address:
      print(f'{args.bundle}: compile', flush=True)
      worker.warm_up(found)
      _serve(app.create_app(found, chosen), server, address, args.host, chosen)
  except bundle.BundleError as error:
    raise InputError(str(error)) from error


def _serve(app, server, address, host, limits):
  warnings.filterwarnings('ignore', module='PIL')  # of damaged uploads
  if host not in _LOCAL:
    print(f'warning: whoever reaches {host} can use it; there is no password',
          flush=True)
  server.run(app, address, lambda: print(
      f'serve on {server.url(address)} (process {os.getpid()})', flush=True),
             limits)
  measures = app.state.service.measures.registry
  accepted, finished = (int(measures.get_sample_value(
      f'deep_oc_{name}_total')) for name in ('accepted', 'finished'))
  print(f'stopped: {accepted} requests accepted, {finished} answered')


if __name__ == '__main__':
  cli.run(main, define_flags)
