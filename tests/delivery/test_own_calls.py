"""What a process remembers of its own calls, and what that takes."""

from __future__ import annotations

import tracemalloc

from worker.delivery.own_calls import KEPT_CALLS, KEPT_S, Noted, OwnCalls, Place, Was
from worker.model import CallName, TopicPartition

PARTITION = TopicPartition("t", 0)


def noted(offset: int, at_s: float, *, user: str = "u") -> Noted:
    place = Place(PARTITION, offset, CallName(0, "rule", 0))
    return Noted(place, user, "watched", None, at_s, at_s + 0.1, Was.CERTAIN)


def test_what_is_remembered_of_a_call_takes_no_more_than_600_bytes() -> None:
    """Fifty thousand are: twice as much for each, and a worker at its quota grows by 25 MB."""
    own, users = OwnCalls(0.0), [f"u{number}" for number in range(300)]
    tracemalloc.start()
    try:
        for number in range(KEPT_CALLS // 5):
            own.add(noted(1_000_000 + number, number * 0.01, user=users[number % len(users)]), number * 0.01)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes / (KEPT_CALLS // 5) < 600


def test_all_that_is_known_of_a_call_comes_oldest_first_and_is_forgotten_in_time() -> None:
    own = OwnCalls(0.0)
    first, second, other = noted(7, 1.0), noted(7, 2.0), noted(8, 3.0)
    for each in (first, second, other):
        own.add(each, each.from_s)
    assert list(own.of(first.place)) == [first, second]

    own.add(noted(9, 1.5 + KEPT_S), 1.5 + KEPT_S)
    assert list(own.of(first.place)) == [second]
    assert own.complete_from_s == first.noted_s
    own.add(noted(10, 2.5 + KEPT_S), 2.5 + KEPT_S)
    assert list(own.of(first.place)) == []
    assert list(own.of(other.place)) == [other]
