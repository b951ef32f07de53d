"""What do the examples of a rule say? Pure."""

from __future__ import annotations

from typing import Final

from worker.mapping import times
from worker.mapping.document import Entry, Fields, Items, Node, Scalar
from worker.mapping.reading import Reader
from worker.mapping.ruleset import Example, ExpectedCall

_EXAMPLE_KEYS: Final = ("name", "topic", "event", "calls", "now", "key", "headers")


class ExampleReader:
    """Reads the examples of one rule. `topics` are those that the rule reads."""

    def __init__(self, reader: Reader, rule: str, topics: tuple[str, ...]) -> None:
        self._reader = reader
        self._source = reader.source
        self._rule = rule
        self._topics = topics

    def examples(self, entry: Entry) -> tuple[Example, ...]:
        if not isinstance(entry.value, Items):
            self._reader.wrong_kind(entry.value, f"{self._rule}: examples", "a list", "start each example with -")
            return ()
        found = (self._example(node, number) for number, node in enumerate(entry.value.values, 1))
        return tuple(example for example in found if example is not None)

    def _example(self, node: Node, number: int) -> Example | None:
        what = f"{self._rule}, example {number}"
        if not isinstance(node, Fields):
            self._reader.wrong_kind(node, what, "a mapping", "it has event and calls")
            return None
        keys = self._reader.keys(node, _EXAMPLE_KEYS, what)
        name = self._reader.optional_text(keys.get("name"), f"{what}, name") or str(number)
        event, calls = keys.get("event"), self._expected(node, keys.get("calls"), what)
        if event is None:
            self._source.error(node.place, f"{what} has no event", "add event: with the payload")
        elif isinstance(event.value, Scalar) and event.value.value is not None:
            self._reader.wrong_kind(event.value, f"{what}: event", "a mapping", "an event has fields")
        if event is None or calls is None:
            return None
        return Example(
            name=name, place=node.place, topic=self._topic(keys.get("topic"), what),
            event=event.value.json(), calls=calls, calls_place=keys["calls"].place,
            now_s=self._now_s(keys.get("now"), what), key=self._reader.optional_text(keys.get("key"), f"{what}, key"),
            headers=self._headers(keys.get("headers"), what),
        )  # fmt: skip

    def _expected(self, node: Fields, entry: Entry | None, what: str) -> tuple[ExpectedCall, ...] | None:
        if entry is None:
            self._source.error(node.place, f"{what} has no calls", "add calls:, a list; [] when none is expected")
            return None
        if not isinstance(entry.value, Items):
            self._reader.wrong_kind(entry.value, f"{what}: calls", "a list", "write [] or - UID: ...")
            return None
        calls: list[ExpectedCall] = []
        for child in entry.value.values:
            if isinstance(child, Fields):
                calls.append(ExpectedCall({one.key: one.value.json() for one in child.entries}, child.place))
            else:
                self._reader.wrong_kind(child, f"{what}: a call", "a mapping", "list its parameters")
        return tuple(calls)

    def _topic(self, entry: Entry | None, what: str) -> str:
        if entry is None:
            return self._topics[0] if self._topics else "example"
        topic = self._reader.text(entry, f"{what}, topic") or ""
        if topic:
            problem = f'{what}: topic "{topic[:60]}" is not one that the rule reads'
            self._reader.is_known(topic, entry.value.place, self._topics, problem)
        return topic

    def _now_s(self, entry: Entry | None, what: str) -> float | None:
        if entry is None:
            return None
        now_s = times.unix_s(entry.value.value) if isinstance(entry.value, Scalar) else None
        if now_s is None:
            self._source.error(entry.value.place, f"{what}: now is not a time", "write it as 2026-11-22T10:00:00Z")
        return now_s

    def _headers(self, entry: Entry | None, what: str) -> tuple[tuple[str, str], ...]:
        if entry is None:
            return ()
        if not isinstance(entry.value, Fields):
            self._reader.wrong_kind(entry.value, f"{what}: headers", "a mapping", "write name: text")
            return ()
        return tuple(
            (one.key, self._reader.optional_text(one, f"{what}, header {one.key}") or "") for one in entry.value.entries
        )
