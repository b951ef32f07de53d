"""Files as a source of records: each is a partition, each line an offset, and nobody else reads them meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from worker.backfill.state_file import StateFile
from worker.errors import StartFailed, WorkerError
from worker.gigya.calls import Call
from worker.inspect.samples import Recording
from worker.kafka.membership import Found, Position, untouched
from worker.kafka.progress import Bounds
from worker.kafka.source import CommitFailed, Owner
from worker.mapping.mapper import Mapper
from worker.model import Event, Json, KafkaRecord, Record, TopicPartition

FIRST_LINE = 1
# Lines are read, and unpacked, at one go: some milliseconds of the event loop's time.
MOST_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A line. Named by its file in letters, logs and nonces; mapped as a record of a topic."""

    topic: str
    offset: int
    origin: KafkaRecord
    partition: int = 0

    @property
    def key(self) -> bytes | None:
        return self.origin.key

    @property
    def value(self) -> bytes | None:
        return self.origin.value

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        return self.origin.headers

    @property
    def timestamp(self) -> int:
        return self.origin.timestamp


class FileMapper:
    """Maps lines as records of the topic that they are said to be of."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def decode(self, record: Record) -> tuple[Event, ...]:
        return self._mapper.decode(_origin(record))

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        return self._mapper.calls(_origin(record), event)


def _origin(record: Record) -> Record:
    return record.origin if isinstance(record, FileRecord) else record


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A file as it was found."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    end: int  # one above the number of its last line
    damage: str = ""  # why its end is missing; empty when it is whole

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(f"file:{self.name}", 0)


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return what the files are called in keys of dead letters. Raises ValueError for two of one name."""
    names = tuple(path.name for path in paths)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two files are called {twice[0]}, and dead letters name them so; rename one")
    return names


def survey_file(path: Path, topic: str) -> Surveyed:
    """Read a file through: how many lines it has, and whether it is whole. Raises StartFailed."""
    end = FIRST_LINE
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with path.open("rb") as stream:
            recording = Recording(path.name, stream, topic=topic, now_ms=0)
            for sampled in recording:
                end = sampled.record.offset + 1
        return Surveyed(path.name, path, path.stat().st_size, digest, end, recording.damage)
    except OSError as error:
        raise StartFailed(f"{path} cannot be read ({error.strerror or type(error).__name__})") from error


def records_of(file: Surveyed, topic: str, stamp_ms: int, *, begin: int = FIRST_LINE) -> Iterator[FileRecord]:
    """Yield the lines of a file from one of them on."""
    with file.path.open("rb") as stream:
        for sampled in Recording(file.name, stream, topic=topic, now_ms=stamp_ms):
            record = sampled.record
            if record.offset >= begin:
                origin = KafkaRecord(topic, 0, record.offset, record.value, timestamp=stamp_ms)
                yield FileRecord(f"file:{file.name}", record.offset, origin)


@dataclass(slots=True)
class FileState:
    """What a state file says. `stamp_ms`: the time of every line that says none, the same at every start."""

    stamp_ms: int
    sha256: dict[str, str]
    positions: dict[TopicPartition, Position]

    def document(self) -> dict[str, Json]:
        return {
            "stamp_ms": self.stamp_ms,
            "files": {
                partition.topic.removeprefix("file:"): {
                    "sha256": self.sha256[partition.topic.removeprefix("file:")],
                    "next_line": position.offset,
                    "progress": position.metadata,
                }
                for partition, position in self.positions.items()
            },
        }


def begun(files: Sequence[Surveyed], stamp_ms: int, rules_digest: str) -> FileState:
    """Return the state of a run that begins."""
    positions = {file.partition: untouched(FIRST_LINE, Bounds(FIRST_LINE, file.end, rules_digest)) for file in files}
    return FileState(stamp_ms, {file.name: file.sha256 for file in files}, positions)


