"""What the rules file says when it is right: digest, warnings, defaults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.errors import Refused
from worker.mapping import rules
from worker.mapping.document import Scalar, parse
from worker.mapping.ruleset import RuleSet
from worker.model import OutcomeKind

Load = Callable[..., RuleSet]

TEXT = """
version: 1
rules:
  - name: a
    on: [x, y]
    when: event.n > 1
    notifyAction: {UID: '${ event.uid }', action: act}
    max_age: 24h
"""


@pytest.mark.parametrize(
    "other",
    [
        TEXT + "# a comment\n",
        TEXT.replace("[x, y]", "[y, x]"),
        TEXT.replace("24h", "1d"),
        TEXT.replace("{UID: '${ event.uid }', action: act}", '{action: "act", UID: "${ event.uid }"}'),
        TEXT + "    on_cap: skip\n    on_stale: skip\n    enabled: true\n    site: main\n",
        TEXT + "    examples: [{event: {type: z}, calls: []}]\n",
        TEXT + "  - {name: off, on: x, enabled: false, notifyAction: {UID: u, action: b}}\n",
        TEXT.replace("rules:", "event: {type: event.type}\nrules:"),
    ],
)
def test_the_digest_stays_when_the_rules_do_the_same(load: Load, other: str) -> None:
    assert load(other).digest == load(TEXT).digest


@pytest.mark.parametrize(
    "other",
    [
        TEXT.replace("[x, y]", "[x]"),
        TEXT.replace("> 1", "> 2"),
        TEXT.replace("24h", "23h"),
        TEXT.replace("act}", "act2}"),
        TEXT.replace("name: a", "name: b"),
        TEXT + "    on_cap: dead_letter\n",
        TEXT + "    on_stale: dead_letter\n",
        TEXT + "    topics: user-events\n",
        TEXT + "  - {name: more, on: x, notifyAction: {UID: u, action: b}}\n",
        TEXT.replace("rules:", "event: {type: event.kind}\nrules:"),
        TEXT.replace("rules:", "event: {id: event.key}\nrules:"),
    ],
)
def test_the_digest_changes_when_the_rules_do_something_else(load: Load, other: str) -> None:
    assert load(other).digest != load(TEXT).digest


def test_what_a_rule_does_not_say_has_a_default(load: Load) -> None:
    (rule,) = load("version: 1\nrules: [{name: a, notifyAction: {UID: u, action: b}}]").rules
    assert (rule.topics, rule.on, rule.when, rule.max_age_s) == (None, None, None, None)
    assert (rule.site, rule.enabled, rule.dead_letter_on) == ("main", True, frozenset())


def test_on_cap_and_on_stale_say_which_ends_are_dead_letters(load: Load) -> None:
    (rule,) = load(TEXT + "    on_cap: dead_letter\n    on_stale: dead_letter\n").rules
    assert rule.dead_letter_on == {OutcomeKind.CAPPED, OutcomeKind.STALE}


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (TEXT, []),
        ("version: 1\nrules: []\n", ["rules.yaml:2:8: there is no rule: every event is filtered"]),
        (
            "version: 1\nrules:\n  - {name: a, notifyAction: {UID: u, action: b}}\n",
            [
                'rules.yaml:3:5: rule "a" has no on: it makes a call for every event; '
                "add on: with the event types it wants"
            ],
        ),
        (
            "version: 1\nrules:\n  - {name: a, when: event.b, notifyAction: {UID: u, action: b}}\n",
            [
                'rules.yaml:3:5: rule "a" has no on: it evaluates its when for every event; one without the fields it '
                "names becomes a dead letter; add on: with the event types it wants"
            ],
        ),
        (
            TEXT.replace("event.n > 1", "false"),
            ['rules.yaml:4:5: rule "a" can never fire: its when is false; use enabled: false'],
        ),
        ("version: 1\nrules:\n  - {name: a, enabled: false, notifyAction: {UID: u, action: b}}\n", []),
    ],
)
def test_what_is_allowed_and_probably_not_meant_is_a_warning(load: Load, text: str, warnings: list[str]) -> None:
    assert [str(warning) for warning in load(text).warnings] == warnings


def test_more_than_a_hundred_different_cids_are_a_warning_once(load: Load) -> None:
    lines = [
        f"  - {{name: r{number}, on: x, publishUserAction: {{UID: u, userAction: {{title: t}}, cid: c{number}}}}}\n"
        for number in range(102)
    ]
    text = "version: 1\nrules:\n" + "".join(lines)
    (warning,) = load(text).warnings
    assert (warning.line, warning.severity) == (103, "warn")
    assert "at most 100 different values of cid" in warning.what
    assert load("version: 1\nrules:\n" + "".join(lines[:100])).warnings == ()


def test_anchors_aliases_and_merge_keys_work(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - &first
        name: one
        on: &types [x, y]
        notifyAction: &call {UID: u, action: a}
      - <<: *first
        name: two
      - name: three
        on: *types
        notifyAction: {<<: *call, action: b}
    """)
    assert [rule.name for rule in ruleset.rules] == ["one", "two", "three"]
    assert all(rule.on == {"x", "y"} for rule in ruleset.rules)
    assert ruleset.rules[2].parameters.json() == {"action": "b", "UID": "u"}


def test_on_is_a_key_and_not_a_bool_in_any_yaml(load: Load) -> None:
    for head in ("", "%YAML 1.1\n---\n"):
        assert load(head + TEXT.replace("[x, y]", "[x]")).rules[0].on == {"x"}


@pytest.mark.parametrize(
    ("text", "offset", "place"),
    [
        ("a: event.x", 6, (1, 10)),
        ("a: 'it''s x'", 5, (1, 11)),
        ('a: "\\"q\\" x"', 4, (1, 11)),
        ("a: |\n  one\n  two", 4, (3, 3)),
        ("a: >- # why\n  one\n  two", 4, (3, 3)),
        ("a: one\n   two", 4, (2, 4)),
        ("a: x", 1, (1, 5)),
    ],
)
def test_a_place_inside_a_value_is_found_in_the_file(text: str, offset: int, place: tuple[int, int]) -> None:
    source, root = parse("f", text)
    node = root.get("a").value  # type: ignore[union-attr]
    assert isinstance(node, Scalar)
    assert source.place_in(node, offset) == place


def test_a_refusal_is_one_line_for_each_problem() -> None:
    with pytest.raises(Refused) as refused:
        rules.loads("version: 3\nrulez: []\n", file="r.yaml", sites=["main"], topics=["t"])
    assert len(str(refused.value).split("\n")) == len(refused.value.problems) == 3
