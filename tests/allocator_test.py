"""Memory that was freed is kept, or given back, as the allocator was told."""
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

# Prints how many pages are new in 64 MiB that were freed just before.
_PROGRAM = '''
import resource
from deep_oc import allocator
def faults():
  bytearray(b'x') * 2**26
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  bytearray(b'x') * 2**26
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
allocator.keep_freed_memory()
print(faults())
with allocator.giving_memory_back():
  print(faults())
print(faults())
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of glibc alone')
def test_freed_memory_is_kept_unless_it_is_to_be_given_back():
  done = subprocess.run([sys.executable, '-c', _PROGRAM], cwd=ROOT, text=True,
                        capture_output=True, check=True)
  kept, given_back, again = map(int, done.stdout.split())
  assert 4 * max(kept, again) < given_back
