"""`run`: which parts there are, in which order they start and stop. This and `wiring` are all that knows all rooms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping

import structlog

from worker.clock import SystemClock
from worker.delivery.sender import Sender
from worker.dry_run import GROUP_SUFFIX, DryRun
from worker.exits import CANCELLED, ENDED_EARLY, OK, UNBALANCED
from worker.kafka.client import check_cluster
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.pipeline.engine import Ended, Engine
from worker.pipeline.ledger import Ledger
from worker.reload import RulesReload
from worker.settings.rotation import KeyWatch
from worker.settings.site_files import credentials_of
from worker.settings.tree import Loaded, Settings
from worker.signals import run_until_told
from worker.wiring import (
    assembled,
    keep_to_the_lease,
    open_admin,
    parts_of,
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
        reload = None
        if reread_rules is not None:
            load = reread_rules if rehearsal is None else rehearsal.knowing(reread_rules)
            reload = RulesReload(settings.rules, load, parts.handler, clock=clock, metrics=metrics)
        quotas = {name: settings.sites[name].live_quota_per_s for name in out.live}
        whole = assembled(settings, parts, out, source, quotas, clock, metrics, until_end=until_end, reload=reload)
        async with open_admin(settings, whole.view, whole.control):
            log.info("worker.started", group=settings.kafka.group_id, topics=settings.kafka.topics, rules=rules.digest)
            beside = whole.beside() | _beside(out.live, watch, reload, rehearsal)
            ended = await run_until_told(whole.engine, beside, hangup=_look_now(watch, reload))
        return _conclude(ended, whole.engine, parts.ledger, rehearsal, until_end=until_end)


def _shadow(settings: Settings) -> Settings:
    """Return the settings of a dry run: the same, but in a group of its own."""
    kafka = settings.kafka.model_copy(update={"group_id": settings.kafka.group_id + GROUP_SUFFIX})
    return settings.model_copy(update={"kafka": kafka})


def _beside(
    senders: Mapping[str, Sender],
    watch: KeyWatch | None,
    reload: RulesReload | None,
    rehearsal: DryRun | None,
) -> dict[str, Coroutine[None, None, None]]:
    """Return what runs as long as the engine does, by name, because it is the live worker."""
    work: dict[str, Coroutine[None, None, None]] = {}
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
