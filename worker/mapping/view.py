"""One event as expressions see it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.mapping.expressions import Activation, Expression, Failed, activation, evaluate, has_nul, read
from worker.mapping.scan import ITEM
from worker.model import Event, Json, Record


class Needs(NamedTuple):
    """What has to be handed to CEL: first-level fields of the event (None: all), and which of the other variables."""

    event_keys: frozenset[str] | None
    kafka: bool
    ce: bool
    item: bool


def needs_of(expressions: Sequence[Expression]) -> Needs:
    """Return what some expressions need together."""
    keys: frozenset[str] | None = frozenset()
    for expression in expressions:
        found = expression.fields.event_keys
        keys = None if keys is None or found is None else keys | found
    roots = {root for expression in expressions for root in expression.fields.roots}
    return Needs(keys, "kafka" in roots, "ce" in roots, ITEM in roots)


class View:
    """An event, and one element of its list where a rule has `each`.

    What is costly is made once, and only if somebody asks.
    """

    __slots__ = ("_activations", "_kafka", "_may_hold_nul", "event", "item", "record")

    def __init__(self, record: Record, event: Event, item: Json = None) -> None:
        self.record = record
        self.event = event
        self.item = item
        self._kafka: Mapping[str, Json] | None = None
        self._activations: dict[Needs, Activation] = {}
        self._may_hold_nul: bool | None = None

    def of_item(self, item: Json) -> View:
        """Return the view of the same event with another element."""
        view = View(self.record, self.event, item)
        view._kafka = self._kafka
        view._may_hold_nul = self._text_may_hold_nul()
        return view

    def variable(self, root: str) -> Json:
        if root == "event":
            return self.event.payload
        if root == ITEM:
            return self.item
        return self.kafka() if root == "kafka" else self.event.attributes or {}

    def variables(self) -> Mapping[str, Json]:
        return {root: self.variable(root) for root in ("event", "kafka", "ce", ITEM)}

    def kafka(self) -> Mapping[str, Json]:
        if self._kafka is None:
            record = self.record
            self._kafka = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "key": _text_or_null(record.key),
                "timestamp": record.timestamp if record.timestamp >= 0 else None,
                "headers": {name: _text_or_null(value) for name, value in record.headers},
            }
        return self._kafka

    def activation(self, needs: Needs) -> Activation:
        """Return the variables for CEL. Raises Failed for an event that CEL would misread."""
        found = self._activations.get(needs)
        if found is None:
            found = self._activations[needs] = self._activation(needs)
        return found

    def _activation(self, needs: Needs) -> Activation:
        payload, keys = self.event.payload, needs.event_keys
        wanted = payload if keys is None else {key: payload[key] for key in keys if key in payload}
        variables: dict[str, Json] = {"event": wanted}
        if needs.ce or self.event.attributes:
            variables["ce"] = self.event.attributes or {}
        if needs.item:
            variables[ITEM] = self.item
        if self._text_may_hold_nul() and has_nul(variables):
            raise Failed("bad_text", "the event holds a NUL character, at which an expression would cut the text")
        if needs.kafka:  # its texts with a NUL are null
            variables["kafka"] = self.kafka()
        return activation(variables)

    def _text_may_hold_nul(self) -> bool:
        """Look at the bytes first: that is cheap, and hardly any event has a NUL.

        What an envelope carries may be encoded once more (base64), so that the record's bytes do not show it.
        """
        if self._may_hold_nul is None:
            value = self.record.value or b""
            self._may_hold_nul = self.event.attributes is not None or b"\\u0000" in value or b"\0" in value
        return self._may_hold_nul

    def read(self, expression: Expression) -> Json:
        """Return what a bare expression gives. Raises Failed."""
        if expression.path is not None:
            return read(expression.path, self.variable(expression.path.root))
        return evaluate(expression, self.activation(needs_of([expression])))


def _text_or_null(value: bytes | None) -> str | None:
    if value is None or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
