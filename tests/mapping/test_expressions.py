"""What CEL gives, and what becomes of what it returns, raises, or would crash on."""

# ruff: noqa: E501  one case, one line
from __future__ import annotations

import pytest

from worker.mapping import scan
from worker.mapping.expressions import (
    Activation,
    BadExpression,
    Failed,
    FailedAt,
    activation,
    as_json,
    as_text,
    compile_expression,
    evaluate,
    fuse,
    has_nul,
    is_true,
)
from worker.model import Json


def variables(**event: Json) -> Activation:
    return activation({"event": event, "kafka": {"topic": "t", "headers": {"h": "x"}}, "ce": {}})


@pytest.mark.parametrize(
    ("source", "event", "result"),
    [
        ("event.a", {"a": 1}, 1),
        ("event['tv-show']", {"tv-show": "Glee"}, "Glee"),
        ("event.a.b.c", {"a": {"b": {"c": None}}}, None),
        ("event.n", {"n": 2**64 - 1}, 2**64 - 1),  # an unsigned integer is an integer
        ("event.n", {"n": -(2**63)}, -(2**63)),
        ("event.n + 1", {"n": 2}, 3),
        ("event.n", {"n": 10.0}, 10),  # a whole double passes for an integer
        ("event.n", {"n": -0.0}, 0),
        ("event.n * 0.1", {"n": 1.5}, 0.15000000000000002),
        ("event.n == 10", {"n": 10.0}, True),
        ("first(event.l, 2)", {"l": [1, 2, 3]}, [1, 2]),
        ("first(event.l, 2)", {"l": []}, []),
        ("first(event.l, 0)", {"l": ["a"]}, []),
        ("first(event.l, 9)", {"l": [{"a": 1.0}]}, [{"a": 1}]),
        ("event.l.map(x, x.name)", {"l": [{"name": "a"}]}, ["a"]),
        ("event.s.split(',')", {"s": "a,b"}, ["a", "b"]),
        ("event.s.lowerAscii()", {"s": "A"}, "a"),
        ("math.greatest(event.a, 5)", {"a": 3}, 5),
        ("'%s has %d' .format([event.a, 3])", {"a": "x"}, "x has 3"),
        ("string(timestamp('2024-01-01T00:00:00.5Z'))", {}, "2024-01-01T00:00:00.500Z"),
        ("event.?q", {}, None),
        ("event.?q", {"q": "v"}, "v"),
        ("event.?q.orValue('z')", {}, "z"),
        ("optional.of(3)", {}, 3),
        ("optional.none()", {}, None),
        ("{'a': 1, ?'b': event.?q}", {}, {"a": 1}),
        ("[?event.?q, 1]", {}, [1]),
        ("has(event.q) ? event.q : null", {}, None),
        ("event.a == 'x' || event.missing", {"a": "x"}, True),
        ("event.a // why\n + 1", {"a": 1}, 2),
        ("kafka.topic", {}, "t"),
        ("kafka.headers['h']", {}, "x"),
        ("has(ce.id)", {}, False),
    ],
)
def test_an_expression_gives_a_json_value(source: str, event: dict[str, Json], result: Json) -> None:
    value = evaluate(compile_expression(source), variables(**event))
    assert (value, type(value)) == (result, type(result))


