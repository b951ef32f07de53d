"""Topics of different shapes: what `sources` says, what is wrong with it, and what an event's identity is then."""

# ruff: noqa: E501  the texts stand as people see them, in one line
from __future__ import annotations

import json
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest

from worker.errors import Refused
from worker.gigya.calls import Call
from worker.mapping import examples, rules
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.model import KafkaRecord

Load = Callable[..., RuleSet]

RULE = """
rules:
  - name: r
    on: [x]
    notifyAction: {UID: u, action: act}
    max_age: 1h
"""
TWO = """
version: 1
sources:
  app: {topics: [user-events]}
  web: {topics: [other-events], type: event.event, id: event.messageId, time: event.timestamp}
"""


def calls(ruleset: RuleSet, value: Any, *, topic: str = "user-events", headers: Any = ()) -> tuple[Call, ...]:
    mapper = Mapper(ruleset)
    text = None if value is None else json.dumps(value).encode()
    record = KafkaRecord(topic, 3, 7, text, None, headers, 1_700_000_000_000)
    return tuple(call for event in mapper.decode(record) for call in mapper.calls(record, event))


def identity(call: Call) -> tuple[str, float | None]:
    stale_at_s = call.stale_at_s
    return json.loads(call.params["context"])["eventId"], None if stale_at_s is None else stale_at_s - 3600


def test_each_topic_says_its_type_id_and_time_in_its_own_way(load: Load) -> None:
    ruleset = load(TWO + RULE)
    (app,) = calls(ruleset, {"type": "x", "id": "a1", "time": 1000})
    assert identity(app) == ("a1", 1000)
    (web,) = calls(
        ruleset,
        {"type": "track", "event": "x", "messageId": "w1", "timestamp": "1970-01-01T01:00:00Z"},
        topic="other-events",
    )
    assert identity(web) == ("w1", 3600)
    assert calls(ruleset, {"type": "track", "event": "x"}) == ()
    assert calls(ruleset, {"type": "x"}, topic="other-events") == ()


DEBEZIUM = "version: 1\nevent: {format: debezium}" + RULE


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"source": {"table": "x", "ts_ms": 1_795_340_103_500}, "ts_ms": 1_795_340_109_000}, 1_795_340_103.5),
        (
            {"source": {"collection": "x", "ts_ms": 0}, "ts_ms": 1_795_340_109_000},
            1_795_340_109,
        ),  # some snapshots write 0
        ({"source": {"table": "x", "collection": "z"}, "ts_ms": None}, 1_700_000_000),
        ({"source": {"table": None, "collection": "x"}}, 1_700_000_000),
    ],
)
def test_a_change_event_has_its_table_as_type_its_place_as_id_and_the_time_of_the_change(
    load: Load, event: dict[str, Any], expected: float
) -> None:
    for value in (event, {"schema": {"type": "struct"}, "payload": event}):
        (call,) = calls(load(DEBEZIUM), value)
        assert identity(call) == ("user-events/3/7", expected)


@pytest.mark.parametrize("event", [{"type": "x"}, {"source": "x"}, {"source": {"table": 5}}, {"ts_ms": 1}, None])
def test_what_has_no_table_is_filtered(load: Load, event: Any) -> None:
    assert calls(load(DEBEZIUM), event) == ()


CE = {"specversion": "1.0", "id": "c1", "source": "/s", "type": "x", "time": "1970-01-01T00:00:09Z"}
BINARY = [(f"ce_{name}", value.encode()) for name, value in CE.items()]


@pytest.mark.parametrize(
    "head", ["", "event: {type: event.type, time: event.time}\n", "event: {format: cloudevents}\n"]
)
def test_a_cloudevent_has_its_own_type_id_and_time_whatever_its_data_says(load: Load, head: str) -> None:
    ruleset = load("version: 1\n" + head + RULE)
    data = {"type": "z", "id": "z", "time": "z"}
    for value, headers in (({**CE, "data": data}, ()), (data, BINARY), ({**CE, "data": "text"}, ())):
        (call,) = calls(ruleset, value, headers=headers)
        assert identity(call) == ("c1", 9)


def test_a_cloudevent_without_time_has_the_one_of_its_record(load: Load) -> None:
    (call,) = calls(load("version: 1\n" + RULE), {**CE, "time": None, "data": {"time": 1000}})
    assert identity(call) == ("c1", 1_700_000_000)


def test_a_type_that_is_said_elsewhere_counts_for_cloudevents_too(load: Load) -> None:
    ruleset = load("version: 1\nevent: {type: \"event['type']\", id: ce.subject}" + RULE)
    (call,) = calls(ruleset, {**CE, "type": "z", "subject": "s9", "data": {"type": "x"}})
    assert identity(call) == ("s9", 9)


def test_events_of_a_batch_are_told_apart(load: Load) -> None:
    made = calls(load("version: 1\n" + RULE), [CE, {**CE, "type": "z"}, {**CE, "id": "c3"}])
    assert [(str(call.name), identity(call)[0]) for call in made] == [("0/r/0", "c1"), ("2/r/0", "c3")]


def test_a_field_that_a_cloudevent_has_elsewhere_is_explained(load: Load) -> None:
    text = "version: 1\n" + RULE.replace("UID: u", "UID: '${ event.data.uid }'")
    found = examples.run(
        load(text + f"    examples: [{{event: {json.dumps({**CE, 'data': {'uid': 'u'}})}, calls: []}}]")
    )
    assert [problem.what for problem in found] == [
        'rule "r", example "1": it would become a dead letter: UID: event.data is missing; '
        "of a CloudEvent, event is the data and ce the other attributes"
    ]


# What can be wrong

