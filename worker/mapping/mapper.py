"""Which calls does an event mean? Compiled rules, applied. Pure.

An event nobody wants costs some dictionary look-ups: its type is read directly where `event.type` is a plain path, and
looked up per topic. Only then are rules evaluated, in file order; every rule that matches makes its call, and one
problem in one of them is the record's (all or nothing).

Decided here:

* the type is text; anything else, or none, or an error in finding it, is *no type*: only rules without `on` see it;
* the id is text or a whole number; without one it is the record's place (`topic/partition/offset`, and the event's
  number above 0), so that every call can be traced;
* the time is RFC 3339 text or an epoch number; null or missing: Kafka's timestamp. Present but unreadable, or no time
  at all, is Unmappable where the rule has `max_age` (the age cannot be told), and no matter elsewhere;
* `kafka.key` and headers are text; null where the bytes are none (not UTF-8, or with NUL). `kafka.timestamp` is in ms,
  null where there is none. Of two headers with one name the last counts, as everywhere in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.errors import Unmappable
from worker.gigya.calls import Call, ParameterError
from worker.mapping import times
from worker.mapping.expressions import (
    Activation,
    Expression,
    Failed,
    FailedAt,
    Fused,
    activation,
    blame,
    evaluate,
    fuse,
    has_nul,
    is_true,
    read,
)
from worker.mapping.ruleset import EventFields, Rule, RuleSet
from worker.mapping.scan import Path, walk
from worker.mapping.templates import FailedIn, fill
from worker.model import CallName, Event, Json, Record, place


class Needs(NamedTuple):
    """What has to be handed to CEL: first-level fields of the event (None: all), and whether `kafka`."""

    event_keys: frozenset[str] | None
    kafka: bool


class _Plan(NamedTuple):
    """The rules that an event of one type may match, in file order.

    What conditions need is handed over alone: most events that get so far end there, and CEL converts all it is given.
    """

    rules: tuple[_Compiled, ...]
    for_when: Needs
    for_values: Needs


class _Table(NamedTuple):
    """The plans of one topic."""

    by_type: Mapping[str, _Plan]
    otherwise: _Plan  # rules without `on`


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A rule with its expressions put in order: plain paths are read, the others evaluated at once."""

    rule: Rule
    direct: tuple[tuple[int, Path], ...]
    evaluated: tuple[int, ...]
    fused: Fused | None
    event_id_in: str | None  # where the event's id goes, unless the rule sets it


class View:
    """One event as expressions see it; what is costly is made once, and only if somebody asks."""

    __slots__ = ("_activations", "_has_nul_escape", "_kafka", "event", "record")

    def __init__(self, record: Record, event: Event) -> None:
        self.record = record
        self.event = event
        self._kafka: Mapping[str, Json] | None = None
        self._activations: dict[Needs, Activation] = {}
        self._has_nul_escape: bool | None = None

    def variable(self, root: str) -> Mapping[str, Json]:
        if root == "event":
            return self.event.payload
        return self.kafka() if root == "kafka" else self.event.attributes or {}

    def variables(self) -> Mapping[str, Mapping[str, Json]]:
        return {"event": self.event.payload, "kafka": self.kafka(), "ce": self.event.attributes or {}}

    def kafka(self) -> Mapping[str, Json]:
        if self._kafka is None:
            record = self.record
            self._kafka = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "key": _text_or_null(record.key),
                "timestamp": record.timestamp if record.timestamp >= 0 else None,
                "headers": {name: _text_or_null(value) for name, value in record.headers},
            }
        return self._kafka

    def activation(self, needs: Needs) -> Activation:
        """Return the variables for CEL. Raises Failed for an event that CEL would misread."""
        found = self._activations.get(needs)
        if found is None:
            found = self._activations[needs] = self._activation(needs)
        return found

    def _activation(self, needs: Needs) -> Activation:
        payload, keys = self.event.payload, needs.event_keys
        wanted = payload if keys is None else {key: payload[key] for key in keys if key in payload}
        attributes = self.event.attributes or {}
        if self._may_hold_nul() and has_nul([wanted, attributes]):
            raise Failed("bad_text", "the event holds a NUL character, at which an expression would cut the text")
        return activation(wanted, self.kafka() if needs.kafka else {}, attributes)

    def _may_hold_nul(self) -> bool:
        """Look at the bytes first: that is cheap, and hardly any event has a NUL."""
        if self._has_nul_escape is None:
            value = self.record.value or b""
            self._has_nul_escape = b"\\u0000" in value or b"\0" in value
        return self._has_nul_escape

    def read(self, expression: Expression) -> Json:
        """Return what a bare expression gives. Raises Failed."""
        if expression.path is not None:
            return read(expression.path, self.variable(expression.path.root))
        return evaluate(expression, self.activation(_needs_of([expression])))


