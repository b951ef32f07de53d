"""The whole worker in one process, between a fake Kafka and a real HTTP server.

Everything of ours is real, down to the sockets. Time is virtual for the worker and for the local Gigya alike: it moves
only while no request is under way, so that budgets and pauses come out exactly and minutes pass in milliseconds.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import orjson

from tests.fakes import FakeCluster, FakeProducer, FakeSource
from worker.clock import ManualClock, settle
from worker.deadletters.record import DeadLetter
from worker.deadletters.record import decode as decode_letter
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Sender
from worker.delivery.transport import HttpTransport
from worker.gigya.reasons import VerdictKind
from worker.gigya.replies import NoReply, Reply
from worker.gigya.signing import Credentials, decode_secret
from worker.gigya.sites import Site
from worker.mapping import rules
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import TopicPartition
from worker.pipeline.engine import Engine
from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets
from worker.sandbox.certificates import Authority
from worker.sandbox.gigya import Fault, GigyaConfig, LocalGigya
from worker.status import WorkerView

TOPIC, DEAD, GROUP = "user-events", "user-events.dead", "group"
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
NOTIFY, PUBLISH, CONFIG = "gm.notifyAction", "socialize.publishUserAction", "gm.getActionConfig"
RULES = Path(__file__).parent / "rules.yaml"
# Real seconds: time enough on a busy machine. Tests of what hangs set it lower.
TIME_LIMIT_S = 5.0


@functools.cache
def ruleset() -> RuleSet:
    return rules.load(RULES, sites=["main"], topics=[TOPIC])


@functools.cache
def authority() -> tuple[Authority, IO[bytes]]:
    """Return an authority for loopback and the file with its certificate. Trusting one, not the machine's, is fast."""
    made = Authority()
    file = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115  # kept as long as the tests run
    file.write(made.pem)
    file.flush()
    return made, file


def site_at(base_url: str, verdicts: Mapping[int, VerdictKind] | None = None) -> Site:
    ca_file = Path(authority()[1].name)
    return Site("main", "3_test", base_url=base_url, ca_file=ca_file, quota_per_s=None, verdicts=verdicts or {})


class WatchedTransport:
    """The real transport, and how many requests are under way."""

    def __init__(self, wrapped: HttpTransport) -> None:
        self._wrapped = wrapped
        self.in_flight = 0

    async def post(self, url: str, body: bytes, **more: Any) -> Reply | NoReply:
        self.in_flight += 1
        try:
            return await self._wrapped.post(url, body, **more)
        finally:
            self.in_flight -= 1


