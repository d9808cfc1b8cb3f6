"""How every binary starts and fails: one line and status 2 for bad input."""
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from deep_oc.errors import InputError


def fail(error: object) -> None:
  """Prints the error on one line and exits with status 2."""
  line = ' '.join(str(error).split())
  print(f'error: {line}', file=sys.stderr)
  sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
          OSError, SyntaxError, ImportError) as error:
    # ml_collections loads the config and its overrides while parsing.
    fail(error.args[0] if isinstance(error, KeyError) else error)


def run(main: Callable[[], None]) -> None:
  """Parses the flags and calls `main`."""
  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      fail(f"unexpected argument '{argv[1]}'; see --help")
    try:
      main()
    except InputError as error:
      fail(error)
    except KeyboardInterrupt:
      print('interrupted; the same command resumes', file=sys.stderr)
      sys.exit(130)

  app.run(guarded, flags_parser=_parse)
