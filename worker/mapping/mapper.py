"""Which calls does an event mean? Compiled rules, applied. Pure.

An event nobody wants costs some dictionary look-ups: its type is read directly where `event.type` is a plain path, and
looked up per topic. Only then are rules evaluated, in file order; every rule that matches makes its call, and one
problem in one of them is the record's (all or nothing).

Decided here:

* the type is text; anything else, or none, or an error in finding it, is *no type*: only rules without `on` see it;
* the id is text or a whole number; without one it is the record's place (`topic/partition/offset`, and the event's
  number above 0), so that every call can be traced;
* the time is RFC 3339 text or an epoch number; null, missing or 0: Kafka's timestamp. Present but unreadable, or no
  time at all, is Unmappable where the rule has `max_age` (the age cannot be told), and no matter elsewhere;
* `kafka.key` and headers are text; null where the bytes are none (not UTF-8, or with NUL). `kafka.timestamp` is in ms,
  null where there is none. Of two headers with one name the last counts, as everywhere in Kafka;
* `each` gives a list: its elements make calls in its order, named by their position, also when `when` leaves some out.
  An empty list makes no call, nor does an optional that is none (`event.?items`). Anything else, null included, is
  Unmappable, and so is a list of more than 1,000 elements: a record is mapped at one go, and the event loop waits (at
  some 60 us an element, 60 ms). What reads `item` is evaluated for the whole list at once (see `over_items`), and what
  does not only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from worker.codecs.choice import decoder
from worker.errors import Unmappable
from worker.gigya.calls import Call, ParameterError
from worker.mapping import identity
from worker.mapping.expressions import (
    Activation,
    Expression,
    Failed,
    FailedAt,
    Fused,
    blame,
    fuse,
    is_true,
    kind_of,
    read,
)
from worker.mapping.over_items import OverItems, Row, over_items
from worker.mapping.ruleset import EventSource, Rule, RuleSet
from worker.mapping.scan import ITEM, Path
from worker.mapping.templates import FailedIn, fill
from worker.mapping.view import Needs, View, needs_of
from worker.model import CallName, Event, Json, Record

MAX_ITEMS: Final = 1_000


class _Plan(NamedTuple):
    """The rules that an event of one type may match, in file order.

    What conditions need is handed over alone: most events that get so far end there, and CEL converts all it is given.
    """

    rules: tuple[_Compiled, ...]
    for_when: Needs
    for_values: Needs


class _Table(NamedTuple):
    """The plans of one topic, and how its events say their type."""

    source: EventSource
    type_of: identity.TypeOf
    by_type: Mapping[str, _Plan]
    otherwise: _Plan  # rules without `on`


@dataclass(frozen=True, slots=True)
class _Group:
    """Expressions that are evaluated at once: parts of a rule, by their index."""

    indexes: tuple[int, ...]
    fused: Fused
    needs: Needs


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A rule with its expressions put in order: plain paths are read, the others evaluated at once.

    `shared` are those that do not read `item`: once for an event. Without `each` there are no others.
    """

    rule: Rule
    direct: tuple[tuple[int, Path], ...]
    shared: _Group | None
    of_item: _Group | None
    event_id_in: str | None  # where the event's id goes, unless the rule sets it
    when_reads_item: bool
    over_items: OverItems | None  # `when` and the parts that read `item`, for a whole list
    for_when: Needs
    for_items: Needs


class Mapper:
    """Compiled rules. Immutable; one for the whole process.

    `decode` is the codec that the rules choose for each topic: it goes with them, as they read what it gives.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.decode = decoder(*rules.formats())
        compiled = tuple(_compile(rule) for rule in rules.rules)
        self._compiled = {one.rule.name: one for one in compiled}
        enabled = tuple(one for one in compiled if one.rule.enabled)
        by_topic = {topic: source for source in rules.sources for topic in source.topics or ()}
        # A topic that is in no source is never subscribed to; whoever asks all the same gets the first source's.
        other = next((source for source in rules.sources if source.topics is None), rules.sources[0])
        named = {topic for one in enabled for topic in one.rule.topics or ()} | set(by_topic)
        self._tables = {topic: _table(enabled, topic, by_topic.get(topic, other)) for topic in named}
        self._other = _table(enabled, None, other)

    def calls(self, record: Record, event: Event) -> tuple[Call, ...]:
        """Return the calls of an event; none means filtered. Raises Unmappable."""
        table = self._tables.get(record.topic, self._other)
        kind = table.type_of(record, event)
        plan = table.otherwise if kind is None else table.by_type.get(kind, table.otherwise)
        return self._apply(plan, table.source, record, event) if plan.rules else ()

    def why(self, record: Record, event: Event) -> str:
        """Return why an event was filtered: `no_type`, `no_rule`, `no_item` or `when_false`."""
        table = self._tables.get(record.topic, self._other)
        kind = table.type_of(record, event)
        plan = table.otherwise if kind is None else table.by_type.get(kind, table.otherwise)
        if plan.rules:
            view = View(record, event)
            is_empty = all(one.rule.each is not None and not _items(one.rule, view) for one in plan.rules)
            return "no_item" if is_empty else "when_false"
        return "no_type" if kind is None and table.by_type else "no_rule"

    def type_of(self, record: Record, event: Event) -> str | None:
        """Return the event's type; None when it has none."""
        return self._tables.get(record.topic, self._other).type_of(record, event)

    def calls_of(self, rule: Rule, record: Record, event: Event) -> tuple[Call, ...]:
        """Return the calls of one rule, whatever its `topics`, `on` and `enabled` say. Raises Unmappable."""
        compiled = self._compiled[rule.name]
        source = self._tables.get(record.topic, self._other).source
        return self._apply(_plan([compiled]), source, record, event)

    def _apply(self, plan: _Plan, source: EventSource, record: Record, event: Event) -> tuple[Call, ...]:
        view = View(record, event)
        made: list[Call] = []
        for compiled in plan.rules:
            if compiled.rule.each is None:
                if _matches(compiled.rule, plan.for_when, view):
                    made.append(_call(compiled, _results(compiled, plan.for_values, view), source, view, 0))
            else:
                made += _calls_of_items(compiled, source, view)
        return tuple(made)


