"""What the world outside the worker says of a demo: Gigya's ledger, the dead-letter topic, the committed offsets.

Nothing here asks the worker. The names of a dead letter's headers are those that the README promises to operators.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from worker.sandbox.events import SampleEvent
from worker.sandbox.gigya_ledger import Arrival, Executed, Ledger

SETTLE_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Names:
    """What the demo calls its things in Kafka."""

    topic: str = "user-events"
    dead_letters: str = "user-events.dead"
    group: str = "gigya-worker-demo"

    @classmethod
    def of_run(cls, run: str) -> Names:
        """Return names that meet nobody else's on a shared broker."""
        topic = f"gigya-worker-demo-{run}"
        return cls(topic, f"{topic}.dead", topic)


@dataclass(frozen=True, slots=True)
class Appended:
    """A sample event, and where Kafka put it."""

    event: SampleEvent
    partition: int
    offset: int

    @property
    def place(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of the dead-letter topic; `origin` is the place that its headers name."""

    origin: str
    value: bytes
    key: bytes | None  # of the record
    reason: str
    text: str
    rule: str
    parameter: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a run at one moment."""

    executed: tuple[Executed, ...]  # in order of execution
    arrivals: tuple[Arrival, ...]  # in order of arrival; copies that nobody changes any more
    letters: tuple[Letter, ...]
    ends: Mapping[int, int]  # partition -> one above its last record
    committed: Mapping[int, int]  # partition -> committed offset; absent: none yet


async def append(bootstrap: str, names: Names, events: Sequence[SampleEvent]) -> list[Appended]:
    """Write the events in their order, each to its own partition, and return where they are."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    try:
        await producer.start()
        sent = [
            await producer.send(names.topic, event.value, key=event.key, partition=event.partition) for event in events
        ]
        places = await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return [Appended(event, place.partition, place.offset) for event, place in zip(events, places, strict=True)]


async def remove(bootstrap: str, names: Names) -> None:
    """Delete the topics of a run from a broker that goes on without us."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await admin.delete_topics([names.topic, names.dead_letters])
    finally:
        await admin.close()


class Witness:
    """Looks at the local Gigya and the broker while the worker runs, and once more when it has ended."""

    def __init__(self, bootstrap: str, names: Names, partitions: int, ledger: Ledger) -> None:
        self._names = names
        self._ledger = ledger
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        # Without a group: a member of our own would take part in the worker's rebalances.
        self._reader = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=50
        )
        self._dead = TopicPartition(names.dead_letters, 0)
        self._topic = [TopicPartition(names.topic, number) for number in range(partitions)]
        self._letters: dict[str, Letter] = {}
        self._committed: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    async def __aenter__(self) -> Witness:
        try:
            await self._admin.start()
            await self._reader.start()
        except BaseException:
            await self._close()
            raise
        self._reader.assign([self._dead])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._close()

    async def look(self) -> Evidence:
        """Return what can be seen now; may lag behind by some milliseconds."""
        await self._read_letters(timeout_ms=0)
        await self._read_committed()
        return self._testimony()

    async def final(self) -> Evidence:
        """Return all there is, once the worker has ended. Raises KafkaError or TimeoutError."""
        async with asyncio.timeout(SETTLE_LIMIT_S):
            end = (await self._reader.end_offsets([self._dead]))[self._dead]
            while await self._reader.position(self._dead) < end:
                await self._read_letters(timeout_ms=50)
            await self._read_committed()
            ends = await self._reader.end_offsets(self._topic)
        self._ends = {partition.partition: offset for partition, offset in ends.items()}
        return self._testimony()

    def _testimony(self) -> Evidence:
        return Evidence(
            executed=tuple(self._ledger.executed),
            arrivals=tuple(replace(arrival) for arrival in self._ledger.arrivals),
            letters=tuple(self._letters.values()),
            ends=dict(self._ends),
            committed=dict(self._committed),
        )

    async def _read_letters(self, *, timeout_ms: int) -> None:
        for messages in (await self._reader.getmany(timeout_ms=timeout_ms)).values():
            for message in messages:
                key = (message.key or b"").decode("utf-8", "replace")
                self._letters.pop(key, None)  # as compaction would: the last one of a key counts
                if message.value is not None:  # else a tombstone: the letter has been resolved
                    self._letters[key] = _letter(message.value, dict(message.headers))

    async def _read_committed(self) -> None:
        try:
            offsets = await self._admin.list_consumer_group_offsets(self._names.group)
        except KafkaError:
            return  # the broker has no coordinator for groups yet: nothing is committed either
        self._committed = {
            place.partition: known.offset
            for place, known in offsets.items()
            if place.topic == self._names.topic and known.offset >= 0
        }

    async def _close(self) -> None:
        # aiokafka's `stop` raises its own tasks' CancelledError if it comes too soon after `start`: that is not ours.
        await asyncio.gather(self._reader.stop(), self._admin.close(), return_exceptions=True)


def _letter(value: bytes, headers: Mapping[str, bytes | None]) -> Letter:
    def text(name: str) -> str:
        return (headers.get(f"dlq.{name}") or b"").decode("utf-8", "replace")

    return Letter(
        origin=f"{text('topic')}/{text('partition')}/{text('offset')}",
        value=value,
        key=headers.get("dlq.key"),
        reason=text("reason"),
        text=text("text"),
        rule=text("rule"),
        parameter=text("parameter"),
    )
