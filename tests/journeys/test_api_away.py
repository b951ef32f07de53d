"""A secret that is revoked, an API that is away: nothing is lost, nothing is a dead letter, and readyz says why.

JOURNEY_OUTAGE_S and JOURNEY_REVOKED_S make the trouble as long as wanted (defaults: 15 and 20 seconds).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time

import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import executed_calls, out_of_order, repeated
from tests.journeys.processes import WorkerProcess, resident_bytes, until
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

OUTAGE_S = float(os.environ.get("JOURNEY_OUTAGE_S", "15"))
REVOKED_S = float(os.environ.get("JOURNEY_REVOKED_S", "20"))
IN_FLIGHT = 50
MAY_GROW_BYTES = 8 * 1024 * 1024


@pytest.mark.timeout(120 + REVOKED_S)
@pytest.mark.parametrize(("code", "revoked_s"), [(403003, REVOKED_S), (403005, 4.0)])
async def test_a_revoked_secret_loses_nothing_and_is_explained_and_overcome(begin: Begin, code: int, revoked_s: float):
    async with begin(partitions=4, gigya={"latency": {"ms": 200}}) as journey:
        await journey.append(stream(code, count=2_000, users=300, share_matching=0.5, share_bad=0.0))
        worker = journey.start("worker", delivery={"max_in_flight": IN_FLIGHT})
        await journey.executed_at_least(200)
        await until("enough calls are in flight", lambda: journey.has_in_flight(IN_FLIGHT), every_s=0.01)
        user_key = journey.gigya.site["user_key"]
        await journey.gigya.control("POST", "revoke", {"site": "main", "user_key": user_key, "code": code})
        revoked_at_s = time.monotonic()

        part = await troubled_site(worker)
        assert part["state"] == "stopped"
        assert part["reason"].startswith("credentials"), part
        assert part["code"] == code
        assert "secret" in part["remedy"]
        assert user_key not in str(part)
        await asyncio.sleep(revoked_s - (time.monotonic() - revoked_at_s))
        status, _ = await worker.readiness()
        assert status == 503
        await journey.gigya.control("POST", "restore", {"site": "main", "user_key": user_key})
        await journey.ready(worker)

        await nothing_was_lost(journey, worker)
        assert repeated(await journey.executions()) == {}


@pytest.mark.timeout(120 + OUTAGE_S)
async def test_an_outage_loses_nothing_and_memory_stays_flat(begin: Begin):
    async with begin(partitions=4, gigya={"latency": {"ms": 20}}) as journey:
        await journey.append(stream(60, count=14_000, users=500, share_matching=0.25, share_bad=0.0, size_bytes=1000))
        worker = journey.start("worker", delivery={"max_in_flight": IN_FLIGHT, "max_ahead": 1_000})
        await journey.executed_at_least(200)
        await journey.gigya.control("POST", "outage", {})
        part = await troubled_site(worker)
        assert part["state"] == "outage"
        assert part["remedy"]
        await status_names_the_blockers(worker)
        before, after = await memory_during(worker, OUTAGE_S)
        tell(f"resident memory: {before / 1e6:.1f} MB at the start of the outage, {after / 1e6:.1f} MB at its end")
        assert after - before < MAY_GROW_BYTES
        await journey.gigya.control("DELETE", "outage")
        await journey.ready(worker)

        await nothing_was_lost(journey, worker)
        # An outage answered by a proxy executes nothing: what was sent again for it is no duplicate.
        assert repeated(await journey.executions()) == {}


async def troubled_site(worker: WorkerProcess) -> dict[str, str]:
    """Return what readyz says of the site once it is in trouble for good (a question to it may come first)."""

    async def in_trouble() -> dict[str, str] | None:
        status, body = await worker.readiness()
        part: dict[str, str] = body.get("site:main", {})
        return part if status == 503 and part.get("state") in ("stopped", "outage") else None

    found = await until("readyz tells of the trouble", in_trouble, limit_s=15)
    assert isinstance(found, dict)
    return found


async def status_names_the_blockers(worker: WorkerProcess) -> None:
    """A blocker is named by its place and a mark of its user; the journey's end looks for UIDs in this answer, too."""
    status, text = await worker.get("/status")
    assert status == 200
    blockers = [partition["blocker"] for partition in json.loads(text)["partitions"] if "blocker" in partition]
    assert blockers
    assert all(re.fullmatch(r"[0-9a-f]{12}", blocker["user"]) for blocker in blockers), blockers


async def memory_during(worker: WorkerProcess, seconds: float) -> tuple[int, int]:
    """Return the resident memory when the lanes have filled, a fifth into the time, and at its end."""
    await asyncio.sleep(seconds / 5)
    before = resident_bytes(worker.pid)
    await asyncio.sleep(seconds * 4 / 5)
    return before, resident_bytes(worker.pid)


async def nothing_was_lost(journey: Journey, worker: WorkerProcess) -> None:
    await journey.all_done()
    assert await worker.stopped() == 0, worker.tail()
    executions = await journey.executions()
    assert executed_calls(executions) == journey.expected
    assert out_of_order(executions) == []
    assert await journey.dead_letters() == []
