"""Pauses and budgets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.delivery.schedule import (
    BUSY_USER,
    NOT_ARRIVED,
    OWN_FAULT,
    Backoff,
    Budget,
    DeliverySettings,
    is_used_up,
    pause_s,
    probe_pause_s,
)


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert DeliverySettings().model_dump() == {
        "max_in_flight": 200,
        "max_ahead": 10_000,
        "max_buffer_bytes": 67_108_864,
        "attempts": 12,
        "give_up_after_s": 3600.0,
        "connect_timeout_s": 5.0,
        "attempt_timeout_s": 10.0,
        "drain_s": 20.0,
        "ambiguous": "resend",
        "log_settle_s": 2.0,
        "ask_limit_s": 300.0,
    }


def test_every_setting_says_what_it_is_and_in_which_unit() -> None:
    for name, field in DeliverySettings.model_json_schema()["properties"].items():
        assert field["description"].endswith("."), name
        assert field["unit"], name


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"max_in_flight": 0},
        {"give_up_after_s": float("inf")},
        {"ambiguous": "ignore"},
        {"connect_timeout_s": 20.0},
        {"attemps": 3},
        {"drain_s": -1},
    ],
)
def test_settings_that_cannot_be_right_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeliverySettings(**wrong)  # type: ignore[arg-type]


@given(st.sampled_from([OWN_FAULT, BUSY_USER, NOT_ARRIVED]), st.integers(0, 10_000), st.integers(0, 1000))
def test_a_pause_is_within_the_ceiling_of_its_class(backoff: Backoff, pauses: int, seed: int) -> None:
    assert 0.0 <= pause_s(backoff, pauses, random.Random(seed)) <= backoff.cap_s
    assert pause_s(backoff, 0, random.Random(seed)) <= backoff.base_s


@given(st.integers(0, 20), st.floats(0, 1e9), st.integers(0, 1000))
def test_retry_after_is_waited_for_within_reason(pauses: int, retry_after_s: float, seed: int) -> None:
    assert pause_s(OWN_FAULT, pauses, random.Random(seed), retry_after_s) >= min(retry_after_s, 300.0)
    assert pause_s(OWN_FAULT, pauses, random.Random(seed), retry_after_s) <= 300.0


@given(st.lists(st.tuples(st.sampled_from([OWN_FAULT, BUSY_USER, NOT_ARRIVED]), st.floats(0, 100), st.floats(0, 100))))
def test_a_budget_that_is_refunded_is_as_it_was(charges: list[tuple[Backoff, float, float]]) -> None:
    budget = Budget(attempts=2, age_s=5.0)
    taken = [budget.charge(backoff, took_s=took_s, pause_s=wait_s) for backoff, took_s, wait_s in charges]
    for charge in reversed(taken):
        budget.refund(charge)
    assert budget.attempts == 2
    assert budget.age_s == pytest.approx(5.0)


def test_only_what_may_be_the_calls_own_fault_uses_its_budget() -> None:
    settings, budget = DeliverySettings(attempts=3, give_up_after_s=100), Budget()
    for _ in range(100):
        budget.charge(NOT_ARRIVED, took_s=10.0, pause_s=30.0)
    assert not is_used_up(budget, settings)
    for _ in range(4):
        budget.charge(BUSY_USER, took_s=1.0, pause_s=20.0)
    assert not is_used_up(budget, settings)
    budget.charge(BUSY_USER, took_s=1.0, pause_s=20.0)
    assert is_used_up(budget, settings)


@given(st.floats(0.0, 1e7), st.integers(0, 100))
def test_a_site_that_is_back_is_noticed_soon_in_proportion_to_its_absence(elapsed_s: float, seed: int) -> None:
    pause = probe_pause_s(elapsed_s, random.Random(seed))
    assert 0.8 <= pause <= 36.0
    assert pause <= max(1.2, 0.172 * elapsed_s)