HEAD = "version: 1\nsources:\n"
BAD = [
    (
        "both",
        "version: 1\nevent: {type: event.a}\nsources:\n  a: {topics: [t1, t2]}\n",
        "2:1 event and sources exclude each other; move what event says into a source",
    ),
    (
        "a list",
        "version: 1\nsources: [a]\n",
        "2:10 sources is a list, not a mapping; write name: {topics: [...], type: ...} for each kind of topic",
    ),
    ("empty", "version: 1\nsources: {}\n", "2:10 sources is empty; write name: {topics: [...], type: ...} for each kind of topic"),
    ("text", HEAD + "  a: t1\n", '3:6 source "a" is text, not a mapping; it has topics, type, id, time and format'),
    ("no topics", HEAD + "  a: {type: event.a}\n", '3:6 source "a" has no topics; add topics: with those that look like this'),
    (
        "an empty list of topics",
        HEAD + "  a: {topics: []}\n  b: {topics: [t1, t2]}\n",
        '3:15 source "a", topics is an empty list; name at least one, or remove the key',
    ),
    (
        "unknown key",
        HEAD + "  a: {topics: [t1, t2], tpye: event.a}\n",
        '3:25 source "a" has an unknown key "tpye"; did you mean "type"?',
    ),
    (
        "unknown topic",
        HEAD + "  a: {topics: [t1, t2, user-evens]}\n",
        '3:24 source "a": topic "user-evens" is not among kafka.topics; known: t1, t2',
    ),
    (
        "a topic in two sources",
        HEAD + "  a: {topics: [t1, t2]}\n  b:\n    topics:\n      - t1\n",
        '6:9 source "b": topic "t1" is also in source "a", in line 3; keep one of them',
    ),
    (
        "a topic twice in one source",
        HEAD + "  a: {topics: [t1, t2, t1]}\n",
        '3:24 source "a": topic "t1" is twice in this source, in line 3; keep one of them',
    ),
    (
        "a subscribed topic in no source",
        HEAD + "  a: {topics: [t1]}\n",
        '2:1 "t2" of kafka.topics is in no source; add every topic to the topics of one source',
    ),
    (
        "a bad expression",
        HEAD + "  a: {topics: [t1, t2], type: evnt.a}\n",
        '3:31 source "a", type: unknown name "evnt"; an expression knows event, kafka and ce; text stands in quotes',
    ),
    (
        "item",
        HEAD + "  a: {topics: [t1, t2], type: item.a}\n",
        '3:31 source "a", type: item is known only in a rule with each; add each: with a list of the event',
    ),
    (
        "an unknown format",
        HEAD + "  a: {topics: [t1, t2], format: debzium}\n",
        '3:33 source "a": an unknown format; did you mean "debezium"?',
    ),
    ("a format that is no text", HEAD + "  a: {topics: [t1, t2], format: 5}\n", '3:33 source "a", format is a number, not text; put quotes around it'),
    ("an unknown format of event", "version: 1\nevent: {format: avro}\n", "2:17 event: an unknown format; known: auto, json, cloudevents, debezium"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_sources_that_cannot_be_right_are_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        rules.loads(text + RULE.lstrip("\n"), file="r.yaml", sites=["main"], topics=["t1", "t2"])
    errors = [one for one in refused.value.problems if one.severity == "error"]
    found = [f"{one.line}:{one.column} {one.what}; {one.remedy}" for one in errors]
    assert found == [problem]


# Rules that read several sources


def test_a_rule_that_reads_several_sources_is_a_warning(load: Load) -> None:
    (warning,) = load(TWO + RULE).warnings
    assert (warning.line, warning.what) == (
        8,
        'rule "r" reads the topics of several sources (app, web), whose events may look different',
    )


@pytest.mark.parametrize(
    "more",
    [
        "    topics: [user-events]\n",
        "    enabled: false\n",
        "    examples:\n      - {event: {type: x}, calls: []}\n      - {topic: other-events, event: {event: x}, calls: []}\n",
    ],
)
def test_a_rule_that_reads_one_source_or_shows_that_it_fits_each_is_none(load: Load, more: str) -> None:
    assert load(TWO + RULE + more).warnings == ()


def test_an_example_is_read_as_its_topic_says(load: Load) -> None:
    text = dedent(TWO + RULE).replace("    max_age: 1h\n", "") + (
        "    examples:\n"
        "      - {event: {type: x, id: 1}, calls: [{UID: u, action: act, context: {eventId: '1'}}]}\n"
        "      - {topic: other-events, event: {event: x, messageId: m}, calls: [{UID: u, action: act, context: {eventId: m}}]}\n"
        "      - {topic: other-events, event: {type: x}, calls: []}\n"
    )
    assert examples.run(load(text)) == ()


# The digest


@pytest.mark.parametrize(
    "other",
    [
        TWO.replace("app:", "application:"),
        TWO.replace("{topics: [user-events]}", "{topics: user-events, format: auto, id: event.id}"),
        'version: 1\nsources:\n  web: {topics: other-events, type: event.event, id: event.messageId, time: event.timestamp}\n  app: {topics: user-events}\n',
    ],
)  # fmt: skip
def test_the_digest_stays_when_sources_say_the_same(load: Load, other: str) -> None:
    assert load(other + RULE).digest == load(TWO + RULE).digest


@pytest.mark.parametrize(
    "other",
    [
        TWO.replace("event.messageId", "event.id"),
        TWO.replace("[user-events]}", "[user-events], format: json}"),
        TWO.replace("[user-events]", "[x]").replace("[other-events]", "[user-events]").replace("[x]", "[other-events]"),
    ],
)
def test_the_digest_changes_when_sources_say_something_else(load: Load, other: str) -> None:
    assert load(other + RULE).digest != load(TWO + RULE).digest
