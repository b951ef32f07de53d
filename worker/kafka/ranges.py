"""A bounded read without a group: nothing is joined, nothing is committed, nobody's position moves.

    async with RangeReader.opened(settings) as reader:
        sample = await reader.last(topics, 1000, limit_s=20)

Reads what the live consumer would get (`read_committed`). Compaction and transactions leave gaps in the offsets, so a
span of a hundred offsets may hold ten records, or none.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Theirs
from aiokafka import errors as kafka_errors

from worker.errors import StartFailed
from worker.kafka.closing import close
from worker.kafka.login import check_login, where
from worker.kafka.membership import partitions_by_topic, position_of
from worker.kafka.settings import KafkaSettings, connection
from worker.kafka.wording import wording
from worker.model import Record, TopicPartition

log = structlog.get_logger(__name__)

START_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
READ_TIMEOUT_S = 0.5


class AtTime(NamedTuple):
    """The first record that is as young as a moment, or younger."""

    offset: int
    timestamp_ms: int


class Span(NamedTuple):
    """Offsets from `begin` to below `end`."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        return max(0, self.end - self.begin)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a bounded read found: in the order of each partition, and of the timestamps across them.

    `is_whole` is False when the time was up before everything asked for had been read.
    """

    records: Sequence[Record]
    is_whole: bool


class RangeReader:
    """Reads spans of partitions. Use from one event loop, one read at a time."""

    def __init__(self, settings: KafkaSettings, *, sees_open_transactions: bool = False) -> None:
        self._settings = settings
        self._where = where(settings)
        self._options = connection(settings)
        self._consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # every position is set here; none is guessed
            isolation_level="read_uncommitted" if sees_open_transactions else "read_committed",
        )
        self.lost: dict[TopicPartition, int] = {}  # records that retention deleted while they were being read

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, settings: KafkaSettings, *, limit_s: float = START_LIMIT_S, sees_open_transactions: bool = False
    ) -> AsyncIterator[RangeReader]:
        """Connect, and close in the end. Raises StartFailed, within `limit_s`.

        `sees_open_transactions`: the ends are those of the log; what nobody has committed yet is in front of them.
        """
        reader = cls(settings, sees_open_transactions=sees_open_transactions)
        try:
            await reader._start(limit_s)
            yield reader
        finally:
            await reader._stop()

    async def _start(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await check_login(self._settings, self._options)  # only here the library says why a login fails
                await self._consumer.start()
        except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise StartFailed(f"{self._where}: {wording(error)}") from error

    async def _stop(self) -> None:
        if (error := await close(self._consumer, limit_s=STOP_LIMIT_S)) is not None:
            log.warning("ranges.stopped_late", error=wording(error))

    async def spans(self, topics: Collection[str]) -> dict[TopicPartition, Span]:
        """Return what there is of these topics now, by partition. Raises StartFailed for one that is not there."""
        # All topics, not ours by name: asking for an unknown one by name never returns, and may create it.
        known = await self._ask(partitions_by_topic(self._consumer))
        if missing := [topic for topic in topics if topic not in known]:
            raise StartFailed(
                f"{self._where}: topic {missing[0]} does not exist, or this login may not describe it; correct the"
                " name, or grant Read and Describe"
            )
        every = [Theirs(topic, number) for topic in topics for number in known[topic]]
        begins = await self._ask(self._consumer.beginning_offsets(every))
        ends = await self._ask(self._consumer.end_offsets(every))
        return {TopicPartition(*one): Span(begins[one], ends[one]) for one in sorted(every)}

    async def at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> dict[TopicPartition, AtTime | None]:
        """Return the first record of each partition that is not older; None where there is none. Raises StartFailed."""
        if not partitions:
            return {}
        found = await self._ask(self._consumer.offsets_for_times({Theirs(*one): timestamp_ms for one in partitions}))
        return {TopicPartition(*one): at and AtTime(at.offset, at.timestamp) for one, at in found.items()}

    async def read(self, spans: Mapping[TopicPartition, Span]) -> AsyncIterator[Sequence[Record]]:
        """Yield all records of the spans in batches of one partition each, in its order. Raises StartFailed.

        Goes on for as long as it takes: put a time limit around it. While the broker is away it waits.
        """
        left = {Theirs(*partition): span.end for partition, span in spans.items() if span.size}
        if not left:
            return
        self._consumer.assign(list(left))
        for partition in left:  # in the same step, so that no position is left for the library to find
            self._consumer.seek(partition, spans[TopicPartition(*partition)].begin)
        while left:
            for partition, records in (await self._some(list(left))).items():
                if batch := [record for record in records if record.offset < left[partition]]:
                    yield batch
            for partition, end in list(left.items()):
                if (position_of(self._consumer, TopicPartition(*partition)) or 0) >= end:
                    del left[partition]

    async def last(self, topics: Collection[str], count: int, *, limit_s: float) -> Sample:
        """Return the newest `count` records of the topics, evenly from the ends of their partitions.

        Where a partition has less than its share the others make up for it; where offsets have gaps it reads further
        back. Takes `limit_s` at most, and then returns what it has. Raises StartFailed.
        """
        found: dict[TopicPartition, list[Record]] = {}
        try:
            async with asyncio.timeout(limit_s):
                await self._read_last(topics, count, found)
        except TimeoutError:
            return Sample(_newest(found, count), is_whole=False)
        return Sample(_newest(found, count), is_whole=True)

    async def _read_last(self, topics: Collection[str], count: int, found: dict[TopicPartition, list[Record]]) -> None:
        whole = await self.spans(topics)
        begins = {partition: span.end for partition, span in whole.items()}
        wanted = count
        while wanted > 0:
            room = {partition: begin - whole[partition].begin for partition, begin in begins.items()}
            spans = {
                partition: Span(begins[partition] - share, begins[partition])
                for partition, share in shares(room, wanted).items()
                if share
            }
            if not spans:
                return
            newer = {partition: found.pop(partition, []) for partition in spans}
            try:
                async for batch in self.read(spans):
                    found.setdefault(TopicPartition(batch[0].topic, batch[0].partition), []).extend(batch)
            finally:
                for partition, records in newer.items():
                    found.setdefault(partition, []).extend(records)
            begins |= {partition: span.begin for partition, span in spans.items()}
            missing = count - sum(len(records) for records in found.values())
            # Where most offsets are gaps, each further step is twice as long: the way back is found in a few.
            wanted = max(missing, 2 * wanted) if missing > 0 else 0

    async def _some(self, partitions: list[Theirs]) -> Mapping[Theirs, Sequence[Record]]:
        """Return what has arrived. Raises StartFailed for what does not pass by itself."""
        try:
            batches: Mapping[Theirs, Sequence[Record]] = await self._consumer.getmany(
                *partitions, timeout_ms=READ_TIMEOUT_S * 1000
            )
        except kafka_errors.OffsetOutOfRangeError as error:
            await self._skip_what_is_gone(error.args[0])
            return {}
        except kafka_errors.KafkaError as error:
            if not error.retriable:
                raise StartFailed(f"{self._where}: {wording(error)}") from error
            log.warning("ranges.read_failed", error=wording(error))
            return {}
        return batches

    async def _skip_what_is_gone(self, offsets: Mapping[Theirs, int]) -> None:
        begins = await self._ask(self._consumer.beginning_offsets(list(offsets)))
        for partition, offset in offsets.items():
            ours = TopicPartition(*partition)
            self.lost[ours] = self.lost.get(ours, 0) + max(0, begins[partition] - offset)
            self._consumer.seek(partition, begins[partition])

    async def _ask(self, question: Awaitable[Any]) -> Any:
        try:
            return await question
        except kafka_errors.KafkaError as error:
            raise StartFailed(f"{self._where}: {wording(error)}") from error


def shares(room: Mapping[TopicPartition, int], count: int) -> dict[TopicPartition, int]:
    """Divide `count` evenly; what one has no room for goes to the others."""
    given: dict[TopicPartition, int] = {}
    left = count
    # From the smallest on, each takes an even share of what is left, or all it has.
    for position, (partition, size) in enumerate(sorted(room.items(), key=lambda item: item[1])):
        given[partition] = min(size, -(-left // (len(room) - position)))
        left -= given[partition]
    return given


def _newest(found: Mapping[TopicPartition, Sequence[Record]], count: int) -> Sequence[Record]:
    by_time: Callable[[Record], int] = lambda record: record.timestamp  # noqa: E731
    merged: Iterator[Record] = heapq.merge(*found.values(), key=by_time)
    records = list(merged)
    return records[max(0, len(records) - count) :]
