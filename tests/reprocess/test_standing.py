"""What stands beside a replay: records in the workers' hands, and what an interrupted replay may have made."""

from __future__ import annotations

from worker.deadletters.replays import Begun, Made
from worker.kafka.membership import Position
from worker.kafka.progress import Note, Progress, fit
from worker.kafka.ranges import Span
from worker.model import TopicPartition
from worker.reprocess.standing import KNOWN_FOR_S, Hands, Interrupted, rest_of

P = TopicPartition("t", 0)
NOW_S = 1_000_000.0


def committed(offset: int, *done: range) -> Position:
    return Position(offset, fit(Note(), Progress(offset, offset + 50, done=done))[0])


def test_a_record_above_the_offset_and_not_in_the_map_is_in_the_groups_hands() -> None:
    hands = Hands({"": {P: committed(10, range(12, 14))}, "r1": {P: Position(3, "nonsense")}})
    assert [offset for offset in range(8, 16) if hands.hold("", P, offset)] == [10, 11, 14, 15]
    assert not hands.hold("", TopicPartition("t", 1), 99)  # the group has never worked on it, or is gone
    assert hands.hold("r1", P, 3)
    assert not hands.hold("r2", P, 3)


def test_things_stand_still_only_where_the_group_has_done_all_there_is() -> None:
    spans = {P: Span(0, 10), TopicPartition("t", 1): Span(4, 4)}
    whole = {"g": {P: Position(10)}}
    rest = rest_of("g", whole, spans)
    assert rest
    assert rest == rest_of("g", whole, spans)
    assert rest_of("g", {"g": {P: Position(9)}}, spans) == ""
    assert rest_of("g", {}, spans) == ""
    with_a_backfill = {**whole, "g.backfill.r": {P: Position(5)}}
    assert rest_of("g", with_a_backfill, spans) not in ("", rest)


def mark(at_s: float, *, rest: str = "same", ahead_s: float | None = 2.0, rest_s: float = NOW_S - 100) -> Begun:
    return Begun(0, at_s, rest, rest_s, ahead_s)


def test_what_was_executed_is_told_only_where_nothing_else_can_have_been() -> None:
    def is_told(*marks: Begun, rest: str = "same", all_chosen: bool = True, now_s: float = NOW_S) -> bool:
        return Interrupted(marks, all_chosen).is_told(rest, now_s)

    assert is_told(mark(NOW_S - 50), mark(NOW_S - 40, ahead_s=None))
    assert not is_told(mark(NOW_S - 50), rest="moved")
    assert Interrupted((mark(NOW_S - 50),), True).is_told("moved", NOW_S, is_sole_writer=True)
    assert not is_told(mark(NOW_S - 50, rest=""), rest="")
    assert not is_told(mark(NOW_S - 50), all_chosen=False)
    assert not is_told(mark(NOW_S - 50, ahead_s=None))
    assert not is_told(mark(NOW_S - 50), now_s=NOW_S + KNOWN_FOR_S)


def test_the_ladder_hears_from_when_on_all_is_known_by_the_sites_clock() -> None:
    made = [
        Made("main", "kind-1_", 5.0, 6.0, True),
        Made("main", "kind-2_", 5.0, 6.0, False),
        Made("b", "k", 1, 2, True),
    ]
    recent = Interrupted((mark(NOW_S - 50),), True).recent("main", made, NOW_S)
    assert recent.known_from_s == NOW_S - 98
    assert recent.first_s == NOW_S - 49
    assert [left.kind for left in recent.executed] == ["kind-1_"]
    assert recent.possible == ("kind-2_",)
    unknown = Interrupted((mark(NOW_S - 50),), True).recent("main", None, NOW_S)
    assert (unknown.known_from_s, unknown.first_s) == (None, NOW_S - 49)
    no_clock = Interrupted((mark(NOW_S - 50, ahead_s=None),), True).recent("main", None, NOW_S)
    assert no_clock.first_s == NOW_S - 110
