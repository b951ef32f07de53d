"""What an operator can make a running worker do: pause, resume, park. The words that admin.py takes by POST.

Each answer is an HTTP status and what to tell. Nothing here outlives the process: a restart ends a pause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.clock import Clock
from worker.delivery.sender import SiteStatus
from worker.delivery.site_state import State
from worker.model import Json, TopicPartition, place
from worker.pipeline.handler import Handler
from worker.pipeline.offsets import Offsets, PartitionProgress
from worker.pipeline.parking import Parked
from worker.pipeline.tickets import Ticket

log = structlog.get_logger(__name__)

# How long an answer waits for the record to end; the parking goes on after that.
PARK_WAIT_S = 15.0
LOOK_EVERY_S = 0.05
OK, ACCEPTED, BAD_REQUEST, NOT_FOUND, CONFLICT = 200, 202, 400, 404, 409
_RECORD = re.compile(r"(?P<topic>[A-Za-z0-9._-]{1,249})/(?P<partition>\d{1,9})/(?P<offset>\d{1,18})", re.ASCII)

Answer = tuple[int, Mapping[str, Json]]


class Pausable(Protocol):
    """What an operator does with a site's sender."""

    def pause(self) -> None: ...

    def go_on(self) -> None: ...

    def resume(self) -> None:
        """Open the site, whatever it is stopped for."""
        ...

    def status(self) -> SiteStatus: ...


@dataclass(frozen=True, slots=True)
class Who:
    """Who says so, and why; either may be empty. One line each."""

    by: str = ""
    why: str = ""

    def facts(self) -> dict[str, Json]:
        return {name: text for name, text in (("by", self.by), ("why", self.why)) if text}


@dataclass(frozen=True, slots=True)
class Pause:
    """That a site is paused."""

    since_s: float  # Unix time
    who: Who


class Control:
    """Carries out what an operator says. Used from the worker's event loop."""

    def __init__(self, *, handler: Handler, offsets: Offsets, senders: Mapping[str, Pausable], clock: Clock) -> None:
        self._handler = handler
        self._offsets = offsets
        self._senders = senders
        self._clock = clock
        self.pauses: dict[str, Pause] = {}  # by site

    def pause(self, site: str, by: str, why: str) -> Answer:
        """Start no new request of a site, or of all (empty); reading goes on until there is no room."""
        who = Who(by, why)
        if (unknown := self._unknown(site)) is not None:
            return unknown
        for name in self._chosen(site):
            if name not in self.pauses:
                self.pauses[name] = Pause(self._clock.now_s(), who)
                self._senders[name].pause()
                log.warning("site.paused", site=name, **who.facts())
        return OK, {"paused": sorted(self.pauses), "note": "in this process, until POST /resume or a restart"}

    def resume(self, site: str, by: str, why: str) -> Answer:
        """End the pause of a site, or of all (empty), and open it if it is stopped; without a site also the guard."""
        who = Who(by, why)
        if (unknown := self._unknown(site)) is not None:
            return unknown
        sites: dict[str, Json] = {}
        for name in self._chosen(site):
            was = self._state(name)
            if self.pauses.pop(name, None) is not None:
                self._senders[name].go_on()
            self._senders[name].resume()
            sites[name] = {"was": was, "is": self._state(name)}
            if was != State.OPEN.value:
                log.warning("site.resumed", site=name, was=was, **who.facts())
        return OK, {"sites": sites, "flood_guard": self._resume_guard(site, who)}

    async def park(self, record: str, by: str, why: str) -> Answer:
        """Turn one unfinished record into a dead letter; tell how it ended, or what it still waits for."""
        who = Who(by, why)
        named = _RECORD.fullmatch(record)
        if named is None:
            return BAD_REQUEST, {"error": "record must be topic/partition/offset, as /status names a blocker"}
        partition, offset = TopicPartition(named["topic"], int(named["partition"])), int(named["offset"])
        progress = self._offsets.get(partition)
        ticket = progress.unfinished.get(offset) if progress is not None else None
        if progress is None or ticket is None:
            return self._not_found(progress, partition, offset)
        if progress.is_closing:
            return CONFLICT, {"record": record, "error": "its partition is being given back: ask its next owner"}
        if self._handler.park(ticket, Parked(who.by, who.why)):
            log.warning("record.parked", record=place(ticket.record), **who.facts())
        until_s = self._clock.monotonic_s() + PARK_WAIT_S
        while not (ticket.is_ended or ticket.is_void) and self._clock.monotonic_s() < until_s:
            await self._clock.sleep(LOOK_EVERY_S)
        return _told(record, ticket)

    def _resume_guard(self, site: str, who: Who) -> Json:
        if self._handler.flood is None:
            return "ok"
        if site:
            return "held; POST /resume without a site releases it"
        asked_again = self._handler.resume()
        log.warning("flood_guard.resumed", asked_again=asked_again, **who.facts())
        return {"was": "held", "is": "held" if self._handler.flood is not None else "ok", "asked_again": asked_again}

    def _state(self, site: str) -> str:
        state = self._senders[site].status().state
        return "paused" if site in self.pauses and state is State.OPEN else state.value

    def _chosen(self, site: str) -> Sequence[str]:
        return (site,) if site else tuple(self._senders)

    def _unknown(self, site: str) -> Answer | None:
        if not site or site in self._senders:
            return None
        return NOT_FOUND, {"error": "there is no such site", "sites": sorted(self._senders)}

    def _not_found(self, progress: PartitionProgress | None, partition: TopicPartition, offset: int) -> Answer:
        """Say what is known of a record that is not unfinished here."""
        answer: dict[str, Json] = {"record": f"{partition}/{offset}"}
        if progress is None:
            owned = sorted(str(each.partition) for each in self._offsets)
            answer |= {"state": "not_ours", "error": "another member has its partition", "partitions": owned}
        elif offset < progress.committable:
            answer |= {
                "state": "below_the_watermark",
                "error": "everything below the watermark has ended: look for it in the log, or among the dead letters",
                "watermark": progress.committable,
            }
        elif offset >= progress.position:
            answer |= {"state": "not_read_yet", "error": "it has not been read", "position": progress.position}
        else:
            answer |= {"state": "already_done", "error": "it has ended, or no rule wanted it"}
        return NOT_FOUND, answer


def _told(record: str, ticket: Ticket) -> Answer:
    """Return how a record that was parked ended, or what it waits for."""
    calls: list[Json] = [
        {
            "call": str(call.name),
            "outcome": outcome.kind.value if outcome is not None else "in flight",
            "reason": outcome.reason if outcome is not None else "",
            "maybe_executed": outcome is not None and outcome.maybe_executed,
        }
        for call, outcome in zip(ticket.calls, ticket.outcomes, strict=True)
    ]
    answer: dict[str, Json] = {"record": record, "calls": calls}
    if ticket.is_ended:
        return OK, {**answer, "state": ticket.end().value}
    if ticket.is_void:
        return CONFLICT, {**answer, "state": "not_ours", "error": "its partition was given back before it ended"}
    waits_for = "the dead letter to be written" if all(ticket.outcomes) else "the attempt in flight"
    return ACCEPTED, {**answer, "state": "parking", "waits_for": waits_for}