class Mapper:
    """Compiled rules. Immutable; one for the whole process."""

    def __init__(self, rules: RuleSet) -> None:
        self._event = rules.event
        self._type_of = _type_reader(rules.event)
        compiled = tuple(_compile(rule) for rule in rules.rules)
        self._compiled = {one.rule.name: one for one in compiled}
        enabled = tuple(one for one in compiled if one.rule.enabled)
        named = {topic for one in enabled for topic in one.rule.topics or ()}
        self._tables = {topic: _table(enabled, topic) for topic in named}
        self._other = _table(enabled, None)

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        """Return the calls of an event; none means filtered. Raises Unmappable."""
        table = self._tables.get(record.topic, self._other)
        kind = self._type_of(record, event)
        plan = table.otherwise if kind is None else table.by_type.get(kind, table.otherwise)
        return self._apply(plan, record, event) if plan.rules else ()

    def why(self, record: Record, event: Event) -> str:
        """Return why an event was filtered: `no_type`, `no_rule` or `when_false`."""
        table = self._tables.get(record.topic, self._other)
        kind = self._type_of(record, event)
        plan = table.otherwise if kind is None else table.by_type.get(kind, table.otherwise)
        if plan.rules:
            return "when_false"
        return "no_type" if kind is None and table.by_type else "no_rule"

    def type_of(self, record: Record, event: Event) -> str | None:
        """Return the event's type; None when it has none."""
        return self._type_of(record, event)

    def call_of(self, rule: Rule, record: Record, event: Event) -> Call | None:
        """Return the call of one rule, whatever its `topics`, `on` and `enabled` say; None when `when` is false."""
        compiled = self._compiled[rule.name]
        return self._call(compiled, _plan([compiled]), View(record, event))

    def _apply(self, plan: _Plan, record: Record, event: Event) -> tuple[Call, ...]:
        view = View(record, event)
        made = [self._call(compiled, plan, view) for compiled in plan.rules]
        return tuple(call for call in made if call is not None)

    def _call(self, compiled: _Compiled, plan: _Plan, view: View) -> Call | None:
        rule = compiled.rule
        if rule.when is not None and not _matches(rule, rule.when, plan.for_when, view):
            return None
        values = _values(compiled, plan.for_values, view)
        if compiled.event_id_in is not None:
            values[compiled.event_id_in] = {"eventId": self._event_id(view)}
        try:
            params = rule.method.encode(values)
        except ParameterError as error:
            text = f"{error.parameter} {error.what}"
            raise Unmappable("invalid_parameter", text, rule=rule.name, parameter=error.parameter) from error
        return Call(
            method=rule.method,
            site=rule.site,
            uid=params.get("UID", ""),
            params=params,
            name=CallName(view.event.number, rule.name),
            stale_at_s=None if rule.max_age_s is None else self._time_s(rule, view) + rule.max_age_s,
            dead_letter_on=rule.dead_letter_on,
        )

    def _event_id(self, view: View) -> str:
        try:
            value = view.read(self._event.id)
        except Failed:
            value = None
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        number = view.event.number
        return f"{place(view.record)}/{number}" if number else place(view.record)

    def _time_s(self, rule: Rule, view: View) -> float:
        try:
            value = view.read(self._event.time)
        except Failed as error:
            if error.reason != "missing_field":
                raise Unmappable(
                    "unreadable_time", f"event.time: {error.text}", rule=rule.name, parameter="max_age"
                ) from error
            value = None
        seconds = times.unix_s(value)
        if value is None and view.record.timestamp >= 0:
            seconds = view.record.timestamp / 1000
        if seconds is None:
            what = "the record has no time" if value is None else f"{self._event.time.source} is not a time"
            raise Unmappable("unreadable_time", what, rule=rule.name, parameter="max_age")
        return seconds


def _matches(rule: Rule, when: Expression, needs: Needs, view: View) -> bool:
    try:
        return is_true(when, view.activation(needs))
    except Failed as error:
        raise _unmappable(rule, when, "when", error, view) from error


