"""Commits what has finished, and tells who waits for it: calls behind a horizon, dead letters that are not named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import structlog

from worker.clock import Clock
from worker.errors import CommitRefused, WorkerError
from worker.kafka.progress import Note
from worker.metrics import Metrics
from worker.model import TopicPartition
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.offsets import Offsets
from worker.pipeline.source import Source

log = structlog.get_logger(__name__)

COMMIT_EVERY_S = 1.0
# A commit without an answer may still lie in a broker's socket, and be taken after later ones: an old map and an old
# horizon would stand until something changes. For so long after it all is said again and again.
LATE_S = 60.0
SAY_AGAIN_EVERY_S = 5.0


class Notes(Protocol):
    """What this member tells the group with its commits."""

    @property
    def note(self) -> Note:
        """Return what every commit carries now."""
        ...

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Hear of a new assignment, before a record of it is handed out."""
        ...


class Memory(Protocol):
    """What one site's sender remembers of its calls: the next owner of a partition judges by it what the log shows."""

    def left_behind(self, partition: TopicPartition, watermark: int, limit_characters: int) -> str:
        """Return what a commit of this watermark says: letters, digits, `-_.`; the same while nothing happens."""
        ...

    def serial(self, partition: TopicPartition) -> int:
        """Return a number that is another one whenever `left_behind` may say something else."""
        ...

    def acknowledged(self, partition: TopicPartition, serial: int) -> None:
        """Hear that the group has what `left_behind` had to say at this serial."""
        ...

    def recall(
        self,
        partition: TopicPartition,
        note: str,
        *,
        suspects_below: int = 0,
        ends_are_known: bool = False,
        nothing_before: bool = False,
        awaits_commits: bool = False,
    ) -> None:
        """Take up at an assignment what the owner before left behind, before a record is handed out."""
        ...


_Serials: TypeAlias = Sequence[tuple[TopicPartition, Memory, int, int]]


class CommitLoop:
    """The only one that commits. Used from one event loop."""

    def __init__(
        self,
        *,
        source: Source,
        handler: Handler,
        lanes: Lanes,
        offsets: Offsets,
        clock: Clock,
        metrics: Metrics,
        max_ahead: int,
        notes: Notes | None,
        memories: Mapping[str, Memory],
    ) -> None:
        self._source = source
        self._handler = handler
        self._lanes = lanes
        self._offsets = offsets
        self._clock = clock
        self._metrics = metrics
        self._max_ahead = max_ahead
        self._notes = notes
        self._memories = memories
        self._lock = asyncio.Lock()
        self._unsure_until_s = -math.inf
        self._say_again_s = -math.inf
        lanes.renew = handler.commit_due.set
        self.last_error = ""

    async def run(self) -> None:
        """Commit until cancelled: every second, and at once where something waits for it."""
        while True:
            await self._until_due()
            await self.try_commit(None)

    async def _until_due(self) -> None:
        due = self._handler.commit_due
        timer = self._clock.call_later(COMMIT_EVERY_S, due.set)
        try:
            await due.wait()
        finally:
            timer.cancel()
            due.clear()

    async def try_commit(self, partitions: Collection[TopicPartition] | None) -> None:
        """Commit what is due of these partitions, or of all. What fails is made up for by the next one."""
        try:
            await self._commit(partitions)
        except WorkerError as error:
            result = "refused" if isinstance(error, CommitRefused) else "failed"
            if result == "failed":
                self._unsure_until_s = self._clock.monotonic_s() + LATE_S
            self._metrics.commits.labels(result).inc()
            if not self.last_error:
                log.warning("commit.failed", result=result, error=str(error))
            self.last_error = str(error)

    async def _commit(self, partitions: Collection[TopicPartition] | None) -> None:
        """Commit. What is due is asked for under the lock: two commits must not overtake each other."""
        async with self._lock:
            note = self._notes.note if self._notes is not None else Note()
            now_s = self._clock.monotonic_s()
            if self._say_again_s <= now_s < self._unsure_until_s:
                self._say_again_s = now_s + SAY_AGAIN_EVERY_S
                self._offsets.say_again()
            due = self._offsets.due(
                note,
                heads=self._lanes.heads(),
                now_s=now_s,
                left=self._left,
                left_serial=self._left_serial,
                partitions=partitions,
            )
            heard = self._serials(partitions)
            self._told(heard, but=due)  # of these the group has the same words already
            if not due:
                if partitions is None:
                    self.last_error = ""  # what could not be committed is not ours any more
                return
            is_kept = await self._source.commit({partition: commit.position for partition, commit in due.items()})
            # Without the metadata the next owner takes all that we can have reached for suspect; so that far we may go.
            named = self._offsets.acknowledged(due, implied_ahead=None if is_kept else self._max_ahead)
            self.last_error = ""
            self._metrics.commits.labels("ok").inc()
            self._told(heard)
        self._lanes.horizons_moved(due)
        self._handler.named(named)

    def _serials(self, partitions: Collection[TopicPartition] | None) -> _Serials:
        """Return what the senders have to say now: it is what `due` has just asked them for."""
        owned = self._offsets.epochs()
        chosen = owned if partitions is None else [each for each in partitions if each in owned]
        return [
            (partition, memory, memory.serial(partition), owned[partition])
            for partition in chosen
            for memory in self._memories.values()
        ]

    def _told(self, heard: _Serials, but: Collection[TopicPartition] = ()) -> None:
        epochs = self._offsets.epochs()
        for partition, memory, serial, epoch in heard:
            if partition not in but and epochs.get(partition) == epoch:
                memory.acknowledged(partition, serial)

    def _left_serial(self, partition: TopicPartition) -> int:
        return sum(memory.serial(partition) for memory in self._memories.values())

    def _left(self, partition: TopicPartition, watermark: int, limit_characters: int) -> dict[str, str]:
        left: dict[str, str] = {}
        for number, (site, memory) in enumerate(self._memories.items()):
            share = limit_characters // (len(self._memories) - number) - len(site) - 2
            if share > 0 and (text := memory.left_behind(partition, watermark, share)):
                left[site] = text
                limit_characters -= len(site) + len(text) + 2
        return left
