"""Dead letters on their way: named by a commit, written, acknowledged; only then does their record end.

A process can die between the write of a letter and the commit that passes its record. The next one may find that the
record needs no letter any more: the rules are mended, the user exists now. So no letter is written before a commit that
names its record is acknowledged, and a record that is so named and ends otherwise has its letter withdrawn first: what
stands in the dead-letter topic is true, also after a crash at any moment, and nothing is withdrawn that never was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Protocol

from worker.clock import Clock
from worker.deadletters.ends import CallEnd
from worker.deadletters.record import DeadLetter, fingerprint
from worker.model import Record, RecordEnd, TopicPartition, place
from worker.pipeline.tickets import Ticket

# Writes under way at once. The broker acknowledges in milliseconds; a flood is stopped by the guard, not here.
LETTERS_IN_FLIGHT = 32


class LetterWriter(Protocol):
    """Writes dead letters durably."""

    async def write(self, letter: DeadLetter) -> None:
        """Return when the letter is acknowledged; retries for ever, so that no offset moves without it."""
        ...

    async def withdraw(self, record: Record) -> None:
        """Return when a tombstone for the letter of this record is acknowledged; retries for ever, too."""
        ...


class Letters:
    """The records that end by a write into the dead-letter topic. Used from one event loop."""

    def __init__(self, *, writer: LetterWriter, clock: Clock, ended: Callable[[Ticket, RecordEnd], None]) -> None:
        """`ended` is told of every record whose write is acknowledged, unless it was revoked meanwhile."""
        self._writer = writer
        self._clock = clock
        self._ended = ended
        self._unnamed: dict[Ticket, None] = {}
        self._waiting: deque[tuple[Ticket, RecordEnd]] = deque()
        self._has_work = asyncio.Event()
        self._writing: dict[Ticket, asyncio.Task[None]] = {}
        self.commit_due = asyncio.Event()  # a record is to be named, or its offset may pass: not in a second, but now

    def __len__(self) -> int:
        """Return how many records wait to be named, to be written, or for the acknowledgement."""
        return len(self._unnamed) + len(self._waiting) + len(self._writing)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._unnamed or ticket in self._writing or any(each is ticket for each, _ in self._waiting)

    def bury(self, ticket: Ticket) -> None:
        """End a record by a dead letter."""
        ticket.is_dying = True
        if ticket.may_have_letter:
            self._enqueue(ticket, RecordEnd.DEAD_LETTERED)
        else:
            self._unnamed[ticket] = None
            self.commit_due.set()

    def withdraw(self, ticket: Ticket, end: RecordEnd) -> None:
        """End a record otherwise, of which there may be a dead letter from before a restart."""
        self._enqueue(ticket, end)

    def named(self, tickets: Iterable[Ticket]) -> None:
        """Hear that the group's commit names these records: their letters may be written."""
        for ticket in tickets:
            if ticket in self._unnamed:
                del self._unnamed[ticket]
                self._enqueue(ticket, RecordEnd.DEAD_LETTERED)

    def _enqueue(self, ticket: Ticket, end: RecordEnd) -> None:
        self._waiting.append((ticket, end))
        self._has_work.set()

    async def run(self) -> None:
        """Write until cancelled. A letter that is being written when it is cancelled stays unfinished."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(LETTERS_IN_FLIGHT):
                tasks.create_task(self._write_each(), name=f"dead-letters-{number}")

    async def _write_each(self) -> None:
        while True:
            while not self._waiting:
                self._has_work.clear()
                await self._has_work.wait()
            ticket, end = self._waiting.popleft()
            if ticket.is_void:
                continue
            is_letter = end is RecordEnd.DEAD_LETTERED
            write = self._write(ticket) if is_letter else self._withdraw(ticket)
            if await self._is_done(ticket, write):
                self._ended(ticket, end)
                self.commit_due.set()

    async def _is_done(self, ticket: Ticket, write: Coroutine[None, None, None]) -> bool:
        """Return whether the write is acknowledged, and the record still ours.

        A write that its record's revocation overtakes is given up: its letter would outlive its reason, and keep a
        place from letters that are wanted.
        """
        writing = self._writing[ticket] = asyncio.create_task(write)
        try:
            await asyncio.wait({writing})
            if not ticket.is_void:
                writing.result()
        finally:
            writing.cancel()
            del self._writing[ticket]
        return not ticket.is_void

    async def _write(self, ticket: Ticket) -> None:
        now_s = self._clock.now_s()
        first_s = now_s - (self._clock.monotonic_s() - ticket.started_s)
        await self._writer.write(letter_of(ticket, first_s=first_s, last_s=now_s))

    async def _withdraw(self, ticket: Ticket) -> None:
        await self._writer.withdraw(ticket.record)

    def forget(self) -> None:
        """Give up what is void."""
        self._unnamed = {ticket: None for ticket in self._unnamed if not ticket.is_void}
        self._waiting = deque((ticket, end) for ticket, end in self._waiting if not ticket.is_void)
        for ticket, writing in self._writing.items():
            if ticket.is_void:
                writing.cancel()

    def are_under_way(self, partitions: Collection[TopicPartition]) -> bool:
        """Return whether records of these partitions wait to be named, or for a write or its acknowledgement."""
        if self._writing:
            return True
        return any(ticket.partition in partitions for ticket in [*self._unnamed, *(each for each, _ in self._waiting)])


def letter_of(ticket: Ticket, *, first_s: float, last_s: float) -> DeadLetter:
    """Return the letter of a record all of whose calls have ended, or that could not become calls."""
    reason, text, site, code, rule, parameter = blame(ticket)
    return DeadLetter(
        record=ticket.record,
        reason=reason,
        text=text,
        fingerprint=fingerprint(reason=reason, code=code, rule=rule, parameter=parameter, text=text),
        calls=tuple(
            CallEnd(call.name, outcome)
            for call, outcome in zip(ticket.calls, ticket.outcomes, strict=True)
            if outcome is not None
        ),
        site=site,
        first_s=first_s,
        last_s=last_s,
        rules_digest=ticket.rules_digest,
        code=code,
        rule=rule,
        parameter=parameter,
    )


def blame(ticket: Ticket) -> tuple[str, str, str, int | None, str, str]:
    """Return reason, text, site, code, rule and parameter of what made this record a dead letter."""
    if ticket.error_reason:
        return ticket.error_reason, ticket.error_text, "", None, ticket.error_rule, ticket.error_parameter
    index = ticket.blamed_call()
    if index is None:
        raise AssertionError(f"{place(ticket.record)} is no dead letter")
    call, outcome = ticket.calls[index], ticket.outcomes[index]
    assert outcome is not None  # noqa: S101  # blamed_call looks at ended calls only
    return outcome.reason, outcome.text, call.site, outcome.code, call.name.rule, ""