def _values(compiled: _Compiled, needs: Needs, view: View) -> dict[str, Json]:
    rule = compiled.rule
    results = _results(compiled, needs, view)
    values: dict[str, Json] = {}
    for name, template in rule.templates:
        try:
            values[name] = fill(template, results)
        except FailedIn as error:
            part = rule.parts[error.index]
            raise _unmappable(rule, part.expression, part.parameter, error.failed, view) from error
    return values


def _results(compiled: _Compiled, needs: Needs, view: View) -> Sequence[Json]:
    parts = compiled.rule.parts
    results: list[Json] = [None] * len(parts)
    for index, path in compiled.direct:
        try:
            results[index] = read(path, view.variable(path.root))
        except Failed as error:
            part = parts[index]
            raise _unmappable(compiled.rule, part.expression, part.parameter, error, view) from error
    if compiled.fused is None:
        return results
    try:
        found = compiled.fused.evaluate(view.activation(needs))
    except (FailedAt, Failed) as error:
        at, failed = (error.index, error.failed) if isinstance(error, FailedAt) else (0, error)
        part = parts[compiled.evaluated[at]]
        raise _unmappable(compiled.rule, part.expression, part.parameter, failed, view) from error
    for index, value in zip(compiled.evaluated, found, strict=True):
        results[index] = value
    return results


def _unmappable(rule: Rule, expression: Expression, parameter: str, failed: Failed, view: View) -> Unmappable:
    told = blame(expression, failed, view.variables())
    text = told.text if str(expression.path) == expression.source else f"{told.text} (in {expression.source})"
    return Unmappable(told.reason, text, rule=rule.name, parameter=parameter)


def _text_or_null(value: bytes | None) -> str | None:
    if value is None or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


# Compiling


def _compile(rule: Rule) -> _Compiled:
    direct: list[tuple[int, Path]] = []
    evaluated: list[int] = []
    for index, part in enumerate(rule.parts):
        if part.expression.path is not None:
            direct.append((index, part.expression.path))
        else:
            evaluated.append(index)
    fused = fuse([rule.parts[index].expression for index in evaluated]) if evaluated else None
    event_id_in = rule.method.event_id_in
    if event_id_in is not None and event_id_in in dict(rule.templates):
        event_id_in = None
    return _Compiled(rule, tuple(direct), tuple(evaluated), fused, event_id_in)


def _table(rules: tuple[_Compiled, ...], topic: str | None) -> _Table:
    here = [one for one in rules if one.rule.topics is None or topic in one.rule.topics]
    types = {kind for one in here for kind in one.rule.on or ()}
    by_type = {kind: _plan([one for one in here if one.rule.on is None or kind in one.rule.on]) for kind in types}
    return _Table(by_type, _plan([one for one in here if one.rule.on is None]))


def _plan(rules: Sequence[_Compiled]) -> _Plan:
    conditions = [one.rule.when for one in rules if one.rule.when is not None]
    values = [one.rule.parts[index].expression for one in rules for index in one.evaluated]
    for_when, for_both = _needs_of(conditions), _needs_of(conditions + values)
    return _Plan(tuple(rules), for_when, for_when if for_both == for_when else _needs_of(values))


def _needs_of(expressions: Sequence[Expression]) -> Needs:
    keys: frozenset[str] | None = frozenset()
    for expression in expressions:
        found = expression.fields.event_keys
        keys = None if keys is None or found is None else keys | found
    return Needs(keys, any("kafka" in expression.fields.roots for expression in expressions))


def _type_reader(event: EventFields) -> Callable[[Record, Event], str | None]:
    """Return the function that reads an event's type; a plain path of the payload is read without any detour."""
    expression, path = event.type, event.type.path
    if path is not None and path.root == "event":
        if len(path.keys) == 1:
            return _one_key_reader(path.keys[0])
        return _path_reader(path.keys)

    def evaluated(record: Record, event: Event) -> str | None:
        try:
            value = View(record, event).read(expression)
        except Failed:
            return None
        return value if isinstance(value, str) else None

    return evaluated


def _one_key_reader(key: str) -> Callable[[Record, Event], str | None]:
    def read_key(record: Record, event: Event) -> str | None:
        value = event.payload.get(key)
        return value if isinstance(value, str) else None

    return read_key


def _path_reader(keys: tuple[str, ...]) -> Callable[[Record, Event], str | None]:
    def read_path(record: Record, event: Event) -> str | None:
        depth, value = walk(event.payload, keys)
        return value if depth == len(keys) and isinstance(value, str) else None

    return read_path
