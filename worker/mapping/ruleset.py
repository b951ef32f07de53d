"""What is a rule, once it is read? Values only. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    max_age_s: int | None = None
    dead_letter_on: frozenset[OutcomeKind] = frozenset()
    enabled: bool = True
    examples: tuple[Example, ...] = ()

    def canonical(self) -> Json:
        """Return what the rule does, whatever way it was written."""
        return {
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


@dataclass(frozen=True, slots=True)
class EventFields:
    """Where an event says what it is."""

    type: Expression
    id: Expression
    time: Expression


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A rules file that can be right. `digest` is the same as long as the enabled rules do the same."""

    rules: tuple[Rule, ...]
    event: EventFields
    digest: str
    warnings: tuple[Problem, ...]
    source: Source = field(repr=False, compare=False)

    @property
    def enabled(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.enabled)


def digest_of(event: EventFields, rules: Sequence[Rule]) -> str:
    """Return the SHA-256 of what a rules file does: no comments, format, examples, or rules that are switched off."""
    content: Json = {
        "version": 1,
        "event": [event.type.source, event.id.source, event.time.source],
        "rules": [rule.canonical() for rule in rules if rule.enabled],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
