"""Read, hand out, finish, commit, drain, stop: the worker's fate.

One task reads and hands out; one commits; the group's coordinator calls `partitions_revoked`, which drains by itself,
because the read loop cannot be waited for: a read does not return while the group rebalances.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog

from worker.clock import Clock
from worker.errors import WorkerError
from worker.kafka.progress import RULES_DIGITS
from worker.metrics import Metrics
from worker.model import Record, TopicPartition
from worker.pipeline.commits import CommitLoop, Memory, Notes
from worker.pipeline.earlier import Earlier, earlier_of
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.source import Source

log = structlog.get_logger(__name__)

# How often the partitions' ends are asked for. A fetch tells them, too, but in an outage nothing is fetched.
ENDS_EVERY_S = 15.0
# Records are taken for so long at a stretch; then senders, heartbeats and commits get their turn. Without it a backlog
# that is already buffered would starve them, since a read of buffered records does not suspend.
SLICE_S = 0.005
READ_TIMEOUT_S = 0.2
READ_MAX_RECORDS = 2_000


class Ended(StrEnum):
    """Why the engine came back."""

    STOPPED = "stopped"  # asked to
    REACHED_END = "reached_end"
    HELD = "held"  # a bounded run that cannot go on: the flood guard, records lost to retention, a site that is stopped


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition as /status shows it."""

    partition: TopicPartition
    position: int
    committed: int
    lag: int | None
    held_back: int  # of these, how many wait for the end of a transaction
    unfinished: int
    blocker_offset: int | None
    blocker_age_s: float
    blocker_attempts: int
    blocker_reason: str
    blocker_user: str  # the mark of its first unfinished call's user


@dataclass(slots=True)
class _Pending:
    """A batch that was read and not yet handed out in full."""

    progress: PartitionProgress
    records: Sequence[Record]
    index: int = 0


