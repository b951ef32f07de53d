"""What nobody uses any more is given back, and that takes hardly any time."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from worker.clock import ManualClock, settle
from worker.memory import EVERY_S, give_back


@asynccontextmanager
async def giving_back(
    clock: ManualClock, collect: Callable[[], object], trim: Callable[[], object]
) -> AsyncIterator[None]:
    task = asyncio.create_task(give_back(clock, collect=collect, trim=trim))
    await settle()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Cycle:
    def __init__(self) -> None:
        self.me = self


async def test_old_cycles_are_gone_within_a_minute() -> None:
    clock = ManualClock()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        cycle = Cycle()
        gc.collect()  # it is old now
        watched = weakref.ref(cycle)
        del cycle
        async with giving_back(clock, gc.collect, lambda: None):
            assert watched() is not None
            await clock.advance(EVERY_S)
            assert watched() is None
    finally:
        if was_enabled:
            gc.enable()


async def test_it_is_done_every_minute_collection_first() -> None:
    clock, done = ManualClock(), list[str]()
    async with giving_back(clock, lambda: done.append("collect"), lambda: done.append("trim")):
        for _ in range(3):
            await clock.advance(EVERY_S)
    assert done == ["collect", "trim"] * 3


async def test_a_collection_that_takes_long_comes_seldomer() -> None:
    clock, at_s = ManualClock(), list[float]()

    def collect() -> None:
        at_s.append(clock.monotonic_s())
        clock.step_monotonic(0.2)

    began_s = clock.monotonic_s()
    async with giving_back(clock, collect, lambda: None):
        for _ in range(50):
            await clock.advance(10.0)
    assert [round(each - began_s) for each in at_s] == [60, 260, 460]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told")
def test_the_c_library_gives_pages_back() -> None:
    """In a process of its own: half of what was freed lies amid what was not."""
    code = """
import os
from worker.memory import _trim
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
held = [b"x" * 10_000 for _ in range(10_000)]
kept = held[::50]
del held
before = resident()
_trim()()
print(before - resident())
"""
    freed_bytes = int(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60))
    assert freed_bytes > 30_000_000
