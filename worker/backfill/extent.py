"""Where a range lies: the offsets of each partition, and what of it is not there (any more, or yet).

`survey` asks Kafka; the rest is pure. A range by time goes, in each partition, from the first record that is not older
than its beginning to before the first that is not older than its end, as Kafka's index of timestamps has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from worker.backfill.wanted import END, Wanted, time_text
from worker.errors import StartFailed
from worker.kafka.bounded import bounds_in
from worker.kafka.membership import Position
from worker.kafka.progress import Bounds, Unusable, decode_progress
from worker.kafka.ranges import AtTime, RangeReader, Span
from worker.kafka.settings import KafkaSettings
from worker.model import TopicPartition
from worker.pipeline.earlier import Done


@dataclass(frozen=True, slots=True)
class Part:
    """The range in one partition, and what is missing of it."""

    partition: TopicPartition
    begin: int
    end: int
    gone: int = 0  # offsets at its beginning that retention has deleted
    oldest_ms: int | None = None  # by time: the oldest record that is there; older ones of the range may be gone
    held_back: int = 0  # offsets behind a transaction that has not ended
    beyond: int = 0  # offsets that do not exist yet

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def span(self) -> Span:
        return Span(self.begin, self.end)

    @property
    def is_cut(self) -> bool:
        """Return whether something of the range is not there, or may not be."""
        return bool(self.gone or self.held_back or self.oldest_ms is not None)

    def words(self) -> Iterator[str]:
        """Yield what is missing, for people."""
        if self.gone:
            yield f"{self.partition}: retention has deleted {self.gone:,} offsets; it begins at {self.begin} now"
        if self.oldest_ms is not None:
            yield (
                f"{self.partition}: begins at offset {self.begin}, {time_text(self.oldest_ms)}; what retention has"
                " deleted before that may have been of this range, too"
            )
        if self.held_back:
            yield (
                f"{self.partition}: a transaction that has not ended holds back {self.held_back:,} offsets from"
                f" {self.end} on; end it (kafka-transactions.sh find-hanging, abort), or wait"
            )
        if self.beyond:
            yield f"{self.partition}: ends at {self.end}; the range names {self.beyond:,} offsets more"


@dataclass(frozen=True, slots=True)
class There:
    """What there is of one partition."""

    begin: int
    end: int  # of what can be read now
    log_end: int  # with what transactions that have not ended hold back
    at_from: AtTime | None = None
    at_to: AtTime | None = None


async def survey(settings: KafkaSettings, wanted: Wanted) -> list[Part]:
    """Find the range. Raises StartFailed."""
    async with RangeReader.opened(settings) as reader:
        spans = await reader.spans(wanted.topics)
        if unknown := sorted(wanted.offsets.keys() - spans.keys()):
            raise StartFailed(f"{unknown[0]} does not exist: topic {unknown[0].topic} has fewer partitions")
        at_from = {} if wanted.from_ms is None else await reader.at(spans, wanted.from_ms)
        at_to = {} if wanted.to_ms is None else await reader.at(spans, wanted.to_ms)
    async with RangeReader.opened(settings, sees_open_transactions=True) as reader:
        log_ends = {partition: span.end for partition, span in (await reader.spans(wanted.topics)).items()}
    return [
        part_of(
            partition,
            There(span.begin, span.end, log_ends[partition], at_from.get(partition), at_to.get(partition)),
            wanted,
        )
        for partition, span in spans.items()
        if not wanted.offsets or partition in wanted.offsets
    ]


def part_of(partition: TopicPartition, there: There, wanted: Wanted) -> Part:
    """Return what of a partition is in the range."""
    if partition in wanted.offsets:
        return _by_offset(partition, there, wanted.offsets[partition])
    begin, oldest_ms = there.begin, None
    if wanted.from_ms is not None:
        begin = there.end if there.at_from is None else there.at_from.offset
        if there.at_from is not None and begin == there.begin > 0:
            oldest_ms = there.at_from.timestamp_ms
    to_end = wanted.to_ms is None or there.at_to is None
    end = there.log_end if to_end or there.at_to is None else there.at_to.offset
    if begin >= end:
        return Part(partition, min(begin, there.end), min(begin, there.end))
    readable = max(begin, min(end, there.end))
    return Part(partition, min(begin, readable), readable, oldest_ms=oldest_ms, held_back=end - readable)


def _by_offset(partition: TopicPartition, there: There, asked: Span) -> Part:
    begin, log_end = max(asked.begin, there.begin), min(asked.end, there.log_end)
    end = max(begin, min(log_end, there.end))
    return Part(
        partition,
        begin,
        end,
        gone=max(0, min(there.begin, asked.end) - asked.begin),
        held_back=max(0, log_end - end),
        beyond=0 if asked.end == END else max(0, asked.end - max(log_end, begin)),
    )


def bounds_of(parts: Collection[Part], rules_digest: str) -> dict[TopicPartition, Bounds]:
    """Return what the run's first commit says."""
    return {part.partition: Bounds(part.begin, part.end, rules_digest) for part in parts}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run has come, by the commits of its group."""

    group: str
    bounds: Mapping[TopicPartition, Bounds]
    committed: Mapping[TopicPartition, int]
    done: Mapping[TopicPartition, Done]  # above the committed offsets

    @property
    def has_begun(self) -> bool:
        return bool(self.bounds)

    @property
    def is_finished(self) -> bool:
        return self.has_begun and not self.left()

    @property
    def size(self) -> int:
        """Return how many offsets the range has."""
        return sum(bounds.end - bounds.begin for bounds in self.bounds.values())

    @property
    def behind(self) -> int:
        """Return how many offsets are done: those below the watermarks, and those that the maps name."""
        left = self.left()
        in_maps = sum(len(run) for one in left for run in self.done[one].runs)  # a map ends with the range
        return self.size - sum(span.size for span in left.values()) + in_maps

    @property
    def rules(self) -> str:
        """Return the first digits of the digest of the rules it was begun with."""
        return next((bounds.rules for bounds in self.bounds.values()), "")

    def left(self) -> dict[TopicPartition, Span]:
        """Return what has not been passed yet."""
        spans = {one: Span(self.committed[one], bounds.end) for one, bounds in self.bounds.items()}
        return {one: span for one, span in spans.items() if span.size}


def standing_of(group: str, commits: Mapping[TopicPartition, Position]) -> Standing:
    """Return how a run stands. Raises StartFailed where its group's offsets are not those of a backfill."""
    try:
        bounds = {partition: bounds_in(position) for partition, position in commits.items()}
        done = {one: Done(decode_progress(at.metadata, at.offset).done) for one, at in commits.items()}
    except Unusable as error:
        raise StartFailed(
            f"the offsets of group {group} are not those of a backfill ({error}), so the range of this run is lost;"
            " leave that group alone, and begin another --run-id"
        ) from error
    return Standing(group, bounds, {partition: position.offset for partition, position in commits.items()}, done)
