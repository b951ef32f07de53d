"""The horizon is far enough not to be waited for, and no further than it must be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.pipeline.horizon import FEWEST, SHORT_S, Heads, Horizon


def committed(
    horizon: Horizon, unfinished: list[int], position: int, now_s: float, heads: list[int] | None = None
) -> int:
    """Commit; of what is unfinished nothing waits for anything but the horizon, unless `heads` says which those are."""
    proposed = horizon.propose(
        ((offset, 1) for offset in unfinished),
        _sorted(unfinished if heads is None else heads, horizon),
        position,
        now_s,
    )
    horizon.sent(proposed)
    horizon.acknowledged(proposed)
    return proposed


def _sorted(heads: list[int], horizon: Horizon) -> Heads:
    below = horizon.below
    ready = [each for each in heads if each < below]
    return Heads([each for each in heads if each >= below], lambda: ready, lambda: bool(ready))


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
    proposed = horizon.propose([(offset, 1) for offset in waiting], Heads(waiting), 1_000, 0.0)
    horizon.sent(proposed)
    horizon.ran_short()
    horizon.acknowledged(proposed)
    assert horizon.propose([(offset, 1) for offset in waiting], Heads(waiting), 1_000, 0.1) == proposed == FEWEST


def test_in_a_backlog_it_lets_seconds_worth_of_calls_through_and_not_what_was_read() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    for second in range(1, 20):
        for _ in range(50):
            if unfinished[0] < horizon.below:
                horizon.has_begun(unfinished.pop(0))
        committed(horizon, unfinished, 10_000, float(second))
    assert 100 <= horizon.below - unfinished[0] <= 200
    assert horizon.below < 2000


def test_few_users_with_many_calls_are_a_backlog_too() -> None:
    """Only the first call of each user waits for the horizon; what was read is not to be suspect for that."""
    horizon = Horizon(0, 0, 0.0)
    for _ in range(5):
        committed(horizon, list(range(10_000)), 10_000, 0.01, heads=[horizon.below, horizon.below + 1])
    assert horizon.below == FEWEST


def test_a_record_of_many_calls_counts_as_many() -> None:
    horizon = Horizon(0, 0, 0.0)
    assert horizon.propose([(7, 20), (9, 20), (11, 20)], Heads(), 1000, 0.0) == 10


def test_half_of_what_was_let_through_makes_the_next_one_due() -> None:
    horizon = Horizon(0, 0, 0.0)
    committed(horizon, list(range(1000)), 1000, 0.0)
    assert [horizon.has_begun(offset) for offset in range(FEWEST)].index(True) == FEWEST // 2 - 1


def test_where_calls_below_it_cannot_go_on_others_are_let_through_in_doubling_numbers() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    passed = []
    for _ in range(6):
        before = horizon.below
        horizon.ran_short()
        passed.append(committed(horizon, unfinished, 10_000, 0.01) - before)
    assert passed == [64, 128, 256, 512, 1024, 2048]


def test_they_double_also_when_those_that_were_let_through_lasted_until_a_commit_was_under_way() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    passed = []
    for second in range(4):
        before = horizon.below
        horizon.ran_short()
        passed.append(committed(horizon, unfinished, 10_000, second + 0.0) - before)
        committed(horizon, unfinished, 10_000, second + 0.5)  # half of them are begun
    assert passed == [64, 128, 256, 512]


def test_a_shortage_is_forgotten_after_ten_seconds() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    for _ in range(3):
        horizon.ran_short()
        committed(horizon, unfinished, 10_000, 1.0)
    committed(horizon, unfinished, 10_000, 1.0 + SHORT_S)
    before = horizon.below
    horizon.ran_short()
    assert committed(horizon, unfinished, 10_000, 1.0 + SHORT_S) - before == 64


def test_a_partition_whose_calls_wait_for_the_horizon_alone_lets_others_through_while_its_site_is_busy() -> None:
    """With the calls of other partitions, so that the site is not short."""
    horizon = Horizon(0, 0, 0.0)
    unfinished = list(range(10_000))
    committed(horizon, unfinished, 10_000, 0.0)
    for offset in range(FEWEST):
        horizon.has_begun(offset)  # and none of them ends
    passed = []
    for second in (1.0, 2.0, 2.5, 3.0):
        before = horizon.below
        passed.append(committed(horizon, unfinished, 10_000, second, heads=unfinished[before:]) - before)
    assert passed == [3 * FEWEST - FEWEST, 64, 128, 256]


def test_it_does_not_while_its_site_is_away() -> None:
    horizon = Horizon(0, 0, 0.0)
    unfinished = [(offset, 1) for offset in range(10_000)]
    for second in range(10):
        heads = Heads([FEWEST], tuple, has_ready=lambda: True)
        assert horizon.propose(unfinished, heads, 10_000, float(second)) == FEWEST


def after_a_burst(attempted: int) -> Horizon:
    """Return one that a fast reader has taken to 300,000; then he has read 100,000 offsets with a call in each."""
    horizon = Horizon(0, 0, 0.0)
    horizon.has_begun(attempted)
    committed(horizon, [], 100_000, 1.0)
    assert horizon.below == 400_000
    return horizon


def test_after_a_burst_it_comes_down_to_what_can_be_attempted_in_some_seconds() -> None:
    horizon = after_a_burst(attempted=0)
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.0) == FEWEST + 1


def test_it_never_comes_down_below_what_was_attempted() -> None:
    horizon = after_a_burst(attempted=70_000)
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.0) == 70_001


def test_it_comes_down_only_so_far_that_enough_calls_can_go_on() -> None:
    horizon = after_a_burst(attempted=0)
    heads = list(range(50_000, 100_000))  # what comes before waits for others
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.0, heads) == 50_000 + FEWEST


def test_it_stays_where_fewer_calls_than_that_can_go_on() -> None:
    """Else what waits would be let through, and kept back again, with every commit."""
    horizon = after_a_burst(attempted=0)
    heads = list(range(50_000, 50_000 + FEWEST - 1))
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.0, heads) == 400_000


def test_it_comes_down_no_more_than_once_a_second() -> None:
    horizon = after_a_burst(attempted=0)
    committed(horizon, list(range(1, 100_000)), 100_000, 2.0)
    horizon.sent(300_000)
    horizon.acknowledged(300_000)
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.9) == 300_000
    assert committed(horizon, list(range(1, 100_000)), 100_000, 3.0) == FEWEST + 1


def test_it_does_not_come_down_for_ten_seconds_after_a_shortage() -> None:
    horizon = after_a_burst(attempted=0)
    horizon.ran_short()
    committed(horizon, list(range(1, 100_000)), 100_000, 2.0)
    assert committed(horizon, list(range(1, 100_000)), 100_000, 1.9 + SHORT_S) == 400_000
    assert committed(horizon, list(range(1, 100_000)), 100_000, 2.0 + SHORT_S) == FEWEST + 1


def test_where_little_is_unfinished_below_it_nobody_is_asked_how_much_can_go_on() -> None:
    def asked() -> list[int]:
        raise AssertionError("the heads are many: to look at them costs time")

    horizon = Horizon(100, 0, 0.0)
    unfinished = [(offset, 1) for offset in range(100 - 2 * FEWEST + 1, 200)]
    assert horizon.propose(unfinished, Heads([], asked), 200, 2.0) == 100


def test_nobody_is_let_through_beyond_the_last_that_waits() -> None:
    horizon = Horizon(0, 0, 0.0)
    for _ in range(6):
        horizon.ran_short()
        committed(horizon, list(range(10_000)), 10_000, 0.01, heads=[40, 90])
    assert horizon.below == 91


def test_while_a_lower_one_is_under_way_it_counts_and_while_a_higher_one_is_the_old_one_does() -> None:
    horizon = Horizon(500, 0, 0.0)
    horizon.sent(300)
    assert horizon.below == 300
    horizon.acknowledged(300)
    horizon.sent(900)
    assert horizon.below == 300


STEPS = st.tuples(st.sampled_from(["read", "pass", "begin", "commit", "fail", "short"]), st.integers(1, 500))


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=15))
def test_nothing_is_ever_attempted_that_the_group_may_not_know_of(steps: list[tuple[str, int]]) -> None:
    horizon, position, now_s = Horizon(0, 0, 0.0), 0, 0.0
    waiting: list[int] = []
    ready: list[int] = []
    attempted = -1
    stored = {0}  # what Kafka may hold

    def sort() -> None:
        nonlocal waiting, ready
        below, both = horizon.below, sorted((*ready, *waiting))
        ready, waiting = [each for each in both if each < below], [each for each in both if each >= below]

    for what, number in steps:
        now_s += 0.6
        if what == "read":
            waiting += range(position, position + number)
            position += number
        elif what == "pass":
            position += 10 * number  # records that are no calls
        elif what == "begin":
            first = number * 7 % (len(ready) + 1)  # not in the order of their offsets
            for offset in ready[first : first + number]:
                attempted = max(attempted, offset)
                horizon.has_begun(offset)
            del ready[first : first + number]
        elif what == "short":
            horizon.ran_short()
        else:
            proposed = horizon.propose(
                ((offset, 1) for offset in (*ready, *waiting)), Heads(waiting, lambda: ready), position, now_s
            )
            horizon.sent(proposed)
            stored.add(proposed)
            if what == "commit":
                horizon.acknowledged(proposed)
                stored = {proposed}
        sort()
        assert all(attempted < value for value in stored) or attempted == -1
        assert horizon.below <= min(stored)
