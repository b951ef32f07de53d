"""One way to set a scene on the fake cluster and on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as Theirs
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.fakes import FakeCluster, FakeProducer, FakeSource
from worker.clock import SystemClock
from worker.kafka.client import KafkaProducer, KafkaSettings
from worker.kafka.source import KafkaSource, Position
from worker.model import Record, TopicPartition
from worker.sandbox.broker import Topic, create_topics

SESSION_TIMEOUT_S = 6.0
Headers = Sequence[tuple[str, bytes | None]]
Source = KafkaSource | FakeSource


class Scene(Protocol):
    async def topic(
        self, partitions: int = 1, *, settings: Mapping[str, str] | None = None
    ) -> list[TopicPartition]: ...

    async def append(
        self, partition: TopicPartition, *values: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> None: ...

    async def delete_before(self, partition: TopicPartition, offset: int) -> None: ...

    def source(
        self, topics: Collection[str], group: str, *, start: str = "earliest", accept_gap: bool = False
    ) -> Source: ...

    def producer(self, topic: str) -> KafkaProducer | FakeProducer: ...

    async def close(self) -> None: ...


class FakeScene:
    def __init__(self, fresh_name: Callable[[str], str]) -> None:
        self._name = fresh_name
        self.cluster = FakeCluster()

    async def topic(self, partitions: int = 1, *, settings: Mapping[str, str] | None = None) -> list[TopicPartition]:
        self.max_message_bytes = int((settings or {}).get("max.message.bytes", 1_048_588))
        return self.cluster.create_topic(self._name("topic"), partitions)

    async def append(
        self, partition: TopicPartition, *values: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> None:
        for value in values:
            self.cluster.append(partition, value, key=key, headers=headers)

    async def delete_before(self, partition: TopicPartition, offset: int) -> None:
        self.cluster.delete_before(partition, offset)

    def source(
        self, topics: Collection[str], group: str, *, start: str = "earliest", accept_gap: bool = False
    ) -> Source:
        return FakeSource(self.cluster, topics, group_id=group, start=start, accept_gap=accept_gap)

    def producer(self, topic: str) -> FakeProducer:
        return FakeProducer(self.cluster, max_message_bytes=self.max_message_bytes)

    async def close(self) -> None:
        await asyncio.sleep(0)  # a rebalance that a stop has asked for


class KafkaScene:
    def __init__(self, bootstrap: str, fresh_name: Callable[[str], str]) -> None:
        self.bootstrap = bootstrap
        self._name = fresh_name
        self._producer: AIOKafkaProducer | None = None

    async def topic(self, partitions: int = 1, *, settings: Mapping[str, str] | None = None) -> list[TopicPartition]:
        name = self._name("topic")
        await create_topics(self.bootstrap, [Topic(name, partitions, settings=settings or {})])
        return [TopicPartition(name, number) for number in range(partitions)]

    async def append(
        self, partition: TopicPartition, *values: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> None:
        if self._producer is None:
            self._producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
            await self._producer.start()
        for value in values:
            await self._producer.send(
                partition.topic, value, key=key, partition=partition.partition, headers=list(headers)
            )
        await self._producer.flush()

    async def delete_before(self, partition: TopicPartition, offset: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({Theirs(*partition): RecordsToDelete(offset)})
        finally:
            await admin.close()

    def settings(self, topics: Collection[str], group: str, start: str = "earliest") -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=self.bootstrap,
            group_id=group,
            topics=tuple(topics),
            dead_letter_topic="dead",
            start="latest" if start == "latest" else "earliest",
            session_timeout_s=SESSION_TIMEOUT_S,
        )

    def source(
        self, topics: Collection[str], group: str, *, start: str = "earliest", accept_gap: bool = False
    ) -> Source:
        settings = self.settings(topics, group, start)
        return KafkaSource(settings, drain_s=2, clock=SystemClock(), accept_gap=accept_gap)

    def producer(self, topic: str) -> KafkaProducer:
        return KafkaProducer(self.settings(["unread"], "unread").model_copy(update={"dead_letter_topic": topic}))

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


class Owner:
    """Notes what it is told, and commits what it was told to when its partitions go."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, frozenset[TopicPartition]]] = []
        self.positions: dict[TopicPartition, int] = {}
        self.source: Source | None = None
        self.to_commit: dict[TopicPartition, Position] = {}
        self.may_give_back = asyncio.Event()
        self.may_give_back.set()
        self.is_giving_back = asyncio.Event()
        self.error: Exception | None = None

    async def partitions_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        if self.error is not None:
            raise self.error
        if self.source is not None:
            self.positions = {partition: self.source.position(partition) for partition in partitions}
        self.heard.append(("assigned", partitions))

    async def partitions_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.is_giving_back.set()
        await self.may_give_back.wait()
        if self.source is not None and self.to_commit:
            await self.source.commit(self.to_commit)
        self.heard.append(("revoked", partitions))


async def read_all(source: Source, count: int, *, limit_s: float = 10.0) -> list[Record]:
    """Read from all partitions until `count` records have come, and a little longer for one too many."""
    records: list[Record] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while len(records) < count:
                for batch in (await source.read(source.assignment(), max_records=500, timeout_s=0.1)).values():
                    records += batch
    for batch in (await source.read(source.assignment(), max_records=500, timeout_s=0.05)).values():
        records += batch
    return records


async def until_owned(source: Source, count: int, *, limit_s: float = 15.0) -> None:
    """Read nothing until the source owns `count` partitions."""
    async with asyncio.timeout(limit_s):
        while len(source.assignment()) != count:
            await source.read((), max_records=1, timeout_s=0.02)
