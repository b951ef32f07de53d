"""The consumer of a backfill: a member of a group of its own that reads a range and nothing beyond it.

Where the range ends in each partition is said by the group's first commit, and by every one after it (`Bounds`). The
first member makes that commit for all partitions at once, before it hands out a record, and fenced by its membership:
so a process that is killed at any moment leaves either no trace or the whole range, and neither a second process nor a
later start can move it. A topic that grows meanwhile, and times that mean other offsets by then, change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import structlog
from aiokafka import TopicPartition as Theirs
from aiokafka import errors as kafka_errors

from worker.clock import Clock
from worker.kafka.membership import Found, LeftOut, Position, untouched
from worker.kafka.progress import Bounds, Unusable, decode_progress
from worker.kafka.settings import KafkaSettings
from worker.kafka.source import COMMIT_LIMIT_S, CommitFailed, KafkaSource, SourceFailed
from worker.model import Record, TopicPartition

log = structlog.get_logger(__name__)

NOTHING = Bounds(0, 0)


def bounds_in(position: Position) -> Bounds:
    """Return the bounds that a commit of a backfill says. Raises Unusable where it is no such commit."""
    bounds = decode_progress(position.metadata, position.offset).bounds
    if bounds is None:
        raise Unusable("no range")
    return bounds


class BoundedSource(KafkaSource):
    """As KafkaSource; but what lies at and above a partition's end is not there, and the end never moves."""

    def __init__(
        self,
        settings: KafkaSettings,
        bounds: Mapping[TopicPartition, Bounds],
        *,
        drain_s: float,
        clock: Clock,
        accept_gap: bool = False,
        left_out: Mapping[TopicPartition, LeftOut] | None = None,
    ) -> None:
        """`bounds` are those of a run that has not begun; where the group has committed some, these are what counts."""
        super().__init__(settings, drain_s=drain_s, clock=clock, accept_gap=accept_gap)
        self._needs_metadata = True
        self._wanted = bounds
        self._left_out = left_out or {}
        self._bounds: dict[TopicPartition, Bounds] = {}
        self.passed: dict[TopicPartition, int] = {}  # gaps that were accepted: how many offsets were lost

    def bounds(self, partition: TopicPartition) -> Bounds:
        """Return the range of a partition of ours. KeyError for one never owned."""
        return self._bounds[partition]

    def found(self, partition: TopicPartition) -> Found:
        return super().found(partition)._replace(left_out=self._left_out.get(partition, LeftOut()))

    @property
    def has_had_share(self) -> bool:
        """Return whether any partition of the run was ever ours."""
        return bool(self._bounds)

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        batches = await super().read(partitions, max_records=max_records, timeout_s=timeout_s)
        within: dict[TopicPartition, Sequence[Record]] = {}
        for partition, records in batches.items():
            end = self._bounds[partition].end
            if records[-1].offset >= end:
                records = [record for record in records if record.offset < end]
            if records:
                within[partition] = records
        return within

    def position(self, partition: TopicPartition) -> int:
        return min(super().position(partition), self._bounds[partition].end)

    def highwater(self, partition: TopicPartition) -> int | None:
        end = super().highwater(partition)
        return None if end is None else min(end, self._bounds[partition].end)

    def held_back(self, partition: TopicPartition) -> int:
        return 0 if self.position(partition) >= self._bounds[partition].end else super().held_back(partition)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return where the range ends."""
        return {partition: self._bounds[partition].end for partition in partitions}

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        try:
            return await super().commit(positions)
        except CommitFailed as error:
            if isinstance(error.__cause__, kafka_errors.OffsetMetadataTooLargeError):
                # Without the metadata the range would be lost with the next commit: better none.
                self._failure = SourceFailed(
                    f"{self._where}: the broker refuses the metadata of commits, in which a backfill keeps its range;"
                    " set offset.metadata.max.bytes of the brokers to 4096, their default"
                )
            raise

    async def _committed_or_begun(self, partitions: frozenset[TopicPartition]) -> dict[TopicPartition, Position | None]:
        every = self.partitions_of_group()
        known = await self.committed({*every, *partitions})
        if not any(known.values()):
            known = dict(await self._begin(every, partitions))
        found: dict[TopicPartition, Position | None] = {}
        for partition in partitions:
            # One that was added to its topic after the run had begun is not in its range.
            position = known.get(partition) or untouched(0, NOTHING)
            try:
                self._bounds[partition] = bounds_in(position)
            except Unusable as error:
                raise SourceFailed(
                    f"{self._where}: the offset that group {self._settings.group_id} has for {partition} is not one of"
                    f" a backfill ({error}), so its range is lost; leave that group alone, and begin another --run-id"
                ) from error
            found[partition] = position
        return found

    async def _try_again(self, error: Exception) -> None:
        if isinstance(error.__cause__, Unusable) and isinstance(error, SourceFailed):
            self._failure = error  # it would be the same the next time
            self._settled.set()
            return
        await super()._try_again(error)

    async def _begin(
        self, every: Sequence[TopicPartition], ours: frozenset[TopicPartition]
    ) -> Mapping[TopicPartition, Position | None]:
        """Let one member commit the range of all partitions, of every topic; the others wait for that."""
        if missing := sorted(self._wanted.keys() - set(every)):
            # Committed without it, the range would never again hold what lies there.
            raise SourceFailed(f"{self._where}: {missing[0]} is not known yet")
        if every[0] in ours and self._membership is not None:
            wanted = {partition: self._wanted.get(partition, NOTHING) for partition in every}
            first = {partition: untouched(bounds.begin, bounds) for partition, bounds in wanted.items()}
            await self._membership.commit(first, limit_s=COMMIT_LIMIT_S)
            log.info("source.started_new_run", group=self._settings.group_id, partitions=len(first))
            return first
        while True:
            known = await self.committed(every)
            if any(known.values()):
                return known
            await self._clock.sleep(0.05)

    def _note_gap(self, partition: TopicPartition, offset: int, beginning: int) -> None:
        end = self._bounds[partition].end
        if offset >= end:
            # Nothing of the range is missing. A position must be one that exists all the same.
            self._started().seek(Theirs(*partition), beginning)
            return
        super()._note_gap(partition, offset, beginning)
        lost = max(0, min(beginning, end) - offset)
        if partition in self._lost:
            self._lost[partition] = lost
        else:
            self.passed[partition] = self.passed.get(partition, 0) + lost
