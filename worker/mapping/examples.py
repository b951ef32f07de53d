"""Do the examples that rules carry hold? Pure.

An example is one record: `event` is its value, written as JSON and decoded again by the codec of its topic's source,
so that it may be a CloudEvent (a list: a batch), stand in Connect's envelope, or be null. It is a matter of its own
rule alone: `topics`, `on`, `when` and the calls of that rule; other rules that match the same event have examples of
their own. `calls` are in the order in which they would be made. The method is the rule's, so they list parameters only.
Expected and made calls are compared as they would be sent (`points: 20` is `"20"` on the wire, a list and a
comma-separated text of ids are the same), `context` only where the example gives it. With `now:` a call older than
`max_age` counts as none.

Every example also runs with each of its whole numbers as the other kind (10 and 10.0), as JSON does not tell them
apart and CEL does: a different result is a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from worker.errors import Problem, RecordError, Unmappable
from worker.gigya.calls import Call, ParameterError
from worker.mapping.document import Place
from worker.mapping.facts import facts_of, shown
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import Example, ExpectedCall, Rule, RuleSet
from worker.mapping.scan import walk
from worker.mapping.view import View
from worker.model import Event, Json, KafkaRecord

# What Kafka's timestamp is where an example sets no clock: 2026-01-01T00:00:00Z.
_TIMESTAMP_MS: Final = 1_767_225_600_000
_MAX_SWAPS: Final = 50
_EXACT: Final = 2**53


def run(rules: RuleSet) -> tuple[Problem, ...]:
    """Run all examples, those of disabled rules too; return what does not hold, in the order of the file."""
    mapper = Mapper(rules)
    problems: list[Problem] = []
    for rule in rules.rules:
        for example in rule.examples:
            problems += _Check(mapper, rules, rule, example).problems()
    return tuple(problems)


def count(rules: RuleSet) -> int:
    return sum(len(rule.examples) for rule in rules.rules)


@dataclass(frozen=True, slots=True)
class _Made:
    """What a rule made of a record: calls, or why there is none."""

    calls: tuple[Call, ...]
    why: str = ""
    failed: RecordError | None = None

    @property
    def params(self) -> list[Mapping[str, str]]:
        return [call.params for call in self.calls]


class _Check:
    """One example."""

    def __init__(self, mapper: Mapper, rules: RuleSet, rule: Rule, example: Example) -> None:
        self._mapper = mapper
        self._source = rules.source
        self._rule = rule
        self._example = example
        self._what = f'rule "{rule.name}", example "{example.name}"'

    def problems(self) -> list[Problem]:
        made = self._make(self._example.event)
        if found := [self._problem(*problem) for problem in self._compare(made)]:
            return found
        return list(self._swaps(made))

    def _problem(self, place: Place, what: str, remedy: str) -> Problem:
        return self._source.problem(place, f"{self._what}: {what}", remedy)

    # Running

    def _record(self, payload: Json) -> KafkaRecord:
        example = self._example
        timestamp_ms = _TIMESTAMP_MS if example.now_s is None else int(example.now_s * 1000)
        return KafkaRecord(
            topic=example.topic,
            partition=0,
            offset=0,
            value=None if payload is None else json.dumps(payload).encode(),
            key=None if example.key is None else example.key.encode(errors="replace"),
            headers=[(name, value.encode(errors="replace")) for name, value in example.headers],
            timestamp=timestamp_ms,
        )

    def _make(self, payload: Json) -> _Made:
        record = self._record(payload)
        calls: list[Call] = []
        why = "the record has no event"
        try:
            for event in self._mapper.decode(record):
                made, why = self._of_event(record, event)
                calls += made
        except RecordError as error:
            return _Made((), failed=error)
        return _Made(tuple(calls), why)

    def _of_event(self, record: KafkaRecord, event: Event) -> tuple[tuple[Call, ...], str]:
        """Return the rule's calls of one event, and why there is none. Raises RecordError."""
        if unwanted := self._unwanted(record, event):
            return (), unwanted
        made = self._mapper.calls_of(self._rule, record, event)
        if not made:
            return (), self._why_none(record, event)
        now_s = self._example.now_s
        fresh = tuple(call for call in made if now_s is None or call.stale_at_s is None or now_s <= call.stale_at_s)
        if not fresh and now_s is not None and made[0].stale_at_s is not None:
            return (), f"it is stale: older than max_age by {now_s - made[0].stale_at_s:.0f} s"
        return fresh, ""

    def _unwanted(self, record: KafkaRecord, event: Event) -> str:
        rule, kind = self._rule, self._mapper.type_of(record, event)
        if rule.topics is not None and record.topic not in rule.topics:
            return f"the rule does not read the topic {record.topic}"
        if rule.on is None or kind in rule.on:
            return ""
        wanted = ", ".join(sorted(rule.on))
        return (
            f"the event has no type, on: wants {wanted}"
            if kind is None
            else f'its type is "{kind}", on: wants {wanted}'
        )

    def _why_none(self, record: KafkaRecord, event: Event) -> str:
        view, when, each = View(record, event), self._rule.when, self._rule.each
        items = view.read(each) if each is not None else None
        if each is not None and not items:
            return f"{each.source} is empty"
        if when is None:
            return ""
        if isinstance(items, list):
            view = view.of_item(items[0])
        facts = (when.source, *facts_of(when, view.variable))
        of = " for every element; the first:" if isinstance(items, list) else ""
        return f"when is false{of} ({', '.join(facts)})"

    # Comparing

    def _compare(self, made: _Made) -> Iterator[tuple[Place, str, str]]:
        expected, place = self._example.calls, self._example.calls_place
        if made.failed is not None:
            parameter = f"{made.failed.parameter}: " if made.failed.parameter else ""
            yield (
                self._example.place,
                f"it would become a dead letter: {parameter}{made.failed.text}",
                "change the rule, or complete the event of the example",
            )
        elif not made.calls and expected:
            yield place, f"expected {_counted(len(expected))}, got none: {made.why}", "change the rule or the example"
        elif made.calls and not expected:
            more = f" and {len(made.calls) - 1} more" if len(made.calls) > 1 else ""
            yield place, f"expected no call, got {_call_text(made.calls[0])}{more}", "change the rule or the example"
        elif len(made.calls) != len(expected):
            what = f"expected {_counted(len(expected))}, got {len(made.calls)}"
            one = isinstance(self._example.event, Mapping) and self._rule.each is None
            remedy = "a rule without each makes at most one" if one else "change the rule or the example"
            yield place, what, remedy
        else:
            for want, call in zip(expected, made.calls, strict=True):
                yield from self._differences(want, call)

    def _differences(self, expected: ExpectedCall, call: Call) -> Iterator[tuple[Place, str, str]]:
        try:
            wanted = self._rule.method.encode(expected.values)
        except ParameterError as error:
            what = f"the expected call could never be sent: {error.parameter} {error.what}"
            yield expected.place, what, error.remedy
            return
        for name in {**wanted, **call.params}:
            want, got = wanted.get(name), call.params.get(name)
            if (want is None and name == "context") or _same(want, got):
                continue
            want_text, got_text = shown(want or "nothing"), shown(got or "nothing")
            yield expected.place, f"{name}: expected {want_text}, got {got_text}", "change the rule or the example"

    # Kinds of numbers

    def _swaps(self, made: _Made) -> Iterator[Problem]:
        for path, value, payload in _swapped(self._example.event, self._place_of_event(), self._keys_read()):
            other = self._make(payload)
            if other.failed is None and other.params == made.params:
                continue
            new = float(value) if isinstance(value, int) else int(value)
            what = f"with {path} = {new} instead of {value} "
            if other.failed is None:
                what += "the result is another"
            else:
                what += f"{other.failed.parameter or 'the rule'} errs ({other.failed.text.split(' (in ')[0]})"
            remedy = f"JSON does not tell the two apart: write {_conversion(other.failed, new)}({path})"
            yield self._source.problem(self._example.place, f"{self._what}: {what}", remedy, "warn")

    def _place_of_event(self) -> tuple[str, ...]:
        """Return where in the record's value the event stands: an envelope may be around it."""
        try:
            events = self._mapper.decode(self._record(self._example.event))
        except RecordError:
            return ()
        for keys in (("data",), ("payload",), ("data", "payload")):
            depth, inner = walk(self._example.event, keys)
            if len(events) == 1 and depth == len(keys) and inner == events[0].payload:
                return keys
        return ()

    def _keys_read(self) -> frozenset[str] | None:
        """Return the first-level fields that the rule's expressions read; None when they may read all."""
        keys: frozenset[str] = frozenset()
        expressions = [part.expression for part in self._rule.parts]
        expressions += [one for one in (self._rule.each, self._rule.when) if one is not None]
        for expression in expressions:
            if expression.fields.event_keys is None:
                return None
            keys |= expression.fields.event_keys
        return keys


