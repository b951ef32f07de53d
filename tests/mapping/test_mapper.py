"""Which calls an event means."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest

from worker.codecs.json import decode
from worker.errors import Unmappable
from worker.gigya.calls import Call
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import RuleSet
from worker.model import Event, KafkaRecord, OutcomeKind

Load = Callable[..., RuleSet]

WATCHED = """
    version: 1
    rules:
      - name: watched
        on: [episode.watched]
        when: event.progress >= 0.9
        notifyAction:
          UID: ${ event.user.uid }
          action: watched_episode
          actionAttributes:
            tv-show: ${ event.episode.show }
            genre: ${ first(event.episode.genres, 2) }
          points: '${ event.user.premium ? 20 : 10 }'
"""
EVENT: Mapping[str, Any] = {
    "type": "episode.watched",
    "id": "e-1",
    "progress": 0.97,
    "user": {"uid": "u1", "premium": True},
    "episode": {"show": "Glee", "genres": ["comedy", "music", "drama"]},
}


def record(payload: Mapping[str, Any] | None = None, **changed: Any) -> KafkaRecord:
    fields = {"topic": "user-events", "partition": 3, "offset": 7, "timestamp": 1_700_000_000_000, **changed}
    return KafkaRecord(value=orjson.dumps(EVENT if payload is None else payload), **fields)


def calls(ruleset: RuleSet, payload: Mapping[str, Any] | None = None, **changed: Any) -> tuple[Call, ...]:
    one = record(payload, **changed)
    return Mapper(ruleset).calls(one, decode(one)[0])


def why(ruleset: RuleSet, payload: Mapping[str, Any], **changed: Any) -> str:
    one = record(payload, **changed)
    return Mapper(ruleset).why(one, decode(one)[0])


def unmappable(ruleset: RuleSet, payload: Mapping[str, Any], **changed: Any) -> Unmappable:
    with pytest.raises(Unmappable) as error:
        calls(ruleset, payload, **changed)
    return error.value


def notify(value: str) -> str:
    """Rules of one notifyAction whose attribute `a` is `value`."""
    return f"""
    version: 1
    rules:
      - name: r
        on: [x]
        notifyAction: {{UID: u, action: act, actionAttributes: {{a: {value}}}}}
    """


def attribute(load: Load, value: str, **event: Any) -> Any:
    (call,) = calls(load(notify(value)), {"type": "x", **event})
    return json.loads(call.params["actionAttributes"])["a"]


def test_a_matching_event_makes_the_call_of_its_rule(load: Load) -> None:
    (call,) = calls(load(WATCHED))
    assert call.method.name == "gm.notifyAction"
    assert (call.site, call.uid, str(call.name)) == ("main", "u1", "0/watched/0")
    assert (call.stale_at_s, call.dead_letter_on) == (None, frozenset())
    assert call.params == {
        "UID": "u1",
        "action": "watched_episode",
        "points": "20",
        "actionAttributes": '{"tv-show":"Glee","genre":["comedy","music"]}',
        "context": '{"eventId":"e-1"}',
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"type": "other"}, "no_rule"),
        ({"type": None}, "no_type"),
        ({"type": 5}, "no_type"),
        ({"type": ["episode.watched"]}, "no_type"),
        ({"type": {}}, "no_type"),
        ({"progress": 0.2}, "when_false"),
    ],
)
def test_an_event_that_no_rule_wants_is_filtered_with_its_reason(
    load: Load, changed: Mapping[str, Any], reason: str
) -> None:
    assert calls(load(WATCHED), {**EVENT, **changed}) == ()
    assert why(load(WATCHED), {**EVENT, **changed}) == reason


def test_a_field_that_is_missing_in_when_is_unmappable_and_does_not_fire(load: Load) -> None:
    error = unmappable(load(WATCHED), {"type": "episode.watched"})
    assert (error.reason, error.rule, error.parameter) == ("missing_field", "watched", "when")
    assert error.text == "event.progress is missing (in event.progress >= 0.9)"


@pytest.mark.parametrize(
    ("changed", "reason", "parameter", "text"),
    [
        ({"user": {}}, "missing_field", "UID", "event.user.uid is missing"),
        ({"user": None}, "wrong_type", "UID", "event.user is null, not an object"),
        ({"user": "secret"}, "wrong_type", "UID", "event.user is a text, not an object"),
        ({"episode": {"genres": []}}, "missing_field", "actionAttributes.tv-show", "event.episode.show is missing"),
        (
            {"episode": {"show": "Glee"}},
            "missing_field",
            "actionAttributes.genre",
            "event.episode.genres is missing (in first(event.episode.genres, 2))",
        ),
        (
            {"episode": {"show": "Glee", "genres": "secret"}},
            "wrong_type",
            "actionAttributes.genre",
            "first does not take (string, int) (in first(event.episode.genres, 2))",
        ),
        (
            {"user": {"uid": "u1"}},
            "missing_field",
            "points",
            "event.user.premium is missing (in event.user.premium ? 20 : 10)",
        ),
        (
            {"user": {"uid": "u1", "premium": "secret"}},
            "wrong_type",
            "points",
            "? : needs true or false, and got something else (in event.user.premium ? 20 : 10)",
        ),
        ({"user": {"uid": "", "premium": True}}, "invalid_parameter", "UID", "UID is missing"),
        ({"user": {"uid": ["secret"], "premium": True}}, "invalid_parameter", "UID", "UID is a list, not text"),
        (
            {"user": {"uid": 2**70, "premium": True}},
            "inexact_number",
            "UID",
            "the number is beyond 2^53 and cannot be told exactly; send it as text",
        ),
    ],
)
def test_a_wanted_event_without_what_its_call_needs_is_unmappable(
    load: Load, changed: Mapping[str, Any], reason: str, parameter: str, text: str
) -> None:
    one = KafkaRecord("user-events", 0, 0, json.dumps({**EVENT, **changed}).encode())
    with pytest.raises(Unmappable) as error:
        Mapper(load(WATCHED)).calls(one, decode(one)[0])
    assert (error.value.reason, error.value.rule, error.value.parameter) == (reason, "watched", parameter)
    assert error.value.text == text


def test_one_rule_that_fails_keeps_all_calls_of_the_record_from_being_made(load: Load) -> None:
    text = (
        WATCHED
        + """
      - name: second
        on: [episode.watched]
        notifyAction: {UID: '${ event.nobody }', action: act}
    """
    )
    assert unmappable(load(text), EVENT).rule == "second"


def test_every_rule_that_matches_makes_its_call_in_file_order(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - {name: one, on: [x, y], notifyAction: {UID: u, action: a}}
      - {name: two, notifyAction: {UID: u, action: b}}
      - {name: three, on: [y], notifyAction: {UID: u, action: c}}
      - {name: four, on: x, notifyAction: {UID: u, action: d}}
      - {name: five, on: x, enabled: false, notifyAction: {UID: u, action: d}}
    """)
    for kind, expected in (("x", "one two four"), ("y", "one two three"), ("z", "two"), (None, "two")):
        made = calls(ruleset, {"type": kind})
        assert " ".join(call.name.rule for call in made) == expected