class Engine:
    """Runs the pipeline from the first assignment to the last commit."""

    def __init__(
        self,
        *,
        source: Source,
        handler: Handler,
        lanes: Lanes,
        offsets: Offsets,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        max_ahead: int,
        drain_s: float,
        until_end: bool = False,
        notes: Notes | None = None,
        memories: Mapping[str, Memory] | None = None,
    ) -> None:
        self._source = source
        self._handler = handler
        self._lanes = lanes
        self._offsets = offsets
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._max_ahead = max_ahead
        self._drain_s = drain_s
        self._until_end = until_end
        self._notes = notes
        self._memories = memories or {}
        self._ends: Mapping[TopicPartition, int] = {}
        self._stop = asyncio.Event()
        self._cannot_go_on = False
        self._turn = 0
        self._listen_again_s = 0.0
        self._newest_ends: Mapping[TopicPartition, int] = {}
        self._pending: dict[TopicPartition, _Pending] = {}
        self._commits = CommitLoop(
            source=source,
            handler=handler,
            lanes=lanes,
            offsets=offsets,
            clock=clock,
            metrics=metrics,
            max_ahead=max_ahead,
            notes=notes,
            memories=self._memories,
        )
        self.has_joined = False
        self._has_no_share = False

    def stop(self) -> None:
        """Ask the engine to drain and come back. Safe to call twice, and from a signal handler."""
        self._stop.set()
        self._handler.changed.set()

    def give_up(self) -> None:
        """Stop a bounded run that cannot go on before somebody has acted."""
        self._cannot_go_on = True
        self.stop()

    async def run(self, ends: Mapping[TopicPartition, int] | None = None) -> Ended:
        """Run until asked to stop, or until `ends` are reached where they are given.

        The source must not have been started. Everything that was read is committed, or unfinished, when this returns.
        """
        self._ends = ends or {}
        background = asyncio.create_task(self._background(), name="background")
        reading = asyncio.create_task(self._read_loop(), name="read")
        try:
            await self._join(reading, background)
            await asyncio.wait({background, reading}, return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                background.result()
            # Also when reading has failed: what is in flight ends, and what has ended is committed.
            await self._drain_all(background)
            return reading.result()
        finally:
            for task in (reading, background):
                task.cancel()
            await asyncio.gather(reading, background, return_exceptions=True)
            await self._source.stop()

    async def _join(self, reading: asyncio.Task[Ended], background: asyncio.Task[None]) -> None:
        """Join the group; or give it up when the engine is to stop: others that drain may keep us waiting for long."""
        starting = asyncio.create_task(self._source.start(self), name="join")
        try:
            await asyncio.wait({starting, reading, background}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() or self.has_joined:
                await starting
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _background(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lanes.run(), name="lanes")
            tasks.create_task(self._handler.run(), name="dead-letters")
            tasks.create_task(self._commits.run(), name="commit")
            tasks.create_task(self._guard_watch(), name="flood-guard")
            tasks.create_task(self._watch_ends(), name="ends")

    async def _guard_watch(self) -> None:
        while True:
            await self._handler.tripped.wait()
            self._lanes.hold()
            self._handler.released.clear()
            await self._handler.released.wait()
            self._lanes.go_on()

    async def _watch_ends(self) -> None:
        """Keep the lag true while nothing is read: it is what tells how long an outage may still last."""
        while True:
            await self._clock.sleep(ENDS_EVERY_S)
            owned = [progress.partition for progress in self._offsets if not progress.is_closing]
            try:
                self._newest_ends = await self._source.end_offsets(owned) if owned else {}
            except WorkerError:
                continue  # the broker is away: the last known ends stay, and readiness tells of the broker

    # Reading

    async def _read_loop(self) -> Ended:
        while not self._stop.is_set():
            if self._until_end and (self._handler.tripped.is_set() or self._source.lost):
                return Ended.HELD
            if self._until_end and self._has_reached_end():
                return Ended.REACHED_END
            took = await self._take_pending()
            room = self._with_room()
            if not room:
                if not took:
                    await self._wait_for_room()
                    await self._listen()
                continue
            batches = await self._source.read(
                room, max_records=READ_MAX_RECORDS, timeout_s=0 if took else READ_TIMEOUT_S
            )
            for partition, records in batches.items():
                self._receive(partition, records)
            self._pass_gaps(partition for partition in room if partition not in batches)
        return Ended.HELD if self._cannot_go_on else Ended.STOPPED

    async def _listen(self) -> None:
        """Read nothing, now and then: what the group met is told to who reads, and it goes on only after that."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._listen_again_s:
            self._listen_again_s = now_s + READ_TIMEOUT_S
            await self._source.read((), max_records=1, timeout_s=0)

    def _receive(self, partition: TopicPartition, records: Sequence[Record]) -> None:
        progress = self._offsets.get(partition)
        if progress is None or progress.is_closing or not records or records[0].offset < progress.position:
            return  # read under an assignment that is over; its next owner reads it again
        self._pending[partition] = _Pending(progress, records)

    def _pass_gaps(self, partitions: Iterable[TopicPartition]) -> None:
        """Pass what never arrives (markers, aborted and compacted records), once all that does was received here."""
        for partition in partitions:
            progress = self._offsets.get(partition)
            if progress is not None and not progress.is_closing and partition not in self._pending:
                progress.pass_to(self._source.position(partition))

    async def _take_pending(self) -> bool:
        """Hand out what has been read, in slices; what finds no room stays, and holds up its own partition only."""
        took = False
        for partition, pending in list(self._pending.items()):
            while self._may_take(pending):
                until_s = self._clock.monotonic_s() + SLICE_S
                pending.index = self._handler.take(
                    pending.progress, pending.records, pending.index, until_s=until_s, max_ahead=self._max_ahead
                )
                took = True
                if pending.index >= len(pending.records):
                    break
                await asyncio.sleep(0)
            if pending.index >= len(pending.records) or pending.progress.is_closing:
                self._pending.pop(partition, None)  # a revocation between two slices may have taken it
        if took:
            await asyncio.sleep(0)
        return took

    def _may_take(self, pending: _Pending) -> bool:
        if pending.progress.is_closing or self._stop.is_set() or self._handler.tripped.is_set():
            return False
        return self._has_room(pending.progress, pending.records[pending.index].offset)

    def _has_room(self, progress: PartitionProgress, offset: int) -> bool:
        if not self._handler.has_room(progress.partition):
            return False
        return not progress.unfinished or (offset - progress.committable < self._max_ahead and progress.has_words)

    def _with_room(self) -> list[TopicPartition]:
        """Return the partitions to read further, each time beginning with another one.

        A read drains one partition's buffer before the next; without the turn the first one would always win.
        """
        if self._handler.tripped.is_set():
            return []
        room = [
            progress.partition
            for progress in self._offsets
            if not progress.is_closing
            and progress.partition not in self._pending
            and self._has_room(progress, progress.position)
            and not self._is_past_end(progress)
        ]
        self._turn = (self._turn + 1) % max(1, len(room))
        return room[self._turn :] + room[: self._turn]

    def _is_past_end(self, progress: PartitionProgress) -> bool:
        end = self._ends.get(progress.partition)
        return self._until_end and end is not None and self._source.position(progress.partition) >= end

    async def _wait_for_room(self) -> None:
        """Wait until a record ended, or a little: an assignment makes room, too."""
        self._handler.changed.clear()
        timer = self._clock.call_later(READ_TIMEOUT_S, self._handler.changed.set)
        try:
            await self._handler.changed.wait()
        finally:
            timer.cancel()

    def _has_reached_end(self) -> bool:
        """Return whether every partition we own was read to its end, and nothing of it is unfinished.

        By the source's position: the record before the end may be a transaction's marker, or compacted away, and never
        arrive. Not while partitions are being given back: what arrived then was not taken, and is not passed.
        """
        owned = list(self._offsets)
        if not owned:
            return self._has_no_share  # more members than partitions; between two assignments it is False
        if self._pending or any(progress.is_closing for progress in owned):
            return False
        for progress in owned:
            end = self._ends.get(progress.partition)
            if progress.unfinished or end is None:
                return False
            read_to = max(progress.position, self._source.position(progress.partition))
            if read_to < end:
                return False
            progress.pass_to(read_to)
        return True

    # Assignment

    async def partitions_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Begin with these partitions; called before a record of them is handed out."""
        self._metrics.rebalances.inc()
        self.has_joined = True
        self._has_no_share = not partitions
        self._begin(partitions, self._earlier(partitions))
        if self._notes is not None:
            self._notes.assigned(partitions)
        if self._until_end:
            missing = [partition for partition in partitions if partition not in self._ends]
            if missing:
                self._ends = {**self._ends, **await self._source.end_offsets(missing)}
        log.info("partitions.assigned", partitions=sorted(map(str, partitions)))
        self._handler.changed.set()

    def _begin(self, partitions: frozenset[TopicPartition], earlier: Mapping[TopicPartition, Earlier]) -> None:
        positions = {partition: self._source.position(partition) for partition in partitions}
        self._offsets.assign(positions, earlier, self._clock.monotonic_s())
        for progress in self._offsets:
            if (partition := progress.partition) not in partitions:
                continue
            self._ledger.assigned(partition, progress.epoch)
            self._lanes.keep_to(partition, progress.horizon)
            self._remind(partition, earlier[partition])
        self._handler.commit_due.set()  # calls wait for their first horizon

    def _remind(self, partition: TopicPartition, earlier: Earlier) -> None:
        rules = self._handler.rules_digest[:RULES_DIGITS]
        for site, memory in self._memories.items():
            memory.recall(
                partition,
                earlier.left.get(site, ""),
                suspects_below=earlier.suspects_end(rules),
                ends_are_known=earlier.knows_ends(rules),
                nothing_before=earlier.is_first,
                awaits_commits=True,
            )

    def _earlier(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Earlier]:
        """Return what earlier owners have left of these partitions."""
        earlier = {
            partition: earlier_of(self._source.found(partition), max_ahead=self._max_ahead) for partition in partitions
        }
        for partition, each in earlier.items():
            if each.ignored:
                log.warning(
                    "progress.ignored",
                    partition=str(partition),
                    why=each.ignored,
                    suspects_below=each.suspect_below,
                )
        return earlier

    async def partitions_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Finish what can be finished, commit, and forget these partitions."""
        self._has_no_share = False
        if not partitions:
            return
        await self._drain(partitions)
        void = self._offsets.forget(partitions)
        self._lanes.forget(partitions)
        self._handler.forget(void)
        handed_back = Counter(ticket.partition for ticket in void)
        for partition in partitions:
            self._ledger.handed_back(partition, handed_back[partition])
            self._pending.pop(partition, None)
        log.info("partitions.revoked", partitions=sorted(map(str, partitions)), handed_back=len(void))

    async def _drain(self, partitions: frozenset[TopicPartition]) -> None:
        for progress in self._offsets:
            if progress.partition in partitions:
                progress.is_closing = True
        until_s = self._clock.monotonic_s() + self._drain_s
        await self._lanes.drain(partitions, until_s=until_s)
        for progress in self._offsets:
            if progress.partition in partitions:
                progress.is_drained = True  # from here on a commit names what may have been executed, call by call
        while self._handler.letters_under_way(set(partitions)) and self._clock.monotonic_s() < until_s:
            await self._clock.sleep(0.01)
        await self._commits.try_commit(partitions)

    async def _drain_all(self, background: asyncio.Task[None]) -> None:
        """Drain what we own. Ends with the background: without it nothing in flight would ever be heard of."""
        owned = frozenset(progress.partition for progress in self._offsets)
        draining = asyncio.create_task(self._drain(owned), name="drain")
        try:
            await asyncio.wait({draining, background}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                background.result()
            await draining
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    @property
    def last_commit_error(self) -> str:
        """Return why the last commit did not happen; empty if it did."""
        return self._commits.last_error

    def lost(self) -> Mapping[TopicPartition, int]:
        """Return the partitions that stand still because retention deleted what came next."""
        return self._source.lost

    @property
    def trouble(self) -> str:
        """Return why there is no connection to the brokers; empty while there is one."""
        return self._source.trouble

    def unfinished(self) -> dict[TopicPartition, int]:
        """Return how many records of each partition have started and not ended."""
        return {progress.partition: len(progress.unfinished) for progress in self._offsets}

    def partitions(self) -> list[PartitionStatus]:
        """Return every partition we own, for /status and the metrics."""
        return [self._partition_status(progress) for progress in self._offsets]

    def end_of(self, partition: TopicPartition) -> int | None:
        """Return one above the last offset of a partition of ours, as far as it was heard."""
        known = (self._source.highwater(partition), self._newest_ends.get(partition))
        return max((end for end in known if end is not None), default=None)

    def _partition_status(self, progress: PartitionProgress) -> PartitionStatus:
        blocker = progress.blocker
        end = self.end_of(progress.partition)
        return PartitionStatus(
            partition=progress.partition,
            position=progress.position,
            committed=progress.committed,
            lag=None if end is None else max(0, end - progress.committed),
            held_back=self._source.held_back(progress.partition),
            unfinished=len(progress.unfinished),
            blocker_offset=None if blocker is None else blocker.offset,
            blocker_age_s=0.0 if blocker is None else self._clock.monotonic_s() - blocker.started_s,
            blocker_attempts=0 if blocker is None else blocker.attempts,
            blocker_reason="" if blocker is None else blocker.last_reason,
            blocker_user="" if blocker is None else self._handler.user_of(blocker),
        )
