"""Notices that nothing moves though nothing stands in the way, and that the ledger does not balance: bugs of ours.

An outage, a stop, a pause, a long back-off, the day's limit, a broker that is away: in all of these records wait, and
nothing is wrong with the worker. So only time is counted in which records are held, no gate is to blame for it, and
nothing has finished. `/livez` fails after `stuck_after_s` of it, and whoever runs the worker starts it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Protocol

import structlog

from worker.clock import Clock
from worker.deadletters.writer import DeadLetterWriter
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.gigya.calls import Call
from worker.metrics import Metrics
from worker.model import place
from worker.pipeline.engine import Engine
from worker.pipeline.handler import Handler
from worker.pipeline.lanes import Lanes
from worker.pipeline.ledger import Ledger
from worker.pipeline.offsets import Offsets
from worker.pipeline.tickets import Ticket
from worker.stacks import stacks_of_tasks

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
LOOK_AT_MOST = 2_000  # records of one look: some milliseconds


class Patience:
    """How long nothing has moved without an excuse. Pure."""

    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._finished = -1
        self._looked_s: float | None = None
        self.idle_s = 0.0

    @property
    def is_over(self) -> bool:
        return self.idle_s >= self._stuck_after_s

    def look(self, now_s: float, *, finished: int, is_excused: bool) -> None:
        """Note what is seen now. `finished` only grows; `is_excused`: nothing is held, or a gate is to blame."""
        # A process that was stopped for an hour (SIGSTOP, a laptop's lid) has not been stuck for an hour.
        elapsed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, 2 * LOOK_EVERY_S)
        self._looked_s = now_s
        has_moved = finished != self._finished
        self._finished = finished
        self.idle_s = 0.0 if has_moved or is_excused else self.idle_s + elapsed_s


class Gate(Protocol):
    """What is asked of a site's sender."""

    may_write: Callable[[], bool]

    def status(self) -> SiteStatus: ...


