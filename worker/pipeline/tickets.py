"""A started record, until all its calls have an Outcome.

Pure: no I/O, no clock. A Ticket is made by the handler, kept by the offsets, and ended exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.delivery.deliveries import Delivery
from worker.gigya.calls import Call
from worker.kafka.progress import RULES_DIGITS, Mark, Started
from worker.model import Outcome, OutcomeKind, Record, RecordEnd, TopicPartition, place
from worker.pipeline.parking import Parked

# What a started record costs in memory beside its own bytes, by measurement with tracemalloc on CPython 3.11: the
# ticket, its place in the offsets, its calls with their parameters and their places in the lanes. Rounded up.
TICKET_BYTES = 1_000
CALL_BYTES = 2_500
HEADER_BYTES = 150  # the pair and its two objects
_MARKS = {
    OutcomeKind.DELIVERED: Mark.DELIVERED,
    OutcomeKind.CAPPED: Mark.CAPPED,
    OutcomeKind.STALE: Mark.STALE,
}


@dataclass(slots=True, eq=False)
class Ticket:
    """One started record.

    `calls` is in file order of the rules and may be empty only when the record could not become calls at all; then
    `error_reason` says why. `outcomes` has one place per call, None while that call has not ended.
    """

    record: Record
    partition: TopicPartition
    epoch: int  # which assignment of the partition this record was read under
    number: int  # counts started records of this process; their order
    started_s: float  # monotonic
    calls: tuple[Call, ...]
    outcomes: list[Outcome | None]
    rules_digest: str = ""  # of the one version of the rules that mapped it
    error_reason: str = ""
    error_text: str = ""
    error_rule: str = ""
    error_parameter: str = ""
    last_reason: str = "waiting"  # why it has not ended yet, for /status
    attempts: int = 0
    parked: Parked | None = None  # an operator wants it to become a dead letter
    deliveries: list[Delivery | None] = field(default_factory=list)  # one place per call; None: it had ended before
    ended_calls: int = 0
    may_have_letter: bool = False  # a dead letter of it may be in the topic: the group's commit says so
    has_suspects: bool = False  # an earlier process may have made some of its calls
    is_dying: bool = False  # it is to become a dead letter
    is_ended: bool = False
    is_void: bool = False  # its partition was revoked: whatever comes back for it is ignored

    @property
    def offset(self) -> int:
        """Return the record's offset."""
        return self.record.offset

    @property
    def size_bytes(self) -> int:
        """Return about what this record occupies until it has ended."""
        record = self.record
        size = TICKET_BYTES + len(self.calls) * CALL_BYTES + 2 * len(record.value or b"") + len(record.key or b"")
        if record.headers:  # anybody can write a megabyte there
            size += sum(HEADER_BYTES + len(name) + len(value or b"") for name, value in record.headers)
        return size

    def call_ended(self, index: int, outcome: Outcome) -> bool:
        """Note the end of one call; return whether it was the last one."""
        if self.outcomes[index] is not None:
            raise AssertionError(f"call {index} of {place(self.record)} ended twice")
        self.outcomes[index] = outcome
        self.ended_calls += 1
        return all(outcome is not None for outcome in self.outcomes)

    def told(self, *, is_final: bool, has_letter: bool) -> Started | None:
        """Return what a commit says of this unfinished record beside its offset; None: nothing.

        `has_letter`: a dead letter of it may be in the topic, or may be written once this commit is acknowledged.
        `is_final`: no attempt will be made before the next commit, so that the calls that may have been executed are
        these and no others. Else they are all those below the horizon, and need not be named.
        """
        marks = [_mark(outcome) for outcome in self.outcomes]
        if is_final:
            for index, delivery in enumerate(self.deliveries):
                if marks[index] is Mark.OPEN and delivery is not None and _is_unsure(delivery):
                    marks[index] = Mark.SUSPECT
        calls = tuple(marks) if any(mark is not Mark.OPEN for mark in marks) else ()
        return Started(self.rules_digest[:RULES_DIGITS], calls, has_letter) if calls or has_letter else None

    def blamed_call(self) -> int | None:
        """Return the index of the first call for which the record must become a dead letter; None if none."""
        for index, (call, outcome) in enumerate(zip(self.calls, self.outcomes, strict=True)):
            if outcome is not None and (outcome.kind is OutcomeKind.FAILED or outcome.kind in call.dead_letter_on):
                return index
        return None

    def end(self) -> RecordEnd:
        """Return how the record ends, given that all its calls have ended.

        Any call failed (or ended in a way its rule wants kept): dead-lettered; else all stale: stale; else done.
        """
        if self.error_reason or self.blamed_call() is not None:
            return RecordEnd.DEAD_LETTERED
        if all(outcome is not None and outcome.kind is OutcomeKind.STALE for outcome in self.outcomes):
            return RecordEnd.STALE
        return RecordEnd.DONE


def _mark(outcome: Outcome | None) -> Mark:
    """Return what is kept of a call's end: a failed one, and one whose end is not sure, are found out anew."""
    if outcome is None or (outcome.maybe_executed and outcome.kind is not OutcomeKind.DELIVERED):
        return Mark.OPEN
    return _MARKS.get(outcome.kind, Mark.OPEN)


def _is_unsure(delivery: Delivery) -> bool:
    return delivery.may_be_executed or (delivery.suspect and not delivery.attempts)
