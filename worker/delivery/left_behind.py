"""Keeps what the next owner of a partition needs to know of this site's calls, and what the one before left.

`recent.py` says what that is, and why.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from worker.clock import Clock
from worker.delivery.deliveries import Delivery
from worker.delivery.own_calls import Noted, OwnCalls, Was, points_of
from worker.delivery.recent import LONGEST_S, REACH_S, Earlier, Left, Recent, encode, kind_of
from worker.delivery.site_time import SiteTime
from worker.gigya.calls import Settles
from worker.model import TopicPartition

# Of more users than these whose calls failed it is not remembered who they are; then it may have been anybody.
_FAILED_USERS_KEPT = 10_000
_ANYBODY = ""
# No serial is as high: nobody is to be told anything.
FOREVER = 2**63


class LeftBehind:
    """What is under way, partition by partition. Used from one event loop."""

    def __init__(self, own: OwnCalls, site_time: SiteTime, clock: Clock) -> None:
        self.earlier: dict[TopicPartition, Earlier] = {}
        self._own = own
        self._site_time = site_time
        self._clock = clock
        self._open: dict[TopicPartition, dict[Delivery, float]] = {}
        self._serials: dict[TopicPartition, int] = {}  # counts what happened
        self._told: dict[TopicPartition, int] = {}  # up to which serial the group knows it
        self._heads: dict[tuple[TopicPartition, str], Delivery | None] = {}  # None: it is decided
        self._failed: dict[TopicPartition, set[str]] = {}  # users with calls that failed, which no commit may tell of
        self._notes: dict[TopicPartition, tuple[tuple[int, bool, bool], str]] = {}

    def begun(self, delivery: Delivery, started_s: float) -> None:
        """Note that from here on a call may be executed (monotonic)."""
        self._open.setdefault(delivery.partition, {}).setdefault(delivery, started_s)
        self._happened(delivery.partition)

    def closed(self, delivery: Delivery) -> None:
        """Note that it is known what became of a call."""
        self._open.get(delivery.partition, {}).pop(delivery, None)
        if self.is_head(delivery):
            self._heads[delivery.partition, delivery.call.uid] = None  # a place, not the call with all it holds
        self._happened(delivery.partition)  # a suspect that was found in the log was never open here

    def doubted(self, delivery: Delivery) -> None:
        """Note that a call is in doubt; it is in the next note."""
        self._happened(delivery.partition)

    def failed(self, delivery: Delivery) -> None:
        """Note that a call has failed: as long as its record waits for its letter, the next owner finds it unfinished.

        It, and not a call in doubt behind it, may then be the first of its user.
        """
        users = self._failed.setdefault(delivery.partition, set())
        users.add(delivery.call.uid if len(users) < _FAILED_USERS_KEPT else _ANYBODY)

    def suspected(self, delivery: Delivery) -> None:
        """Note a suspect. The first of its user is the one that was in doubt, if one was: a lane has one head."""
        self._heads.setdefault((delivery.partition, delivery.call.uid), delivery)

    def is_head(self, delivery: Delivery) -> bool:
        return self._heads.get((delivery.partition, delivery.call.uid)) is delivery

    def recall(
        self,
        partition: TopicPartition,
        recent: Recent | None,
        *,
        suspects_below: int,
        ends_are_known: bool,
        awaits_commits: bool = False,
    ) -> None:
        """Begin a new assignment. What an earlier one of ours had under way is among the suspects, or is done.

        `awaits_commits`: what the group knows is told by `acknowledged`.
        """
        now_s = self._clock.monotonic_s()
        self.earlier[partition] = Earlier(now_s, suspects_below, recent, ends_are_known)
        self._open.pop(partition, None)
        self._failed.pop(partition, None)
        self._heads = {key: head for key, head in self._heads.items() if key[0] != partition}
        self._happened(partition)
        self._told[partition] = -1 if awaits_commits else FOREVER

    def note(self, partition: TopicPartition, watermark: int, limit_characters: int) -> str:
        """Return what to leave behind. The same as last time where nothing has happened since: then it holds still."""
        earlier = self.earlier.get(partition)
        has_suspects = earlier is not None and watermark < earlier.suspects_below
        state = (self.serial(partition), has_suspects, self._site_time.is_known)
        before = self._notes.get(partition)
        if before is None or before[0] != state or len(before[1]) > limit_characters:
            before = self._notes[partition] = (state, self._written(partition, has_suspects, limit_characters))
        return before[1]

    def serial(self, partition: TopicPartition) -> int:
        """Return a number that is another one whenever something has happened that a note tells."""
        return self._serials.get(partition, 0)

    def acknowledged(self, partition: TopicPartition, serial: int) -> None:
        """Note that the group has what was to be told when the serial was this."""
        self._told[partition] = serial

    def knows(self, partition: TopicPartition, serial: int) -> bool:
        """Say whether the group has been told what happened up to this serial, or nobody tells it anything."""
        return self._told.get(partition, FOREVER) >= serial

    def _happened(self, partition: TopicPartition) -> None:
        self._serials[partition] = self._serials.get(partition, 0) + 1

    def _written(self, partition: TopicPartition, has_suspects: bool, limit_characters: int) -> str:
        earlier = self.earlier.get(partition) or Earlier(self._own.began_s)
        # What we make again ourselves is told by its kind, before. Of what others did we know what they have told.
        copies_untold = has_suspects and (earlier.recent is None or earlier.recent.copies_untold)
        if not self._site_time.is_known:
            # No answer so far, so nothing of ours is done: what the owner before has left, and what is in doubt by now.
            if earlier.recent is None:
                return ""
            recent = self._with([], partition, replace(_handed_on(earlier), copies_untold=copies_untold))
            ended = self._own.ended_since(partition, -math.inf, owned_since_s=earlier.since_s)
            kinds = (kind_of(noted.user, noted.action, noted.points) for noted in ended)
            recent = replace(recent, possible=tuple(dict.fromkeys((*recent.possible, *kinds))))
            return encode(recent, limit_characters)
        at, now_s = self._site_time.at, self._clock.monotonic_s()
        first_s: float | None = min([at(now_s), *map(at, self._open.get(partition, {}).values())])
        if has_suspects:
            # Until all of them are settled, one may be as old as it was for us.
            first_s = None if earlier.first_s is None else min(first_s or math.inf, earlier.first_s)
        from_s = max(earlier.since_s, self._own.complete_from_s)
        needed_s = at(from_s) if first_s is None else first_s - REACH_S
        recent = Recent(at(now_s), max(needed_s, at(from_s)), first_s)
        if earlier.known_from_s is not None and needed_s < at(from_s) and self._own.complete_from_s <= earlier.since_s:
            # Hand on what the owner before had left, and add what we have made.
            recent = replace(_handed_on(earlier), until_s=at(now_s), first_s=first_s)
        # What is remembered of the time before the assignment is among them, however long ago it was executed.
        own_from_s = (recent.known_from_s or 0.0) - at(0.0)
        own = self._own.ended_since(partition, own_from_s, owned_since_s=earlier.since_s)
        recent = replace(recent, copies_untold=copies_untold)
        return encode(self._with(own, partition, recent), limit_characters)

    def _with(self, own: list[Noted], partition: TopicPartition, recent: Recent) -> Recent:
        """Add to a note what we have made, and what is in doubt now."""
        at = self._site_time.at
        executed, possible = list(recent.executed), list(recent.possible)
        oldest_s = -math.inf if recent.known_from_s is None else recent.known_from_s - LONGEST_S
        for noted in own:
            kind = kind_of(noted.user, noted.action, noted.points)
            if noted.was is Was.CERTAIN and at(noted.from_s) >= oldest_s:
                executed.append(Left(kind, at(noted.from_s), at(noted.until_s)))
            else:
                possible.append(kind)
        failed: Collection[str] = self._failed.get(partition, ())
        in_doubt: list[str] = []
        for each in self._open.get(partition, {}):
            if each.doubt is not None and _is_logged(each):
                is_first = each.call.uid not in failed and _ANYBODY not in failed
                (in_doubt if is_first else possible).append(_kind(each))
        return replace(
            recent,
            executed=tuple(sorted(executed, key=_until)),
            possible=tuple(dict.fromkeys(possible)),
            in_doubt=tuple(in_doubt),
        )


def _handed_on(earlier: Earlier) -> Recent:
    """Return what was left to us for the next owner: who was in doubt then is not known to be the first any more."""
    recent = earlier.recent
    assert recent is not None  # noqa: S101  # the callers have looked
    unsure = () if earlier.ends_are_known else tuple(left.kind for left in recent.executed)
    return replace(
        recent,
        executed=recent.executed if earlier.ends_are_known else (),
        possible=(*recent.possible, *recent.in_doubt, *unsure),
        in_doubt=(),
    )


def _until(left: Left) -> float:
    return left.until_s


def _is_logged(delivery: Delivery) -> bool:
    return delivery.call.method.settles is Settles.ACTIONS_LOG


def _kind(delivery: Delivery) -> str:
    return kind_of(delivery.call.uid, delivery.call.params["action"], points_of(delivery.call))
