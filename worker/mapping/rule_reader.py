"""What does one rule say? Pure. See `rules` for the file around it."""

from __future__ import annotations

from typing import Final

from worker.gigya.calls import METHODS, Method, ParameterError
from worker.mapping import times
from worker.mapping.document import Entry, Fields, Place, Scalar
from worker.mapping.example_reader import ExampleReader
from worker.mapping.expressions import Expression
from worker.mapping.reading import Reader, locate
from worker.mapping.ruleset import EventSource, Example, Rule
from worker.mapping.scan import ITEM
from worker.mapping.templates import Compiler, Template, outline
from worker.model import OutcomeKind

_RULE_KEYS: Final = (
    "name", "topics", "on", "each", "when", *METHODS, "max_age", "on_stale", "on_cap", "site", "enabled", "examples",
)  # fmt: skip


class RuleReader:
    """Reads one rule."""

    def __init__(
        self,
        reader: Reader,
        node: Fields,
        name: str,
        sites: tuple[str, ...],
        topics: tuple[str, ...],
        sources: tuple[EventSource, ...],
    ) -> None:
        self._reader = reader
        self._source = reader.source
        self._node = node
        self._name = name
        self._what = f'rule "{name}"'
        self._sites = sites
        self._topics = topics
        self._sources = sources
        self._keys = reader.keys(node, _RULE_KEYS, self._what)

    def rule(self) -> Rule | None:
        topics = self._rule_topics()
        on = self._keys.get("on")
        on_types = self._reader.texts(on, f"{self._what}, on") if on else None
        each = self._each()
        when, when_place = self._when()
        max_age_s = self._max_age_s()
        dead_letter_on = self._dead_letter_on()
        site = self._site()
        enabled = self._enabled()
        examples: tuple[Example, ...] = ()
        if (entry := self._keys.get("examples")) is not None:
            examples = ExampleReader(self._reader, self._what, tuple(topics or self._topics)).examples(entry)
        if enabled:
            self._warn_about_reach(on, when)
            self._warn_about_sources(topics, examples)
        call = self._call()
        if call is None or site is None:
            return None
        method, compiler, templates, parameters = call
        if each is not None:
            self._warn_about_items(each, when, compiler)
        return Rule(
            name=self._name, place=self._node.place, method=method, site=site,
            topics=None if topics is None else frozenset(topics),
            on=None if on_types is None else frozenset(text for text, _ in on_types),
            each=each, when=when, when_place=when_place,
            parts=tuple(compiler.parts), templates=templates, parameters=parameters,
            max_age_s=max_age_s, dead_letter_on=dead_letter_on, enabled=enabled, examples=examples,
        )  # fmt: skip

    def _warn_about_reach(self, on: Entry | None, when: Expression | None) -> None:
        if when is not None and when.source == "false":
            self._source.warn(self._node.place, f"{self._what} can never fire: its when is false", "use enabled: false")
        elif on is None:
            if when is None:
                what, remedy = "makes a call for every event", "add on: with the event types it wants"
            else:
                what = "evaluates its when for every event; one without the fields it names becomes a dead letter"
                remedy = "add on: with the event types it wants"
            self._source.warn(self._node.place, f"{self._what} has no on: it {what}", remedy)

    def _warn_about_sources(self, topics: list[str] | None, examples: tuple[Example, ...]) -> None:
        """Warn of a rule that reads several kinds of events, unless an example shows that it can with each of them."""
        read = [one for one in self._sources if one.topics and (topics is None or one.topics & set(topics))]
        shown = {example.topic for example in examples}
        if len(read) > 1 and not all(one.topics and one.topics & shown for one in read):
            names = ", ".join(one.name for one in read)
            entry = self._keys.get("topics")
            self._source.warn(
                self._node.place if entry is None else entry.place,
                f"{self._what} reads the topics of several sources ({names}), whose events may look different",
                "name the topics it means, or show with an example for each source (topic: ...) that it fits",
            )

    def _warn_about_items(self, each: Expression, when: Expression | None, compiler: Compiler) -> None:
        expressions = [part.expression for part in compiler.parts] + ([] if when is None else [when])
        if not any(ITEM in expression.fields.roots for expression in expressions) and not compiler.has_errors:
            self._source.warn(
                self._keys["each"].place,
                f"{self._what} makes the same call for every element of {each.source}: it never reads item",
                "use item, or remove each",
            )

    def _rule_topics(self) -> list[str] | None:
        if (entry := self._keys.get("topics")) is None:
            return None
        topics: list[str] = []
        for topic, place in self._reader.texts(entry, f"{self._what}, topics"):
            problem = f'{self._what}: topic "{topic[:60]}" is not among kafka.topics'
            self._reader.is_known(topic, place, self._topics, problem)
            topics.append(topic)
        return topics

    def _each(self) -> Expression | None:
        if (entry := self._keys.get("each")) is None:
            return None
        expression = self._reader.bare(entry, f"{self._what}, each")
        if expression is not None and not expression.kind.startswith(("LIST", "DYN")):
            self._source.error(
                entry.value.place,
                f"{self._what}, each: it gives {expression.kind.lower()}, not a list",
                "name a list of the event, such as event.items",
            )
        return expression

    def _when(self) -> tuple[Expression | None, Place]:
        if (entry := self._keys.get("when")) is None:
            return None, self._node.place
        expression = self._reader.bare(entry, f"{self._what}, when", with_item="each" in self._keys)
        if expression is not None and expression.kind not in ("BOOL", "DYN"):
            self._source.error(
                entry.value.place,
                f"{self._what}, when: it gives {expression.kind.lower()}, not true or false",
                'write a comparison, such as event.progress >= 0.9 or event.kind == "a"',
            )
        return expression, entry.value.place

    def _max_age_s(self) -> int | None:
        if (entry := self._keys.get("max_age")) is None:
            return None
        node = entry.value
        seconds = times.duration_s(node.text) if isinstance(node, Scalar) else None
        if seconds is None:
            self._source.error(
                node.place,
                f"{self._what}: max_age is not a duration",
                "write one number and one unit: 90s, 15m, 24h, 7d",
            )
        return seconds

    def _dead_letter_on(self) -> frozenset[OutcomeKind]:
        kinds: set[OutcomeKind] = set()
        for key, kind in (("on_stale", OutcomeKind.STALE), ("on_cap", OutcomeKind.CAPPED)):
            if (entry := self._keys.get(key)) is None:
                continue
            value = entry.value.value if isinstance(entry.value, Scalar) else None
            if value == "dead_letter":
                kinds.add(kind)
            elif value != "skip":
                self._source.error(
                    entry.value.place, f"{self._what}: {key} is neither skip nor dead_letter", "write one of them"
                )
        if (entry := self._keys.get("on_stale")) and "max_age" not in self._keys:
            self._source.error(
                entry.place, f"{self._what}: on_stale without max_age never happens", "add max_age, or remove on_stale"
            )
        return frozenset(kinds)

    def _site(self) -> str | None:
        entry = self._keys.get("site")
        if entry is not None:
            name = self._reader.text(entry, f"{self._what}, site")
            problem = f'{self._what}: site "{(name or "")[:60]}" is not among the sites of the settings'
            is_known = name is not None and self._reader.is_known(name, entry.value.place, self._sites, problem)
            return name if is_known else None
        if len(self._sites) == 1:
            return self._sites[0]
        self._source.error(
            self._node.place,
            f"{self._what} names no site",
            f"add site:, one of {', '.join(self._sites) or '(none is set)'}",
        )
        return None

    def _enabled(self) -> bool:
        entry = self._keys.get("enabled")
        if entry is None:
            return True
        if isinstance(entry.value, Scalar) and isinstance(entry.value.value, bool):
            return entry.value.value
        self._source.error(entry.value.place, f"{self._what}: enabled is neither true nor false", "write true or false")
        return True

    # The call

    def _call(self) -> tuple[Method, Compiler, tuple[tuple[str, Template], ...], Fields] | None:
        given = [self._keys[key] for key in METHODS if key in self._keys]
        if len(given) != 1:
            what = "makes no call" if not given else "makes two calls"
            remedy = f"add one of {', '.join(METHODS)}" if not given else "write two rules"
            self._source.error(given[1].place if given else self._node.place, f"{self._what} {what}", remedy)
        if not given:
            return None
        entry, method = given[0], METHODS[given[0].key]
        if not isinstance(entry.value, Fields):
            self._reader.wrong_kind(entry.value, f"{self._what}: {entry.key}", "a mapping", "list its parameters")
            return None
        compiler = Compiler(self._source, self._what, with_item="each" in self._keys)
        templates = tuple((one.key, compiler.compile(one.value, one.key)) for one in entry.value.entries)
        for error in method.check({name: outline(template) for name, template in templates}):
            self._parameter_error(method, entry, entry.value, error)
        return method, compiler, templates, entry.value

    def _parameter_error(self, method: Method, entry: Entry, fields: Fields, error: ParameterError) -> None:
        is_about_the_name = "unknown" in error.what or error.what == "is the worker's"
        place = locate(fields, error.parameter, of_key=is_about_the_name) or entry.place
        self._source.error(place, f"{self._what}: {method.rule_key}.{error.parameter} {error.what}", error.remedy)
