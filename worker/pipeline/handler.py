"""One record's fate: decode, map, hand its calls to the lanes, collect their outcomes, write what is dead.

`take` is the hot path. Most records end in it, wanted by no rule, and cost microseconds; nothing in it awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from worker.clock import Clock
from worker.delivery.deliveries import Delivery
from worker.errors import RecordError
from worker.gigya.calls import Call
from worker.kafka.progress import RULES_DIGITS
from worker.metrics import Metrics
from worker.model import Event, Json, Outcome, OutcomeKind, Record, RecordEnd, TopicPartition, place
from worker.pipeline.earlier import left_out
from worker.pipeline.flood_guard import Flood, FloodGuard
from worker.pipeline.ledger import Ledger
from worker.pipeline.letters import Letters, LetterWriter, blame
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.parking import PARKED, Parked, parked_outcome
from worker.pipeline.room import Room
from worker.pipeline.site_lanes import Job
from worker.pipeline.tickets import Ticket

log = structlog.get_logger(__name__)

# Enough of the rules' digest to tell two versions apart in a log line.
DIGEST_DIGITS = 12
# How many records are taken between two looks at the clock.
LOOK_EVERY = 16
_REASONS = {RecordEnd.FILTERED: "unwanted"}  # of the others the end says it all


class CallQueue(Protocol):
    """Where calls go to be made, in the order they are handed over for each user."""

    def join(self, job: Job) -> None: ...

    def withdraw(self, ticket: Ticket) -> list[Job]:
        """Take a record's calls back that are not in flight; those that are end by themselves, and soon."""
        ...


class Mapper(Protocol):
    """Turns events into calls. Pure: it may raise `RecordError`, and nothing else."""

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]: ...


