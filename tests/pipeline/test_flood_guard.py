"""The flood guard: what a flood can cost is known beforehand, and ordinary bad records stop nobody."""

from __future__ import annotations

import random
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.pipeline.flood_guard import FloodGuard, FloodGuardSettings

SMALL = FloodGuardSettings(window=20, max_ratio=0.25, max_run=3, min_sample=10)


def started(count: int, settings: FloodGuardSettings = SMALL) -> FloodGuard:
    guard = FloodGuard(settings)
    for number in range(count):
        guard.started(number)
    return guard


def most_in_a_window(letters: set[int], window: int) -> int:
    return max((sum(low <= n < low + window for n in letters) for low in letters), default=0)


def longest_run(letters: set[int]) -> int:
    return max((len(list(run)) for _, run in groupby(enumerate(sorted(letters)), lambda p: p[1] - p[0])), default=0)


def test_a_run_longer_than_allowed_holds_before_its_letter_is_written() -> None:
    guard = started(100)
    assert [guard.died(number) for number in (50, 51, 52, 53)] == [True, True, True, False]
    assert guard.flood is not None
    assert guard.flood.reason == "flood_run"
    assert guard.flood.number == 53


def test_an_unfinished_record_breaks_a_run() -> None:
    guard = started(100)
    assert all(guard.died(number) for number in (50, 51, 53, 54))


def test_a_run_that_is_closed_in_its_middle_is_found() -> None:
    guard = started(100)
    assert [guard.died(number) for number in (50, 51, 53, 52)] == [True, True, True, False]


def test_a_share_greater_than_allowed_holds() -> None:
    guard = started(100)
    answers = [guard.died(number) for number in range(40, 60, 2)]
    assert answers == [True] * 5 + [False] * 5
    assert guard.flood is not None
    assert guard.flood.reason == "flood_ratio"
    assert "more than 5 of 20" in guard.flood.text


def test_a_share_is_found_in_whatever_order_deaths_become_known() -> None:
    guard = started(100)
    answers = [guard.died(number) for number in (58, 40, 56, 42, 54, 44)]
    assert answers == [True] * 5 + [False]


def test_letters_of_another_window_do_not_count() -> None:
    guard = started(100)
    assert all(guard.died(number) for number in (0, 5, 10, 14, 19, 40, 45, 50, 54, 59))


def test_at_the_start_the_sample_is_filled_up_with_good_ones() -> None:
    guard = started(4)
    assert [guard.died(number) for number in (0, 2)] == [True, True]
    assert not guard.died(3)  # a third of 10 at the least: more than a quarter, however the next six end


def test_once_tripped_nothing_is_written_until_somebody_says_so() -> None:
    guard = started(100)
    for number in (50, 51, 52, 53):
        guard.died(number)
    assert not guard.died(90)
    guard.resume()
    assert guard.flood is None
    assert [guard.died(number) for number in (90, 53)] == [True, True]


def test_after_a_resume_the_flood_is_found_again() -> None:
    guard = started(100)
    written = [number for number in range(100) if guard.died(number)]
    assert written == [0, 1, 2]
    guard.resume()
    written = [number for number in range(3, 100) if guard.died(number)]
    assert written == [3, 4]  # a new sample: two of ten


def test_asking_again_for_a_letter_that_may_be_written_counts_it_once() -> None:
    guard = started(100)
    assert all(guard.died(50) for _ in range(10))
    assert guard.flood is None


def test_a_letter_that_was_let_through_may_be_written_again_while_the_guard_holds() -> None:
    guard = started(100)
    for number in (50, 51, 52, 53):
        guard.died(number)
    assert guard.died(51)
    assert not guard.died(53)


def test_a_parked_record_counts_neither_as_dead_nor_as_a_record() -> None:
    guard = started(100)
    guard.died(50)
    guard.parked(51)
    guard.parked(51)
    assert [guard.died(number) for number in (52, 53, 54)] == [True, True, False]


def test_a_record_that_was_handed_back_counts_when_it_dies_here_again() -> None:
    guard = started(100)
    for number in (50, 51, 52):
        guard.died(number)
        guard.forgotten(number)
    guard.forgotten(99)
    assert all(guard.died(number) for number in (60, 61, 62))


def test_records_that_ended_well_are_told_and_change_no_decision() -> None:
    guard = started(100)
    for number in range(10):
        guard.ended(number)
    assert guard.ended_well == 10
    assert repr(guard) == "<FloodGuard [open, 100 started, 0 letters]>"


