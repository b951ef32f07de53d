"""Whether what a process holds stays flat: slopes over a soak, and what they may be. Pure.

A slope is the median of the slopes between all pairs of samples (Theil and Sen): an outage that fills the lanes for a
while moves it little, a leak moves every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

# For ten minutes a worker remembers what it has made (`delivery/own_calls.py`): until then its memory has to grow.
WARM_UP_S = 660.0
WARM_UP_SHARE = 0.4  # of a soak that is too short for that
LEAST_SAMPLES = 8


class Sample(NamedTuple):
    """What a process holds at a time."""

    at_s: float
    resident_mb: float
    tasks: float
    files: float


class Limit(NamedTuple):
    """How much may be gained: `anyway` is what it varies by between quiet and busy, whatever the time."""

    name: str
    per_hour: float
    anyway: float
    while_filling_per_hour: float  # on top of it, where the warm-up was cut short


# Memory: a member makes some 250,000 calls an hour; 48 bytes for each of them are 12 MB. What it remembers of ten
# minutes, 300 bytes for each call, fills at 75 MB an hour. Tasks and files: something happens every minute, 20 an hour
# is one for every third of these; what is in flight, and a broker that is away, let them vary by so many.
LIMITS = (
    Limit("resident_mb", per_hour=12.0, anyway=2.0, while_filling_per_hour=75.0),
    Limit("tasks", per_hour=20.0, anyway=6.0, while_filling_per_hour=0.0),
    Limit("files", per_hour=20.0, anyway=6.0, while_filling_per_hour=0.0),
)
_UNITS = {"resident_mb": "MB"}


class Flatness(NamedTuple):
    figure: str
    faults: list[str]


def flatness(samples: Sequence[Sample]) -> Flatness:
    """Return what a process held at start, middle and end, by how much it grew once it was warm, and what is wrong."""
    if not samples:
        return Flatness("nothing was measured", ["nothing was measured"])
    whole_s = samples[-1].at_s - samples[0].at_s
    warm_up_s = min(WARM_UP_S, whole_s * WARM_UP_SHARE)
    warm = [each for each in samples if each.at_s - samples[0].at_s >= warm_up_s]
    if len(warm) < LEAST_SAMPLES:
        return Flatness(f"{len(warm)} samples", [f"too short: {len(warm)} samples, {LEAST_SAMPLES} are needed"])
    hours = (warm[-1].at_s - warm[0].at_s) / 3600
    texts, faults = [], []
    for limit in LIMITS:
        values = [(each.at_s, float(getattr(each, limit.name))) for each in samples]
        slope = slope_per_hour(values[-len(warm) :])
        filling = limit.while_filling_per_hour if warm_up_s < WARM_UP_S else 0.0
        most = limit.per_hour + filling + limit.anyway / hours
        unit = _UNITS.get(limit.name, limit.name)
        text = f"{_stations(values)} {unit}, {slope:+.1f} an hour ({most:.0f} are allowed)"
        texts.append(text)
        if slope > most:
            faults.append(f"grows: {text}")
    return Flatness("; ".join(texts), faults)


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Return the median slope of all pairs of (seconds, value), per hour."""
    slopes = [
        (later - earlier) / (later_s - earlier_s)
        for (earlier_s, earlier), (later_s, later) in combinations(points, 2)
        if later_s > earlier_s
    ]
    return 3600 * median(slopes) if slopes else 0.0


def _stations(values: Sequence[tuple[float, float]]) -> str:
    """Return the values at start, middle and end, each the median of a tenth of the time."""
    tenth = max(1, len(values) // 10)
    middle = (len(values) - tenth) // 2
    parts = (values[:tenth], values[middle : middle + tenth], values[-tenth:])
    return " -> ".join(f"{median(value for _, value in part):.0f}" for part in parts)
