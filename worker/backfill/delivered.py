"""`--skip-delivered`: what the live group has done of a range, as far as its offsets, map and dead letters tell.

`ask` reads them; the rest is pure. What they cannot tell is said: `Known.words`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from worker.deadletters.record import DeadLetter, NotADeadLetter, decode
from worker.kafka.membership import LeftOut, Position
from worker.kafka.progress import Unusable, decode_progress
from worker.kafka.ranges import RangeReader, Span
from worker.kafka.runs import commits_of
from worker.kafka.settings import KafkaSettings
from worker.model import CallName, OutcomeKind, TopicPartition

_KEY = re.compile(rb"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})")  # without the run id of a backfill
_DONE = (OutcomeKind.DELIVERED, OutcomeKind.CAPPED, OutcomeKind.STALE)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a range."""

    left_out: Mapping[TopicPartition, LeftOut]
    offsets: int = 0  # that are left out
    ahead: int = 0  # that the live group has not done yet, and will
    letters: int = 0  # records of the range that are dead letters of the live group
    unsure: int = 0  # calls of these that may have been executed

    def words(self) -> Iterator[str]:
        """Yield what is left out, and what is not known, for people."""
        yield (
            f"--skip-delivered: {self.offsets:,} offsets are left out. The live group has passed them: what its rules"
            " filtered, what was stale or capped, and dead letters that were replayed or discarded count as done, too;"
            " for a new rule replay without it"
        )
        if self.letters:
            unsure = f"; {self.unsure:,} of them may have been executed" if self.unsure else ""
            yield f"{self.letters:,} records are dead letters: their calls that were not delivered are made{unsure}"
        if self.ahead:
            yield (
                f"{self.ahead:,} offsets the live group has not passed: it will make these calls itself, and this run"
                " makes them, too; end the range before them"
            )


@dataclass(slots=True)
class Letters:
    """The live group's dead letters of a range: of each record the calls that are done all the same."""

    spans: Mapping[TopicPartition, Span]
    calls: dict[TopicPartition, dict[int, frozenset[CallName]]] = field(default_factory=dict)
    unsure: dict[tuple[TopicPartition, int], int] = field(default_factory=dict)

    def note(self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
        """Note a message of the dead-letter topic; the last one of a key counts, and a tombstone ends it."""
        place = _KEY.fullmatch(key or b"")
        if place is None:
            return
        partition, offset = TopicPartition(place[1].decode(), int(place[2])), int(place[3])
        span = self.spans.get(partition)
        if span is None or not span.begin <= offset < span.end:
            return
        self.calls.setdefault(partition, {}).pop(offset, None)
        self.unsure.pop((partition, offset), None)
        if value is None:
            return
        try:
            letter = decode(key, value, headers)
        except NotADeadLetter:
            self.calls[partition][offset] = frozenset()  # what became of its calls is not known
            return
        self.calls[partition][offset] = _done_calls(letter)
        if unsure := sum(call.outcome.maybe_executed for call in letter.calls):
            self.unsure[partition, offset] = unsure


def _done_calls(letter: DeadLetter) -> frozenset[CallName]:
    ends = (call for call in letter.calls if not call.outcome.maybe_executed)
    return frozenset(call.name for call in ends if call.outcome.kind in _DONE)


def known_of(
    spans: Mapping[TopicPartition, Span], commits: Mapping[TopicPartition, Position], letters: Letters
) -> Known:
    """Return what of the spans is done, by a group's commits and its dead letters."""
    left_out: dict[TopicPartition, LeftOut] = {}
    offsets = ahead = count = 0
    for partition, span in spans.items():
        dead = letters.calls.get(partition, {})
        runs = tuple(_without(_passed(commits.get(partition), span), dead))
        left_out[partition] = LeftOut(runs, {offset: names for offset, names in dead.items() if names})
        passed = sum(map(len, runs))
        offsets += passed
        count += len(dead)
        ahead += span.size - passed - len(dead)
    return Known(left_out, offsets, ahead, count, sum(letters.unsure.values()))


def _passed(position: Position | None, span: Span) -> Iterator[range]:
    """Yield the runs of a span that a group has done."""
    if position is None:
        return
    if position.offset > span.begin:
        yield range(span.begin, min(position.offset, span.end))
    try:
        done = decode_progress(position.metadata, position.offset).done
    except Unusable:
        return
    for run in done:
        if run.start < span.end and run.stop > span.begin:
            yield range(max(run.start, span.begin), min(run.stop, span.end))


def _without(runs: Iterator[range], offsets: Mapping[int, object]) -> Iterator[range]:
    """Yield the runs without some offsets."""
    holes = sorted(offsets)
    for run in runs:
        start = run.start
        for hole in holes[bisect_left(holes, run.start) : bisect_left(holes, run.stop)]:
            if start < hole:
                yield range(start, hole)
            start = hole + 1
        if start < run.stop:
            yield range(start, run.stop)


async def ask(settings: KafkaSettings, spans: Mapping[TopicPartition, Span]) -> Known:
    """Find out what the live group has done of these spans. `settings` are the live worker's. Raises StartFailed.

    The dead letters are read after the commits: a letter is written before its offset is passed, so that none of a
    record that counts as passed can be missed.
    """
    commits = await commits_of(settings, settings.group_id)
    letters = Letters(spans)
    async with RangeReader.opened(settings) as reader:
        whole = await reader.spans([settings.dead_letter_topic])
        async for batch in reader.read(whole):
            for record in batch:
                letters.note(record.key, record.value, list(record.headers))
    return known_of(spans, commits, letters)
