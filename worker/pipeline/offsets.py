"""Which offsets may be committed, given what has finished so far.

Kafka stores one number per partition and group: everything below it is done. Records finish here out of order, so this
module remembers what is unfinished. Records that nobody wants are the most of a stream and leave no trace at all: what
is not unfinished and lies below the position is done.

Pure: no I/O, no clock, no tasks. Use one instance from one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from worker.model import TopicPartition
from worker.pipeline.tickets import Ticket


class PartitionProgress:
    """What is known of one partition under one assignment.

    Offsets must be started in ascending order; holes (compaction, transaction markers) are fine, because only offsets
    that were really started are waited for.
    """

    __slots__ = ("_order", "committed", "epoch", "is_closing", "metadata", "partition", "position", "unfinished")

    def __init__(self, partition: TopicPartition, epoch: int, position: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.position = position  # one above the highest offset taken: everything below is started or done
        self.committed = position  # what Kafka has, as far as we know
        self.metadata = ""  # what our last commit said beside it
        self.is_closing = False  # revocation has begun: nothing more is taken
        self.unfinished: dict[int, Ticket] = {}
        # Offsets in the order they were started; the front may be finished already. Beside the dict, because finding
        # a dict's first key costs a walk over all keys that were deleted before it.
        self._order: deque[int] = deque()

    def start(self, ticket: Ticket) -> None:
        """Note that work on this record has begun; it now holds the commit back."""
        offset = ticket.offset
        if offset < self.position:
            raise AssertionError(f"{self.partition}/{offset} started again, or out of order, below {self.position}")
        self._order.append(offset)
        self.unfinished[offset] = ticket
        self.position = offset + 1

    def pass_to(self, position: int) -> None:
        """Note that everything below `position` was taken: what was not started needed no work."""
        self.position = max(self.position, position)

    def finish(self, ticket: Ticket) -> bool:
        """Note that a record needs no more work; False for a ticket of an earlier assignment.

        Such a record must not move this partition's offset: it may have a new owner who has not read it.
        """
        if ticket.epoch != self.epoch:
            return False
        return self.unfinished.pop(ticket.offset, None) is not None

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

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Begin a new assignment of these partitions, each read from its position on."""
        self._epoch += 1
        for partition, position in positions.items():
            self._partitions[partition] = PartitionProgress(partition, self._epoch, position)

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

    def due(self, metadata: str = "", partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Return the watermark of each partition that moved, or whose metadata changed, since its last commit."""
        chosen = self._partitions.values() if partitions is None else self._owned(partitions)
        return {
            progress.partition: watermark
            for progress in chosen
            if (watermark := progress.committable) > progress.committed or metadata != progress.metadata
        }

    def committed(
        self, offsets: Mapping[TopicPartition, int], metadata: str, epoch_of: Mapping[TopicPartition, int]
    ) -> None:
        """Note what Kafka confirmed, unless the partition has changed hands since."""
        for partition, offset in offsets.items():
            progress = self._partitions.get(partition)
            if progress is not None and progress.epoch == epoch_of.get(partition):
                progress.committed = max(progress.committed, offset)
                progress.metadata = metadata

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
