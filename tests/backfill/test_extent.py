"""Where a range lies in a partition, and what of it is not there: said, never passed over."""

from __future__ import annotations

import pytest

from worker.backfill.extent import There, part_of, standing_of
from worker.backfill.wanted import END, Wanted
from worker.errors import StartFailed
from worker.kafka.membership import Position, untouched
from worker.kafka.progress import Bounds, Note, Progress, fit
from worker.kafka.ranges import AtTime, Span
from worker.model import TopicPartition

P0 = TopicPartition("t", 0)


def by_offset(begin: int, end: int) -> Wanted:
    return Wanted(("t",), offsets={P0: Span(begin, end)})


@pytest.mark.parametrize(
    ("asked", "there", "span", "missing"),
    [
        ((10, 20), There(0, 100, 100), (10, 20), ""),
        ((10, END), There(0, 100, 100), (10, 100), ""),
        ((0, 50), There(30, 100, 100), (30, 50), "deleted 30 offsets; it begins at 30"),
        ((0, 20), There(30, 100, 100), (30, 30), "deleted 20 offsets"),
        ((10, 200), There(0, 100, 100), (10, 100), "ends at 100; the range names 100 offsets more"),
        ((10, END), There(0, 80, 100), (10, 80), "holds back 20 offsets from 80"),
        ((90, 95), There(0, 80, 100), (90, 90), "holds back 5 offsets from 90"),
        ((10, 50), There(0, 80, 100), (10, 50), ""),
    ],
)
def test_a_range_by_offset(asked: tuple[int, int], there: There, span: tuple[int, int], missing: str) -> None:
    part = part_of(P0, there, by_offset(*asked))
    assert (part.begin, part.end) == span
    words = " ".join(part.words())
    assert missing in words
    assert bool(words) == bool(missing)


@pytest.mark.parametrize(
    ("there", "span", "missing"),
    [
        (There(0, 100, 100, AtTime(10, 1_000), AtTime(60, 2_000)), (10, 60), ""),
        (There(0, 100, 100, AtTime(10, 1_000), None), (10, 100), ""),
        (There(0, 100, 100, None, None), (100, 100), ""),  # all is older
        (There(0, 100, 100, AtTime(60, 2_500), AtTime(60, 2_500)), (60, 60), ""),  # nothing between the two moments
        (There(0, 100, 100, AtTime(0, 1_500), AtTime(60, 2_000)), (0, 60), ""),  # nothing was ever deleted
        (There(30, 100, 100, AtTime(30, 1_500), AtTime(60, 2_000)), (30, 60), "may have been of this range"),
        (There(30, 100, 100, AtTime(31, 1_500), AtTime(60, 2_000)), (31, 60), ""),
        (There(0, 80, 100, AtTime(10, 1_000), None), (10, 80), "holds back 20 offsets"),
        (There(0, 80, 100, None, None), (80, 80), "holds back 20 offsets"),
    ],
)
def test_a_range_by_time(there: There, span: tuple[int, int], missing: str) -> None:
    part = part_of(P0, there, Wanted(("t",), from_ms=1_000, to_ms=2_000))
    assert (part.begin, part.end) == span
    assert missing in " ".join(part.words())
    assert part.is_cut == bool(missing)


def test_earliest_asks_for_what_is_there_and_for_nothing_that_is_gone() -> None:
    part = part_of(P0, There(30, 100, 100, at_to=AtTime(60, 2_000)), Wanted(("t",), to_ms=2_000))
    assert (part.begin, part.end, part.is_cut) == (30, 60, False)


def committed(offset: int, bounds: Bounds | None, done: tuple[range, ...] = ()) -> Position:
    return Position(offset, fit(Note(), Progress(offset, offset + 5, done=done, bounds=bounds))[0])


def test_a_run_stands_where_its_commits_say() -> None:
    p1 = TopicPartition("t", 1)
    run = standing_of(
        "g",
        {P0: committed(40, Bounds(10, 60, "r1"), done=(range(45, 50),)), p1: untouched(7, Bounds(7, 7, "r1"))},
    )
    assert run.has_begun
    assert not run.is_finished
    assert run.left() == {P0: Span(40, 60)}
    assert (run.size, run.behind, run.rules) == (50, 35, "r1")
    assert 47 in run.done[P0]
    assert standing_of("g", {P0: committed(60, Bounds(10, 60))}).is_finished
    assert not standing_of("g", {}).has_begun


@pytest.mark.parametrize(
    "position", [Position(40, ""), committed(40, None), Position(41, committed(40, Bounds(1, 90)).metadata)]
)
def test_offsets_that_somebody_else_has_set_are_no_progress(position: Position) -> None:
    with pytest.raises(StartFailed, match="another --run-id"):
        standing_of("g", {P0: position})
