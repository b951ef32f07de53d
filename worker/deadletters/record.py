"""What a dead letter looks like in Kafka: a value into key, value and headers, and back.

Pure. The value is the record's own, byte for byte; the record's own headers come first and unchanged, then ours, whose
names all begin with `dlq.`. A record may itself carry such names (it was a dead letter before, or somebody means
harm): those are written as `dlq.kept.<name>` and get their name back on reading, so that the two never mix, however
often a letter dies.

| header | what it holds |
| --- | --- |
| dlq.version | of this format |
| dlq.topic, dlq.partition, dlq.offset, dlq.timestamp (ms), dlq.key | where the record came from; a null key is a null |
| dlq.value_null | `1`: the record had no value (an empty one here would delete the letter from a compacted topic) |
| dlq.run | the run id of a backfill; absent for `run` |
| dlq.reason, dlq.code, dlq.rule, dlq.parameter, dlq.text | why, of the first failed call; safe to print |
| dlq.fingerprint | of the kind of failure: see `fingerprint` |
| dlq.calls, dlq.calls_left_out | JSON: how each call ended; how many did not fit in |
| dlq.site | of the first failed call |
| dlq.first_time, dlq.last_time | UTC: when work on the record began, when it died |
| dlq.generation | how often it was replayed before |
| dlq.rules, dlq.worker | digest of the rules, version of the worker |
| dlq.reference, dlq.sha256, dlq.value_bytes, dlq.headers_left_out, dlq.key_left_out | only on a reference |
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from worker.deadletters.ends import CallEnd, Damaged, calls_from_json, calls_to_json
from worker.errors import WorkerError
from worker.model import KafkaRecord, Record, place

VERSION = 1
PREFIX = "dlq."
KEPT = "dlq.kept."
TEXT_LIMIT = 1_000  # characters; a reader wants a sentence, and a record near the topic's limit has room for no more
CALLS_LIMIT_BYTES = 32_768  # some 180 calls in full; more are written in fewer words
# A reference must fit where its record did not: all of it stays below 16 KB, whatever the record was.
REFERENCE_CALLS_LIMIT_BYTES = 8_192
REFERENCE_KEY_LIMIT_BYTES = 1_024

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Headers = Sequence[tuple[str, bytes | None]]


class NotADeadLetter(WorkerError):
    """A message of the dead-letter topic that cannot be read as a dead letter: foreign, damaged, or of a newer format.

    The text names the header and never its value.
    """

    reason = "not_a_dead_letter"


class Message(NamedTuple):
    """What is handed to a producer."""

    key: bytes
    value: bytes | None  # None: a tombstone
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """Stands for the bytes of a record that is too large for the dead-letter topic: it has to be fetched again."""

    sha256: str  # of the value, hex; of nothing if there was none
    value_bytes: int
    headers_left_out: int = 0
    key_left_out: bool = False


@functools.cache
def worker_version() -> str:
    """Return the version of the installed package, as written into dead letters."""
    try:
        return importlib.metadata.version("gigya-worker")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be done, and why: reason, code, rule, parameter and site are of its first failed call."""

    record: Record  # of a reference: without value and headers, and without a long key
    reason: str  # stable snake_case, a row of `explain`
    text: str  # safe to print
    fingerprint: str
    calls: tuple[CallEnd, ...] = ()  # in the order of mapping; empty if the record could not become calls
    site: str = ""
    first_s: float = 0.0  # Unix time, kept to the millisecond
    last_s: float = 0.0
    generation: int = 0
    rules_digest: str = ""
    code: int | None = None
    rule: str = ""
    parameter: str = ""
    run: str = ""  # run id of a backfill
    worker_version: str = field(default_factory=worker_version)
    calls_left_out: int = 0  # calls whose end did not fit in: whoever replays must take them for maybe executed
    reference: Reference | None = None

    @property
    def key(self) -> bytes:
        """Return the letter's key in the dead-letter topic: one record (of one run) has one letter there."""
        return key_of(self.record, self.run)


def key_of(record: Record, run: str = "") -> bytes:
    """Return the key of a record's dead letter, and of the tombstone that withdraws it."""
    return (place(record) + (f"/{run}" if run else "")).encode("utf-8", "surrogateescape")


# --- what failures have in common --------------------------------------------------------------------------------

