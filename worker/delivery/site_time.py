"""What time is it at the site, for what its action log says? Pure but for the clock it is given."""

from __future__ import annotations

import math

from worker.clock import Clock

# What the clocks of a site's machines may differ by without one of them having been set.
_JITTER_S = 1.0
# ... and how fast two clocks drift apart at the most: twice what a clock that is being slewed does.
_DRIFT = 1e-3


class SiteTime:
    """What time it is at the site, by its answers' Date headers and a clock of ours that nobody sets.

    Each answer bounds the site's time: it was given between its request and its arrival, and its Date is of that moment
    or up to a second before. All bounds together are what is believed. So a slow answer, whose bounds are wide, says
    little; taken for half-way there, as the only one, it would look like a clock that was set.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.steady_from_s = -math.inf  # monotonic: the site's clock has not been set since
        # The site's Unix time minus our monotonic time lies between these.
        self._least_s, self._most_s = -math.inf, math.inf
        self._heard_s = 0.0

    def heard(self, server_time_s: float, sent_s: float, received_s: float) -> None:
        """Note a Date, of whole seconds, of an answer between two times (monotonic)."""
        least_s, most_s = server_time_s - received_s, server_time_s + 1.0 - sent_s
        drifted_s = _DRIFT * max(0.0, received_s - self._heard_s) if self.is_known else 0.0
        before_s = self._least_s - drifted_s, self._most_s + drifted_s
        self._least_s, self._most_s = max(least_s, before_s[0]), min(most_s, before_s[1])
        if self._least_s > self._most_s:
            if self._least_s - self._most_s > _JITTER_S:
                self.steady_from_s = received_s
            self._least_s, self._most_s = least_s, most_s
        self._heard_s = received_s

    @property
    def is_known(self) -> bool:
        return self._most_s < math.inf

    @property
    def ahead_s(self) -> float | None:
        """The site's clock minus ours as it is set now; None before the first answer."""
        return self.at(self._clock.monotonic_s()) - self._clock.now_s() if self.is_known else None

    def at(self, monotonic_s: float) -> float:
        """Return the site's Unix time at a moment of ours; by our own clock as long as the site has not told."""
        if not self.is_known:
            return self._clock.now_s() + (monotonic_s - self._clock.monotonic_s())
        return (self._least_s + self._most_s) / 2.0 + monotonic_s
