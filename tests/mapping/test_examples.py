"""Examples that hold, and what is said of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from worker.mapping import examples
from worker.mapping.ruleset import RuleSet

Load = Callable[..., RuleSet]

RULE = """
version: 1
rules:
  - name: watched
    on: [watched]
    when: event.progress >= 0.9
    topics: [user-events]
    notifyAction:
      UID: ${ event.uid }
      action: watch
      points: '${ event.premium ? 20 : 10 }'
      actionAttributes: {show: '${ event.show }'}
    max_age: 1h
    examples:
      - """
DEPLOY = Path(__file__).parents[2] / "deploy" / "examples"


def problems(load: Load, example: str) -> list[str]:
    return [f"{problem.line} {problem.what}" for problem in examples.run(load(RULE.lstrip("\n") + example + "\n"))]


EVENT = "event: {type: watched, progress: 0.95, uid: u1, premium: true, show: Glee}"
CALL = "calls: [{UID: u1, action: watch, points: 20, actionAttributes: {show: Glee}}]"


@pytest.mark.parametrize(
    "example",
    [
        f"{{{EVENT}, {CALL}}}",
        f"{{{EVENT}, {CALL.replace('20', '20.0')}}}",
        f"{{{EVENT}, {CALL.replace('Glee}', 'Glee, none: null, empty: []}')}}}",
        f"{{{EVENT}, {CALL.replace('UID: u1', 'UID: u1, context: {eventId: user-events/0/0}')}}}",
        f"{{{EVENT.replace('progress: 0.95', 'progress: 0.2')}, calls: []}}",
        f"{{{EVENT.replace('type: watched', 'type: other')}, calls: []}}",
        f"{{{EVENT.replace('uid', 'time: 2026-11-22T10:00:00Z, uid')}, now: 2026-11-22T11:00:00Z, {CALL}}}",
        f"{{{EVENT.replace('uid', 'time: 2026-11-22T10:00:00Z, uid')}, now: 2026-11-22T11:00:01Z, calls: []}}",
        f"{{{EVENT.replace('uid', 'time: 2020-01-01T00:00:00Z, uid')}, {CALL}}}",  # no clock: nothing is stale
    ],
)
def test_an_example_that_holds_has_no_problem(load: Load, example: str) -> None:
    assert problems(load, example) == []


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        (
            f"{{{EVENT.replace('0.95', '0.2')}, {CALL}}}",
            "expected 1 call, got none: when is false (event.progress >= 0.9, event.progress is 0.2)",
        ),
        (
            f"{{{EVENT.replace('watched', 'watchd')}, {CALL}}}",
            'expected 1 call, got none: its type is "watchd", on: wants watched',
        ),
        (
            f"{{{EVENT.replace('type: watched, ', '')}, {CALL}}}",
            "expected 1 call, got none: the event has no type, on: wants watched",
        ),
        (
            f"{{{EVENT}, calls: []}}",
            'expected no call, got notifyAction with UID u1, action watch, points 20, actionAttributes {"show":"Glee"}',
        ),
        (f"{{{EVENT}, {CALL.replace('20', '10')}}}", "points: expected 10, got 20"),
        (f"{{{EVENT}, {CALL.replace(', points: 20', '')}}}", "points: expected nothing, got 20"),
        (
            f"{{{EVENT}, {CALL.replace('Glee', 'Lost')}}}",
            'actionAttributes: expected {"show":"Lost"}, got {"show":"Glee"}',
        ),
        (
            f"{{{EVENT}, {CALL.replace('UID: u1', 'UID: u1, context: {eventId: e9}')}}}",
            'context: expected {"eventId":"e9"}, got {"eventId":"user-events/0/0"}',
        ),
        (
            f"{{{EVENT}, {CALL.replace('UID: u1, ', '')}}}",
            "the expected call could never be sent: UID is missing",
        ),
        (
            f"{{{EVENT}, {CALL.replace('points', 'pionts')}}}",
            "the expected call could never be sent: pionts is an unknown parameter of notifyAction",
        ),
        (
            f"{{{EVENT}, calls: [{{UID: u1, action: watch}}, {{UID: u1, action: watch}}]}}",
            "expected 2 calls, got 1",
        ),
        (
            f"{{{EVENT.replace('uid: u1, ', '')}, {CALL}}}",
            "it would become a dead letter: UID: event.uid is missing",
        ),
        (
            f"{{{EVENT.replace('progress: 0.95, ', '')}, calls: []}}",
            "it would become a dead letter: when: event.progress is missing (in event.progress >= 0.9)",
        ),
        (
            f"{{{EVENT.replace('uid', 'time: 2026-11-22T10:00:00Z, uid')}, now: 2026-11-22T12:00:00Z, {CALL}}}",
            "expected 1 call, got none: it is stale: older than max_age by 3600 s",
        ),
        (
            f"{{{EVENT.replace('Glee', chr(34) + chr(92) + 'ud800' + chr(34))}, {CALL}}}",
            "it would become a dead letter: half of a surrogate pair is escaped at character 78",
        ),
    ],
)
def test_an_example_that_does_not_hold_says_why(load: Load, example: str, problem: str) -> None:
    assert problems(load, example) == [f'14 rule "watched", example "1": {problem}']


def test_an_example_is_a_matter_of_its_own_rule(load: Load) -> None:
    more = "\n  - {name: other, on: [watched], notifyAction: {UID: u9, action: more}}"
    assert problems(load, f"{{{EVENT}, {CALL}}}{more}") == []


def test_examples_of_a_disabled_rule_run_too(load: Load) -> None:
    text = RULE.replace("max_age", "enabled: false\n    max_age").lstrip("\n") + f"{{{EVENT}, calls: []}}\n"
    assert len(examples.run(load(text))) == 1


def numbers(load: Load, rule: str, event: str, calls: str = "") -> list[str]:
    text = f"""
    version: 1
    rules:
      - name: streak
        on: [x]
        {rule}
        examples:
          - {{event: {{type: x, {event}}}, calls: [{{UID: u, action: a{calls}}}]}}
    """
    return [f"{problem.severity} {problem.what}; {problem.remedy}" for problem in examples.run(load(text))]


@pytest.mark.parametrize(
    ("rule", "event", "calls", "warning"),
    [
        (
            "notifyAction: {UID: u, action: a, points: '${ event.days * 5 }'}",
            "days: 7",
            ", points: 35",
            "with event.days = 7.0 instead of 7 points errs (no double * int); "
            "JSON does not tell the two apart: write int(event.days)",
        ),
        (
            "{when: event.score * 0.5 > 1.0, notifyAction: {UID: u, action: a}}",
            "score: 10.0",
            "",
            "with event.score = 10 instead of 10.0 when errs (no int * double); "
            "JSON does not tell the two apart: write double(event.score)",
        ),
        (
            "notifyAction: {UID: u, action: a, points: '${ int(event.n / event.m) }'}",
            "n: 7, m: 2",
            ", points: 3",
            "with event.n = 7.0 instead of 7 points errs (no double / int); "
            "JSON does not tell the two apart: write int(event.n)",
        ),
        (
            'notifyAction: {UID: u, action: a, actionAttributes: {k: \'${ type(event.n) == int ? "i" : "d" }\'}}',
            "n: 7",
            ", actionAttributes: {k: i}",
            "with event.n = 7.0 instead of 7 the result is another; "
            "JSON does not tell the two apart: write double(event.n)",
        ),
    ],
)
def test_a_rule_that_needs_one_kind_of_number_is_a_warning(
    load: Load, rule: str, event: str, calls: str, warning: str
) -> None:
    lines = rule.strip("{}").replace(", notifyAction", "\n        notifyAction") if rule.startswith("{when") else rule
    if rule.startswith("{when"):
        lines = lines + "}"
    found = numbers(load, lines, event, calls)
    assert found[0] == f'warn rule "streak", example "1": {warning}'


@pytest.mark.parametrize(
    "rule",
    [
        "notifyAction: {UID: u, action: a, points: '${ int(event.n) * 5 }'}",
        "notifyAction: {UID: u, action: a, points: '${ event.n }'}",
        "notifyAction: {UID: u, action: a, actionAttributes: {k: 'is ${ event.n }'}}",
    ],
)
def test_a_rule_that_takes_both_kinds_is_no_warning(load: Load, rule: str) -> None:
    found = numbers(load, rule, "n: 7, unused: 1.0, big: 9007199254740993, s: 'x'")
    assert not any("instead of" in problem for problem in found)


def test_the_files_that_the_readme_names_are_there() -> None:
    shapes = ("segment", "rudderstack", "cloudevents", "debezium", "sources")
    assert {"rules.yaml", *(f"{shape}.rules.yaml" for shape in shapes)} <= {
        path.name for path in DEPLOY.glob("*rules.yaml")
    }
