"""What the pipeline needs of Kafka."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from worker.kafka.membership import Found
from worker.kafka.source import Owner, Position
from worker.model import Record, TopicPartition


class Source(Protocol):
    """Where records come from and offsets go to. The contract tests in tests/contracts hold it to this text."""

    async def start(self, owner: Owner) -> None:
        """Join the group. `owner` hears of every assignment before a record of it is handed out."""
        ...

    async def stop(self) -> None:
        """Leave the group, after the owner has given up its partitions."""
        ...

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Return what has arrived of these partitions, in offset order each; {} when nothing did in time."""
        ...

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        """Commit, if they are still ours; `CommitRefused` when not, another WorkerError when the broker is away.

        Returns whether the metadata was kept, too: some brokers are set to refuse it.
        """
        ...

    def found(self, partition: TopicPartition) -> Found:
        """Return how a partition of ours stood when it was assigned."""
        ...

    def position(self, partition: TopicPartition) -> int:
        """Return the offset the next read starts at: above markers and compacted records at a partition's end."""
        ...

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return one above the last offset of each partition."""
        ...

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the partition's end as of the last fetch; None before one."""
        ...

    def held_back(self, partition: TopicPartition) -> int:
        """Return how many offsets wait behind a transaction that has not ended."""
        ...

    @property
    def lost(self) -> Mapping[TopicPartition, int]:
        """Return the partitions whose next offset is gone (retention), with the number of records that were lost."""
        ...

    @property
    def trouble(self) -> str:
        """Return why the brokers have not been heard of for a whole session; empty while all is well."""
        ...
