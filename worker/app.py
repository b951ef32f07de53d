"""Wiring: which parts there are, in which order they start and stop. The only module that knows all rooms."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import structlog

from worker import logs
from worker.admin import AdminServer
from worker.alarms import Alarms
from worker.clock import SystemClock
from worker.control import Control
from worker.deadletters.record import worker_version
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.sender import Sender
from worker.delivery.transport import HttpTransport
from worker.dry_run import GROUP_SUFFIX, DiscardedLetters, DryRun, DryRunSender
from worker.exits import CANCELLED, ENDED_EARLY, OK, UNBALANCED
from worker.gigya.authorization import AnyCredentials, mark_key
from worker.gigya.sites import Site
from worker.kafka.client import KafkaProducer, check_cluster
from worker.kafka.retention import Retention, ask_retention
from worker.kafka.source import KafkaSource
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.pipeline.engine import Ended, Engine
from worker.pipeline.flood_guard import FloodGuard
from worker.pipeline.group_quota import GroupQuota
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets
from worker.reload import RulesReload
from worker.settings.rotation import KeyWatch
from worker.settings.site_files import credentials_of
from worker.settings.tree import Loaded, Settings
from worker.status import WorkerView
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

# Marks of users that are remembered: computing one costs as much as a tenth of a call's own work.
MARKS = 20_000


async def run(
    loaded: Loaded,
    rules: RuleSet,
    *,
    until_end: bool = False,
    accept_gap: bool = False,
    dry_run: bool = False,
    reread: Callable[[], Loaded] | None = None,
    reread_rules: Callable[[], RuleSet] | None = None,
) -> int:
    """Run the worker until it is told to stop, or to the ends seen at start; return the exit code.

    `reread` reads the settings again: with it, keys can be rotated while the worker runs. `reread_rules` does the same
    for the rules. Both block and raise Refused. With `dry_run` nothing is sent and no dead letter written; the group is
    another one.
    Raises StartFailed when something outside is missing; nothing has been consumed then.
    """
    settings = _shadow(loaded.settings) if dry_run else loaded.settings
    await check_cluster(settings.kafka)
    clock = SystemClock()
    metrics = Metrics()
    credentials = {name: credentials_of(site) for name, site in settings.sites.items()}
    marks = _user_marks(credentials)
    watch = KeyWatch(loaded, credentials, reread, clock=clock, metrics=metrics) if reread is not None else None
    rehearsal = DryRun(settings.sites, rules, clock=clock, metrics=metrics) if dry_run else None
    async with _ways_out(settings, credentials, clock, metrics, marks, rehearsal) as out:
        parts = _parts(settings, rules, out, clock, metrics, marks)
        source = _source(settings, clock, accept_gap=accept_gap)
        _keep_to_the_lease(out.live, source, settings, clock)
        group_quota = _group_quota(settings, out.live, source, clock)
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
        look = _oversight(settings, parts, out, engine, source, group_quota, clock, metrics)
        reload = None
        if reread_rules is not None:
            load = reread_rules if rehearsal is None else rehearsal.knowing(reread_rules)
            reload = RulesReload(settings.rules, load, parts.handler, clock=clock, metrics=metrics)
        view = WorkerView(
            engine=engine,
            handler=parts.handler,
            lanes=parts.lanes,
            ledger=parts.ledger,
            letters=parts.letters,
            senders=out.senders,
            metrics=metrics,
            reload=reload,
            control=look.control,
            watchdog=look.watchdog,
            alarms=look.alarms,
            version=worker_version(),
        )
        async with _admin(settings, view, look.control):
            log.info("worker.started", group=settings.kafka.group_id, topics=settings.kafka.topics, rules=rules.digest)
            beside = _beside(out.live, group_quota, watch, reload, rehearsal) | look.work()
            ended = await _run_until_told(engine, beside, hangup=_look_now(watch, reload))
        return _conclude(ended, engine, parts.ledger, rehearsal, until_end=until_end)


def _shadow(settings: Settings) -> Settings:
    """Return the settings of a dry run: the same, but in a group of its own."""
    kafka = settings.kafka.model_copy(update={"group_id": settings.kafka.group_id + GROUP_SUFFIX})
    return settings.model_copy(update={"kafka": kafka})


@dataclass(frozen=True, slots=True)
class _WaysOut:
    """Everything that leaves the process: calls by site, and dead letters. `live` are the senders that really send."""

    senders: Mapping[str, Sender | DryRunSender]
    live: Mapping[str, Sender]
    producer: KafkaProducer | DiscardedLetters


@asynccontextmanager
async def _ways_out(
    settings: Settings,
    credentials: Mapping[str, AnyCredentials],
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
    rehearsal: DryRun | None,
) -> AsyncIterator[_WaysOut]:
    """Open them; in a dry run there is nothing to open, so that nothing can get out."""
    if rehearsal is not None:
        yield _WaysOut(rehearsal.senders, {}, rehearsal.letters)
        return
    async with _senders(settings, credentials, clock, metrics, marks) as senders, _producer(settings) as producer:
        yield _WaysOut(senders, senders, producer)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The pipeline below the engine."""

    offsets: Offsets
    ledger: Ledger
    letters: DeadLetterWriter
    handler: Handler
    lanes: Lanes


