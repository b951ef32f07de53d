"""What are a record's CloudEvents? Version 1.0: structured, binary and batch, in JSON. Pure.

The data is the event's payload (`event` in rules), the other attributes, extensions included, are `ce`.

How a record says that it is one (Kafka protocol binding 1.0, section 3):

* the header `content-type` starts with `application/cloudevents`: *structured*, or *batch* with
  `application/cloudevents-batch`. It wins over `ce_` headers, which a structured record may have, too (3.3.3). JSON is
  the one event format that is read; another one, such as `+avro`, is `unknown_format`;
* a header `ce_specversion`, `ce_id`, `ce_source` or `ce_type`: *binary*. `ce-`, as HTTP writes it, is understood, and
  the names' case does not matter;
* no header, and a JSON object with `specversion` 1.x, `id`, `source` and `type` as text, or a list that starts with
  one: structured or batch, as many producers leave the header out, and a rule shall not depend on that.

Decided (each line is tested):

* one of the four required attributes missing, null or empty: `missing_attribute`; another kind than text, header bytes
  that are no UTF-8, a NUL: `bad_attribute`; a `specversion` other than 1.x: `unknown_specversion`. Null attributes are
  unset (JSON format, 2.2). Names and kinds of extensions are not judged, and neither is `time`, which matters only
  where a rule has a `max_age`;
* data that is a JSON object is the payload; other JSON (a list, a text, a number) and text of a media type that is
  not JSON are read as `event.data`; bytes that are neither as `event.data_base64`. No data: an event without fields.
  Without `datacontenttype`, data is JSON; `data_base64` without it is whatever it turns out to be;
* data that is declared as JSON and is none has the reason the JSON codec gives; `data_base64` that is no base64, or
  stands beside `data`: `bad_data`;
* a record without a value: in binary mode an event without data (3.2.2 says so; its type tells what it means), in the
  others a tombstone. An empty batch holds no event. One bad event makes its whole batch undecodable.

The package `cloudevents` (2.2) writes the records of this module's tests and reads them once more as a second opinion.
Its reader is not used here: it takes 15 times as long; it makes up a random `id` and the present as `time` where they
are missing, so that a replayed record would be another event; it takes a structured record with `ce_` headers for a
binary one, adds the Kafka key as an attribute (and fails for a key that is no UTF-8), fails for a null header, passes
broken JSON as text, and knows no batches.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from worker.codecs import connect
from worker.codecs.json import not_an_object, parse
from worker.errors import Undecodable
from worker.model import Event, Json, Record

Headers = Sequence[tuple[str, bytes | None]]

REQUIRED: Final = ("specversion", "id", "source", "type")
_PREFIXES: Final = ("ce_", "ce-")
_CONTENT_TYPES: Final = ("content-type", "contenttype")
_MEDIA_TYPE: Final = "application/cloudevents"
_BATCH: Final = "application/cloudevents-batch"


class Mode(Enum):
    """How a CloudEvent travels in a record."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"


def mode_of(headers: Headers) -> Mode | None:
    """Return what the headers say of the record; None where they say nothing of CloudEvents. Raises Undecodable."""
    is_binary = False
    media_type = ""
    for name, value in headers:
        lower = name.lower()
        if lower in _CONTENT_TYPES:
            media_type = _media_type((value or b"").decode("utf-8", "replace"))
        elif lower.startswith(_PREFIXES) and lower[3:] in REQUIRED:
            is_binary = True
    if not media_type.startswith(_MEDIA_TYPE):
        return Mode.BINARY if is_binary else None
    kind, _, event_format = media_type.partition("+")
    if kind not in (_MEDIA_TYPE, _BATCH) or event_format not in ("", "json"):
        raise Undecodable("unknown_format", "the content-type header names an event format other than JSON")
    return Mode.BATCH if kind == _BATCH else Mode.STRUCTURED


def decode(record: Record) -> tuple[Event, ...]:
    """Return the events of a record that must hold CloudEvents, whatever its headers say. Raises Undecodable."""
    mode = mode_of(record.headers)
    if mode is not None:
        return read(record, mode)
    if record.value is None:
        return ()
    document = parse(record.value)
    return batch(document) if type(document) is list else (_structured(document, 0),)


