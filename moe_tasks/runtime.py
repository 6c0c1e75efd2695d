"""Settings of the process that training runs in."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_NEVER, _LARGEST = 2**31 - 1, 2**30
_POLL_SECONDS = 1.0


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step, instead of asking the system for it anew.

    A step frees and takes hundreds of MiB of activations and gradients, and every page that the
    system hands out is filled with zeros first. What the user has set (``MALLOC_...``) stands.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


@cache
def cpu_name() -> str:
    """What the processor calls itself, e.g. ``AMD EPYC 9B14``; may be empty."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def end_with_parent(parent: int) -> None:
    """End this process when the one with the number ``parent`` that started it has gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