class Watchdog:
    """Looks every few seconds. `trouble` is what `/livez` says; empty while all is well."""

    def __init__(
        self,
        *,
        engine: Engine,
        handler: Handler,
        lanes: Lanes,
        offsets: Offsets,
        ledger: Ledger,
        letters: DeadLetterWriter,
        senders: Mapping[str, Gate],
        clock: Clock,
        metrics: Metrics,
        stuck_after_s: float,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._lanes = lanes
        self._offsets = offsets
        self._ledger = ledger
        self._letters = letters
        self._senders = senders
        self._clock = clock
        self._metrics = metrics
        self._patience = Patience(stuck_after_s)
        self._is_unbalanced = False
        self._held: Ticket | None = None
        self._turn = 0
        self.trouble = ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Look once."""
        self._look_at_ledger()
        finished = self._lanes.attempts_ended + self._ledger.ends.total() + self._ledger.calls.total()
        held = self._held = self._without_excuse()
        self._patience.look(self._clock.monotonic_s(), finished=finished, is_excused=held is None)
        if held is None or not self._patience.is_over:
            self._over()
        elif not self.trouble:
            self._stuck(held)

    def _stuck(self, held: Ticket) -> None:
        count = sum(self._engine.unfinished().values())
        self.trouble = (
            f"stuck: nothing has finished for {self._patience.idle_s:.0f} s, {count} records are held, among them"
            f" {place(held.record)}, and no gate is to blame; see watchdog.stuck in the log"
        )
        self._metrics.stuck.set(1)
        log.error(
            "watchdog.stuck",
            idle_s=round(self._patience.idle_s),
            records_held=count,
            record=place(held.record),
            stacks=stacks_of_tasks(),
            remedy="This is a bug in the worker: keep this line and report it. Restart it; nothing is lost.",
        )

    def _over(self) -> None:
        if self.trouble:
            log.warning("watchdog.recovered")
            self.trouble = ""
            self._metrics.stuck.set(0)

    def _without_excuse(self) -> Ticket | None:
        """Return a record that is held though no gate is to blame; the one that was found before, if it still is.

        There may be hundreds of thousands: the oldest of each partition are looked at, and some others in turn.
        """
        if self._handler.flood is not None or self._engine.trouble or self._engine.last_commit_error:
            return None
        statuses = {
            name: sender.status()
            for name, sender in self._senders.items()
            if sender.may_write() and _lets_calls_through(sender.status())
        }
        for ticket in self._candidates():
            if not (ticket.is_ended or ticket.is_void or self._is_excused(ticket, statuses)):
                return ticket
        return None

    def _candidates(self) -> Iterator[Ticket]:
        if self._held is not None:
            yield self._held
        owned = list(self._offsets)
        yield from (progress.blocker for progress in owned if progress.blocker is not None)
        if owned:
            self._turn += 1
            turn, which = divmod(self._turn, len(owned))
            unfinished = owned[which].unfinished
            begin = turn * LOOK_AT_MOST % max(1, len(unfinished))
            yield from islice(unfinished.values(), begin, begin + LOOK_AT_MOST)

    def _is_excused(self, ticket: Ticket, statuses: Mapping[str, SiteStatus]) -> bool:
        """Return whether a record waits rightly; `statuses` are of the sites to which calls could be made now."""
        waiting = [call for call, outcome in zip(ticket.calls, ticket.outcomes, strict=True) if outcome is None]
        if not waiting:
            return self._letters.status().failing_since_s is not None
        return all(call.site not in statuses or self._waits_rightly(call, statuses[call.site]) for call in waiting)

    def _waits_rightly(self, call: Call, status: SiteStatus) -> bool:
        waits_for = self._lanes.waits_for(call)
        return waits_for == "backoff" or (waits_for == "held" and status.held > 0)

    def _look_at_ledger(self) -> None:
        imbalances = self._ledger.imbalances(self._engine.unfinished())
        if imbalances and not self._is_unbalanced:
            log.error(
                "ledger.unbalanced",
                accounts=imbalances[:5],
                remedy="This is a bug in the worker: keep the log and report it.",
            )
        self._is_unbalanced = bool(imbalances)


class Standstill:
    """Ends a bounded run (`--until-end`, a backfill) that only an operator could help on.

    A worker that runs for ever waits for ever: its alarms are heard. A bounded run stands in a script, which waits for
    its exit code. An outage passes by itself, and a pause is meant; a site that is stopped and a dead-letter topic that
    takes no writes are neither. After `limit_s` without the end of a single record the run drains and ends early.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        senders: Mapping[str, Gate],
        letters: DeadLetterWriter,
        ledger: Ledger,
        clock: Clock,
        limit_s: float,
    ) -> None:
        self._engine = engine
        self._senders = senders
        self._letters = letters
        self._ledger = ledger
        self._clock = clock
        self._patience = Patience(limit_s)

    async def run(self) -> None:
        """Look until it has to give up; return when the engine was told to stop."""
        while not self.look():
            await self._clock.sleep(LOOK_EVERY_S)

    def look(self) -> bool:
        """Look once; say whether the run was given up."""
        blamed = self._blamed()
        has_records = any(self._engine.unfinished().values())
        self._patience.look(
            self._clock.monotonic_s(), finished=self._ledger.ends.total(), is_excused=not (blamed and has_records)
        )
        if not self._patience.is_over:
            return False
        log.error(
            "run.cannot_go_on",
            idle_s=round(self._patience.idle_s),
            records_held=sum(self._engine.unfinished().values()),
            because=blamed,
            remedy="Mend what is named and run it again: it goes on where it stopped, and nothing is lost.",
        )
        self._engine.give_up()
        return True

    def _blamed(self) -> dict[str, str]:
        """Return who has to be helped, and how."""
        blamed = {}
        for name, sender in self._senders.items():
            status = sender.status()
            if status.state is State.STOPPED:
                blamed[f"site:{name}"] = f"{status.reason}: {status.remedy}"
        letters = self._letters.status()
        if letters.failing_since_s is not None:
            blamed["dead_letters"] = f"{letters.reason}: {letters.remedy}"
        return blamed


def _lets_calls_through(status: SiteStatus) -> bool:
    return status.state is State.OPEN and not status.is_paused and status.permit_in_s <= 0
