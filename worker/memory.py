"""Gives back what bursts leave behind, so that a process weighs what it holds and not what it once held.

Two things keep memory that nobody uses. Cycles (closed connections with their buffers, exceptions with their
tracebacks) live until the collector looks at old objects; with the threshold that `run_on_loop` sets, and tens of
thousands of calls remembered, that is hours. And the C library keeps pages that have become free amid others.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

from worker.clock import Clock

EVERY_S = 60.0
# With 50,000 calls remembered a collection stops the loop for 15 ms. What takes longer is done seldomer.
MOST_SHARE_OF_TIME = 1 / 1000


async def give_back(
    clock: Clock, *, collect: Callable[[], object] = gc.collect, trim: Callable[[], object] | None = None
) -> None:
    """Do so every minute until cancelled."""
    trim = trim or _trim()
    pause_s = EVERY_S
    while True:
        await clock.sleep(pause_s)
        began_s = clock.monotonic_s()
        collect()
        trim()
        pause_s = max(EVERY_S, (clock.monotonic_s() - began_s) / MOST_SHARE_OF_TIME)


def _trim() -> Callable[[], object]:
    """Return what tells the C library to give pages back; where it is not glibc there is nothing to tell."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return lambda: None
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: malloc_trim(0)
