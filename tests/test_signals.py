"""What a run does at SIGTERM and SIGINT, while it starts and when it works."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from worker import signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_the_worker_starts_ends_it_cleanly(number: signal.Signals) -> None:
    has_cleaned_up = False

    async def start() -> int:
        nonlocal has_cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            has_cleaned_up = True
        return 1

    starting = asyncio.create_task(signals.stoppable(start()))
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)

    assert await asyncio.wait_for(starting, timeout=5) == 0
    assert has_cleaned_up


async def test_what_a_run_returns_is_its_exit_code() -> None:
    async def run() -> int:
        return 3

    assert await signals.stoppable(run()) == 3


async def test_a_start_that_fails_is_heard_of() -> None:
    async def run() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        await signals.stoppable(run())


class OneThatEnds:
    """An engine that ends as it is told to, at once or when it is stopped."""

    def __init__(self, *, cancelled_by_itself: bool) -> None:
        self._cancels_itself = cancelled_by_itself
        self.is_running = asyncio.Event()

    async def run(self) -> str:
        self.is_running.set()
        if self._cancels_itself:
            raise asyncio.CancelledError
        await asyncio.Event().wait()
        return "ended"

    def stop(self) -> None:
        return


async def test_a_second_signal_cancels_the_engine_and_that_is_told() -> None:
    engine = OneThatEnds(cancelled_by_itself=False)
    run = asyncio.create_task(signals.run_until_told(engine, {}, hangup=None))
    await engine.is_running.wait()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)

    assert await asyncio.wait_for(run, timeout=5) is None


async def test_an_engine_that_a_library_cancels_does_not_look_like_one_that_an_operator_cancelled() -> None:
    with pytest.raises(RuntimeError, match="by nobody who may"):
        await signals.run_until_told(OneThatEnds(cancelled_by_itself=True), {}, hangup=None)