def test_a_rule_with_topics_reads_only_those(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - {name: one, on: x, topics: [user-events], notifyAction: {UID: u, action: a}}
      - {name: two, on: x, topics: other-events, notifyAction: {UID: u, action: b}}
      - {name: three, on: x, notifyAction: {UID: u, action: c}}
    """)
    for topic, expected in (("user-events", "one three"), ("other-events", "two three"), ("third", "three")):
        made = calls(ruleset, {"type": "x"}, topic=topic)
        assert " ".join(call.name.rule for call in made) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": "e-1"}, "e-1"),
        ({"id": 17}, "17"),
        ({"id": 17.0}, "17"),
        ({"id": 2**64 - 1}, "18446744073709551615"),
        ({}, "user-events/3/7"),
        ({"id": None}, "user-events/3/7"),
        ({"id": ""}, "user-events/3/7"),
        ({"id": True}, "user-events/3/7"),
        ({"id": ["a"]}, "user-events/3/7"),
        ({"id": 1.5}, "user-events/3/7"),
        ({"id": 2.0**70}, "user-events/3/7"),
    ],
)
def test_the_context_holds_the_id_or_the_place_of_the_event(
    load: Load, given: Mapping[str, Any], expected: str
) -> None:
    (call,) = calls(load(notify("b")), {"type": "x", **given})
    assert json.loads(call.params["context"]) == {"eventId": expected}


def test_the_second_event_of_a_record_is_named_by_its_number(load: Load) -> None:
    mapper = Mapper(load(notify("b")))
    (call,) = mapper.calls(record(), Event({"type": "x"}, number=2))
    assert (str(call.name), call.params["context"]) == ("2/r/0", '{"eventId":"user-events/3/7/2"}')


def test_a_rule_can_set_the_context_itself(load: Load) -> None:
    text = WATCHED.replace(
        "action: watched_episode", "action: watched_episode\n          context: {seq: '${ event.seq }'}"
    )
    (call,) = calls(load(text), {**EVENT, "seq": 3})
    assert call.params["context"] == '{"seq":3}'


def test_publishing_has_no_context_and_leaves_out_what_is_empty(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - name: share
        on: x
        publishUserAction:
          UID: ${ event.uid }
          userAction:
            title: ${ event.title } is on
            description: ${ event.?comment }
            subtitle: '${ has(event.sub) ? event.sub : null }'
            mediaItems: [{type: image, src: '${ event.img }', href: ''}]
          enabledProviders: [facebook, '${ event.second }']
        on_cap: dead_letter
    """)
    event = {"type": "x", "uid": "u", "title": "Glee", "img": "https://x/1", "second": "twitter"}
    (call,) = calls(ruleset, event)
    assert call.params == {
        "UID": "u",
        "userAction": '{"title":"Glee is on","mediaItems":[{"type":"image","src":"https://x/1"}]}',
        "enabledProviders": "facebook,twitter",
    }
    assert call.dead_letter_on == {OutcomeKind.CAPPED}