def _calls_of_items(compiled: _Compiled, source: EventSource, view: View) -> Iterator[Call]:
    rule = compiled.rule
    items = _items(rule, view)
    if not items or (not compiled.when_reads_item and not _matches(rule, compiled.for_when, view)):
        return
    shared: Sequence[Json] | None = None
    for index, row in enumerate(_rows(compiled, items, view)):
        if row is None:
            continue
        if shared is None:
            shared = _evaluated(compiled, compiled.shared, None, view)
        one = view.of_item(items[index])
        results = _read(compiled, list(shared), one)
        if compiled.of_item is not None:
            for at, value in zip(compiled.of_item.indexes, row, strict=True):
                results[at] = value
        yield _call(compiled, results, source, one, index)


def _rows(compiled: _Compiled, items: Sequence[Json], view: View) -> Sequence[Row]:
    """Return what the parts that read `item` give for each element; None for those that `when` leaves out."""
    over = compiled.over_items
    if over is None:
        return [()] * len(items)

    def bind(some: Sequence[Json]) -> Activation | None:
        try:
            return view.of_item(some).activation(compiled.for_items)
        except Failed:
            return None

    def single(index: int) -> Row:
        one = view.of_item(items[index])
        if compiled.when_reads_item and not _matches(compiled.rule, compiled.for_when, one):
            return None
        results = _evaluated(compiled, compiled.of_item, None, one)
        return [results[at] for at in compiled.of_item.indexes] if compiled.of_item is not None else ()

    return over.rows(items, bind, single)


def _items(rule: Rule, view: View) -> Sequence[Json]:
    """Return the list of `each`. Raises Unmappable."""
    assert rule.each is not None  # noqa: S101  # only rules with `each` get here
    try:
        value = view.read(rule.each)
        if value is None and rule.each.cel_source != rule.each.source:
            return ()  # an optional that is none
        if not isinstance(value, list | tuple):
            raise Failed("wrong_type", f"{rule.each.source} is {kind_of(value)}, not a list")
        if len(value) > MAX_ITEMS:
            raise Failed("too_many_items", f"{rule.each.source} has more than {MAX_ITEMS:,} elements")
    except Failed as error:
        raise _unmappable(rule, rule.each, "each", error, view) from error
    return value


def _call(compiled: _Compiled, results: Sequence[Json], source: EventSource, view: View, item: int) -> Call:
    rule = compiled.rule
    fields = identity.fields_of(source, view.event)
    values = _filled(rule, results, view)
    if compiled.event_id_in is not None:
        values[compiled.event_id_in] = {"eventId": identity.event_id(fields, view)}
    try:
        params = rule.method.encode(values)
        stale_at_s = None if rule.max_age_s is None else identity.time_s(fields, view) + rule.max_age_s
    except ParameterError as error:
        text = f"{error.parameter} {error.what}"
        raise Unmappable("invalid_parameter", text, rule=rule.name, parameter=error.parameter) from error
    except identity.Untimely as error:
        raise Unmappable("unreadable_time", str(error), rule=rule.name, parameter="max_age") from error
    return Call(
        method=rule.method,
        site=rule.site,
        uid=params.get("UID", ""),
        params=params,
        name=_name(view.event.number, rule.name, item),
        stale_at_s=stale_at_s,
        dead_letter_on=rule.dead_letter_on,
    )


@lru_cache(maxsize=4_096)  # the same few in every record, and tens of thousands of calls are remembered by them
def _name(event: int, rule: str, item: int) -> CallName:
    return CallName(event, rule, item)


