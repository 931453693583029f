"""Memory of this process and of this machine, in bytes."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak() -> int:
    """The largest resident size of this process since it began, or since `forget_peak`."""
    # in KiB on Linux, in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
    """Gives freed memory back to the system, which the C library keeps where it lies between pieces in use."""
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> bool:
    """Gives freed memory back to the system and lets `peak` count from here; False where the system has no such thing (not Linux)."""
    gc.collect()
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident size
    except OSError:
        return False
    return True


def available() -> int:
    """What new processes can have without swapping; all of the machine's memory where the system does not say."""
    with suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