class World:
    """One worker that reads one partition."""

    def __init__(self, clock: ManualClock, transport: HttpTransport, site: Site, settings: DeliverySettings) -> None:
        self.clock = clock
        self.cluster = FakeCluster(clock)
        (self.partition,) = self.cluster.create_topic(TOPIC)
        self.cluster.create_topic(DEAD)
        self.metrics = Metrics()
        self.transport = WatchedTransport(transport)
        nonces = itertools.count()
        self.sender = Sender(
            site=site,
            credentials=Credentials("3_test", "key", decode_secret(SECRET)),
            settings=settings,
            transport=self.transport,
            clock=clock,
            rng=random.Random(1),
            nonce=lambda: f"n{next(nonces)}",
            metrics=self.metrics,
            mark=lambda uid: "0123456789ab",
        )
        self._wire()

    def _wire(self) -> None:
        clock, metrics = self.clock, self.metrics
        producer = FakeProducer(self.cluster)
        letters = DeadLetterWriter(topic=DEAD, producer=producer, clock=clock, rng=random.Random(1), metrics=metrics)
        self.ledger, offsets, mapper = Ledger(), Offsets(), Mapper(ruleset())
        handler = Handler(
            decode=mapper.decode,
            mapper=mapper,
            rules_digest=ruleset().digest,
            letters=letters,
            offsets=offsets,
            ledger=self.ledger,
            guard=FloodGuard(FloodGuardSettings()),
            clock=clock,
            metrics=metrics,
            user_mark=lambda site, uid: "0123456789ab",
        )
        lanes = Lanes({"main": self.sender}, max_in_flight=50, clock=clock, ended=handler.call_ended)
        handler.queue = lanes
        self.source = FakeSource(self.cluster, [TOPIC], group_id=GROUP)
        self.engine = Engine(
            source=self.source,
            handler=handler,
            lanes=lanes,
            offsets=offsets,
            ledger=self.ledger,
            clock=clock,
            metrics=metrics,
            max_ahead=1000,
            drain_s=5.0,
        )
        self.view = WorkerView(
            engine=self.engine,
            handler=handler,
            lanes=lanes,
            ledger=self.ledger,
            letters=letters,
            senders={"main": self.sender},
            metrics=metrics,
            reload=None,
            control=SimpleNamespace(pauses={}),  # type: ignore[arg-type]
            watchdog=SimpleNamespace(trouble=""),  # type: ignore[arg-type]
            alarms=SimpleNamespace(set_gauges=lambda: None, letters_policy="compact"),  # type: ignore[arg-type]
            version="test",
        )

    # what happens

    def append(self, *uids: str, kind: str = "watched", **more: Any) -> None:
        for uid in uids:
            self.cluster.append(self.partition, orjson.dumps({"type": kind, "uid": uid, **more}))

    async def until(self, condition: Callable[[], bool], *, limit_s: float = 900.0) -> None:
        """Let time pass until `condition` holds; `limit_s` is virtual."""
        end_s = self.clock.monotonic_s() + limit_s
        while not condition():
            assert self.clock.monotonic_s() < end_s, f"not within {limit_s:g} s of virtual time: {self.view.status()}"
            if self.transport.in_flight:
                await asyncio.sleep(0.0005)
                continue
            await settle(5)
            if not self.transport.in_flight:
                await self.clock.advance(self.clock.next_timer_in_s() or 0.001)

    async def pass_time(self, seconds: float) -> None:
        end_s = self.clock.monotonic_s() + seconds
        await self.until(lambda: self.clock.monotonic_s() >= end_s, limit_s=seconds + 60)

    async def all_committed(self, *, limit_s: float = 900.0) -> None:
        await self.until(lambda: self.committed == self.cluster.logs[self.partition].end, limit_s=limit_s)

    # what is to be seen

    @property
    def committed(self) -> int:
        position = self.cluster.committed.get((GROUP, self.partition))
        return position.offset if position is not None else 0

    @property
    def letters(self) -> dict[int, DeadLetter]:
        """Return the dead letters by the offset of their record."""
        stored = self.cluster.logs[TopicPartition(DEAD, 0)].records
        found = [decode_letter(record.key or b"", record.value, record.headers) for record in stored]
        return {letter.record.offset: letter for letter in found}

    @property
    def verdicts(self) -> Mapping[tuple[str, str], int]:
        """Return how many attempts were read as (verdict, reason)."""
        return {
            (labels["verdict"], labels["reason"]): int(value)
            for labels, value in self._samples("gigya_worker_attempts_total")
        }

    @property
    def ends(self) -> Mapping[tuple[str, str], int]:
        """Return how many calls ended as (outcome, reason)."""
        return {
            (labels["outcome"], labels["reason"]): int(value)
            for labels, value in self._samples("gigya_worker_calls_ended_total")
        }

    @property
    def possible_duplicates(self) -> int:
        return int(sum(value for _, value in self._samples("gigya_worker_possible_duplicates_total")))

    @property
    def readiness(self) -> dict[str, Any]:
        """Return the site's part of /readyz."""
        part = self.view.readyz()["site:main"]
        assert isinstance(part, dict)
        return part

    @property
    def is_ready(self) -> bool:
        return bool(self.view.readyz()["ready"])

    def _samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        families = self.metrics.registry.collect()
        return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]


@asynccontextmanager
async def running(
    clock: ManualClock, site: Site, *, time_limit_s: float = TIME_LIMIT_S, attempts: int = 3, **settings: Any
) -> AsyncIterator[World]:
    """Run a worker for this site; in the end it must still be alive, and its ledger balanced."""
    limits = {"connect_timeout_s": time_limit_s, "attempt_timeout_s": time_limit_s}
    transport = HttpTransport(clock, **limits, max_connections=50, ca_file=site.ca_file)
    world = World(clock, transport, site, DeliverySettings(**limits, attempts=attempts, **settings))
    tasks = [asyncio.create_task(world.engine.run()), asyncio.create_task(world.sender.run())]
    try:
        yield world
        for task in tasks:
            if task.done():
                task.result()
                raise AssertionError("the worker has ended")
        assert world.ledger.balanced(world.engine.unfinished())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await transport.close()


@asynccontextmanager
async def at_the_local_gigya(
    *,
    settings: Mapping[str, Any] | None = None,
    verdicts: Mapping[int, VerdictKind] | None = None,
    site: Mapping[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[tuple[World, LocalGigya]]:
    """Run a worker at a local Gigya that lives in the same time.

    `settings` are the worker's for delivery, `verdicts` those for its site; `site` and `config` are the local Gigya's.
    """
    clock = ManualClock()
    document = {"sites": {"main": {"api_key": "3_test", "keys": {"key": {"secrets": [SECRET]}}, **(site or {})}}}
    gigya = LocalGigya(
        GigyaConfig.model_validate({**document, **config}), now_s=clock.now_s, elapsed_s=clock.monotonic_s
    )
    async with gigya, running(clock, site_at(gigya.base_url, verdicts), **settings or {}) as world:
        yield world, gigya


def without_a_log(gigya: LocalGigya) -> None:
    """Let nothing be told by the action log: the key may not read it."""
    gigya.inject(Fault(kind="code", code=403007, method="gm.getActionsLog"))


def requests(gigya: LocalGigya, *, uid: str = "", method: str = NOTIFY) -> int:
    """Return how many requests arrived."""
    return sum(each.method == method and uid in ("", each.uid) for each in gigya.ledger.arrivals)
