"""Memory for records that are started and not ended. Pure.

Half of it is for whoever comes first; the other half is divided evenly among the partitions. So the backlog of a site
that is stopped fills its own partitions' share and the common half, and the others are read on.
"""

from __future__ import annotations

from worker.model import TopicPartition


class Room:
    """How many bytes the records of each partition hold, and whether more may come.

    In all at most `max_bytes`, and a record of each partition: none is shut out by the others' backlog.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._held: dict[TopicPartition, int] = {}

    def take(self, partition: TopicPartition, size_bytes: int) -> None:
        """Note that a record was started."""
        self.held_bytes += size_bytes
        self._held[partition] = self._held.get(partition, 0) + size_bytes

    def give_back(self, partition: TopicPartition, size_bytes: int) -> None:
        """Note that a record ended, or was forgotten."""
        self.held_bytes -= size_bytes
        left_bytes = self._held[partition] - size_bytes
        if left_bytes:
            self._held[partition] = left_bytes
        else:
            del self._held[partition]

    @property
    def is_tight(self) -> bool:
        """Return whether the common half could be used up."""
        return self.held_bytes * 2 >= self._max_bytes

    def has_for(self, partition: TopicPartition, *, partitions: int) -> bool:
        """Return whether a partition may be read further, `partitions` being how many there are."""
        if not self.is_tight:
            return True  # nearly always; what follows looks at every partition
        common_bytes = self._max_bytes / 2
        share_bytes = common_bytes / max(1, partitions)
        if self._held.get(partition, 0) < share_bytes:
            return True
        return sum(held - share_bytes for held in self._held.values() if held > share_bytes) < common_bytes
