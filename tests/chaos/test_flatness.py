"""A soak fails when something grows, and not when it only varies."""

from __future__ import annotations

import random

import pytest

from tests.chaos.flatness import LEAST_WARM_S, LIMITS, WARM_UP_S, Flatness, Sample, flatness, slope_per_hour

EVERY_S, SOAK_S = 10.0, 1_800.0


def soak(*, mb_per_hour: float = 0.0, tasks_per_hour: float = 0.0, files_per_hour: float = 0.0) -> list[Sample]:
    """Return samples of a member that fills for ten minutes, is in trouble now and then, and leaks as much as said."""
    rng = random.Random(5)
    samples = []
    for number in range(int(SOAK_S / EVERY_S)):
        at_s = number * EVERY_S
        hours = at_s / 3600
        in_trouble = number % 15 < 3
        samples.append(
            Sample(
                at_s,
                100 + min(at_s, 600) * 0.02 + mb_per_hour * hours + rng.uniform(0, 2) + 5 * in_trouble,
                60 + tasks_per_hour * hours + rng.uniform(-10, 10) + 100 * in_trouble,
                40 + files_per_hour * hours + rng.uniform(-5, 5) + 20 * in_trouble,
            )
        )
    return samples


def test_what_fills_for_ten_minutes_and_varies_with_every_trouble_is_flat() -> None:
    found = flatness(soak())
    assert found.faults == []
    assert found.figure.count("->") == 2 * len(LIMITS)


@pytest.mark.parametrize(
    ("leak", "unit"),
    [({"mb_per_hour": 30.0}, "MB"), ({"tasks_per_hour": 60.0}, "tasks"), ({"files_per_hour": 60.0}, "files")],
)
def test_a_leak_of_one_thing_is_found_and_named(leak: dict[str, float], unit: str) -> None:
    (fault,) = flatness(soak(**leak)).faults
    assert fault.startswith("grows: ")
    assert f" {unit}, +" in fault


def test_of_a_soak_too_short_for_a_slope_it_is_said_that_none_was_judged() -> None:
    leaking = soak(mb_per_hour=500.0)
    found = flatness([each for each in leaking if each.at_s < WARM_UP_S + LEAST_WARM_S - 2 * EVERY_S])
    assert found.faults == []
    assert "not judged" in found.figure
    assert "not judged" not in flatness(leaking).figure


@pytest.mark.parametrize("count", [0, 1])
def test_without_samples_nothing_is_shown_and_that_is_a_fault(count: int) -> None:
    found: Flatness = flatness(soak()[:count])
    assert found.faults


def test_a_slope_is_that_of_most_pairs_and_not_of_the_farthest_outliers() -> None:
    line = [(float(second), second / 36.0) for second in range(100)]
    assert slope_per_hour(line) == pytest.approx(100.0)
    line[0], line[-1] = (0.0, 500.0), (99.0, 900.0)
    assert slope_per_hour(line) == pytest.approx(100.0, rel=0.05)
    assert slope_per_hour([(1.0, 5.0)]) == 0.0
