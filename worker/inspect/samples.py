"""Which records are in a file, or come through a pipe?

One line is one record's value, the bytes as they stand; blank lines are none. Input whose first line is no whole JSON
is read as JSON documents that take several lines (one, or many in a row, as `jq .` writes them); if it is not that
either, its lines are records after all, and the codec says what is wrong with each. gzip is known by its first bytes.

Nothing is lost in silence: an archive that is cut off or damaged gives all the lines that are whole, and `damage` says
where it ends and how much of a line is missing.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import orjson

from worker.errors import WorkerError
from worker.model import Json, KafkaRecord, Record, place

CHUNK_BYTES = 64 * 1024
# One event; no broker takes such a message. Without a limit a file without line ends would be read into memory whole.
MAX_LINE_BYTES = 64 * 1024 * 1024
_SPACE = re.compile(r"\s*")
_GZIP = b"\x1f\x8b"
# What we do not read, by first bytes -> how to make it readable.
_ARCHIVES = (
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\xfd7zXZ", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
)


class Unreadable(WorkerError):
    """The input cannot be read at all. The text is one line that says what is wrong and what to do."""

    reason = "unreadable_input"


@dataclass(frozen=True, slots=True)
class Sampled:
    """A record, and where a person finds it: `file:line`, or `topic/partition/offset`."""

    where: str
    record: Record


class Sample(Protocol):
    """Records, to be gone through once."""

    damage: str  # known in the end: what is missing, and why; empty when it is whole

    @property
    def has_places(self) -> bool:
        """Return whether the records tell the partition and the time they had in Kafka."""
        ...

    def __iter__(self) -> Iterator[Sampled]: ...


@dataclass(slots=True)
class LiveSample:
    """Records that were read from Kafka."""

    records: Sequence[Record]
    damage: str = ""
    has_places: bool = True

    def __iter__(self) -> Iterator[Sampled]:
        return (Sampled(place(record), record) for record in self.records)


class Recording:
    """The records of one stream, in order; to be gone through once.

    `topic` and `now_ms` are what the record of a plain line is said to have: as if it had been written to Kafka now.
    """

    def __init__(self, name: str, stream: BinaryIO, *, topic: str, now_ms: int, is_kcat: bool = False) -> None:
        self._name = name
        self._topic = topic
        self._now_ms = now_ms
        self._is_kcat = is_kcat
        self._buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(_Raw(stream))
        self._lines_read = 0
        self.damage = ""  # once all was read: why the end is missing; empty when it is whole

    @property
    def has_places(self) -> bool:
        return self._is_kcat

    def __iter__(self) -> Iterator[Sampled]:
        """Yield the records. Raises Unreadable."""
        for line, value in self._values():
            if self._is_kcat:
                record = self._from_kcat(line, value)
                yield Sampled(place(record), record)
            else:
                record = KafkaRecord(self._topic, 0, line, value, timestamp=self._now_ms)
                yield Sampled(f"{self._name}:{line}", record)

    def _values(self) -> Iterator[tuple[int, bytes]]:
        """Yield each value with the number of its first line."""
        lines = self._lines()
        for number, line in lines:
            if self._is_kcat or _is_whole(line) or line.lstrip(b"\xef\xbb\xbf \t")[:1] not in (b"{", b"["):
                yield number, line
                break
            yield from self._documents(number, line, lines)
            return
        yield from lines

    def _documents(self, first: int, line: bytes, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Yield the documents that start with `line`, or all lines where they do not make documents."""
        taken, size = [(first, line)], len(line)
        for number, following in lines:
            taken.append((number, following))
            size += len(following)
            if size > MAX_LINE_BYTES:
                yield from taken
                yield from lines
                return
        documents, is_all = _split(taken)
        if is_all or (self.damage and documents):
            yield from documents
        elif self.damage and not any(each.startswith(b"{") and _is_whole(each) for _, each in taken[1:]):
            self.damage += "; the document that starts there is not whole, and not shown"
        else:
            yield from taken

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and bytes of every line that is not blank, without the white space around it."""
        pending: list[bytes] = []  # of the line that has not ended yet
        pending_bytes = 0
        read = self._reader()
        while chunk := self._next(read):
            first, *more = chunk.split(b"\n")
            pending.append(first)
            pending_bytes += len(first)
            if more:
                *whole, last = b"".join(pending), *more
                pending, pending_bytes = [last], len(last)
                yield from self._counted(whole)
            elif pending_bytes > MAX_LINE_BYTES:
                raise Unreadable(
                    f"{self._name}: line {self._lines_read + 1} is longer than {MAX_LINE_BYTES >> 20} MiB; write one"
                    " event per line"
                )
        if not self.damage:
            yield from self._counted([b"".join(pending)])
            return
        cut = f"; {pending_bytes} bytes of line {self._lines_read + 1} are not shown" if pending_bytes else ""
        self.damage = f"{self._name}: {self.damage} after line {self._lines_read}{cut}"

    def _counted(self, lines: list[bytes]) -> Iterator[tuple[int, bytes]]:
        for line in lines:
            self._lines_read += 1
            if stripped := line.strip(b" \t\r"):
                yield self._lines_read, stripped

    def _reader(self) -> Callable[[], bytes]:
        start = self._buffered.peek(8)[:8]
        for magic, kind, command in _ARCHIVES:
            if start.startswith(magic):
                raise Unreadable(
                    f"{self._name} is {kind}; unpack it on the way: {command} {self._name} | gigya-worker try -"
                )
        if start.startswith(_GZIP):
            unpacked = gzip.GzipFile(fileobj=self._buffered)
            return lambda: unpacked.read1(CHUNK_BYTES)
        return lambda: self._buffered.read1(CHUNK_BYTES)

    def _next(self, read: Callable[[], bytes]) -> bytes:
        """Return some bytes; none at the end, or where nothing more can be read."""
        try:
            return read()
        except EOFError:
            self.damage = "the gzip archive is cut off"
        except (gzip.BadGzipFile, zlib.error):
            self.damage = "the gzip archive is damaged, or something else follows it"
        except OSError as error:
            raise Unreadable(f"{self._name} cannot be read ({error.strerror or type(error).__name__})") from error
        return b""

    def _from_kcat(self, line: int, value: bytes) -> KafkaRecord:
        try:
            return _record(orjson.loads(value))
        except (ValueError, KeyError, TypeError):  # whatever it is: the line is not what it was said to be
            raise Unreadable(
                f"{self._name}:{line} is no record as `kcat -J` writes it (topic, partition, offset, ts, headers, key,"
                " payload); without --kcat a line is an event itself"
            ) from None


class _Raw(io.RawIOBase):
    """Any binary stream as a raw one, so that it can be looked at before it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the type of a buffer is not public
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_whole(line: bytes) -> bool:
    try:
        orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return True


