"""What a run does when it is told to stop: drain at the first signal, cancel at the second, look again at SIGHUP."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import structlog

from worker.exits import OK

log = structlog.get_logger(__name__)

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Stoppable(Protocol[T_co]):
    """What runs until it is told to stop: an engine."""

    async def run(self) -> T_co: ...

    def stop(self) -> None:
        """Ask it to drain and come back."""
        ...


async def run_until_told(
    engine: Stoppable[T], beside: Mapping[str, Coroutine[None, None, None]], *, hangup: Callable[[], None] | None
) -> T | None:
    """Run the engine and what runs beside it; None when a second signal cancelled it."""
    running = asyncio.create_task(engine.run(), name="engine")
    others = [asyncio.create_task(work, name=name) for name, work in beside.items()]
    is_cancelled = False

    def cancel() -> None:
        nonlocal is_cancelled
        is_cancelled = True
        running.cancel()

    try:
        with _signals(first=engine.stop, second=cancel, hangup=hangup):
            await asyncio.wait({running, *others}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # One of the others ended, which none does by itself: a bug. The engine must not go on half alive.
                engine.stop()
                await asyncio.wait({running})
            for task in others:
                if task.done():
                    task.result()
            return await running
    except asyncio.CancelledError as error:
        if not running.cancelled():
            raise
        if not is_cancelled:  # a library let out a cancellation of its own; it must not look like an operator's wish
            raise RuntimeError("the engine ended as if it had been cancelled, by nobody who may") from error
        return None
    finally:
        everything: list[asyncio.Task[T] | asyncio.Task[None]] = [running, *others]
        for each in everything:
            each.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


async def stoppable(work: Coroutine[object, object, int], *, stopped: int = OK) -> int:
    """Run `work`; SIGTERM or SIGINT before it handles them itself, while it starts, cancels it: exit code `stopped`.

    Nothing has been consumed then. Without it the process would die of the signal, and as a container's first process
    (which the kernel gives no default reaction) not even that.
    """
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work)
    has_come = False

    def heard(name: str) -> None:
        nonlocal has_come
        has_come = True
        log.info("worker.stopped", ended="while starting", signal=name)
        working.cancel()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, heard, each.name)
    try:
        return await working
    except asyncio.CancelledError:
        if not has_come:
            raise
        return stopped
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)


@contextmanager
def _signals(
    *, first: Callable[[], object], second: Callable[[], object], hangup: Callable[[], None] | None
) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT drain, the second one cancel, and SIGHUP read keys again; restore at the end."""
    loop = asyncio.get_running_loop()
    has_come = False

    def heard(name: str) -> None:
        nonlocal has_come
        if has_come:
            log.warning("worker.cancelled", signal=name)
            second()
        else:
            has_come = True
            log.info("worker.stopping", signal=name)
            first()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, heard, each.name)
    handled = [signal.SIGTERM, signal.SIGINT]
    if hangup is not None and hasattr(signal, "SIGHUP"):  # Windows has none
        loop.add_signal_handler(signal.SIGHUP, hangup)
        handled.append(signal.SIGHUP)
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)