_QUOTED = re.compile(r'"[^"]*(?:"|$)|`[^`]*(?:`|$)|(?<!\w)\'[^\']*\'(?!\w)|\u201c[^\u201d]*(?:\u201d|$)')
_ADDRESS = re.compile(r"\b\w+://\S+|\S+@\S+")
_WITH_DIGIT = re.compile(r"[\w-]*\d[\w-]*")  # numbers, hex, UUIDs, ids such as u-1881; minus signs go with them
_REPEATED = re.compile(r"#(?:[.,:/+ -]+#)+")  # 1.5, 10:30, 2026/11/22: one value, as 2 is


def normalised(text: str) -> str:
    """Return `text` without what differs from record to record: numbers, ids, UUIDs, addresses, quoted values."""
    for pattern in (_QUOTED, _ADDRESS, _WITH_DIGIT, _REPEATED):
        text = pattern.sub("#", text)
    return " ".join(text.split())[:TEXT_LIMIT]


def fingerprint(*, reason: str, code: int | None = None, rule: str = "", parameter: str = "", text: str = "") -> str:
    """Return 16 hex digits that are equal for failures of one kind, in every process and version.

    Ten thousand dead letters then read as four groups. Changing what goes in splits the groups of a topic in two: raise
    the version in that case.
    """
    kind = json.dumps([reason, code, rule, parameter, normalised(text)], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(kind.encode()).hexdigest()[:16]


# --- writing -----------------------------------------------------------------------------------------------------


def as_reference(letter: DeadLetter) -> DeadLetter:
    """Return the letter without the record's bytes, for a topic that is too small for them."""
    if letter.reference is not None:
        return letter
    record, value = letter.record, letter.record.value or b""
    key_is_long = record.key is not None and len(record.key) > REFERENCE_KEY_LIMIT_BYTES
    return replace(
        letter,
        record=KafkaRecord(
            record.topic,
            record.partition,
            record.offset,
            value=None,
            key=None if key_is_long else record.key,
            timestamp=record.timestamp,
        ),
        reference=Reference(hashlib.sha256(value).hexdigest(), len(value), len(record.headers), key_is_long),
    )


def encode(letter: DeadLetter) -> Message:
    """Return the message that keeps this letter. Its headers of ours are bounded; the record's own are not."""
    record = letter.record
    kept = tuple((KEPT + name if name.startswith(PREFIX) else name, value) for name, value in record.headers)
    return Message(letter.key, record.value or b"", kept + tuple(_own_headers(letter)))


def _own_headers(letter: DeadLetter) -> list[tuple[str, bytes | None]]:
    record, reference = letter.record, letter.reference
    calls, left_out = calls_to_json(letter.calls, REFERENCE_CALLS_LIMIT_BYTES if reference else CALLS_LIMIT_BYTES)
    left_out += letter.calls_left_out
    texts: dict[str, str | int | None] = {
        "version": VERSION,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "value_null": 1 if record.value is None and reference is None else None,
        "run": letter.run or None,
        "reason": letter.reason,
        "code": letter.code,
        "rule": _cut(letter.rule) or None,
        "parameter": _cut(letter.parameter) or None,
        "fingerprint": letter.fingerprint,
        "calls_left_out": left_out or None,
        "site": letter.site or None,
        "first_time": _time_text(letter.first_s),
        "last_time": _time_text(letter.last_s),
        "generation": letter.generation,
        "rules": letter.rules_digest,
        "worker": letter.worker_version,
        "text": _cut(letter.text),
    }
    if reference is not None:
        texts |= {
            "reference": 1,
            "sha256": reference.sha256,
            "value_bytes": reference.value_bytes,
            "headers_left_out": reference.headers_left_out or None,
            "key_left_out": 1 if reference.key_left_out else None,
        }
    own: list[tuple[str, bytes | None]] = [
        (PREFIX + name, _bytes(text)) for name, text in texts.items() if text is not None
    ]
    return [*own, (PREFIX + "key", record.key), (PREFIX + "calls", calls)]


def _bytes(text: str | int) -> bytes:
    # surrogateescape: a file's name need not be UTF-8. Another lone surrogate is a bug upstream and no reason to lose
    # the record.
    try:
        return str(text).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return str(text).encode("utf-8", "replace")


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "\u2026"


def _time_text(seconds: float) -> str:
    moment = _EPOCH + datetime.timedelta(milliseconds=round(seconds * 1000))
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


# --- reading -----------------------------------------------------------------------------------------------------


def decode(key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter:
    """Return the letter in a message of the dead-letter topic.

    Raises NotADeadLetter, and nothing else, for whatever anybody may have written there. A message without a value is
    a tombstone: a letter that was resolved. Headers of ours that are unknown are passed over: a newer worker of the
    same format may have added them.
    """
    if value is None:
        raise NotADeadLetter("a tombstone: this dead letter has been resolved")
    own, kept = _sorted_out(headers)
    read = _Reader(own)
    if "version" not in own:
        raise NotADeadLetter("no header dlq.version: something else than this worker wrote it")
    version = read.number("version")
    if version != VERSION:
        raise NotADeadLetter(f"its format is {version}, this worker reads {VERSION}: use the worker that wrote it")
    try:
        letter = _letter(read, kept, value)
    except Damaged as error:
        raise NotADeadLetter(str(error)) from error
    if letter.key != key:
        # A tombstone written under the letter's key would not reach it, and a replay would look resolved for ever.
        raise NotADeadLetter("its key is not topic/partition/offset of its headers: it was copied or changed")
    return letter


def _sorted_out(headers: Headers) -> tuple[dict[str, bytes | None], tuple[tuple[str, bytes | None], ...]]:
    own: dict[str, bytes | None] = {}
    kept: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name.startswith(KEPT):
            kept.append((name.removeprefix(KEPT), value))
        elif not name.startswith(PREFIX):
            kept.append((name, value))
        elif name.removeprefix(PREFIX) in own:
            raise NotADeadLetter(f"header {name} is there twice: something has added headers to it")
        else:
            own[name.removeprefix(PREFIX)] = value
    return own, tuple(kept)


class _Reader:
    """Reads headers by name; raises NotADeadLetter where one is missing or not what it should be."""

    def __init__(self, own: Mapping[str, bytes | None]) -> None:
        self.own = own

    def text(self, name: str, default: str | None = None) -> str:
        raw = self.own.get(name)
        if raw is None:
            if default is None or name in self.own:
                raise NotADeadLetter(f"header dlq.{name} is missing or empty")
            return default
        return raw.decode("utf-8", "surrogateescape")

    def number(self, name: str, default: int | None = None) -> int:
        text = self.text(name, None if default is None else str(default))
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise NotADeadLetter(f"header dlq.{name} is not a whole number")
        return int(text)

    def time_s(self, name: str) -> float:
        try:
            moment = datetime.datetime.fromisoformat(self.text(name))
        except ValueError:
            raise NotADeadLetter(f"header dlq.{name} is not a time") from None
        if moment.tzinfo is None:
            raise NotADeadLetter(f"header dlq.{name} is not a time in UTC")
        return ((moment - _EPOCH) // datetime.timedelta(milliseconds=1)) / 1000


def _letter(read: _Reader, kept: tuple[tuple[str, bytes | None], ...], value: bytes) -> DeadLetter:
    own = read.own
    is_reference = "reference" in own
    if "key" not in own:
        raise NotADeadLetter("header dlq.key is missing")
    return DeadLetter(
        record=KafkaRecord(
            read.text("topic"),
            read.number("partition"),
            read.number("offset"),
            value=None if is_reference or "value_null" in own else value,
            key=own["key"],
            headers=kept,
            timestamp=read.number("timestamp"),
        ),
        reason=read.text("reason"),
        text=read.text("text", ""),
        fingerprint=read.text("fingerprint"),
        calls=calls_from_json(own.get("calls") or b"[]"),
        site=read.text("site", ""),
        first_s=read.time_s("first_time"),
        last_s=read.time_s("last_time"),
        generation=read.number("generation", 0),
        rules_digest=read.text("rules", ""),
        code=read.number("code") if "code" in own else None,
        rule=read.text("rule", ""),
        parameter=read.text("parameter", ""),
        run=read.text("run", ""),
        worker_version=read.text("worker", ""),
        calls_left_out=read.number("calls_left_out", 0),
        reference=_reference(read) if is_reference else None,
    )


def _reference(read: _Reader) -> Reference:
    return Reference(
        sha256=read.text("sha256"),
        value_bytes=read.number("value_bytes"),
        headers_left_out=read.number("headers_left_out", 0),
        key_left_out="key_left_out" in read.own,
    )
