"""What a run did, counted by rule, outcome and reason; how fast it goes, and how long it will take. Pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.gigya.calls import Call
from worker.model import Outcome

# The pace of the last minute: a run is slower behind calls than while it passes what nobody wants.
WINDOW_S = 60.0
LEAST_S = 2.0


class Kind(NamedTuple):
    """Calls that are counted together."""

    site: str
    rule: str
    outcome: str
    reason: str


@dataclass(slots=True)
class Tally:
    """How the calls of this process ended."""

    calls: Counter[Kind] = field(default_factory=Counter)

    def note(self, call: Call, outcome: Outcome) -> None:
        self.calls[Kind(call.site, call.name.rule, str(outcome.kind), outcome.reason)] += 1

    @property
    def ended(self) -> int:
        """Return how many calls have ended."""
        return sum(self.calls.values())


class Pace:
    """How much is done a second, lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, done: int) -> None:
        self._seen.append((now_s, done))
        while self._seen[0][0] < now_s - WINDOW_S:
            self._seen.popleft()

    def left_s(self, left: int) -> float | None:
        """Return how long what is left takes at this pace; None while that cannot be told."""
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        if last_s - first_s < LEAST_S or last <= first:
            return None
        return left * (last_s - first_s) / (last - first)
