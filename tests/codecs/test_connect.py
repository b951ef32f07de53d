"""What Kafka Connect's envelope holds, and what only looks like one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.codecs import choice
from worker.codecs.choice import Format, decoder
from worker.errors import Undecodable
from worker.model import Event, KafkaRecord

SCHEMA = {"type": "struct", "optional": False, "name": "s.public.orders.Envelope", "fields": []}
CHANGE: dict[str, Any] = {
    "before": None,
    "after": {"id": 1},
    "source": {"connector": "postgresql", "table": "orders", "ts_ms": 1},
    "op": "c",
}


def record(value: Any, topic: str = "t") -> KafkaRecord:
    return KafkaRecord(topic, 0, 0, value if value is None or isinstance(value, bytes) else json.dumps(value).encode())


@pytest.mark.parametrize("wanted", [Format.AUTO, Format.DEBEZIUM])
@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (CHANGE, CHANGE),
        ({"schema": SCHEMA, "payload": CHANGE}, CHANGE),
        ({"schema": None, "payload": CHANGE}, CHANGE),
        ({"payload": CHANGE, "schema": {"type": "struct"}}, CHANGE),
        ({**CHANGE, "op": "d", "after": None}, {**CHANGE, "op": "d", "after": None}),
        ({"ts_ms": 1}, {"ts_ms": 1}),  # a heartbeat
        # Not Connect's: these are plain events that happen to have such fields.
        ({"schema": "iglu:a/1", "payload": {"a": 1}}, {"schema": "iglu:a/1", "payload": {"a": 1}}),
        ({"schema": {"v": 1}, "payload": {"a": 1}}, {"schema": {"v": 1}, "payload": {"a": 1}}),
        ({"schema": SCHEMA, "payload": {"a": 1}, "type": "x"}, {"schema": SCHEMA, "payload": {"a": 1}, "type": "x"}),
        ({"payload": {"a": 1}, "type": "x"}, {"payload": {"a": 1}, "type": "x"}),
        ({"payload": {"a": 1}}, {"payload": {"a": 1}}),
    ],
)  # fmt: skip
def test_the_payload_of_an_envelope_is_the_event(wanted: Format, value: Any, payload: Any) -> None:
    assert choice.DECODERS[wanted](record(value)) == (Event(payload),)


@pytest.mark.parametrize("wanted", [Format.AUTO, Format.DEBEZIUM])
@pytest.mark.parametrize("value", [None, {"schema": SCHEMA, "payload": None}, {"schema": None, "payload": None}])
def test_a_tombstone_with_or_without_envelope_is_no_event(wanted: Format, value: Any) -> None:
    assert choice.DECODERS[wanted](record(value)) == ()


def test_a_null_without_envelope_is_a_tombstone_where_connect_is_known_to_write() -> None:
    assert choice.DECODERS[Format.DEBEZIUM](record(b"null")) == ()
    with pytest.raises(Undecodable):
        choice.auto(record(b"null"))


@pytest.mark.parametrize("wanted", [Format.AUTO, Format.DEBEZIUM])
@pytest.mark.parametrize("payload", ["text", 5, [1]])
def test_an_envelope_around_something_that_is_no_object_is_undecodable(wanted: Format, payload: Any) -> None:
    with pytest.raises(Undecodable) as error:
        choice.DECODERS[wanted](record({"schema": {"type": "string"}, "payload": payload}))
    assert error.value.reason == "not_an_object"


def test_as_json_an_envelope_stays_what_it_is() -> None:
    value = {"schema": SCHEMA, "payload": CHANGE}
    assert choice.DECODERS[Format.JSON](record(value)) == (Event(value),)
    cloudevent = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {}}
    assert choice.DECODERS[Format.JSON](record(cloudevent)) == (Event(cloudevent),)


def test_each_topic_is_read_in_its_format() -> None:
    decode = decoder({"a": Format.JSON, "b": Format.DEBEZIUM}, Format.AUTO)
    value = {"schema": SCHEMA, "payload": CHANGE}
    found = [decode(record(value, topic))[0].payload for topic in ("a", "b", "other")]
    assert found == [value, CHANGE, CHANGE]


def test_one_format_for_all_topics_costs_no_look_up() -> None:
    assert decoder({"a": Format.AUTO}, Format.AUTO) is choice.auto
    assert decoder({}, Format.JSON) is choice.DECODERS[Format.JSON]
