"""What this process has made, as far as entries of the action log could come from it. Pure.

An entry does not name its request. To say that one belongs to a call in doubt, all our other calls of the same user
must be known that could have written it, and from when on they are all known.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from worker.delivery.evidence import SLACK_S
from worker.gigya.calls import Call
from worker.model import CallName, TopicPartition

# Suspects are asked about within minutes after an assignment; until then what was made since must be remembered.
KEPT_S = 600.0
KEPT_CALLS = 50_000  # 20 MB: 400 bytes each


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
    # Its neighbours in `OwnCalls`. Queues of them would be blocks of half a kilobyte that live for ten minutes amid
    # what lives for milliseconds, so that the heap around them can never be given back; and a dictionary of all of
    # them has a table that doubles, by megabytes, when there are a few more.
    _next: Noted | None = field(default=None, init=False, repr=False)
    _older_of_user: Noted | None = field(default=None, init=False, repr=False)
    _newer_of_user: Noted | None = field(default=None, init=False, repr=False)
    _older_of_partition: Noted | None = field(default=None, init=False, repr=False)
    _newer_of_partition: Noted | None = field(default=None, init=False, repr=False)


def noted_of(call: Call, place: Place, from_s: float, until_s: float, was: Was) -> Noted:
    return Noted(place, call.uid, sys.intern(call.params.get("action", "")), points_of(call), from_s, until_s, was)


def points_of(call: Call) -> int | None:
    """Return the points that a call sets; None where the site's configuration does."""
    points = call.params.get("points")
    return int(points) if points else None


class OwnCalls:
    """The executions of one site's users. Used from one event loop."""

    def __init__(self, now_s: float) -> None:
        self.began_s = now_s
        self.complete_from_s = now_s  # everything noted from here on is still known
        self._count = 0
        self._oldest: Noted | None = None
        self._newest: Noted | None = None
        self._newest_of_user: dict[str, Noted] = {}
        self._newest_of_partition: dict[TopicPartition, Noted] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, noted: Noted, now_s: float) -> Noted:
        """Remember it; `was` may be changed later."""
        noted.noted_s = now_s
        self._enqueue(noted)
        while self._oldest is not None and (self._oldest.noted_s < now_s - KEPT_S or self._count > KEPT_CALLS):
            self._drop(self._oldest)
        return noted

    def like(self, call: Call) -> Iterator[Noted]:
        """Yield what entries could come from that fit this call; itself, too, where it was noted. The newest first."""
        action, points = call.params["action"], points_of(call)
        for noted in self.of_user(call.uid):
            has_these_points = points is None or noted.points is None or noted.points == points
            if noted.action == action and has_these_points and noted.was is not Was.NOT:
                yield noted

    def of_user(self, user: str) -> Iterator[Noted]:
        """Yield what is known of a user's calls, the newest first."""
        noted = self._newest_of_user.get(user)
        while noted is not None:
            yield noted
            noted = noted._older_of_user

    def of_partition(self, partition: TopicPartition) -> Iterator[Noted]:
        """Yield what is known of the calls of a partition's records, the newest first."""
        noted = self._newest_of_partition.get(partition)
        while noted is not None:
            yield noted
            noted = noted._older_of_partition

    def ended_since(self, partition: TopicPartition, from_s: float, *, owned_since_s: float) -> list[Noted]:
        """Return what may have been executed after `from_s` for calls of a partition that have ended, oldest first.

        Of the assignment that began at `owned_since_s`: who was owner before has told of his calls, or they have not
        ended. A little more rather than less: times that were the site's once are as exact as its clock is known.
        """
        from_s -= SLACK_S
        found = []
        for noted in self.of_partition(partition):
            if noted.noted_s < max(from_s, owned_since_s):
                break
            is_told = noted.action and not noted.is_open and noted.was is not Was.NOT
            if is_told and noted.owned_since_s >= owned_since_s and noted.until_s >= from_s:
                found.append(noted)
        return sorted(found, key=_until)

    def _enqueue(self, noted: Noted) -> None:
        if self._newest is not None:
            self._newest._next = noted
        else:
            self._oldest = noted
        self._newest = noted
        self._count += 1
        before = self._newest_of_user.get(noted.user)
        if before is not None:
            noted.user = before.user  # one text for all of a user's calls
            noted._older_of_user, before._newer_of_user = before, noted
        self._newest_of_user[noted.user] = noted
        before = self._newest_of_partition.get(noted.place.partition)
        if before is not None:
            noted._older_of_partition, before._newer_of_partition = before, noted
        self._newest_of_partition[noted.place.partition] = noted

    def _drop(self, noted: Noted) -> None:
        """Forget the oldest: it is the oldest of its user and of its partition, too."""
        self.complete_from_s = max(self.complete_from_s, noted.noted_s)
        self._oldest = noted._next
        if self._oldest is None:
            self._newest = None
        self._count -= 1
        if noted._newer_of_user is not None:
            noted._newer_of_user._older_of_user = None
        else:
            del self._newest_of_user[noted.user]
        if noted._newer_of_partition is not None:
            noted._newer_of_partition._older_of_partition = None
        else:
            del self._newest_of_partition[noted.place.partition]
        # Somebody may know it for hours yet, whose call is in doubt; all that came after it must not live as long.
        noted._next = noted._newer_of_user = noted._newer_of_partition = None


def _until(noted: Noted) -> float:
    return noted.until_s


def has_sure_points(noted: Noted, call: Call) -> bool:
    """Say whether the entry of what was made is among those that fit this call: else its points may differ."""
    points = points_of(call)
    return points is None or noted.points == points
