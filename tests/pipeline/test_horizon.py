"""The horizon is far enough not to be waited for, and no further than it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.horizon import FEWEST, Horizon


def committed(
    horizon: Horizon, unfinished: list[int], position: int, now_s: float, waiting: list[int] | None = None
) -> int:
    """Commit; all that is unfinished above the horizon waits for nothing else, unless `waiting` says so."""
    waiting = [offset for offset in unfinished if offset >= horizon.below] if waiting is None else waiting
    proposed = horizon.propose(((offset, 1) for offset in unfinished), waiting, position, now_s)
    horizon.sent(proposed)
    horizon.acknowledged(proposed)
    return proposed


def test_where_nothing_waits_it_is_ahead_of_the_reading_position() -> None:
    horizon = Horizon(0, 100, 0.0)
    assert committed(horizon, [], 100, 0.0) == 100 + FEWEST


def test_it_does_not_change_while_nothing_happens() -> None:
    horizon = Horizon(0, 100, 0.0)
    first = committed(horizon, [], 100, 0.0)
    assert {committed(horizon, [], 100, second) for second in range(1, 20)} == {first}


def test_a_call_in_its_second_half_asks_for_the_next_one_once() -> None:
    horizon = Horizon(0, 100, 0.0)
    committed(horizon, [], 100, 0.0)
    assert not horizon.is_near(100 + FEWEST // 2 - 1)
    assert horizon.is_near(100 + FEWEST // 2)
    assert not horizon.is_near(100 + FEWEST)


def test_a_fast_reader_gets_seconds_worth_of_offsets_and_a_slow_one_few() -> None:
    horizon = Horizon(0, 0, 0.0)
    for second in range(1, 5):
        committed(horizon, [], second * 100_000, float(second))
    assert 400_000 + 150_000 <= horizon.below <= 400_000 + 300_000
    for second in range(5, 9):
        committed(horizon, [], 400_000 + second, float(second))
    assert horizon.below <= 400_008 + 4 * FEWEST


def test_the_first_batch_of_a_backlog_that_is_read_fast_lets_no_more_calls_through_than_the_later_ones() -> None:
    horizon = Horizon(0, 0, 0.0)
    committed(horizon, [], 0, 0.0)
    below = committed(horizon, list(range(0, 200, 10)), 200, 0.01)  # 20 calls in 200 offsets: one in ten
    assert below <= 200 + (FEWEST - 20) * 10


def test_a_shortage_while_a_higher_horizon_is_under_way_is_none() -> None:
    horizon = Horizon(0, 0, 0.0)
    waiting = list(range(1_000))
    proposed = horizon.propose([(offset, 1) for offset in waiting], waiting, 1_000, 0.0)
    horizon.sent(proposed)
    horizon.ran_short()
    horizon.acknowledged(proposed)
    assert horizon.propose([(offset, 1) for offset in waiting], waiting, 1_000, 0.1) == proposed == FEWEST


def test_in_a_backlog_it_lets_seconds_worth_of_calls_through_and_not_what_was_read() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    for second in range(1, 20):
        for _ in range(50):
            if unfinished[0] < horizon.below:
                del unfinished[0]
                horizon.has_begun()
        committed(horizon, unfinished, 10_000, float(second))
    assert 100 <= horizon.below - unfinished[0] <= 200
    assert horizon.below < 2000


def test_few_users_with_many_calls_are_a_backlog_too() -> None:
    """Only the first call of each user waits for the horizon; what was read is not to be suspect for that."""
    horizon = Horizon(0, 0, 0.0)
    for _ in range(5):
        committed(horizon, list(range(10_000)), 10_000, 0.01, waiting=[horizon.below, horizon.below + 1])
    assert horizon.below == FEWEST


def test_a_record_of_many_calls_counts_as_many() -> None:
    horizon = Horizon(0, 0, 0.0)
    assert horizon.propose([(7, 20), (9, 20), (11, 20)], [], 1000, 0.0) == 10


def test_half_of_what_was_let_through_makes_the_next_one_due() -> None:
    horizon = Horizon(0, 0, 0.0)
    committed(horizon, list(range(1000)), 1000, 0.0)
    assert [horizon.has_begun() for _ in range(FEWEST)].index(True) == FEWEST // 2 - 1


def test_where_calls_below_it_cannot_go_on_others_are_let_through_in_doubling_numbers() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    passed = []
    for _ in range(6):
        before = horizon.below
        horizon.ran_short()
        passed.append(committed(horizon, unfinished, 10_000, 0.01) - before)
    assert passed == [64, 128, 256, 512, 1024, 2048]


def test_nobody_is_let_through_beyond_the_last_that_waits() -> None:
    horizon = Horizon(0, 0, 0.0)
    for _ in range(6):
        horizon.ran_short()
        committed(horizon, list(range(10_000)), 10_000, 0.01, waiting=[40, 90])
    assert horizon.below == 91


def test_while_a_lower_one_is_under_way_it_counts_and_while_a_higher_one_is_the_old_one_does() -> None:
    horizon = Horizon(500, 0, 0.0)
    horizon.sent(300)
    assert horizon.below == 300
    horizon.acknowledged(300)
    horizon.sent(900)
    assert horizon.below == 300


@given(st.lists(st.tuples(st.sampled_from(["read", "begin", "commit", "fail", "short"]), st.integers(1, 500))))
def test_nothing_is_ever_attempted_that_the_group_may_not_know_of(steps: list[tuple[str, int]]) -> None:
    horizon, position, now_s = Horizon(0, 0, 0.0), 0, 0.0
    waiting: list[int] = []
    ready: list[int] = []
    attempted = -1
    stored = {0}  # what Kafka may hold

    def sort() -> None:
        nonlocal waiting
        ready.extend(offset for offset in waiting if offset < horizon.below)
        waiting = [offset for offset in waiting if offset >= horizon.below]

    for what, number in steps:
        now_s += 0.05
        if what == "read":
            waiting += range(position, position + number)
            position += number
        elif what == "begin":
            for offset in ready[:number]:
                attempted = max(attempted, offset)
                horizon.has_begun()
            del ready[:number]
        elif what == "short":
            horizon.ran_short()
        else:
            proposed = horizon.propose(((offset, 1) for offset in (*ready, *waiting)), waiting, position, now_s)
            horizon.sent(proposed)
            stored.add(proposed)
            if what == "commit":
                horizon.acknowledged(proposed)
                stored = {proposed}
        sort()
        assert all(attempted < value for value in stored) or attempted == -1
        assert horizon.below <= min(stored)
