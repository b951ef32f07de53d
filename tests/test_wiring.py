"""What every run is made of, as far as it can be seen without its neighbours."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from worker import wiring
from worker.clock import ManualClock
from worker.delivery.schedule import DeliverySettings


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

    starting = asyncio.create_task(wiring.stoppable(start()))
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)

    assert await asyncio.wait_for(starting, timeout=5) == 0
    assert has_cleaned_up


async def test_what_a_run_returns_is_its_exit_code() -> None:
    async def run() -> int:
        return 3

    assert await wiring.stoppable(run()) == 3


async def test_a_start_that_fails_is_heard_of() -> None:
    async def run() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        await wiring.stoppable(run())


def test_an_attempt_starts_only_if_it_ends_within_the_lease() -> None:
    clock: Any = ManualClock()
    sender: Any = SimpleNamespace(may_write=None)
    until_s = clock.monotonic_s() + 45.0
    source: Any = SimpleNamespace(lease_valid_until_s=lambda: until_s)
    settings: Any = SimpleNamespace(delivery=DeliverySettings(attempt_timeout_s=10.0))

    wiring.keep_to_the_lease({"main": sender}, source, settings, clock)

    clock.step_monotonic(34.9)
    assert sender.may_write()
    clock.step_monotonic(0.2)  # ten seconds for the attempt are not left
    assert not sender.may_write()
    until_s += 45.0
    assert sender.may_write()
