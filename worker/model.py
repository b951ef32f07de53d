"""The values that travel between rooms: Record, Event, CallName, Outcome.

Pure. Words are those of the README's table; there is one word per thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

# What a JSON document holds. Recursive aliases keep `Any` out of the rooms.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class TopicPartition(NamedTuple):
    """A partition. `str()` reads `topic/partition`, as in logs and dead letters."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(Protocol):
    """What Kafka handed over; the bytes are never touched.

    A Protocol, because aiokafka's ConsumerRecord already has this shape: copying every record of a stream that nobody
    wants would cost as much as reading it. `KafkaRecord` is the frozen value for everybody else.
    """

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, by the producer or the broker; -1 where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """A Record by value: in tests, examples, files."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = -1


def place(record: Record) -> str:
    """Return `topic/partition/offset`, the one way a record is named to people."""
    return f"{record.topic}/{record.partition}/{record.offset}"


class Event(NamedTuple):
    """What a codec reads in a record, one or more of them."""

    payload: Mapping[str, Json]
    number: int = 0  # position among the events of one record
    attributes: Mapping[str, Json] | None = None  # what an envelope said (CloudEvents' attributes), if there was one


class CallName(NamedTuple):
    """Names one call among those of its record; stable across retries, restarts and processes."""

    event: int  # index of the event in the record
    rule: str
    item: int = 0  # position in the list of `each`, before `when`; 0 without one

    def __str__(self) -> str:
        return f"{self.event}/{self.rule}/{self.item}"


class OutcomeKind(StrEnum):
    """How a call ended."""

    DELIVERED = "delivered"
    CAPPED = "capped"  # refused by the API as a business outcome: the user's daily cap
    STALE = "stale"  # older than its rule allows
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one call, and what is known of how it came about."""

    kind: OutcomeKind
    reason: str  # stable snake_case, a row of `explain`
    code: int | None = None  # Gigya's errorCode, where one was read
    call_id: str = ""  # Gigya's callId of the last answer: what its support asks for
    attempts: int = 0
    maybe_executed: bool = False  # an attempt may have been executed though no answer said so
    text: str = ""  # safe to log: no UID, no payload, no secret
    details: Mapping[str, str] = field(default_factory=dict)  # e.g. provider -> result; safe to log


class RecordEnd(StrEnum):
    """How a record ended; exactly one of these, and only then may its offset be passed."""

    FILTERED = "filtered"
    DONE = "done"
    STALE = "stale"
    DEAD_LETTERED = "dead_lettered"