def _conversion(failed: RecordError | None, new: int | float) -> str:
    """Return the conversion that makes both kinds of a number fit: to the kind of the other operand."""
    mine = "double" if isinstance(new, float) else "int"
    if isinstance(failed, Unmappable) and (match := re.match(r"no (int|double) \S+ (int|double)", failed.text)):
        return match[1] if match[2] == mine else match[2]
    return "double"


def _swapped(
    value: Json, place: tuple[str, ...], keys: frozenset[str] | None
) -> Iterator[tuple[str, int | float, Json]]:
    """Yield the value with one number's kind swapped, for each number of the event that stays the same by it."""
    _, event = walk(value, place)
    numbers = [
        (path, number)
        for path, number in _numbers(event, ())
        if number == int(number)
        and abs(number) <= _EXACT
        and (keys is None or isinstance(path[0], int) or path[0] in keys)
    ]
    for path, number in numbers[:_MAX_SWAPS]:
        other = float(number) if isinstance(number, int) else int(number)
        yield _path_text(path), number, _replaced(value, (*place, *path), other)


def _numbers(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int | float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(inner, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _replaced(value: Json, path: tuple[str | int, ...], new: int | float) -> Json:
    if not path:
        return new
    head, *rest = path
    if isinstance(value, Mapping):
        return {key: _replaced(inner, tuple(rest), new) if key == head else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, tuple(rest), new) if index == head else inner for index, inner in enumerate(value)]
    return value


def _path_text(path: tuple[str | int, ...]) -> str:
    return "event" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _counted(calls: int) -> str:
    return f"{calls} call" if calls == 1 else f"{calls} calls"


def _same(want: str | None, got: str | None) -> bool:
    if want == got:
        return True
    if want is None or got is None or want[:1] not in ("{", "[") or got[:1] != want[:1]:
        return False
    try:
        return bool(json.loads(want) == json.loads(got))
    except ValueError:
        return False


def _call_text(call: Call) -> str:
    params = ", ".join(f"{name} {shown(value)}" for name, value in call.params.items() if name != "context")
    return f"{call.method.rule_key} with {params}"
