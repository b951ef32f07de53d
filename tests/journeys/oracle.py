"""What must have happened, from what was appended, what Gigya executed, and what Kafka was told. Pure.

Nothing here asks the worker: expected calls come from the generator of the events, executed ones from the local
Gigya's ledger, offsets from the broker. Only the moments of assignments are read in the workers' logs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.sandbox.events import ExpectedCall, Fate, SampleEvent, seen_call

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Appended:
    """An event, and where Kafka put it."""

    event: SampleEvent
    headers: Headers
    partition: int
    offset: int

    @property
    def event_id(self) -> str | None:
        """Return the id of an event that must lead to a call; None for all others."""
        return self.event.call.event_id if self.event.call is not None else None


@dataclass(frozen=True, slots=True)
class Execution:
    """One call that the local Gigya executed."""

    order: int
    arrived_s: float  # Unix time
    call: ExpectedCall
    fault: str | None

    @classmethod
    def of(cls, line: Mapping[str, object]) -> Execution:
        params = line["params"]
        assert isinstance(params, dict)
        call = seen_call(str(line["method"]), params)
        fault = line["fault"]
        return cls(int(str(line["order"])), float(str(line["arrived_s"])), call, None if fault is None else str(fault))

    @property
    def event_id(self) -> str:
        return str(self.call.event_id)


@dataclass(frozen=True, slots=True)
class Commit:
    """One offset that the broker accepted."""

    at_s: float
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Takeover:
    """A member begins with a partition: at the offset that was committed last."""

    at_s: float
    partition: int
    start: int


def takeovers(assignments: Iterable[tuple[float, Collection[int]]], commits: Sequence[Commit]) -> list[Takeover]:
    """Return where each assignment began to read, from the commits before it; 0 where there was none."""
    times, offsets = defaultdict(list), defaultdict(list)
    for commit in sorted(commits, key=lambda commit: commit.at_s):
        times[commit.partition].append(commit.at_s)
        offsets[commit.partition].append(commit.offset)
    found = []
    for at_s, partitions in sorted(assignments, key=lambda assignment: assignment[0]):
        for partition in partitions:
            index = bisect_right(times[partition], at_s)
            found.append(Takeover(at_s, partition, offsets[partition][index - 1] if index else 0))
    return found


def finished_above(
    appended: Iterable[Appended], executions: Sequence[Execution], changes: Sequence[Takeover]
) -> set[str]:
    """Return the events that had been executed when a partition was taken over at or below their offset.

    The offset does not say that they are done; the map beside it does.
    """
    first_s: dict[str, float] = {}
    for execution in executions:
        first_s.setdefault(execution.event_id, execution.arrived_s)
    by_partition: defaultdict[int, list[Takeover]] = defaultdict(list)
    for change in changes:
        by_partition[change.partition].append(change)
    return {
        each.event_id
        for each in appended
        if each.event_id is not None
        and any(
            each.offset >= change.start and first_s.get(each.event_id, change.at_s) < change.at_s
            for change in by_partition[each.partition]
        )
    }


def repeated(executions: Iterable[Execution]) -> Counter[str]:
    """Return how often events were executed beyond the first time; those that were not are left out."""
    times = Counter(execution.event_id for execution in executions)
    return Counter({event_id: count - 1 for event_id, count in times.items() if count > 1})


def expected_calls(appended: Iterable[Appended]) -> set[tuple[str, ...]]:
    """Return the identities of all calls that must be executed."""
    return {each.event.call.identity for each in appended if each.event.call is not None}


def executed_calls(executions: Iterable[Execution]) -> set[tuple[str, ...]]:
    """Return the identities of all calls that were executed."""
    return {execution.call.identity for execution in executions}


def out_of_order(executions: Iterable[Execution]) -> list[tuple[str, int, int]]:
    """Return (UID, seq, seq before it) wherever a user's first executions do not ascend."""
    seen: set[str] = set()
    last: dict[str, int] = {}
    wrong = []
    for execution in sorted(executions, key=lambda execution: execution.order):
        uid, seq = execution.call.uid, execution.call.seq
        if execution.event_id in seen or seq is None:
            continue
        seen.add(execution.event_id)
        if seq <= last.get(uid, 0):
            wrong.append((uid, seq, last[uid]))
        last[uid] = seq
    return wrong


def bad_ones(appended: Iterable[Appended]) -> list[Appended]:
    """Return the events that must become dead letters."""
    return [each for each in appended if each.event.fate is Fate.DEAD_LETTER]


def words_to_hide(appended: Iterable[Appended], secrets: Iterable[str]) -> frozenset[bytes]:
    """Return what no log line may hold: UIDs, Kafka keys, ids and texts of payloads, secrets."""
    words = {secret.encode() for secret in secrets}
    for each in appended:
        words |= {each.event.key, each.event.uid.encode()}
        if each.event_id is not None:
            words.add(each.event_id.encode())
        words |= {value for _, value in each.headers if value is not None and len(value) > 5}
    # Of the payloads: titles of shows and quizzes that are not words of our own.
    return frozenset(words | {b"Glee", b"Lost & Found", b"theme songs", b"who said it?", b"more=fun"})


def found_in(text: bytes, words: Iterable[bytes]) -> list[bytes]:
    """Return the words that a text holds."""
    return [word for word in words if word in text]
