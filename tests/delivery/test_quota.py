"""Paced permits: what a server with a sliding window sees, whatever the loop's wake-ups are like."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery.quota import Quota, QuotaState


def most_in_a_second(arrivals: list[float]) -> int:
    """Return the largest number of arrivals in any window [t, t + 1)."""
    arrivals = sorted(arrivals)
    return max((bisect_left(arrivals, t + 1.0) - i for i, t in enumerate(arrivals)), default=0)


def permits_under_load(
    quota: Quota,
    seconds: float,
    rng: random.Random,
    *,
    late_s: float = 0.0,
    delay_s: float = 0.0,
    jitter_s: float = 0.0,
) -> list[float]:
    """Drive a quota with somebody always waiting; return when requests arrive at the server.

    Every wake-up is up to `late_s` late, every request is written up to `delay_s` after its permit, and travels up to
    `jitter_s`.
    """
    now_s, arrivals, unwritten = 0.0, [], []
    while now_s < seconds:
        for written_s, serial in sorted(unwritten):
            if written_s <= now_s:
                quota.written(serial, written_s)
                arrivals.append(written_s + rng.uniform(0.0, jitter_s))
                unwritten.remove((written_s, serial))
        due_s = quota.due_s(now_s)
        if due_s > now_s:
            wake_s = due_s + rng.uniform(0.0, late_s)
            now_s = min([wake_s, *(at for at, _ in unwritten if at > now_s)])
            continue
        serial = quota.take(now_s, waited=True)
        unwritten.append((now_s + rng.uniform(0.0, delay_s), serial))
    return arrivals


def test_who_yields_goes_down_further_and_comes_back_later_than_the_live_worker() -> None:
    rates = {}
    for yields in (False, True):
        quota = Quota(100.0, 0.0, yields=yields)
        quota.throttled(quota.take(0.0, waited=True), 0.0)
        quota.accepted(quota.take(0.1, waited=True), 0.1)
        rates[yields] = [quota.rate_per_s, (quota.due_s(4.0), quota.rate_per_s)[1]]
    assert rates[True] == [50.0, 50.0]
    live_first, live_later = rates[False]
    assert live_first is not None
    assert live_first > 95
    assert live_later == 100.0


@pytest.mark.parametrize("rate", [1.0, 10.0, 50.0, 100.0, 630.0])
def test_a_loop_that_wakes_late_still_uses_nearly_all_of_the_quota(rate: float) -> None:
    arrivals = permits_under_load(Quota(rate, 0.0), 60.0, random.Random(1), late_s=0.002, delay_s=0.003)
    assert len(arrivals) >= 0.995 * rate * 60.0 - 1
    assert most_in_a_second(arrivals) <= rate


@settings(max_examples=40, deadline=None)
@given(
    rate=st.one_of(st.integers(1, 300).map(float), st.floats(0.5, 300.0)),
    late_ms=st.integers(0, 80),
    delay_ms=st.integers(0, 50),
    seed=st.integers(0, 2**16),
)
def test_no_second_at_the_server_holds_more_than_the_quota_whatever_the_wake_ups(
    rate: float, late_ms: int, delay_ms: int, seed: int
) -> None:
    quota = Quota(rate, 0.0)
    arrivals = permits_under_load(
        quota, 8.0, random.Random(seed), late_s=late_ms / 1000, delay_s=delay_ms / 1000, jitter_s=0.002
    )
    assert most_in_a_second(arrivals) <= rate + max(0.01 * rate, 2.0)


@settings(max_examples=40, deadline=None)
@given(
    gaps_ms=st.lists(st.integers(0, 400), min_size=20, max_size=400),
    rate=st.integers(2, 60),
    back=st.sets(st.integers(0, 399), max_size=40),
)
def test_random_arrivals_and_returned_permits_never_exceed_the_window(
    gaps_ms: list[int], rate: int, back: set[int]
) -> None:
    quota, now_s, written = Quota(float(rate), 0.0), 0.0, []
    for number, gap_ms in enumerate(gaps_ms):
        now_s += gap_ms / 1000
        waited = quota.due_s(now_s) > now_s
        while (due_s := quota.due_s(now_s)) > now_s:
            now_s = due_s
        serial = quota.take(now_s, waited=waited)
        if number in back:
            quota.give_back(serial)
        else:
            quota.written(serial, now_s)
            written.append(now_s)
    assert most_in_a_second(written) <= rate


def test_permits_are_even_and_idleness_saves_nothing_up() -> None:
    quota = Quota(10.0, 0.0)
    quota.written(quota.take(0.0, waited=False), 0.0)
    assert quota.due_s(0.0) == pytest.approx(0.1, abs=0.002)
    assert quota.due_s(60.0) <= 60.0
    quota.written(quota.take(60.0, waited=False), 60.0)
    assert quota.due_s(60.0) == pytest.approx(60.1, abs=0.002)


def test_a_permit_given_back_is_there_at_once() -> None:
    quota = Quota(1.0, 0.0)
    quota.give_back(quota.take(0.0, waited=False))
    assert quota.due_s(0.0) <= 0.0


def test_a_request_that_hangs_before_it_is_written_counts_when_it_is_written() -> None:
    quota = Quota(1.0, 0.0)
    serial = quota.take(0.0, waited=False)
    assert quota.due_s(1.5) <= 1.5
    quota.written(serial, 1.5)
    assert quota.due_s(1.5) == pytest.approx(2.5, abs=0.002)


def test_without_a_limit_every_permit_is_due_at_once() -> None:
    quota = Quota(None, 0.0)
    assert all(quota.due_s(0.0) <= 0.0 and quota.take(0.0, waited=False) for _ in range(10_000))
    assert quota.rate_per_s is None


def test_one_throttling_costs_little_and_is_forgotten() -> None:
    quota = Quota(100.0, 0.0)
    quota.throttled(quota.take(0.0, waited=False), 0.0)
    assert quota.rate_per_s == pytest.approx(99.0)
    assert quota.state is QuotaState.LOWERED
    quota.due_s(10.0)
    assert quota.rate_per_s == pytest.approx(99.0)  # nothing says yet that more would be taken
    quota.accepted(quota.take(10.0, waited=True), 10.0)
    quota.due_s(13.0)
    assert quota.rate_per_s == 100.0
    assert quota.state is QuotaState.STEADY


def test_requests_that_were_in_flight_together_lower_the_rate_once() -> None:
    quota = Quota(100.0, 0.0)
    serials = [quota.take(0.01 * n, waited=True) for n in range(20)]
    for serial in serials:
        quota.throttled(serial, 0.3)
    assert quota.rate_per_s == pytest.approx(99.0)


@pytest.mark.parametrize(
    ("granted_per_s", "share", "refused_share"),
    [(90, 0.85, 0.005), (60, 0.82, 0.007), (40, 0.85, 0.007), (20, 0.82, 0.015), (10, 0.75, 0.03), (5, 0.5, 0.06)],
)
def test_the_rate_settles_below_what_a_stricter_server_grants(
    granted_per_s: int, share: float, refused_share: float
) -> None:
    quota, rng, now_s = Quota(100.0, 0.0), random.Random(2), 0.0
    arrivals: list[float] = []
    refused = 0
    while now_s < 180.0:
        due_s = quota.due_s(now_s)
        if due_s > now_s:
            now_s = due_s + rng.uniform(0.0, 0.001)
            continue
        serial = quota.take(now_s, waited=True)
        quota.written(serial, now_s)
        if len(arrivals) - bisect_right(arrivals, now_s - 1.0) >= granted_per_s:
            refused += 1
            quota.throttled(serial, now_s)
        else:
            arrivals.append(now_s)
            quota.accepted(serial, now_s)
    assert refused < refused_share * len(arrivals)
    assert len(arrivals) > share * granted_per_s * 180


def test_throttling_at_the_lowest_rate_is_read_as_the_days_limit_and_ends_with_one_acceptance() -> None:
    quota, now_s, requests = Quota(50.0, 0.0), 0.0, 0
    while now_s < 3600.0:
        now_s = max(now_s, quota.due_s(now_s))
        serial = quota.take(now_s, waited=True)
        quota.written(serial, now_s)
        quota.throttled(serial, now_s + 0.05)
        requests += 1
    assert quota.state is QuotaState.EXHAUSTED
    assert requests < 40
    now_s = quota.due_s(now_s)
    serial = quota.take(now_s, waited=True)
    quota.written(serial, now_s)
    assert quota.due_s(now_s) > now_s + 300.0
    quota.accepted(serial, now_s + 1.0)
    assert quota.due_s(now_s + 1.0) < now_s + 3.0
    assert quota.state is QuotaState.LOWERED


def test_retry_after_holds_every_permit() -> None:
    quota = Quota(None, 0.0)
    quota.throttled(quota.take(0.0, waited=False), 0.0, retry_after_s=7.0)
    assert quota.due_s(0.1) >= 7.0


def test_an_unlimited_site_that_throttles_is_paced_from_the_rate_it_had() -> None:
    quota = Quota(None, 0.0)
    for n in range(2000):
        quota.take(n / 1000, waited=False)
    quota.throttled(2000, 2.0)
    assert 500.0 < (quota.rate_per_s or 0.0) < 1100.0
    quota.accepted(quota.take(10.0, waited=True), 10.0)
    quota.due_s(200.0)
    assert quota.rate_per_s is None


def test_a_smaller_share_takes_effect_for_the_next_permit() -> None:
    quota = Quota(100.0, 0.0)
    quota.written(quota.take(0.0, waited=False), 0.0)
    quota.set_quota(2.0, 0.001)
    assert quota.due_s(0.001) >= 0.49
    quota.set_quota(100.0, 0.002)
    assert quota.due_s(0.011) <= 0.011


def test_a_permit_that_is_given_back_while_the_days_limit_is_reached_costs_no_long_hold() -> None:
    quota, now_s = Quota(50.0, 0.0), 0.0
    while quota.state is not QuotaState.EXHAUSTED:
        now_s = max(now_s, quota.due_s(now_s))
        serial = quota.take(now_s, waited=True)
        quota.written(serial, now_s)
        quota.throttled(serial, now_s + 0.05)
    now_s = quota.due_s(now_s)
    for _ in range(100):  # stale calls: each takes a permit and needs none
        quota.give_back(quota.take(now_s, waited=True))
    assert quota.due_s(now_s) <= now_s
    serial = quota.take(now_s, waited=True)
    quota.written(serial, now_s)
    assert quota.due_s(now_s) > now_s + 50.0


@settings(max_examples=30, deadline=None)
@given(st.floats(2.0, 300.0), st.integers(0, 10**6), st.floats(0.0, 1.5))
def test_a_process_that_follows_another_at_once_exceeds_the_window_of_neither(
    rate: float, seed: int, gap_s: float
) -> None:
    rng = random.Random(seed)
    before = permits_under_load(Quota(rate, 0.0), 3.0, rng)
    following = Quota(rate, 0.0)
    following.assume_used(gap_s)
    after = [3.0 + at_s for at_s in permits_under_load(following, 3.0, rng)]
    assert most_in_a_second(before + after) <= rate + 1
    assert after[0] <= 3.0 + gap_s + 1.1


def test_without_a_limit_nobody_waits_for_a_second_that_another_may_have_used() -> None:
    quota = Quota(None, 0.0)
    quota.assume_used(5.0)
    assert quota.due_s(5.0) <= 5.0
