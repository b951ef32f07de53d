"""What is an event's type, id and time? Read where its source says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.mapping import times
from worker.mapping.expressions import Expression, Failed
from worker.mapping.ruleset import EventFields, EventSource
from worker.mapping.scan import walk
from worker.mapping.view import View
from worker.model import Event, Json, Record, place

TypeOf = Callable[[Record, Event], str | None]


class Untimely(Exception):
    """An event's time cannot be told. The text is safe to log."""


def fields_of(source: EventSource, event: Event) -> EventFields:
    return source.plain if event.attributes is None else source.cloudevent


def type_reader(source: EventSource) -> TypeOf:
    """Return the function that reads an event's type; a plain path of the payload is read without any detour."""
    of_plain, of_cloudevent = _any_reader(source.plain.type), _any_reader(source.cloudevent.type)
    paths = [expression.path for expression in source.plain.type]
    if len(paths) == 1 and (path := paths[0]) is not None and path.root == "event" and len(path.keys) == 1:
        key = path.keys[0]

        def read_key(record: Record, event: Event) -> str | None:
            if event.attributes is not None:
                return of_cloudevent(record, event)
            value = event.payload.get(key)
            return value if isinstance(value, str) else None

        return read_key
    if source.plain.type == source.cloudevent.type:
        return of_plain

    def read_either(record: Record, event: Event) -> str | None:
        return of_plain(record, event) if event.attributes is None else of_cloudevent(record, event)

    return read_either


def _any_reader(expressions: Sequence[Expression]) -> TypeOf:
    readers = [_reader(expression) for expression in expressions]
    if len(readers) == 1:
        return readers[0]

    def read_first(record: Record, event: Event) -> str | None:
        for read in readers:
            found = read(record, event)
            if found is not None:
                return found
        return None

    return read_first


def _reader(expression: Expression) -> TypeOf:
    path = expression.path
    if path is None or path.root == "kafka":

        def evaluated(record: Record, event: Event) -> str | None:
            try:
                value = View(record, event).read(expression)
            except Failed:
                return None
            return value if isinstance(value, str) else None

        return evaluated
    keys, is_payload = path.keys, path.root == "event"

    def read_path(record: Record, event: Event) -> str | None:
        depth, value = walk(event.payload if is_payload else event.attributes, keys)
        return value if depth == len(keys) and isinstance(value, str) else None

    return read_path


def event_id(fields: EventFields, view: View) -> str:
    """Return the event's id: text, or a whole number; without one the record's place, so that each can be traced."""
    for expression in fields.id:
        try:
            value = view.read(expression)
        except Failed:
            continue
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    number = view.event.number
    return f"{place(view.record)}/{number}" if number else place(view.record)


def time_s(fields: EventFields, view: View) -> float:
    """Return when the event happened, in Unix seconds; where it says nothing, Kafka's timestamp. Raises Untimely."""
    for expression in fields.time:
        value = _said(expression, view)
        if value is None:
            continue
        seconds = times.unix_s(value)
        if seconds is None:
            raise Untimely(f"{expression.source} is not a time")
        return seconds
    if view.record.timestamp >= 0:
        return view.record.timestamp / 1000
    raise Untimely("the record has no time")


def _said(expression: Expression, view: View) -> Json:
    try:
        value = view.read(expression)
    except Failed as error:
        if error.reason == "missing_field":
            return None
        raise Untimely(f"{expression.source}: {error.text}") from error
    # No event happened in 1970: zero is how some connectors write that they do not know.
    return None if value == 0 and not isinstance(value, bool) else value
