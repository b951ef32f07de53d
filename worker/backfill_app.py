"""`backfill`: a range through the same pipeline as `run`, in a group of its own. Wiring, beside `app`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from worker.backfill.caps import ask_caps
from worker.backfill.delivered import Known, ask
from worker.backfill.extent import Standing, bounds_of, standing_of, survey
from worker.backfill.files import FileMapper, FileSource, begun, records_of, refuse_other_files, state_in, survey_file
from worker.backfill.plan import Plan, Prospect, Reads
from worker.backfill.rates import rate_words
from worker.backfill.report import Ended, Report
from worker.backfill.state_file import StateFile, look_into
from worker.backfill.tally import Pace, Tally
from worker.backfill.wanted import Wanted
from worker.clock import Clock, SystemClock
from worker.delivery.quota import QuotaState
from worker.delivery.site_state import State
from worker.errors import StartFailed
from worker.gigya.sites import Site
from worker.inspect.coverage import Caps
from worker.inspect.request import Signatory
from worker.kafka.bounded import BoundedSource
from worker.kafka.client import check_cluster
from worker.kafka.membership import LeftOut
from worker.kafka.progress import RULES_DIGITS, Bounds
from worker.kafka.ranges import RangeReader, Span
from worker.kafka.runs import commits_of
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import TopicPartition
from worker.pipeline import engine as engines
from worker.pipeline.earlier import Done
from worker.settings.rotation import KeyWatch
from worker.settings.site_files import credentials_of
from worker.settings.tree import Loaded, Settings
from worker.signals import run_until_told
from worker.wiring import (
    Assembled,
    Member,
    Parts,
    assembled,
    keep_to_the_lease,
    open_admin,
    parts_of,
    transport_of,
    user_marks,
    ways_out,
)

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
# So long nothing is said of the group that is being joined: usually it takes a moment.
PATIENCE_S = 3.0
NOTHING_DONE = Done()
# Calls that only wait for a permit are not hurried through when somebody says stop: the next start makes them.
DRAIN_S = 1.0
FILE_LINES_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Errand:
    """A run: what it replays, under which name, how fast."""

    wanted: Wanted
    run_id: str
    rates_per_s: Mapping[str, float | None]  # by site; None: no limit
    accept_gap: bool = False
    # Whether nobody else notifies the same actions of the same users meanwhile, the live worker included. If somebody
    # may, an entry in Gigya's action log does not prove that a call of ours was executed: it may be his.
    is_sole_writer: bool = False
    admin_port: int = 0
    paths: tuple[Path, ...] = ()  # of files, in place of a range of topics
    state_file: Path = Path()  # where their progress is kept

    def group(self, settings: Settings) -> str:
        """Return the group in which the run's progress lives."""
        return f"{settings.kafka.group_id}.backfill.{self.run_id}"

    def shadow(self, settings: Settings) -> Settings:
        """Return the settings of the run: the same, but for group, topics, admin port, and a stop without delay."""
        changes = {"group_id": self.group(settings), "topics": list(self.wanted.topics)}
        return settings.model_copy(
            update={
                "kafka": settings.kafka.model_copy(update=changes),
                "delivery": settings.delivery.model_copy(update={"drain_s": min(DRAIN_S, settings.delivery.drain_s)}),
                "admin": settings.admin.model_copy(update={"port": self.admin_port}),
            }
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """How far a run has come. Counts are of the partitions that this process has."""

    done: int
    size: int
    calls: int
    unfinished: int
    left_s: float | None
    note: str = ""  # what it waits for


Show = Callable[[Sight], None]


async def standing(settings: Settings, errand: Errand) -> Standing:
    """Return how far the run has come. Raises StartFailed."""
    group = errand.group(settings)
    return standing_of(group, await commits_of(settings.kafka, group))


async def plan(loaded: Loaded, rules: RuleSet, errand: Errand, *, show: Show) -> Prospect:
    """Read the range, or what is left of it, and count what a run would do. Sends nothing. Raises StartFailed."""
    settings, clock = errand.shadow(loaded.settings), SystemClock()
    began_s = clock.monotonic_s()
    caps = await _caps(settings, clock)
    known = {site: found for site, found in caps.items() if isinstance(found, Caps)}
    reads: Reads = FileMapper(Mapper(rules)) if errand.paths else Mapper(rules)
    counts = Plan(reads, caps=known, rates_per_s=errand.rates_per_s, now_s=clock.now_s())
    survey_of = _plan_files if errand.paths else _plan_kafka
    before, spans, notes = await survey_of(loaded.settings, settings, errand, counts, _Reading(clock, show))
    if before.is_finished:
        notes.append("this run is finished; a second one on purpose needs a name of its own (--run-id)")
    return Prospect(
        run_id=errand.run_id,
        plan=counts,
        partitions=len(spans),
        offsets=sum(span.size for span in spans.values()),
        behind=before.behind,
        took_s=clock.monotonic_s() - began_s,
        rates=rate_words(settings.sites, errand.rates_per_s),
        caps_unknown={site: found for site, found in caps.items() if isinstance(found, str)},
        signatories={
            name: Signatory(Site.of(name, site), site.auth.mode, site.auth.user_key)
            for name, site in settings.sites.items()
        },
        now_s=clock.now_s(),
        notes=notes,
    )


class _Reading:
    """Shows how far the reading has come."""

    def __init__(self, clock: Clock, show: Show) -> None:
        self._clock = clock
        self._show = show
        self._pace = Pace()
        self._passed: dict[TopicPartition, int] = {}

    async def has_come(self, partition: TopicPartition, passed: int, size: int, calls: int) -> None:
        """Note how many offsets of a partition are behind; lets others go on."""
        self._passed[partition] = passed
        done = sum(self._passed.values())
        self._pace.note(self._clock.monotonic_s(), done)
        self._show(Sight(done, size, calls, 0, self._pace.left_s(size - done)))
        await self._clock.sleep(0)


_Planned = tuple[Standing, dict[TopicPartition, Span], list[str]]


async def _plan_kafka(live: Settings, settings: Settings, errand: Errand, counts: Plan, reading: _Reading) -> _Planned:
    before = await standing(live, errand)
    there = [] if before.has_begun else await survey(settings.kafka, errand.wanted)
    spans = before.left() if before.has_begun else {part.partition: part.span for part in there}
    notes = [words for part in there for words in part.words()]
    left_out: Mapping[TopicPartition, LeftOut] = {}
    if (known := await _known(live, errand, spans)) is not None:
        left_out = known.left_out
        notes += known.words()
    size = sum(span.size for span in spans.values())
    async with RangeReader.opened(settings.kafka) as reader:
        async for batch in reader.read(spans):
            partition = TopicPartition(batch[0].topic, batch[0].partition)
            done = before.done.get(partition, NOTHING_DONE)
            others = left_out.get(partition, LeftOut())
            passed = Done(others.runs)
            for record in batch:
                if record.offset in done or record.offset in passed:
                    counts.already_done += 1
                else:
                    counts.add(record, others.calls.get(record.offset, ()))
            await reading.has_come(partition, batch[-1].offset + 1 - spans[partition].begin, size, counts.calls)
        notes += [f"{one}: retention deleted {count:,} offsets while it was read" for one, count in reader.lost.items()]
    return before, spans, notes


async def _known(live: Settings, errand: Errand, spans: Mapping[TopicPartition, Span]) -> Known | None:
    """Return what the live group has done of a range, where that is to be left out. Raises StartFailed."""
    return await ask(live.kafka, spans) if errand.wanted.skips_delivered else None


async def _plan_files(live: Settings, settings: Settings, errand: Errand, counts: Plan, reading: _Reading) -> _Planned:
    topic, path = errand.wanted.topics[0], errand.state_file
    files = [survey_file(each, topic) for each in errand.paths]
    state = state_in(look_into(path), path)
    if state is None:
        before, state = standing_of(str(path), {}), begun(files, int(time.time() * 1000), "")
    else:
        refuse_other_files(state, files, path)
        before = standing_of(str(path), state.positions)
    spans = {file.partition: Span(state.positions[file.partition].offset, file.end) for file in files}
    size = sum(span.size for span in spans.values())
    for file in files:
        done, begin = before.done.get(file.partition, NOTHING_DONE), spans[file.partition].begin
        for record in records_of(file, topic, state.stamp_ms, begin=begin):
            if record.offset in done:
                counts.already_done += 1
            else:
                counts.add(record)
            if not record.offset % FILE_LINES_AT_ONCE:
                await reading.has_come(file.partition, record.offset + 1 - begin, size, counts.calls)
    return before, spans, [file.damage for file in files if file.damage]


async def _caps(settings: Settings, clock: Clock) -> dict[str, Caps | str]:
    """Ask each site for its caps."""
    found: dict[str, Caps | str] = {}
    for name, site_settings in settings.sites.items():
        site = Site.of(name, site_settings)
        transport = transport_of(site, settings.delivery, clock)
        try:
            nonce = partial(secrets.token_hex, 16)
            found[name] = await ask_caps(site, credentials_of(site_settings), transport, clock, nonce)
        finally:
            await transport.close()
    return found


class _Ranged(Member, Protocol):
    """A source of records that knows where its range lies."""

    passed: dict[TopicPartition, int]

    def bounds(self, partition: TopicPartition) -> Bounds: ...

    @property
    def has_had_share(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Way:
    """What a run reads, how it stood before, and how to find out how it stands after."""

    source: _Ranged
    before: Standing
    after: Callable[[], Awaitable[Standing]]
    reads: Reads
    notes: tuple[str, ...]


async def run(
    loaded: Loaded, rules: RuleSet, errand: Errand, *, show: Show, reread: Callable[[], Loaded] | None = None
) -> Report:
    """Run, or go on, until the range is done or somebody says stop. Raises StartFailed; nothing was sent then."""
    settings, clock = errand.shadow(loaded.settings), SystemClock()
    await check_cluster(settings.kafka)
    open_way = _way_through_files if errand.paths else _way_through_kafka
    async with open_way(loaded, settings, rules, errand, clock) as way:
        before = way.before
        if before.is_finished:
            return Report(errand.run_id, before.group, Ended.WAS_FINISHED, before.size, before.behind, before.behind)
        return await _go(loaded, settings, rules, errand, way, clock, show, reread)


@asynccontextmanager
async def _way_through_kafka(
    loaded: Loaded, settings: Settings, rules: RuleSet, errand: Errand, clock: Clock
) -> AsyncIterator[_Way]:
    before = await standing(loaded.settings, errand)
    there = [] if before.has_begun else await survey(settings.kafka, errand.wanted)
    refuse_what_is_cut([words for part in there if part.is_cut for words in part.words()], errand)
    known = await _known(loaded.settings, errand, before.left() or {part.partition: part.span for part in there})
    source = BoundedSource(
        settings.kafka,
        bounds_of(there, rules.digest[:RULES_DIGITS]),
        drain_s=settings.delivery.drain_s + settings.delivery.attempt_timeout_s,
        clock=clock,
        accept_gap=errand.accept_gap,
        left_out=known.left_out if known is not None else None,
    )
    notes = [words for part in there for words in part.words()]
    if known is not None:
        notes += known.words()
    after = partial(standing, loaded.settings, errand)
    yield _Way(source, before, after, Mapper(rules), (*notes, *_changed_rules(before, rules)))


@asynccontextmanager
async def _way_through_files(
    loaded: Loaded, settings: Settings, rules: RuleSet, errand: Errand, clock: Clock
) -> AsyncIterator[_Way]:
    topic, path = errand.wanted.topics[0], errand.state_file
    with StateFile.opened(path) as held:
        files = [survey_file(each, topic) for each in errand.paths]
        damage = [file.damage for file in files if file.damage]
        state = state_in(held.read(), path)
        if state is None:
            refuse_what_is_cut(damage, errand)
            state = begun(files, int(clock.now_s() * 1000), rules.digest[:RULES_DIGITS])
            held.write(state.document())
        refuse_other_files(state, files, path)
        before = standing_of(str(path), state.positions)
        source = FileSource(files, state, held, topic=topic)

        async def after() -> Standing:
            return standing_of(str(path), source.positions)

        yield _Way(source, before, after, FileMapper(Mapper(rules)), (*damage, *_changed_rules(before, rules)))


def _changed_rules(before: Standing, rules: RuleSet) -> tuple[str, ...]:
    if not before.has_begun or before.rules == rules.digest[:RULES_DIGITS]:
        return ()
    return ("the rules are not those it was begun with: what is left is mapped by those of now",)


async def _go(
    loaded: Loaded,
    settings: Settings,
    rules: RuleSet,
    errand: Errand,
    way: _Way,
    clock: SystemClock,
    show: Show,
    reread: Callable[[], Loaded] | None,
) -> Report:
    metrics, tally, source = Metrics(), Tally(), way.source
    credentials = {name: credentials_of(site) for name, site in settings.sites.items()}
    marks = user_marks(credentials)
    watch = KeyWatch(loaded, credentials, reread, clock=clock, metrics=metrics) if reread is not None else None
    rates, run_id = errand.rates_per_s, errand.run_id
    async with ways_out(
        settings,
        credentials,
        clock,
        metrics,
        marks,
        run_id=run_id,
        rates_per_s=rates,
        other_writers=None if errand.is_sole_writer else True,
    ) as out:
        parts = parts_of(settings, rules, out, clock, metrics, marks, run_id=run_id, note=tally.note, reads=way.reads)
        keep_to_the_lease(out.live, source, settings, clock)
        whole = assembled(settings, parts, out, source, rates, clock, metrics, until_end=True)
        began_s = clock.monotonic_s()
        async with open_admin(settings, whole.view, whole.control):
            log.info("backfill.started", run=run_id, progress_in=way.before.group, rules=rules.digest, rates=rates)
            beside = whole.beside() | {"progress": _watched(whole, source, tally, clock, show)}
            if watch is not None:
                beside["key-watch"] = watch.run(out.live)
            ended = await run_until_told(whole.engine, beside, hangup=watch.look_now if watch is not None else None)
    notes = [*way.notes, *_gaps(source, parts)]
    try:
        after = await way.after()
    except StartFailed as error:  # calls were made, so the report is due all the same
        after = way.before
        notes.append(f"how far the run has come could not be asked: {error}")
    report = Report(
        run_id=run_id,
        where=way.before.group,
        ended=_end(ended, after, has_had_share=source.has_had_share),
        size=after.size,
        behind_before=way.before.behind,
        behind=after.behind,
        took_s=clock.monotonic_s() - began_s,
        notes=tuple(notes),
    )
    return counted(report, whole, parts, tally)


def counted(report: Report, whole: Assembled, parts: Parts, tally: Tally) -> Report:
    """Return the report with what this process has counted."""
    unfinished = whole.engine.unfinished()
    report = replace(
        report,
        ledger=parts.ledger.total(unfinished),
        imbalances=tuple(parts.ledger.imbalances(unfinished)),
        calls=dict(tally.calls),
        ends=dict(parts.ledger.ends),
    )
    log.info("backfill.stopped", run=report.run_id, ended=report.ended.value, ledger=str(report.ledger))
    for imbalance in report.imbalances:
        log.error("ledger.unbalanced", account=imbalance)
    return report


def refuse_what_is_cut(cut: Sequence[str], errand: Errand) -> None:
    """Raise StartFailed if the range is not whole, and nobody has agreed to that."""
    if cut and not errand.accept_gap:
        raise StartFailed(
            "\n".join(["the range is not whole:", *cut, "say --accept-gap to replay what there is, or another range"])
        )


def _end(ended: engines.Ended | None, after: Standing, *, has_had_share: bool) -> Ended:
    if ended is None:
        return Ended.CANCELLED
    if ended is engines.Ended.HELD:
        return Ended.HELD
    if after.is_finished:
        return Ended.FINISHED if has_had_share else Ended.WAS_FINISHED
    if ended is engines.Ended.STOPPED:
        return Ended.STOPPED
    return Ended.PART_DONE if has_had_share else Ended.NO_SHARE


def _gaps(source: _Ranged, parts: Parts) -> list[str]:
    notes = [
        f"{partition}: retention deleted {count:,} offsets before they were read; they were passed (--accept-gap)"
        for partition, count in source.passed.items()
    ]
    notes += [
        f"{partition}: retention deleted {count:,} offsets before they were read; --accept-gap passes them"
        for partition, count in source.lost.items()
    ]
    if (flood := parts.handler.flood) is not None:
        notes.append(f"{flood.text}; {flood.remedy}")
    return notes


async def _watched(whole: Assembled, source: _Ranged, tally: Tally, clock: Clock, show: Show) -> None:
    """Show how far the run has come, until cancelled."""
    pace, began_s = Pace(), clock.monotonic_s()
    while True:
        now_s = clock.monotonic_s()
        owned = whole.engine.partitions()
        if owned:
            bounds = {each.partition: source.bounds(each.partition) for each in owned}
            size = sum(one.end - one.begin for one in bounds.values())
            unfinished = sum(each.unfinished for each in owned)
            done = sum(each.position - bounds[each.partition].begin for each in owned) - unfinished
            pace.note(now_s, done)
            show(Sight(done, size, tally.ended, unfinished, pace.left_s(size - done), _waits_for(whole)))
        elif now_s - began_s > PATIENCE_S and not whole.engine.has_joined:
            note = "waiting for the group: a process of this run that was killed counts until its session is over"
            show(Sight(0, 0, 0, 0, None, note))
        await clock.sleep(LOOK_EVERY_S)


def _waits_for(whole: Assembled) -> str:
    if whole.engine.trouble:
        return f"Kafka: {whole.engine.trouble}"
    for name, sender in whole.live.items():
        status = sender.status()
        if status.state is not State.OPEN:
            return f"site {name} {status.state.value}: {status.reason}; nothing is lost"
        if status.quota is not QuotaState.STEADY and status.rate_per_s is not None:
            return f"site {name} throttled: gives way, at {status.rate_per_s:.3g}/s"
    return ""
