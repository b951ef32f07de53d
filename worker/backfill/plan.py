"""What a run would do, counted over its range before a call is made. Pure.

Caps are counted as Gigya describes a daily cap, "maximum times per 24 h" for each user and action, at the moments at
which the calls will be made: a replay of a year counts as of today. What users have been granted by others in the last
24 hours is not known here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker.errors import RecordError
from worker.gigya.calls import Call
from worker.inspect.coverage import CAP_WINDOW_S, Caps
from worker.inspect.request import MaskedRequest, Signatory, masked_request
from worker.model import CallName, Event, Json, Record, TopicPartition

FIRST = 3


@dataclass(slots=True)
class ActionPlan:
    """The calls of one action at one site; a publish goes by its method's name."""

    calls: int = 0
    stale: int = 0  # of these: older than max_age now, and not sent
    over_cap: int = 0  # ... and refused by the site


@dataclass(slots=True)
class _User:
    partition: TopicPartition
    calls: int = 0
    is_spread: bool = False
    granted_s: dict[str, deque[float]] = field(default_factory=dict)  # by capped action, within the window


@dataclass(frozen=True, slots=True)
class Planned:
    """A call that would be made, and where it comes from."""

    place: TopicPartition
    offset: int
    call: Call


class Reads(Protocol):
    """What makes events of records, and calls of events: a mapper."""

    def decode(self, record: Record, /) -> tuple[Event, ...]: ...

    def calls(self, record: Record, event: Event, /) -> tuple[Call, ...]: ...


class Plan:
    """Counts. Feed it the records of each partition in their order."""

    def __init__(
        self, mapper: Reads, *, caps: Mapping[str, Caps], rates_per_s: Mapping[str, float | None], now_s: float
    ) -> None:
        """`caps` by site; a site that is missing has told none."""
        self._mapper = mapper
        self._caps = caps
        self._rates = rates_per_s
        self._now_s = now_s
        self._users: dict[tuple[str, str], _User] = {}
        self._sent: Counter[str] = Counter()  # by site
        self.records = 0
        self.already_done = 0
        self.events = 0
        self.filtered = 0
        self.dead: Counter[str] = Counter()  # records by reason
        self.actions: dict[tuple[str, str], ActionPlan] = {}
        self.first: list[Planned] = []

    def add(self, record: Record, left_out: Collection[CallName] = ()) -> None:
        """Count one record, without some of its calls."""
        self.records += 1
        try:
            events = self._mapper.decode(record)
            calls = [call for event in events for call in self._mapper.calls(record, event)]
        except RecordError as error:
            self.dead[error.reason] += 1
            return
        self.events += len(events)
        if not calls:
            self.filtered += 1
        for call in calls:
            if call.name not in left_out:
                self._add(call, record)

    def _add(self, call: Call, record: Record) -> None:
        action = call.params.get("action", call.method.rule_key)
        counts = self.actions.setdefault((call.site, action), ActionPlan())
        counts.calls += 1
        partition = TopicPartition(record.topic, record.partition)
        user = self._users.get((call.site, call.uid))
        if user is None:
            user = self._users[call.site, call.uid] = _User(partition)
        user.calls += 1
        user.is_spread |= user.partition != partition
        if call.stale_at_s is not None and self._now_s > call.stale_at_s:
            counts.stale += 1
            return
        self._sent[call.site] += 1
        caps = self._caps.get(call.site)
        cap = caps.of(action) if caps is not None and "action" in call.params else None
        if cap is not None and not self._is_granted(user, action, cap, call.site):
            counts.over_cap += 1
        if len(self.first) < FIRST:
            self.first.append(Planned(partition, record.offset, call))

    def _is_granted(self, user: _User, action: str, cap: int, site: str) -> bool:
        rate = self._rates.get(site)
        at_s = self._sent[site] / rate if rate else 0.0
        granted = user.granted_s.setdefault(action, deque())
        while granted and granted[0] <= at_s - CAP_WINDOW_S:
            granted.popleft()
        if len(granted) >= cap:
            return False
        granted.append(at_s)
        return True

    @property
    def calls(self) -> int:
        return sum(counts.calls for counts in self.actions.values())

    @property
    def stale(self) -> int:
        return sum(counts.stale for counts in self.actions.values())

    @property
    def over_cap(self) -> int:
        return sum(counts.over_cap for counts in self.actions.values())

    @property
    def users(self) -> int:
        return len(self._users)

    @property
    def busiest(self) -> int:
        """Return how many calls the user with most of them has."""
        return max((user.calls for user in self._users.values()), default=0)

    @property
    def spread(self) -> int:
        """Return how many users have calls from several partitions."""
        return sum(user.is_spread for user in self._users.values())

    @property
    def duration_s(self) -> float | None:
        """Return how long the calls take at the granted rate; None where a site has no limit."""
        rates = [(count, self._rates.get(site)) for site, count in self._sent.items()]
        if any(rate is None for _, rate in rates):
            return None
        return max((count / rate for count, rate in rates if rate is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class Prospect:
    """A plan, and what stands around it."""

    run_id: str
    plan: Plan
    partitions: int
    offsets: int  # of the range, or of what is left of it
    behind: int  # offsets that earlier starts have passed
    took_s: float
    rates: Mapping[str, str]  # by site, in words
    caps_unknown: Mapping[str, str]  # by site: why
    signatories: Mapping[str, Signatory]
    now_s: float
    notes: Sequence[str] = ()

    def requests(self) -> Iterator[tuple[Planned, MaskedRequest]]:
        """Yield the first calls with their requests, all that is secret masked."""
        for planned in self.plan.first:
            signatory = self.signatories[planned.call.site]
            yield planned, masked_request(planned.call, signatory, now_s=self.now_s)

    def document(self) -> dict[str, Json]:
        """Return the plan for programs."""
        plan = self.plan
        return {
            "run_id": self.run_id,
            "range": {"partitions": self.partitions, "offsets": self.offsets, "done_by_earlier_starts": self.behind},
            "records": plan.records,
            "already_done": plan.already_done,
            "events": plan.events,
            "filtered": plan.filtered,
            "filtered_share": round(plan.filtered / plan.records, 6) if plan.records else None,
            "dead_letters": dict(plan.dead.most_common()),
            "calls": plan.calls,
            "stale": plan.stale,
            "over_cap": plan.over_cap,
            "actions": [
                {
                    "site": site,
                    "action": action,
                    "calls": counts.calls,
                    "stale": counts.stale,
                    "over_cap": None if site in self.caps_unknown else counts.over_cap,
                }
                for (site, action), counts in sorted(plan.actions.items(), key=lambda item: -item[1].calls)
            ],
            "caps_unknown": dict(self.caps_unknown),
            "users": plan.users,
            "busiest_user_calls": plan.busiest,
            "in_several_partitions": plan.spread,
            "rates": dict(self.rates),
            "duration_s": plan.duration_s,
            "requests": [
                {
                    "record": f"{planned.place}/{planned.offset}",
                    "rule": planned.call.name.rule,
                    "verb": request.verb,
                    "url": request.url,
                    "body": request.body,
                }
                for planned, request in self.requests()
            ],
            "notes": list(self.notes),
        }
