"""A backfill by time beside a live worker at the same site, killed again and again: each call once, live hardly slower.

In full (100,000 events, killed five times, five minutes and more): BACKFILL_EVENTS=100000 BACKFILL_KILLS=5.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter

import pytest
from aiokafka import AIOKafkaProducer

from tests.journeys.conftest import Begin
from tests.journeys.harness import Journey, tell
from tests.journeys.oracle import Execution, executed_calls, expected_calls, out_of_order, repeated
from tests.journeys.processes import until
from tests.journeys.test_backfills import HOUR_MS, SHORT_SESSIONS, backfill, report_of, stamp
from tests.journeys.test_replay import named_in_doubt
from tests.journeys.test_the_quota_of_a_group import arrivals
from worker.sandbox.events import stream

pytestmark = pytest.mark.broker

EVENTS = int(os.environ.get("BACKFILL_EVENTS", "8000"))
KILLS = int(os.environ.get("BACKFILL_KILLS", "2"))
QUOTA, RESERVE, LIVE_PER_S = 200, 100, 40
# Two processes keep the quota each by its own window: where their requests meet in one second a few may be refused.
MOST_REFUSED = 0.005
ALONE_S = 15.0 if EVENTS < 50_000 else 30.0
# What a process that starts beside it (0.8 s of CPU) does to a worker on two busy cores, whatever that process is.
NOISE_S = 0.05
GIGYA = {
    "latency": {"distribution": "lognormal", "ms": 20, "upper_ms": 100},
    "sites": {"main": {"quota": {"per_s": QUOTA, "window": "sliding"}}},
}
PACED = {
    **SHORT_SESSIONS,
    "site": {"quota_per_s": float(QUOTA), "backfill_reserve_per_s": float(RESERVE)},
}


class LiveTraffic:
    """Events of other users at a steady pace, and how long each takes to arrive at the API."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self.sent_s: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LiveTraffic:
        self._task = asyncio.create_task(self._feed())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _feed(self) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self._journey.broker.bootstrap) as producer:
            began_s, number = time.monotonic(), 0
            while True:
                number += 1
                uid, name = f"live-{number % 400:04d}", f"live-{number}"
                facts = {
                    "type": "quiz.won",
                    "id": name,
                    "seq": number,
                    "user": {"uid": uid, "premium": False},
                    "quiz": {"name": "theme songs", "score": 40},
                }
                now_s = time.time()
                await producer.send(self._journey.topic, json.dumps(facts).encode(), uid.encode())
                self.sent_s[name] = now_s  # not before: what is cancelled in `send` was never sent
                await asyncio.sleep(max(0.0, began_s + number / LIVE_PER_S - time.monotonic()))

    async def p99_s(self, begin_s: float, end_s: float) -> float:
        """Return within which time 99 % of the events of a stretch have arrived."""
        arrived = {each.event_id: each.arrived_s for each in await self._journey.executions()}
        taken = sorted(arrived[name] - at_s for name, at_s in self.sent_s.items() if begin_s <= at_s < end_s)
        return taken[int(len(taken) * 0.99)]


@pytest.mark.timeout(150 if EVENTS < 50_000 else 900)
async def test_each_call_is_made_once_and_live_traffic_hardly_notices(begin: Begin):
    async with begin(partitions=12, gigya=GIGYA) as journey:
        now_ms = int(time.time() * 1000)
        past = stream(71, count=EVENTS, users=2_000, share_matching=0.1, share_bad=0.001)
        placed = await journey.append(past, timestamp_ms=now_ms - HOUR_MS)
        expected = expected_calls(placed)
        live = journey.start("live", **{**PACED, "kafka": {**PACED["kafka"], "start": "latest"}})
        await journey.ready(live)
        async with LiveTraffic(journey) as traffic:
            await asyncio.sleep(3)
            alone_s = time.time()
            await asyncio.sleep(ALONE_S)

            beside_s = time.time()
            range_ = ("--from", stamp(now_ms - 2 * HOUR_MS), "--to", stamp(now_ms - HOUR_MS // 2))
            command = ("--yes", "--sole-writer", *range_)
            past_calls = PastCalls(journey)
            for number in range(KILLS):
                running = backfill(journey, f"killed-{number}", *command, **PACED)
                wanted = len(expected) * (number + 1) // (KILLS + 1)
                while await past_calls.count() < wanted:
                    journey.check_workers()
                    await asyncio.sleep(0.2)
                running.kill()
            last = backfill(journey, "last", *command, **PACED)
            assert await last.ended(limit_s=600) == 0, last.tail(30)
            end_s = time.time()
            await asyncio.sleep(1)
        await until("all live calls are made", lambda: all_live_are_made(journey, traffic), limit_s=30)
        assert await live.stopped() == 0, live.tail()

        executions = await journey.executions()
        of_past = [each for each in executions if not each.event_id.startswith("live-")]
        assert executed_calls(of_past) == expected
        twice, unsure = repeated(executions), named_in_doubt(journey)
        assert twice == {}, unsure
        assert out_of_order(of_past) == []
        assert set(traffic.sent_s) == {each.event_id for each in executions} - {each.event_id for each in of_past}
        report = report_of(last)
        assert report["range"]["done"] == report["range"]["size"] == EVENTS

        seen = await arrivals(journey, alone_s, end_s)
        p99_alone_s, p99_beside_s = await traffic.p99_s(alone_s, beside_s), await traffic.p99_s(beside_s, end_s)
        codes = Counter(line["code"] for line in await journey.gigya.control("GET", "arrivals"))
        figures = f"{len(twice)} twice, {unsure} resent without proof"
        figures += f"; at most {seen.most_in_a_second} requests in a second; codes {dict(codes)}"
        tell(
            f"{EVENTS:,} events, {len(of_past):,} calls, killed {KILLS} times, {end_s - beside_s:.0f} s: live p99 alone"
            f" {p99_alone_s * 1000:.0f} ms, beside {p99_beside_s * 1000:.0f} ms; {figures}"
        )
        assert seen.refused_share < MOST_REFUSED, str(seen)
        assert p99_beside_s <= max(2 * p99_alone_s, NOISE_S)


async def all_live_are_made(journey: Journey, traffic: LiveTraffic) -> bool:
    return set(traffic.sent_s) <= {each.event_id for each in await journey.executions()}


class PastCalls:
    """Counts what was executed of the past. Only what is new is read: a long answer is a stall of the local Gigya."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._last = self._count = 0

    async def count(self) -> int:
        for line in await self._journey.gigya.lines(f"ledger?after={self._last}"):
            self._last = line["order"]
            self._count += not Execution.of(line).event_id.startswith("live-")
        return self._count
