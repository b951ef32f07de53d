"""What this process has made, as far as entries of the action log could come from it. Pure.

An entry does not name its request. To say that one belongs to a call in doubt, all our other calls of the same user
must be known that could have written it, and from when on they are all known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from worker.gigya.calls import Call

# Suspects are asked about within minutes after an assignment; until then what was made since must be remembered.
KEPT_S = 600.0
KEPT_CALLS = 50_000  # some 15 MB


class Was(Enum):
    """How far it is known that something was executed."""

    CERTAIN = 1
    POSSIBLE = 2
    NOT = 3


@dataclass(slots=True, eq=False)
class Noted:
    """One execution, or possible one. Times are monotonic."""

    user: str
    action: str
    points: int | None
    from_s: float
    until_s: float
    was: Was
    noted_s: float = 0.0


def noted_of(call: Call, from_s: float, until_s: float, was: Was) -> Noted:
    points = call.params.get("points")
    return Noted(call.uid, call.params["action"], int(points) if points else None, from_s, until_s, was)


class OwnCalls:
    """The executions of one site's users. Used from one event loop."""

    def __init__(self, now_s: float) -> None:
        self.complete_from_s = now_s  # everything noted from here on is still known
        self._in_order: deque[Noted] = deque()
        self._by_user: dict[str, deque[Noted]] = {}

    def add(self, noted: Noted, now_s: float) -> Noted:
        """Remember it; `was` may be changed later."""
        noted.noted_s = now_s
        self._in_order.append(noted)
        self._by_user.setdefault(noted.user, deque()).append(noted)
        oldest = self._in_order[0]
        while oldest.noted_s < now_s - KEPT_S or len(self._in_order) > KEPT_CALLS:
            self._drop(self._in_order.popleft())
            oldest = self._in_order[0]
        return noted

    def like(self, call: Call) -> Iterator[Noted]:
        """Yield what entries could come from that fit this call; itself, too, where it was noted."""
        wanted = noted_of(call, 0.0, 0.0, Was.NOT)
        for noted in self._by_user.get(call.uid, ()):
            has_these_points = wanted.points is None or noted.points is None or noted.points == wanted.points
            if noted.action == wanted.action and has_these_points and noted.was is not Was.NOT:
                yield noted

    def _drop(self, noted: Noted) -> None:
        self.complete_from_s = max(self.complete_from_s, noted.noted_s)
        left = self._by_user[noted.user]
        left.popleft()  # of a user's, too, it is the oldest
        if not left:
            del self._by_user[noted.user]


def has_sure_points(noted: Noted, call: Call) -> bool:
    """Say whether the entry of what was made is among those that fit this call: their points may differ else."""
    points = call.params.get("points")
    return not points or noted.points == int(points)
