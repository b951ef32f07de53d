"""An operator at the admin port of a running worker: pauses it, parks what blocks, and lets it go on after a flood."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import out_of_order, repeated
from tests.journeys.processes import HOST, WorkerProcess, until
from tests.journeys.test_flood import BAD_RULES, LETTERS_OF_A_FLOOD, held_guard
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

TOKEN = "correct-horse-battery-staple"
EVENTS = 400


async def told(worker: WorkerProcess, path: str, token: str = TOKEN, **body: str) -> tuple[int, dict[str, Any]]:
    url, headers = f"http://{HOST}:{worker.admin_port}{path}", {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        text = await answer.text()
    with worker.admin_file.open("a") as kept:
        kept.write(text)
    return answer.status, json.loads(text)


async def blocker_of(worker: WorkerProcess) -> str | None:
    """Return the place of a record that has failed at least twice and holds its partition."""
    _, text = await worker.get("/status")
    for partition in json.loads(text)["partitions"] if text else ():
        if partition.get("blocker", {}).get("attempts", 0) >= 2:
            return str(partition["blocker"]["record"])
    return None


@pytest.mark.timeout(120)
async def test_a_worker_is_paused_goes_on_and_a_blocker_is_parked(begin: Begin) -> None:
    async with begin(partitions=4) as journey:
        journey.secrets.add(TOKEN)
        await journey.append(stream(11, count=EVENTS, users=40, share_bad=0.0))
        worker = journey.start("worker", admin={"token": TOKEN}, site={"quota_per_s": 100})
        await journey.executed_at_least(20)
        assert (await told(worker, "/pause", token="guess"))[0] == 401

        assert (await told(worker, "/pause", site="main", by="anna", why="maintenance"))[0] == 200
        await until("what was in flight has ended", lambda: none_in_flight(journey), limit_s=10)
        executed = await journey.gigya.executed_count()
        await asyncio.sleep(1.5)
        assert await journey.gigya.executed_count() == executed
        status, answer = await worker.readiness()
        assert (status, answer["site:main"]["state"], answer["site:main"]["by"]) == (503, "paused", "anna")
        assert (await worker.get("/livez"))[0] == 200
        assert (await told(worker, "/resume", site="main"))[1]["sites"] == {"main": {"was": "paused", "is": "open"}}

        record = await one_that_blocks(journey, worker)
        status, answer = await told(worker, "/park", record=record, by="anna", why="CS-17")
        assert (status, answer["state"]) == (200, "dead_lettered"), answer
        await journey.gigya.control("DELETE", "faults")
        await journey.all_done()

        assert (await told(worker, "/park", record=record))[1]["state"] == "below_the_watermark"
        (letter,) = await journey.dead_letters()
        assert letter.key == record.encode()
        headers = dict(letter.headers)
        assert headers["dlq.reason"] == b"parked"
        assert headers["dlq.text"] == b'parked by "anna": "CS-17"'
        executions = await journey.executions()
        assert out_of_order(executions) == []
        assert repeated(executions) == {}
        assert await worker.metric("gigya_worker_ledger_missing") == 0
        assert await worker.metric("gigya_worker_retention_seconds") == 604_800
        assert 0 < await worker.metric("gigya_worker_lease_margin_seconds") <= 9
        assert await worker.stopped() == 0, worker.tail()
        tell(f"parked {record}; {len(executions)} calls, none twice")


async def one_that_blocks(journey: Journey, worker: WorkerProcess) -> str:
    """Let one user's calls fail again and again, and return the record that holds its partition for it."""
    uid = next(each.event.uid for each in reversed(journey.appended) if each.event_id is not None)
    await journey.gigya.inject("code", code=409030, uid=uid)
    return str(await until("a record blocks its partition", lambda: blocker_of(worker), limit_s=40))


async def none_in_flight(journey: Journey) -> bool:
    return int((await journey.gigya.stats())["in_flight"]) == 0


@pytest.mark.timeout(120)
async def test_a_flood_that_shall_die_goes_on_dying_when_an_operator_says_so(begin: Begin) -> None:
    async with begin(partitions=1) as journey:
        journey.secrets.add(TOKEN)
        await journey.append(stream(12, count=300, users=30, share_bad=0.0))
        worker = journey.start("held", rules=BAD_RULES, admin={"token": TOKEN})
        await until("the flood guard holds", lambda: held_guard(worker), limit_s=20)
        await until("what was let through is written", lambda: letters(journey, LETTERS_OF_A_FLOOD), limit_s=10)
        resumed = 0
        while (guard := (await told(worker, "/resume", by="anna"))[1]["flood_guard"]) != "ok":
            resumed += 1
            await until("it holds again, or all died", lambda: held_or_done(journey, worker), limit_s=20)
            assert resumed < 20, guard
        await journey.all_done()
        assert resumed >= 2
        assert await journey.gigya.executed_count() == 0
        wanted = [each for each in journey.appended if each.event_id is not None]
        assert len(await journey.dead_letters()) == len(wanted)
        assert await worker.stopped() == 0, worker.tail()


async def letters(journey: Journey, count: int) -> bool:
    return len(await journey.dead_letters()) >= count


async def held_or_done(journey: Journey, worker: WorkerProcess) -> bool:
    if await held_guard(worker):
        return True
    ends = await journey.broker.ends(journey.topic)
    committed = await journey.broker.committed(journey.group)
    return all(committed.get(partition) == end for partition, end in ends.items() if end)
