"""What entries of the action log prove, against every story that could have written them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.evidence import SLACK_S, LogSays, Made, Question, weigh
from worker.gigya.actions_log import LogEntry, execution_times, log_params, read_actions_log
from worker.gigya.replies import Reply

NOW_S = 1000.0


def says(question: Question, *entries: float, seen_from_s: float = 0.0, settled_s: float = NOW_S) -> LogSays:
    return weigh(question, sorted(entries), seen_from_s=seen_from_s, settled_s=settled_s)


def ours(from_s: float = 900.0, until_s: float = NOW_S, attempts: int | None = 1, *others: Made) -> Question:
    return Question(from_s, until_s, attempts, others)


def test_one_entry_and_nobody_else_is_ours() -> None:
    assert says(ours(), 950.0) is LogSays.THERE
    assert says(ours()) is LogSays.ABSENT
    assert says(ours(), 800.0) is LogSays.ABSENT


def test_as_many_entries_as_others_leave_none_for_us() -> None:
    others = (Made(950.0, 951.0), Made(950.0, 951.0))
    assert says(ours(900.0, NOW_S, 1, *others), 950.0, 950.0) is LogSays.ABSENT
    assert says(ours(900.0, NOW_S, 1, *others), 950.0, 950.0, 950.0) is LogSays.THERE


def test_another_that_may_have_been_executed_makes_one_entry_undecided_and_two_clear() -> None:
    maybe = Made(950.0, 951.0, is_certain=False)
    assert says(ours(900.0, NOW_S, 1, maybe), 950.0) is LogSays.UNDECIDED
    assert says(ours(900.0, NOW_S, 1, maybe), 950.0, 950.0) is LogSays.THERE
    assert says(ours(900.0, NOW_S, 1, maybe)) is LogSays.ABSENT


def test_an_execution_that_should_show_and_does_not_means_that_the_log_cannot_be_trusted() -> None:
    assert says(ours(900.0, NOW_S, 1, Made(950.0, 951.0))) is LogSays.UNDECIDED


def test_an_execution_that_may_not_show_yet_is_waited_for() -> None:
    assert says(ours(900.0, NOW_S, 1, Made(990.0, 999.0)), 995.0, settled_s=998.0) is LogSays.UNDECIDED
    assert says(ours(900.0, NOW_S, 1, Made(990.0, 999.0)), 995.0, settled_s=999.0) is LogSays.ABSENT


def test_two_attempts_may_both_have_been_executed() -> None:
    assert says(ours(900.0, NOW_S, 2), 950.0, 960.0) is LogSays.THERE
    assert says(ours(900.0, NOW_S, 1), 950.0, 960.0) is LogSays.UNDECIDED


def test_what_is_from_before_all_was_known_proves_nothing() -> None:
    question = Question(900.0, NOW_S, 1, known_from_s=960.0)
    assert says(question, 950.0) is LogSays.UNDECIDED
    assert says(question, 970.0) is LogSays.THERE
    assert says(question) is LogSays.ABSENT


def test_where_others_write_only_absence_proves_something() -> None:
    question = Question(900.0, NOW_S, 1, is_shared=True)
    assert says(question, 950.0) is LogSays.UNDECIDED
    assert says(question) is LogSays.ABSENT


@dataclass(frozen=True)
class Story:
    """What really happened: our call and others, each with what we know of it."""

    question: Question
    entries: tuple[float, ...]
    was_executed: bool


@st.composite
def stories(draw: st.DrawFn) -> Story:
    second = st.integers(min_value=900, max_value=930).map(float)
    error = st.floats(min_value=-SLACK_S, max_value=SLACK_S)
    entries: list[float] = []
    others: list[Made] = []
    for _ in range(draw(st.integers(0, 4))):
        begin, took, is_certain = draw(second), draw(st.floats(0, 4)), draw(st.booleans())
        others.append(Made(begin, begin + took, is_certain))
        if is_certain or draw(st.booleans()):
            entries.append(begin + draw(st.floats(0, 1)) * took + draw(error))
    known_from_s = draw(st.sampled_from((-1e9, 905.0, 915.0)))
    unknown = draw(st.integers(0, 2)) if known_from_s > 0 else 0  # by those we know nothing of
    entries += [draw(st.floats(880.0, known_from_s)) + draw(error) for _ in range(unknown)]
    begin = draw(second)
    attempts = draw(st.integers(1, 2))
    executions = draw(st.integers(0, attempts))
    entries += [begin + draw(st.floats(0, 5)) + draw(error) for _ in range(executions)]
    is_shared = draw(st.booleans())
    entries += [draw(second) for _ in range(draw(st.integers(0, 2)) if is_shared else 0)]
    asked = draw(st.sampled_from((attempts, None)))
    question = Question(begin, begin + 5.0, asked, tuple(others), known_from_s=known_from_s, is_shared=is_shared)
    return Story(question, tuple(sorted(entries)), executions > 0)


@given(stories())
def test_the_log_never_says_what_is_not_so(story: Story) -> None:
    verdict = weigh(story.question, story.entries, seen_from_s=800.0, settled_s=2000.0)
    assert verdict is not (LogSays.ABSENT if story.was_executed else LogSays.THERE)


@given(st.lists(st.integers(0, 12), max_size=5), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=4))
def test_both_sides_are_matched_as_trying_everything_would(times: list[int], spans: list[tuple[int, int]]) -> None:
    """Compare with all assignments: does one serve every entry and every certain execution?"""
    entries = sorted(map(float, times))
    made = [Made(float(begin) + SLACK_S, float(begin + took) - SLACK_S) for begin, took in spans]  # slack taken out
    fits = len(entries) == len(spans) and any(
        all(begin <= entry <= begin + took for entry, (begin, took) in zip(order, spans, strict=True))
        for order in itertools.permutations(entries)
    )
    everything = Question(-100.0 + SLACK_S, 500.0, 0, tuple(made))
    verdict = weigh(everything, entries, seen_from_s=-1e9, settled_s=1e9)
    assert (verdict is not LogSays.UNDECIDED) == fits


def entry(time_s: float, challenge: str = "_default", action: str = "a", points: int | None = 5) -> LogEntry:
    return LogEntry(time_s, action, points, challenge)


def test_one_execution_writes_one_entry_for_each_challenge() -> None:
    assert execution_times([entry(5, "x"), entry(5, "y"), entry(5, "z")], "a", None) == [5]
    assert execution_times([entry(5, "x"), entry(6, "y")], "a", None) == [5]
    assert execution_times([entry(5, "x"), entry(5, "y"), entry(5, "x"), entry(5, "y")], "a", None) == [5, 5]
    assert execution_times([entry(5, "x"), entry(5, "x"), entry(5, "y")], "a", None) == [5, 5]


def test_challenges_with_entries_of_their_own_cannot_be_counted() -> None:
    assert execution_times([entry(5, "x"), entry(9, "y")], "a", None) is None


def test_other_actions_and_other_points_do_not_count() -> None:
    entries = [entry(5), entry(6, action="b"), entry(7, points=9)]
    assert execution_times(entries, "a", None) == [5, 7]
    assert execution_times(entries, "a", 9) == [7]
    assert execution_times(entries, "c", None) == []


@pytest.mark.parametrize("time", [1_700_000_000, "1700000000", 1_700_000_000_000, "2023-11-14T22:13:20Z"])
def test_times_are_read_as_seconds_milliseconds_and_iso(time: object) -> None:
    body = {"errorCode": 0, "actions": [{"time": time, "actionID": "a", "points": 1, "challengeID": "c"}]}
    assert read_actions_log(Reply(200, body, 0)) == (LogEntry(1_700_000_000.0, "a", 1, "c"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "actions", [None, {}, "none", ["x"], [{"actionID": "a"}], [{"time": 1}], [{"time": "soon", "actionID": "a"}]]
)
def test_what_cannot_be_read_is_no_empty_log(actions: object) -> None:
    assert read_actions_log(Reply(200, {"errorCode": 0, "actions": actions}, 0)) is None  # type: ignore[dict-item]


def test_a_time_range_is_rounded_outwards() -> None:
    assert log_params("u", 1.9, 2.1) == {"UID": "u", "startTime": "1", "endTime": "3"}