@pytest.mark.parametrize(
    ("value", "event", "expected"),
    [
        ('"${ event.a } and ${ event.b }"', {"a": "x", "b": 1}, "x and 1"),
        ('"${ event.a }-"', {"a": 10.0}, "10-"),
        ('"${ event.a }-"', {"a": 1.5}, "1.5-"),
        ('"${ event.a }-"', {"a": True}, "true-"),
        ('"$${ event.a }"', {}, "${ event.a }"),
        ('"$${ ${ event.a }"', {"a": "x"}, "${ x"),
        ("'${ event.a + \"}\" }'", {"a": "x"}, "x}"),
        ("'${ string(event.a) }'", {"a": 10.0}, "10"),
        ("'${ kafka.topic }/${ kafka.partition }/${ kafka.offset }'", {}, "user-events/3/7"),
        ("'${ string(kafka.timestamp) }'", {}, "1700000000000"),
    ],
)
def test_an_expression_alone_keeps_its_kind_and_inside_text_becomes_text(
    load: Load, value: str, event: Mapping[str, Any], expected: Any
) -> None:
    assert attribute(load, value, **event) == expected


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_what_is_no_text_cannot_stand_inside_text(load: Load, value: Any) -> None:
    error = unmappable(load(notify('"x ${ event.a }"')), {"type": "x", "a": value})
    assert (error.reason, error.parameter) == ("wrong_type", "actionAttributes.a")


def test_key_and_headers_are_text_or_null(load: Load) -> None:
    value = "'${ string(kafka.key == null) }${ string(kafka.headers.a == null) }${ kafka.headers.b }'"
    headers = [("a", b"\xff"), ("b", b"1"), ("b", b"2")]
    (call,) = calls(load(notify(value)), {"type": "x"}, key=b"a\0b", headers=headers)
    assert json.loads(call.params["actionAttributes"]) == {"a": "truetrue2"}


