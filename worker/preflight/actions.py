"""Does the site know the actions that the rules name, and what are they worth? Pure.

`gm.getActionConfig` answers with `actions`, each with actionID, enabled, points, dailyCap, freqCap (guide,
gm.getActionConfig and gm.setActionConfig). The unit of freqCap is not in any public text: it is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from worker.gigya.calls import NOTIFY_ACTION
from worker.gigya.values import nearest
from worker.mapping.ruleset import Rule
from worker.mapping.templates import Literal, Template
from worker.model import Json
from worker.preflight.lines import Check, Line, State

RESERVED_ACTION = "_points"  # page gm.notifyAction: grants or takes points by hand; in no site's list
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Action:
    """One action as the Console has it; None where the site does not say."""

    name: str
    is_enabled: bool
    points: int | float | None
    daily_cap: int | float | None
    freq_cap: int | float | None


def read_actions(body: Mapping[str, Json] | None) -> Mapping[str, Action] | None:
    """Return the actions of an answer to gm.getActionConfig by name; None where it holds no list of actions."""
    listed = body.get("actions") if body is not None else None
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return None
    found = {}
    for entry in listed:
        if isinstance(entry, Mapping) and isinstance(name := entry.get("actionID"), str):
            is_enabled = entry.get("enabled") not in (False, "false", "False", 0)
            numbers = (_number(entry.get(key)) for key in ("points", "dailyCap", "freqCap"))
            found[name] = Action(name, is_enabled, *numbers)
    return found


def named_actions(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the actions that rules name literally and that a site must list."""
    names = (action for rule in rules if isinstance(action := literal_action(rule), str))
    return tuple(dict.fromkeys(name for name in names if name != RESERVED_ACTION))


def literal_action(rule: Rule) -> str | None:
    """Return the action of a notifyAction rule if it is literal; None if only an event tells."""
    template = _template(rule, "action")
    return template.value if isinstance(template, Literal) and isinstance(template.value, str) else None


def action_lines(
    part: str,
    rules: Sequence[Rule],
    actions: Mapping[str, Action] | None,
    *,
    why_not: str,
    is_accepted: bool = False,
) -> Iterator[Line]:
    """Yield a line for each action that one site's rules name.

    `actions` None: it could not be asked (`why_not`), or, where it has accepted the question, its answer has no list.
    """
    by_action: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.method is not NOTIFY_ACTION:
            continue
        if (name := literal_action(rule)) is not None:
            by_action.setdefault(name, []).append(rule)
        else:
            found = "taken from the event: no list can tell whether the site knows it"
            yield Line(part, Check.ACTION, f"of rule {rule.name}", State.NOT_CHECKED, found)
    for name, users in by_action.items():
        if actions is None and is_accepted and name != RESERVED_ACTION:
            found = f"gm.getActionConfig answers without a list of actions; {_sent(users)}"
            remedy = "Look the action up in the Console (Loyalty > Actions), and give SAP the answer's callId."
            yield Line(part, Check.ACTION, name, State.FAILED, found, remedy)
        else:
            yield _line(part, name, users, actions, why_not)


def _line(part: str, name: str, users: Sequence[Rule], actions: Mapping[str, Action] | None, why_not: str) -> Line:
    sent = _sent(users)
    if name == RESERVED_ACTION:
        return Line(part, Check.ACTION, name, State.OK, f"reserved: every site has it; {sent}")
    if actions is None:
        return Line(part, Check.ACTION, name, State.NOT_CHECKED, f"{why_not}; {sent}")
    action = actions.get(name)
    if action is None:
        found = f"the site has no such action ({_others(name, actions)}); rule {_names(users)}"
        remedy = "Create it in the Console (Loyalty > Actions), or correct `action` in the rule: Gigya answers 400126."
        return Line(part, Check.ACTION, name, State.FAILED, found, remedy, "invalid_action", 400126)
    if not action.is_enabled:
        remedy = "Enable it in the Console (Loyalty > Actions), or switch the rule off: Gigya answers 400126."
        found = f"the action is disabled; {sent}"
        return Line(part, Check.ACTION, name, State.FAILED, found, remedy, "invalid_action", 400126)
    return Line(part, Check.ACTION, name, State.OK, f"{_worth(action)}; {sent}")


def _worth(action: Action) -> str:
    caps = [] if action.daily_cap is None else [f"daily cap {action.daily_cap:g}"]
    caps += [] if action.freq_cap is None else [f"frequency cap {action.freq_cap:g} (unit not documented)"]
    points = "no points told" if action.points is None else f"{action.points:g} points"
    return f"Console: {points}, {', '.join(caps) or 'no cap'}"


def _sent(users: Sequence[Rule]) -> str:
    return "; ".join(f"rule {rule.name}: {_points(rule)}" for rule in users)


def _points(rule: Rule) -> str:
    template = _template(rule, "points")
    if template is None or (isinstance(template, Literal) and template.value is None):
        return "those points"
    if isinstance(template, Literal):
        return f"{template.value} points instead"
    return "points from the event instead"


def _others(name: str, actions: Mapping[str, Action]) -> str:
    if (meant := nearest(name, actions)) is not None:
        return f'did you mean "{meant}"?'
    if not actions:
        return "it lists none at all"
    shown = ", ".join(sorted(actions)[:_MOST_NAMES])
    return f"it has {shown}" + (f" and {len(actions) - _MOST_NAMES} more" if len(actions) > _MOST_NAMES else "")


def _names(users: Sequence[Rule]) -> str:
    return ", ".join(rule.name for rule in users)


def _template(rule: Rule, parameter: str) -> Template | None:
    return next((template for name, template in rule.templates if name == parameter), None)


def _number(value: Json) -> int | float | None:
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
