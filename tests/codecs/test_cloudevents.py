"""Tables of what can stand in a record as CloudEvents, each with its decided result; and a second opinion."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from worker.codecs import choice, cloudevents
from worker.codecs.choice import Format
from worker.errors import Undecodable
from worker.model import Event, KafkaRecord

REQUIRED = {"specversion": "1.0", "id": "e-1", "source": "/apps/tv", "type": "watched"}
BINARY = tuple((f"ce_{name}", value.encode()) for name, value in REQUIRED.items())
STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
BATCH = (("content-type", b"application/cloudevents-batch+json"),)
JSON_TYPE = ("content-type", b"application/json")

Headers = tuple[tuple[str, bytes | None], ...]


def record(value: Any, headers: Headers = (), *, key: bytes | None = None) -> KafkaRecord:
    text = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return KafkaRecord("t", 0, 0, text, key, headers)


def only(value: Any, headers: Headers = ()) -> Event:
    (event,) = choice.auto(record(value, headers))
    return event


def undecodable(value: Any, headers: Headers = ()) -> tuple[str, str]:
    with pytest.raises(Undecodable) as error:
        choice.auto(record(value, headers))
    assert "secret" not in str(error.value)
    return error.value.reason, error.value.text


# How a record says what it is


@pytest.mark.parametrize(
    "headers",
    [
        STRUCTURED,
        (("content-type", b"application/cloudevents+json"),),
        (("Content-Type", b"Application/CloudEvents+JSON"),),
        (("contentType", b'"application/cloudevents+json"'),),  # as Spring writes text
        (("content-type", b"application/cloudevents"),),
        (("traceparent", b"00-1"), *STRUCTURED),
        (*BINARY, *STRUCTURED),  # a structured record may have the headers of binary mode, too
        (),  # many producers leave the header out
        (("traceparent", b"00-1"),),
    ],
)
def test_a_structured_event_has_its_data_as_payload_and_all_else_as_attributes(headers: Headers) -> None:
    value = {**REQUIRED, "time": "2026-11-22T17:31:00Z", "tenant": "north", "level": 5, "data": {"a": 1}}
    attributes = {**REQUIRED, "time": "2026-11-22T17:31:00Z", "tenant": "north", "level": 5}
    assert only(value, headers) == Event({"a": 1}, 0, attributes)


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "CE_"])
def test_a_binary_event_has_the_value_as_payload_and_the_headers_as_attributes(prefix: str) -> None:
    headers: Headers = tuple((f"{prefix}{name}", value.encode()) for name, value in REQUIRED.items())
    headers += ((f"{prefix}tenant", "nörd".encode()), (f"{prefix}unset", None), JSON_TYPE, ("x-other", b"\xff"))
    attributes = {**REQUIRED, "tenant": "nörd", "datacontenttype": "application/json"}
    assert only({"a": 1}, headers) == Event({"a": 1}, 0, attributes)


def test_of_two_headers_with_one_name_the_last_counts() -> None:
    assert (only({}, (*BINARY, ("ce_id", b"e-2"))).attributes or {})["id"] == "e-2"


def test_a_batch_holds_numbered_events() -> None:
    value = [{**REQUIRED, "id": str(number), "data": {"n": number}} for number in range(3)]
    for headers in (BATCH, ()):
        events = choice.auto(record(value, headers))
        assert [event.number for event in events] == [0, 1, 2]
        assert [event.payload for event in events] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert [(event.attributes or {})["id"] for event in events] == ["0", "1", "2"]


def test_an_empty_batch_holds_no_event() -> None:
    assert choice.auto(record([], BATCH)) == ()


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ({"type": "x"}, ()),
        ({"type": "x"}, (JSON_TYPE,)),
        ({"type": "x"}, (("content-type", None),)),
        ({"type": "x"}, (("ce_tenant", b"north"), ("ce_", b""))),  # none of the four that every CloudEvent has
        ({"specversion": "1.0", "type": "x"}, ()),
        ({**REQUIRED, "specversion": "0.3"}, ()),
        ({**REQUIRED, "specversion": 1.0}, ()),
        ({**REQUIRED, "id": 5}, ()),
    ],
)
def test_what_does_not_say_that_it_is_a_cloudevent_is_a_plain_event(value: Any, headers: Headers) -> None:
    assert only(value, headers) == Event(value)


# Attributes


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_cloudevent_without_a_required_attribute_is_undecodable(name: str, value: str | None) -> None:
    rest = {key: text for key, text in REQUIRED.items() if key != name}
    document = rest if value == "absent" else {**rest, name: value}
    assert undecodable(document, STRUCTURED) == ("missing_attribute", f"the CloudEvent has no {name}")
    headers: Headers = tuple((f"ce_{key}", text.encode()) for key, text in rest.items())
    if value != "absent":
        headers += ((f"ce_{name}", None if value is None else value.encode()),)
    assert undecodable({}, headers) == ("missing_attribute", f"the CloudEvent has no {name}")


@pytest.mark.parametrize(
    ("value", "headers", "reason", "text"),
    [
        ({**REQUIRED, "id": 5}, STRUCTURED, "bad_attribute", "the CloudEvent's id is not text"),
        ({**REQUIRED, "type": ["secret"]}, STRUCTURED, "bad_attribute", "the CloudEvent's type is not text"),
        ({}, (*BINARY, ("ce_x", b"secret\xff")), "bad_attribute", "a header of the CloudEvent is not UTF-8 text"),
        ({}, (*BINARY, ("ce_x", b"secret\0")), "bad_attribute", "a header of the CloudEvent holds a NUL character"),
        (
            {**REQUIRED, "specversion": "0.3"},
            STRUCTURED,
            "unknown_specversion",
            "the CloudEvent is not of version 1.0",
        ),
        ({}, (*BINARY, ("ce_specversion", b"2.0")), "unknown_specversion", "the CloudEvent is not of version 1.0"),
        (
            [REQUIRED, {"specversion": "1.0"}],
            BATCH,
            "missing_attribute",
            "the CloudEvent has no id (event 1 of the batch, from 0)",
        ),
        ([REQUIRED, "secret"], BATCH, "not_an_object", "the value is a text, not a JSON object"),
        ([REQUIRED], STRUCTURED, "not_an_object", "the value is a list, not a JSON object"),
        (REQUIRED, BATCH, "bad_data", "the content-type header says batch, and the value is not a list"),
        ([{"secret": 1}], (), "not_an_object", "the value is a list, not a JSON object"),
        (b"{", STRUCTURED, "truncated_json", "the JSON ends too early, after 1 characters"),
        (b"", STRUCTURED, "empty_value", "the value is empty (a tombstone would be null)"),
    ],
)
def test_a_bad_cloudevent_is_undecodable_with_a_stable_reason(
    value: Any, headers: Headers, reason: str, text: str
) -> None:
    assert undecodable(value, headers) == (reason, text)


@pytest.mark.parametrize("kind", ["+avro", "+protobuf", "+xml", "-batch+avro", "x+json"])
def test_an_event_format_other_than_json_is_undecodable(kind: str) -> None:
    headers = (("content-type", f"application/cloudevents{kind}".encode()),)
    text = "the content-type header names an event format other than JSON"
    assert undecodable({}, headers) == ("unknown_format", text)


@pytest.mark.parametrize(
    "extension", [{"traceparent": "00-1"}, {"With_Odd-Name": 1}, {"n": 1.5}, {"b": True}, {"o": {"a": [1]}}]
)
def test_extensions_are_taken_as_they_are(extension: dict[str, Any]) -> None:
    assert only({**REQUIRED, **extension}).attributes == {**REQUIRED, **extension}


def test_a_null_attribute_is_unset() -> None:
    assert only({**REQUIRED, "subject": None}).attributes == REQUIRED


# Data


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize(
    ("more", "payload"),
    [
        ({}, {}),
        ({"data": None}, {}),
        ({"data": {"a": {"b": [1, 2.0]}}}, {"a": {"b": [1, 2.0]}}),
        ({"data": [1, 2]}, {"data": [1, 2]}),
        ({"data": 5}, {"data": 5}),
        ({"data": False}, {"data": False}),
        ({"data": '{"a": 1}'}, {"data": '{"a": 1}'}),  # text stays text, says the JSON format, 3.1.2
        ({"datacontenttype": "application/xml", "data": "<a/>"}, {"data": "<a/>"}),
        ({"data_base64": ""}, {}),
        ({"data_base64": encoded(b'{"a": 1}')}, {"a": 1}),
        ({"data_base64": encoded(b"[1]")}, {"data": [1]}),
        ({"data_base64": encoded(b"\xff\x00")}, {"data_base64": encoded(b"\xff\x00")}),
        ({"data_base64": encoded(b'{"a": 1}'), "datacontenttype": "application/vnd.x+json"}, {"a": 1}),
        ({"data_base64": encoded(b"<a/>"), "datacontenttype": "text/xml; charset=utf-8"}, {"data": "<a/>"}),
        ({"data_base64": encoded(b"{}"), "datacontenttype": "application/avro"}, {"data_base64": encoded(b"{}")}),
        # Debezium's CloudEvents converter with schemas
        ({"data": {"schema": {"type": "struct"}, "payload": {"op": "c"}}}, {"op": "c"}),
        ({"data": {"schema": {"type": "struct"}, "payload": None}}, {}),
    ],
)
def test_data_becomes_the_payload(more: dict[str, Any], payload: dict[str, Any]) -> None:
    assert only({**REQUIRED, **more}, STRUCTURED).payload == payload


@pytest.mark.parametrize(
    ("content_type", "value", "payload"),
    [
        (None, b'{"a": 1}', {"a": 1}),
        (b"application/json", b'"just text"', {"data": "just text"}),
        (b"application/json; charset=utf-8", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b"text/json", b"[1]", {"data": [1]}),
        (b"application/vnd.acme+json", b'{"a": 1}', {"a": 1}),
        (b"text/plain", "grün".encode(), {"data": "grün"}),
        (b"application/xml", b"<a/>", {"data": "<a/>"}),
        (b"application/soap+xml", b"<a/>", {"data": "<a/>"}),
        (b"application/avro", b"\0\1", {"data_base64": "AAE="}),
        (b"application/json", b"", {}),
        (b"application/json", None, {}),
    ],
)
def test_data_of_a_binary_event_is_read_by_its_media_type(
    content_type: bytes | None, value: bytes | None, payload: dict[str, Any]
) -> None:
    assert only(value, (*BINARY, ("content-type", content_type))).payload == payload


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        ({**REQUIRED, "data": 1, "data_base64": "AAE="}, (), "bad_data"),
        ({**REQUIRED, "data_base64": "secret!"}, (), "bad_data"),
        ({**REQUIRED, "data_base64": "sécret"}, (), "bad_data"),
        ({**REQUIRED, "data_base64": ["secret"]}, (), "bad_data"),
        ({**REQUIRED, "data_base64": encoded(b"{"), "datacontenttype": "application/json"}, (), "truncated_json"),
        (b"secret", (*BINARY, JSON_TYPE), "invalid_json"),
        (b"secret", BINARY, "invalid_json"),
        (b"\xff", (*BINARY, ("content-type", b"text/plain")), "invalid_utf8"),
        (b'{"a": NaN}', (*BINARY, JSON_TYPE), "not_a_number"),
    ],
)
def test_data_that_is_not_what_it_says_is_undecodable(value: Any, headers: Headers, reason: str) -> None:
    assert undecodable(value, headers)[0] == reason


def test_a_record_without_value_is_an_event_without_data_in_binary_mode_and_else_a_tombstone() -> None:
    assert only(None, BINARY) == Event({}, 0, REQUIRED)
    for headers in ((), STRUCTURED, BATCH):
        assert choice.auto(record(None, headers)) == ()
        assert cloudevents.decode(record(None, headers)) == ()


# With `format: cloudevents`


def test_with_its_format_each_mode_is_read_as_without() -> None:
    decode = choice.DECODERS[Format.CLOUDEVENTS]
    for value, headers in (
        ({**REQUIRED, "data": {"a": 1}}, STRUCTURED), ({**REQUIRED, "data": {"a": 1}}, ()),
        ({"a": 1}, (*BINARY, JSON_TYPE)), ([REQUIRED, REQUIRED], BATCH), ([REQUIRED, REQUIRED], ()),
    ):  # fmt: skip
        assert decode(record(value, headers)) == choice.auto(record(value, headers))


@pytest.mark.parametrize(
    ("value", "reason"),
    [({"type": "x"}, "missing_attribute"), ([{"type": "x"}], "missing_attribute"), (5, "not_an_object")],
)
def test_with_its_format_what_is_no_cloudevent_is_undecodable(value: Any, reason: str) -> None:
    with pytest.raises(Undecodable) as error:
        cloudevents.decode(record(value))
    assert error.value.reason == reason


# The second opinion: the SDK writes, and both read


attribute_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)
extensions = st.dictionaries(st.from_regex(r"x[a-z0-9]{1,8}", fullmatch=True), attribute_texts, max_size=3)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({"id": attribute_texts, "source": attribute_texts, "type": attribute_texts}),
    extensions,
    st.dictionaries(st.text("abc", max_size=3), json_values, max_size=4),
    st.booleans(),
)
def test_what_the_sdk_writes_reads_as_the_sdk_reads_it(
    required: dict[str, str], more: dict[str, str], data: dict[str, Any], is_binary: bool
) -> None:
    written = CloudEvent(attributes={**required, **more, "datacontenttype": "application/json"}, data=data)
    message = sdk.to_binary_event(written) if is_binary else sdk.to_structured_event(written)
    event = only(message.value, tuple(message.headers.items()))
    opinion = sdk.from_kafka_event(message)
    told = {name: value for name, value in opinion.get_attributes().items() if name != "time"}
    assert {name: value for name, value in (event.attributes or {}).items() if name != "time"} == told
    assert event.payload == (opinion.get_data() or {})


def test_data_in_base64_that_the_sdk_writes_reads_as_the_same_bytes() -> None:
    attributes = {"type": "t", "source": "/s", "datacontenttype": "application/octet-stream"}
    message = sdk.to_structured_event(CloudEvent(attributes=attributes, data=b"\x00\xff"))
    assert only(message.value, tuple(message.headers.items())).payload == {"data_base64": "AP8="}


def test_why_the_sdk_does_not_read_for_us() -> None:
    """Each line is a reason of the module's docstring; when one of them no longer holds, look at the SDK again."""
    no_id = sdk.KafkaMessage({"ce_type": b"t", "ce_source": b"/s", "ce_specversion": b"1.0"}, None, b"{}")
    assert sdk.from_kafka_event(no_id).get_id() != sdk.from_kafka_event(no_id).get_id()
    both = sdk.KafkaMessage(
        {"content-type": b"application/cloudevents+json", "ce_type": b"t", "ce_source": b"/s"},
        None,
        json.dumps({**REQUIRED, "data": {"a": 1}}).encode(),
    )
    assert sdk.from_kafka_event(both).get_data() != {"a": 1}
    with pytest.raises(UnicodeDecodeError):
        sdk.from_kafka_event(sdk.KafkaMessage(dict(BINARY), b"\xff", b"{}"))
    broken = sdk.KafkaMessage({**dict(BINARY), "content-type": b"application/json"}, None, b"{")
    assert sdk.from_kafka_event(broken).get_data() == "{"