def test_the_guard_can_be_switched_off() -> None:
    guard = started(500, FloodGuardSettings(max_ratio=1, max_run=None))
    assert all(guard.died(number) for number in range(500))


@pytest.mark.parametrize(
    "settings",
    [{"window": 100, "min_sample": 200}, {"max_ratio": 0}, {"max_ratio": 1.5}, {"max_run": 0}, {"windows": 3}],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FloodGuardSettings.model_validate(settings)


def test_one_event_in_a_hundred_being_bad_stops_nobody_where_a_third_matches() -> None:
    rng = random.Random(11)
    guard = FloodGuard(FloodGuardSettings())
    for number in range(100_000):
        guard.started(number)
        if rng.random() < 0.03 and not guard.died(number):
            raise AssertionError(f"{guard!r} {guard.flood}")


def test_the_demo_s_handful_with_two_bad_ones_stops_nobody() -> None:
    guard = started(12, FloodGuardSettings())
    assert guard.died(0)
    assert guard.died(1)


def test_a_flood_is_stopped_after_fifty_letters() -> None:
    guard = FloodGuard(FloodGuardSettings())
    for number in range(5_000):  # a good morning before it
        guard.started(number)
        guard.ended(number)
    letters = 0
    for number in range(5_000, 10_000):
        guard.started(number)
        letters += guard.died(number)
    assert letters == 50


def test_a_flood_of_one_topic_among_good_ones_is_stopped_after_a_hundred_letters() -> None:
    guard = FloodGuard(FloodGuardSettings())
    letters = 0
    for number in range(20_000):
        guard.started(number)
        if number % 5 == 0:
            letters += guard.died(number)
    assert letters <= 100
    assert guard.flood is not None


SETTINGS = st.builds(
    lambda window, ratio, run, sample: FloodGuardSettings(
        window=window, max_ratio=ratio, max_run=run, min_sample=min(window, sample)
    ),
    st.integers(10, 40),
    st.sampled_from([0.05, 0.1, 0.25, 0.5]),
    st.none() | st.integers(1, 6),
    st.integers(1, 40),
)


@given(SETTINGS, st.lists(st.integers(0, 120), unique=True, max_size=80), st.integers(0, 120))
def test_letters_never_exceed_the_stated_numbers_in_any_order_of_deaths(
    settings: FloodGuardSettings, deaths: list[int], ahead: int
) -> None:
    guard, letters, next_number = FloodGuard(settings), set[int](), 0
    for number in deaths:
        while next_number <= number + ahead:
            guard.started(next_number)
            next_number += 1
        if guard.died(number):
            letters.add(number)
        else:
            assert guard.flood is not None
    assert most_in_a_window(letters, settings.window) <= settings.max_ratio * settings.window
    if settings.max_run is not None:
        assert longest_run(letters) <= settings.max_run


@given(SETTINGS, st.sets(st.integers(0, 120), max_size=80), st.randoms(use_true_random=False))
def test_the_guard_holds_only_for_a_reason(settings: FloodGuardSettings, deaths: set[int], rng: random.Random) -> None:
    guard = started(200, settings)
    order = sorted(deaths)
    rng.shuffle(order)
    letters = {number for number in order if guard.died(number)}
    if guard.flood is None:
        assert letters == deaths
        return
    with_it = letters | {guard.flood.number}
    is_too_many = most_in_a_window(with_it, settings.window) > settings.max_ratio * settings.window
    is_too_long = settings.max_run is not None and longest_run(with_it) > settings.max_run
    assert is_too_long if guard.flood.reason == "flood_run" else is_too_many


@given(SETTINGS, st.integers(0, 500), st.integers(1, 60), st.randoms(use_true_random=False))
def test_a_poison_flood_costs_no_more_than_the_run_or_the_share(
    settings: FloodGuardSettings, good: int, disorder: int, rng: random.Random
) -> None:
    guard = FloodGuard(settings)
    for number in range(good):
        guard.started(number)
        guard.ended(number)
    letters, pending = 0, list[int]()
    for number in range(good, good + 300):
        guard.started(number)
        pending.append(number)
        if len(pending) >= disorder:
            letters += guard.died(pending.pop(rng.randrange(len(pending))))
    letters += sum(guard.died(number) for number in pending)
    assert guard.flood is not None
    # Deaths known in order: one run, or one window. Out of order by `disorder`: the windows that those span.
    windows = 1 + (2 * disorder) // settings.window
    assert letters <= (1 + windows) * settings.max_ratio * settings.window
    if disorder == 1 and settings.max_run is not None:
        assert letters <= settings.max_run
