"""Two sites in one worker: each with its own state, quota and lanes; the trouble of one is not the other's.

Real senders, gates and lanes, over a fake cluster and an API that answers as the test says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from tests.delivery.fakes import OK, Answer, Request, ScriptedTransport, reply
from tests.fakes import FakeCluster, FakeProducer, FakeSource
from worker.clock import ManualClock
from worker.codecs import json as json_codec
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Sender
from worker.delivery.site_state import State
from worker.gigya.authorization import SecretCredentials
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.gigya.sites import Site
from worker.metrics import Metrics
from worker.model import CallName, Event, Record, TopicPartition
from worker.pipeline.engine import Engine
from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets

TOPIC, DEAD, GROUP = "user-events", "user-events.dead", "group"
SITES = ("north", "south")


class SitesMapper:
    """One call for each site that an event names."""

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        uid = str(event.payload["uid"])
        params = {"UID": uid, "action": "watched"}
        named = str(event.payload["sites"]).split()
        return tuple(Call(NOTIFY_ACTION, site, uid, params, CallName(0, site), None) for site in named)


class World:
    """One worker between a cluster and two sites."""

    def __init__(self, *, partitions: int, quota_per_s: float | None, **limits: int) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.cluster = FakeCluster(self.clock)
        self.partitions = self.cluster.create_topic(TOPIC, partitions)
        self.cluster.create_topic(DEAD)
        self.stopped: set[str] = set()
        self.transports = {name: ScriptedTransport(self.clock, self._answer(name)) for name in SITES}
        self.senders = {name: self._sender(name, quota_per_s) for name in SITES}
        self.offsets, self.ledger = Offsets(), Ledger()
        letters = DeadLetterWriter(
            topic=DEAD, producer=FakeProducer(self.cluster), clock=self.clock, rng=Random(1), metrics=self.metrics
        )
        self.handler = Handler(
            decode=json_codec.decode,
            mapper=SitesMapper(),
            rules_digest="d1g35t",
            letters=letters,
            offsets=self.offsets,
            ledger=self.ledger,
            guard=FloodGuard(FloodGuardSettings()),
            clock=self.clock,
            metrics=self.metrics,
            user_mark=lambda site, uid: "0123456789ab",
            max_held_bytes=limits.get("max_held_bytes", 10_000_000),
        )
        self.lanes = Lanes(
            self.senders,
            max_in_flight=limits.get("max_in_flight", 50),
            clock=self.clock,
            ended=self.handler.call_ended,
        )
        self.handler.queue = self.lanes
        self.engine = Engine(
            source=FakeSource(self.cluster, [TOPIC], group_id=GROUP),
            handler=self.handler,
            lanes=self.lanes,
            offsets=self.offsets,
            ledger=self.ledger,
            clock=self.clock,
            metrics=self.metrics,
            max_ahead=limits.get("max_ahead", 1000),
            drain_s=5.0,
        )

    def _answer(self, name: str) -> Callable[[Request], Answer]:
        return lambda request: reply(403010) if name in self.stopped else OK

    def _sender(self, name: str, quota_per_s: float | None) -> Sender:
        transport = self.transports[name]
        transport.latency_s = 0.02
        return Sender(
            site=Site(name, f"3_{name}", domain="eu1.gigya.com", quota_per_s=quota_per_s),
            credentials=SecretCredentials(f"3_{name}", f"AK{name}", f"secret of {name}"),
            settings=DeliverySettings(),
            transport=transport,
            clock=self.clock,
            rng=Random(name),
            nonce=lambda: "n",
            metrics=self.metrics,
            mark=lambda uid: "0123456789ab",
        )

    def append(self, partition: int, sites: str, *uids: str, padding: int = 0) -> None:
        for uid in uids:
            value = b'{"uid": "%s", "sites": "%s", "pad": "%s"}' % (uid.encode(), sites.encode(), b"x" * padding)
            self.cluster.append(self.partitions[partition], value)

    def executed(self, site: str) -> Counter[str]:
        """Return how many requests of each user a site has accepted."""
        return Counter(request.uid for request in self.transports[site].calls() if request.params["apiKey"])

    def committed(self, partition: int) -> int:
        position = self.cluster.committed.get((GROUP, self.partitions[partition]))
        return position.offset if position else 0

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gigya_worker_{name}", labels) or 0.0

    async def until(self, condition: Callable[[], bool], limit_s: float = 300.0) -> None:
        end_s = self.clock.monotonic_s() + limit_s
        while not condition():
            assert self.clock.monotonic_s() < end_s, "did not come true in time"
            await self.clock.advance(0.05)


@asynccontextmanager
async def running(*, partitions: int = 3, quota_per_s: float | None = None, **limits: int) -> AsyncIterator[World]:
    world = World(partitions=partitions, quota_per_s=quota_per_s, **limits)
    work = [world.engine.run(), *(sender.run() for sender in world.senders.values())]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield world
        assert not any(task.done() for task in tasks)
        assert world.ledger.balanced(world.engine.unfinished())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def users(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def test_each_site_gets_its_own_calls_with_its_own_key() -> None:
    async with running() as world:
        world.append(0, "north", *users("n", 20))
        world.append(1, "south", *users("s", 20))
        world.append(2, "north south", *users("b", 20))
        await world.until(lambda: all(world.committed(number) == 20 for number in range(3)))
        for site, letter in (("north", "n"), ("south", "s")):
            requests = world.transports[site].calls()
            assert {request.params["secret"] for request in requests} == {f"secret of {site}"}
            assert {request.params["apiKey"] for request in requests} == {f"3_{site}"}
            assert sorted(world.executed(site)) == sorted(users(letter, 20) + users("b", 20))
            labels = {"site": site, "outcome": "delivered", "reason": "ok"}
            assert world.metric("calls_ended_total", **labels) == 40


async def test_a_site_that_is_stopped_in_the_middle_holds_its_partitions_and_no_others() -> None:
    async with running() as world:
        world.stopped.add("south")
        world.append(0, "north", *users("n", 50))
        world.append(1, "south", *users("s", 50))
        world.append(2, "north south", *users("b", 10), *users("c", 10))
        await world.until(lambda: world.committed(0) == 50)
        await world.clock.advance(30)
        assert world.senders["south"].status().state is State.STOPPED
        assert world.senders["south"].status().reason == "credentials_refused"
        assert world.senders["north"].is_open
        assert (world.committed(1), world.committed(2)) == (0, 0)
        assert len(world.executed("north")) == 70, "a mixed record's call to the other site is made all the same"
        world.append(0, "north", *users("m", 50))
        await world.until(lambda: world.committed(0) == 100)
        assert not world.cluster.logs[TopicPartition(DEAD, 0)].records
        assert world.metric("attempts_total", site="north", verdict="stop", reason="credentials_refused") == 0
        world.stopped.clear()
        world.senders["south"].rotate(SecretCredentials("3_south", "AKsouth", "a new one"))
        await world.until(lambda: (world.committed(1), world.committed(2)) == (50, 20), limit_s=10)
        assert not world.cluster.logs[TopicPartition(DEAD, 0)].records
        assert set(world.executed("north").values()) == {1}, "nothing was made twice for the other site's trouble"


async def test_each_site_has_a_quota_of_its_own() -> None:
    async with running(quota_per_s=20.0) as world:
        world.stopped.add("south")
        world.append(0, "north", *users("n", 200))
        world.append(1, "south", *users("s", 200))
        await world.clock.advance(1)
        before = len(world.transports["north"].calls())
        await world.clock.advance(5)
        assert 99 <= len(world.transports["north"].calls()) - before <= 101


async def test_a_stopped_site_takes_no_place_in_flight_from_the_other() -> None:
    async with running(max_in_flight=2) as world:
        world.stopped.add("south")
        world.append(1, "south", *users("s", 50))
        await world.clock.advance(5)
        world.append(0, "north", *users("n", 50))
        await world.until(lambda: world.committed(0) == 50, limit_s=10)


async def test_the_backlog_of_a_stopped_site_leaves_memory_for_the_others_partitions() -> None:
    async with running(partitions=4, max_held_bytes=400_000, max_ahead=100_000) as world:
        world.stopped.add("south")
        for partition in (1, 2, 3):
            world.append(partition, "south", *users(f"s{partition}-", 300), padding=2_000)
        await world.clock.advance(10)
        assert 200_000 < world.handler.held_bytes < 420_000
        world.append(0, "north", *users("n", 300), padding=2_000)
        await world.until(lambda: world.committed(0) == 300, limit_s=30)
        assert world.handler.held_bytes < 420_000
        world.stopped.clear()
        await world.until(lambda: all(world.committed(number) == 300 for number in (1, 2, 3)))
        assert world.handler.held_bytes == 0
