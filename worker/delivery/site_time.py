"""What time is it at the site, for what its action log says? Pure but for the clock it is given."""

from __future__ import annotations

import math

from worker.clock import Clock

# What two estimates of one clock may differ by.
_JITTER_S = 1.0


class SiteTime:
    """What time it is at the site, by its answers' Date headers and a clock of ours that nobody sets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.steady_from_s = -math.inf  # monotonic: the site's clock has not been set since
        self._ahead_s: float | None = None  # the site's Unix time minus our monotonic time

    def heard(self, server_time_s: float, sent_s: float, received_s: float) -> None:
        """Note a Date, of whole seconds: on average half a second older than the moment between the two times."""
        earliest_s, latest_s = server_time_s - received_s, server_time_s + 1.0 - sent_s
        if self._ahead_s is not None and not earliest_s - _JITTER_S <= self._ahead_s <= latest_s + _JITTER_S:
            self.steady_from_s = received_s
        self._ahead_s = server_time_s + 0.5 - (sent_s + received_s) / 2.0

    @property
    def is_known(self) -> bool:
        return self._ahead_s is not None

    def at(self, monotonic_s: float) -> float:
        """Return the site's Unix time at a moment of ours; by our own clock as long as the site has not told."""
        if self._ahead_s is None:
            return self._clock.now_s() + (monotonic_s - self._clock.monotonic_s())
        return self._ahead_s + monotonic_s
