"""What time is it at the site? Pure.

The offset is applied only when the site says that a timestamp is wrong (403002): a wrong `Date` from something in
between must not break signatures that are being accepted. It is measured all the time, for people to see.
"""

from __future__ import annotations

# So many refusals in a row, each of a request that was signed after a correction: it is not the clock.
_REFUSALS_AFTER_CORRECTION = 3


class SiteClock:
    """The site's clock minus ours, in seconds, and how sure we are.

    `generation` counts corrections: note it when signing, so that a refusal can be told from one that was underway
    when the correction was made.
    """

    def __init__(self) -> None:
        self.offset_s = 0.0  # what signatures use
        self.measured_s = 0.0  # what the last answer says
        self.generation = 0
        self._refused_after_correction = 0

    def measure(self, server_time_s: float, sent_unix_s: float, received_unix_s: float) -> None:
        """Note an answer's `Date`, which has whole seconds: on average it is half a second older than the moment."""
        self.measured_s = server_time_s + 0.5 - (sent_unix_s + received_unix_s) / 2.0

    def refused(self, generation: int, *, can_correct: bool) -> bool:
        """Note a 403002, after `measure`; True when corrections do not help: three times in a row right after one."""
        if generation != self.generation:
            return False  # signed before the last correction: says nothing about it
        if generation > 0:
            self._refused_after_correction += 1
        self.generation += 1
        if can_correct:
            self.offset_s = self.measured_s
        return self._refused_after_correction >= _REFUSALS_AFTER_CORRECTION

    def accepted(self) -> None:
        """Note an answer that had nothing against the timestamp."""
        self._refused_after_correction = 0
