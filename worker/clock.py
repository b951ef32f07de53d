"""Time as an argument: the system's clock, and one that tests move by hand.

Durations are seconds. `now_s` is Unix time and may jump; `monotonic_s` never goes back and counts suspend, so that a
laptop lid or a paused virtual machine does not make a lease look fresh.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that has been put off. Cancelling it twice, or after it ran, does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the worker knows of time. Used from one event loop."""

    def now_s(self) -> float:
        """Return Unix time in seconds."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since some fixed moment; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less gives other tasks one turn."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` from the event loop after `seconds`; it must not raise."""
        ...


class SystemClock:
    """The machine's clock."""

    # CLOCK_BOOTTIME counts the time a machine was suspended; CLOCK_MONOTONIC on Linux does not.
    _clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.clock_gettime(self._clock_id)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


class _ManualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A clock that stands still until a test moves it with `advance`."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _ManualTimer]] = []

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> _ManualTimer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._monotonic_s + max(0.0, seconds), next(self._order), timer))
        return timer

    def step_wall_clock(self, seconds: float) -> None:
        """Move Unix time alone, as an administrator or NTP does; nobody is woken."""
        self._now_s += seconds

    def step_monotonic(self, seconds: float) -> None:
        """Let time pass without a turn of the loop, as a busy stretch of code does."""
        self._move_to(self._monotonic_s + seconds)

    def next_timer_in_s(self) -> float | None:
        """Return how far away the next timer is; None when nobody waits."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] - self._monotonic_s if self._timers else None

    async def advance(self, seconds: float) -> None:
        """Move time forward, run every timer that falls due in order, and let the tasks it wakes run on."""
        end_s = self._monotonic_s + seconds
        await settle()
        while (wait_s := self.next_timer_in_s()) is not None and self._monotonic_s + wait_s <= end_s:
            due_s, _, timer = heapq.heappop(self._timers)
            self._move_to(due_s)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
            await settle()
        self._move_to(end_s)
        await settle()

    def _move_to(self, monotonic_s: float) -> None:
        step_s = max(0.0, monotonic_s - self._monotonic_s)
        self._monotonic_s += step_s
        self._now_s += step_s


async def settle(turns: int = 30) -> None:
    """Let tasks that are ready run on for some turns of the loop; for tests with a ManualClock."""
    for _ in range(turns):
        await asyncio.sleep(0)
