"""What becomes of one record under a set of rules, and why? Decided by the mapper; explained here. Sends nothing.

The mapper says which calls are made, and it alone: this module asks it again, rule by rule, only to tell why a call
is not made. The texts hold values of the event: they are for the terminal of whoever has the event, and not for logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from worker.errors import RecordError, Unmappable
from worker.gigya.calls import Call
from worker.gigya.values import nearest
from worker.inspect.samples import Sampled
from worker.mapping.expressions import Expression
from worker.mapping.facts import facts_of
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import Rule, RuleSet
from worker.mapping.scan import ITEM
from worker.mapping.view import View
from worker.model import Event, Record

_NAMED_TYPES = 10
_SHOWN_ITEMS = 3


class Fate(StrEnum):
    """What becomes of a record."""

    CALLS = "calls"
    FILTERED = "filtered"
    DEAD_LETTER = "dead_letter"


class RuleEnd(StrEnum):
    """What one rule says to an event that it names the type of."""

    FIRED = "fired"
    WHEN_FALSE = "when_false"
    NO_ITEM = "no_item"  # its `each` gives a list without elements
    FAILED = "failed"  # it wants the event and cannot make its call
    OTHER_TOPIC = "other_topic"
    SWITCHED_OFF = "switched_off"


@dataclass(frozen=True, slots=True)
class RuleSaid:
    """What one rule says to one event. `facts` are fields and what the event has there."""

    rule: str
    end: RuleEnd
    text: str = ""
    reason: str = ""  # FAILED: as the dead letter would have it
    parameter: str = ""
    facts: tuple[str, ...] = ()

    def __str__(self) -> str:
        parameter = f"{self.parameter}: " if self.parameter else ""
        return f"{parameter}{self.text}" + (f" ({'; '.join(self.facts)})" if self.facts else "")


@dataclass(frozen=True, slots=True)
class TriedEvent:
    """One event of a record. `filtered` is empty, or why no rule wants it."""

    number: int
    type: str | None
    calls: tuple[Call, ...]
    filtered: str
    text: str
    rules: tuple[RuleSaid, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One record. `reason` and `text` say why there is no call, where there is none."""

    where: str
    record: Record
    fate: Fate
    reason: str
    text: str
    events: tuple[TriedEvent, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        """Return the calls that would be made, in their order; none of a dead letter."""
        return tuple(call for event in self.events for call in event.calls) if self.fate is Fate.CALLS else ()


class _Naming(NamedTuple):
    """The rules that name a type: those that would be asked, and those that would not, with the reason."""

    asked: tuple[Rule, ...]
    not_asked: tuple[RuleSaid, ...]


class Trial:
    """One set of rules, to be tried on records."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._mapper = Mapper(rules)
        self._naming: dict[tuple[str, str | None], _Naming] = {}
        self._unknown: dict[str | None, str] = {}

    def of(self, sampled: Sampled) -> Tried:
        """Return what becomes of a record."""
        record = sampled.record
        try:
            events = self._mapper.decode(record)
        except RecordError as error:
            return Tried(sampled.where, record, Fate.DEAD_LETTER, error.reason, error.text, ())
        if not events:
            return Tried(sampled.where, record, Fate.FILTERED, "no_value", "a tombstone: the record has no value", ())
        tried: list[TriedEvent] = []
        dead: RecordError | None = None
        for event in events:
            try:
                calls = self._mapper.calls(record, event)
            except RecordError as error:
                dead = dead or error
                tried.append(self._failed(record, event))
            else:
                tried.append(self._mapped(record, event, calls))
        if dead is not None:
            return Tried(sampled.where, record, Fate.DEAD_LETTER, dead.reason, _blame(dead), tuple(tried))
        if any(event.calls for event in tried):
            return Tried(sampled.where, record, Fate.CALLS, "", "", tuple(tried))
        reasons = {event.filtered: event.text for event in tried}
        reason, text = next(iter(reasons.items())) if len(reasons) == 1 else ("unwanted", "no rule wants any of them")
        return Tried(sampled.where, record, Fate.FILTERED, reason, text, tuple(tried))

    def _mapped(self, record: Record, event: Event, calls: tuple[Call, ...]) -> TriedEvent:
        kind = self._mapper.type_of(record, event)
        naming = self._rules_for(record.topic, kind)
        fired = {call.name.rule for call in calls}
        said = [
            RuleSaid(rule.name, RuleEnd.FIRED) if rule.name in fired else _refusal(rule, record, event)
            for rule in naming.asked
        ]
        filtered = "" if calls else self._mapper.why(record, event)
        text = ""
        if not calls:
            text = "; ".join(f"{one.rule}, {one}" for one in said) or self._why_unknown(kind, naming)
        return TriedEvent(event.number, kind, calls, filtered, text, (*said, *naming.not_asked))

    def _failed(self, record: Record, event: Event) -> TriedEvent:
        """Ask each rule by itself, to tell which of them cannot make its call."""
        kind = self._mapper.type_of(record, event)
        naming = self._rules_for(record.topic, kind)
        said: list[RuleSaid] = []
        for rule in naming.asked:
            try:
                made = self._mapper.calls_of(rule, record, event)
            except RecordError as error:
                said.append(_failure(rule, error, record, event))
            else:
                said.append(RuleSaid(rule.name, RuleEnd.FIRED) if made else _refusal(rule, record, event))
        return TriedEvent(event.number, kind, (), "", "", (*said, *naming.not_asked))

    def _rules_for(self, topic: str, kind: str | None) -> _Naming:
        found = self._naming.get((topic, kind))
        if found is None:
            found = self._naming[topic, kind] = _naming(self.rules.rules, topic, kind)
        return found

    def _why_unknown(self, kind: str | None, naming: _Naming) -> str:
        if naming.not_asked:
            return "; ".join(f'rule "{said.rule}" names the type, {said.text}' for said in naming.not_asked)
        if kind not in self._unknown:
            self._unknown[kind] = self._unknown_text(kind)
        return self._unknown[kind]

    def _unknown_text(self, kind: str | None) -> str:
        known = sorted({one for rule in self.rules.enabled for one in rule.on or ()})
        if kind is None:
            return "the event says no type where the rules look for one"
        close = nearest(kind, known)
        if close:
            return f'no rule names the type "{kind}"; on: has "{close}"'
        more = f" and {len(known) - _NAMED_TYPES} more" if len(known) > _NAMED_TYPES else ""
        return f'no rule names the type "{kind}"; on: has {", ".join(known[:_NAMED_TYPES]) or "nothing"}{more}'


def _naming(rules: tuple[Rule, ...], topic: str, kind: str | None) -> _Naming:
    asked: list[Rule] = []
    not_asked: list[RuleSaid] = []
    for rule in rules:
        if rule.on is not None and kind not in rule.on:
            continue
        if rule.topics is not None and topic not in rule.topics:
            text = f"for {', '.join(sorted(rule.topics))} only (topics:)"
            not_asked.append(RuleSaid(rule.name, RuleEnd.OTHER_TOPIC, text))
        elif not rule.enabled:
            not_asked.append(RuleSaid(rule.name, RuleEnd.SWITCHED_OFF, "and is switched off (enabled: false)"))
        else:
            asked.append(rule)
    return _Naming(tuple(asked), tuple(not_asked))


def _refusal(rule: Rule, record: Record, event: Event) -> RuleSaid:
    """Return why a rule that was asked makes no call: its `when`, or a list without elements."""
    view = View(record, event)
    items = view.read(rule.each) if rule.each is not None else None
    if rule.each is not None and not items:
        return RuleSaid(rule.name, RuleEnd.NO_ITEM, f"{rule.each.source} has no elements")
    if rule.when is None:
        return RuleSaid(rule.name, RuleEnd.WHEN_FALSE)
    text = f"when is false: {rule.when.source}"
    if not isinstance(items, list | tuple) or ITEM not in rule.when.fields.roots:
        return RuleSaid(rule.name, RuleEnd.WHEN_FALSE, text, facts=facts_of(rule.when, view.variable))
    facts: dict[str, None] = {}
    for index, item in enumerate(items[:_SHOWN_ITEMS]):
        for fact in facts_of(rule.when, view.of_item(item).variable):
            facts[f"{index}: {fact}" if fact.startswith(ITEM) else fact] = None
    return RuleSaid(
        rule.name,
        RuleEnd.WHEN_FALSE,
        f"when is false for all {len(items)} elements: {rule.when.source}",
        facts=tuple(facts),
    )


def _failure(rule: Rule, error: RecordError, record: Record, event: Event) -> RuleSaid:
    facts: dict[str, None] = {}
    for expression in _expressions(rule, error.parameter):
        facts |= dict.fromkeys(facts_of(expression, View(record, event).variable))
    # Which element of a list was to blame is not told, so nothing is said of elements.
    kept = tuple(fact for fact in facts if fact not in error.text and not fact.startswith(ITEM))
    return RuleSaid(rule.name, RuleEnd.FAILED, error.text, error.reason, error.parameter, kept)


def _expressions(rule: Rule, parameter: str) -> list[Expression]:
    """Return the expressions that a parameter is made of; a limit may be broken below, or above, what they name."""
    own = {"when": rule.when, "each": rule.each}
    if parameter in own:
        return [expression] if (expression := own[parameter]) is not None else []
    return [
        part.expression
        for part in rule.parts
        if f"{part.parameter}.".startswith(f"{parameter}.") or f"{parameter}.".startswith(f"{part.parameter}.")
    ]


def _blame(error: RecordError) -> str:
    if not isinstance(error, Unmappable):
        return error.text
    parameter = f", {error.parameter}" if error.parameter else ""
    return f'rule "{error.rule}"{parameter}: {error.text}'
