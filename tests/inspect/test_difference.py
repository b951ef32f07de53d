"""What changes from one set of rules to another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.inspect.conftest import RULES, sampled, trial
from tests.inspect.test_preview import events
from worker.inspect.difference import Kind, RecordChange, Totals, compare
from worker.inspect.preview import Trial
from worker.model import Json

WATCHED: dict[str, Json] = {"type": "watched", "uid": "u1", "progress": 0.95, "points": 3}
OLD = trial(RULES)


def change(text: str, event: Json = WATCHED) -> RecordChange | None:
    one = sampled(event)
    return compare(OLD.of(one), trial(text).of(one))


def kinds(found: RecordChange | None) -> list[tuple[Kind, str]]:
    return [(each.kind, each.call.name.rule) for each in found.calls] if found else []


def test_the_same_rules_change_nothing():
    assert change(RULES) is None
    assert change(f"# a comment\n{RULES}") is None


def test_a_changed_parameter_is_told_before_and_after():
    found = change(RULES.replace('"${ event.points }"', '"${ event.points * 2 }"'))
    assert found is not None
    (one,) = found.calls
    assert [(each.name, each.before, each.after) for each in one.fields] == [("points", "3", "6")]


def test_a_rule_that_is_new_or_gone_is_a_call_added_or_removed():
    assert kinds(change(RULES.replace("on: [watched, liked]", "on: [liked]"))) == [(Kind.REMOVED, "also")]
    liked = {"type": "opened", "uid": "u1"}
    assert kinds(change(RULES.replace("topics: [others]", "topics: [events]"), liked)) == [(Kind.ADDED, "elsewhere")]


def test_a_rule_of_another_name_changes_nothing_that_is_sent():
    assert change(RULES.replace("name: also", "name: renamed")) is None


def test_what_the_worker_would_do_with_a_call_is_a_change():
    found = change(RULES.replace("max_age: 1h", "max_age: 2h\n    on_stale: dead_letter\n    on_cap: dead_letter"))
    assert found is not None
    assert [each.name for each in found.calls[0].fields] == ["(max_age) stale at", "(on_stale)", "(on_cap)"]


def test_a_record_that_ends_otherwise_is_a_change_even_without_a_call():
    found = change(RULES.replace("progress >= 0.9", "progress == 9"), {**WATCHED, "points": 0.5})
    assert found is not None
    assert (found.before.fate, found.after.fate) == ("dead_letter", "calls")
    assert kinds(found) == [(Kind.ADDED, "also")]
    silent = change(RULES.replace('type: "bought"', ""), {"type": "zzz"})
    assert silent is None


def test_a_users_calls_in_another_order_are_a_change():
    first, second = RULES.index("  - name: watched"), RULES.index("  - name: also")
    third = RULES.index("  - name: elsewhere")
    found = change(RULES[:first] + RULES[second:third] + RULES[first:second] + RULES[third:])
    assert found is not None
    assert (found.calls, found.is_reordered) == ((), True)


def test_totals_say_what_all_changes_come_to():
    new = trial(RULES.replace('"${ event.points }"', "7").replace("on: [watched, liked]", "on: [watched]"))
    totals = Totals()
    for event in (WATCHED, {**WATCHED, "points": 7}, {"type": "liked", "uid": "u1"}, {"type": "zzz"}):
        one = sampled(event)
        totals.add(OLD.of(one), new.of(one))
    assert (totals.records, totals.records_changed) == (4, 2)
    assert totals.calls == {Kind.CHANGED: 1, Kind.REMOVED: 1}
    assert totals.fields == {"points": 1}
    assert totals.ends == {("calls", "filtered"): 1}
    assert (totals.calls_before, totals.calls_after) == (5, 4)


def sent(on: Trial, event: Json) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    return sorted((call.method.name, tuple(sorted(call.params.items()))) for call in on.of(sampled(event)).calls)


VARIANTS = [
    trial(text)
    for text in (
        RULES,
        RULES.replace("0.9", "0.5"),
        RULES.replace("name: also", "name: new").replace("action: did", "action: did_it"),
        RULES.replace("on: [watched, liked]", "on: [liked, opened]").replace("item.price > 1", "item.price > 0"),
    )
]


@given(events, st.sampled_from(VARIANTS), st.sampled_from(VARIANTS))
def test_the_changes_turn_what_was_sent_into_what_will_be_sent(event: dict[str, Json], old: Trial, new: Trial) -> None:
    one = sampled(event)
    before, after = old.of(one), new.of(one)
    found = compare(before, after)
    result = {call.name: call for call in before.calls}
    for each in found.calls if found else ():
        if each.kind is Kind.REMOVED:
            del result[each.call.name]
        else:
            result[each.call.name] = each.call
    assert sorted((c.method.name, tuple(sorted(c.params.items()))) for c in result.values()) == sent(new, event)
    if found is None:
        assert sent(old, event) == sent(new, event)