@pytest.mark.parametrize(
    ("source", "event", "reason", "text"),
    [
        ("event.a", {}, "missing_field", "a field is missing"),
        ("has(event.a.b)", {}, "missing_field", "a field is missing"),
        ("event.a.b", {"a": "secret"}, "wrong_type", "a field is asked of something that is no object"),
        ("event.m[event.s]", {"m": {}, "s": "secret"}, "missing_field", "a field is missing"),
        ("event.l[5]", {"l": [1]}, "missing_field", "a list is shorter than the index"),
        ("event.n * 0.1", {"n": 10}, "wrong_type", "no int * double"),
        ("event.n > 1", {"n": "secret"}, "wrong_type", "no string > int"),
        ("event.a && true", {"a": 1}, "wrong_type", "&& needs true or false, and got something else"),
        ("event.a ? 1 : 2", {"a": "secret"}, "wrong_type", "? : needs true or false, and got something else"),
        ("1 / event.n", {"n": 0}, "expression_failed", "divide by zero"),
        ("event.n + 1", {"n": 2**63 - 1}, "expression_failed", "integer overflow"),
        ("int(event.s)", {"s": "secret"}, "expression_failed", "cannot convert string to int"),
        ("bool(event.s)", {"s": "secret"}, "expression_failed", "Type conversion error from 'string' to 'bool'"),
        ("event.s.matches(event.s)", {"s": "(secret"}, "expression_failed", "an invalid regular expression"),
        ("'%z'.format([event.s])", {"s": "secret"}, "expression_failed", "the expression fails (invalid_argument)"),
        ("first(event.l, -1)", {"l": []}, "expression_failed", "first: the count is negative"),
        ("first(event.l, 1)", {"l": "secret"}, "wrong_type", "first does not take (string, int)"),
        ("dyn(timestamp('2024-01-01T00:00:00Z'))", {}, "wrong_type", "the value is a datetime, which JSON does not know; write string(...) around it"),
        ("dyn(duration('1h'))", {}, "wrong_type", "the value is a duration, which JSON does not know; write string(...) around it"),
        ("dyn(b'x')", {}, "wrong_type", "the value is bytes, which JSON does not know; write string(...) around it"),
        ("[dyn(b'x')]", {}, "wrong_type", "the value is bytes, which JSON does not know; write string(...) around it"),
        ("dyn({1: 2})", {}, "wrong_type", "the value is a map whose keys are not text; write string(...) around the keys"),
        ("event.n", {"n": 2.0**64}, "inexact_number", "the number is beyond 2^53 and cannot be told exactly; send it as text"),
        ("double('nan')", {}, "not_a_number", "the value is NaN or infinite"),
        ("double('-inf')", {}, "not_a_number", "the value is NaN or infinite"),
        ("event.l.all(a, event.l.all(b, event.l.all(c, a + b + c >= 0)))", {"l": list(range(100))}, "expression_budget", "the expression takes more than 10,000 steps"),
        ("event.s", {"s": "\ud800"}, "bad_text", "the event holds text that is not Unicode"),
        # These crash the process when a result is read out whole.
        ("{'a': 1, 'b': event.?q}", {}, "wrong_type", "an optional inside a list or map; write {?'key': value} or [?value]"),
        ("[event.a, {'x': event.?q}]", {"a": 1}, "wrong_type", "an optional inside a list or map; write {?'key': value} or [?value]"),
        ("dyn([event.?q])", {}, "wrong_type", "an optional inside a list or map; write {?'key': value} or [?value]"),
        ("dyn(event.?q)", {}, "wrong_type", "the value is an optional, or holds one"),
    ],
)  # fmt: skip
def test_what_has_no_json_value_fails_with_a_safe_text(
    source: str, event: dict[str, Json], reason: str, text: str
) -> None:
    with pytest.raises(Failed) as failed:
        evaluate(compile_expression(source), variables(**event))
    assert (failed.value.reason, failed.value.text) == (reason, text)


@pytest.mark.parametrize(
    ("source", "offset", "what"),
    [
        ("", 0, "an empty expression"),
        ("  ", 0, "an empty expression"),
        ("event.a +", 9, "the expression ends too early"),
        ("event.a b", 8, "'b' does not belong here"),
        ("event.in", 6, "a character that does not belong here"),
        ("a == b", 0, 'unknown name "a"'),
        ("event.a == x.y.z", 11, 'unknown name "x"'),
        ("event.a == frist(event.b, 2)", 11, "unknown function frist()"),
        ("1 + 2.0", 2, "no int + double"),
        ("true ? 1 : 'x'", 5, "? : does not take (bool, int, string)"),
        ("b'x'", 0, "it gives bytes, which JSON does not know"),
        ("timestamp(event.t)", 0, "it gives timestamp, which JSON does not know"),
        ("type(event.t)", 0, "it gives type, which JSON does not know"),
        ("{'a': event.?q}", 0, "it gives an optional inside a list or map"),
        ("[event.?a]", 0, "it gives an optional inside a list or map"),
        ("{1: 'a'}", 0, "it gives a map whose keys are not text"),
        ("kafka.topik", 6, 'kafka has no "topik"'),
        ("event.a \0", 8, "a NUL character"),
        ("'\\ud800'", 0, "Invalid string literal: Illegal escape sequence: Unicode value \\ud800 is invalid"),
    ],
)
def test_an_expression_that_cannot_be_right_is_refused_with_its_place(source: str, offset: int, what: str) -> None:
    with pytest.raises(BadExpression) as bad:
        compile_expression(source)
    assert (bad.value.offset, bad.value.what) == (offset, what)


def test_a_condition_that_errs_is_not_true() -> None:
    # The library returns errors as values whose text is truthy: a naive `if` would fire.
    for source in ("event.progress >= 0.9", "event.flag"):
        with pytest.raises(Failed, match="a field is missing"):
            is_true(compile_expression(source), variables())


