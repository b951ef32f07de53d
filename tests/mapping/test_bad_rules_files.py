"""A table of rules files that cannot be right: each is refused with the place, what is wrong, and what to do."""

# ruff: noqa: E501  the texts stand as people see them, in one line
from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import Refused
from worker.mapping import rules

HEAD = "version: 1\nrules:\n  - name: a\n"
CALL = ("notifyAction:", "  UID: ${ event.uid }", "  action: act")


def rule(*lines: str, on: str = "on: [x]") -> str:
    """A file of one rule; line 4 is its `on`, the lines given follow from line 5, column 5."""
    return HEAD + "".join(f"    {line}\n" for line in (on, *lines))


def param(*lines: str) -> str:
    """A file of one notifyAction with further parameters from line 8, column 7."""
    return rule(*CALL, *(f"  {line}" for line in lines))


GOOD = rule(*CALL)
PUBLISH = ("publishUserAction:", "  UID: u", "  userAction: {title: t}")

# Six levels of ten aliases each: a million values in 400 characters.
ALIAS_BOMB = "version: 1\na: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)

# What it is, the file, line:column of the first error, its text.
BAD = [
    ("empty file", "", "1:1", 'the file is empty; start with "version: 1"'),
    ("only comments", "# nothing\n", "1:1", 'the file is empty; start with "version: 1"'),
    ("a list at the top", "- a\n", "1:1", 'the file is not a mapping; start with "version: 1" and "rules:"'),
    ("text at the top", "hello\n", "1:1", 'the file is not a mapping; start with "version: 1" and "rules:"'),
    ("no version", "rules: []\n", "1:1", '"version" is missing; add version: 1 as the first line'),
    (
        "another version",
        "version: 2\nrules: []\n",
        "1:10",
        "this worker reads version 1 of the format; write version: 1",
    ),
    (
        "version true",
        "version: true\nrules: []\n",
        "1:10",
        "this worker reads version 1 of the format; write version: 1",
    ),
    ("unknown top key", "version: 1\nrulez: []\n", "1:1", '"rules" is missing; add rules:, a list of rules'),
    (
        "rules is a mapping",
        "version: 1\nrules: {a: b}\n",
        "2:8",
        'rules is a mapping, not a list; start each rule with "- name:"',
    ),
    (
        "event is text",
        "version: 1\nevent: event.type\nrules: []\n",
        "2:8",
        "event is text, not a mapping; it has type, id and time",
    ),
    (
        "unknown event key",
        "version: 1\nevent: {typ: event.a}\nrules: []\n",
        "2:9",
        'event has an unknown key "typ"; did you mean "type"?',
    ),
    (
        "event type with ${ }",
        "version: 1\nevent:\n  type: ${ event.a }\nrules: []\n",
        "3:9",
        "event.type is CEL as it stands, without ${ }; remove ${ and }",
    ),
    (
        "event type bad cel",
        "version: 1\nevent:\n  type: event.a +\nrules: []\n",
        "3:18",
        "event.type: the expression ends too early",
    ),
    (
        "rule is text",
        "version: 1\nrules:\n  - hello\n",
        "3:5",
        'rule 1 is text, not a mapping; a rule starts with "- name:"',
    ),
    (
        "no name",
        "version: 1\nrules:\n  - on: [x]\n    notifyAction: {UID: u, action: a}\n",
        "3:5",
        "rule 1 has no name; add name:, unique in the file; calls are named by it",
    ),
    (
        "name is a number",
        "version: 1\nrules:\n  - name: 5\n    on: [x]\n    notifyAction: {UID: u, action: a}\n",
        "3:11",
        "the name of rule 1 is a number, not text; put quotes around it",
    ),
    (
        "name with a slash",
        "version: 1\nrules:\n  - name: a/b\n    on: [x]\n    notifyAction: {UID: u, action: a}\n",
        "3:11",
        'the name of rule 1 is not usable; use up to 100 letters, digits, "-", "_"',
    ),
    (
        "two rules with one name",
        GOOD + GOOD.split("rules:\n")[1],
        "8:11",
        'a second rule "a"; the first is in line 3; rename one',
    ),
    ("duplicate key", rule("on: [y]", *CALL), "5:5", '"on" is set twice, first in line 4; keep one of them'),
    (
        "unknown rule key",
        rule("whn: event.a == 1", *CALL),
        "5:5",
        'rule "a" has an unknown key "whn"; did you mean "when"?',
    ),
    (
        "no method",
        rule("when: event.a == 1"),
        "3:5",
        'rule "a" makes no call; add one of notifyAction, publishUserAction',
    ),
    (
        "two methods",
        rule(*CALL, "publishUserAction: {UID: u, userAction: {title: t}}"),
        "8:5",
        'rule "a" makes two calls; write two rules',
    ),
    (
        "method is text",
        rule("notifyAction: act"),
        "5:19",
        'rule "a": notifyAction is text, not a mapping; list its parameters',
    ),
    (
        "unknown parameter",
        param("pionts: 5"),
        "8:7",
        'rule "a": notifyAction.pionts is an unknown parameter of notifyAction; did you mean "points"?',
    ),
    (
        "worker's parameter",
        param("format: json"),
        "8:7",
        'rule "a": notifyAction.format is the worker\'s; a rule cannot set it',
    ),
    (
        "points not whole",
        param("points: 1.5"),
        "8:15",
        'rule "a": notifyAction.points 1.5 is not a whole number; the API takes whole numbers only; write ${ int(...) }',
    ),
    (
        "builtin action",
        rule("notifyAction:", "  UID: u", "  action: share"),
        "7:15",
        'rule "a": notifyAction.action "share" is refused; Gigya counts its built-in actions itself; notify custom actions, or _points',
    ),
    (
        "four attribute values",
        param("actionAttributes: {a: [1b, 2b], c: [d, e]}"),
        "8:25",
        'rule "a": notifyAction.actionAttributes has 4 values; at most 3 in total are allowed, over all keys together',
    ),
    (
        "challengeIDs without points",
        param("challengeIDs: [a]"),
        "8:21",
        'rule "a": notifyAction.challengeIDs is set without points; the API ignores it then; set points too, or leave challengeIDs out',
    ),
    (
        "missing UID",
        rule("notifyAction:", "  action: act"),
        "5:5",
        'rule "a": notifyAction.UID is missing; gm.notifyAction requires it',
    ),
    (
        "unknown field of userAction",
        rule("publishUserAction:", "  UID: u", "  userAction:", "    titel: t"),
        "8:9",
        'rule "a": publishUserAction.userAction.titel is an unknown field; did you mean "title"?',
    ),
    (
        "cid too long",
        rule(*PUBLISH, "  cid: " + "c" * 101),
        "8:12",
        'rule "a": publishUserAction.cid has 101 characters; at most 100 are allowed',
    ),
    (
        "unknown provider",
        rule(*PUBLISH, "  enabledProviders: [facebok]"),
        "8:26",
        'rule "a": publishUserAction.enabledProviders[0] "facebok" is not a name that the API knows; did you mean "facebook"?',
    ),
    (
        "shortURLs",
        rule(*PUBLISH, "  shortURLs: sometimes"),
        "8:18",
        'rule "a": publishUserAction.shortURLs "sometimes" is not one of its values; use one of always, whenRequired, never',
    ),
    (
        "unquoted ternary",
        param("points: ${ event.p ? 20 : 10 }"),
        "8:31",
        "an expression without quotes: \": \" ends a plain YAML value; put single quotes around the whole value: '${ event.p ? 20 : 10 }'",
    ),
    (
        "unquoted in flow",
        rule("notifyAction: {UID: ${ event.uid }, action: a}"),
        "5:26",
        "an expression without quotes: { } [ ] , have a meaning of their own inside { } and [ ]; put single quotes around the whole value: '${ a ? b : c }'",
    ),
    (
        "unquoted comment",
        param("points: ${ event.p # the points }"),
        "8:15",
        'rule "a", points: a plain YAML value ends at " #", so the ${ is never closed; put single quotes around the whole value: \'${ a ? b : c }\'',
    ),
    (
        "unterminated",
        param("points: '${ event.p'"),
        "8:16",
        'rule "a", points: ${ without its }; close it with }, or write $${ for the two characters',
    ),
    ("cel syntax", param("points: ${ event.p + }"), "8:28", 'rule "a", points: the expression ends too early'),
    (
        "cel unknown name",
        param("points: ${ evnt.p }"),
        "8:18",
        'rule "a", points: unknown name "evnt"; an expression knows event, kafka and ce; text stands in quotes',
    ),
    (
        "cel unknown function",
        param("points: ${ int(frist(event.l, 2)) }"),
        "8:22",
        'rule "a", points: unknown function frist(); rules have CEL\'s own, strings, math, and first()',
    ),
    (
        "cel kinds",
        param("points: ${ 1 + 2.0 }"),
        "8:20",
        'rule "a", points: no int + double; CEL does not mix int and double: write double(...) or int(...)',
    ),
    (
        "cel in the middle of text",
        param("actionAttributes:", "  link: 'https://x/${ event.a }/${ event.b + }'"),
        "9:52",
        'rule "a", actionAttributes.link: the expression ends too early',
    ),
    (
        "cel in folded text",
        rule("when: >-", "  event.a == 1", "  && evnt.b == 2", *CALL),
        "7:10",
        'rule "a", when: unknown name "evnt"; an expression knows event, kafka and ce; text stands in quotes',
    ),
    (
        "cel in literal text",
        rule("when: |", "  event.a == 1", "  && foo(event.b)", *CALL),
        "7:10",
        'rule "a", when: unknown function foo(); rules have CEL\'s own, strings, math, and first()',
    ),
    (
        "cel in double quotes",
        rule('when: "event.a == \\"x\\" && evnt.b"', *CALL),
        "5:32",
        'rule "a", when: unknown name "evnt"; an expression knows event, kafka and ce; text stands in quotes',
    ),
    (
        "when with ${ }",
        rule("when: ${ event.a }", *CALL),
        "5:11",
        'rule "a", when is CEL as it stands, without ${ }; remove ${ and }',
    ),
    (
        "when gives a number",
        rule("when: event.a + 1", *CALL),
        "5:11",
        'rule "a", when: it gives int, not true or false; write a comparison, such as event.progress >= 0.9 or event.kind == "a"',
    ),
    (
        "when empty",
        rule("when:", *CALL),
        "5:5",
        'rule "a", when is empty, not an expression; write CEL, in quotes if need be',
    ),
    (
        "when with a tag",
        rule("when: !has(event.a)", *CALL),
        "5:11",
        "a plain value that starts with \"!\" is a YAML tag; put quotes around it: '!has(event.a)'",
    ),
    (
        "when starts with a quote",
        rule('when: "x" == event.a', *CALL),
        "5:15",
        "text goes on after a quoted value; put quotes around the whole value, the other kind: '\"a\" == event.b'",
    ),
    (
        "timestamp result",
        param("points: ${ timestamp(event.t) }"),
        "8:17",
        'rule "a", points: it gives timestamp, which JSON does not know; write string(...) around it',
    ),
    (
        "optional in a list",
        param("challengeIDs: '${ [event.?a] }'"),
        "8:21",
        'rule "a": notifyAction.challengeIDs is set without points; the API ignores it then; set points too, or leave challengeIDs out',
    ),
    (
        "list inside text",
        param('actionAttributes: {a: "x ${ first(event.l, 2) }"}'),
        "8:34",
        'rule "a", actionAttributes.a: a list cannot stand inside text; give a text or a number',
    ),
    (
        "expression in a key",
        param("actionAttributes: {'${ event.a }': b}"),
        "8:26",
        'rule "a", actionAttributes: a key is literal, ${ } works in values only; name the key',
    ),
    (
        "kafka typo",
        param("actionAttributes: {a: '${ kafka.topik }'}"),
        "8:39",
        'rule "a", actionAttributes.a: kafka has no "topik"; it has topic, partition, offset, key, timestamp, headers',
    ),
    (
        "unknown topic",
        rule("topics: [user-event]", *CALL),
        "5:14",
        'rule "a": topic "user-event" is not among kafka.topics; did you mean "user-events"?',
    ),
    (
        "empty on",
        rule(*CALL, on="on: []"),
        "4:9",
        'rule "a", on is an empty list; name at least one, or remove the key',
    ),
    ("number in on", rule(*CALL, on="on: [404]"), "4:10", 'rule "a", on is a number, not text; put quotes around it'),
    (
        "unknown site",
        rule("site: mian", *CALL),
        "5:11",
        'rule "a": site "mian" is not among the sites of the settings; did you mean "main"?',
    ),
    (
        "max_age without unit",
        rule("max_age: 90", *CALL),
        "5:14",
        'rule "a": max_age is not a duration; write one number and one unit: 90s, 15m, 24h, 7d',
    ),
    (
        "max_age iso",
        rule("max_age: PT24H", *CALL),
        "5:14",
        'rule "a": max_age is not a duration; write one number and one unit: 90s, 15m, 24h, 7d',
    ),
    (
        "on_stale without max_age",
        rule("on_stale: skip", *CALL),
        "5:5",
        'rule "a": on_stale without max_age never happens; add max_age, or remove on_stale',
    ),
    (
        "on_cap typo",
        rule("on_cap: drop", *CALL),
        "5:13",
        'rule "a": on_cap is neither skip nor dead_letter; write one of them',
    ),
    (
        "enabled text",
        rule("enabled: maybe", *CALL),
        "5:14",
        'rule "a": enabled is neither true nor false; write true or false',
    ),
    ("tab", "version: 1\nrules:\n\t- name: a\n", "3:1", "a tab; YAML indents with spaces only; replace it by spaces"),
    (
        "two documents",
        GOOD + "---\nversion: 1\n",
        "8:1",
        "a second YAML document starts here; remove the ---; one file holds one document",
    ),
    (
        "undefined alias",
        rule("when: *cond", *CALL),
        "5:11",
        "not YAML: found undefined alias 'cond'; check indentation, quotes and brackets",
    ),
    ("alias in itself", "version: 1\nrules: &r\n  - *r\n", "2:8", "an alias that contains itself; write the value out"),
    (
        "binary tag",
        param("points: !!binary aGk="),
        "8:15",
        "the YAML tag !!binary is not known here; write text, a number or a bool",
    ),
    ("nan", param("points: .nan"), "8:15", ".nan is not a JSON number; write a finite number, or quotes if it is text"),
    ("control character", "version: 1\nrules: \x07\n", "2:8", "the control character U+0007; remove it"),
    (
        "bad escape",
        'version: 1\nrules: "\\q"\n',
        "2:10",
        "not YAML: found unknown escape character 'q'; check indentation, quotes and brackets",
    ),
    (
        "wrong indentation",
        "version: 1\nrules:\n  - name: a\n   on: [x]\n",
        "4:4",
        "not YAML: expected <block end>, but found '<block mapping start>'; check indentation, quotes and brackets",
    ),
    ("key that is a list", "version: 1\n? [a]\n: 1\n", "2:3", "a key that is a list or a mapping; a key is text"),
    ("deep nesting", "version: 1\nrules: " + "[" * 3000 + "\n", "0:0", "is nested too deeply; flatten it"),
    (
        "alias bomb",
        ALIAS_BOMB,
        "1:1",
        "aliases expand to more than 100,000 values; write fewer of them",
    ),
    (
        "example without event",
        rule(*CALL, "examples:", "  - calls: []"),
        "9:9",
        'rule "a", example 1 has no event; add event: with the payload',
    ),
    (
        "example without calls",
        rule(*CALL, "examples:", "  - event: {type: x}"),
        "9:9",
        'rule "a", example 1 has no calls; add calls:, a list; [] when none is expected',
    ),
    (
        "example unknown key",
        rule(*CALL, "examples:", "  - evnt: {type: x}", "    calls: []"),
        "9:9",
        'rule "a", example 1 has an unknown key "evnt"; did you mean "event"?',
    ),
    (
        "example now",
        rule(*CALL, "examples:", "  - event: {type: x}", "    now: yesterday", "    calls: []"),
        "10:14",
        'rule "a", example 1: now is not a time; write it as 2026-11-22T10:00:00Z',
    ),
    (
        "example topic",
        rule(*CALL, "examples:", "  - event: {type: x}", "    topic: other", "    calls: []"),
        "10:16",
        'rule "a", example 1: topic "other" is not one that the rule reads; known: user-events',
    ),
    (
        "example call is text",
        rule(*CALL, "examples:", "  - event: {type: x}", "    calls: [a]"),
        "10:17",
        'rule "a", example 1: a call is text, not a mapping; list its parameters',
    ),
]


