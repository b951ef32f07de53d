"""Where do events say what they are, topic by topic? Pure. See `rules` for the file around it.

`event:` says it for all topics, `sources:` for each kind of topic by itself; every topic that is subscribed to is then
in exactly one source. `format` chooses the codec (`codecs.choice`). What is not said has a default:

| format | type | id | time |
| --- | --- | --- | --- |
| auto, json | event.type | event.id | event.time |
| a CloudEvent, also under auto | ce.type | ce.id | ce.time |
| debezium | event.source.table, else .collection | the record's place | event.source.ts_ms, else event.ts_ms |

A default that is written out means the same as one that is not: a file that says `type: event.type` reads the
CloudEvents of a topic by their own type. The data's field is read with `event['type']`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker.codecs.choice import Format
from worker.mapping.document import Entry, Fields, Node, Place, Scalar
from worker.mapping.expressions import Expression, compile_expression
from worker.mapping.reading import Reader
from worker.mapping.ruleset import EventFields, EventSource

_FIELDS: Final = ("type", "id", "time")
_EVENT_KEYS: Final = (*_FIELDS, "format")
_SOURCE_KEYS: Final = ("topics", *_EVENT_KEYS)

_PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "type": ("event.type",), "id": ("event.id",), "time": ("event.time",)
}  # fmt: skip
_CLOUDEVENT: Final[Mapping[str, tuple[str, ...]]] = {"type": ("ce.type",), "id": ("ce.id",), "time": ("ce.time",)}
_DEFAULTS: Final[Mapping[Format, Mapping[str, tuple[str, ...]]]] = {
    Format.AUTO: _PLAIN,
    Format.JSON: _PLAIN,
    Format.CLOUDEVENTS: _CLOUDEVENT,
    Format.DEBEZIUM: {
        "type": ("event.source.table", "event.source.collection"),
        "id": (),
        "time": ("event.source.ts_ms", "event.ts_ms"),
    },
}


class SourceReader:
    """Reads `event:` or `sources:`. `topics` are those of the settings."""

    def __init__(self, reader: Reader, topics: tuple[str, ...]) -> None:
        self._reader = reader
        self._error = reader.source.error
        self._topics = topics

    def sources(self, event: Entry | None, sources: Entry | None) -> tuple[EventSource, ...] | None:
        """Return the sources; None where they cannot be told."""
        if sources is None:
            one = self._event(event)
            return None if one is None else (one,)
        if event is not None:
            self._error(event.place, "event and sources exclude each other", "move what event says into a source")
        return self._map(sources)

    def _event(self, entry: Entry | None) -> EventSource | None:
        if entry is None:
            return self._source("event", None, {})
        if not isinstance(entry.value, Fields):
            self._reader.wrong_kind(entry.value, "event", "a mapping", "it has type, id and time")
            return None
        return self._source("event", None, self._reader.keys(entry.value, _EVENT_KEYS, "event"))

    def _map(self, entry: Entry) -> tuple[EventSource, ...] | None:
        node = entry.value
        remedy = "write name: {topics: [...], type: ...} for each kind of topic"
        if not isinstance(node, Fields):
            self._reader.wrong_kind(node, "sources", "a mapping", remedy)
            return None
        if not node.entries:
            self._error(node.place, "sources is empty", remedy)
            return None
        seen: dict[str, tuple[str, Place]] = {}
        found = [self._named(one.key, one.value, seen) for one in node.entries]
        missing = [topic for topic in self._topics if topic not in seen]
        if missing and None not in found:
            names = ", ".join(f'"{topic}"' for topic in missing)
            what = f"{names} of kafka.topics {'is' if len(missing) == 1 else 'are'} in no source"
            self._error(entry.place, what, "add every topic to the topics of one source")
        return tuple(source for source in found if source is not None)

    def _named(self, name: str, node: Node, seen: dict[str, tuple[str, Place]]) -> EventSource | None:
        what = f'source "{name[:60]}"'
        if not isinstance(node, Fields):
            self._reader.wrong_kind(node, what, "a mapping", "it has topics, type, id, time and format")
            return None
        keys = self._reader.keys(node, _SOURCE_KEYS, what)
        if (entry := keys.get("topics")) is None:
            self._error(node.place, f"{what} has no topics", "add topics: with those that look like this")
            return None
        topics: set[str] = set()
        for topic, place in self._reader.texts(entry, f"{what}, topics"):
            self._reader.is_known(topic, place, self._topics, f'{what}: topic "{topic[:60]}" is not among kafka.topics')
            first, first_place = seen.setdefault(topic, (name, place))
            if first_place is not place:
                where = "twice in this source" if first == name else f'also in source "{first[:60]}"'
                self._error(
                    place, f'{what}: topic "{topic[:60]}" is {where}, in line {first_place.line}', "keep one of them"
                )
            topics.add(topic)
        return self._source(what, frozenset(topics), keys, name)

    def _source(
        self, what: str, topics: frozenset[str] | None, keys: Mapping[str, Entry], name: str = ""
    ) -> EventSource | None:
        record_format = self._format(what, keys.get("format"))
        defaults = _DEFAULTS[record_format]
        plain: dict[str, tuple[Expression, ...]] = {}
        cloudevent: dict[str, tuple[Expression, ...]] = {}
        written: list[str] = []
        for key in _FIELDS:
            texts = defaults[key]
            if (entry := keys.get(key)) is not None:
                expression = self._reader.bare(entry, f"{what}.{key}" if what == "event" else f"{what}, {key}")
                if expression is None:
                    return None
                if (expression.source,) != _PLAIN[key]:
                    plain[key] = cloudevent[key] = (expression,)
                    written.append(expression.source)
                    continue
                texts = _CLOUDEVENT[key] if record_format is Format.CLOUDEVENTS else _PLAIN[key]
            plain[key] = tuple(compile_expression(text) for text in texts)
            cloudevent[key] = tuple(compile_expression(text) for text in _CLOUDEVENT[key])
            written.append(" else ".join(texts))
        kind, identity, time = written
        return EventSource(
            name, topics, record_format, EventFields(**plain), EventFields(**cloudevent), (kind, identity, time)
        )

    def _format(self, what: str, entry: Entry | None) -> Format:
        if entry is None:
            return Format.AUTO
        node = entry.value
        text = node.value if isinstance(node, Scalar) else None
        if isinstance(text, str) and text in {one.value for one in Format}:
            return Format(text)
        if self._reader.text(entry, f"{what}, format") is not None:
            problem = f"{what}: an unknown format"
            self._reader.is_known(str(text), node.place, tuple(one.value for one in Format), problem)
        return Format.AUTO
