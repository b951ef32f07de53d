"""What a commit tells of the time before: done stays done, what may have been made is suspect, the rest is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.membership import Found, untouched
from worker.kafka.progress import Mark, Note, Progress, Started, fit
from worker.kafka.source import Position
from worker.model import OutcomeKind
from worker.pipeline.earlier import Done, Earlier, earlier_of

MAX_AHEAD = 1000


def told(progress: Progress, end: int = 10**9) -> Earlier:
    return earlier_of(Found(Position(progress.base, fit(Note(), progress)[0]), end), max_ahead=MAX_AHEAD)


def suspects(earlier: Earlier, offset: int, rules: str = "a", count: int = 1) -> list[bool]:
    return [call.suspect for call in earlier.calls(offset, rules, count)]


def test_a_partition_without_a_commit_or_with_the_groups_first_one_has_no_suspects() -> None:
    for committed in (None, untouched(70)):
        earlier = earlier_of(Found(committed, 10**9), max_ahead=MAX_AHEAD)
        assert suspects(earlier, 70) == [False]
        assert not earlier.may_have_letter(70)
        assert not earlier.ignored


def test_below_the_horizon_everything_unfinished_is_suspect_and_above_it_nothing() -> None:
    earlier = told(Progress(10, 20))
    assert suspects(earlier, 19) == [True]
    assert suspects(earlier, 20) == [False]


def test_what_came_after_the_assignment_nobody_can_have_made() -> None:
    earlier = told(Progress(10, 20), end=15)
    assert suspects(earlier, 14) == [True]
    assert suspects(earlier, 15) == [False]


@pytest.mark.parametrize("metadata", ["", "gw9 b=10 h=10", "foreign", "gw1 m=1f3a5c7e9b2d"])
def test_without_usable_metadata_the_first_max_ahead_offsets_are_suspect_and_may_have_letters(metadata: str) -> None:
    earlier = earlier_of(Found(Position(10, metadata), 10**9), max_ahead=MAX_AHEAD)
    assert earlier.ignored
    assert suspects(earlier, 10 + MAX_AHEAD - 1) == [True]
    assert suspects(earlier, 10 + MAX_AHEAD) == [False]
    assert earlier.may_have_letter(10 + MAX_AHEAD - 1)
    assert not earlier.may_have_letter(10 + MAX_AHEAD)


def test_calls_that_ended_keep_their_ends_under_the_same_rules_only() -> None:
    marks = (Mark.DELIVERED, Mark.CAPPED, Mark.STALE, Mark.OPEN, Mark.SUSPECT)
    earlier = told(Progress(10, 10, started={10: Started("a", marks)}))
    calls = earlier.calls(10, "a", 5)
    kinds = [call.outcome.kind if call.outcome else None for call in calls]
    assert kinds == [OutcomeKind.DELIVERED, OutcomeKind.CAPPED, OutcomeKind.STALE, None, None]
    assert [call.suspect for call in calls] == [False, False, False, False, True]
    assert suspects(earlier, 10, "b", 5) == [True] * 5
    assert suspects(earlier, 10, "a", 4) == [True] * 4
    assert suspects(earlier, 11, "b") == [False]


def test_a_letter_may_exist_of_those_that_were_named() -> None:
    earlier = told(Progress(10, 100, started={12: Started("a", has_letter=True), 14: Started("a", (Mark.OPEN,))}))
    assert [offset for offset in range(10, 20) if earlier.may_have_letter(offset)] == [12]
    assert suspects(earlier, 12) == [True]


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 120))
def test_runs_are_cut_off_where_they_are_asked_for(lengths: list[int], begin: int) -> None:
    runs, at = [], 0
    for index, length in enumerate(lengths):
        if index % 2:
            runs.append(range(at, at + length))
        at += length
    done = Done(runs)
    offsets = {offset for run in runs for offset in run}
    assert {offset for offset in range(130) if offset in done} == offsets
    assert {offset for run in done.runs_from(begin) for offset in run} == {each for each in offsets if each >= begin}
    assert done.end == max(offsets, default=-1) + 1
