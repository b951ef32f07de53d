"""What would Gigya get under other rules? Call by call: added, removed, changed. Pure.

Calls are compared by their name (event, rule, item). A call that only has another rule's name is the same to Gigya and
is no change. What the worker would do with a call (max_age, on_stale, on_cap) counts as one of its fields; a record
that ends otherwise (a dead letter under one set of rules only) is a change even without a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from worker.gigya.calls import Call
from worker.inspect.preview import Tried
from worker.model import CallName, OutcomeKind


class Kind(StrEnum):
    """What happens to one call."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One parameter, or what the worker would do with the call; None where there is none."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class CallChange:
    """One call that is not the same under both sets of rules."""

    kind: Kind
    call: Call  # as it is after the change; as it was, where it is removed
    fields: tuple[FieldChange, ...] = ()  # of a changed call


@dataclass(frozen=True, slots=True)
class RecordChange:
    """One record that not the same becomes of."""

    before: Tried
    after: Tried
    calls: tuple[CallChange, ...]
    is_reordered: bool  # the same calls of a user, in another order

    @property
    def ends_otherwise(self) -> bool:
        return self.before.fate is not self.after.fate


def compare(before: Tried, after: Tried) -> RecordChange | None:
    """Return how one record changes; None where it does not."""
    old = {call.name: call for call in before.calls}
    new = {call.name: call for call in after.calls}
    same = {name: name for name in old if name in new}
    same |= _renamed(
        {name: call for name, call in old.items() if name not in same},
        {name: call for name, call in new.items() if name not in same},
    )
    kept = {theirs: ours for ours, theirs in same.items()}
    changes: list[CallChange] = []
    for name, call in old.items():
        if name not in same:
            changes.append(CallChange(Kind.REMOVED, call))
    for name, call in new.items():
        if name not in kept:
            changes.append(CallChange(Kind.ADDED, call))
        elif fields := _fields(old[kept[name]], call):
            changes.append(CallChange(Kind.CHANGED, call, fields))
    is_reordered = _orders([same.get(name) for name in old], new) != _orders(
        [name if name in kept else None for name in new], new
    )
    if changes or is_reordered or before.fate is not after.fate:
        return RecordChange(before, after, tuple(changes), is_reordered)
    return None


def _renamed(old: Mapping[CallName, Call], new: Mapping[CallName, Call]) -> dict[CallName, CallName]:
    """Return which of the calls that are left are the same but for the name of their rule."""
    if not old or not new:
        return {}
    waiting: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[CallName]] = {}
    for name, call in new.items():
        waiting.setdefault(_as_sent(call), []).append(name)
    found: dict[CallName, CallName] = {}
    for name, call in old.items():
        if fitting := waiting.get(_as_sent(call)):
            found[name] = fitting.pop(0)
    return found


def _as_sent(call: Call) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return call.site, call.method.name, tuple(sorted(call.params.items()))


def _orders(names: Sequence[CallName | None], calls: Mapping[CallName, Call]) -> dict[tuple[str, str], list[CallName]]:
    """Return each user's calls in their order, of those that both have."""
    orders: dict[tuple[str, str], list[CallName]] = {}
    for name in names:
        if name is not None:
            call = calls[name]
            orders.setdefault((call.site, call.uid), []).append(name)
    return orders


def _fields(before: Call, after: Call) -> tuple[FieldChange, ...]:
    old, new = _described(before), _described(after)
    return tuple(
        FieldChange(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)
    )


def _described(call: Call) -> dict[str, str]:
    """Return everything about a call that is not its name, for people."""
    found = {"site": call.site, "method": call.method.rule_key, **call.params}
    if call.stale_at_s is not None:
        found["(max_age) stale at"] = f"{call.stale_at_s:.3f}"
    for key, kind in (("(on_stale)", OutcomeKind.STALE), ("(on_cap)", OutcomeKind.CAPPED)):
        if kind in call.dead_letter_on:
            found[key] = "dead_letter"
    return found


@dataclass(slots=True)
class Totals:
    """What all changes come to."""

    records: int = 0
    records_changed: int = 0
    calls_before: int = 0
    calls_after: int = 0
    calls: Counter[Kind] = field(default_factory=Counter)
    by_rule: dict[str, Counter[Kind]] = field(default_factory=dict)
    fields: Counter[str] = field(default_factory=Counter)
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)  # of records: before, after
    reordered: int = 0

    def add(self, before: Tried, after: Tried) -> RecordChange | None:
        """Compare one record under both rules, count it, and return its change."""
        self.records += 1
        self.calls_before += len(before.calls)
        self.calls_after += len(after.calls)
        change = compare(before, after)
        if change is None:
            return None
        self.records_changed += 1
        self.reordered += change.is_reordered
        if change.ends_otherwise:
            self.ends[before.fate.value, after.fate.value] += 1
        for each in change.calls:
            self.calls[each.kind] += 1
            self.by_rule.setdefault(each.call.name.rule, Counter())[each.kind] += 1
            self.fields.update(one.name for one in each.fields)
        return change