def test_text_with_nul_is_not_cut(load: Load) -> None:
    # The library cuts text at NUL: "u1\0x" would become the user "u1".
    ruleset = load("""
    version: 1
    rules:
      - {name: r, on: x, when: event.a == "u1", notifyAction: {UID: u, action: a}}
    """)
    error = unmappable(ruleset, {"type": "x", "a": "u1\0x"})
    assert (error.reason, error.parameter) == ("bad_text", "when")
    assert len(calls(ruleset, {"type": "x", "a": "u1", "unused": "\0"})) == 1
    assert len(calls(ruleset, {"type": "x", "a": "u1", "b": r"C:\u0000"})) == 1


AGED = """
    version: 1
    rules:
      - {name: r, on: x, max_age: 90s, on_stale: dead_letter, notifyAction: {UID: u, action: a}}
"""


@pytest.mark.parametrize(
    ("time", "stale_at_s"),
    [
        ("2023-11-14T22:13:30Z", 1_700_000_100),
        (1_700_000_010_000, 1_700_000_100),
        (None, 1_700_000_090),  # null: Kafka's timestamp
    ],
)
def test_a_call_is_stale_max_age_after_its_event(load: Load, time: Any, stale_at_s: float) -> None:
    (call,) = calls(load(AGED), {"type": "x", "time": time})
    assert (call.stale_at_s, call.dead_letter_on) == (stale_at_s, {OutcomeKind.STALE})
    (call,) = calls(load(AGED), {"type": "x"})
    assert call.stale_at_s == 1_700_000_090


@pytest.mark.parametrize("time", ["yesterday", "2023-11-14", True, [], {}])
def test_an_unreadable_time_matters_only_where_a_rule_has_max_age(load: Load, time: Any) -> None:
    error = unmappable(load(AGED), {"type": "x", "time": time})
    assert (error.reason, error.parameter, error.text) == ("unreadable_time", "max_age", "event.time is not a time")
    assert len(calls(load(notify("b")), {"type": "x", "time": time})) == 1


def test_an_event_without_any_time_has_no_age(load: Load) -> None:
    assert unmappable(load(AGED), {"type": "x"}, timestamp=-1).text == "the record has no time"


@pytest.mark.parametrize(
    ("header", "event"),
    [
        ("event: {type: event.event}", {"event": "x"}),
        ("event: {type: event.source.table}", {"source": {"table": "x"}}),
        ("event: {type: \"event['my type']\"}", {"my type": "x"}),
        ("event: {type: event.a + event.b}", {"a": "x", "b": ""}),
        ("event: {type: \"has(event.kind) ? event.kind : 'x'\"}", {}),
        ("event: {type: kafka.headers.type}", {}),
    ],
)
def test_the_type_is_read_where_the_file_says(load: Load, header: str, event: Mapping[str, Any]) -> None:
    text = notify("b").replace("version: 1", f"version: 1\n    {header}")
    assert len(calls(load(text), event, headers=[("type", b"x")])) == 1
    assert why(load(text), {"kind": "z", "a": "no"}) in ("no_type", "no_rule")


def test_a_type_that_errs_is_no_type(load: Load) -> None:
    text = notify("b").replace("version: 1", "version: 1\n    event: {type: event.a + event.b}")
    assert (calls(load(text), {"a": 1}), why(load(text), {"a": 1})) == ((), "no_type")


def test_an_envelope_is_seen_as_ce(load: Load) -> None:
    text = notify("'${ ce.source }'").replace("version: 1", "version: 1\n    event: {type: ce.type, id: ce.id}")
    (call,) = Mapper(load(text)).calls(record(), Event({}, attributes={"type": "x", "id": "9", "source": "s"}))
    assert (call.params["actionAttributes"], call.params["context"]) == ('{"a":"s"}', '{"eventId":"9"}')


def test_an_unmappable_text_never_shows_a_value(load: Load) -> None:
    ruleset = load(notify("'${ event.m[event.s] }${ event.s.matches(event.s) }'"))
    error = unmappable(ruleset, {"type": "x", "m": {}, "s": "(topsecret"})
    assert "topsecret" not in f"{error} {error.text} {error.parameter}"
