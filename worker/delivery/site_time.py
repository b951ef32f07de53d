"""What time is it at the site, for what its action log says? Pure but for the clock it is given."""

from __future__ import annotations

from worker.clock import Clock


class SiteTime:
    """What time it is at the site, by its answers' Date headers and a clock of ours that nobody sets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s: float | None = None  # the site's Unix time minus our monotonic time

    def heard(self, server_time_s: float, sent_s: float, received_s: float) -> None:
        """Note a Date, of whole seconds: on average half a second older than the moment between the two times."""
        self._ahead_s = server_time_s + 0.5 - (sent_s + received_s) / 2.0

    @property
    def is_known(self) -> bool:
        return self._ahead_s is not None

    def at(self, monotonic_s: float) -> float:
        """Return the site's Unix time at a moment of ours; by our own clock as long as the site has not told."""
        if self._ahead_s is None:
            return self._clock.now_s() + (monotonic_s - self._clock.monotonic_s())
        return self._ahead_s + monotonic_s