@pytest.mark.parametrize("value", [1, 0, "true", "", None, [], {"a": 1}])
def test_a_condition_that_is_no_bool_fails(value: Json) -> None:
    with pytest.raises(Failed) as failed:
        is_true(compile_expression("event.a"), variables(a=value))
    assert failed.value.reason == "when_not_bool"


def test_fused_expressions_give_what_single_ones_give() -> None:
    sources = ["event.a", "event.?q", "event.a + 1 // one more", "{'x': event.a}", "first(event.l, 1)", "'}' + ']'"]
    fused = fuse([compile_expression(source) for source in sources])
    assert fused.evaluate(variables(a=1, l=["b"])) == [1, None, 2, {"x": 1}, ["b"], "}]"]


@pytest.mark.parametrize(
    ("bad", "index"), [("event.missing", 1), ("{'a': 1, 'b': event.?q}", 1), ("9007199254740994.0", 1)]
)
def test_a_fused_failure_names_its_expression(bad: str, index: int) -> None:
    fused = fuse([compile_expression(source) for source in ("event.a", bad, "event.a")])
    with pytest.raises(FailedAt) as failed:
        fused.evaluate(variables(a=1))
    assert failed.value.index == index


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (True, "true"), (False, "false"), (-3, "-3"), (1.5, "1.5"), (1e-7, "1e-07")]
)
def test_a_value_inside_text_is_written_out(value: Json, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", [None, [], {}])
def test_what_is_no_single_value_cannot_stand_inside_text(value: Json) -> None:
    with pytest.raises(Failed, match="cannot stand inside text"):
        as_text(value)


def test_a_deeply_nested_value_fails_instead_of_ending_the_process() -> None:
    value: Json = 1
    for _ in range(1000):
        value = [value]
    with pytest.raises(Failed, match="nests more than 32 levels"):
        as_json(value)
    assert not has_nul(value)
    with pytest.raises(Failed, match="nests more than 32 levels"):
        evaluate(compile_expression("event.a == 0 ? event.d : dyn({'x': event.?d})"), variables(a=0, d=value))


def test_a_nul_is_found_in_keys_and_values_at_any_depth() -> None:
    assert has_nul({"a": [{"b\0": 1}]})
    assert has_nul({"a": [{"b": "x\0"}]})
    assert not has_nul({"a": [{"b": "x"}, 1, None]})


# What is seen in the text of an expression


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("event.a.b", "event.a.b"),
        (" event . a ", "event.a"),
        ("event['tv-show'].x", "event['tv-show'].x"),
        ("kafka.headers.x", "kafka.headers.x"),
        ("event", None),
        ("event.a.size()", None),
        ("event.?a", None),
        ("event.l[0]", None),
        ("event[event.a]", None),
        ("event.a + 1", None),
        ("x.a", None),
    ],
)
def test_a_plain_path_is_recognised(source: str, path: str | None) -> None:
    found = scan.plain_path(source)
    assert (str(found) if found else None) == path


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("event.a.b + event.c", {"a", "c"}),
        ("'event.x' == event.a", {"a"}),
        ("event.a // event.b", {"a"}),
        ("event.l.exists(event, event.y)", None),
        ("x.event.a == event.b", {"b"}),
        ("event['a'] + event[\"b\"]", {"a", "b"}),
        ("event.a.size()", {"a"}),
        ("event.size()", None),
        ("event == 1", None),
        ("event[event.k]", None),
        ("event.?a", None),
        ("event.`a-b`", None),
        ("1", set()),
    ],
)
def test_the_fields_that_an_expression_reads_are_found(source: str, keys: set[str] | None) -> None:
    found = scan.fields(source).event_keys
    assert (None if found is None else set(found)) == keys


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", [("plain", False)]),
        ("${ a }", [(" a ", True)]),
        ("x ${a} y", [("x ", False), ("a", True), (" y", False)]),
        ("$${ a }", [("${ a }", False)]),
        ("$$${ a }", [("$${ a }", False)]),
        ("${a}${b}", [("a", True), ("b", True)]),
        ("${ {'k': '}'} }", [(" {'k': '}'} ", True)]),
        ("${ \"}\" + '''}''' }", [(" \"}\" + '''}''' ", True)]),
        ("$ {a} $", [("$ {a} $", False)]),
        ("", []),
    ],
)
def test_a_text_is_split_at_its_expressions(text: str, found: list[tuple[str, bool]]) -> None:
    assert [(piece.text, piece.is_expression) for piece in scan.pieces(text)] == found
