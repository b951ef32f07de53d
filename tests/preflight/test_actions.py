"""Every action of the rules: known, enabled, with its caps beside the rule's points."""

from __future__ import annotations

import pytest

from tests.preflight.rig import NOTIFY, PUBLISH, ask, local_gigya, rules
from worker.preflight.actions import Action, action_lines, read_actions
from worker.preflight.lines import Line, State


def rule(action: str, name: str = "r", points: str = "") -> str:
    more = f", points: {points}" if points else ""
    return f"""
  - name: {name}
    on: [{name}]
    notifyAction: {{UID: "${{ event.uid }}", action: {action}{more}}}
"""


WATCHED = {"watched": Action("watched", True, 5, 3, 60)}


def lines(*texts: str, actions: dict[str, Action] | None = None, why_not: str = "see credentials") -> list[Line]:
    return list(action_lines("site main", rules(*texts).enabled, actions, why_not=why_not))


def test_caps_stand_beside_the_points_of_each_rule() -> None:
    (line,) = lines(
        rule("watched", "a", "20"),
        rule("watched", "b"),
        rule("watched", "c", '"${ event.n }"'),
        actions=WATCHED,
    )
    assert line.state is State.OK
    assert line.found == (
        "Console: 5 points, daily cap 3, frequency cap 60 (unit not documented); rule a: 20 points instead;"
        " rule b: those points; rule c: points from the event instead"
    )


def test_an_action_without_caps_says_so() -> None:
    (line,) = lines(rule("free"), actions={"free": Action("free", True, None, None, None)})
    assert line.found == "Console: no points told, no cap; rule r: those points"


def test_an_unknown_action_fails_with_the_name_that_was_meant() -> None:
    (line,) = lines(rule("watchd"), actions=WATCHED)
    assert (line.state, line.code, line.reason) == (State.FAILED, 400126, "invalid_action")
    assert 'did you mean "watched"?' in line.found
    assert "Console" in line.remedy


def test_an_unknown_action_is_shown_beside_what_there_is() -> None:
    many = {f"action{n}": Action(f"action{n}", True, 1, None, None) for n in range(8)}
    (line,) = lines(rule("zzz"), actions=many)
    assert "it has action0, action1, action2, action3, action4 and 3 more" in line.found
    (line,) = lines(rule("zzz"), actions={})
    assert "it lists none at all" in line.found


def test_a_disabled_action_fails() -> None:
    (line,) = lines(rule("watched"), actions={"watched": Action("watched", False, 5, None, None)})
    assert line.state is State.FAILED
    assert "disabled" in line.found
    assert "Enable it" in line.remedy


def test_an_action_that_an_event_names_is_said_not_to_be_checked() -> None:
    (line,) = lines(rule('"${ event.action }"'), actions=WATCHED)
    assert line.state is State.NOT_CHECKED
    assert (line.subject, "from the event" in line.found) == ("of rule r", True)
    (line,) = lines(rule('"a_${ event.action }"'), actions=WATCHED)
    assert line.state is State.NOT_CHECKED


def test_the_reserved_action_is_in_no_list() -> None:
    (line,) = lines(rule("_points", points="5"), actions={})
    assert line.state is State.OK


def test_without_an_answer_nothing_is_said_of_an_action() -> None:
    (line,) = lines(rule("watched"), actions=None)
    assert (line.state, line.found) == (State.NOT_CHECKED, "see credentials; rule r: those points")


def test_publishing_has_no_actions() -> None:
    assert lines(PUBLISH, actions={}) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"actionID": "a", "enabled": False}, Action("a", False, None, None, None)),
        ({"actionID": "a", "enabled": "false"}, Action("a", False, None, None, None)),
        ({"actionID": "a"}, Action("a", True, None, None, None)),
        ({"actionID": "a", "enabled": True, "points": "7", "dailyCap": 1.0}, Action("a", True, 7, 1.0, None)),
        ({"actionID": "a", "points": True, "dailyCap": None, "freqCap": "x"}, Action("a", True, None, None, None)),
    ],
)
def test_an_entry_is_read_whatever_way_it_is_written(entry: dict[str, object], expected: Action) -> None:
    assert read_actions({"actions": [entry, "junk", {"actionID": 5}]}) == {"a": expected}  # type: ignore[list-item]


@pytest.mark.parametrize("body", [None, {}, {"actions": None}, {"actions": "a"}, {"actions": {"a": 1}}])
def test_an_answer_without_a_list_is_not_taken_for_an_empty_one(body: dict[str, object] | None) -> None:
    assert read_actions(body) is None  # type: ignore[arg-type]


# --- at the local Gigya ---------------------------------------------------------------------------------------------


async def test_a_disabled_action_and_an_unknown_one_are_found_at_a_site() -> None:
    actions = {"off": {"enabled": False}, "on": {}}
    async with local_gigya(actions=actions) as gigya:
        told = await ask(gigya, rule("off", "a"), rule("on", "b"), rule("nope", "c"))
        assert gigya.ledger.stats()["methods"] == {"main": {"gm.getActionConfig": 2, "gm.notifyAction": 1}}
    assert told.troubled() == {"action off": State.FAILED, "action nope": State.FAILED}


async def test_a_sandbox_that_accepts_any_action_knows_it_when_asked_by_name() -> None:
    async with local_gigya(accept_any_action=True, actions={}) as gigya:
        assert (await ask(gigya, NOTIFY)).troubled() == {}


async def test_an_answer_without_actions_fails_where_rules_name_some() -> None:
    from worker.sandbox.gigya import Fault

    async with local_gigya() as gigya:
        gigya.inject(Fault(kind="code", code=0, method="gm.getActionConfig"))
        told = await ask(gigya, NOTIFY)
    assert told.troubled() == {"action watched_episode": State.FAILED}
    assert "without a list of actions" in told["action watched_episode"].found