def _split(lines: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], bool]:
    """Return the JSON documents that lines make, each with the number of its first line, and whether that is all."""
    numbers = [number for number, _ in lines]
    decoder = json.JSONDecoder()
    found: list[tuple[int, bytes]] = []
    try:
        text = b"\n".join(line for _, line in lines).decode("utf-8-sig")
        at = line = 0
        while at < len(text):
            _, end = decoder.raw_decode(text, at)
            found.append((numbers[line], text[at:end].encode()))
            following = _SPACE.match(text, end)
            at, begin = following.end() if following else end, at
            line += text.count("\n", begin, at)
    except (ValueError, RecursionError):
        return found, False
    return found, True


def _record(line: Json) -> KafkaRecord:
    """Return the record that a line of `kcat -J` stands for. Raises ValueError, KeyError or TypeError."""
    if not isinstance(line, dict):
        raise TypeError
    flat = line.get("headers") or []
    names, values = flat[::2], flat[1::2]
    timestamp = line.get("ts", -1)
    return KafkaRecord(
        topic=_text(line["topic"]),
        partition=int(line["partition"]),
        offset=int(line["offset"]),
        value=_bytes(line["payload"]),
        key=_bytes(line.get("key")),
        headers=[(_text(name), _bytes(value)) for name, value in zip(names, values, strict=True)],
        timestamp=int(timestamp),
    )


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _bytes(value: Json) -> bytes | None:
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    return orjson.dumps(value)  # kcat shows a payload that it can read (-s) as JSON
