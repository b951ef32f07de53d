"""How a group divides a site's quota, each member for itself and all with the same result. Pure.

There is no service to ask: each member tells with its commits how fast it could go, reads what the others tell, and
computes the same max-min division. A member with little to do gets what it wants, the others share the rest; so a
backlog in one partition gets nearly all of the quota, and nobody is ever left with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Of its even share a member keeps this much in any case, so that its first calls need not wait for the next division.
FLOOR = 0.05
# A member asks for this much more than it uses, so that a rising load is not held up by the last division.
HEADROOM = 1.25
# Readings in a row that must allow more before more is taken. Less is taken at once: so the sum keeps the quota while
# the members learn of a change one after the other.
READINGS_FOR_MORE = 2
# Members do not know of each other's moments: of several that go at their full rates a few requests meet in one second.
# Measured with three members at 90/s on a busy machine: without this one call in 250 was throttled.
SHARED = 0.98


@dataclass(frozen=True, slots=True)
class Wish:
    """What one member tells of itself for one site."""

    partitions: int  # how many it owns; at least one
    wanted_per_s: float | None  # None: it has not said a word, and gets its even share


def wanted_per_s(*, used_per_s: float, has_backlog: bool, quota_per_s: float) -> float:
    """Return what a member asks for: everything while calls wait for permits, else a little more than it uses."""
    return quota_per_s if has_backlog else min(quota_per_s, used_per_s * HEADROOM)


def divisible(quota_per_s: float, wishes: Sequence[Wish]) -> float:
    """Return how much of the quota to divide: a little less than all of it while more than one member has work."""
    busy = sum(wish.wanted_per_s is None or wish.wanted_per_s > 0 for wish in wishes)
    return quota_per_s * SHARED if busy > 1 else quota_per_s


def divide(quota_per_s: float, wishes: Sequence[Wish]) -> list[float]:
    """Return each member's rate, in the order of `wishes`; their sum is the quota.

    Max-min by partitions: nobody gets more than he wants while another, who has less for each of his partitions, wants
    more. What nobody wants is given to all by partitions, so that it is there when it is wanted.
    """
    total = sum(wish.partitions for wish in wishes)
    if not total:
        return [0.0] * len(wishes)
    even = [quota_per_s * wish.partitions / total for wish in wishes]
    rates = [FLOOR * share for share in even]
    wants = [
        share if wish.wanted_per_s is None else max(FLOOR * share, wish.wanted_per_s)
        for share, wish in zip(even, wishes, strict=True)
    ]
    left = _fill(rates, wants, [wish.partitions for wish in wishes], quota_per_s - sum(rates))
    return [rate + left * wish.partitions / total for rate, wish in zip(rates, wishes, strict=True)]


def _fill(rates: list[float], wants: Sequence[float], weights: Sequence[int], left: float) -> float:
    """Raise the rates together, by weight, each up to what is wanted; return what is left when nobody wants more."""
    open_ones = [index for index, want in enumerate(wants) if want > rates[index]]
    while open_ones and left > 1e-9:
        weight = sum(weights[index] for index in open_ones)
        # How far all can be raised until the first is satisfied, or nothing is left.
        step = min(left / weight, *((wants[index] - rates[index]) / weights[index] for index in open_ones))
        for index in open_ones:
            rates[index] += step * weights[index]
        left -= step * weight
        open_ones = [index for index in open_ones if wants[index] - rates[index] > 1e-9]
    return max(0.0, left)


class Share:
    """One member's part of one site's quota, over time."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._allowed: list[float] = []

    def restart(self, rate_per_s: float) -> None:
        """Begin anew after a rebalance, with the even share: it is everybody's at that moment."""
        self.rate_per_s = rate_per_s
        self._allowed.clear()

    def read(self, rate_per_s: float) -> float:
        """Note what a reading of the group gives this member; return the rate to go at now."""
        self._allowed = [*self._allowed[-READINGS_FOR_MORE + 1 :], rate_per_s]
        if rate_per_s <= self.rate_per_s:
            self.rate_per_s = rate_per_s
        elif len(self._allowed) == READINGS_FOR_MORE:
            self.rate_per_s = max(self.rate_per_s, min(self._allowed))
        return self.rate_per_s
