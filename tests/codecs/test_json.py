"""A table of what a record's value can be, each with its decided result."""

from __future__ import annotations

import contextlib
import json as standard_json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.codecs.json import decode
from worker.errors import Undecodable
from worker.model import Event, KafkaRecord


def record(value: bytes | None) -> KafkaRecord:
    return KafkaRecord("t", 0, 0, value)


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (b"{}", {}),
        (b' {"a": 1}\r\n\t ', {"a": 1}),
        (b'{"a": 10}', {"a": 10}),
        (b'{"a": 10.0}', {"a": 10.0}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": {"b": 1}, "a": {"c": 2}}', {"a": {"c": 2}}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a": -9223372036854775808}', {"a": -(2**63)}),
        (b'{"a": 18446744073709551616}', {"a": 2.0**64}),
        (b'{"a": -9223372036854775809}', {"a": -(2.0**63)}),
        (b'{"a": 123456789012345678901234567890}', {"a": 1.2345678901234568e29}),
        (b'{"a": 1e-400}', {"a": 0.0}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"": null}', {"": None}),
    ],
)
def test_an_object_is_one_event(value: bytes, payload: object) -> None:
    (event,) = decode(record(value))
    assert event == Event(payload)  # type: ignore[arg-type]
    assert standard_json.dumps(event.payload) == standard_json.dumps(payload)  # 10 and 10.0 are equal in Python


def test_a_tombstone_has_no_event() -> None:
    assert decode(record(None)) == ()


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        (b"", "empty_value", "the value is empty (a tombstone would be null)"),
        (b" \r\n\t", "empty_value", "the value is empty (a tombstone would be null)"),
        (b"null", "not_an_object", "the value is null, not a JSON object"),
        (b"true", "not_an_object", "the value is a bool, not a JSON object"),
        (b"42", "not_an_object", "the value is a number, not a JSON object"),
        (b"4.2", "not_an_object", "the value is a number, not a JSON object"),
        (b'"secret"', "not_an_object", "the value is a text, not a JSON object"),
        (b'[{"a": 1}]', "not_an_object", "the value is a list, not a JSON object"),
        (b"\xef\xbb\xbf[]", "not_an_object", "the value is a list, not a JSON object"),
        (b"\xef\xbb\xbf", "empty_value", "the value is empty (a tombstone would be null)"),
        (b'\xef\xbb\xbf{"a', "truncated_json", "the JSON ends too early, after 3 characters"),
        (b'{"secret": "\xff"}', "invalid_utf8", "the value is not UTF-8 text"),
        (b'{"secret": "\xed\xa0\x80"}', "invalid_utf8", "the value is not UTF-8 text"),
        ('{"secret": 1}'.encode("utf-16"), "invalid_utf8", "the value is not UTF-8 text"),
        (b'{"secret": "\\ud800"}', "lone_surrogate", "half of a surrogate pair is escaped at character 13"),
        (b'{"secret": "\\udc00x"}', "lone_surrogate", "half of a surrogate pair is escaped at character 13"),
        (b'{"secret": NaN}', "not_a_number", "NaN and Infinity are not JSON (character 12)"),
        ('{"é": -Infinity}'.encode(), "not_a_number", "NaN and Infinity are not JSON (character 8)"),
        (b'{"a": Infinity}', "not_a_number", "NaN and Infinity are not JSON (character 7)"),
        (b'{"secret": 1e400}', "number_too_large", "a number is beyond what a double holds at character 12"),
        (b'{"type": "episode.wat', "truncated_json", "the JSON ends too early, after 21 characters"),
        (b"{", "truncated_json", "the JSON ends too early, after 1 characters"),
        (b'{"a": 1} secret', "trailing_data", "something follows the JSON document at character 10"),
        (b'{"a": 1}{"a": 2}', "trailing_data", "something follows the JSON document at character 9"),
        (b"{'secret': 1}", "invalid_json", "the value is not JSON from character 2 on"),
        (b"secret", "invalid_json", "the value is not JSON from character 1 on"),
        (b'{"a": 01}', "invalid_json", "the value is not JSON from character 7 on"),
        (b'{"a": 1,}', "invalid_json", "the value is not JSON from character 8 on"),
        (b"<secret/>", "invalid_json", "the value is not JSON from character 1 on"),
        (
            b"\x00\x00\x00\x00\x07secret",
            "invalid_json",
            "the value starts with byte 0, as Avro and Protobuf framed for a schema registry do; JSON is expected",
        ),
        (b"[" * 2000 + b"]" * 2000, "too_deep", "more than 1,024 levels are nested at character 1026"),
    ],
)
def test_what_is_no_event_is_undecodable_with_a_stable_reason(value: bytes, reason: str, text: str) -> None:
    with pytest.raises(Undecodable) as undecodable:
        decode(record(value))
    assert (undecodable.value.reason, undecodable.value.text) == (reason, text)
    assert "secret" not in str(undecodable.value)


def test_a_thousand_levels_are_still_an_event() -> None:
    assert len(decode(record(b'{"a":' * 1000 + b"1" + b"}" * 1000))) == 1


def test_a_huge_document_is_an_event() -> None:
    value = b'{"a": [' + b",".join(b'"%d"' % number for number in range(1_000_000)) + b"]}"
    assert len(value) > 8_000_000
    assert len(decode(record(value))) == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_undecodable(value: bytes) -> None:
    # pytest.raises would ask for an error; here both ends are right, and anything else fails the test.
    with contextlib.suppress(Undecodable):
        assert len(decode(record(value))) == 1


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(), max_size=5))
def test_any_prefix_of_an_event_is_undecodable_and_hides_its_text(payload: dict[str, object]) -> None:
    whole = standard_json.dumps({**payload, "marker": "0123456789abcdef"}).encode()
    for end in range(1, len(whole)):
        with pytest.raises(Undecodable) as undecodable:
            decode(record(whole[:end]))
        assert "0123456789" not in str(undecodable.value)
