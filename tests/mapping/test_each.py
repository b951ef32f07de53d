"""A rule that runs once for every element of a list."""

# ruff: noqa: E501  the texts stand as people see them, in one line
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import Refused, Unmappable
from worker.gigya.calls import Call
from worker.mapping import examples, rules
from worker.mapping.mapper import MAX_ITEMS, Mapper
from worker.mapping.ruleset import RuleSet
from worker.model import KafkaRecord

Load = Callable[..., RuleSet]

RULE = """
version: 1
rules:
  - name: bought
    on: [order]
    each: event.items
    when: item.quantity > 0
    notifyAction:
      UID: ${ event.uid }
      action: bought
      points: ${ int(item.quantity) * event.factor }
      actionAttributes: {product: '${ item.name }', size: '${ string(size(event.items)) }'}
"""
ORDER: dict[str, Any] = {
    "type": "order",
    "id": "o1",
    "uid": "u1",
    "factor": 10,
    "items": [{"name": "a", "quantity": 1}, {"name": "b", "quantity": 0}, {"name": "c", "quantity": 3}],
}


def calls(ruleset: RuleSet, payload: Any, *, which: str = "calls") -> Any:
    mapper = Mapper(ruleset)
    record = KafkaRecord("user-events", 3, 7, json.dumps(payload).encode())
    (event,) = mapper.decode(record)
    return getattr(mapper, which)(record, event)


def unmappable(ruleset: RuleSet, payload: Any) -> tuple[str, str, str]:
    with pytest.raises(Unmappable) as error:
        calls(ruleset, payload)
    assert "secret" not in f"{error.value.text}{error.value.parameter}"
    return error.value.reason, error.value.parameter, error.value.text


def shown(made: tuple[Call, ...]) -> list[tuple[str, str, str, str]]:
    return [
        (str(call.name), call.uid, call.params.get("points", ""), json.loads(call.params["context"])["eventId"])
        for call in made
    ]


def test_every_element_makes_a_call_that_is_named_by_its_position_before_when(load: Load) -> None:
    made = calls(load(RULE), ORDER)
    assert shown(made) == [("0/bought/0", "u1", "10", "o1"), ("0/bought/2", "u1", "30", "o1")]
    assert [json.loads(call.params["actionAttributes"]) for call in made] == [
        {"product": "a", "size": "3"},
        {"product": "c", "size": "3"},
    ]


def test_calls_of_rules_with_and_without_each_stand_in_file_order(load: Load) -> None:
    text = RULE + "  - {name: ordered, on: order, notifyAction: {UID: '${ event.uid }', action: b}}\n"
    assert [str(call.name) for call in calls(load(text), ORDER)] == ["0/bought/0", "0/bought/2", "0/ordered/0"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"items": []}, "no_item"), ({"items": [{"quantity": 0}]}, "when_false"), ({"type": "z"}, "no_rule")],
)
def test_an_empty_list_or_a_when_that_leaves_all_out_makes_no_call(
    load: Load, changed: dict[str, Any], reason: str
) -> None:
    assert calls(load(RULE), {**ORDER, **changed}) == ()
    assert calls(load(RULE), {**ORDER, **changed}, which="why") == reason


@pytest.mark.parametrize(
    ("changed", "reason", "parameter", "text"),
    [
        ({"items": None}, "wrong_type", "each", "event.items is null, not a list"),
        ({"items": "secret"}, "wrong_type", "each", "event.items is a text, not a list"),
        ({"items": {"secret": 1}}, "wrong_type", "each", "event.items is an object, not a list"),
        ({"items": 5}, "wrong_type", "each", "event.items is an integer, not a list"),
        ({"items": [{"quantity": 1}]}, "missing_field", "actionAttributes.product", "item.name is missing"),
        ({"items": [5]}, "wrong_type", "when", "item is an integer, not an object (in item.quantity > 0)"),
        ({"items": [None]}, "wrong_type", "when", "item is null, not an object (in item.quantity > 0)"),
        ({"items": [{}]}, "missing_field", "when", "item.quantity is missing (in item.quantity > 0)"),
        (
            {"items": [{"name": "secret", "quantity": 1}], "factor": "secret"},
            "wrong_type",
            "points",
            "no int * string (in int(item.quantity) * event.factor)",
        ),
        ({"items": [{"quantity": 0}] * (MAX_ITEMS + 1)}, "too_many_items", "each", "event.items has more than 1,000 elements"),
    ],
)  # fmt: skip
def test_what_is_no_list_or_has_an_element_that_cannot_be_mapped_is_unmappable(
    load: Load, changed: dict[str, Any], reason: str, parameter: str, text: str
) -> None:
    assert unmappable(load(RULE), {**ORDER, **changed}) == (reason, parameter, text)


def test_a_missing_list_is_unmappable_unless_it_is_optional(load: Load) -> None:
    order = {key: value for key, value in ORDER.items() if key != "items"}
    assert unmappable(load(RULE), order) == ("missing_field", "each", "event.items is missing")
    for each in ("event.?items", "event.?items.orValue([])", "'has(event.items) ? event.items : []'"):
        text = RULE.replace("each: event.items", f"each: {each}").replace(
            ", size: '${ string(size(event.items)) }'", ""
        )
        assert calls(load(text), order) == ()
        assert len(calls(load(text), ORDER)) == 2
        assert calls(load(text), order, which="why") == "no_item"


