"""Which offsets may be committed, given what has finished so far.

Kafka stores one number per partition and group: everything below it is done. Records finish here out of order, so this
module remembers what is unfinished. Records that nobody wants are the most of a stream and leave no trace at all: what
is not unfinished and lies below the position is done.

Pure: no I/O, no clock, no tasks. Use one instance from one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from worker.kafka.progress import ROOM_BITS, Note, Progress, Started, fit, worst_bits, worst_bits_of_calls
from worker.kafka.source import Position
from worker.model import TopicPartition
from worker.pipeline.earlier import Earlier
from worker.pipeline.horizon import Heads, Horizon
from worker.pipeline.tickets import Ticket

NOBODY = Earlier()
# Records of one partition that a commit names as having, or about to have, a dead letter. All of them could be
# thousands, made anew with every commit; and those that are written already must never be crowded out by new ones.
NAMED_AT_ONCE = 100
LeftBehind: TypeAlias = Callable[[TopicPartition, int, int], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Commit:
    """What is to be committed for one partition, and what follows once it is acknowledged."""

    position: Position
    epoch: int
    horizon: int  # calls of records below it may be attempted then
    dying: tuple[Ticket, ...]  # records that it names: their dead letters may be written then
    state: tuple[object, ...]  # of which it was made


class PartitionProgress:
    """What is known of one partition under one assignment.

    Offsets must be started in ascending order; holes (compaction, transaction markers) are fine, because only offsets
    that were really started are waited for.
    """

    __slots__ = (
        "_call_bits",
        "_changes",
        "_order",
        "_several",
        "_state",
        "committed",
        "earlier",
        "epoch",
        "horizon",
        "is_closing",
        "is_drained",
        "metadata",
        "partition",
        "position",
        "unfinished",
    )

    def __init__(
        self, partition: TopicPartition, epoch: int, position: int, earlier: Earlier = NOBODY, now_s: float = 0.0
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.position = position  # one above the highest offset taken: everything below is started or done
        self.committed = position  # what Kafka has, as far as we know
        self.metadata = ""  # what the last commit that was acknowledged said beside it; empty: not known
        self.is_closing = False  # revocation has begun: nothing more is taken
        self.is_drained = False  # ... and no attempt is in flight, and none will be made
        self.earlier = earlier
        self.horizon = Horizon(earlier.horizon, position, now_s)
        self.unfinished: dict[int, Ticket] = {}
        # Offsets in the order they were started; the front may be finished already. Beside the dict, because finding
        # a dict's first key costs a walk over all keys that were deleted before it.
        self._order: deque[int] = deque()
        self._changes = 0
        self._state: tuple[object, ...] = ()  # of which the last acknowledged commit was made
        self._several = 0  # unfinished records of several calls
        self._call_bits = 0  # what the marks of these calls can come to

    def start(self, ticket: Ticket) -> None:
        """Note that work on this record has begun; it now holds the commit back."""
        offset = ticket.offset
        if offset < self.position:
            raise AssertionError(f"{self.partition}/{offset} started again, or out of order, below {self.position}")
        self._order.append(offset)
        self.unfinished[offset] = ticket
        self.position = offset + 1
        if len(ticket.calls) > 1:
            self._several += 1
            self._call_bits += worst_bits_of_calls(len(ticket.calls))
        self._changes += 1

    def pass_to(self, position: int) -> None:
        """Note that everything below `position` was taken: what was not started needed no work."""
        self.position = max(self.position, position)

    def finish(self, ticket: Ticket) -> bool:
        """Note that a record needs no more work; False for a ticket of an earlier assignment.

        Such a record must not move this partition's offset: it may have a new owner who has not read it.
        """
        if ticket.epoch != self.epoch:
            return False
        if self.unfinished.pop(ticket.offset, None) is None:
            return False
        if len(ticket.calls) > 1:
            self._several -= 1
            self._call_bits -= worst_bits_of_calls(len(ticket.calls))
        self._changes += 1
        return True

    def changed(self) -> None:
        """Note that the next commit has more to say of a record that is unfinished."""
        self._changes += 1

    @property
    def has_words(self) -> bool:
        """Return whether a commit can tell all, whatever ends next, should a further record be started."""
        end = self.earlier.done.end
        span = max(self.position, end) - self.committable
        runs = 2 * len(self.unfinished) + 3 + (2 * len(self.earlier.done.runs) if self.position < end else 0)
        bits = worst_bits(span + 1, runs) + worst_bits(span + 1, self._several + 1) + self._call_bits
        return bits <= ROOM_BITS

    def told(self, horizon: int) -> Progress:
        """Return what the commit of this moment says."""
        base = at = self.committable
        done: list[range] = []
        started: dict[int, Started] = {}
        named = self._named()
        for offset, ticket in self.unfinished.items():
            if offset > at:
                done.append(range(at, offset))
            at = offset + 1
            has_letter = offset in named
            # What was suspect before and lies behind our horizon has not been decided: it is named, as it was to us.
            is_final = self.is_drained or (ticket.has_suspects and offset >= horizon)
            if ticket.ended_calls or has_letter or is_final:
                told = ticket.told(is_final=is_final, has_letter=has_letter)
                if told is not None:
                    started[offset] = told
        if at < self.position:
            done.append(range(at, self.position))
        earlier = self.earlier
        for run in earlier.done.runs_from(self.position):
            if done and done[-1].stop == run.start:
                run = range(done.pop().start, run.stop)  # one run
            done.append(run)
        started |= {offset: each for offset, each in earlier.started.items() if offset >= self.position}
        return Progress(base, horizon, earlier.letters_below, tuple(done), started, bounds=earlier.bounds)

    def _named(self) -> set[int]:
        """Return the offsets of which a commit says that there may be a dead letter, or will be when it has arrived.

        Those below `letters_below` need no name. What an earlier owner named, and that lives, takes nobody's place.
        """
        dying = [ticket for ticket in self.unfinished.values() if ticket.is_dying]
        new = [ticket.offset for ticket in dying if not ticket.may_have_letter]
        below = self.earlier.letters_below
        known = {offset for offset, ticket in self.unfinished.items() if ticket.may_have_letter and offset >= below}
        return known.union(new[: max(0, NAMED_AT_ONCE - (len(dying) - len(new)))])

    def due(
        self,
        note: Note,
        heads: Callable[[TopicPartition], Heads],
        now_s: float,
        left: LeftBehind,
        left_serial: int = 0,
    ) -> Commit | None:
        """Return the commit that is due; None if the last one says the same."""
        watermark = self.committable
        if self.is_drained:
            # Nothing more is attempted: what may have been executed is named. But what earlier owners may have made
            # and has not been read yet is known by the horizon alone.
            horizon = self._earlier_horizon if self.position < self._earlier_horizon else watermark
        else:
            calls = ((offset, len(ticket.calls) - ticket.ended_calls) for offset, ticket in self.unfinished.items())
            proposed = self.horizon.propose(calls, heads(self.partition), self.position, now_s)
            horizon = max(proposed, self._earlier_horizon)
        state = (self._changes, watermark, self.position, horizon, self.is_drained, note, left_serial)
        if state == self._state:
            return None
        metadata, told = fit(note, self.told(horizon), left=lambda room: left(self.partition, watermark, room))
        if (watermark, metadata) == (self.committed, self.metadata):
            self._state = state
            return None
        named = (self.unfinished.get(offset) for offset, each in told.started.items() if each.has_letter)
        dying = tuple(ticket for ticket in named if ticket is not None and ticket.is_dying)
        self.horizon.sent(horizon)
        self.metadata, self._state = "", ()  # whether it arrives or not: until that is known, another one is due
        return Commit(Position(watermark, metadata), self.epoch, horizon, dying, state)

    @property
    def _earlier_horizon(self) -> int:
        """Return below which calls may have been made by earlier owners, as long as not all of them have ended."""
        below = self.earlier.suspect_below
        return below if below > self.committable else 0

    def acknowledged(self, commit: Commit, *, implied_to: int | None) -> list[Ticket]:
        """Note what Kafka confirmed; return the records whose letters may be written now.

        `implied_to`: the metadata was not kept; the next owner will take all below this offset for suspect.
        """
        self.committed = max(self.committed, commit.position.offset)
        self.metadata, self._state = commit.position.metadata, commit.state
        self.horizon.acknowledged(commit.horizon if implied_to is None else implied_to)
        named = [
            ticket
            for ticket in commit.dying
            if not (ticket.is_void or ticket.may_have_letter) and (implied_to is None or ticket.offset < implied_to)
        ]
        for ticket in named:
            ticket.may_have_letter = True
        return named

    def say_again(self) -> None:
        """Make a commit due though nothing has changed: what Kafka has is not known for sure."""
        self.metadata, self._state = "", ()

    @property
    def committable(self) -> int:
        """Return the watermark: the offset the next owner should start at."""
        oldest = self.oldest_offset
        return self.position if oldest is None else oldest

    @property
    def oldest_offset(self) -> int | None:
        """Return the lowest unfinished offset; None when nothing is unfinished."""
        order = self._order
        while order and order[0] not in self.unfinished:
            order.popleft()
        return order[0] if order else None

    @property
    def blocker(self) -> Ticket | None:
        """Return the oldest unfinished record, which holds the watermark; None when nothing is unfinished."""
        oldest = self.oldest_offset
        return None if oldest is None else self.unfinished[oldest]

    @property
    def ahead(self) -> int:
        """Return how many offsets have been taken beyond the watermark."""
        return self.position - self.committable


class Offsets:
    """The progress of all partitions this process owns."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, PartitionProgress] = {}
        self._epoch = 0

    def assign(
        self,
        positions: Mapping[TopicPartition, int],
        earlier: Mapping[TopicPartition, Earlier] | None = None,
        now_s: float = 0.0,
    ) -> None:
        """Begin a new assignment of these partitions, each read from its position on."""
        self._epoch += 1
        known = earlier or {}
        for partition, position in positions.items():
            progress = PartitionProgress(partition, self._epoch, position, known.get(partition, NOBODY), now_s)
            self._partitions[partition] = progress

    def forget(self, partitions: Iterable[TopicPartition]) -> list[Ticket]:
        """Drop revoked partitions; their unfinished tickets are void from here on, and returned."""
        void: list[Ticket] = []
        for partition in partitions:
            progress = self._partitions.pop(partition, None)
            if progress is not None:
                progress.is_closing = True
                void.extend(progress.unfinished.values())
        for ticket in void:
            ticket.is_void = True
        return void

    def get(self, partition: TopicPartition) -> PartitionProgress | None:
        """Return the progress of a partition we own, else None."""
        return self._partitions.get(partition)

    def finish(self, ticket: Ticket) -> bool:
        """Note the end of a record; False when its assignment is over."""
        progress = self._partitions.get(ticket.partition)
        return progress is not None and progress.finish(ticket)

    def changed(self, ticket: Ticket) -> None:
        """Note that a commit has more to say of an unfinished record."""
        progress = self._partitions.get(ticket.partition)
        if progress is not None and progress.epoch == ticket.epoch:
            progress.changed()

    def due(
        self,
        note: Note,
        *,
        heads: Callable[[TopicPartition], Heads] = lambda partition: Heads(),
        now_s: float = 0.0,
        left: LeftBehind = lambda partition, watermark, limit_characters: {},
        left_serial: Callable[[TopicPartition], int] = lambda partition: 0,
        partitions: Iterable[TopicPartition] | None = None,
    ) -> dict[TopicPartition, Commit]:
        """Return what is due: where offset, map, horizon or note have changed. Each says all, as one wipes the last.

        `heads`: the calls that could go on, or wait for a higher horizon only. `left`: what the senders leave behind
        for a partition's next owner, by site, beside this watermark and in so many characters; `left_serial`: another
        number whenever that may have changed.
        """
        chosen = self._partitions.values() if partitions is None else self._owned(partitions)
        commits = (
            (progress.partition, progress.due(note, heads, now_s, left, left_serial(progress.partition)))
            for progress in chosen
        )
        return {partition: commit for partition, commit in commits if commit is not None}

    def acknowledged(
        self, commits: Mapping[TopicPartition, Commit], *, implied_ahead: int | None = None
    ) -> list[Ticket]:
        """Note what Kafka confirmed, unless the partition has changed hands since.

        Returns the records whose dead letters may be written now. `implied_ahead`: the metadata was not kept, so that
        the next owner will take so many offsets from the committed one on for suspect.
        """
        named: list[Ticket] = []
        for partition, commit in commits.items():
            progress = self._partitions.get(partition)
            if progress is not None and progress.epoch == commit.epoch:
                implied_to = None if implied_ahead is None else commit.position.offset + implied_ahead
                named += progress.acknowledged(commit, implied_to=implied_to)
        return named

    def say_again(self) -> None:
        """Make a commit due for every partition, though nothing has changed."""
        for progress in self._partitions.values():
            progress.say_again()

    def epochs(self) -> dict[TopicPartition, int]:
        """Return which assignment each partition is held under."""
        return {partition: progress.epoch for partition, progress in self._partitions.items()}

    def __iter__(self) -> Iterator[PartitionProgress]:
        return iter(self._partitions.values())

    def __len__(self) -> int:
        return len(self._partitions)

    def _owned(self, partitions: Iterable[TopicPartition]) -> Iterator[PartitionProgress]:
        for partition in partitions:
            if (progress := self._partitions.get(partition)) is not None:
                yield progress
