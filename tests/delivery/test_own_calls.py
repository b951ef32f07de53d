"""What a process remembers of its own calls, and what that takes."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery import own_calls
from worker.delivery.evidence import SLACK_S
from worker.delivery.own_calls import KEPT_CALLS, KEPT_S, Noted, OwnCalls, Place, Was
from worker.gigya.calls import NOTIFY_ACTION, Call
from worker.model import CallName, TopicPartition

PARTITION = TopicPartition("t", 0)
RULE = CallName(0, "rule", 0)
MEASURED = KEPT_CALLS // 5


def noted(offset: int, at_s: float, *, user: str = "u", partition: int = 0) -> Noted:
    place = Place(TopicPartition("t", partition), offset, RULE)
    return Noted(place, user, "watched", None, at_s, at_s + 0.1, Was.CERTAIN)


def bytes_taken(fill: Callable[[], object]) -> int:
    """Return what is there after `fill` and was not before, with what it returns."""
    tracemalloc.start()
    try:
        kept = fill()
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del kept
    return taken_bytes


@pytest.mark.parametrize("users", [300, MEASURED], ids=["many calls each", "one call each"])
def test_what_is_remembered_of_a_call_takes_no_more_than_450_bytes(users: int) -> None:
    """Fifty thousand are remembered: twice as much for each, and a worker at its quota grows by 22 MB."""
    names = [f"u{number}" for number in range(users)]

    def fill() -> OwnCalls:
        own = OwnCalls(0.0)
        for number in range(MEASURED):
            own.add(noted(1_000_000 + number, number * 0.01, user=names[number % users]), number * 0.01)
        return own

    assert bytes_taken(fill) / MEASURED < 450


def test_who_remembers_one_call_for_hours_does_not_keep_all_that_came_after_it() -> None:
    """As a call in doubt does whose log is away."""

    def fill() -> Noted:
        own = OwnCalls(0.0)
        first = own.add(noted(0, 0.0), 0.0)
        for number in range(1, MEASURED):
            own.add(noted(number, number * 0.01), number * 0.01)
        own.add(noted(MEASURED, 10 * KEPT_S), 10 * KEPT_S)
        assert len(own) == 1
        return first

    assert bytes_taken(fill) < 100_000


def test_what_is_known_of_a_user_and_a_partition_comes_newest_first_and_is_forgotten_in_time() -> None:
    own = OwnCalls(0.0)
    first, second, other = noted(7, 1.0), noted(7, 2.0), noted(8, 3.0, user="v")
    for each in (first, second, other):
        own.add(each, each.from_s)
    assert list(own.of_user("u")) == [second, first]
    assert list(own.of_partition(PARTITION)) == [other, second, first]

    own.add(noted(9, 1.5 + KEPT_S, partition=1), 1.5 + KEPT_S)
    assert list(own.of_partition(PARTITION)) == [other, second]
    assert own.complete_from_s == first.noted_s
    own.add(noted(10, 2.5 + KEPT_S, partition=1), 2.5 + KEPT_S)
    assert list(own.of_partition(PARTITION)) == list(own.of_user("v")) == [other]


ADDITIONS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.integers(0, 1), st.sampled_from([0.0, 1.0, KEPT_S / 3])),
    max_size=40,
)


@settings(max_examples=200)
@given(ADDITIONS)
def test_it_is_as_a_list_from_which_the_oldest_are_dropped(additions: list[tuple[int, str, int, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_calls, "KEPT_CALLS", 12)
        own, model, now_s, dropped_s = OwnCalls(0.0), list[Noted](), 0.0, 0.0
        for offset, user, partition, passed_s in additions:
            now_s += passed_s
            model.append(own.add(noted(offset, now_s, user=user, partition=partition), now_s))
            while model[0].noted_s < now_s - KEPT_S or len(model) > 12:
                dropped_s = model.pop(0).noted_s
            assert len(own) == len(model)
            assert own.complete_from_s == dropped_s
            for name in "abc":
                call = Call(NOTIFY_ACTION, "main", name, {"UID": name, "action": "watched"}, RULE)
                assert list(own.like(call)) == [each for each in reversed(model) if each.user == name]
            for number in range(2):
                where = TopicPartition("t", number)
                mine = [each for each in model if each.place.partition == where]
                assert list(own.of_partition(where)) == mine[::-1]
                for since_s in (0.0, now_s - KEPT_S / 2):
                    # What is added twice comes twice; of one time the order says nothing.
                    found = own.ended_since(where, since_s, owned_since_s=-math.inf)
                    expected = [each for each in mine if each.noted_s >= since_s - SLACK_S]
                    assert sorted(map(id, found)) == sorted(map(id, expected))
                    assert [each.until_s for each in found] == sorted(each.until_s for each in found)
