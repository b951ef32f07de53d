"""Records that were too large for the dead-letter topic, fetched from their source topic while it still has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from worker.deadletters.record import DeadLetter, Reference
from worker.errors import StartFailed
from worker.kafka.ranges import Span
from worker.model import KafkaRecord, Record, TopicPartition
from worker.reprocess.reading import Reader, rounds


class References:
    """Restores letters that are references. One after the other, from the reader that reads the letters, too."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._spans: dict[str, Mapping[TopicPartition, Span]] = {}

    async def restored(self, letters: Sequence[DeadLetter]) -> dict[bytes, DeadLetter]:
        """Return the letters with the records they stand for, by key; those whose record is gone are left out."""
        wanted: dict[TopicPartition, dict[int, list[DeadLetter]]] = {}
        for letter in letters:
            record = letter.record
            partition = TopicPartition(record.topic, record.partition)
            span = (await self._spans_of(record.topic)).get(partition)
            if span is not None and span.begin <= record.offset < span.end:
                wanted.setdefault(partition, {}).setdefault(record.offset, []).append(letter)
        found: dict[bytes, DeadLetter] = {}
        for spans in rounds({partition: sorted(offsets) for partition, offsets in wanted.items()}):
            async for batch in self._reader.read(spans):
                of_partition = wanted[TopicPartition(batch[0].topic, batch[0].partition)]
                for record in batch:
                    for letter in of_partition.get(record.offset, ()):
                        if is_same(letter.reference, record):
                            found[letter.key] = replace(letter, record=_by_value(record))
        return found

    async def _spans_of(self, topic: str) -> Mapping[TopicPartition, Span]:
        if topic not in self._spans:
            try:
                self._spans[topic] = await self._reader.spans([topic])
            except StartFailed:  # the topic is gone, and with it the records
                self._spans[topic] = {}
        return self._spans[topic]


def is_same(reference: Reference | None, record: Record) -> bool:
    """Say whether a record is the one that was too large: its topic may have been made anew since."""
    value = record.value or b""
    if reference is None or len(value) != reference.value_bytes:
        return False
    return hashlib.sha256(value).hexdigest() == reference.sha256


def _by_value(record: Record) -> Record:
    return KafkaRecord(
        record.topic,
        record.partition,
        record.offset,
        record.value,
        record.key,
        tuple(record.headers),
        record.timestamp,
    )