# Anything at all

header_names = st.sampled_from(["content-type", "ce_id", "ce_type", "ce_source", "ce_specversion", "ce_x", "other"])
header_values = st.none() | st.binary(max_size=5) | st.sampled_from(
    [b"1.0", b"x", b"application/json", *(value for _, value in (*STRUCTURED, *BATCH))]
)  # fmt: skip
documents = st.dictionaries(
    st.sampled_from([*REQUIRED, "data", "data_base64", "datacontenttype", "schema", "payload"]),
    st.sampled_from(["1.0", "x", "", "application/json", "text/plain", "e30=", 1, None, [], {}, {"type": "x"}]),
)


@given(
    st.binary(max_size=20).map(lambda value: value or None)
    | (documents | st.lists(documents, max_size=2)).map(lambda value: json.dumps(value).encode()),
    st.lists(st.tuples(header_names, header_values), max_size=6),
    st.sampled_from(Format),
)
def test_any_record_in_any_format_is_events_or_undecodable(
    value: bytes | None, headers: list[tuple[str, bytes | None]], wanted: Format
) -> None:
    events: tuple[Event, ...] = ()
    with contextlib.suppress(Undecodable):  # both ends are right, and anything else fails the test
        events = choice.DECODERS[wanted](record(value, tuple(headers)))
    assert [event.number for event in events] == list(range(len(events)))
    assert all(isinstance(event.payload, dict) for event in events)
    assert all(event.attributes is None or event.attributes["type"] for event in events)