def state_in(document: Mapping[str, Json], where: Path) -> FileState | None:
    """Return what a state file says; None where it says nothing yet. Raises StartFailed."""
    if not document:
        return None
    stamp_ms, files = document.get("stamp_ms"), document.get("files")
    try:
        if not isinstance(stamp_ms, int) or not isinstance(files, Mapping):
            raise TypeError
        positions: dict[TopicPartition, Position] = {}
        digests: dict[str, str] = {}
        for name, said in files.items():
            if not isinstance(said, Mapping):
                raise TypeError
            line, progress, digest = said["next_line"], said["progress"], said["sha256"]
            if not (isinstance(line, int) and isinstance(progress, str) and isinstance(digest, str)):
                raise TypeError
            positions[TopicPartition(f"file:{name}", 0)] = Position(line, progress)
            digests[name] = digest
    except (KeyError, TypeError):
        raise StartFailed(f"{where} is not the state of a backfill; name another one (--state)") from None
    return FileState(stamp_ms, digests, positions)


def refuse_other_files(state: FileState, files: Sequence[Surveyed], where: Path) -> None:
    """Raise StartFailed where the files are not those that the run was begun with: its lines would be others."""
    for file in files:
        known = state.sha256.get(file.name)
        if known is None:
            raise StartFailed(f"{where} knows nothing of {file.name}: it is the state of another run; say --state")
        if known != file.sha256:
            raise StartFailed(
                f"{file.path} has changed since this run began, so that its lines may be others; a run of the new one"
                " needs a name of its own (--run-id)"
            )


class FileSource:
    """All files are this process's, from the start to the end. Use from one event loop."""

    def __init__(self, files: Sequence[Surveyed], state: FileState, held: StateFile, *, topic: str) -> None:
        self._files = {file.partition: file for file in files}
        self._state = state
        self._held = held
        self._topic = topic
        self._found = dict(state.positions)
        self._positions = {partition: position.offset for partition, position in state.positions.items()}
        self._lines: dict[TopicPartition, Iterator[FileRecord]] = {}
        self._owned: frozenset[TopicPartition] = frozenset()
        self.passed: dict[TopicPartition, int] = {}

    async def start(self, owner: Owner) -> None:
        self._owned = frozenset(self._files)
        for partition, file in self._files.items():
            begin = self._positions[partition]
            self._lines[partition] = records_of(file, self._topic, self._state.stamp_ms, begin=begin)
        await owner.partitions_assigned(self._owned)

    async def stop(self) -> None:
        self._owned = frozenset()
        self._lines.clear()

    async def read(
        self, partitions: Collection[TopicPartition], *, max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        for partition in partitions:
            try:
                batch: list[Record] = list(islice(self._lines[partition], min(max_records, MOST_AT_ONCE)))
            except OSError as error:
                file = self._files[partition]
                why = error.strerror or type(error).__name__
                raise FileFailed(f"{file.path} cannot be read any more ({why})") from error
            if batch:
                self._positions[partition] = batch[-1].offset + 1
                await asyncio.sleep(0)
                return {partition: batch}
            self._positions[partition] = self._files[partition].end
        await asyncio.sleep(timeout_s)
        return {}

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> bool:
        merged = {**self._state.positions, **positions}
        state = FileState(self._state.stamp_ms, self._state.sha256, merged)
        try:
            self._held.write(state.document())
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise CommitFailed(f"{self._held.path} could not be written ({why})") from error
        self._state = state
        return True

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Position | None]:
        return {partition: self._state.positions.get(partition) for partition in partitions}

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {partition: self._files[partition].end for partition in partitions}

    def assignment(self) -> frozenset[TopicPartition]:
        return self._owned

    def partitions_of_group(self) -> Sequence[TopicPartition]:
        return sorted(self._files)

    def bounds(self, partition: TopicPartition) -> Bounds:
        return Bounds(FIRST_LINE, self._files[partition].end)

    def found(self, partition: TopicPartition) -> Found:
        return Found(self._found[partition], self._files[partition].end)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def highwater(self, partition: TopicPartition) -> int | None:
        return self._files[partition].end

    def held_back(self, partition: TopicPartition) -> int:
        return 0

    def lease_valid_until_s(self) -> float:
        return float("inf")

    @property
    def has_had_share(self) -> bool:
        return True

    @property
    def lost(self) -> Mapping[TopicPartition, int]:
        return {}

    @property
    def trouble(self) -> str:
        return ""

    @property
    def positions(self) -> Mapping[TopicPartition, Position]:
        """Return what is on disk."""
        return self._state.positions


class FileFailed(WorkerError):
    """A file of a backfill could not be read to its end. What was read goes on; the same command tries again."""

    reason = "file_failed"
