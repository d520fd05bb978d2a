"""Memory that goes back to the operating system, in a process of its own, whose heap nobody else has used."""

import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes, sys
from service import memory

libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_trim"):
    sys.exit("no malloc_trim")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]


def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20


# Blocks too small to be mapped one by one. The last stays, and keeps the heap from shrinking by itself.
blocks = [libc.malloc(100_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
held = resident_mb()
memory.give_back()
print(held - resident_mb())
"""


def test_what_was_freed_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, timeout=60)
    if "no malloc_trim" in done.stderr:
        pytest.skip("the C library has no malloc_trim")
    assert float(done.stdout) > 80, done.stderr