class Handler:
    """Decides what becomes of each record. Used from one event loop."""

    def __init__(
        self,
        *,
        decode: Callable[[Record], tuple[Event, ...]],
        mapper: Mapper,
        rules_digest: str,
        queue: CallQueue | None = None,
        letters: LetterWriter,
        offsets: Offsets,
        ledger: Ledger,
        guard: FloodGuard,
        clock: Clock,
        metrics: Metrics,
        user_mark: Callable[[str, str], str],
        max_held_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._decode = decode
        self._mapper = mapper
        self._rules_digest = rules_digest
        self.queue = queue  # set by whoever wires handler and lanes, which need each other
        self._offsets = offsets
        self._ledger = ledger
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self._user_mark = user_mark
        self._counts = _Counts(metrics)
        self._log = log.bind()  # once: the proxy of the module binds anew for every line
        self._room = Room(max_held_bytes)
        self._letters = Letters(writer=letters, clock=clock, ended=self._end)
        self._number = 0
        self.commit_due = self._letters.commit_due
        self.changed = asyncio.Event()  # a record ended: there may be room, or something to commit
        self.tripped = asyncio.Event()  # the flood guard holds the worker
        self.released = asyncio.Event()  # it held, and an operator has let it go on
        self._refused: list[Ticket] = []  # by the guard: they ask again when it is released

    def use_rules(self, mapper: Mapper, digest: str, decode: Callable[[Record], tuple[Event, ...]]) -> None:
        """Read and map by other rules from the next record on. Records that have started keep the calls they have."""
        self._decode = decode
        self._mapper = mapper
        self._rules_digest = digest

    @property
    def rules_digest(self) -> str:
        """Return which rules the next record is mapped by."""
        return self._rules_digest

    def take(
        self, progress: PartitionProgress, records: Sequence[Record], begin: int, *, until_s: float, max_ahead: int
    ) -> int:
        """Take records from `records[begin]` on, until they, the slice of time, or the room are used up.

        Returns the index of the first record that was not taken. What is not wanted by any rule ends here.
        """
        decode, calls_of = self._decode, self._mapper.calls
        unwanted = empty = known = 0
        earlier = progress.earlier
        done = earlier.done if progress.position < earlier.done.end else None
        others = earlier.left_out if progress.position < earlier.left_out.end else None
        index = begin
        try:
            for index in range(begin, len(records)):
                record = records[index]
                if not index % LOOK_EVERY and self._is_enough(progress, record, until_s, max_ahead):
                    break
                if (done is not None and record.offset in done) or (others is not None and record.offset in others):
                    known += 1
                    continue
                try:
                    events = decode(record)
                    if len(events) == 1:
                        calls = calls_of(record, events[0])
                    else:
                        calls = tuple(call for event in events for call in calls_of(record, event))
                except RecordError as error:
                    self._start_dead(progress, record, error)
                    continue
                if calls:
                    if self._room.is_tight and not self.has_room(progress.partition):
                        break  # looked at for each: some records are a megabyte
                    self._start(progress, record, calls)
                elif record.offset in earlier.started and earlier.may_have_letter(record.offset):
                    self._start_unwanted(progress, record)
                elif events:
                    unwanted += 1
                else:
                    empty += 1
            else:
                index = len(records)
        finally:
            # Also when a bug raises: what was taken is counted, and the record that raised is not passed.
            if index > begin:
                progress.pass_to(records[index - 1].offset + 1)
                self._count(progress, index - begin, unwanted=unwanted, empty=empty, known=known)
        return index

    def _is_enough(self, progress: PartitionProgress, record: Record, until_s: float, max_ahead: int) -> bool:
        if self._clock.monotonic_s() >= until_s or not self.has_room(progress.partition) or self.tripped.is_set():
            return True
        if not progress.unfinished:
            return False
        # Counted to the record itself: with gaps (compaction) the position jumps.
        return record.offset - progress.committable >= max_ahead or not progress.has_words

    def _count(self, progress: PartitionProgress, taken: int, *, unwanted: int, empty: int, known: int) -> None:
        topic = progress.partition.topic
        self._metrics.records_read.labels(topic).inc(taken)
        self._ledger.read(progress.partition, taken)
        if known:
            self._ledger.already_done(progress.partition, known)
            self._metrics.records_ended.labels(topic, "already_done", "already_done").inc(known)
        for count, reason in ((unwanted, "unwanted"), (empty, "no_value")):
            if count:
                self._ledger.filtered(progress.partition, count, reason)
                self._metrics.records_ended.labels(topic, RecordEnd.FILTERED.value, reason).inc(count)

    def _start(self, progress: PartitionProgress, record: Record, calls: tuple[Call, ...]) -> None:
        ticket = self._ticket(progress, record, calls)
        queue = self.queue
        assert queue is not None  # noqa: S101  # wired before the first record is read
        offset, suspects, is_ended = record.offset, 0, True
        before = progress.earlier.calls(offset, ticket.rules_digest[:RULES_DIGITS], len(calls))
        if names := progress.earlier.left_out_calls.get(offset):
            before = [left_out(call.name, names, known) for call, known in zip(calls, before, strict=True)]
        for index, (call, known) in enumerate(zip(calls, before, strict=True)):
            if known.outcome is not None:
                ticket.call_ended(index, known.outcome)
                continue
            is_ended = False
            suspects += known.suspect
            delivery = Delivery(
                call=call,
                partition=progress.partition,
                offset=offset,
                timestamp_ms=record.timestamp,
                suspect=known.suspect,
            )
            ticket.deliveries[index] = delivery
            queue.join(Job(delivery, ticket, index))
        if suspects:
            ticket.has_suspects = True
            self._metrics.suspects.labels(progress.partition.topic).inc(suspects)
        if is_ended:
            self._conclude(ticket)

    def _start_unwanted(self, progress: PartitionProgress, record: Record) -> None:
        """Start a record that no rule wants, and of which there may be a dead letter from before: it goes first."""
        ticket = self._ticket(progress, record, ())
        self._guard.ended(ticket.number)
        self._letters.withdraw(ticket, RecordEnd.FILTERED)

    def _start_dead(self, progress: PartitionProgress, record: Record, error: RecordError) -> None:
        ticket = self._ticket(progress, record, ())
        ticket.error_reason, ticket.error_text = error.reason, error.text
        ticket.error_rule, ticket.error_parameter = error.rule, error.parameter
        self._conclude(ticket)

    def _ticket(self, progress: PartitionProgress, record: Record, calls: tuple[Call, ...]) -> Ticket:
        ticket = Ticket(
            record=record,
            partition=progress.partition,
            epoch=progress.epoch,
            number=self._number,
            started_s=self._clock.monotonic_s(),
            calls=calls,
            outcomes=[None] * len(calls),
            deliveries=[None] * len(calls),
            rules_digest=self._rules_digest,
            may_have_letter=progress.earlier.may_have_letter(record.offset),
        )
        self._number += 1
        progress.start(ticket)
        self._guard.started(ticket.number)
        self._room.take(progress.partition, ticket.size_bytes)
        return ticket

    def call_ended(self, job: Job, outcome: Outcome) -> None:
        """Note how a call ended; when it was its record's last, end the record."""
        ticket, call = job.ticket, job.delivery.call
        self._counts.call_ended(call.site, outcome)
        self._ledger.call_ended(outcome.kind, outcome.reason)
        if ticket.record.timestamp >= 0:
            age_s = self._clock.now_s() - ticket.record.timestamp / 1000
            self._counts.event_to_call(call.site, max(0.0, age_s))
        if ticket.call_ended(job.call_index, outcome):
            self._conclude(ticket)
        elif not ticket.is_void:
            self._offsets.changed(ticket)

    def _conclude(self, ticket: Ticket) -> None:
        end = ticket.end()
        if end is not RecordEnd.DEAD_LETTERED:
            self._guard.ended(ticket.number)
            if ticket.may_have_letter:
                self._letters.withdraw(ticket, end)
            else:
                self._end(ticket, end)
            return
        ticket.last_reason = "dead_letter"
        if ticket.parked is not None:
            self._guard.parked(ticket.number)
        if ticket.parked is not None or self._guard.died(ticket.number):
            self._letters.bury(ticket)
            self._offsets.changed(ticket)
        else:
            # Decided before the write: this record and all later ones stay unfinished, so that nothing is lost to a
            # topic of dead letters when the rules are mended.
            ticket.last_reason = "flood_guard"
            self._refused.append(ticket)
            self._trip()

    def _trip(self) -> None:
        flood = self._guard.flood
        if flood is not None and not self.tripped.is_set():
            self._metrics.flood_guard_held.set(1)
            self._log.error("flood_guard.held", reason=flood.reason, text=flood.text, remedy=flood.remedy)
            self.tripped.set()

    def resume(self) -> int:
        """Release the flood guard by an operator's word; return how many records asked again. It may hold again."""
        if self._guard.flood is None:
            return 0
        self._guard.resume()
        self._metrics.flood_guard_held.set(0)
        self.tripped.clear()
        again, self._refused = self._refused, []
        for ticket in again:
            self._conclude(ticket)
        self.released.set()
        self.changed.set()
        return len(again)

    def park(self, ticket: Ticket, parked: Parked) -> bool:
        """Turn an unfinished record into a dead letter as soon as no attempt of it is in flight; False: it is one.

        It counts for the flood guard neither as dead nor as a record. What its attempts in flight bring counts: if all
        calls end well, there is no letter.
        """
        if ticket.parked is not None or ticket in self._letters:
            return False
        ticket.parked = parked
        ticket.last_reason = PARKED
        if ticket in self._refused:
            self._refused.remove(ticket)
            self._conclude(ticket)
            return True
        queue = self.queue
        assert queue is not None  # noqa: S101  # wired before the first record is read
        for job in queue.withdraw(ticket):
            self.call_ended(job, parked_outcome(job.delivery, parked))
        return True

    async def run(self) -> None:
        """Write dead letters until cancelled. A letter that is being written when it is cancelled stays unfinished."""
        await self._letters.run()

    def named(self, tickets: Iterable[Ticket]) -> None:
        """Hear that the group's commit names these records: their dead letters may be written."""
        self._letters.named(tickets)

    def _end(self, ticket: Ticket, end: RecordEnd) -> None:
        """Let the offset pass this record. The one place where that happens for a record that was started."""
        ticket.is_ended = True
        self._room.give_back(ticket.partition, ticket.size_bytes)
        reason = blame(ticket)[0] if end is RecordEnd.DEAD_LETTERED else _REASONS.get(end, str(end))
        if not self._offsets.finish(ticket):
            return
        self._ledger.ended(ticket.partition, end, reason, epoch=ticket.epoch)
        topic = ticket.partition.topic
        self._counts.record_ended(topic, end, reason)
        self._log_end(ticket, end, reason)
        self.changed.set()

    def _log_end(self, ticket: Ticket, end: RecordEnd, reason: str) -> None:
        facts = {
            "end": str(end),  # `.value` of an enum costs several times as much, here and below
            "reason": reason,
            "record": place(ticket.record),
            "rules": ticket.rules_digest[:DIGEST_DIGITS],
            "seconds": round(self._clock.monotonic_s() - ticket.started_s, 4),
            "calls": [
                self._call_facts(call, outcome)
                for call, outcome in zip(ticket.calls, ticket.outcomes, strict=True)
                if outcome is not None
            ],
        }
        if ticket.error_text:
            facts["text"] = ticket.error_text
        if end is RecordEnd.DEAD_LETTERED:
            self._log.warning("record.dead_lettered", **facts)
        else:
            self._log.info("record.done", **facts)

    def _call_facts(self, call: Call, outcome: Outcome) -> dict[str, Json]:
        facts: dict[str, Json] = {
            "rule": call.name.rule,
            "site": call.site,
            "user": self._user_mark(call.site, call.uid),
            "outcome": str(outcome.kind),
            "reason": outcome.reason,
            "attempts": outcome.attempts,
        }
        if outcome.code:
            facts["code"] = outcome.code
        if outcome.call_id:
            facts["call_id"] = outcome.call_id
        if outcome.maybe_executed:
            facts["maybe_executed"] = True
        if outcome.details:
            facts["networks"] = dict(outcome.details)
        return facts

    def forget(self, tickets: Sequence[Ticket]) -> None:
        """Release what void tickets held; their partitions were revoked."""
        for ticket in tickets:
            if not ticket.is_ended:
                self._guard.forgotten(ticket.number)
                self._room.give_back(ticket.partition, ticket.size_bytes)
        self._letters.forget()
        self._refused = [ticket for ticket in self._refused if not ticket.is_void]

    @property
    def held_bytes(self) -> int:
        """Return what the records that are started and not ended occupy."""
        return self._room.held_bytes

    def has_room(self, partition: TopicPartition) -> bool:
        """Return whether another record of this partition may be started."""
        return self._room.has_for(partition, partitions=len(self._offsets))

    def user_of(self, ticket: Ticket) -> str:
        """Return the mark of the user of a record's first unfinished call; empty when it has none."""
        for call, outcome in zip(ticket.calls, ticket.outcomes, strict=True):
            if outcome is None:
                return self._user_mark(call.site, call.uid)
        return ""

    @property
    def flood(self) -> Flood | None:
        """Return why the flood guard holds the worker; None while it does not."""
        return self._guard.flood

    @property
    def letters_waiting(self) -> int:
        """Return how many records end by a write into the dead-letter topic that is not acknowledged yet."""
        return len(self._letters)

    def letters_under_way(self, partitions: set[TopicPartition]) -> bool:
        """Return whether dead letters of these partitions wait to be written or acknowledged."""
        return self._letters.are_under_way(partitions)


class _Counts:
    """The metrics of ended calls and records. What `labels` finds is kept: finding it costs more than counting."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._calls: dict[tuple[str, OutcomeKind, str], Callable[[], None]] = {}
        self._records: dict[tuple[str, RecordEnd, str], Callable[[], None]] = {}
        self._ages: dict[str, Callable[[float], None]] = {}

    def call_ended(self, site: str, outcome: Outcome) -> None:
        key = (site, outcome.kind, outcome.reason)
        count = self._calls.get(key)
        if count is None:
            count = self._calls[key] = self._metrics.calls_ended.labels(*key).inc
        count()

    def record_ended(self, topic: str, end: RecordEnd, reason: str) -> None:
        key = (topic, end, reason)
        count = self._records.get(key)
        if count is None:
            count = self._records[key] = self._metrics.records_ended.labels(*key).inc
        count()

    def event_to_call(self, site: str, age_s: float) -> None:
        observe = self._ages.get(site)
        if observe is None:
            observe = self._ages[site] = self._metrics.event_to_call_s.labels(site).observe
        observe(age_s)
