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
# What a few minutes show is whether there was trouble in them: of a shorter soak the numbers are printed, no more.
LEAST_WARM_S = 900.0


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


# Memory: a member makes some 250,000 calls an hour; 48 bytes for each of them are 12 MB. Tasks and files: something
# happens every minute, 20 an hour is one for every third of these; what is in flight lets them vary by so many.
LIMITS = (
    Limit("resident_mb", per_hour=12.0, anyway=2.0),
    Limit("tasks", per_hour=20.0, anyway=6.0),
    Limit("files", per_hour=20.0, anyway=6.0),
)
_UNITS = {"resident_mb": "MB"}


class Flatness(NamedTuple):
    figure: str
    faults: list[str]


def flatness(samples: Sequence[Sample]) -> Flatness:
    """Return what a process held at start, middle and end, by how much it grew once it was warm, and what is wrong."""
    if len(samples) < 2:
        return Flatness("nothing was measured", ["nothing was measured"])
    warm = [each for each in samples if each.at_s - samples[0].at_s >= WARM_UP_S]
    warm_s = warm[-1].at_s - warm[0].at_s if warm else 0.0
    is_judged = warm_s >= LEAST_WARM_S
    texts, faults = [], []
    for limit in LIMITS:
        values = [(each.at_s, float(getattr(each, limit.name))) for each in samples]
        text = f"{_stations(values)} {_UNITS.get(limit.name, limit.name)}"
        if is_judged:
            slope, most = slope_per_hour(values[-len(warm) :]), limit.per_hour + limit.anyway / (warm_s / 3600)
            text += f", {slope:+.1f} an hour ({most:.0f} are allowed)"
            if slope > most:
                faults.append(f"grows: {text}")
        texts.append(text)
    if not is_judged:
        texts.append(f"slopes not judged: {warm_s:.0f} s after the warm-up, {LEAST_WARM_S:.0f} are needed")
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
