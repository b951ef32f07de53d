"""What is a JSON record's event? Pure.

Decided for everything a value can be (each line is tested):

* no value (a tombstone): no event, the record is filtered;
* zero bytes or only white space: `empty_value`. Only null is Kafka's tombstone; an empty text is a producer's mistake;
* an object: one event. A duplicate key: the last one wins. `10.0` stays a double, `10` an integer;
* a scalar or a list: `not_an_object`. An event has fields;
* invalid UTF-8, UTF-16, UTF-32: `invalid_utf8`. A UTF-8 byte order mark in front is skipped (RFC 8259, section 8.1);
* an escaped lone surrogate: `lone_surrogate`. No text can hold it, so it could neither be mapped nor sent;
* `NaN`, `Infinity`: `not_a_number`; a number beyond what a double holds (1e400): `number_too_large`;
* an integer beyond 64 bits: the nearest double, as in JavaScript. A rule that uses it is refused there (mapping), since
  it would send another number than the producer wrote; an event that nobody wants stays harmless;
* more than 1,024 levels: `too_deep`;
* a document that stops too early: `truncated_json`; something after it: `trailing_data`; else `invalid_json`;
* a huge document: as large as Kafka lets through; the cost is linear (10 MB: some 40 ms).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from worker.errors import Undecodable
from worker.model import Event, Json, Record

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

# What orjson (3.x) says, part of the text -> our reason and words. Its texts name places and kinds, never content.
_REASONS: Final = (
    ("not valid UTF-8", "invalid_utf8", "the value is not UTF-8 text"),
    ("surrogate", "lone_surrogate", "half of a surrogate pair is escaped"),
    ("depth limit", "too_deep", "more than 1,024 levels are nested"),
    ("is infinity", "number_too_large", "a number is beyond what a double holds"),
    ("unexpected end of data", "truncated_json", "the JSON ends too early"),
    ("after document", "trailing_data", "something follows the JSON document"),
)
_NOT_NUMBERS: Final = (b"NaN", b"Infinity", b"-Infinity", b"-NaN")


def decode(record: Record) -> tuple[Event, ...]:
    """Return the record's event; nothing for a tombstone. Raises Undecodable, whose text never shows the value."""
    value = record.value
    if value is None:
        return ()
    try:
        payload = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        payload = second_look(value, error)
    if type(payload) is not dict:
        raise not_an_object(payload)
    return (Event(payload),)


def parse(value: bytes) -> Json:
    """Return the JSON document; any kind of value. Raises Undecodable."""
    try:
        document: Json = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return second_look(value, error)
    return document


def not_an_object(value: Json) -> Undecodable:
    return Undecodable("not_an_object", f"the value is {_kind(value)}, not a JSON object")


def second_look(value: bytes, error: orjson.JSONDecodeError) -> Json:
    """Decode what orjson refuses and we accept: a byte order mark. Otherwise raises Undecodable."""
    bare = value.removeprefix(_BYTE_ORDER_MARK)
    if not bare.strip():
        raise Undecodable("empty_value", "the value is empty (a tombstone would be null)") from error
    if len(bare) == len(value):
        raise _undecodable(value, error) from error
    try:
        payload: Json = orjson.loads(bare)
    except orjson.JSONDecodeError as second:
        raise _undecodable(bare, second) from second
    return payload


def _undecodable(value: bytes, error: orjson.JSONDecodeError) -> Undecodable:
    if value[:1] == b"\0":
        return Undecodable(
            "invalid_json",
            "the value starts with byte 0, as Avro and Protobuf framed for a schema registry do; JSON is expected",
        )
    for part, reason, text in _REASONS:
        if part in error.msg:
            place = {"invalid_utf8": "", "truncated_json": f", after {error.pos} characters"}
            return Undecodable(reason, text + place.get(reason, f" at character {error.pos + 1}"))
    # orjson counts characters, so the bytes are turned into text first; they are UTF-8, or orjson had said so.
    rest = value.decode("utf-8", "replace")[error.pos : error.pos + 9].encode()
    if rest.startswith(_NOT_NUMBERS):
        return Undecodable("not_a_number", f"NaN and Infinity are not JSON (character {error.pos + 1})")
    return Undecodable("invalid_json", f"the value is not JSON from character {error.pos + 1} on")


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a bool"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case Mapping():
            return "an object"
        case _:
            return "a list"
