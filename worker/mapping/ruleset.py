"""What is a rule, once it is read? Values only. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.codecs.choice import Format
from worker.errors import Problem
from worker.gigya.calls import Method
from worker.mapping.document import Fields, Place, Source
from worker.mapping.expressions import Expression
from worker.mapping.templates import Part, Template
from worker.model import Json, OutcomeKind


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """The call an example expects: business parameters as the user wrote them."""

    values: Mapping[str, Json]
    place: Place


@dataclass(frozen=True, slots=True)
class Example:
    """An event and the calls that its rule shall make for it. `now_s` is None unless the example sets a clock."""

    name: str
    place: Place
    topic: str
    event: Json
    calls: tuple[ExpectedCall, ...]
    calls_place: Place
    now_s: float | None = None
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the rules file. `topics` and `on` are None where the rule does not say: all of them."""

    name: str
    place: Place
    method: Method
    site: str
    topics: frozenset[str] | None
    on: frozenset[str] | None
    when: Expression | None
    when_place: Place
    parts: tuple[Part, ...]
    templates: tuple[tuple[str, Template], ...]  # parameter -> value
    parameters: Fields = field(repr=False)
    each: Expression | None = None  # a list of the event: the rule runs once per element
    max_age_s: int | None = None
    dead_letter_on: frozenset[OutcomeKind] = frozenset()
    enabled: bool = True
    examples: tuple[Example, ...] = ()

    def canonical(self) -> Json:
        """Return what the rule does, whatever way it was written."""
        what: dict[str, Json] = {
            "name": self.name,
            "method": self.method.name,
            "site": self.site,
            "topics": None if self.topics is None else sorted(self.topics),
            "on": None if self.on is None else sorted(self.on),
            "when": None if self.when is None else self.when.source,
            "parameters": self.parameters.json(),
            "max_age_s": self.max_age_s,
            "dead_letter_on": sorted(self.dead_letter_on),
        }
        if self.each is not None:
            what["each"] = self.each.source
        return what


@dataclass(frozen=True, slots=True)
class EventFields:
    """Where an event says what it is: places that are looked at in turn, until one has something."""

    type: tuple[Expression, ...]
    id: tuple[Expression, ...]
    time: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class EventSource:
    """What the events of some topics look like. `topics` is None where the file has `event:`, for all of them."""

    name: str
    topics: frozenset[str] | None
    format: Format
    plain: EventFields
    cloudevent: EventFields
    written: tuple[str, str, str]  # type, id and time as the file says them, or the defaults

    def canonical(self) -> Json:
        """Return what the source does; its name is for people."""
        topics = None if self.topics is None else sorted(self.topics)
        return [topics, self.format.value, *self.written]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A rules file that can be right. `digest` is the same as long as the enabled rules do the same."""

    rules: tuple[Rule, ...]
    sources: tuple[EventSource, ...]
    digest: str
    warnings: tuple[Problem, ...]
    source: Source = field(repr=False, compare=False)  # the file's text

    @property
    def enabled(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.enabled)

    def formats(self) -> tuple[Mapping[str, Format], Format]:
        """Return the formats of the topics that the file names, and the one of all others."""
        by_topic = {topic: one.format for one in self.sources for topic in one.topics or ()}
        otherwise = next((one.format for one in self.sources if one.topics is None), Format.AUTO)
        return by_topic, otherwise


def digest_of(sources: Sequence[EventSource], rules: Sequence[Rule]) -> str:
    """Return the SHA-256 of what a rules file does: no comments, format, examples, or rules that are switched off."""
    content: Json = {
        "version": 1,
        "sources": sorted((source.canonical() for source in sources), key=str),
        "rules": [rule.canonical() for rule in rules if rule.enabled],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
