"""How the C library hands memory out and back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")

_ARENAS = """
import ctypes, sys, tempfile, threading
from tasador.core.memory import limit_malloc_arenas
if sys.argv[1] == "limited":
    limit_malloc_arenas()
libc, together = ctypes.CDLL(None), threading.Barrier(8)
def allocate():
    kept = [bytearray(2000) for _ in range(500)]
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    out = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, out)
    libc.fclose(out)
    print(file.read().count(b"<heap nr"))
"""


def test_threads_share_two_arenas() -> None:
    def arenas(how: str) -> int:
        command = [sys.executable, "-c", _ARENAS, how]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert arenas("limited") == 2 < arenas("as it is")


_HOLES = """
import re
from tasador.core.memory import give_memory_back

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

kept = [bytearray(20_000) for _ in range(5_000)]
last = bytearray(20_000)  # what is freed below it stays with the C library
del kept
before = held()
give_memory_back()
print(before - held())
"""


def test_what_was_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, check=True)
    assert int(done.stdout) * 4096 > 50e6
