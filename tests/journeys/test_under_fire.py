"""The broker goes away and the dead-letter topic refuses: records wait, the loop answers, and nobody restarts anything.

JOURNEY_BROKER_AWAY_S makes the time without a broker as long as wanted (default: 12 seconds).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import executed_calls, out_of_order, repeated
from tests.journeys.processes import HOST, WorkerProcess, until
from worker.sandbox.broker import LocalKafka
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

AWAY_S = float(os.environ.get("JOURNEY_BROKER_AWAY_S", "12"))
ANY_DEATHS = {"max_ratio": 1, "max_run": None}
# Of a core, and of a second. A spin takes 0.7 of a core; a loop that writes letters by the thousand stood for 0.3 s.
MOST_CPU = 0.4
MOST_MEDIAN_S = 0.1


@pytest.fixture
async def kafka() -> AsyncIterator[LocalKafka]:
    kafka = await asyncio.to_thread(LocalKafka)
    await asyncio.to_thread(kafka.start)
    yield kafka
    await asyncio.to_thread(kafka.close)


@pytest.mark.timeout(200 + 2 * AWAY_S)
async def test_broker_and_dead_letter_topic_away_by_turns_lose_nothing_and_the_worker_stays_responsive(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    async with Journey.begin(kafka.bootstrap(), tmp_path, partitions=4, gigya={"latency": {"ms": 20}}) as journey:
        await journey.append(stream(5, count=12_000, users=300, share_matching=0.07, share_bad=0.85))
        worker = journey.start("worker", site={"quota_per_s": 30}, flood_guard=ANY_DEATHS)
        await journey.executed_at_least(20)
        async with responsive(worker, "dead letters refused"):
            await letters_of_at_most(journey, 1)
            await until("readiness tells of it", lambda: is_failing(worker), limit_s=15)
            executed = await journey.gigya.executed_count()
            await asyncio.sleep(3)
            assert await journey.gigya.executed_count() > executed  # calls go on
        await nothing_dead_was_passed(journey)
        await letters_of_at_most(journey, 1_000_000)
        # In the middle of writing what has piled up: the moment in which the library spins.
        written = len(await journey.dead_letters())
        await until("letters are written", lambda: more_letters_than(journey, written + 200), limit_s=40)
        await asyncio.to_thread(kafka.stop)
        async with responsive(worker, "broker stopped cleanly"):
            await asyncio.sleep(AWAY_S)
            assert (await worker.readiness())[1]["kafka"]["state"] in ("no_heartbeat", "disconnected")
        await asyncio.to_thread(kafka.start)
        await journey.executed_at_least(await journey.gigya.executed_count() + 5)
        await asyncio.to_thread(kafka.kill)
        async with responsive(worker, "broker killed"):
            await asyncio.sleep(4)
        await asyncio.to_thread(kafka.start)
        await journey.all_done(limit_s=90)

        executions, letters = await journey.executions(), await journey.dead_letters()
        assert executed_calls(executions) == journey.expected
        assert repeated(executions) == {}
        assert out_of_order(executions) == []
        bad = {
            f"{journey.topic}/{each.partition}/{each.offset}".encode() for each in journey.appended if each.event.is_bad
        }
        assert {letter.key for letter in letters} == bad
        assert not any(name == "dlq.reference" for letter in letters for name, _ in letter.headers)
        await journey.ready(worker)
        assert await worker.metric("gigya_worker_ledger_missing") == 0
        assert await worker.stopped() == 0, worker.tail()


@asynccontextmanager
async def responsive(worker: WorkerProcess, what: str) -> AsyncIterator[None]:
    """Fail if /livez answers late meanwhile, or the process burns its time."""
    waits_s: list[float] = []
    watching = asyncio.create_task(watch(worker, waits_s))
    cpu_s, began_s = used_s(worker.pid), time.monotonic()
    yield
    cpu = (used_s(worker.pid) - cpu_s) / (time.monotonic() - began_s)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    median_s = statistics.median(waits_s)
    tell(f"{what}: {cpu:.3f} of a core; /livez {median_s * 1000:.0f} ms median, {max(waits_s) * 1000:.0f} ms at most")
    assert median_s < MOST_MEDIAN_S
    assert cpu < MOST_CPU


async def watch(worker: WorkerProcess, waits_s: list[float]) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while True:
            began_s = time.monotonic()
            async with session.get(f"http://{HOST}:{worker.admin_port}/livez") as answer:
                assert answer.status == 200
            waits_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.03)


def used_s(pid: int) -> float:
    """Return the CPU time of a process; 0 where the system does not show it."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def letters_of_at_most(journey: Journey, size_bytes: int) -> None:
    settings = {"cleanup.policy": "compact", "max.message.bytes": str(size_bytes)}
    async with journey.broker.admin() as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, journey.dead_topic, configs=settings)])


async def is_failing(worker: WorkerProcess) -> bool:
    status, readiness = await worker.readiness()
    return status == 503 and readiness["dead_letters"]["state"] == "failing"


async def nothing_dead_was_passed(journey: Journey) -> None:
    """Fail if an offset has passed a record that must become a letter, and has none."""
    committed = await journey.broker.committed(journey.group)
    keys = {letter.key for letter in await journey.dead_letters()}
    for each in journey.appended:
        if each.event.is_bad and each.offset < committed.get(each.partition, 0):
            assert f"{journey.topic}/{each.partition}/{each.offset}".encode() in keys


async def more_letters_than(journey: Journey, count: int) -> bool:
    return len(await journey.dead_letters()) > count