def _matches(rule: Rule, needs: Needs, view: View) -> bool:
    if rule.when is None:
        return True
    try:
        return is_true(rule.when, view.activation(needs))
    except Failed as error:
        raise _unmappable(rule, rule.when, "when", error, view) from error


def _filled(rule: Rule, results: Sequence[Json], view: View) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for name, template in rule.templates:
        try:
            values[name] = fill(template, results)
        except FailedIn as error:
            part = rule.parts[error.index]
            raise _unmappable(rule, part.expression, part.parameter, error.failed, view) from error
    return values


def _results(compiled: _Compiled, needs: Needs, view: View) -> Sequence[Json]:
    """Return what each part of a rule without `each` gives."""
    results = _read(compiled, [None] * len(compiled.rule.parts), view)
    return _evaluated(compiled, compiled.shared, needs, view, results)


def _read(compiled: _Compiled, results: list[Json], view: View) -> list[Json]:
    parts = compiled.rule.parts
    for index, path in compiled.direct:
        try:
            results[index] = read(path, view.variable(path.root))
        except Failed as error:
            part = parts[index]
            raise _unmappable(compiled.rule, part.expression, part.parameter, error, view) from error
    return results


def _evaluated(
    compiled: _Compiled, group: _Group | None, needs: Needs | None, view: View, results: list[Json] | None = None
) -> list[Json]:
    """Put what a group of parts gives into the results; `needs` are those of a whole plan, which share one binding."""
    parts = compiled.rule.parts
    if results is None:
        results = [None] * len(parts)
    if group is None:
        return results
    try:
        found = group.fused.evaluate(view.activation(needs or group.needs))
    except (FailedAt, Failed) as error:
        at, failed = (error.index, error.failed) if isinstance(error, FailedAt) else (0, error)
        part = parts[group.indexes[at]]
        raise _unmappable(compiled.rule, part.expression, part.parameter, failed, view) from error
    for index, value in zip(group.indexes, found, strict=True):
        results[index] = value
    return results


def _unmappable(rule: Rule, expression: Expression, parameter: str, failed: Failed, view: View) -> Unmappable:
    told = blame(expression, failed, view.variables())
    text = told.text if str(expression.path) == expression.source else f"{told.text} (in {expression.source})"
    if view.event.attributes is not None and told.reason == "missing_field" and text.startswith("event."):
        text += "; of a CloudEvent, event is the data and ce the other attributes"
    return Unmappable(told.reason, text, rule=rule.name, parameter=parameter)


# Compiling


def _compile(rule: Rule) -> _Compiled:
    direct: list[tuple[int, Path]] = []
    shared: list[int] = []
    of_item: list[int] = []
    for index, part in enumerate(rule.parts):
        if part.expression.path is not None:
            direct.append((index, part.expression.path))
        elif ITEM in part.expression.fields.roots:
            of_item.append(index)
        else:
            shared.append(index)
    event_id_in = rule.method.event_id_in
    if event_id_in is not None and event_id_in in dict(rule.templates):
        event_id_in = None
    own = [rule.parts[index].expression for index in of_item]
    condition = rule.when if rule.when is not None and ITEM in rule.when.fields.roots else None
    return _Compiled(
        rule=rule,
        direct=tuple(direct),
        shared=_group(rule, shared),
        of_item=_group(rule, of_item),
        event_id_in=event_id_in,
        when_reads_item=condition is not None,
        over_items=over_items(condition, own) if own or condition is not None else None,
        for_when=needs_of([rule.when] if rule.when is not None else []),
        for_items=needs_of([*own, *([condition] if condition is not None else [])]),
    )


def _group(rule: Rule, indexes: Sequence[int]) -> _Group | None:
    expressions = [rule.parts[index].expression for index in indexes]
    return _Group(tuple(indexes), fuse(expressions), needs_of(expressions)) if expressions else None


def _table(rules: tuple[_Compiled, ...], topic: str | None, source: EventSource) -> _Table:
    here = [one for one in rules if one.rule.topics is None or topic in one.rule.topics]
    types = {kind for one in here for kind in one.rule.on or ()}
    by_type = {kind: _plan([one for one in here if one.rule.on is None or kind in one.rule.on]) for kind in types}
    return _Table(source, identity.type_reader(source), by_type, _plan([one for one in here if one.rule.on is None]))


def _plan(rules: Sequence[_Compiled]) -> _Plan:
    # Rules with `each` bind the variables by themselves, element by element.
    single = [one for one in rules if one.rule.each is None]
    conditions = [one.rule.when for one in single if one.rule.when is not None]
    values = [one.rule.parts[index].expression for one in single if one.shared for index in one.shared.indexes]
    for_when, for_both = needs_of(conditions), needs_of(conditions + values)
    return _Plan(tuple(rules), for_when, for_when if for_both == for_when else needs_of(values))
