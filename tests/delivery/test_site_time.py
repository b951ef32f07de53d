"""The site's time by its answers: a slow one says little, and is not taken for a clock that was set."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.clock import ManualClock
from worker.delivery.site_time import SiteTime

AHEAD_S = 1_700_000_000.25  # the site's Unix time minus our monotonic time
way_s = st.floats(0.0, 6.0)
answers = st.lists(st.tuples(st.floats(0.0, 60.0), way_s, way_s), min_size=1, max_size=12)


def heard(time: SiteTime, sent_s: float, there_s: float, back_s: float, *, ahead_s: float = AHEAD_S) -> float:
    """Let the site answer; return when. Its Date is of the moment of its answer, in whole seconds."""
    received_s = sent_s + there_s + back_s
    time.heard(float(math.floor(ahead_s + sent_s + there_s)), sent_s, received_s)
    return received_s


@given(answers)
def test_an_answer_that_was_slow_is_no_clock_that_was_set(said: list[tuple[float, float, float]]) -> None:
    time, now_s = SiteTime(ManualClock()), 100.0
    for pause_s, there_s, back_s in said:
        now_s = heard(time, now_s + pause_s, there_s, back_s)
    assert time.steady_from_s == -math.inf


@given(answers)
def test_the_quickest_answer_says_how_wrong_it_may_be(said: list[tuple[float, float, float]]) -> None:
    time, now_s = SiteTime(ManualClock()), 100.0
    for pause_s, there_s, back_s in said:
        now_s = heard(time, now_s + pause_s, there_s, back_s)
    quickest_s = min(there_s + back_s for _, there_s, back_s in said)
    drifted_s = 0.001 * (now_s - 100.0)
    assert abs(time.at(now_s) - (AHEAD_S + now_s)) <= (1.0 + quickest_s) / 2 + drifted_s + 1e-3


@pytest.mark.parametrize("step_s", [-300.0, -3.5, 3.5, 300.0])
def test_a_site_whose_clock_is_set_is_steady_from_then_on(step_s: float) -> None:
    time = SiteTime(ManualClock())
    heard(time, 100.0, 0.02, 0.02)
    heard(time, 101.0, 2.0, 3.0)
    set_s = heard(time, 110.0, 0.02, 0.02, ahead_s=AHEAD_S + step_s)
    assert time.steady_from_s == set_s
    assert time.at(set_s) == pytest.approx(AHEAD_S + step_s + set_s, abs=0.6)


def test_a_clock_that_drifts_is_followed_and_never_taken_for_one_that_was_set() -> None:
    time = SiteTime(ManualClock())
    for second in range(0, 7_200, 5):
        heard(time, float(second), 0.02, 0.02, ahead_s=AHEAD_S + second * 2e-4)
    assert time.steady_from_s == -math.inf
    assert time.at(7_200.0) == pytest.approx(AHEAD_S + 7_200 * (1 + 2e-4), abs=0.6)
