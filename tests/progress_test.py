"""Progress: a bar on a terminal, a line now and then elsewhere."""
import io

from deep_oc import progress


class Terminal(io.StringIO):

  def isatty(self):
    return True


def _done(monkeypatch, stream):
  monkeypatch.setattr('sys.stderr', stream)
  assert list(progress.bar(iter('abc'), 'look', 3, unit='images',
                           leave=False)) == ['a', 'b', 'c']
  return stream.getvalue()


def test_a_file_gets_lines(monkeypatch):
  monkeypatch.setattr(progress, '_EVERY', 1e-9)
  lines = _done(monkeypatch, io.StringIO()).splitlines()
  assert len(lines) == 3 and '\x1b' not in ''.join(lines)
  assert lines[1].startswith('look: 2 of 3 images  ')
  assert lines[1].endswith(' left')


def test_what_is_quick_says_nothing_in_a_file(monkeypatch):
  assert not _done(monkeypatch, io.StringIO())


def test_a_terminal_gets_a_bar(monkeypatch):
  assert '\r' in _done(monkeypatch, Terminal())
