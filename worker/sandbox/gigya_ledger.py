"""What happened at the local Gigya: what was executed, what arrived, and the counts that never forget.

Used from one event loop. This is the oracle of journeys and chaos: it says what the API did, whatever the worker says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from worker.sandbox.gigya_config import Json, LedgerSettings

_WINDOW_S = 1.0
_SHORTEST_STALL_S = 0.004
_STALLS_KEPT = 50_000


@dataclass(slots=True)
class Arrival:
    """One request, refused or not. Filled in as the request goes on; `answer` is `open` until it ends."""

    number: int  # order of arrival, from 1
    at_s: float  # Unix seconds by the machine's clock, never going back; the clock offset is not in it
    site: str
    method: str
    uid: str
    nonce: str
    call_id: str
    code: int | None = None  # what the API decided, 0 for done; an injected fault may have kept or changed the answer
    fault: str | None = None  # the injected fault: its kind, `code:500001` for a code
    executed: bool = False
    answer: str = "open"  # "sent" | "none" (reset, time-out, client gone) | "open"
    user_key: str = ""  # whose credentials it names, proved or not


@dataclass(frozen=True, slots=True)
class Executed:
    """One call that changed something: points were granted, or at least one network was posted to."""

    order: int  # order of execution, from 1
    arrival: int
    arrived_s: float
    at_s: float
    site: str
    method: str
    uid: str
    params: Mapping[str, str]  # business parameters exactly as received; no authorization
    nonce: str
    call_id: str
    fault: str | None  # what then happened to the answer
    result: Mapping[str, Json] = field(default_factory=dict)


class Ledger:
    """The memory of the local Gigya, bounded where the settings say so."""

    def __init__(self, settings: LedgerSettings) -> None:
        self.settings = settings
        self.clear()

    def clear(self) -> None:
        """Forget everything, counts included."""
        self.executed: deque[Executed] = deque(maxlen=self.settings.executed_kept)
        self.arrivals: deque[Arrival] = deque(maxlen=self.settings.arrivals_kept)
        self.executed_total = 0
        self.arrivals_total = 0
        self.by_code: Counter[tuple[str, int]] = Counter()
        self.by_fault: Counter[tuple[str, str]] = Counter()
        self.by_method: Counter[tuple[str, str]] = Counter()
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.in_flight_max_per_uid = 0
        self.in_flight_total = 0
        self.in_flight_max = 0
        self.busiest_second: dict[str, int] = {}
        self._last_second: dict[str, deque[float]] = {}
        self.stalls: deque[tuple[float, float]] = deque(maxlen=_STALLS_KEPT)  # when each ended, and its seconds

    def bound(self, settings: LedgerSettings) -> None:
        """Remember as much as `settings` say from now on; the newest entries stay."""
        self.settings = settings
        self.executed = deque(self.executed, maxlen=settings.executed_kept)
        self.arrivals = deque(self.arrivals, maxlen=settings.arrivals_kept)

    def arrive(
        self, at_s: float, site: str, method: str, uid: str, nonce: str, call_id: str, user_key: str = ""
    ) -> Arrival:
        """Note a request; hand its Arrival to `leave` when the request has ended for the client."""
        self.arrivals_total += 1
        arrival = Arrival(self.arrivals_total, at_s, site, method, uid, nonce, call_id, user_key=user_key)
        self.arrivals.append(arrival)
        self.by_method[site, method] += 1
        recent = self._last_second.setdefault(site, deque())
        recent.append(at_s)
        while recent[0] <= at_s - _WINDOW_S:
            recent.popleft()
        self.busiest_second[site] = max(self.busiest_second.get(site, 0), len(recent))
        self.in_flight_total += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight_total)
        if uid:
            self.in_flight[site, uid] += 1
            self.in_flight_max_per_uid = max(self.in_flight_max_per_uid, self.in_flight[site, uid])
        return arrival

    def stall(self, ended_s: float, lasted_s: float) -> None:
        """Note that requests were not looked at for so long: their arrivals are late by up to that."""
        if lasted_s >= _SHORTEST_STALL_S:
            self.stalls.append((ended_s, lasted_s))

    def leave(self, arrival: Arrival, answer: str) -> None:
        """Note that the client has its answer, or is gone."""
        arrival.answer = answer
        self.in_flight_total = max(0, self.in_flight_total - 1)
        user = (arrival.site, arrival.uid)
        if self.in_flight[user] > 1:
            self.in_flight[user] -= 1
        else:
            del self.in_flight[user]

    def decide(self, arrival: Arrival, code: int) -> None:
        """Note the code that a request was given, whether or not the client gets to read it."""
        arrival.code = code
        self.by_code[arrival.site, code] += 1

    def spoil(self, arrival: Arrival, fault: str) -> None:
        """Note that an injected fault has met a request."""
        arrival.fault = fault
        self.by_fault[arrival.site, fault] += 1

    def execute(self, arrival: Arrival, at_s: float, params: Mapping[str, str], result: Mapping[str, Json]) -> Executed:
        """Note that a call took effect."""
        self.executed_total += 1
        arrival.executed = True
        entry = Executed(
            order=self.executed_total,
            arrival=arrival.number,
            arrived_s=arrival.at_s,
            at_s=at_s,
            site=arrival.site,
            method=arrival.method,
            uid=arrival.uid,
            params=params,
            nonce=arrival.nonce,
            call_id=arrival.call_id,
            fault=arrival.fault,
            result=result,
        )
        self.executed.append(entry)
        return entry

    def stats(self) -> dict[str, Json]:
        """Return all counts; codes are those decided, whether or not the answer got through."""
        return {
            "arrivals": self.arrivals_total,
            "executed": self.executed_total,
            "executed_dropped": self.executed_total - len(self.executed),
            "arrivals_dropped": self.arrivals_total - len(self.arrivals),
            "busiest_second": dict(self.busiest_second),
            "in_flight": self.in_flight_total,
            "in_flight_max": self.in_flight_max,
            "in_flight_max_per_uid": self.in_flight_max_per_uid,
            "codes": _nested(self.by_code),
            "faults": _nested(self.by_fault),
            "methods": _nested(self.by_method),
        }


def _nested(counts: Mapping[tuple[str, int], int] | Mapping[tuple[str, str], int]) -> dict[str, Json]:
    result: dict[str, dict[str, Json]] = {}
    for (site, name), count in counts.items():
        result.setdefault(site, {})[str(name)] = count
    return {site: dict(named) for site, named in result.items()}


class Filter(NamedTuple):
    """Which entries are wanted: numbers above `after`, and of the rest what is not empty must be equal."""

    after: int = 0
    site: str = ""
    method: str = ""
    uid: str = ""

    def wants(self, number: int, entry: Executed | Arrival) -> bool:
        return (
            number > self.after
            and self.site in ("", entry.site)
            and self.method in ("", entry.method)
            and self.uid in ("", entry.uid)
        )


def stall_lines(ledger: Ledger) -> Iterator[bytes]:
    """Yield the times in which this process could not look at requests, as JSON lines."""
    for ended_s, lasted_s in list(ledger.stalls):
        yield orjson.dumps({"ended_s": ended_s, "lasted_s": lasted_s}) + b"\n"


def executed_lines(ledger: Ledger, wanted: Filter) -> Iterator[bytes]:
    """Yield executed calls as JSON lines, in order of execution."""
    for entry in list(ledger.executed):
        if wanted.wants(entry.order, entry):
            yield orjson.dumps(entry) + b"\n"


def arrival_lines(ledger: Ledger, wanted: Filter) -> Iterator[bytes]:
    """Yield arrivals as JSON lines, in order of arrival."""
    for entry in list(ledger.arrivals):
        if wanted.wants(entry.number, entry):
            yield orjson.dumps(entry) + b"\n"