def test_one_bad_element_keeps_all_calls_of_the_record_from_being_made(load: Load) -> None:
    items = [{"name": "a", "quantity": 1}, {"name": "b"}]
    assert unmappable(load(RULE), {**ORDER, "items": items})[0] == "missing_field"


def test_elements_may_be_of_any_kind_and_the_list_any_expression(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - name: r
        on: x
        each: event.uids.filter(item, item != "")
        when: item.startsWith("u")
        notifyAction: {UID: '${ item }', action: 'act_${ item }', context: {n: '${ item.size() }'}}
    """)
    made = calls(ruleset, {"type": "x", "uids": ["u1", "", "v", "u2"]})
    assert [(call.uid, call.params["action"], str(call.name)) for call in made] == [
        ("u1", "act_u1", "0/r/0"),
        ("u2", "act_u2", "0/r/2"),
    ]


def test_what_does_not_read_item_is_not_evaluated_for_an_empty_list_or_a_when_that_is_false(load: Load) -> None:
    text = RULE.replace("UID: ${ event.uid }", "UID: ${ string(event.nobody) }")
    assert calls(load(text), {**ORDER, "items": []}) == ()
    assert calls(load(text), {**ORDER, "items": [{"quantity": 0}]}) == ()
    assert unmappable(load(text), ORDER)[1] == "UID"


def test_a_list_too_long_for_one_budget_is_evaluated_in_parts(load: Load) -> None:
    text = RULE.replace("item.quantity > 0", "item.all.exists(n, n == item.quantity)")
    items = [{"name": "a", "quantity": at % 60, "all": list(range(50))} for at in range(400)]
    made = calls(load(text), {**ORDER, "items": items})
    assert [call.name.item for call in made] == [at for at in range(400) if at % 60 < 50]


def test_a_thousand_elements_are_mapped_though_each_reads_the_whole_list_and_only_the_last_is_bad(load: Load) -> None:
    # One by one this takes seconds: the event would be converted for each.
    text = RULE.replace("event.factor", "size(event.items)")
    items = [{"name": "a", "quantity": 1, **{f"k{at}": at for at in range(8)}}] * (MAX_ITEMS - 1)
    assert len(calls(load(text), {**ORDER, "items": items})) == MAX_ITEMS - 1
    assert unmappable(load(text), {**ORDER, "items": [*items, {}]})[2].startswith("item.quantity is missing")


def test_optionals_of_an_element_that_are_none_are_left_out(load: Load) -> None:
    text = RULE.replace("${ item.name }", "${ item.?name }").replace(
        "when: item.quantity > 0", "when: item.?gift.orValue(true)"
    )
    made = calls(
        load(text), {**ORDER, "items": [{"quantity": 1}, {"quantity": 1, "gift": False}, {"quantity": 2, "name": "n"}]}
    )
    found = [json.loads(call.params["actionAttributes"]) for call in made]
    assert found == [{"size": "3"}, {"size": "3", "product": "n"}]


@pytest.mark.parametrize("value", [5, "yes", None])
def test_a_when_that_gives_no_bool_for_an_element_is_unmappable(load: Load, value: Any) -> None:
    text = RULE.replace("item.quantity > 0", "item.gift")
    items = [{"name": "a", "quantity": 1, "gift": True}, {"name": "a", "quantity": 1, "gift": value}]
    assert unmappable(load(text), {**ORDER, "items": items})[:2] == ("when_not_bool", "when")


def test_a_when_of_the_event_alone_decides_for_the_whole_list(load: Load) -> None:
    text = RULE.replace("item.quantity > 0", "event.factor > 5")
    assert len(calls(load(text), ORDER)) == 3
    assert calls(load(text), {**ORDER, "factor": 1}) == ()


def test_text_with_nul_in_an_element_is_not_cut(load: Load) -> None:
    text = RULE.replace("item.quantity > 0", 'item.name == "a"')
    assert unmappable(load(text), {**ORDER, "items": [{"name": "a\0x", "quantity": 1}]})[0] == "bad_text"


def test_a_variable_of_a_list_function_may_be_called_item_without_each(load: Load) -> None:
    ruleset = load("""
    version: 1
    rules:
      - {name: r, on: x, when: 'event.l.exists(item, item.a == 1)', notifyAction: {UID: u, action: a}}
    """)
    assert len(calls(ruleset, {"type": "x", "l": [{"a": 1}]})) == 1


# What can be wrong


def replaced(old: str, new: str) -> str:
    assert old in RULE
    return RULE.lstrip("\n").replace(old, new)


BAD = [
    ("item without each", replaced("    each: event.items\n", ""), '5:11 rule "bought", when: item is known only in a rule with each; add each: with a list of the event'),
    ("a map", replaced("each: event.items", "each: \"{'a': 1}\""), '5:11 rule "bought", each: it gives map<string, int>, not a list; name a list of the event, such as event.items'),
    ("text", replaced("each: event.items", "each: string(event.items)"), '5:11 rule "bought", each: it gives string, not a list; name a list of the event, such as event.items'),
    ("item of itself", replaced("each: event.items", "each: item.items"), '5:11 rule "bought", each: item is known only in a rule with each; add each: with a list of the event'),
    ("with ${ }", replaced("each: event.items", "each: ${ event.items }"), '5:11 rule "bought", each is CEL as it stands, without ${ }; remove ${ and }'),
    ("empty", replaced("each: event.items", "each:"), '5:5 rule "bought", each is empty, not an expression; write CEL, in quotes if need be'),
    ("a misspelt key", replaced("each: event.items", "eech: event.items"), '5:5 rule "bought" has an unknown key "eech"; did you mean "each"?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_an_each_that_cannot_be_right_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        rules.loads(text, file="r.yaml", sites=["main"], topics=["t"])
    first = refused.value.problems[0]
    assert f"{first.line}:{first.column} {first.what}; {first.remedy}" == problem


def test_an_each_whose_rule_never_reads_item_is_a_warning(load: Load) -> None:
    text = "version: 1\nrules:\n  - {name: r, on: x, each: event.l, notifyAction: {UID: u, action: a}}\n"
    (warning,) = load(text).warnings
    assert warning.what == 'rule "r" makes the same call for every element of event.l: it never reads item'


def test_the_digest_tells_each(load: Load) -> None:
    assert load(RULE).digest != load(RULE.replace("event.items\n", "event.things\n")).digest
    assert load(RULE).digest == load(RULE + "# a comment\n").digest


# Examples


def problems(load: Load, example: str) -> list[str]:
    return [problem.what for problem in examples.run(load(RULE + f"    examples:\n      - {example}\n"))]


EVENT = f"event: {json.dumps(ORDER)}"
CALL_A = "{UID: u1, action: bought, points: 10, actionAttributes: {product: a, size: '3'}}"
CALL_C = "{UID: u1, action: bought, points: 30, actionAttributes: {product: c, size: '3'}}"


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (f"{{{EVENT}, calls: [{CALL_A}, {CALL_C}]}}", []),
        (f"{{{EVENT}, calls: [{CALL_A}]}}", ["expected 1 call, got 2"]),
        (f"{{{EVENT}, calls: [{CALL_A}, {CALL_C}, {CALL_C}]}}", ["expected 3 calls, got 2"]),
        (
            f"{{{EVENT}, calls: [{CALL_C}, {CALL_A}]}}",
            [
                "points: expected 30, got 10",
                'actionAttributes: expected {"product":"c","size":"3"}, got {"product":"a","size":"3"}',
                "points: expected 10, got 30",
                'actionAttributes: expected {"product":"a","size":"3"}, got {"product":"c","size":"3"}',
            ],
        ),
        (
            "{event: {type: order, uid: u, factor: 1, items: []}, calls: [{UID: u, action: bought}]}",
            ["expected 1 call, got none: event.items is empty"],
        ),
        (
            "{event: {type: order, uid: u, factor: 1, items: [{quantity: 0}]}, calls: [{UID: u, action: bought}]}",
            [
                "expected 1 call, got none: when is false for every element; the first: "
                "(item.quantity > 0, item.quantity is 0)"
            ],
        ),
    ],
)
def test_an_example_lists_the_calls_of_all_elements(load: Load, example: str, expected: list[str]) -> None:
    # A whole number that is a double elsewhere is a warning of its own: `event.factor` is not converted.
    found = [what for what in problems(load, example) if "instead of" not in what]
    assert found == [f'rule "bought", example "1": {what}' for what in expected]


def test_an_example_tells_which_kind_of_number_an_element_needs(load: Load) -> None:
    found = problems(load, f"{{{EVENT}, calls: [{CALL_A}, {CALL_C}]}}")
    assert len(found) == 1
    assert "with event.factor = 10.0 instead of 10 points errs (no int * double)" in found[0]


# Any list at all

MAPPER = Mapper(rules.loads(RULE, file="r.yaml", sites=["main"], topics=["user-events"]))
elements = st.fixed_dictionaries(
    {}, optional={"name": st.text(max_size=3) | st.none(), "quantity": st.integers(-2, 3) | st.floats(0, 2) | st.none()}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(elements | st.integers() | st.none(), max_size=6))
def test_any_list_makes_a_call_for_each_wanted_element_in_order_or_is_unmappable(items: list[Any]) -> None:
    record = KafkaRecord("user-events", 0, 0, json.dumps({**ORDER, "items": items}).encode())
    (event,) = MAPPER.decode(record)
    try:
        made = MAPPER.calls(record, event)
    except Unmappable as problem:
        made = ()
        assert problem.rule == "bought"  # noqa: PT017  both ends are right
    else:
        wanted = [at for at, item in enumerate(items) if item["quantity"] > 0]
        assert [call.name.item for call in made] == wanted
