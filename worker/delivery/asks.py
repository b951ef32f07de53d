"""Is it this call, or is it us? The bookkeeping of 403003 and 403005, which decide nothing alone. Pure.

A rotated key looks like a bad signature or an unknown user after a million successes. So a refused call is *held*, and
sent again once something proves that the site accepts us: an answer to our question, or another user's success. Only a
second refusal that stands between two such acceptances is the call's own matter.

"Before" and "after" are ticks of one counter, not times, so that two things never happen at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from worker.delivery.schedule import probe_pause_s

# Another user's success is as good as an answer and costs nothing: give it a moment before asking.
_ASK_AFTER_S = 0.1

HeldCall = TypeVar("HeldCall", bound=Hashable)


class SiteAnswer(StrEnum):
    """What the site made of a question (a signed gm.getActionConfig)."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # our credentials are not accepted: 403003, 403005, 400093, 403010, 400008
    FORBIDDEN = "forbidden"  # we may not ask; says nothing about calls
    UNKNOWN = "unknown"  # throttled, a server error, no answer: ask later


@dataclass(frozen=True, slots=True)
class Accepted(Generic[HeldCall]):
    """Which held calls an acceptance frees."""

    again: tuple[HeldCall, ...] = ()  # refused once: to be sent again
    decided: tuple[HeldCall, ...] = ()  # refused between two acceptances: it is their own matter


@dataclass(slots=True)
class _Held:
    uid: str
    tick: int  # when the refusal was read
    since_s: float
    is_second: bool  # an acceptance that still counts ended before the refused attempt started


class Asks(Generic[HeldCall]):
    """The held calls of one site, and when to ask about them. One question at a time."""

    def __init__(self, rng: random.Random, *, limit_s: float) -> None:
        self.epoch = 0  # acceptances of an earlier epoch are void: the site has refused us since
        self._rng = rng
        self._limit_s = limit_s
        self._tick = 0
        self._held: dict[HeldCall, _Held] = {}
        self._asking = False
        self._troubled_since_s = math.inf  # since when questions have brought nothing
        self._not_before_s = -math.inf

    def __len__(self) -> int:
        return len(self._held)

    def tick(self) -> int:
        """Return the next tick: take one when an attempt or a question starts."""
        self._tick += 1
        return self._tick

    def hold(self, call: HeldCall, uid: str, now_s: float, *, accepted_in: int) -> None:
        """Keep a refused call. `accepted_in`: the epoch in which it was sent again, -1 for never."""
        self._held[call] = _Held(uid, self.tick(), now_s, is_second=accepted_in == self.epoch)

    def forget(self, call: HeldCall) -> None:
        self._held.pop(call, None)

    def question_due_s(self) -> float:
        """Return when to ask the site; inf while nothing is held or a question is out."""
        if self._asking or not self._held:
            return math.inf
        first = next(iter(self._held.values()))
        return max(first.since_s + _ASK_AFTER_S, self._not_before_s)

    def question_started(self) -> int:
        """Note that the site is being asked; return the tick for `accepted`."""
        self._asking = True
        return self.tick()

    def question_ended(self, answer: SiteAnswer | None, now_s: float) -> None:
        """Note the end of a question: an empty answer puts the next one off, longer and longer.

        None: the question has become void, and may be put again at once.
        """
        self._asking = False
        if answer is None:
            return
        if answer in (SiteAnswer.ACCEPTED, SiteAnswer.REFUSED):
            self._troubled_since_s = math.inf
            self._not_before_s = -math.inf
            return
        self._troubled_since_s = min(self._troubled_since_s, now_s)
        self._not_before_s = now_s + probe_pause_s(now_s - self._troubled_since_s, self._rng)

    def accepted(self, started: int, *, by_uid: str | None = None) -> Accepted[HeldCall]:
        """Note that what `started` at that tick was accepted: an answer, or the success of the user `by_uid`.

        It counts for every call that was held before it started, except the same user's.
        """
        if not self._held:
            return Accepted()
        freed = [call for call, held in self._held.items() if held.tick < started and held.uid != by_uid]
        decided = tuple(call for call in freed if self._held[call].is_second)
        again = tuple(call for call in freed if not self._held[call].is_second)
        for call in freed:
            del self._held[call]
        return Accepted(again, decided)

    def void(self) -> None:
        """Forget all acceptances: the site refuses us now, so a refusal proves nothing about a call."""
        self.epoch += 1
        for held in self._held.values():
            held.is_second = False

    def restart(self, now_s: float) -> None:
        """Let the limit of every held call count from now: the time before was an outage or a stop."""
        for held in self._held.values():
            held.since_s = now_s
        self._not_before_s = -math.inf
        self._troubled_since_s = math.inf

    def undecided_at_s(self) -> float:
        """Return when the first held call has waited too long for a decision; inf when none is held."""
        return min((held.since_s for held in self._held.values()), default=math.inf) + self._limit_s

    def take_all(self) -> tuple[HeldCall, ...]:
        """Hold no call any longer, without a word on any of them."""
        calls = tuple(self._held)
        self._held.clear()
        return calls
