"""What every run is made of: the ways out, the pipeline's parts, the admin port. `app` and `backfill_app` put them
together, each with its own source of records.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

import structlog

from worker import logs
from worker.admin import AdminServer, View
from worker.alarms import Alarms
from worker.backfill.plan import Reads
from worker.clock import Clock, SystemClock
from worker.control import Control
from worker.deadletters.record import worker_version
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.schedule import DeliverySettings
from worker.delivery.sender import Sender
from worker.delivery.transport import HttpTransport
from worker.dry_run import DiscardedLetters, DryRun, DryRunSender
from worker.gigya.authorization import AnyCredentials, mark_key
from worker.gigya.calls import Call
from worker.gigya.sites import Site
from worker.kafka.client import KafkaProducer
from worker.kafka.retention import Retention, ask_retention
from worker.kafka.source import KafkaSource
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.memory import give_back
from worker.metrics import Metrics
from worker.model import Outcome
from worker.pipeline.engine import Engine
from worker.pipeline.flood_guard import FloodGuard
from worker.pipeline.group_quota import Commits, GroupQuota
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets
from worker.pipeline.site_lanes import Job
from worker.pipeline.source import Source
from worker.reload import RulesReload
from worker.settings.tree import Settings
from worker.status import WorkerView
from worker.watchdog import Standstill, Watchdog

log = structlog.get_logger(__name__)

# Marks of users that are remembered: computing one costs as much as a tenth of a call's own work.
MARKS = 20_000


class Member(Source, Commits, Protocol):
    """A source of records that knows the others who read it, and how long its partitions are surely its own."""

    def lease_valid_until_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class WaysOut:
    """Everything that leaves the process: calls by site, and dead letters. `live` are the senders that really send."""

    senders: Mapping[str, Sender | DryRunSender]
    live: Mapping[str, Sender]
    producer: KafkaProducer | DiscardedLetters


@asynccontextmanager
async def ways_out(
    settings: Settings,
    credentials: Mapping[str, AnyCredentials],
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
    rehearsal: DryRun | None = None,
    *,
    run_id: str = "",
    rates_per_s: Mapping[str, float | None] | None = None,
    other_writers: bool | None = None,
) -> AsyncIterator[WaysOut]:
    """Open them; in a dry run there is nothing to open, so that nothing can get out.

    `run_id` (empty for the live worker) tells a backfill's or a replay's nonces from others'; `rates_per_s`: what each
    site may be asked in a second, in place of the live worker's quota; `other_writers`: whether others write the same
    actions of the same users, in place of the site's setting.
    """
    if rehearsal is not None:
        yield WaysOut(rehearsal.senders, {}, rehearsal.letters)
        return
    async with (
        open_senders(
            settings,
            credentials,
            clock,
            metrics,
            marks,
            run_id=run_id,
            rates_per_s=rates_per_s,
            other_writers=other_writers,
        ) as senders,
        open_producer(settings) as producer,
    ):
        yield WaysOut(senders, senders, producer)


@dataclass(frozen=True, slots=True)
class Parts:
    """The pipeline below the engine."""

    offsets: Offsets
    ledger: Ledger
    letters: DeadLetterWriter
    handler: Handler
    lanes: Lanes


def parts_of(
    settings: Settings,
    rules: RuleSet,
    out: WaysOut,
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
    *,
    run_id: str = "",
    note: Callable[[Call, Outcome], None] | None = None,
    reads: Reads | None = None,
) -> Parts:
    """Make them. `note` is told of every call that ends; `reads` stands in for the rules' own mapper."""
    letters = DeadLetterWriter(
        topic=settings.kafka.dead_letter_topic,
        producer=out.producer,
        clock=clock,
        rng=random.Random(),
        metrics=metrics,
        run_id=run_id,
    )
    offsets, ledger = Offsets(), Ledger()
    mapper: Reads = reads if reads is not None else Mapper(rules)
    handler = Handler(
        decode=mapper.decode,
        mapper=mapper,
        rules_digest=rules.digest,
        letters=letters,
        offsets=offsets,
        ledger=ledger,
        guard=FloodGuard(settings.flood_guard),
        clock=clock,
        metrics=metrics,
        user_mark=marks,
        max_held_bytes=settings.delivery.max_buffer_bytes,
    )

    def ended(job: Job, outcome: Outcome) -> None:
        if note is not None:
            note(job.delivery.call, outcome)
        handler.call_ended(job, outcome)

    lanes = Lanes(
        out.senders,
        max_in_flight=settings.delivery.max_in_flight,
        clock=clock,
        ended=handler.call_ended if note is None else ended,
    )
    handler.queue = lanes
    return Parts(offsets, ledger, letters, handler, lanes)


