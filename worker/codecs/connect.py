"""What stands in Kafka Connect's JSON envelope? Debezium's change events, with it and without it. Pure.

Connect's JSON converter with `schemas.enable` (its default) writes `{"schema": {"type": ...}, "payload": ...}`. The
payload is the event, and the schema, the greater part of the bytes, is left out. Recognized by its shape: these two
keys and no other, and a schema that has a `type`, or is null, as it is for data without one. A payload of null is a
tombstone: there is no event.

A change event is read as it stands: `event.op` (c create, u update, d delete, r read in a snapshot, t truncate,
m message), `event.before`, `event.after`, `event.source`. Heartbeats, transaction markers and schema changes have no
`source.table`, and thereby no type: they are filtered.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.codecs.json import not_an_object, parse
from worker.model import Event, Json, Record


def is_envelope(document: Mapping[str, Json]) -> bool:
    """Tell whether an object is Connect's envelope around the event."""
    if len(document) != 2 or "payload" not in document or "schema" not in document:
        return False
    schema = document["schema"]
    return schema is None or (type(schema) is dict and "type" in schema)


def unwrapped(document: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """Return the event in an envelope; None for a tombstone. Raises Undecodable."""
    payload = document["payload"]
    if payload is None or type(payload) is dict:
        return payload
    raise not_an_object(payload)


def decode(record: Record) -> tuple[Event, ...]:
    """Return the event of a record that Kafka Connect wrote; none for a tombstone. Raises Undecodable."""
    if record.value is None:
        return ()
    document = parse(record.value)
    if document is None:
        return ()  # what the JSON converter writes for a null
    if type(document) is not dict:
        raise not_an_object(document)
    payload = unwrapped(document) if is_envelope(document) else document
    return () if payload is None else (Event(payload),)
