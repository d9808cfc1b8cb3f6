"""How every binary starts and fails: one line and status 2 for bad input."""
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from deep_oc.errors import InputError


def fail(error: object) -> None:
  """Prints the error on one line and exits with status 2."""
  # Background tasks of a failed read would go on about it while Python ends.
  sys.unraisablehook = lambda _: None
  line = ' '.join(str(error).split())
  print(f'error: {line}', file=sys.stderr)
  sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
          OSError, SyntaxError, ImportError) as error:
    # ml_collections loads the config and its overrides while parsing.
    fail(_reason(error))


def _reason(error: Exception) -> str:
  """Returns what is wrong without the traceback that flags may carry."""
  if isinstance(error, (AttributeError, KeyError)):
    return f'unknown config key {error.args[0]}'
  text = str(error)
  if 'Traceback' in text:
    text = f'{text[:text.index("Traceback")]}{text.strip().splitlines()[-1]}'
  return text


def run(main: Callable[..., None], define_flags: Callable[[], None],
        arguments: Sequence[str] = ()) -> None:
  """Defines and parses the flags, then calls `main`.

  Flags are defined here and not on import, so that one binary can import from
  another.

  Args:
    main: called with the positional arguments, none by default.
    define_flags: calls `flags.DEFINE_...`.
    arguments: names of the positional arguments; all of them are required.
  """
  define_flags()
  logging.set_verbosity(logging.WARNING)  # JAX tells of absent TPUs

  def guarded(argv: Sequence[str]) -> None:
    given = argv[1:]
    if len(given) > len(arguments):
      fail(f"unexpected argument '{given[len(arguments)]}'; see --help")
    if len(given) < len(arguments):
      fail(f'the argument <{arguments[len(given)]}> is missing; see --help')
    try:
      main(*given)
    except InputError as error:
      fail(error)
    except KeyboardInterrupt:
      print('interrupted; the same command resumes', file=sys.stderr)
      sys.exit(130)

  app.run(guarded, flags_parser=_parse)
