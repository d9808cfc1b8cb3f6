"""How every binary starts and ends: one line and a status that says why.

  0    done
  1    a defect, or a device's memory was not enough
  2    bad input, or a place that cannot be written to
  75   stopped from outside (AGAIN): the same command resumes
  130  Ctrl-C
  141  nobody reads what is printed any more, as after `| head`
"""
import contextlib
import itertools
import logging as python_logging
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from deep_oc import cache, errors, files

AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_INTERRUPTED = 130  # as of what SIGINT ends
_UNREAD = 141  # as of what SIGPIPE ends

# What flags and the files of configs raise where they are not fit.
UNFIT = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError,
         SyntaxError, ImportError)

_HELP = {dashes + name for dashes in ('-', '--')
         for name in ('?', 'help', 'helpshort', 'helpfull', 'helpxml')}


class Stopped(BaseException):
  """A signal came. Like KeyboardInterrupt, no `except Exception` swallows it.

  Attributes:
    status: to exit with.
  """

  def __init__(self, said: str, status: int = AGAIN):
    super().__init__(said)
    self.status = status


def works(name: str) -> bool:
  """Returns whether the module `name` is to do more than to tell its flags.

  A binary that is asked for help imports nothing that takes seconds.
  """
  return name != '__main__' or _HELP.isdisjoint(sys.argv[1:])


class Asked:
  """Whether a signal has asked to stop.

  Attributes:
    by: its name, '' until one has come.
  """
  by = ''

  def stopped(self, step: int) -> Stopped:
    """Returns what to raise once the state of `step` is saved."""
    return Stopped(f'stopped by {self.by or "SIGTERM"} at step {step}; the '
                   'same command resumes',
                   _INTERRUPTED if self.by == 'SIGINT' else AGAIN)


@contextlib.contextmanager
def between_steps(here: bool = True) -> Iterator[Asked]:
  """Within it SIGTERM and Ctrl-C only ask; another ends the process at once.

  Unless `here`: then something else handles SIGTERM, and nothing is asked.
  """
  asked = Asked()

  def ask(number: int, _: Any) -> None:
    if asked.by:
      os._exit(_INTERRUPTED if number == signal.SIGINT else AGAIN)
    asked.by = signal.Signals(number).name
    if number == signal.SIGINT:  # somebody waits; print may be under way
      os.write(2, b'\nstopping after this step; Ctrl-C again: at once\n')

  with contextlib.ExitStack() as stack:
    if here:
      stack.enter_context(_on(signal.SIGTERM, ask))
      # What a shell has put into the background ignores it.
      if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        stack.enter_context(_on(signal.SIGINT, ask))
    yield asked


def _raise(*_: Any) -> None:
  raise Stopped('stopped by SIGTERM')


@contextlib.contextmanager
def _on(number: int, handler: Callable[..., None]) -> Iterator[None]:
  if threading.current_thread() is not threading.main_thread():
    yield  # Python lets no other thread do it
    return
  before = signal.signal(number, handler)
  try:
    yield
  finally:
    signal.signal(number, before)


def fail(error: object, status: int = 2) -> None:
  """Prints the error on one line and exits."""
  # Background tasks of a failed read would go on about it while Python ends.
  sys.unraisablehook = lambda _: None
  line = ' '.join(str(error).split())
  print(f'error: {line}', file=sys.stderr)
  sys.exit(status)


