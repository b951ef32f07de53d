"""Which codec reads a record? Pure.

`auto` looks at each record: a CloudEvent by its headers or its shape (see `cloudevents`), Kafka Connect's envelope by
its shape (see `connect`), else plain JSON. It is the default, since one topic may hold all of them, and a plain event
costs it some 50 ns more. The other formats are for whoever wants less read into the records, or less accepted:

* `json`: the JSON object as it stands is the event, whatever it looks like;
* `cloudevents`: what is none is a dead letter;
* `debezium`: Connect's envelope is taken off, and type and time have Debezium's places as defaults (see mapping).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import orjson

from worker.codecs import cloudevents, connect, json
from worker.model import Event, Json, Record

Decode = Callable[[Record], tuple[Event, ...]]


# Header names that make a record worth a closer look: in the spellings that are met, so that a plain record costs one
# look-up for each header. What is written in another way is no sign of a CloudEvent.
_SIGNS_OF_TYPE: Final = frozenset(
    {"content-type", "Content-Type", "Content-type", "CONTENT-TYPE", "contentType", "contenttype", "ContentType"}
)
_SIGNS: Final = _SIGNS_OF_TYPE | {
    f"{prefix}{name}" for prefix in ("ce_", "ce-", "CE_", "CE-", "Ce_", "Ce-") for name in cloudevents.REQUIRED
}


class Format(StrEnum):
    """What a source's records are."""

    AUTO = "auto"
    JSON = "json"
    CLOUDEVENTS = "cloudevents"
    DEBEZIUM = "debezium"


def auto(record: Record) -> tuple[Event, ...]:
    """Return the record's events, whatever of the formats it has. Raises Undecodable."""
    headers = record.headers
    if headers:
        for name, header in headers:
            if name in _SIGNS and (name not in _SIGNS_OF_TYPE or b"cloudevents" in (header or b"").lower()):
                mode = cloudevents.mode_of(headers)
                if mode is not None:
                    return cloudevents.read(record, mode)
                break
    value = record.value
    if value is None:
        return ()
    try:
        payload = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        payload = json.second_look(value, error)
    # Written out here, for nearly every record ends in the next four lines.
    if type(payload) is dict:
        if "specversion" not in payload and len(payload) != 2:
            return (Event(payload),)
        return _enveloped(payload)
    if type(payload) is list and payload and cloudevents.is_one(payload[0]):
        return cloudevents.batch(payload)
    raise json.not_an_object(payload)


def _enveloped(document: dict[str, Json]) -> tuple[Event, ...]:
    if cloudevents.is_one(document):
        return (cloudevents.structured(document),)
    payload = connect.unwrapped(document) if connect.is_envelope(document) else document
    return () if payload is None else (Event(payload),)


DECODERS: Final[Mapping[Format, Decode]] = {
    Format.AUTO: auto,
    Format.JSON: json.decode,
    Format.CLOUDEVENTS: cloudevents.decode,
    Format.DEBEZIUM: connect.decode,
}


def decoder(by_topic: Mapping[str, Format], otherwise: Format = Format.AUTO) -> Decode:
    """Return the function that reads the records of all topics; `otherwise` is for topics that are not named."""
    if all(one is otherwise for one in by_topic.values()):
        return DECODERS[otherwise]
    decoders = {topic: DECODERS[one] for topic, one in by_topic.items()}
    default = DECODERS[otherwise]

    def decode(record: Record) -> tuple[Event, ...]:
        return decoders.get(record.topic, default)(record)

    return decode