@dataclass(frozen=True, slots=True)
class Assembled:
    """The whole pipeline over a source, what watches over it, and what an operator has in hand."""

    engine: Engine
    view: WorkerView
    control: Control
    watchdog: Watchdog
    retention: Retention
    group_quota: GroupQuota
    live: Mapping[str, Sender]
    standstill: Standstill | None  # of a bounded run
    clock: Clock

    def beside(self) -> dict[str, Coroutine[None, None, None]]:
        """Return what runs as long as the engine does, by name."""
        work: dict[str, Coroutine[None, None, None]] = {f"site-{name}": one.run() for name, one in self.live.items()}
        if self.group_quota.has_quotas:
            work["group-quota"] = self.group_quota.run()
        if self.standstill is not None:
            work["standstill"] = self.standstill.run()
        return work | {
            "watchdog": self.watchdog.run(),
            "retention": self.retention.run(),
            "memory": give_back(self.clock),
        }


def assembled(
    settings: Settings,
    parts: Parts,
    out: WaysOut,
    source: Member,
    quotas_per_s: Mapping[str, float | None],
    clock: SystemClock,
    metrics: Metrics,
    *,
    until_end: bool = False,
    reload: RulesReload | None = None,
) -> Assembled:
    """Put the engine over its parts. `quotas_per_s`: what all members of the group may ask of each site together."""
    member = secrets.token_hex(6)
    group_quota = GroupQuota(quotas_per_s=quotas_per_s, meters=out.live, commits=source, clock=clock, member=member)
    engine = Engine(
        source=source,
        handler=parts.handler,
        lanes=parts.lanes,
        offsets=parts.offsets,
        ledger=parts.ledger,
        clock=clock,
        metrics=metrics,
        max_ahead=settings.delivery.max_ahead,
        drain_s=settings.delivery.drain_s,
        until_end=until_end,
        notes=group_quota,
        memories={name: sender.ladder for name, sender in out.live.items()},
    )
    control = Control(handler=parts.handler, offsets=parts.offsets, senders=out.senders, clock=clock)
    kafka = settings.kafka
    retention = Retention(kafka.topics, partial(ask_retention, kafka), clock, dead_letter_topic=kafka.dead_letter_topic)
    watchdog = _watchdog(settings, parts, out, engine, clock, metrics)
    alarms = Alarms(
        offsets=parts.offsets,
        ledger=parts.ledger,
        senders=out.senders,
        retention=retention,
        quota_shares=group_quota.shares,
        lease_valid_until_s=source.lease_valid_until_s,
        end_of=engine.end_of,
        clock=clock,
        metrics=metrics,
    )
    view = WorkerView(
        engine=engine,
        handler=parts.handler,
        lanes=parts.lanes,
        ledger=parts.ledger,
        letters=parts.letters,
        senders=out.senders,
        metrics=metrics,
        reload=reload,
        control=control,
        watchdog=watchdog,
        alarms=alarms,
        version=worker_version(),
    )
    standstill = _standstill(settings, parts, out, engine, clock) if until_end else None
    return Assembled(engine, view, control, watchdog, retention, group_quota, out.live, standstill, clock)


def _standstill(settings: Settings, parts: Parts, out: WaysOut, engine: Engine, clock: SystemClock) -> Standstill:
    return Standstill(
        engine=engine,
        senders=out.senders,
        letters=parts.letters,
        ledger=parts.ledger,
        clock=clock,
        limit_s=settings.admin.stuck_after_s,
    )


