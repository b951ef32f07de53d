"""The sender against a server that verifies every signature and shares no code with it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.delivery.load import Load
from worker.clock import SystemClock
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Sender
from worker.delivery.site_state import State
from worker.delivery.transport import HttpTransport
from worker.gigya.signing import Credentials, decode_secret
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.sandbox.gigya import Fault, GigyaConfig, LocalGigya

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


@asynccontextmanager
async def loaded(
    users: int, quota_per_s: float | None, **config: object
) -> AsyncIterator[tuple[LocalGigya, Load, Sender]]:
    settings = DeliverySettings(attempt_timeout_s=1, connect_timeout_s=1)
    site_config = {"api_key": "3_test", "keys": {"key": {"secrets": [SECRET]}}}
    async with LocalGigya(GigyaConfig.model_validate({"sites": {"main": site_config}, **config})) as gigya:
        clock, nonces = SystemClock(), itertools.count()
        transport = HttpTransport(clock, connect_timeout_s=1, attempt_timeout_s=1, max_connections=200)
        sender = Sender(
            site=Site("main", "3_test", base_url=gigya.base_url, quota_per_s=quota_per_s),
            credentials=Credentials("3_test", "key", decode_secret(SECRET)),
            settings=settings,
            transport=transport,
            clock=clock,
            rng=random.Random(1),
            nonce=lambda: f"n{next(nonces)}",
            metrics=Metrics(),
            mark=lambda _: "someone",
        )
        load = Load(sender)
        tasks = [asyncio.ensure_future(sender.run()), asyncio.ensure_future(load.run(users))]
        try:
            yield gigya, load, sender
            load.finish()
            await asyncio.wait_for(tasks[1], 15)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await transport.close()


async def test_a_key_revoked_under_load_costs_nothing_but_time() -> None:
    async with loaded(50, 200.0, latency={"ms": 100}) as (gigya, load, sender):
        await asyncio.sleep(0.5)
        gigya.revoke("main", "key", 403003)
        await asyncio.sleep(1.5)
        assert sender.status().state is State.STOPPED
        gigya.restore("main", "key")
        before = load.outcomes.total()
        await asyncio.sleep(2.0)
        assert sender.is_open
        assert load.outcomes.total() > before + 50
    assert set(load.outcomes) == {"delivered ok"}


async def test_an_outage_under_load_costs_nothing_but_time() -> None:
    async with loaded(50, 200.0) as (gigya, load, sender):
        await asyncio.sleep(0.3)
        gigya.begin_outage()
        await asyncio.sleep(1.5)
        assert sender.status().state is State.OUTAGE
        gigya.end_outage()
        before = load.outcomes.total()
        await asyncio.sleep(2.0)
        assert load.outcomes.total() > before + 50
    assert set(load.outcomes) == {"delivered ok"}


async def test_a_server_an_hour_ahead_is_followed() -> None:
    async with loaded(10, 100.0, clock_offset_s=3600.0) as (_, load, sender):
        await asyncio.sleep(0.5)
        assert sender.status().clock_offset_s == pytest.approx(3600, abs=2)
    assert set(load.outcomes) == {"delivered ok"}


async def test_a_bad_user_among_good_ones_is_found_out() -> None:
    async with loaded(20, 200.0) as (gigya, load, sender):
        gigya.inject(Fault(kind="code", code=403005, uid="user-3"))
        await asyncio.sleep(1.0)
        assert sender.is_open
    assert set(load.outcomes) == {"delivered ok", "failed user_unknown"}
