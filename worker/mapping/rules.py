"""What does the rules file say, and what is wrong with it? Pure but for reading the file.

All problems are found at once, each with line and column, and none of them starts the worker. The format is the one of
the README: `version`, `event` or `sources` (where events say their type, id and time; see `sources`), `rules`.

Decided here: `max_age` is one number and one unit (`90s`, `15m`, `24h`, `7d`). `on` and `topics` take one text or a
list. `on_cap` is allowed for every method, as the table of codes decides what a cap is; `on_stale` needs `max_age`.
A rule's name has no "/", as it is a part of a call's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from worker.errors import Refused
from worker.mapping.document import Entry, Fields, Items, Node, Place, Scalar, Source, parse, read
from worker.mapping.reading import Reader
from worker.mapping.rule_reader import RuleReader
from worker.mapping.ruleset import EventSource, Rule, RuleSet, digest_of
from worker.mapping.sources import SourceReader
from worker.mapping.templates import Literal

_ROOT_KEYS: Final = ("version", "event", "sources", "rules")
_NAME: Final = re.compile(r"\w[\w .:-]{0,99}")


def load(path: Path, *, sites: Collection[str], topics: Collection[str]) -> RuleSet:
    """Read a rules file. Raises Refused with all its problems; warnings are in the result."""
    source, root = read(path, str(path))
    return _finish(source, root, sites, topics)


def loads(text: str, *, file: str, sites: Collection[str], topics: Collection[str]) -> RuleSet:
    """Read rules from text, for tests and for rules that are no file; see `load`."""
    source, root = parse(file, text)
    return _finish(source, root, sites, topics)


def _finish(source: Source, root: Node | None, sites: Collection[str], topics: Collection[str]) -> RuleSet:
    found = None if root is None else _FileReader(source, tuple(sites), tuple(topics)).rule_set(root)
    problems = sorted(source.problems, key=lambda problem: (problem.line, problem.column))
    if found is None or any(problem.severity == "error" for problem in problems):
        raise Refused(problems)
    sources, rules = found
    return RuleSet(rules, sources, digest_of(sources, rules), tuple(problems), source)


class _FileReader:
    """Reads one file."""

    def __init__(self, source: Source, sites: tuple[str, ...], topics: tuple[str, ...]) -> None:
        self._reader = Reader(source)
        self._sites = sites
        self._topics = topics
        self._error = source.error
        self._warn = source.warn

    def rule_set(self, root: Node) -> tuple[tuple[EventSource, ...], tuple[Rule, ...]] | None:
        if not isinstance(root, Fields):
            self._error(root.place, "the file is not a mapping", 'start with "version: 1" and "rules:"')
            return None
        keys = self._reader.keys(root, _ROOT_KEYS, "the file")
        self._version(root, keys.get("version"))
        sources = SourceReader(self._reader, self._topics).sources(keys.get("event"), keys.get("sources"))
        rules: list[Rule] = []
        if (entry := keys.get("rules")) is None:
            self._error(root.place, '"rules" is missing', "add rules:, a list of rules")
        elif not isinstance(entry.value, Items):
            self._reader.wrong_kind(entry.value, "rules", "a list", 'start each rule with "- name:"')
        else:
            rules = self._rules(entry.value, sources or ())
        return (sources, tuple(rules)) if sources is not None else None

    def _version(self, root: Fields, entry: Entry | None) -> None:
        if entry is None:
            self._error(root.place, '"version" is missing', "add version: 1 as the first line")
        elif not isinstance(entry.value, Scalar) or entry.value.value is True or entry.value.value != 1:
            self._error(entry.value.place, "this worker reads version 1 of the format", "write version: 1")

    def _rules(self, items: Items, sources: tuple[EventSource, ...]) -> list[Rule]:
        rules: list[Rule] = []
        seen: dict[str, Place] = {}
        for position, node in enumerate(items.values, 1):
            if not isinstance(node, Fields):
                self._reader.wrong_kind(node, f"rule {position}", "a mapping", 'a rule starts with "- name:"')
                continue
            name = self._name(node, position, seen)
            rule = RuleReader(self._reader, node, name, self._sites, self._topics, sources).rule()
            if rule is not None:
                rules.append(rule)
        if not items.values:
            self._warn(items.place, "there is no rule: every event is filtered")
        self._distinct_values(rules)
        return rules

    def _name(self, node: Fields, position: int, seen: dict[str, Place]) -> str:
        entry = node.get("name")
        if entry is None:
            self._error(
                node.place, f"rule {position} has no name", "add name:, unique in the file; calls are named by it"
            )
            return f"rule {position}"
        name = self._reader.text(entry, f"the name of rule {position}")
        if name is None:
            return f"rule {position}"
        if not _NAME.fullmatch(name):
            self._error(
                entry.value.place,
                f"the name of rule {position} is not usable",
                'use up to 100 letters, digits, "-", "_"',
            )
        elif (first := seen.setdefault(name, entry.value.place)) is not entry.value.place:
            self._error(entry.value.place, f'a second rule "{name}"; the first is in line {first.line}', "rename one")
        return name

    def _distinct_values(self, rules: list[Rule]) -> None:
        seen: dict[tuple[str, str], set[str]] = {}
        for rule in rules:
            for name, template in rule.templates:
                parameter = rule.method.parameter(name)
                limit = parameter.max_distinct if parameter else 0
                if not limit or not isinstance(template, Literal) or not rule.enabled:
                    continue
                values = seen.setdefault((rule.method.name, name), set())
                if str(template.value) in values:
                    continue
                values.add(str(template.value))
                entry = rule.parameters.get(name)
                if len(values) == limit + 1 and entry is not None:
                    self._warn(
                        entry.value.place,
                        f"{rule.method.name} should see at most {limit} different values of {name}; this is one more",
                        "use fewer; Gigya's reports do not tell more apart",
                    )
