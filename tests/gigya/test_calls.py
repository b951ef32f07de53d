"""What a call may hold, when rules are loaded and per event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gigya.calls import (
    DYNAMIC,
    DYNAMIC_TEXT,
    METHODS,
    NOTIFY_ACTION,
    PROVIDERS,
    PUBLISH_USER_ACTION,
    Call,
    ParameterError,
    Settles,
)
from worker.model import CallName

NOTIFY: dict[str, Any] = {"UID": "u1", "action": "read"}
PUBLISH: dict[str, Any] = {"UID": "u1", "userAction": {"title": "t"}}
EMPTY: list[Any] = [None, "", [], {}, {"a": None}, {"a": {"b": ""}}, [None, "", []], [{}]]


def whole_method(key: str, **values: Any) -> dict[str, Any]:
    return ({**NOTIFY} if key == "notifyAction" else {**PUBLISH}) | values


# What is sent


def test_each_call_has_the_business_parameters_of_its_page() -> None:
    assert [parameter.name for parameter in NOTIFY_ACTION.parameters] == [
        "UID", "action", "points", "challengeIDs", "actionAttributes", "context",
    ]  # fmt: skip
    assert {parameter.name for parameter in PUBLISH_USER_ACTION.parameters} == {
        "UID", "userAction", "actionAttributes", "cid", "enabledProviders", "disabledProviders", "shortURLs", "tags",
        "userLocation", *(f"{provider}UserAction" for provider in PROVIDERS),
    }  # fmt: skip
    assert all(parameter.source and parameter.limits for method in METHODS.values() for parameter in method.parameters)


def test_the_log_settles_an_action_and_nothing_settles_a_publish() -> None:
    assert (NOTIFY_ACTION.settles, NOTIFY_ACTION.event_id_in) == (Settles.ACTIONS_LOG, "context")
    assert (PUBLISH_USER_ACTION.settles, PUBLISH_USER_ACTION.event_id_in) == (Settles.NOTHING, None)


def test_a_whole_notify_action_is_sent_as_compact_raw_json() -> None:
    sent = NOTIFY_ACTION.encode(
        NOTIFY
        | {
            "points": -5,
            "challengeIDs": ["_default", " c2 "],
            "actionAttributes": {"tv-show": "Glée", "genre": ["a", "b"]},
            "context": {"eventId": "e1", "n": 1.5, "flag": False, "zero": 0, "deep": [{"x": [1]}]},
        }
    )
    assert sent == {
        "UID": "u1",
        "action": "read",
        "points": "-5",
        "challengeIDs": "_default,c2",
        "actionAttributes": '{"tv-show":"Glée","genre":["a","b"]}',
        "context": '{"eventId":"e1","n":1.5,"flag":false,"zero":0,"deep":[{"x":[1]}]}',
    }


def test_a_whole_publish_is_sent_as_compact_json() -> None:
    action = {
        "userMessage": "m",
        "title": "t",
        "subtitle": "s",
        "linkBack": "https://site.example/a",
        "description": "d",
        "actionName": "n",
        "actionLinks": [{"title": "x", "href": "https://site.example/x"}],
        "mediaItems": [{"type": "flash", "src": "https://v", "width": 320, "previewImageHeight": "90"}],
    }
    values = PUBLISH | {
        "userAction": action,
        "twitterUserAction": {"title": "short"},
        "actionAttributes": {"tags": ["a", "b", "c"]},
        "cid": "x" * 100,
        "enabledProviders": ["facebook", "twitter"],
        "disabledProviders": "sina, renren",
        "shortURLs": "whenRequired",
        "tags": "one, two",
        "userLocation": {"latitude": -90, "longitude": 180.0, "placeID": "p"},
    }
    assert PUBLISH_USER_ACTION.check(values) == []
    sent = PUBLISH_USER_ACTION.encode(values)
    assert json.loads(sent["userAction"]) == action
    assert sent["twitterUserAction"] == '{"title":"short"}'
    assert sent["enabledProviders"] == "facebook,twitter"
    assert sent["disabledProviders"] == "sina,renren"
    assert sent["tags"] == "one,two"
    assert sent["userLocation"] == '{"latitude":-90,"longitude":180.0,"placeID":"p"}'


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_an_empty_value_is_left_out(empty: Any) -> None:
    assert NOTIFY_ACTION.encode(NOTIFY | {"context": empty, "points": None, "actionAttributes": empty}) == NOTIFY
    assert NOTIFY_ACTION.check(NOTIFY | {"context": empty}) == []


def test_empty_values_are_removed_at_every_depth_and_false_and_zero_stay() -> None:
    context: dict[str, Any] = {"a": {"b": {"c": None}, "d": 0}, "e": [None, "", {"f": []}, False], "g": ""}
    sent = NOTIFY_ACTION.encode(NOTIFY | {"context": context})
    assert json.loads(sent["context"]) == {"a": {"d": 0}, "e": [False]}


def test_control_characters_and_emoji_pass() -> None:
    odd = "a\x00\n\r\t\x7f\u2028\U0001f600"
    sent = NOTIFY_ACTION.encode({"UID": odd, "action": "read", "context": {"k": odd}})
    assert sent["UID"] == odd
    assert json.loads(sent["context"]) == {"k": odd}


@pytest.mark.parametrize(
    ("points", "sent"),
    [
        (0, "0"),
        (20, "20"),
        (-7, "-7"),
        (20.0, "20"),
        (-0.0, "0"),
        (2.0**53 - 1, "9007199254740991"),
        (2**63 - 1, "9223372036854775807"),
    ],
)
def test_points_are_sent_as_a_whole_number(points: float, sent: str) -> None:
    assert NOTIFY_ACTION.encode(NOTIFY | {"points": points})["points"] == sent
    assert NOTIFY_ACTION.check(NOTIFY | {"points": points}) == []


# What is refused: the same at load and per event

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("notifyAction", {"UID": None}, "UID"),
    ("notifyAction", {"UID": ""}, "UID"),
    ("notifyAction", {"UID": 17}, "UID"),
    ("notifyAction", {"UID": True}, "UID"),
    ("notifyAction", {"UID": ["u"]}, "UID"),
    ("notifyAction", {"UID": "\ud800"}, "UID"),
    ("notifyAction", {"action": None}, "action"),
    ("notifyAction", {"action": 5}, "action"),
    ("notifyAction", {"action": "share"}, "action"),
    ("notifyAction", {"action": "comment"}, "action"),
    ("notifyAction", {"action": "login"}, "action"),
    ("notifyAction", {"action": "referral"}, "action"),
    ("notifyAction", {"points": 1.5}, "points"),
    ("notifyAction", {"points": 2.0**53}, "points"),
    ("notifyAction", {"points": -(2.0**60)}, "points"),
    ("notifyAction", {"points": 2**63}, "points"),
    ("notifyAction", {"points": 10**5000}, "points"),
    ("notifyAction", {"points": "10"}, "points"),
    ("notifyAction", {"points": True}, "points"),
    ("notifyAction", {"points": float("nan")}, "points"),
    ("notifyAction", {"points": float("inf")}, "points"),
    ("notifyAction", {"points": {"a": 1}}, "points"),
    ("notifyAction", {"challengeIDs": ["c1"]}, "challengeIDs"),
    ("notifyAction", {"challengeIDs": "c1"}, "challengeIDs"),
    ("notifyAction", {"points": 1, "challengeIDs": ["a,b"]}, "challengeIDs[0]"),
    ("notifyAction", {"points": 1, "challengeIDs": [1]}, "challengeIDs[0]"),
    ("notifyAction", {"points": 1, "challengeIDs": " , "}, "challengeIDs"),
    ("notifyAction", {"points": 1, "challengeIDs": {"a": "b"}}, "challengeIDs"),
    ("notifyAction", {"points": 1, "challengeIDs": 7}, "challengeIDs"),
    ("notifyAction", {"actionAttributes": {"a": "1", "b": ["2", "3"], "c": "4"}}, "actionAttributes"),
    ("notifyAction", {"actionAttributes": {"a": ["1", "2", "3", "4"]}}, "actionAttributes"),
    ("notifyAction", {"actionAttributes": {"genre": 1}}, "actionAttributes.genre"),
    ("notifyAction", {"actionAttributes": {"genre": ["x", 1]}}, "actionAttributes.genre[1]"),
    ("notifyAction", {"actionAttributes": {"genre": {"x": "y"}}}, "actionAttributes.genre"),
    ("notifyAction", {"actionAttributes": {"": "x"}}, "actionAttributes[0]"),
    ("notifyAction", {"actionAttributes": "x"}, "actionAttributes"),
    ("notifyAction", {"context": "text"}, "context"),
    ("notifyAction", {"context": [1]}, "context"),
    ("notifyAction", {"context": {"a": {"b": float("nan")}}}, "context.a.b"),
    ("notifyAction", {"context": {"a": [2**64]}}, "context.a[0]"),
    ("notifyAction", {"context": {"a": "\udfff"}}, "context.a"),
    ("notifyAction", {"context": {"\udfff": "a"}}, "context[0]"),
    ("notifyAction", {"context": {1: "a"}}, "context[0]"),
    ("notifyAction", {"context": {"a": b"bytes"}}, "context.a"),
    ("notifyAction", {"context": {"a": object()}}, "context.a"),
    ("notifyAction", {"format": "json"}, "format"),
    ("notifyAction", {"callback": "f"}, "callback"),
    ("notifyAction", {"httpStatusCodes": "true"}, "httpStatusCodes"),
    ("notifyAction", {"apikey": "x"}, "apiKey"),
    ("notifyAction", {"sig": "x"}, "sig"),
    ("notifyAction", {"cid": "x"}, "cid"),
    ("publishUserAction", {"userAction": None}, "userAction"),
    ("publishUserAction", {"userAction": {"title": ""}}, "userAction"),
    ("publishUserAction", {"userAction": "{}"}, "userAction"),
    ("publishUserAction", {"userAction": {"title": 1}}, "userAction.title"),
    ("publishUserAction", {"userAction": {"linkBack": "/relative"}}, "userAction.linkBack"),
    ("publishUserAction", {"userAction": {"linkBack": "site.example/a"}}, "userAction.linkBack"),
    ("publishUserAction", {"userAction": {"linkBack": "https:///a"}}, "userAction.linkBack"),
    ("publishUserAction", {"userAction": {"actionLinks": {"title": "x"}}}, "userAction.actionLinks"),
    ("publishUserAction", {"userAction": {"actionLinks": ["x"]}}, "userAction.actionLinks[0]"),
    ("publishUserAction", {"userAction": {"mediaItems": "x"}}, "userAction.mediaItems"),
    ("publishUserAction", {"userAction": {"mediaItems": ["x"]}}, "userAction.mediaItems[0]"),
    ("publishUserAction", {"userAction": {"mediaItems": [{"src": "x"}]}}, "userAction.mediaItems[0].type"),
    (
        "publishUserAction",
        {"userAction": {"mediaItems": [{"type": "video", "src": "x"}]}},
        "userAction.mediaItems[0].type",
    ),
    ("publishUserAction", {"userAction": {"mediaItems": [{"type": "image"}]}}, "userAction.mediaItems[0].src"),
    (
        "publishUserAction",
        {"userAction": {"mediaItems": [{"type": "image", "src": "a"}, {"type": "mp3", "src": "b"}]}},
        "userAction.mediaItems",
    ),
    (
        "publishUserAction",
        {"userAction": {"mediaItems": [{"type": "flash", "src": "a", "width": "wide"}]}},
        "userAction.mediaItems[0].width",
    ),
    ("publishUserAction", {"facebookUserAction": {"title": 1}}, "facebookUserAction.title"),
    ("publishUserAction", {"cid": "x" * 101}, "cid"),
    ("publishUserAction", {"cid": 5}, "cid"),
    ("publishUserAction", {"enabledProviders": "Facebook"}, "enabledProviders"),
    ("publishUserAction", {"enabledProviders": "facebook,myspace"}, "enabledProviders"),
    ("publishUserAction", {"disabledProviders": ["twitter", "x"]}, "disabledProviders[1]"),
    ("publishUserAction", {"disabledProviders": ["twitter,sina"]}, "disabledProviders[0]"),
    ("publishUserAction", {"shortURLs": "Always"}, "shortURLs"),
    ("publishUserAction", {"tags": 1}, "tags"),
    ("publishUserAction", {"tags": [" "]}, "tags[0]"),
    ("publishUserAction", {"userLocation": {"latitude": 90.1}}, "userLocation.latitude"),
    ("publishUserAction", {"userLocation": {"longitude": -181}}, "userLocation.longitude"),
    ("publishUserAction", {"userLocation": {"latitude": "1"}}, "userLocation.latitude"),
    ("publishUserAction", {"userLocation": {"latitude": True}}, "userLocation.latitude"),
    ("publishUserAction", {"userLocation": [1, 2]}, "userLocation"),
    ("publishUserAction", {"points": 1}, "points"),
]


@pytest.mark.parametrize(("key", "values", "path"), REFUSED)
def test_a_value_that_the_api_would_refuse_is_named_at_load_and_per_event(
    key: str, values: dict[str, Any], path: str
) -> None:
    method, whole = METHODS[key], whole_method(key, **values)
    found = method.check(whole)
    assert path in [error.parameter for error in found]
    assert all(error.what and str(error).startswith(error.parameter) for error in found)
    with pytest.raises(ParameterError) as caught:
        method.encode(whole)
    assert caught.value.parameter == path


def test_a_value_nested_too_deep_is_an_error_and_no_stack_overflow() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ParameterError, match="nested deeper than 100"):
        NOTIFY_ACTION.encode(NOTIFY | {"context": {"a": deep}})
    assert NOTIFY_ACTION.check(NOTIFY | {"context": {"a": deep}})


def test_all_problems_of_a_rule_are_found_at_once() -> None:
    found = NOTIFY_ACTION.check({"action": "share", "points": 1.5, "format": "json", "context": "x"})
    assert {error.parameter for error in found} == {"UID", "action", "points", "format", "context"}


@pytest.mark.parametrize(
    ("key", "values", "remedy"),
    [
        ("publishUserAction", {"userAction": {"titel": "x"}}, '"title"'),
        ("notifyAction", {"uid": "u"}, '"UID"'),
        ("notifyAction", {"actionAttribute": {}}, '"actionAttributes"'),
        ("publishUserAction", {"enabledProviders": "Facebook"}, '"facebook"'),
        ("publishUserAction", {"shortURLs": "Always"}, '"always"'),
    ],
)
def test_a_slip_of_the_pen_names_what_was_meant(key: str, values: dict[str, Any], remedy: str) -> None:
    assert remedy in METHODS[key].check(whole_method(key) | values)[0].remedy


def test_a_misspelt_required_parameter_is_one_problem_not_two() -> None:
    assert len(NOTIFY_ACTION.check({"uid": "u", "action": "read"})) == 1


PRIVATE = "jane.doe+77@example.com"


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {"actionAttributes": {PRIVATE: 1}},
        {"context": {PRIVATE: float("nan")}},
        {"userAction": {PRIVATE: "x"}},
        {"userAction": {"linkBack": PRIVATE}},
        {"enabledProviders": [PRIVATE]},
        {"enabledProviders": PRIVATE},
        {"shortURLs": PRIVATE},
        {"cid": PRIVATE * 10},
        {"UID": [PRIVATE]},
        {"UID": {PRIVATE: PRIVATE}},
        {"userAction": {"mediaItems": [{"type": PRIVATE}]}},
        {"points": PRIVATE},
    ],
)
def test_unknown_fields_and_values_of_an_event_are_not_shown(key: str, values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as caught:
        METHODS[key].encode(whole_method(key, UID=PRIVATE) | values)
    error = caught.value
    assert PRIVATE not in f"{error} {error.parameter} {error.what} {error.remedy}"


# What only an event can tell


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (
            "notifyAction",
            dict.fromkeys(["UID", "action", "points", "challengeIDs", "actionAttributes", "context"], DYNAMIC),
        ),
        ("notifyAction", {"UID": DYNAMIC_TEXT, "action": DYNAMIC_TEXT, "actionAttributes": {"a": DYNAMIC}}),
        ("notifyAction", {"actionAttributes": {"a": DYNAMIC, "b": DYNAMIC, "c": ["x", DYNAMIC], "d": DYNAMIC}}),
        ("notifyAction", {"points": DYNAMIC, "challengeIDs": ["a", DYNAMIC]}),
        ("publishUserAction", {"userAction": DYNAMIC, "userLocation": {"latitude": DYNAMIC, "longitude": 5}}),
        (
            "publishUserAction",
            {"userAction": {"linkBack": DYNAMIC_TEXT, "mediaItems": DYNAMIC, "actionLinks": [DYNAMIC]}},
        ),
        ("publishUserAction", {"userAction": {"mediaItems": [{"type": DYNAMIC, "any": 1}, DYNAMIC]}}),
        ("publishUserAction", {"userAction": {"mediaItems": [{"type": "image", "src": DYNAMIC}]}}),
        ("publishUserAction", {"enabledProviders": DYNAMIC, "cid": DYNAMIC_TEXT, "shortURLs": DYNAMIC_TEXT}),
    ],
)
def test_what_only_an_event_can_tell_is_not_judged_at_load(key: str, values: dict[str, Any]) -> None:
    assert METHODS[key].check(whole_method(key) | values) == []


@pytest.mark.parametrize(
    ("key", "values", "path"),
    [
        ("notifyAction", {"challengeIDs": DYNAMIC}, "challengeIDs"),
        ("notifyAction", {"points": DYNAMIC_TEXT}, "points"),
        ("notifyAction", {"context": DYNAMIC_TEXT}, "context"),
        ("notifyAction", {"actionAttributes": {"a": ["1", "2", "3", DYNAMIC_TEXT]}}, "actionAttributes"),
        ("notifyAction", {"actionAttributes": {"a": DYNAMIC, "b": 1}}, "actionAttributes.b"),
        ("publishUserAction", {"userAction": {"titel": DYNAMIC}}, "userAction.titel"),
        ("publishUserAction", {"enabledProviders": [DYNAMIC, "x"]}, "enabledProviders[1]"),
    ],
)
def test_what_stands_around_the_dynamic_is_judged_at_load(key: str, values: dict[str, Any], path: str) -> None:
    assert [error.parameter for error in METHODS[key].check(whole_method(key) | values)] == [path]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
names = st.sampled_from(
    [parameter.name for method in METHODS.values() for parameter in method.parameters] + ["format", "titel"]
)


@given(st.sampled_from(sorted(METHODS)), st.dictionaries(names, json_values, max_size=6))
def test_whatever_check_accepts_encode_sends_and_nothing_else(key: str, values: Mapping[str, Any]) -> None:
    method = METHODS[key]
    if method.check(values):
        with pytest.raises(ParameterError):
            method.encode(values)
        return
    sent = method.encode(values)
    assert all(isinstance(text, str) and text for text in sent.values())
    assert "UID" in sent
    "".join(sent.values()).encode()


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), json_values, max_size=3)
)
def test_a_context_that_is_sent_reads_back_without_what_was_empty(context: dict[str, Any]) -> None:
    try:
        sent = NOTIFY_ACTION.encode(NOTIFY | {"context": context})
    except ParameterError:
        return
    assert json.loads(sent.get("context", "null")) == slim(context)


def slim(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: inner for key, raw in value.items() if (inner := slim(raw)) is not None} or None
    if isinstance(value, list):
        return [inner for raw in value if (inner := slim(raw)) is not None] or None
    return None if value == "" else value


def test_a_call_shows_neither_uid_nor_parameters() -> None:
    call = Call(NOTIFY_ACTION, "main", "jane", {"UID": "jane"}, CallName(0, "rule"))
    assert "jane" not in repr(call)
    assert hash(call) == hash(call)
