"""The log lines of one site. What can come in floods is limited, and the lines left out are counted.

No UID, no key, no payload: a user is a mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from worker.clock import Clock
from worker.delivery.ambiguity import Step
from worker.delivery.deliveries import Attempt, Delivery
from worker.delivery.site_state import Trouble
from worker.gigya.replies import Verdict

_WINDOW_S = 10.0
_LINES_IN_WINDOW = 10

log = structlog.get_logger(__name__)


class SiteLog:
    """Says what happens to one site and to calls that do not end at once."""

    def __init__(self, site: str, clock: Clock, mark: Callable[[str], str]) -> None:
        self._site = site
        self._clock = clock
        self._mark = mark
        self._windows: dict[str, _Window] = {}

    def held(self, attempt: Attempt, verdict: Verdict, *, in_flight: int, differs_at: int | None) -> None:
        if (left_out := self._left_out("call.held")) is not None:
            place = self._place(attempt.delivery)
            more = {} if differs_at is None else {"base_strings_differ_at": differs_at}
            log.warning(
                "call.held", code=verdict.code, reason=verdict.reason, **place, in_flight=in_flight, **more, **left_out
            )

    def retry(self, delivery: Delivery, reason: str, *, code: int | None, wait_s: float) -> None:
        log.debug("call.retry", code=code, reason=reason, wait_s=round(wait_s, 3), **self._place(delivery))

    def resent(self, delivery: Delivery, step: Step) -> None:
        """Never limited: it is the only trace of a possible duplicate that a crash leaves."""
        facts = {"step": int(step), "why": step.name.lower(), "suspect": delivery.suspect, **self._place(delivery)}
        if step is Step.CLEARED_BY_LOG:
            log.info("call.resent_after_ambiguity", **facts)
        else:
            log.warning("call.resent_after_ambiguity", **facts)

    def log_forbidden(self) -> None:
        remedy = (
            "Give the key's permission group gm.getActionsLog (Console > Admin > Applications): without it a lost "
            "answer can lead to a duplicate."
        )
        log.warning("site.log_forbidden", site=self._site, remedy=remedy)

    def throttled(self, verdict: Verdict, *, rate_per_s: float | None, is_exhausted: bool) -> None:
        if (left_out := self._left_out("site.throttled")) is None:
            return
        rate = round(rate_per_s, 2) if rate_per_s is not None else None
        if is_exhausted:
            remedy = (
                "The day's limit, by the look of it: throttled again and again at the lowest rate. Lower quota_per_s, "
                "or ask SAP for more."
            )
            log.error("site.throttled", site=self._site, code=verdict.code, rate_per_s=rate, remedy=remedy, **left_out)
        else:
            log.warning("site.throttled", site=self._site, code=verdict.code, rate_per_s=rate, **left_out)

    def clock_corrected(self, offset_s: float) -> None:
        if (left_out := self._left_out("site.clock_corrected")) is not None:
            log.warning("site.clock_corrected", site=self._site, offset_s=round(offset_s, 1), **left_out)

    def outage(self, trouble: Trouble, *, is_alone: bool) -> None:
        host = {"host": trouble.host} if is_alone else {}
        log.error("site.outage", site=self._site, **host, reason=trouble.reason, remedy=trouble.remedy)

    def stopped(self, trouble: Trouble, *, held: int, text: str) -> None:
        log.error(
            "site.stopped",
            site=self._site,
            reason=trouble.reason,
            code=trouble.code,
            held=held,
            probe=trouble.probe.value,
            text=text,
            remedy=trouble.remedy,
        )

    def opened(self, trouble: Trouble, *, by: str, released: int) -> None:
        log.warning(
            "site.opened",
            site=self._site,
            was=trouble.state.value,
            reason=trouble.reason,
            after_s=round(self._clock.monotonic_s() - trouble.since_s, 1),
            by=by,
            released=released,
        )

    def _place(self, delivery: Delivery) -> Mapping[str, object]:
        return {
            "site": self._site,
            "user": self._mark(delivery.call.uid),
            "partition": str(delivery.partition),
            "offset": delivery.offset,
            "call": str(delivery.call.name),
            "attempt": delivery.attempts,
        }

    def _left_out(self, event: str) -> Mapping[str, int] | None:
        """Return what to add to a line (how many were left out before it); None: leave this one out, too."""
        now_s = self._clock.monotonic_s()
        window = self._windows.get(event)
        if window is None or now_s - window.since_s >= _WINDOW_S:
            left_out = window.lines - _LINES_IN_WINDOW if window is not None else 0
            self._windows[event] = _Window(now_s)
            return {"left_out": left_out} if left_out > 0 else {}
        window.lines += 1
        return {} if window.lines <= _LINES_IN_WINDOW else None


class _Window:
    __slots__ = ("lines", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.lines = 1