@pytest.mark.parametrize(("text", "place", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_file_that_cannot_be_right_is_refused_with_place_and_remedy(text: str, place: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        rules.loads(text, file="r.yaml", sites=["main"], topics=["user-events"])
    first = next(problem for problem in refused.value.problems if problem.severity == "error")
    assert (f"{first.line}:{first.column}", f"{first.what}; {first.remedy}".removesuffix("; ")) == (place, problem)
    assert "Traceback" not in str(refused.value)


def test_the_file_that_the_table_spoils_is_accepted() -> None:
    assert len(rules.loads(GOOD, file="r.yaml", sites=["main"], topics=["user-events"]).rules) == 1


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = rule("whn: true", "max_age: 1", *CALL, "  points: 1.5", "  colour: red") + rule(*CALL).split("rules:\n")[1]
    with pytest.raises(Refused) as refused:
        rules.loads(text, file="r.yaml", sites=["main"], topics=["user-events"])
    lines = [problem.line for problem in refused.value.problems]
    assert lines == sorted(lines)
    assert len(lines) == 5


def test_a_problem_shows_the_line_as_it_stands() -> None:
    with pytest.raises(Refused) as refused:
        rules.loads(param("points: 1.5"), file="r.yaml", sites=["main"], topics=["user-events"])
    assert refused.value.problems[0].excerpt == "      points: 1.5"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version: 1\n# caf\xe9\nrules: []\n", "2:6: is not UTF-8 text (byte 0xe9); save it as UTF-8"),
        (b"\xff\xfev\x00", "1:1: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        (b"#" * (1 << 20) + b"#", " is larger than 1,048,576 bytes; split it; a rules file is read as a whole"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(Refused) as refused:
        rules.load(path, sites=["main"], topics=["user-events"])
    assert str(refused.value) == f"{path}:{problem}"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert len(rules.load(path, sites=["main"], topics=["user-events"]).rules) == 1


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(Refused) as refused:
            rules.load(path, sites=["main"], topics=["user-events"])
        assert str(refused.value) == f"{path}: cannot be read: {why}; check the path and its rights"


def test_a_rule_names_a_site_when_there_are_several() -> None:
    with pytest.raises(Refused, match='rule "a" names no site; add site:, one of eu, us'):
        rules.loads(GOOD, file="r.yaml", sites=["eu", "us"], topics=["user-events"])
