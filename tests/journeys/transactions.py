"""Events as a transactional producer writes them: some of it taken back, all of it compressed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from aiokafka import AIOKafkaProducer

from tests.journeys.harness import Journey
from tests.journeys.oracle import Appended
from worker.sandbox.events import SampleEvent


class Transactions:
    """A producer of transactions into a journey's topic."""

    def __init__(self, journey: Journey, producer: AIOKafkaProducer) -> None:
        self._journey = journey
        self._producer = producer

    @classmethod
    @asynccontextmanager
    async def opened(cls, journey: Journey, *, compression: str = "zstd") -> AsyncIterator[Transactions]:
        producer = AIOKafkaProducer(
            bootstrap_servers=journey.broker.bootstrap,
            transactional_id=journey.topic,
            compression_type=compression,
            linger_ms=5,
        )
        async with producer:
            yield cls(journey, producer)

    async def append(self, events: Iterable[SampleEvent], *, taken_back: Sequence[SampleEvent], size: int = 40) -> None:
        """Append events in transactions of `size`; before each one with `taken_back` is aborted, and one in the end."""
        left = iter(events)
        while part := list(islice(left, size)):
            await self.take_back(taken_back)
            await self._producer.begin_transaction()
            written = await self.write(part)
            await self._producer.commit_transaction()
            self._journey.appended += written
        await self.take_back(taken_back)

    async def take_back(self, events: Iterable[SampleEvent]) -> None:
        """Write events and abort the transaction: they never happened."""
        await self._producer.begin_transaction()
        await self.write(events)
        await self._producer.abort_transaction()

    async def begin(self) -> None:
        await self._producer.begin_transaction()

    async def commit(self) -> None:
        await self._producer.commit_transaction()

    async def write(self, events: Iterable[SampleEvent]) -> list[Appended]:
        """Write into the open transaction, by key, and return where each event is."""
        sent = [
            (event, await self._producer.send(self._journey.topic, event.value, event.key, event.partition))
            for event in events
        ]
        await self._producer.flush()
        places = [(event, future.result()) for event, future in sent]
        return [Appended(event, (), place.partition, place.offset) for event, place in places]
