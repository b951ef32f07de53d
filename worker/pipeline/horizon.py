"""How far ahead calls may be attempted, so that after a crash it is known which ones may have been. Pure.

Every commit says a *horizon*; no call of a record at or above it is attempted before a commit with a higher one is
acknowledged. What is unfinished below it after a crash is suspect, and asking about a suspect costs requests. So the
horizon is as near as it can be without being waited for: where calls queue, it is counted in calls, some seconds' worth
of them; where they do not, in offsets ahead of the reading position.

    unfinished                                    the next horizon
    few calls                                     position + AHEAD_S at the pace of reading, and no further than the
                                                  calls of AHEAD_S lie, as densely as they have come so far
    many: 1010 1012 1013 1040 1041 ...            behind the n-th call: AHEAD_S at the pace of calls
    ... and all of these wait for something       behind the k-th that waits for nothing but the horizon

A burst takes it far ahead: fast reading, or many calls that wait while others go on. Where calls queue it comes down
again, once a second, to behind the n-th call that could be made at once; never below one that was attempted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import NamedTuple

AHEAD_S = 3.0  # a commit is made every second, and earlier when half of this is used up
FEWEST = 32  # calls, or offsets, at any pace: what is asked about after a crash at the least
# Paces are measured over so long. What happens in less is a burst, and may be over.
LOOK_S = 1.0
# For so long after a shortage it does not come down, as what was let through would be kept back again before its turn,
# and a further shortage lets twice as many through.
SHORT_S = 10.0
NEVER = 2**63


class Heads(NamedTuple):
    """The offsets of a partition's calls that wait for no other call, nor for a time. To look for ready ones costs."""

    behind: Sequence[int] = ()  # those that nothing but the present horizon keeps from being attempted, ascending
    ready: Callable[[], Sequence[int]] = tuple  # those that wait for a place or a permit and will get it, in no order
    has_ready: Callable[[], bool] = bool  # whether any waits for that, at a site that is away too


