"""May a request start now? Paced permits for one site. Pure: `now_s` (monotonic seconds) is an argument.

Two rules together:

* the *pace* spreads permits evenly, so that there are no bursts; a loop that woke up late may catch up a little;
* the *window* keeps the promise: never more than the quota within one second, counted when the bytes are really
  written, because a busy loop or a new connection may sit between a permit and its request.

The window is what a server can see, so it is exact. The pace alone would have to choose: without catching up a loop
that wakes 1 ms late loses a tenth of 100/s; with it two late and two early wake-ups exceed the quota.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

# The pace stays this far below the quota, so that the window hardly ever has to correct it.
_PACE = 0.998
# The window is a little longer than a second: requests 1.000 s apart here may arrive 0.998 s apart there.
_WINDOW_MARGIN_S = 0.002
# How much lateness is caught up, by permits that follow one another faster than the pace.
_CREDIT_S = 0.05
# Timers tick in milliseconds; waking again for half of one is worth less than the evenness it would buy.
_EARLY_S = 0.0005

# What the first, second, third ... throttling in a row does to the rate, and how long everything is held. A single one
# may be no more than a moment's hesitation of the network, which pushed two requests of one second into one.
_FACTORS = (0.99, 0.9, 0.7, 0.5)
# Who yields takes the first one for a sign that others need the site, and waits longer before it comes back.
_YIELDING_FACTORS = (0.5,)
_YIELDING_QUIET_S = 5.0
_HOLDS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# This long after a throttling, if something was accepted since, the rate recovers, by this share of the quota a second,
# but by no more than this part of itself: a site that grants a twentieth would else be overrun within two seconds, and
# the holds that follow would leave next to nothing of it. Throttled again soon after, it waits twice as long: somebody
# else may be using the quota, too.
_QUIET_S = 1.0
_LONGEST_QUIET_S = 8.0
_SOON_S = 10.0
_RECOVERY_EVERY_S = 1.0
_RECOVERY_SHARE = 0.02
_RECOVERY_PART = 0.1
# So many accepted in between, or as many as a second takes, and the next throttling counts as the first again. (A rate
# that is a tenth too high is throttled once in ten.)
_FORGOTTEN_AFTER = 20
_LOWEST_SHARE = 0.02
# So many throttlings at the lowest rate, with nothing accepted between, are read as the day's limit.
_EXHAUSTED_AFTER = 5
_LONG_HOLDS_S = (60.0, 120.0, 300.0, 600.0)
_RETRY_AFTER_LIMIT_S = 3600.0


class QuotaState(StrEnum):
    STEADY = "steady"
    LOWERED = "lowered"  # throttled lately; the rate recovers by itself
    EXHAUSTED = "exhausted"  # throttled at the lowest rate again and again: the day's limit, by the look of it


@dataclass(slots=True)
class _Throttling:
    """What is remembered of 403048 answers."""

    in_a_row: int = 0
    accepted_since: int = 0
    quiet_s: float = _QUIET_S
    at_lowest: int = 0
    last_s: float = -math.inf
    step_s: float = math.inf  # when the rate recovers by one step; inf until something was accepted
    since_serial: int = 0  # permits before this one were taken at a rate that has been lowered since
    long_holds: int = 0


class Quota:
    """Permits of one site. Every permit that `take` returns is reported once: `written`, `unsent` or `give_back`.

    `quota_per_s` None means no limit, until the site throttles: then the rate just seen, lowered, is where it starts.
    """

    def __init__(self, quota_per_s: float | None, now_s: float, *, yields: bool = False) -> None:
        """`yields`: backfills and replays give way to the live worker where the site throttles."""
        self._factors = _YIELDING_FACTORS if yields else _FACTORS
        self._quiet_s = _YIELDING_QUIET_S if yields else _QUIET_S
        self._ceiling = quota_per_s
        self._rate = quota_per_s
        self._slot_s = now_s
        self._last_s = -math.inf
        self._hold_until_s = -math.inf
        self._long_hold: tuple[int, float] = (0, -math.inf)  # the permit that began it, and the hold before it
        self._serial = 0
        self._written: deque[float] = deque()  # when requests were written, ascending
        self._pending: dict[int, float] = {}  # permits not reported yet -> when they were taken, ascending
        self._throttling = _Throttling()
        self._reference = quota_per_s or 0.0  # without a limit: the rate at which throttling began
        self._second_s = now_s
        self._this_second = 0
        self._previous_second = 0

    @property
    def rate_per_s(self) -> float | None:
        """Permits a second now; None without a limit."""
        return self._rate

    @property
    def state(self) -> QuotaState:
        if self._throttling.at_lowest >= _EXHAUSTED_AFTER:
            return QuotaState.EXHAUSTED
        return QuotaState.STEADY if self._rate == self._ceiling else QuotaState.LOWERED

    def due_s(self, now_s: float) -> float:
        """Return when the next permit may be taken; `now_s` or earlier means at once. It may be wise to ask again."""
        rate = self._rate if self._rate == self._ceiling else self._recovered(now_s)
        if rate is None:
            return self._hold_until_s
        return max(self._slot_s - _EARLY_S, self._window_due_s(rate, now_s), self._hold_until_s)

    def take(self, now_s: float, *, waited: bool) -> int:
        """Take the permit that is due and return its serial number.

        `waited`: somebody was waiting for it when it fell due, so that lateness is ours and may be caught up.
        """
        self._serial += 1
        self._last_s = now_s
        if self._rate is None:
            self._count(now_s)
            return self._serial
        late_from_s = now_s - _CREDIT_S if waited else now_s
        # Lateness within one tick of the loop is not idleness, whether or not somebody stood waiting.
        start_s = self._slot_s if now_s - self._slot_s <= 0.005 else max(self._slot_s, late_from_s)
        self._slot_s = start_s + 1.0 / (self._rate * _PACE)
        self._pending[self._serial] = now_s
        if self.state is QuotaState.EXHAUSTED:
            self._long_hold = self._serial, self._hold_until_s
            self._hold_until_s = now_s + self._long_hold_s()  # one permit a hold, until one is accepted
        return self._serial

    def written(self, serial: int, now_s: float) -> None:
        """Note that the permit's request is being written now."""
        if self._rate is not None:
            self._pending.pop(serial, None)
            self._written.append(now_s)

    def unsent(self, serial: int) -> None:
        """Note that the permit's request will never be written. Its place in the pace stays used."""
        self._pending.pop(serial, None)

    def give_back(self, serial: int) -> None:
        """Return an unused permit: the next one may be taken when this one could."""
        if self._pending.pop(serial, None) is not None and self._rate is not None:
            self._slot_s -= 1.0 / (self._rate * _PACE)
            if serial == self._long_hold[0]:
                self._hold_until_s = self._long_hold[1]  # nothing was asked of the site: the next one may ask now

    def throttled(self, serial: int, now_s: float, retry_after_s: float | None = None) -> None:
        """Note a 403048 for this permit: the rate goes down by a factor, once for all that were in flight together."""
        if retry_after_s is not None:
            self._hold_until_s = max(self._hold_until_s, now_s + min(retry_after_s, _RETRY_AFTER_LIMIT_S))
        throttling = self._throttling
        if serial < throttling.since_serial:
            return
        has_recovered = self._rate == self._ceiling  # and then nothing is counted any more
        if has_recovered or throttling.accepted_since >= max(_FORGOTTEN_AFTER, self._rate or 0.0):
            throttling.in_a_row = 0
        is_soon = now_s - throttling.last_s < _SOON_S
        throttling.quiet_s = min(_LONGEST_QUIET_S, throttling.quiet_s * 2.0) if is_soon else self._quiet_s
        throttling.in_a_row += 1
        throttling.accepted_since = 0
        throttling.last_s = now_s
        throttling.step_s = math.inf
        throttling.since_serial = self._serial + 1
        self._lower(now_s)

    def accepted(self, serial: int, now_s: float) -> None:
        """Note an answer that was not a throttling. Needed only while the state is not steady."""
        throttling = self._throttling
        if serial < throttling.since_serial:
            return  # underway before the last throttling: says nothing about the time after it
        if self.state is QuotaState.EXHAUSTED:
            self._hold_until_s = now_s
        throttling.at_lowest = 0
        throttling.long_holds = 0
        throttling.accepted_since += 1
        if throttling.step_s == math.inf:
            throttling.step_s = max(now_s, throttling.last_s + throttling.quiet_s)

    def set_quota(self, quota_per_s: float | None, now_s: float) -> None:
        """Change the quota. Less takes effect at once, for the next permit too."""
        was_lowered = self._rate != self._ceiling
        self._ceiling = quota_per_s
        if quota_per_s is None:
            self._rate = self._rate if was_lowered else None
            return
        self._reference = quota_per_s
        self._rate = min(self._rate, quota_per_s) if self._rate is not None and was_lowered else quota_per_s
        self._respace(self._rate, now_s)

    def assume_used(self, now_s: float) -> None:
        """Take the last second for used up, by somebody who is gone and could not tell."""
        if self._rate is not None:
            self._hold_until_s = max(self._hold_until_s, now_s + 1.0 + _WINDOW_MARGIN_S)

    def _window_due_s(self, rate: float, now_s: float) -> float:
        size = math.ceil(rate)  # so that the span is never less than a second
        span_s = size / rate + _WINDOW_MARGIN_S
        gone_s = now_s - span_s
        written, pending = self._written, self._pending
        while written and written[0] <= gone_s:
            written.popleft()
        # A permit whose request is still not written (a connection that hangs) would hold the others up for ever;
        # when it is written after all it counts from then.
        while pending and (oldest := next(iter(pending))) and pending[oldest] <= gone_s:
            del pending[oldest]
        excess = len(written) + len(pending) - size + 1
        if excess <= 0:
            return -math.inf
        if excess <= len(written):
            return written[excess - 1] + span_s
        return next(iter(pending.values())) + span_s

    def _lower(self, now_s: float) -> None:
        throttling = self._throttling
        if self._rate is None:
            self._reference = self._seen_per_s(now_s)
            self._rate = self._reference
        lowest = min(self._reference, max(0.2, self._reference * _LOWEST_SHARE))
        if self._rate <= lowest:
            throttling.at_lowest += 1
        factor = self._factors[min(throttling.in_a_row, len(self._factors)) - 1]
        self._rate = max(lowest, self._rate * factor)
        hold_s = _HOLDS_S[min(throttling.in_a_row, len(_HOLDS_S)) - 1]
        if throttling.at_lowest >= _EXHAUSTED_AFTER:
            hold_s = self._long_hold_s()
            throttling.long_holds += 1
        self._hold_until_s = max(self._hold_until_s, now_s + hold_s)
        self._respace(self._rate, now_s)

    def _long_hold_s(self) -> float:
        return _LONG_HOLDS_S[min(self._throttling.long_holds, len(_LONG_HOLDS_S) - 1)]

    def _respace(self, rate: float, now_s: float) -> None:
        self._slot_s = max(now_s, self._last_s + 1.0 / (rate * _PACE))

    def _recovered(self, now_s: float) -> float | None:
        throttling = self._throttling
        if self._rate is None or now_s < throttling.step_s or self.state is QuotaState.EXHAUSTED:
            return self._rate
        steps = 1 + int((now_s - throttling.step_s) / _RECOVERY_EVERY_S)
        throttling.step_s += steps * _RECOVERY_EVERY_S
        higher = self._rate + steps * min(_RECOVERY_SHARE * self._reference, _RECOVERY_PART * self._rate)
        if self._ceiling is not None:
            self._rate = min(self._ceiling, higher)
        else:  # far above where it was throttled, and nobody minds: no limit again
            self._rate = higher if higher < 2.0 * self._reference else None
        return self._rate

    def _count(self, now_s: float) -> None:
        if now_s - self._second_s >= 1.0:
            self._previous_second = self._this_second if now_s - self._second_s < 2.0 else 0
            self._this_second = 0
            self._second_s = now_s
        self._this_second += 1

    def _seen_per_s(self, now_s: float) -> float:
        elapsed_s = max(0.0, min(1.0, now_s - self._second_s))
        return max(1.0, self._this_second + self._previous_second * (1.0 - elapsed_s))
