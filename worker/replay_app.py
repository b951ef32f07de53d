"""`dead-letters replay`: the calls of dead letters through the lanes and senders of `run`. Wiring, beside `app`.

One replay of a group at a time: it is the only member of `<group>.replay`. Two of them would make the same calls twice,
and neither order nor evidence would hold.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from worker.clock import SystemClock
from worker.deadletters.record import DeadLetter
from worker.deadletters.replays import Begun, mark_key, resolved_headers
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.evidence import SLACK_S
from worker.delivery.sender import Sender
from worker.delivery.site_state import State
from worker.errors import StartFailed
from worker.gigya.calls import Call
from worker.kafka.client import KafkaProducer, check_cluster
from worker.kafka.groups import GroupView
from worker.kafka.ranges import RangeReader, Span
from worker.kafka.runs import commits_of
from worker.kafka.settings import KafkaSettings
from worker.kafka.sole import SoleMember
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.metrics import Metrics
from worker.model import Record, TopicPartition
from worker.pipeline.lanes import Lanes
from worker.reprocess.choosing import Choice, Reading, Unclear
from worker.reprocess.index import Index
from worker.reprocess.plan import Decision, Fate, LeftOut, Tally, Terms, decide
from worker.reprocess.reading import Found, in_order, made_since, scan
from worker.reprocess.references import References
from worker.reprocess.replayer import Ended, Given, Replayer, Result, window_of
from worker.reprocess.standing import Hands, Interrupted, rest_of, run_group
from worker.settings.rotation import KeyWatch
from worker.settings.site_files import credentials_of
from worker.settings.tree import Loaded, Settings
from worker.signals import run_until_told
from worker.wiring import open_producer, open_senders, user_marks

log = structlog.get_logger(__name__)

GROUP_SUFFIX = ".replay"
LOOK_EVERY_S = 0.5
# A site that refuses us for so long ends the replay: whoever started it is to hear of it, and nothing is lost.
STOPPED_FOR_S = 60.0
# Whoever presses Ctrl-C waits for what is in flight; the marks of the rest are taken back, and the next one makes it.
DRAIN_S = 1.0
FOREVER = 2**62
DISCARDED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Errand:
    """A replay as it was asked for."""

    choice: Choice
    terms: Terms
    rates_per_s: Mapping[str, float | None]
    by: str
    limit_s: float = 600.0  # for reading the topic
    max_bytes: int = 64 * 1024 * 1024
    is_sole_writer: bool = False  # nobody else notifies the same actions of the same users meanwhile


@dataclass(frozen=True, slots=True)
class Sight:
    """How far a replay has come."""

    done: int
    of: int
    calls: int
    what: str  # what it does, or waits for


@dataclass(slots=True)
class Report:
    """What a replay has done."""

    plan: Tally
    ended: Ended | None  # None: a second signal cancelled it
    result: Result
    trouble: str = ""
    unclear: Unclear = field(default_factory=Unclear)


Show = Callable[[Sight], None]
Shown = Callable[[Tally], None]


@dataclass(frozen=True, slots=True)
class _Found:
    """Everything that is known before a call is made."""

    reader: RangeReader
    found: Found
    rows: Sequence[int]
    hands: Hands
    rest: str
    rest_s: float


async def preview(settings: Settings, rules: RuleSet, errand: Errand, *, show: Show) -> tuple[Tally, Unclear]:
    """Return what a replay would do. Sends nothing, joins nothing. Raises StartFailed, NoSuchGroup."""
    async with RangeReader.opened(settings.kafka) as reader:
        before = await _look(settings, rules, errand, reader, show)
        tally = await _planned(before, Mapper(rules), errand, settings, show)
        return tally, before.found.unclear


async def run(
    loaded: Loaded, rules: RuleSet, errand: Errand, *, shown: Shown, show: Show, reread: Callable[[], Loaded] | None
) -> Report:
    """Replay until all is done, or somebody says stop. `shown` is told the plan before the first call.

    Raises StartFailed, also where another replay runs; nothing was sent then.
    """
    settings, clock = loaded.settings, SystemClock()
    await check_cluster(settings.kafka)
    ending = _Ending()
    drain_s = settings.delivery.drain_s + settings.delivery.attempt_timeout_s
    sole = SoleMember(
        _replay_group(settings.kafka),
        settings.kafka.dead_letter_topic,
        drain_s=drain_s,
        clock=clock,
        ousted=ending.oust,
    )
    waiting = lambda: show(Sight(0, 0, 0, "waiting: an earlier replay is still a member of its group"))  # noqa: E731
    async with (
        sole.joined(wait_s=settings.kafka.session_timeout_s + 5.0, waiting=waiting),
        RangeReader.opened(settings.kafka) as reader,
    ):
        before = await _look(settings, rules, errand, reader, show)
        plan = await _planned(before, Mapper(rules), errand, settings, show)
        shown(plan)
        if not plan.calls_to_make + plan.fates[Fate.RESOLVED] + plan.fates[Fate.FAILS]:
            return Report(plan, Ended.DONE, Result(left=plan.letters), unclear=before.found.unclear)
        return await _replayed(loaded, rules, errand, before, plan, sole, ending, clock, show, reread)


def _replay_group(kafka: KafkaSettings) -> KafkaSettings:
    return kafka.model_copy(update={"group_id": kafka.group_id + GROUP_SUFFIX})


class _Ending:
    """Lets whoever must end the replay do so, and wait for it."""

    def __init__(self) -> None:
        self.replayer: Replayer | None = None
        self.is_over = asyncio.Event()
        self.trouble = ""

    def because(self, trouble: str) -> None:
        self.trouble = self.trouble or trouble
        if self.replayer is not None:
            self.replayer.stop()

    async def oust(self) -> None:
        self.because("another replay has begun, or the group could not be kept; nothing is lost: say the same again")
        if self.replayer is not None:
            await self.is_over.wait()


# --- before a call is made ------------------------------------------------------------------------------------------


async def _look(settings: Settings, rules: RuleSet, errand: Errand, reader: RangeReader, show: Show) -> _Found:
    rest_s = SystemClock().now_s()
    kafka = settings.kafka
    async with GroupView.opened(kafka) as view:
        names = await view.beginning_with(run_group(kafka.group_id, "any").removesuffix("any"))
    commits = {name: await commits_of(kafka, name) for name in _groups_of(kafka.group_id, names)}
    rest = rest_of(kafka.group_id, commits, await _spans(reader, kafka.topics))
    found = await scan(
        reader,
        kafka.dead_letter_topic,
        errand.choice,
        Reading(rules, Mapper(rules).decode),
        limit_s=errand.limit_s,
        progress=lambda done, total: show(Sight(done, total, 0, "reading")),
    )
    index = found.index
    by_run = {origin.run: commits.get(run_group(kafka.group_id, origin.run), {}) for origin in index.origins}
    return _Found(reader, found, index.in_original_order(index.rows()), Hands(by_run), rest, rest_s)


def _groups_of(group: str, names: Sequence[str]) -> list[str]:
    """Return the live group and those of its backfills."""
    return sorted({group, *names})


async def _spans(reader: RangeReader, topics: Sequence[str]) -> Mapping[TopicPartition, Span]:
    found: dict[TopicPartition, Span] = {}
    for topic in topics:
        try:
            found |= await reader.spans([topic])
        except StartFailed:  # a topic that is gone moves no more
            continue
    return found


async def _planned(before: _Found, mapper: Mapper, errand: Errand, settings: Settings, show: Show) -> Tally:
    tally = Tally()
    async for given in _given(before, mapper, errand, tally):
        tally.add(given.decision, is_suspect=given.is_suspect)
        if tally.letters % 500 == 0:
            show(Sight(tally.letters, len(before.rows), tally.calls_to_make, "planning"))
            await asyncio.sleep(0)
    return tally


async def _given(before: _Found, mapper: Mapper, errand: Errand, tally: Tally | None = None) -> AsyncIterator[Given]:
    """Yield what is done with each letter, in the original order."""
    index, unclear = before.found.index, before.found.unclear
    topic = before.found.topic
    references = References(before.reader)
    portions = in_order(before.reader, topic, index, before.rows, unclear, max_bytes=errand.max_bytes)
    async for portion in portions:
        restored = await references.restored([each for _, each in portion if each is not None and each.reference])
        for row, letter in portion:
            if letter is None:
                if tally is not None:
                    tally.changed += 1
                continue
            yield Given(
                _decided(before, index, row, letter, restored, mapper, errand), _is_suspect(before.found, letter)
            )


def _decided(
    before: _Found,
    index: Index,
    row: int,
    letter: DeadLetter,
    restored: Mapping[bytes, DeadLetter],
    mapper: Mapper,
    errand: Errand,
) -> Decision:
    origin, partition, offset = index.origin(row)
    if before.hands.hold(origin.run, partition, offset):
        return Decision(letter, Fate.LEFT_OUT, LeftOut.NOT_COMMITTED)
    if letter.reference is not None:
        if letter.key not in restored:
            return Decision(letter, Fate.LEFT_OUT, LeftOut.REFERENCE_GONE)
        letter = restored[letter.key]

    def calls_of(record: Record) -> tuple[Call, ...]:
        return tuple(call for event in mapper.decode(record) for call in mapper.calls(record, event))

    return decide(letter, calls_of, errand.terms)


def _is_suspect(found: Found, letter: DeadLetter) -> bool:
    mark = found.marks.get(letter.key)
    return mark is not None and mark.generation == letter.generation


# --- making calls ---------------------------------------------------------------------------------------------------


async def _replayed(
    loaded: Loaded,
    rules: RuleSet,
    errand: Errand,
    before: _Found,
    plan: Tally,
    sole: SoleMember,
    ending: _Ending,
    clock: SystemClock,
    show: Show,
    reread: Callable[[], Loaded] | None,
) -> Report:
    settings, metrics = loaded.settings, Metrics()
    credentials = {name: credentials_of(site) for name, site in settings.sites.items()}
    marks = user_marks(credentials)
    watch = KeyWatch(loaded, credentials, reread, clock=clock, metrics=metrics) if reread is not None else None
    # Beside a worker that has something to do, an entry of the action log may be his.
    others = None if before.rest or errand.is_sole_writer else True
    rates = errand.rates_per_s
    async with (
        open_senders(settings, credentials, clock, metrics, marks, rates_per_s=rates, other_writers=others) as senders,
        open_producer(settings) as producer,
    ):
        attempt_s = settings.delivery.attempt_timeout_s
        for sender in senders.values():
            sender.may_write = lambda: clock.monotonic_s() + attempt_s < sole.lease_valid_until_s()
        store = _store(settings, producer, clock, metrics)
        replayer = Replayer(
            store=store,
            clock=clock,
            rules_digest=rules.digest,
            begun=lambda letter: _begun(letter, before, senders, clock),
            site_now_s=lambda site: clock.now_s() + senders[site].status().clock_offset_s,
            is_ours=lambda: clock.monotonic_s() < sole.lease_valid_until_s(),
            by=errand.by,
            window=window_of(rates.values()),
            max_failing=settings.flood_guard.max_run,
        )
        lanes = Lanes(senders, max_in_flight=settings.delivery.max_in_flight, clock=clock, ended=replayer.call_ended)
        replayer.lanes, ending.replayer = lanes, replayer
        await _recall(before, senders, errand, settings, clock)
        beside = {f"site-{name}": sender.run() for name, sender in senders.items()}
        beside["progress"] = _watched(replayer, len(before.rows), senders, ending, clock, show)
        if watch is not None:
            beside["key-watch"] = watch.run(senders)
        engine = _AsEngine(
            replayer, _given(before, Mapper(rules), errand), min(DRAIN_S, settings.delivery.drain_s), ending
        )
        ended = await run_until_told(engine, beside, hangup=watch.look_now if watch is not None else None)
        return Report(plan, ended, replayer.result, ending.trouble, before.found.unclear)


@dataclass(frozen=True, slots=True)
class _AsEngine:
    """A replay as something that runs until it is told to stop."""

    replayer: Replayer
    letters: AsyncIterator[Given]
    drain_s: float
    ending: _Ending

    async def run(self) -> Ended:
        try:
            return await self.replayer.run(self.letters, drain_s=self.drain_s)
        finally:
            self.ending.is_over.set()

    def stop(self) -> None:
        self.replayer.stop()


def _store(settings: Settings, producer: KafkaProducer, clock: SystemClock, metrics: Metrics) -> DeadLetterWriter:
    topic = settings.kafka.dead_letter_topic
    return DeadLetterWriter(topic=topic, producer=producer, clock=clock, rng=random.Random(), metrics=metrics)


def _begun(letter: DeadLetter, before: _Found, senders: Mapping[str, Sender], clock: SystemClock) -> Begun:
    known = [offset for sender in senders.values() if (offset := sender.status().clock_offset_s)]
    ahead_s = sum(known) / len(known) if known else None
    return Begun(letter.generation, clock.now_s(), before.rest, before.rest_s, ahead_s)


async def _recall(
    before: _Found, senders: Mapping[str, Sender], errand: Errand, settings: Settings, clock: SystemClock
) -> None:
    """Tell the ladders what an interrupted replay may have made; and wait until entries of now can be told from its."""
    index, marks = before.found.index, []
    partitions: set[TopicPartition] = set()
    all_chosen = True
    for key, mark in before.found.marks.items():
        row = index.row_of(key)
        if row is not None and index.generation(row) == mark.generation:
            marks.append(mark)
            all_chosen &= index.is_chosen(row)
            partitions.add(index.origin(row)[1])
    if marks:
        earlier, now_s = Interrupted(tuple(marks), all_chosen), clock.now_s()
        made = None
        if earlier.is_told(before.rest, now_s, is_sole_writer=errand.is_sole_writer):
            since_ms = round((earlier.since_s - 60.0) * 1000)
            made = await made_since(before.reader, settings.kafka.dead_letter_topic, since_ms)
        for name, sender in senders.items():
            recent = earlier.recent(name, made, now_s)
            for number, partition in enumerate(sorted(partitions)):
                if number:  # what was executed is told once: the ladder puts together what it hears of all partitions
                    recent = replace(recent, executed=(), possible=())
                sender.ladder.recall(partition, recent, suspects_below=FOREVER, ends_are_known=True)
    elif before.rest:
        # Should this process die, what others made before is not to be taken for what it made.
        await clock.sleep(max(0.0, before.rest_s + SLACK_S + 1.0 - clock.now_s()))


async def _watched(
    replayer: Replayer, of: int, senders: Mapping[str, Sender], ending: _Ending, clock: SystemClock, show: Show
) -> None:
    """Show how far it has come, until cancelled; end it where a site refuses us for long."""
    stopped_since_s: float | None = None
    while True:
        what, is_stopped = "replaying", False
        for name, sender in senders.items():
            status = sender.status()
            if status.state is not State.OPEN:
                what = f"site {name} {status.state.value}: {status.reason}; nothing is lost"
                is_stopped |= status.state is State.STOPPED
                remedy = status.remedy
        now_s = clock.monotonic_s()
        stopped_since_s = (stopped_since_s or now_s) if is_stopped else None
        if stopped_since_s is not None and now_s - stopped_since_s > STOPPED_FOR_S:
            ending.because(f"{what}. {remedy}")
        show(Sight(replayer.done, of, sum(replayer.result.outcomes.values()), what))
        await clock.sleep(LOOK_EVERY_S)


# --- discarding -----------------------------------------------------------------------------------------------------


async def discard(
    settings: Settings,
    errand: Errand,
    reading: Reading,
    *,
    places: Sequence[str],
    why: str,
    agreed: Callable[[Index, Sequence[int]], bool],
    show: Show,
) -> int:
    """Write a tombstone for each letter that is meant, once `agreed` says so of all; return how many.

    As the only member of the replays' group: a letter that a replay is at would come back. Raises StartFailed.
    """
    clock, kafka = SystemClock(), settings.kafka
    sole = SoleMember(_replay_group(kafka), kafka.dead_letter_topic, drain_s=5.0, clock=clock, ousted=_nothing_to_end)
    waiting = lambda: show(Sight(0, 0, 0, "waiting: a replay is a member of its group"))  # noqa: E731
    async with (
        sole.joined(wait_s=kafka.session_timeout_s + 5.0, waiting=waiting),
        RangeReader.opened(kafka) as reader,
        open_producer(settings) as producer,
    ):
        progress = lambda done, total: show(Sight(done, total, 0, "reading"))  # noqa: E731
        topic = kafka.dead_letter_topic
        found = await scan(reader, topic, errand.choice, reading, limit_s=errand.limit_s, progress=progress)
        index, wanted = found.index, set(places)
        rows = [row for row in index.rows() if not wanted or index.place(row) in wanted]
        if not rows or not agreed(index, rows):
            return 0
        store = _store(settings, producer, clock, Metrics())
        headers = resolved_headers("discard", by=errand.by, why=why, now_s=clock.now_s())
        for start in range(0, len(rows), DISCARDED_AT_ONCE):
            if clock.monotonic_s() >= sole.lease_valid_until_s():
                raise StartFailed("the group of replays could not be kept; say the same again for the letters left")
            keys = [
                index.place(row).encode("utf-8", "surrogateescape") for row in rows[start : start + DISCARDED_AT_ONCE]
            ]
            await asyncio.gather(*(store.put(key, None, headers) for key in keys))
            marked = [key for key in keys if key in found.marks]
            await asyncio.gather(*(store.put(mark_key(key), None, ()) for key in marked))
            show(Sight(start + len(keys), len(rows), 0, "discarding"))
        return len(rows)


async def _nothing_to_end() -> None:
    """Tombstones that are under way are as good as those before them."""