class Horizon:
    """One partition's horizon under one assignment."""

    __slots__ = (
        "_all_begun",
        "_attempted_below",
        "_begun",
        "_calls_per_s",
        "_first_position",
        "_half",
        "_is_under_way",
        "_let_through",
        "_looked_s",
        "_offsets_per_s",
        "_position",
        "_push",
        "_rests",
        "_short_until_s",
        "_stays_until_s",
        "_was_short",
        "below",
        "renew_at",
    )

    def __init__(self, below: int, position: int, now_s: float) -> None:
        self.below = below  # calls of records below it may be attempted
        self.renew_at = position  # a call of a record at or above it makes a commit due; once
        self._begun = 0  # attempts since `_looked_s`
        self._let_through = 0  # attempts since the last proposal
        self._half = 0  # so many of them make a commit due; 0 while the horizon is counted in offsets
        self._push = 0
        self._was_short = False
        self._rests = False  # nothing was attempted for `LOOK_S`, nor since
        self._looked_s = now_s
        self._position = position  # at `_looked_s`
        self._first_position = position
        self._all_begun = 0  # attempts under this assignment
        self._attempted_below = 0  # an offset: all of them were of records below it
        self._short_until_s = now_s  # calls were kept from being made, and until then may be again
        self._stays_until_s = now_s + LOOK_S  # until then nobody looks whether it can come down
        self._is_under_way = False
        self._calls_per_s = 0.0
        self._offsets_per_s = 0.0

    def __repr__(self) -> str:
        return f"<Horizon below {self.below}>"

    def has_begun(self, offset: int) -> bool:
        """Note an attempt; return whether the horizon should be renewed now: half of what it let through is used up."""
        self._attempted_below = max(self._attempted_below, offset + 1)
        self._rests = False
        self._begun += 1
        self._all_begun += 1
        self._let_through += 1
        return self._let_through == self._half

    def is_near(self, offset: int) -> bool:
        """Return, once, that a call has come so near to the horizon that it should be renewed now."""
        if offset < self.renew_at:
            return False
        self.renew_at = NEVER
        return True

    def ran_short(self) -> None:
        """Note that calls could have been attempted, but for the horizon.

        Not while a higher one is under way: whether that is enough is not known yet; each start would be a shortage.
        """
        self._was_short |= not self._is_under_way

    def propose(self, unfinished: Iterable[tuple[int, int]], heads: Heads, position: int, now_s: float) -> int:
        """Return the horizon of the next commit; never one that something may have been attempted at or above.

        `unfinished`: offset and number of calls of each unfinished record, ascending.
        """
        self._look(position, now_s)
        enough = max(FEWEST, int(self._calls_per_s * AHEAD_S))
        ahead = max(FEWEST, int(self._offsets_per_s * AHEAD_S))
        calls = iter(unfinished)
        behind, missing = _behind(calls, enough)
        self._let_through = 0
        if self._was_short or self._stands_still(heads):
            # Those that were let through cannot go on, each for a reason of its own; or commits take longer than what
            # was let through lasts. Twice as many each time: too many come down again.
            self._push = 2 * max(FEWEST, self._push)
            self._was_short = False
            self._short_until_s = self._stays_until_s = now_s + SHORT_S
            if heads.behind:
                behind = max(behind or 0, heads.behind[: self._push][-1] + 1)
        elif now_s >= self._short_until_s:
            self._push = 0
        if behind is not None:
            self._half, self.renew_at = (enough + 1) // 2, NEVER
            if behind < self.below and now_s >= self._stays_until_s:
                self._stays_until_s = now_s + LOOK_S
                if _behind(calls, enough, below=self.below)[0] is not None:
                    return max(behind, self._attempted_below, self._enough_heads(heads, enough))
            return max(self.below, behind)
        self._half = 0
        seen, passed = self._all_begun + enough - missing, position - self._first_position
        if seen and passed > 0:
            # At the start of a backlog the reading is fast, and too little of it is unfinished yet to count by.
            ahead = min(ahead, max(FEWEST, missing * passed // seen))
        # One that is high enough is kept: a commit that changes nothing need not be made.
        is_kept = position + ahead // 2 <= self.below <= position + 4 * ahead
        proposed = self.below if is_kept else position + ahead
        self.renew_at = (position + proposed) // 2
        return proposed

    def _stands_still(self, heads: Heads) -> bool:
        """Say whether calls wait for the horizon alone, while their site is busy with those of other partitions."""
        return self._rests and bool(heads.behind) and not heads.has_ready()

    def _enough_heads(self, heads: Heads, enough: int) -> int:
        """Return an offset below which there are enough calls that can go on; the present horizon if there are none.

        Calls that wait for something else are not counted: if they were, all that was let through would be used up at
        once, and the horizon would go up and down while calls wait for it.
        """
        first = nsmallest(enough, heads.ready())
        return first[-1] + 1 if len(first) == enough else self.below

    def _look(self, position: int, now_s: float) -> None:
        elapsed_s = now_s - self._looked_s
        calls_per_s = self._begun / max(LOOK_S, elapsed_s)
        offsets_per_s = (position - self._position) / max(LOOK_S, elapsed_s)
        if elapsed_s < LOOK_S:
            self._calls_per_s = max(self._calls_per_s, calls_per_s)
            self._offsets_per_s = max(self._offsets_per_s, offsets_per_s)
            return
        self._calls_per_s, self._offsets_per_s = calls_per_s, offsets_per_s
        self._rests = self._begun == 0
        self._begun, self._looked_s, self._position = 0, now_s, position

    def sent(self, proposed: int) -> None:
        """Note that a commit is under way: until it is acknowledged, either horizon may be the one that counts."""
        self.below = min(self.below, proposed)
        self._is_under_way = True

    def acknowledged(self, proposed: int) -> None:
        """Note that the group's commit says this horizon now."""
        self.below = proposed
        self._is_under_way = False


def _behind(unfinished: Iterable[tuple[int, int]], enough: int, below: float = NEVER) -> tuple[int | None, int]:
    """Return the offset behind the record with the so manieth call; None: there are so many too few, all or `below`."""
    for offset, calls in unfinished:
        if offset >= below:
            break
        enough -= calls
        if enough <= 0:
            return offset + 1, 0
    return None, enough
