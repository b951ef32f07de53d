"""What the broker knows: records appended, dead letters as they are stored, every commit that was accepted.

Reads with a plain consumer and nothing of the worker's, so that a mistake there cannot hide here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from tests.journeys.oracle import Appended, Commit, Headers
from worker.sandbox.events import SampleEvent

READ_LIMIT_S = 30.0
_COMMITS = "__consumer_offsets"


class Stored(NamedTuple):
    """A record as the broker holds it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class BrokerView:
    """One broker, by its address."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    async def append(
        self, topic: str, events: Iterable[tuple[SampleEvent, Headers]], *, timestamp_ms: int | None = None
    ) -> list[Appended]:
        """Append events by key (or to the partition an event names), and return where each of them is.

        `timestamp_ms`: when they are said to have been written; now, if it is None.
        """
        appended: list[tuple[SampleEvent, Headers, asyncio.Future[Any]]] = []
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", linger_ms=5) as producer:
            for event, headers in events:
                sent = await producer.send(
                    topic,
                    event.value,
                    event.key,
                    event.partition,
                    timestamp_ms=timestamp_ms,
                    headers=list(headers) or None,
                )
                appended.append((event, headers, sent))
            await producer.flush()
        places = [(event, headers, sent.result()) for event, headers, sent in appended]
        return [Appended(event, headers, place.partition, place.offset) for event, headers, place in places]

    async def stored(self, topic: str) -> list[Stored]:
        """Return everything a topic holds now, partition by partition."""
        async with self._consumer() as consumer:
            partitions = [TopicPartition(topic, number) for number in await self._partitions_of(topic)]
            consumer.assign(partitions)
            ends = await asyncio.wait_for(consumer.end_offsets(partitions), READ_LIMIT_S)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(READ_LIMIT_S):
                found: list[Stored] = []
                while left := [each for each in partitions if await consumer.position(each) < ends[each]]:
                    batches = await consumer.getmany(*left, timeout_ms=200)
                    found += [_stored(record) for records in batches.values() for record in records]
        return sorted(found)

    async def ends(self, topic: str) -> dict[int, int]:
        async with self._consumer() as consumer:
            partitions = [TopicPartition(topic, number) for number in await self._partitions_of(topic)]
            ends = await asyncio.wait_for(consumer.end_offsets(partitions), READ_LIMIT_S)
            return {partition.partition: end for partition, end in ends.items()}

    async def committed(self, group: str) -> dict[int, int]:
        """Return the offset of each partition that a group has committed (of one topic: the journeys have one)."""
        async with self.admin() as admin, asyncio.timeout(READ_LIMIT_S):
            while True:
                try:
                    offsets = await admin.list_consumer_group_offsets(group)
                    break
                except GroupCoordinatorNotAvailableError:  # a new broker has no place for offsets before it is asked
                    await asyncio.sleep(0.1)
            return {partition.partition: found.offset for partition, found in offsets.items() if found.offset >= 0}

    async def commits(self, group: str) -> list[Commit]:
        """Return every commit of a group that the broker accepted, oldest first, with the broker's time."""
        found = []
        for record in await self.stored(_COMMITS):
            if record.key is None or record.value is None:
                continue
            committed = _committed_by(record.key, group)
            if committed is not None:
                offset = struct.unpack_from(">q", record.value, 2)[0]  # after the version; so in every version
                found.append(Commit(record.timestamp_ms / 1000, committed, offset))
        return sorted(found, key=lambda commit: commit.at_s)

    async def delete_topics(self, topics: Sequence[str]) -> None:
        async with self.admin() as admin:
            await asyncio.wait_for(admin.delete_topics(list(topics)), READ_LIMIT_S)

    async def _partitions_of(self, topic: str) -> list[int]:
        async with self.admin() as admin:
            (description,) = await asyncio.wait_for(admin.describe_topics([topic]), READ_LIMIT_S)
            return sorted(partition["partition"] for partition in description["partitions"])

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


def _stored(record: Any) -> Stored:
    headers = tuple((name, value) for name, value in record.headers)
    return Stored(record.partition, record.offset, record.key, record.value, headers, record.timestamp)


def _committed_by(key: bytes, group: str) -> int | None:
    """Return the partition whose commit a key of Kafka's own topic stands for; None if it is another group's.

    OffsetCommitKey, versions 0 and 1: version, group, topic (each with a length), partition.
    """
    if struct.unpack_from(">h", key)[0] not in (0, 1):
        return None
    at = 2
    texts = []
    for _ in range(2):
        (length,) = struct.unpack_from(">h", key, at)
        texts.append(key[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return int(struct.unpack_from(">i", key, at)[0]) if texts[0] == group else None
