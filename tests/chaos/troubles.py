"""What is done to the worker: members that die; an API, a clock and a broker that misbehave. Steps for schedules."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.chaos.judge import Stretch
from tests.chaos.run import Run
from tests.journeys.processes import WorkerProcess

MOST_LATE_S = 60.0


def until_s(seconds: float) -> Iterator[float]:
    """Yield the seconds that are left, as long as some are."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        yield left_s


async def kill_and_replace(run: Run, member: WorkerProcess | None = None) -> None:
    """Kill a member at a random moment, start another at once, and wait until calls are made."""
    await asyncio.sleep(run.rng.uniform(1.0, 5.0))
    await run.kill(member or run.rng.choice(run.members))
    async with away(run):  # nobody is given partitions before the session of the dead one has ended
        fresh = run.start_member()
        await run.journey.ready(fresh, limit_s=MOST_LATE_S)


async def inject_all(run: Run, faults: Mapping[str, Mapping[str, Any]]) -> None:
    """Let faults of the API begin, each drawn by a seed of its own."""
    for name, fault in faults.items():
        await run.gigya.inject(str(fault.get("kind", name)), seed=run.rng.randrange(1 << 30), **_without_kind(fault))


def _without_kind(fault: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fault.items() if name != "kind"}


async def outage(run: Run, seconds: float) -> None:
    """Answer everything with HTTP 503 for a while, and wait until calls are made again."""
    async with away(run):
        await run.gigya.control("POST", "outage", {})
        await asyncio.sleep(seconds)
        await run.gigya.control("DELETE", "outage")


async def revoked_key(run: Run, seconds: float, code: int) -> None:
    """Refuse the key for a while, and wait until calls are made again."""
    key = {"site": "main", "user_key": run.gigya.site["user_key"]}
    async with away(run):
        await run.gigya.control("POST", "revoke", {**key, "code": code})
        await asyncio.sleep(seconds)
        await run.gigya.control("POST", "restore", key)


@asynccontextmanager
async def away(run: Run) -> AsyncIterator[None]:
    """Note when nobody is served, up to the first calls after it."""
    begin_s = time.time()
    yield
    await run.calls_are_made(limit_s=MOST_LATE_S)
    run.away.append(Stretch(begin_s, time.time()))


async def step_clocks(run: Run, offset_s: float) -> None:
    """Set the workers' clocks all at once."""
    run.set_clocks(offset_s)
    run.clock_steps_s.append(time.time())
    await asyncio.sleep(0)


async def without_broker(run: Run, seconds: float, *, cleanly: bool) -> None:
    """Kill the broker, or stop it cleanly, and start it again on its data."""
    await run.feeder.pause()  # its producer is not the one that is to be tested
    # Let commits and reads be under way, as they are at any other moment.
    await asyncio.sleep(run.rng.uniform(0.0, 1.0))
    run.breaks_s.append(time.time())
    await asyncio.to_thread(run.kafka.stop if cleanly else run.kafka.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(run.kafka.start)
    run.breaks_s.append(time.time())
    await run.feeder.go()
    await run.calls_are_made(limit_s=MOST_LATE_S)


async def refusing_letters(run: Run, seconds: float) -> None:
    """Let the dead-letter topic refuse writes for a while: no message is small enough for it.

    (Kafka 4 takes min.insync.replicas for no more than a topic has: more of them than there are refuse nothing.)
    """
    await _configure_letters(run, {"max.message.bytes": "1"})
    await asyncio.sleep(1)
    written = len(await run.journey.dead_letters())
    await asyncio.sleep(seconds)
    assert len(await run.journey.dead_letters()) == written, "the dead-letter topic took letters that it should refuse"
    await _configure_letters(run, {})


async def _configure_letters(run: Run, settings: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=run.kafka.bootstrap())
    await admin.start()
    try:
        # This call replaces all settings of the topic.
        wanted = {"cleanup.policy": "compact", **settings}
        topic = ConfigResource(ConfigResourceType.TOPIC, run.journey.dead_topic, configs=wanted)
        await asyncio.wait_for(admin.alter_configs([topic]), 30)
    finally:
        await admin.close()


async def sleepwalk(run: Run, member: WorkerProcess, seconds: float) -> float:
    """Stop a member (SIGSTOP) for longer than its session, then let it go on; returns when it went on (Unix)."""
    run.asleep.add(member.pid)
    run.breaks_s.append(time.time())
    member.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        member.signal(signal.SIGCONT)
        run.asleep.discard(member.pid)
    return time.time()