def _watchdog(
    settings: Settings, parts: Parts, out: WaysOut, engine: Engine, clock: SystemClock, metrics: Metrics
) -> Watchdog:
    return Watchdog(
        engine=engine,
        handler=parts.handler,
        lanes=parts.lanes,
        offsets=parts.offsets,
        ledger=parts.ledger,
        letters=parts.letters,
        senders=out.senders,
        clock=clock,
        metrics=metrics,
        stuck_after_s=settings.admin.stuck_after_s,
    )


def transport_of(site: Site, delivery: DeliverySettings, clock: Clock) -> HttpTransport:
    """Return a pool of connections to a site; whoever asks closes it."""
    return HttpTransport(
        clock,
        connect_timeout_s=delivery.connect_timeout_s,
        attempt_timeout_s=delivery.attempt_timeout_s,
        max_connections=delivery.max_in_flight,
        ca_file=site.ca_file,
    )


@asynccontextmanager
async def open_senders(
    settings: Settings,
    credentials: Mapping[str, AnyCredentials],
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
    *,
    run_id: str = "",
    rates_per_s: Mapping[str, float | None] | None = None,
    other_writers: bool | None = None,
) -> AsyncIterator[dict[str, Sender]]:
    """Open one sender and its pool of connections per site; close the pools at the end."""
    delivery = settings.delivery
    async with contextlib.AsyncExitStack() as pools:
        senders: dict[str, Sender] = {}
        for name, site_settings in settings.sites.items():
            site = Site.of(name, site_settings)
            if rates_per_s is not None:
                site = replace(site, quota_per_s=rates_per_s[name])
            if other_writers is not None:
                site = replace(site, other_writers=other_writers)
            transport = transport_of(site, delivery, clock)
            pools.push_async_callback(transport.close)
            senders[name] = Sender(
                site=site,
                credentials=credentials[name],
                settings=delivery,
                transport=transport,
                clock=clock,
                rng=random.Random(),
                nonce=lambda: secrets.token_hex(16),  # 128 bits: the millisecond nonces of some SDKs collide
                metrics=metrics,
                mark=lambda uid, site=name: marks(site, uid),  # type: ignore[misc]
                run=run_id,
                group=settings.kafka.group_id,
            )
        yield senders


@asynccontextmanager
async def open_producer(settings: Settings) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(settings.kafka)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def open_admin(settings: Settings, view: View, control: Control) -> AsyncIterator[None]:
    admin = AdminServer(settings.admin, view, control)
    await admin.start()
    try:
        yield
    finally:
        await admin.stop()


def keep_to_the_lease(senders: Mapping[str, Sender], source: Member, settings: Settings, clock: SystemClock) -> None:
    """Let an attempt start only if it ends while nobody else can own our partitions.

    A process that was stopped, or cut off from the broker, does not know that another has its partitions by now.
    """
    attempt_s = settings.delivery.attempt_timeout_s
    for sender in senders.values():
        sender.may_write = lambda: clock.monotonic_s() + attempt_s < source.lease_valid_until_s()


def source_of(settings: Settings, clock: SystemClock, *, accept_gap: bool) -> KafkaSource:
    # A drain lasts longer than drain_s: what was in flight then ends by itself, within an attempt's time.
    drain_s = settings.delivery.drain_s + settings.delivery.attempt_timeout_s
    return KafkaSource(settings.kafka, drain_s=drain_s, clock=clock, accept_gap=accept_gap)


def user_marks(credentials: Mapping[str, AnyCredentials]) -> Callable[[str, str], str]:
    """Return site and UID -> the mark that stands for the user in logs.

    Keyed by the site's secret or private key, so that it is the same after a restart and in every member of a group,
    and nobody without that can test a guess. A rotated key changes the marks with the next start only.
    """
    keys = {
        name: hmac.digest(mark_key(each), b"gigya-worker user mark", hashlib.sha256)
        for name, each in credentials.items()
    }

    @lru_cache(maxsize=MARKS)
    def mark(site: str, uid: str) -> str:
        return logs.user_mark(uid, keys[site])

    return mark
