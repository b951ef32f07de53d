"""`run --dry-run`: what stands in for everything that would leave the process. Nothing here can send or write.

The worker is the real one, in a group of its own (`<group>.dry-run`): it reads, maps, queues, commits and judges floods
as it would. Only its two ways out are others. A call meets a sender that has neither transport nor credentials and ends
it as *delivered*, reason `dry_run`; a dead letter meets a producer that counts it and forgets it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import structlog

from worker.clock import Clock
from worker.delivery import reasons
from worker.delivery.deliveries import Delivery, Later
from worker.delivery.gate import Permit
from worker.delivery.quota import QuotaState
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.gigya.calls import Call
from worker.mapping.ruleset import RuleSet
from worker.mapping.templates import Literal
from worker.metrics import Metrics
from worker.model import Json, Outcome, OutcomeKind

log = structlog.get_logger(__name__)

SUMMARY_EVERY_S = 60.0
GROUP_SUFFIX = ".dry-run"
FROM_THE_EVENT = "(from the event)"
_REMEDY = "Nothing is sent: this is a dry run. Start without --dry-run to make the calls."


@dataclass(frozen=True, slots=True, order=True)
class WouldBe:
    """Calls that are counted together. `action` is one that the rules spell out, never a value from an event."""

    site: str
    rule: str
    action: str


class DryRun:
    """The two ways out, and the count of what would have gone through them."""

    def __init__(self, sites: Collection[str], rules: RuleSet, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._actions: set[str] = set()
        self.calls: Counter[WouldBe] = Counter()
        self.stale: Counter[WouldBe] = Counter()
        self.letters = DiscardedLetters()
        self.senders = {site: DryRunSender(site, self._count, clock) for site in sites}
        self._know(rules)
        metrics.dry_run.set(1)

    def knowing(self, load: Callable[[], RuleSet]) -> Callable[[], RuleSet]:
        """Return `load` such that the rules it gives are known here, too."""

        def load_and_know() -> RuleSet:
            rules = load()
            self._know(rules)
            return rules

        return load_and_know

    def _know(self, rules: RuleSet) -> None:
        """Learn which actions the rules spell out: only these are told by name, as others are an event's data."""
        for rule in rules.rules:
            for name, template in rule.templates:
                if name == "action" and isinstance(template, Literal):
                    self._actions.add(str(template.value))

    async def run(self) -> None:
        """Tell the count from time to time, until cancelled."""
        while True:
            await self._clock.sleep(SUMMARY_EVERY_S)
            self.log_summary()

    def log_summary(self) -> None:
        """Tell the count in one line of the log."""
        calls: list[Json] = [
            {
                "site": each.site,
                "rule": each.rule,
                "action": each.action,
                "calls": self.calls[each],
                "stale": self.stale[each],
            }
            for each in self._all()
        ]
        log.info("dry_run.summary", calls=calls, dead_letters=dict(self.letters.by_reason), sent=0)

    def lines(self) -> Iterator[str]:
        """Yield the count for people."""
        letters = self.letters.by_reason
        yield (
            f"dry run  {sum(self.calls.values())} calls and {sum(letters.values())} dead letters would have been made;"
            " nothing was sent or written"
        )
        for each in self._all():
            stale = f", {self.stale[each]} stale" if self.stale[each] else ""
            yield f"  {self.calls[each]:>9}  {each.site}  {each.rule}  {each.action}{stale}"
        for reason, count in letters.most_common():
            yield f"  {count:>9}  dead letters: {reason}"

    def _all(self) -> list[WouldBe]:
        return sorted({*self.calls, *self.stale})

    def _count(self, call: Call, kind: OutcomeKind) -> None:
        action = call.params.get("action")
        if action is None:
            action = call.method.rule_key
        elif action not in self._actions:
            action = FROM_THE_EVENT
        would_be = WouldBe(call.site, call.name.rule, action)
        if kind is OutcomeKind.STALE:
            self.stale[would_be] += 1
            return
        self.calls[would_be] += 1
        self._metrics.dry_run_calls.labels(would_be.site, would_be.rule, would_be.action).inc()


class DryRunSender:
    """A site's sender that ends every call without a request: it has nothing to send one with."""

    def __init__(self, site: str, count: Callable[[Call, OutcomeKind], None], clock: Clock) -> None:
        self.released: Callable[[Delivery], None] = lambda _: None
        self.may_write: Callable[[], bool] = lambda: True  # there is nothing for which the lease would have to hold
        self._site = site
        self._count = count
        self._clock = clock
        self._going = asyncio.Event()
        self._going.set()

    @property
    def is_open(self) -> bool:
        return self._going.is_set()

    def pause(self) -> None:
        """End no call until `go_on`."""
        self._going.clear()

    def go_on(self) -> None:
        """End a pause."""
        self._going.set()

    def resume(self) -> None:
        """Do nothing: no site refuses what is not sent."""

    async def admit(self) -> Permit:
        """Return a permit at once, or after a pause: no quota is used."""
        await self._going.wait()
        return Permit(0)

    def give_back(self, permit: Permit) -> None:
        """Do nothing: no permit is scarce."""

    async def attempt(self, delivery: Delivery, permit: Permit) -> Outcome | Later:
        """End the call as it would have ended if the site accepted everything."""
        stale_at_s = delivery.call.stale_at_s
        if stale_at_s is not None and self._clock.now_s() > stale_at_s:
            outcome = Outcome(OutcomeKind.STALE, reasons.STALE)
        else:
            outcome = Outcome(OutcomeKind.DELIVERED, reasons.DRY_RUN)
        self._count(delivery.call, outcome.kind)
        return outcome

    def forget(self, delivery: Delivery) -> None:
        """Do nothing: no call is ever held."""

    def abandon(self, delivery: Delivery) -> None:
        """Do nothing: no call is ever in doubt."""

    def status(self) -> SiteStatus:
        return SiteStatus(
            site=self._site,
            state=State.OPEN,
            reason=reasons.DRY_RUN,
            code=None,
            since_s=None,
            remedy=_REMEDY,
            held=0,
            rate_per_s=None,
            quota=QuotaState.STEADY,
            clock_offset_s=0.0,
            is_paused=not self._going.is_set(),
        )


class DiscardedLetters:
    """A producer of dead letters that writes none. `by_reason` counts them."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()

    async def send(
        self, topic: str, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], /
    ) -> None:
        """Count what a real producer would write."""
        reason = next((text for name, text in headers if name == "dlq.reason" and text), b"unknown")
        self.by_reason[reason.decode("ascii", "replace")] += 1
