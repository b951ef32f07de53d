"""Whatever an event holds, mapping makes calls, filters it, or says Unmappable; and says nothing of its content."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.codecs.json import decode
from worker.errors import Problem, Refused, Unmappable
from worker.gigya.calls import Call
from worker.mapping import rules
from worker.mapping.document import parse
from worker.mapping.mapper import Mapper
from worker.model import KafkaRecord

RULES = rules.loads(
    """
version: 1
event: {type: event.t, id: event.i, time: event.when}
rules:
  - name: paths
    on: [x]
    notifyAction:
      UID: ${ event.a }
      action: act
      points: ${ event.b.c }
      context: {all: '${ event }', k: '${ kafka.key }'}
  - name: expressions
    on: [x, y]
    when: event.a == event.b || event.c
    notifyAction:
      UID: ${ string(event.a) }-${ event.b }
      action: ${ event.?c.orValue("act") }
      actionAttributes: {a: '${ first(event.a, 2) }', b: '${ {"n": 1, "k": event.?b.?c, ?"l": event.?d} }'}
      points: ${ event.b + 1 }
    max_age: 1h
  - name: everything
    when: has(event.t) && has(event.a) && event.a != event.t
    publishUserAction:
      UID: ${ event.b.c.d }
      userAction: {title: '${ event.a }', description: 'x ${ event.c }', mediaItems: '${ event.d }'}
      tags: ${ event.c.map(x, x.lowerAscii()) }
""",
    file="rules.yaml",
    sites=["main"],
    topics=["user-events"],
)
MAPPER = Mapper(RULES)

# Text as Kafka may bring it: any characters but lone surrogates, which the codec refuses.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["x", "y", "\0", "2026-01-01T00:00:00Z"]
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdx") | texts, inner, max_size=4),
    max_leaves=8,
)
events = st.dictionaries(st.sampled_from(["t", "i", "when", "a", "b", "c", "d"]), values, max_size=7)


@settings(max_examples=400, deadline=None)
@given(events, st.none() | st.binary(max_size=4), st.sampled_from([-1, 0, 1_700_000_000_000]))
@example({"t": "x", "a": "u", "b": {"c": 2.0}}, b"\xff", -1)
@example({"t": "x", "a": "u\0", "b": {"c": 1}, "c": True}, None, 0)
def test_no_event_makes_mapping_raise_anything_but_unmappable(
    payload: dict[str, Any], key: bytes | None, timestamp_ms: int
) -> None:
    value = orjson.dumps({**payload, "secret": "xyzzy"})
    record = KafkaRecord("user-events", 0, 0, value, key, [("h", key)], timestamp_ms)
    calls, problem = _mapped(record)
    if problem is not None:
        assert problem.rule
        assert problem.parameter
        assert "xyzzy" not in str(problem)
        return
    assert all(isinstance(text, str) for call in calls for text in call.params.values())
    assert all(call.uid for call in calls)
    assert calls or MAPPER.why(record, decode(record)[0]) in ("no_type", "no_rule", "when_false")


def _mapped(record: KafkaRecord) -> tuple[tuple[Call, ...], Unmappable | None]:
    try:
        return MAPPER.calls(record, decode(record)[0]), None
    except Unmappable as problem:
        return (), problem


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab:- \n\t#'\"{}[]|>&*!%@`?$,=.0"), max_size=60))
def test_no_text_makes_the_reading_of_a_rules_file_raise(text: str) -> None:
    source, root = parse("r.yaml", text)
    assert (root is None) == bool(source.problems)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(
    ["version: 1", "rules:", "  - name: a", "    on: [x]", "    when: event.a", "    notifyAction:", "      UID: u",
     "      action: ${ event.b }", "event:", "  type: event.t", "    examples:", "      - event: {type: x}",
     "        calls: []", "    max_age: 1h", "    topics: t", "    enabled: no", "---", "- x", "  x: &a {b: c}",
     "    <<: *a"]
), max_size=14))  # fmt: skip
def test_any_order_of_lines_is_accepted_or_refused_with_places(lines: list[str]) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        rules.loads("\n".join(lines), file="r.yaml", sites=["main"], topics=["t"])
    except Refused as refused:
        problems = refused.problems
    assert all(problem.what and problem.line <= len(lines) + 1 for problem in problems)
