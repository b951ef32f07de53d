"""What this process has made, as far as entries of the action log could come from it. Pure.

An entry does not name its request. To say that one belongs to a call in doubt, all our other calls of the same user
must be known that could have written it, and from when on they are all known.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeVar

from worker.delivery.evidence import SLACK_S
from worker.gigya.calls import Call
from worker.model import CallName, TopicPartition

_Key = TypeVar("_Key")
# Suspects are asked about within minutes after an assignment; until then what was made since must be remembered.
KEPT_S = 600.0
KEPT_CALLS = 50_000  # 25 MB: 500 bytes each


class Was(Enum):
    """How far it is known that something was executed."""

    CERTAIN = 1
    POSSIBLE = 2
    NOT = 3


class Place(NamedTuple):
    """What makes a call this one and no other: a record's place, and which of its calls it is."""

    partition: TopicPartition
    offset: int
    name: CallName


@dataclass(slots=True, eq=False)
class Noted:
    """One execution, or possible one. Times are monotonic."""

    place: Place
    user: str
    action: str  # empty: it leaves no entry in the log
    points: int | None
    from_s: float
    until_s: float
    was: Was
    owned_since_s: float = -math.inf  # when the assignment began under which it was made
    noted_s: float = 0.0
    is_open: bool = False  # its call has not ended
    is_many: bool = False  # nobody knows how often


def noted_of(call: Call, place: Place, from_s: float, until_s: float, was: Was) -> Noted:
    return Noted(place, call.uid, call.params.get("action", ""), points_of(call), from_s, until_s, was)


def points_of(call: Call) -> int | None:
    """Return the points that a call sets; None where the site's configuration does."""
    points = call.params.get("points")
    return int(points) if points else None


class OwnCalls:
    """The executions of one site's users. Used from one event loop."""

    def __init__(self, now_s: float) -> None:
        self.began_s = now_s
        self.complete_from_s = now_s  # everything noted from here on is still known
        self._in_order: deque[Noted] = deque()
        self._by_user: dict[str, deque[Noted]] = {}
        self._by_partition: dict[TopicPartition, deque[Noted]] = {}
        self._by_place: dict[Place, tuple[Noted, ...]] = {}  # nearly always one: a deque of one takes 600 bytes more

    def add(self, noted: Noted, now_s: float) -> Noted:
        """Remember it; `was` may be changed later."""
        noted.noted_s = now_s
        self._in_order.append(noted)
        self._by_user.setdefault(noted.user, deque()).append(noted)
        self._by_partition.setdefault(noted.place.partition, deque()).append(noted)
        self._by_place[noted.place] = (*self._by_place.get(noted.place, ()), noted)
        oldest = self._in_order[0]
        while oldest.noted_s < now_s - KEPT_S or len(self._in_order) > KEPT_CALLS:
            self._drop(self._in_order.popleft())
            oldest = self._in_order[0]
        return noted

    def like(self, call: Call) -> Iterator[Noted]:
        """Yield what entries could come from that fit this call; itself, too, where it was noted."""
        action, points = call.params["action"], points_of(call)
        for noted in self._by_user.get(call.uid, ()):
            has_these_points = points is None or noted.points is None or noted.points == points
            if noted.action == action and has_these_points and noted.was is not Was.NOT:
                yield noted

    def of(self, place: Place) -> Sequence[Noted]:
        """Return what is known of one call, oldest first."""
        return self._by_place.get(place, ())

    def ended_since(self, partition: TopicPartition, from_s: float, *, owned_since_s: float) -> list[Noted]:
        """Return what may have been executed after `from_s` for calls of a partition that have ended, oldest first.

        Of the assignment that began at `owned_since_s`: who was owner before has told of his calls, or they have not
        ended. A little more rather than less: times that were the site's once are as exact as its clock is known.
        """
        from_s -= SLACK_S
        found = []
        for noted in reversed(self._by_partition.get(partition, ())):
            if noted.noted_s < max(from_s, owned_since_s):
                break
            is_told = noted.action and not noted.is_open and noted.was is not Was.NOT
            if is_told and noted.owned_since_s >= owned_since_s and noted.until_s >= from_s:
                found.append(noted)
        return sorted(found, key=_until)

    def _drop(self, noted: Noted) -> None:
        self.complete_from_s = max(self.complete_from_s, noted.noted_s)
        # Of a user's, a partition's and a call's, too, it is the oldest.
        _drop_first(self._by_user, noted.user)
        _drop_first(self._by_partition, noted.place.partition)
        left = self._by_place.pop(noted.place)[1:]
        if left:
            self._by_place[noted.place] = left


def _drop_first(found: dict[_Key, deque[Noted]], key: _Key) -> None:
    left = found[key]
    left.popleft()
    if not left:
        del found[key]


def _until(noted: Noted) -> float:
    return noted.until_s


def has_sure_points(noted: Noted, call: Call) -> bool:
    """Say whether the entry of what was made is among those that fit this call: else its points may differ."""
    points = points_of(call)
    return points is None or noted.points == points