def _parts(
    settings: Settings,
    rules: RuleSet,
    out: _WaysOut,
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
) -> _Parts:
    topic = settings.kafka.dead_letter_topic
    letters = DeadLetterWriter(topic=topic, producer=out.producer, clock=clock, rng=random.Random(), metrics=metrics)
    offsets, ledger = Offsets(), Ledger()
    mapper = Mapper(rules)
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
    lanes = Lanes(out.senders, max_in_flight=settings.delivery.max_in_flight, clock=clock, ended=handler.call_ended)
    handler.queue = lanes
    return _Parts(offsets, ledger, letters, handler, lanes)


@dataclass(frozen=True, slots=True)
class _Oversight:
    """What watches over the pipeline, and what an operator has in hand."""

    control: Control
    watchdog: Watchdog
    retention: Retention
    alarms: Alarms

    def work(self) -> dict[str, Coroutine[None, None, None]]:
        return {"watchdog": self.watchdog.run(), "retention": self.retention.run()}


def _oversight(
    settings: Settings,
    parts: _Parts,
    out: _WaysOut,
    engine: Engine,
    source: KafkaSource,
    group_quota: GroupQuota,
    clock: SystemClock,
    metrics: Metrics,
) -> _Oversight:
    retention = Retention(settings.kafka.topics, partial(ask_retention, settings.kafka), clock)
    watchdog = Watchdog(
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
    alarms = Alarms(
        offsets=parts.offsets,
        ledger=parts.ledger,
        senders=out.senders,
        retention=retention,
        quota_shares=group_quota.shares,
        lease_valid_until_s=source.lease_valid_until_s,
        clock=clock,
        metrics=metrics,
    )
    control = Control(handler=parts.handler, offsets=parts.offsets, senders=out.senders, clock=clock)
    return _Oversight(control, watchdog, retention, alarms)


def _group_quota(
    settings: Settings, senders: Mapping[str, Sender], source: KafkaSource, clock: SystemClock
) -> GroupQuota:
    quotas_per_s = {name: settings.sites[name].live_quota_per_s for name in senders}
    member = secrets.token_hex(6)
    return GroupQuota(quotas_per_s=quotas_per_s, meters=senders, commits=source, clock=clock, member=member)


def _beside(
    senders: Mapping[str, Sender],
    group_quota: GroupQuota,
    watch: KeyWatch | None,
    reload: RulesReload | None,
    rehearsal: DryRun | None,
) -> dict[str, Coroutine[None, None, None]]:
    """Return what runs as long as the engine does, by name."""
    work: dict[str, Coroutine[None, None, None]] = {f"site-{name}": sender.run() for name, sender in senders.items()}
    if group_quota.has_quotas:
        work["group-quota"] = group_quota.run()
    if watch is not None:
        work["key-watch"] = watch.run(senders)
    if reload is not None:
        work["rules-watch"] = reload.run()
    if rehearsal is not None:
        work["dry-run"] = rehearsal.run()
    return work


def _look_now(watch: KeyWatch | None, reload: RulesReload | None) -> Callable[[], None]:
    """Return what SIGHUP does: read keys and rules again."""

    def look_now() -> None:
        for each in (watch, reload):
            if each is not None:
                each.look_now()

    return look_now


async def _run_until_told(
    engine: Engine, beside: Mapping[str, Coroutine[None, None, None]], *, hangup: Callable[[], None] | None
) -> Ended | None:
    """Run the engine and what runs beside it; None when a second signal cancelled it."""
    running = asyncio.create_task(engine.run(), name="engine")
    others = [asyncio.create_task(work, name=name) for name, work in beside.items()]
    try:
        with _signals(first=engine.stop, second=running.cancel, hangup=hangup):
            await asyncio.wait({running, *others}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # One of the others ended, which none does by itself: a bug. The engine must not go on half alive.
                engine.stop()
                await asyncio.wait({running})
            for task in others:
                if task.done():
                    task.result()
            return await running
    except asyncio.CancelledError:
        if not running.cancelled():
            raise
        return None
    finally:
        everything: list[asyncio.Task[Ended] | asyncio.Task[None]] = [running, *others]
        for each in everything:
            each.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


def _conclude(ended: Ended | None, engine: Engine, ledger: Ledger, rehearsal: DryRun | None, *, until_end: bool) -> int:
    unfinished = engine.unfinished()
    total = ledger.total(unfinished)
    if rehearsal is not None:
        rehearsal.log_summary()
    if until_end:
        for line in (f"ledger  {total}", *(rehearsal.lines() if rehearsal is not None else ())):
            print(line, file=sys.stderr)  # noqa: T201  # what --until-end promises to print
    log.info("worker.stopped", ended=ended.value if ended else "cancelled", ledger=str(total))
    if not ledger.balanced(unfinished):
        for imbalance in ledger.imbalances(unfinished):
            log.error("ledger.unbalanced", account=imbalance)
        return UNBALANCED
    if ended is None:
        return CANCELLED
    if until_end and ended is not Ended.REACHED_END:
        return ENDED_EARLY
    return OK


@asynccontextmanager
async def _senders(
    settings: Settings,
    credentials: Mapping[str, AnyCredentials],
    clock: SystemClock,
    metrics: Metrics,
    marks: Callable[[str, str], str],
) -> AsyncIterator[dict[str, Sender]]:
    """Open one sender and its pool of connections per site; close the pools at the end."""
    delivery = settings.delivery
    async with contextlib.AsyncExitStack() as pools:
        senders: dict[str, Sender] = {}
        for name, site_settings in settings.sites.items():
            site = Site.of(name, site_settings)
            transport = HttpTransport(
                clock,
                connect_timeout_s=delivery.connect_timeout_s,
                attempt_timeout_s=delivery.attempt_timeout_s,
                max_connections=delivery.max_in_flight,
                ca_file=site.ca_file,
            )
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
                group=settings.kafka.group_id,
            )
        yield senders


def _source(settings: Settings, clock: SystemClock, *, accept_gap: bool) -> KafkaSource:
    # A drain lasts longer than drain_s: what was in flight then ends by itself, within an attempt's time.
    drain_s = settings.delivery.drain_s + settings.delivery.attempt_timeout_s
    return KafkaSource(settings.kafka, drain_s=drain_s, clock=clock, accept_gap=accept_gap)


def _keep_to_the_lease(
    senders: Mapping[str, Sender], source: KafkaSource, settings: Settings, clock: SystemClock
) -> None:
    """Let an attempt start only if it ends while nobody else can own our partitions.

    A process that was stopped, or cut off from the broker, does not know that another has its partitions by now.
    """
    attempt_s = settings.delivery.attempt_timeout_s
    for sender in senders.values():
        sender.may_write = lambda: clock.monotonic_s() + attempt_s < source.lease_valid_until_s()


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(settings.kafka)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _admin(settings: Settings, view: WorkerView, control: Control) -> AsyncIterator[None]:
    admin = AdminServer(settings.admin, view, control)
    await admin.start()
    try:
        yield
    finally:
        await admin.stop()


async def stoppable(work: Coroutine[object, object, int]) -> int:
    """Run `work`; SIGTERM or SIGINT before it handles them itself, while it starts, cancels it: exit code 0.

    Nothing has been consumed then. Without it the process would die of the signal, and as a container's first process
    (which the kernel gives no default reaction) not even that.
    """
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work)
    has_come = False

    def heard(name: str) -> None:
        nonlocal has_come
        has_come = True
        log.info("worker.stopped", ended="while starting", signal=name)
        working.cancel()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, heard, each.name)
    try:
        return await working
    except asyncio.CancelledError:
        if not has_come:
            raise
        return OK
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)


@contextmanager
def _signals(
    *, first: Callable[[], object], second: Callable[[], object], hangup: Callable[[], None] | None
) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT drain, the second one cancel, and SIGHUP read keys again; restore at the end."""
    loop = asyncio.get_running_loop()
    has_come = False

    def heard(name: str) -> None:
        nonlocal has_come
        if has_come:
            log.warning("worker.cancelled", signal=name)
            second()
        else:
            has_come = True
            log.info("worker.stopping", signal=name)
            first()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, heard, each.name)
    handled = [signal.SIGTERM, signal.SIGINT]
    if hangup is not None and hasattr(signal, "SIGHUP"):  # Windows has none
        loop.add_signal_handler(signal.SIGHUP, hangup)
        handled.append(signal.SIGHUP)
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)


def _user_marks(credentials: Mapping[str, AnyCredentials]) -> Callable[[str, str], str]:
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
