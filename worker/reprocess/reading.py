"""Reads the dead-letter topic: once through, for the index; and then the letters that are wanted. Joins no group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.deadletters.glance import glance
from worker.deadletters.record import DeadLetter, NotADeadLetter, decode
from worker.deadletters.replays import Begun, Made, decode_mark, letter_key, made_in
from worker.errors import StartFailed
from worker.kafka.ranges import Span
from worker.model import Record, TopicPartition
from worker.reprocess.choosing import Choice, NoSuchGroup, Reading, Unclear, holds
from worker.reprocess.index import Index

# Offsets between two wanted letters that are read through rather than jumped over: a jump costs a round trip.
GAP = 2_000
PORTION = 2_000  # letters that are read at a time, in their original order
LETTER_BYTES = 2_000  # what a letter takes beside its record


class Reader(Protocol):
    """A bounded read of topics, as worker/kafka/ranges.py has it."""

    async def spans(self, topics: Sequence[str]) -> Mapping[TopicPartition, Span]:
        """Return what there is now, by partition. Raises StartFailed for a topic that is not there."""
        ...

    def read(self, spans: Mapping[TopicPartition, Span]) -> AsyncIterator[Sequence[Record]]:
        """Yield all records of the spans in batches of one partition each, in its order. Raises StartFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a topic held when it was read."""

    topic: str
    index: Index
    unclear: Unclear
    marks: dict[bytes, Begun]  # of a letter's key: a replay has begun with it, and has not ended with it


async def scan(
    reader: Reader,
    topic: str,
    choice: Choice,
    reading: Reading,
    *,
    limit_s: float | None = None,
    with_users: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Read the topic as it is now. Raises StartFailed, also when it takes longer than `limit_s`.

    `with_users`: find out whom each letter is about, too, which takes as long again. `progress` is told how many
    offsets of how many have been passed.
    """
    index, unclear = Index(), Unclear()
    marks: dict[bytes, Begun] = {}
    try:
        async with asyncio.timeout(limit_s):
            spans = await reader.spans([topic])
            done, total = 0, sum(span.size for span in spans.values())
            async for batch in reader.read(spans):
                for message in batch:
                    if (marked := letter_key(message.key)) is not None:
                        _note_mark(marks, marked, message)
                        continue
                    _take(index, unclear, message, choice, reading, with_users=with_users)
                done += len(batch)
                progress(done, total)
                await asyncio.sleep(0)
    except TimeoutError:
        raise StartFailed(
            f"topic {topic} was not read within {limit_s:g} s; give it more with --time-limit, or see to the brokers"
        ) from None
    if choice.group:
        _check_group(index, choice.group)
    return Found(topic, index, unclear, marks)


def _note_mark(marks: dict[bytes, Begun], marked: bytes, message: Record) -> None:
    begun = decode_mark(message.value) if message.value is not None else None
    if begun is None:
        marks.pop(marked, None)
    else:
        marks[marked] = begun


def _take(
    index: Index, unclear: Unclear, message: Record, choice: Choice, reading: Reading, *, with_users: bool
) -> None:
    if message.value is None:
        index.add(message, None)
        return
    try:
        seen = glance(message.key, message.headers)
    except NotADeadLetter as error:
        unclear.no_letter(message, error)
        return
    is_chosen = choice.takes(seen) and (choice.where is None or holds(choice.where, reading, message, unclear))
    user = reading.user(seen, message) if with_users and is_chosen else 0
    index.add(message, seen, user=user, is_chosen=is_chosen)


def _check_group(index: Index, digits: str) -> None:
    """Raise NoSuchGroup unless the digits mean one group that is there."""
    found = sorted({index.kind(row).fingerprint for row in index.rows()})
    if not found:
        raise NoSuchGroup(f"no group begins with {digits}; `gigya-worker dead-letters groups` lists those there are")
    if len(found) > 1:
        raise NoSuchGroup(f"several groups begin with {digits} ({', '.join(found)}): give more digits")


async def in_order(
    reader: Reader, topic: str, index: Index, rows: Sequence[int], unclear: Unclear, *, max_bytes: int
) -> AsyncIterator[list[tuple[int, DeadLetter | None]]]:
    """Yield these letters in this order, as many at a time as `max_bytes` hold; None for one that is another one now.

    Raises StartFailed.
    """
    for some in _portions(index, rows, max_bytes):
        found = await letters(reader, topic, index, some, unclear)
        yield [(row, found.get(row)) for row in some]


def _portions(index: Index, rows: Sequence[int], max_bytes: int) -> Iterator[list[int]]:
    some: list[int] = []
    size_bytes = 0
    for row in rows:
        row_bytes = index.size_bytes(row) + LETTER_BYTES
        if some and (len(some) == PORTION or size_bytes + row_bytes > max_bytes):
            yield some
            some, size_bytes = [], 0
        some.append(row)
        size_bytes += row_bytes
    if some:
        yield some


async def made_since(reader: Reader, topic: str, since_ms: int) -> list[Made] | None:
    """Return what replays have executed since then, as the topic tells; None where that cannot be told.

    Raises StartFailed.
    """
    found: list[Made] = []
    async for batch in reader.read(await reader.spans([topic])):
        for message in batch:
            if message.timestamp >= since_ms:
                made = made_in(message.headers)
                if made is None:
                    return None
                found += made
    return found


async def letters(
    reader: Reader, topic: str, index: Index, rows: Sequence[int], unclear: Unclear
) -> dict[int, DeadLetter]:
    """Return these letters; those that have changed since the scan are not among them. Raises StartFailed."""
    wanted: dict[TopicPartition, dict[int, int]] = {}  # of each partition: offset -> row
    for row in rows:
        where = index.where(row)
        wanted.setdefault(TopicPartition(topic, where.partition), {})[where.offset] = row
    found: dict[int, DeadLetter] = {}
    for spans in rounds({partition: sorted(offsets) for partition, offsets in wanted.items()}):
        async for batch in reader.read(spans):
            offsets = wanted[TopicPartition(batch[0].topic, batch[0].partition)]
            for message in batch:
                if (at := offsets.get(message.offset)) is not None and message.value is not None:
                    try:
                        found[at] = decode(message.key, message.value, message.headers)
                    except NotADeadLetter as error:
                        unclear.no_letter(message, error)
    return found


def rounds(offsets: Mapping[TopicPartition, Sequence[int]]) -> list[dict[TopicPartition, Span]]:
    """Return spans that hold these ascending offsets, one for each partition at a time: wide gaps are left out."""
    found: list[dict[TopicPartition, Span]] = []
    for partition, wanted in offsets.items():
        for number, span in enumerate(_spans(wanted)):
            if number == len(found):
                found.append({})
            found[number][partition] = span
    return found


def _spans(offsets: Sequence[int]) -> list[Span]:
    spans: list[Span] = []
    for offset in offsets:
        if spans and offset - spans[-1].end <= GAP:
            spans[-1] = Span(spans[-1].begin, offset + 1)
        else:
            spans.append(Span(offset, offset + 1))
    return spans
