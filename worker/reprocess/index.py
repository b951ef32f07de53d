"""What stands in the dead-letter topic, in a form of which a million entries fit: the latest of each key counts. Pure.

    index = Index()
    for message in messages:            # of each partition in its order; the partitions in any
        index.add(message, ...)
    index.rows(...)                     # the letters that are there now

Kept per letter: a digest of its key and some 80 bytes in columns, no texts and no values. A tombstone resolves a
letter, and stays known, since a letter of a partition that is read later may be older: a topic that was given more
partitions has one key in two of them, and then the broker's time of writing decides.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from worker.deadletters.glance import Glance, Kind
from worker.model import Record, TopicPartition

_KEY_BYTES = 16
_GONE = -1
_NO_USER = 0


class Origin(NamedTuple):
    """Where records of letters came from: a topic, and the run id of a backfill."""

    topic: str
    run: str


class Where(NamedTuple):
    """Where in the dead-letter topic a letter stands."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Group:
    """The letters of one fingerprint. Times are Unix milliseconds, of the deaths."""

    kind: Kind
    records: int
    users: int
    first_ms: int
    last_ms: int
    example: str  # the place of the record that died last


def user_number(text: bytes) -> int:
    """Return what stands for a user where they are only counted: eight bytes of a hash; never 0."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") or 1


class Index:
    """Columns, one row per key. Rows are numbers; a row whose letter is resolved is not among `rows()`."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self.origins: list[Origin] = []
        self.messages = 0  # that were read, tombstones and what is no letter included
        self.tombstones = 0
        self._rows: dict[bytes, int] = {}
        self._kind_of: dict[str, int] = {}
        self._origin_of: dict[Origin, int] = {}
        self._kind = array("i")
        self._partition = array("i")
        self._offset = array("q")
        self._written = array("q")
        self._died = array("q")
        self._origin = array("i")
        self._origin_partition = array("i")
        self._origin_offset = array("q")
        self._timestamp = array("q")
        self._bytes = array("i")
        self._user = array("Q")
        self._generation = array("i")
        self._is_chosen = array("b")
        self._columns = (
            self._kind, self._partition, self._offset, self._written, self._died, self._origin, self._origin_partition,
            self._origin_offset, self._timestamp, self._bytes, self._user, self._generation, self._is_chosen,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Index {len(self._rows)} keys of {self.messages} messages, {len(self.kinds)} kinds>"

    def add(self, message: Record, seen: Glance | None, *, user: int = _NO_USER, is_chosen: bool = True) -> None:
        """Take a message; `seen` is None for a tombstone."""
        self.messages += 1
        row = self._row(message)
        if row is None:
            return
        self._partition[row], self._offset[row] = message.partition, message.offset
        self._written[row] = message.timestamp
        if seen is None:
            self.tombstones += 1
            self._kind[row] = _GONE
            return
        self._kind[row] = self._number_of(seen.kind)
        self._died[row] = seen.died_ms
        self._origin[row] = self._origin_number(Origin(seen.topic, seen.run))
        self._origin_partition[row], self._origin_offset[row] = seen.partition, seen.offset
        self._timestamp[row] = seen.timestamp_ms
        self._bytes[row] = len(message.value or b"")
        self._user[row] = user
        self._generation[row] = seen.generation
        self._is_chosen[row] = is_chosen

    def _row(self, message: Record) -> int | None:
        """Return the row of a message's key, a new one if there is none; None if what is known of it is newer."""
        digest = _digest(message.key or b"")
        row = self._rows.get(digest)
        if row is None:
            row = self._rows[digest] = len(self._kind)
            for column in self._columns:
                column.append(0)
        elif self._partition[row] != message.partition and self._written[row] > message.timestamp:
            return None
        return row

    def _number_of(self, kind: Kind) -> int:
        number = self._kind_of.get(kind.fingerprint)
        if number is None:
            number = self._kind_of[kind.fingerprint] = len(self.kinds)
            self.kinds.append(kind)
        return number

    def _origin_number(self, origin: Origin) -> int:
        number = self._origin_of.get(origin)
        if number is None:
            number = self._origin_of[origin] = len(self.origins)
            self.origins.append(origin)
        return number

    # --- what is there ----------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[int]:
        """Yield the letters that are there and were chosen."""
        for row, (kind, is_chosen) in enumerate(zip(self._kind, self._is_chosen, strict=True)):
            if kind != _GONE and is_chosen:
                yield row

    def kind(self, row: int) -> Kind:
        return self.kinds[self._kind[row]]

    def where(self, row: int) -> Where:
        return Where(self._partition[row], self._offset[row])

    def died_ms(self, row: int) -> int:
        return self._died[row]

    def generation(self, row: int) -> int:
        return self._generation[row]

    def size_bytes(self, row: int) -> int:
        return self._bytes[row]

    def origin(self, row: int) -> tuple[Origin, TopicPartition, int]:
        """Return the run, the partition and the offset that a letter's record came from."""
        origin = self.origins[self._origin[row]]
        return origin, TopicPartition(origin.topic, self._origin_partition[row]), self._origin_offset[row]

    def row_of(self, key: bytes) -> int | None:
        """Return the row of a letter that is there, chosen or not, by its key in the topic."""
        row = self._rows.get(_digest(key))
        return row if row is not None and self._kind[row] != _GONE else None

    def is_chosen(self, row: int) -> bool:
        return bool(self._is_chosen[row])

    def place(self, row: int) -> str:
        """Return the letter's name: topic/partition/offset of its record, and the run."""
        origin, partition, offset = self.origin(row)
        return f"{partition}/{offset}" + (f"/{origin.run}" if origin.run else "")

    def in_original_order(self, rows: Iterator[int]) -> Sequence[int]:
        """Return rows as their records came: each partition by offset, and the partitions side by side, by time.

        A record's timestamp may be behind that of the record before it; it counts as that one's then, so that no
        record overtakes an earlier one of its partition.
        """
        by_partition: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            by_partition.setdefault((self._origin[row], self._origin_partition[row]), []).append(row)
        timed: list[tuple[int, int]] = []  # (time, position): the second keeps what belongs together in its order
        ordered: list[int] = []
        for key in sorted(by_partition):
            latest_ms = -1
            for row in sorted(by_partition.pop(key), key=self._origin_offset.__getitem__):
                latest_ms = max(latest_ms, self._timestamp[row])
                timed.append((latest_ms, len(ordered)))
                ordered.append(row)
        timed.sort()
        return array("i", (ordered[position] for _, position in timed))

    def groups(self) -> list[Group]:
        """Return the groups of what is there, the greatest first."""
        by_kind: dict[int, array[int]] = {}
        for row in self.rows():
            by_kind.setdefault(self._kind[row], array("i")).append(row)
        found = [self._group(self.kinds[number], rows) for number, rows in by_kind.items()]
        return sorted(found, key=lambda group: (-group.records, group.kind.fingerprint))

    def _group(self, kind: Kind, rows: array[int]) -> Group:
        newest = max(rows, key=lambda row: (self._died[row], row))
        return Group(
            kind,
            records=len(rows),
            users=_distinct(self._user[row] for row in rows),
            first_ms=min(self._died[row] for row in rows),
            last_ms=self._died[newest],
            example=self.place(newest),
        )


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=_KEY_BYTES).digest()


def _distinct(numbers: Iterator[int]) -> int:
    """Count different numbers; 0 stands for none."""
    ordered, count, before = sorted(numbers), 0, _NO_USER
    for number in ordered:
        if number != before:
            count, before = count + 1, number
    return count
