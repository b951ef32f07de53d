"""`run`: which parts there are, in which order they start and stop. This and `wiring` are all that knows all rooms."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from worker.alarms import Alarms
from worker.clock import SystemClock
from worker.control import Control
from worker.deadletters.record import worker_version
from worker.delivery.sender import Sender
from worker.dry_run import GROUP_SUFFIX, DryRun
from worker.exits import CANCELLED, ENDED_EARLY, OK, UNBALANCED
from worker.kafka.client import check_cluster
from worker.kafka.retention import Retention, ask_retention
from worker.kafka.source import KafkaSource
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.pipeline.engine import Ended, Engine
from worker.pipeline.group_quota import GroupQuota
from worker.pipeline.ledger import Ledger
from worker.reload import RulesReload
from worker.settings.rotation import KeyWatch
from worker.settings.site_files import credentials_of
from worker.settings.tree import Loaded, Settings
from worker.status import WorkerView
from worker.watchdog import Watchdog
from worker.wiring import (
    Parts,
    WaysOut,
    keep_to_the_lease,
    open_admin,
    parts_of,
    run_until_told,
    source_of,
    user_marks,
    ways_out,
)

log = structlog.get_logger(__name__)


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
    marks = user_marks(credentials)
    watch = KeyWatch(loaded, credentials, reread, clock=clock, metrics=metrics) if reread is not None else None
    rehearsal = DryRun(settings.sites, rules, clock=clock, metrics=metrics) if dry_run else None
    async with ways_out(settings, credentials, clock, metrics, marks, rehearsal) as out:
        parts = parts_of(settings, rules, out, clock, metrics, marks)
        source = source_of(settings, clock, accept_gap=accept_gap)
        keep_to_the_lease(out.live, source, settings, clock)
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
        async with open_admin(settings, view, look.control):
            log.info("worker.started", group=settings.kafka.group_id, topics=settings.kafka.topics, rules=rules.digest)
            beside = _beside(out.live, group_quota, watch, reload, rehearsal) | look.work()
            ended = await run_until_told(engine, beside, hangup=_look_now(watch, reload))
        return _conclude(ended, engine, parts.ledger, rehearsal, until_end=until_end)


def _shadow(settings: Settings) -> Settings:
    """Return the settings of a dry run: the same, but in a group of its own."""
    kafka = settings.kafka.model_copy(update={"group_id": settings.kafka.group_id + GROUP_SUFFIX})
    return settings.model_copy(update={"kafka": kafka})


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
    parts: Parts,
    out: WaysOut,
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