def read(record: Record, mode: Mode) -> tuple[Event, ...]:
    """Return the events of a record whose headers say how it is to be read. Raises Undecodable."""
    if mode is Mode.BINARY:
        return (_binary(record),)
    if record.value is None:
        return ()
    document = parse(record.value)
    return batch(document) if mode is Mode.BATCH else (_structured(document, 0),)


def is_one(document: Json) -> bool:
    """Tell whether a JSON document is a CloudEvent though no header says so."""
    if type(document) is not dict or any(type(document.get(name)) is not str for name in REQUIRED):
        return False
    version: str = document["specversion"]
    return version.startswith("1.")


def structured(document: Mapping[str, Json], number: int = 0) -> Event:
    """Return the event of a JSON object in structured form. Raises Undecodable."""
    attributes = {
        name: value
        for name, value in document.items()
        if value is not None and name != "data" and name != "data_base64"
    }
    _check(attributes, number)
    return Event(_data(document, attributes), number, attributes)


def batch(document: Json) -> tuple[Event, ...]:
    """Return the events of a JSON list of CloudEvents. Raises Undecodable."""
    if type(document) is not list:
        raise Undecodable("bad_data", "the content-type header says batch, and the value is not a list")
    return tuple(_structured(item, number) for number, item in enumerate(document))


def _structured(document: Json, number: int) -> Event:
    if type(document) is not dict:
        raise not_an_object(document)
    return structured(document, number)


def _binary(record: Record) -> Event:
    attributes: dict[str, Json] = {}
    for name, value in record.headers:
        lower = name.lower()
        if value is None:
            continue
        if lower.startswith(_PREFIXES):
            attributes[lower[3:]] = _text(value)
        elif lower in _CONTENT_TYPES:
            attributes["datacontenttype"] = _text(value)
    _check(attributes, 0)
    content_type = attributes.get("datacontenttype")
    payload = _payload(record.value, content_type) if record.value else {}
    return Event(payload, 0, attributes)


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise Undecodable("bad_attribute", "a header of the CloudEvent is not UTF-8 text") from error
    if "\0" in text:
        raise Undecodable("bad_attribute", "a header of the CloudEvent holds a NUL character")
    return text


def _check(attributes: Mapping[str, Json], number: int) -> None:
    for name in REQUIRED:
        value = attributes.get(name)
        if type(value) is str and value:
            continue
        which = f" (event {number} of the batch, from 0)" if number else ""
        if value is None or value == "":
            raise Undecodable("missing_attribute", f"the CloudEvent has no {name}{which}")
        raise Undecodable("bad_attribute", f"the CloudEvent's {name} is not text{which}")
    version = attributes["specversion"]
    if not (isinstance(version, str) and version.startswith("1.")):
        raise Undecodable("unknown_specversion", "the CloudEvent is not of version 1.0")


# Data


def _data(document: Mapping[str, Json], attributes: Mapping[str, Json]) -> Mapping[str, Json]:
    data, encoded = document.get("data"), document.get("data_base64")
    if encoded is None:
        return _as_payload(data)
    if data is not None:
        raise Undecodable("bad_data", "the CloudEvent has both data and data_base64")
    try:
        value = base64.b64decode(encoded.encode() if isinstance(encoded, str) else b"!", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Undecodable("bad_data", "data_base64 is not base64 text") from error
    if not value:
        return {}
    content_type = attributes.get("datacontenttype")
    if content_type is not None:
        return _payload(value, content_type)
    try:
        return _as_payload(parse(value))
    except Undecodable:
        return {"data_base64": encoded}


def _payload(value: bytes, content_type: Json) -> Mapping[str, Json]:
    media_type = _media_type(content_type) if isinstance(content_type, str) else ""
    main, _, sub = media_type.partition("/")
    if not media_type or sub == "json" or sub.endswith("+json"):
        return _as_payload(parse(value))
    if main == "text" or sub == "xml" or sub.endswith("+xml"):
        try:
            return {"data": value.decode()}
        except UnicodeDecodeError as error:
            raise Undecodable("invalid_utf8", "the CloudEvent's data is not UTF-8 text") from error
    return {"data_base64": base64.b64encode(value).decode()}


def _as_payload(data: Json) -> Mapping[str, Json]:
    if data is None:
        return {}
    if type(data) is dict:
        row = connect.unwrapped(data) if connect.is_envelope(data) else data
        return {} if row is None else row
    return {"data": data}


def _media_type(text: str) -> str:
    # Spring writes header values as JSON, in quotes.
    return text.split(";")[0].strip().strip('"').lower()