@contextlib.contextmanager
def _to_a_reader() -> Iterator[None]:
  """Ends with a status of its own once nobody reads what is printed."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # Python would write the rest when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_UNREAD)


def _parse(argv: Sequence[str]) -> list[str]:
  with _to_a_reader():
    return _parsed([argv[0], *map(_at_home, argv[1:])])


def _parsed(argv: list[str]) -> list[str]:
  try:
    _find_neighbours(argv)
    return flags.FLAGS(argv)
  except SystemExit as error:  # absl ends with 1 after --help
    sys.exit(0 if not _HELP.isdisjoint(argv) else error.code)
  except BrokenPipeError:  # of --help
    raise
  except UNFIT as error:
    # ml_collections loads the config and its overrides while parsing.
    fail(reason(error))


def _at_home(argument: str) -> str:
  """Returns it with the home folder for ~ after =, where shells leave it.

  Not in fields of a config, which stand in config.json as they were given.
  """
  name, equals, value = argument.partition('=')
  if not name.startswith('-') or '.' in name:
    return argument
  return f'{name}{equals}{os.path.expanduser(value)}'


def _find_neighbours(argv: Sequence[str]) -> None:
  """Lets the file of --config import those beside it, as `configs.<name>`.

  Raises:
    InputError: there is no such file.
  """
  for flag, after in itertools.pairwise([*argv, '']):
    name, equals, value = flag.partition('=')
    if name in ('-config', '--config'):
      path = config_file(value if equals else after)
      sys.path.append(str(path.resolve().parent.parent))


def config_file(value: str) -> pathlib.Path:
  """Returns the file of a --config, which may have an argument after a colon.

  Raises:
    InputError: there is none; ml_collections says it at length.
  """
  path = pathlib.Path(value.partition(':')[0])
  if not path.is_file():
    beside = sorted(each.stem for each in path.parent.glob('*.py'))
    raise errors.unknown(f'config in {path.parent}/', path.stem, beside) if (
        beside and path.name) else errors.InputError(
            f"no config at '{value}'; this package's are in the folder configs "
            'of its repository: start there, or give the whole path')
  return path


def reason(error: Exception) -> str:
  """Returns what is wrong, of `UNFIT`, without the traceback in its text."""
  if isinstance(error, (AttributeError, KeyError)):
    return str(errors.unknown_key(error))
  text = str(error)
  if isinstance(error, flags.UnrecognizedFlagError) and '.' in error.flagname:
    return f'{text}; fields of a config are set by --config.{error.flagname}'
  number = re.search(r"invalid literal for int\(\) with base 10: ('.*')$", text)
  if number:
    return f'{text[:number.start()]}{number[1]} is not a whole number'
  needless = re.match(r'flag --config=(.*?):(.*?): Error .*\bget_config\(\) '
                      'takes 0 positional arguments', text, re.DOTALL)
  if needless:
    return f"{needless[1]} takes no argument; leave out ':{needless[2]}'"
  if 'Traceback' in text:
    text = f'{text[:text.index("Traceback")]}{text.strip().splitlines()[-1]}'
  return text.rpartition('deep_oc.errors.InputError: ')[2]  # of a config's file


def run(main: Callable[..., None], define_flags: Callable[[], None],
        arguments: Sequence[str] = (), resumes: bool = False) -> None:
  """Defines and parses the flags, then calls `main`.

  Flags are defined here and not on import, so that one binary can import from
  another.

  Args:
    main: called with the positional arguments, none by default.
    define_flags: calls `flags.DEFINE_...`.
    arguments: names of the positional arguments; all of them are required.
    resumes: whether the same command goes on where a signal has ended it.
  """
  again = '; the same command resumes' * resumes
  define_flags()
  logging.set_verbosity(logging.WARNING)  # JAX tells of absent TPUs
  logging.get_absl_handler().setFormatter(
      python_logging.Formatter('warning: %(message)s'))

  def guarded(argv: Sequence[str]) -> None:
    given = argv[1:]
    if len(given) > len(arguments):
      fail(f"unexpected argument '{given[len(arguments)]}'; see --help")
    if len(given) < len(arguments):
      fail(f'the argument <{arguments[len(given)]}> is missing; see --help')
    cache.keep_compiled_programs()
    try:
      with _to_a_reader():
        main(*given)
    except files.WriteError as error:
      with contextlib.suppress(SystemExit):
        fail(error)
      sys.stdout.flush()
      os._exit(2)  # Orbax may have threads that wait for what never comes
    except KeyboardInterrupt:
      print(f'interrupted{again}', file=sys.stderr)
      sys.exit(_INTERRUPTED)
    except Exception as error:
      said = errors.explained(error)
      if said is None:
        raise
      fail(said, said.status)

  with _on(signal.SIGTERM, _raise):
    try:
      app.run(guarded, flags_parser=_parse)
    except Stopped as error:
      said = str(error)
      print(said if again in said else said + again, file=sys.stderr)
      sys.exit(error.status)
