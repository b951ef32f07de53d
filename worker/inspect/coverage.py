"""How do rules fit a sample of events? Fired, not fired and why; what no rule knows; users and their caps. Pure.

A cap is counted as Gigya describes it, "maximum times per 24 h" for each user and action: a call is over the cap when
as many were granted in the 24 hours before the record's Kafka timestamp, about when the call would be made live. Caps
come from the command line: asking Gigya for them is `preflight`'s, and this sends nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.gigya.calls import Call
from worker.inspect.preview import Fate, RuleEnd, RuleSaid, Tried, TriedEvent
from worker.mapping.ruleset import RuleSet
from worker.model import Record, TopicPartition

CAP_WINDOW_S = 24 * 3600
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Caps:
    """How many calls a user may have granted in 24 hours; by action, and for all that are not named (None: no cap)."""

    default: int | None = None
    by_action: Mapping[str, int] = field(default_factory=dict)

    def of(self, action: str) -> int | None:
        return self.by_action.get(action, self.default)


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """A way in which a rule cannot make its call."""

    reason: str
    parameter: str
    text: str


@dataclass(slots=True)
class RuleCount:
    """What one rule said, in events."""

    fired: int = 0
    calls: int = 0  # more than `fired` with `each`; those of dead letters not counted
    stale: int = 0  # of the calls: older than max_age now
    when_false: int = 0
    no_item: int = 0
    failed: int = 0
    lost: int = 0  # it fired, and another rule's failure made the record a dead letter
    failures: dict[Failure, tuple[int, str]] = field(default_factory=dict)  # count, and where it was seen first

    @property
    def seen(self) -> int:
        """Return how many events it was asked about."""
        return self.fired + self.when_false + self.no_item + self.failed

    def note(self, said: RuleSaid, where: str) -> None:
        if said.end is RuleEnd.FIRED:
            self.fired += 1
        elif said.end is RuleEnd.WHEN_FALSE:
            self.when_false += 1
        elif said.end is RuleEnd.NO_ITEM:
            self.no_item += 1
        elif said.end is RuleEnd.FAILED:
            self.failed += 1
            failure = Failure(said.reason, said.parameter, said.text)
            count, first = self.failures.get(failure, (0, where))
            self.failures[failure] = (count + 1, first)


@dataclass(slots=True)
class ActionCount:
    """The calls of one action; a publish has no action, and no cap, and goes by its method's name."""

    cap: int | None
    calls: int = 0
    over_cap: int = 0
    users_over_cap: set[tuple[str, str]] = field(default_factory=set)


@dataclass(slots=True)
class _User:
    calls: int = 0
    partitions: set[TopicPartition] = field(default_factory=set)
    granted_s: dict[str, deque[float]] = field(default_factory=dict)  # by action, within the window


class Coverage:
    """Counts over a sample. Feed it records in the order in which they would be read."""

    def __init__(self, rules: RuleSet, *, now_s: float, caps: Caps = Caps()) -> None:  # frozen
        self.rules: dict[str, RuleCount] = {rule.name: RuleCount() for rule in rules.enabled}
        self.switched_off = tuple(rule.name for rule in rules.rules if not rule.enabled)
        self.caps = caps
        self.records: Counter[Fate] = Counter()
        self.events = 0
        self.calls = 0
        self.filtered: Counter[str] = Counter()  # records by reason
        self.dead: Counter[str] = Counter()  # records by reason
        self.undecodable: Counter[str] = Counter()  # of these, those no codec could read
        self.unknown_types: Counter[str] = Counter()  # events
        self.actions: dict[str, ActionCount] = {}
        self.is_spread_known = True  # False where the sample does not tell partitions
        self._now_s = now_s
        self._users: dict[tuple[str, str], _User] = {}

    def add(self, tried: Tried) -> None:
        """Count one record."""
        self.records[tried.fate] += 1
        self.events += len(tried.events)
        if tried.fate is Fate.FILTERED:
            self.filtered[tried.reason] += 1
        elif tried.fate is Fate.DEAD_LETTER:
            self.dead[tried.reason] += 1
            if not tried.events:
                self.undecodable[tried.reason] += 1
        for event in tried.events:
            self._add_event(event, tried)
        for call in tried.calls:
            self._add_call(call, tried.record)

    def _add_event(self, event: TriedEvent, tried: Tried) -> None:
        if event.filtered == "no_rule" and event.type is not None:
            self.unknown_types[event.type] += 1
        for said in event.rules:
            count = self.rules.get(said.rule)
            if count is None:
                continue
            count.note(said, tried.where)
            if said.end is RuleEnd.FIRED and tried.fate is Fate.DEAD_LETTER:
                count.lost += 1

    def _add_call(self, call: Call, record: Record) -> None:
        self.calls += 1
        count = self.rules[call.name.rule]
        count.calls += 1
        count.stale += call.stale_at_s is not None and self._now_s > call.stale_at_s
        who = (call.site, call.uid)
        user = self._users.setdefault(who, _User())
        user.calls += 1
        user.partitions.add(TopicPartition(record.topic, record.partition))
        action = call.params.get("action", call.method.rule_key)
        of_action = self.actions.get(action)
        if of_action is None:
            cap = self.caps.of(action) if "action" in call.params else None
            of_action = self.actions[action] = ActionCount(cap)
        of_action.calls += 1
        if of_action.cap is not None and not _grant(user, action, of_action.cap, record.timestamp / 1000):
            of_action.over_cap += 1
            of_action.users_over_cap.add(who)

    @property
    def users(self) -> int:
        return len(self._users)

    def in_several_partitions(self) -> tuple[int, tuple[str, ...]]:
        """Return how many users' calls come from more than one partition, and some of their UIDs."""
        found = [uid for (_, uid), user in self._users.items() if len(user.partitions) > 1]
        return len(found), tuple(found[:EXAMPLES])

    def busiest(self) -> tuple[tuple[str, int], ...]:
        """Return the UIDs with the most calls, and how many."""
        most = sorted(self._users.items(), key=lambda item: -item[1].calls)[:EXAMPLES]
        return tuple((uid, user.calls) for (_, uid), user in most)


def _grant(user: _User, action: str, cap: int, at_s: float) -> bool:
    """Grant a call unless the cap of the 24 hours before it is used up."""
    granted = user.granted_s.setdefault(action, deque())
    while granted and granted[0] <= at_s - CAP_WINDOW_S:
        granted.popleft()
    if len(granted) >= cap:
        return False
    granted.append(at_s)
    return True
