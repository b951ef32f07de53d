"""What does an expression give for an event? CEL, compiled once. Pure.

Variables: `event` (the payload), `kafka` (topic, partition, offset, key, timestamp in ms, headers), `ce` (CloudEvents
attributes; an empty map without an envelope); in a rule with `each` also `item`, one element of its list. Extensions:
strings, math, optional; `first(list, n)` is ours.

What cel-expr-python 0.1.3 does (tried), and what is made of it here:

* it *returns* errors as values of type ERROR whose plain value is a text: the kind of every result is looked at;
* it *raises* for an exhausted budget (10,000 iterations, some 4 ms) and for text that is not Unicode;
* reading a list or map that holds an optional out of it *crashes the process*. A result that is an optional is
  rewritten so that none becomes null; nested ones are refused at load, and where the static type does not show them
  the result is read value by value, which only raises;
* a text from outside is cut at a NUL character, silently. `has_nul` finds such events, and they are not evaluated;
* the whole map of a variable is converted at the first evaluation: only the fields that are named are handed over, and
  one Activation serves all expressions of an event (14 us -> 2 us for a 1 KB event).

Results are JSON values. A whole double becomes an integer, as JSON does not tell 10 from 10.0; beyond 2**53 it is
refused, as it may stand for another number than was written. Bytes, timestamps, durations and types are not converted:
`string(...)` says how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol, cast

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings

from worker.mapping import scan
from worker.model import Json

MAX_RESULT_DEPTH: Final = 32
NOT_AN_OBJECT: Final = "a field is asked of something that is no object"
_EXACT: Final = 2**53
# Concrete types first: an abstract one costs several times as much. Tuples, since `A | B` is made anew at each use.
_MAPPINGS: Final = (dict, Mapping)
_LISTS: Final = (list, tuple)
_NOT_JSON: Final = re.compile(r"\b(BYTES|TIMESTAMP|DURATION|TYPE)\b")
_COMPILE_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
# Version 2 of the optional extension adds list functions, one of them called `first`.
_OPTIONAL_VERSION: Final = 1


class BadExpression(ValueError):
    """The text is no expression that can be right. `offset` is the place within the source."""

    def __init__(self, offset: int, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.offset = offset
        self.what = what
        self.remedy = remedy


class Failed(Exception):
    """An evaluation has no result. `text` is safe to log: names from the rules and kinds, never a value.

    `key` is the field that was not found, which may come from the event: it is compared and never shown.
    """

    def __init__(self, reason: str, text: str, key: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.key = key


# The library ships stubs without saying so (no py.typed); these are the few things used of it.


class Activation(Protocol):
    """The bound variables; opaque."""


class _Kind(Protocol):
    def name(self) -> str: ...


class _Result(Protocol):
    def type(self) -> _Kind: ...
    def value(self) -> object: ...
    def plain_value(self) -> object: ...


class Program(Protocol):
    def eval(self, activation: Activation) -> _Result: ...
    def return_type(self) -> _Kind: ...


class _Environment(Protocol):
    def compile(self, expression: str) -> Program: ...
    def Activation(self, data: Mapping[str, object]) -> Activation: ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. `path` is set when it is nothing but a path and can be read without CEL."""

    source: str
    program: Program
    kind: str  # the static type as CEL writes it: BOOL, DYN, LIST<STRING>, ...
    path: scan.Path | None
    fields: scan.Fields
    may_hide_optional: bool
    cel_source: str  # what was compiled: the source, rewritten when it is an optional


@cache
def _environment(*, with_item: bool, roots: tuple[str, ...] = scan.ROOTS) -> _Environment:
    any_map = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    first = cel.Overload(
        id="worker_first_list_int",
        return_type=cel.Type.List(cel.Type.DYN),
        parameters=[cel.Type.List(cel.Type.DYN), cel.Type.INT],
        is_member=False,
        impl=_first,
    )
    environment: _Environment = cel.NewEnv(
        variables={**dict.fromkeys(roots, any_map), **({scan.ITEM: cel.Type.DYN} if with_item else {})},
        extensions=[
            ext_strings.ExtStrings(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(_OPTIONAL_VERSION),
            cel.CelExtension("worker", [cel.FunctionDecl("first", [first])]),
        ],
    )
    return environment


def _first(values: list[object], count: int) -> list[object]:
    if count < 0:
        raise ValueError("first: the count is negative")
    return values[:count]


def activation(variables: Mapping[str, Json], *, roots: tuple[str, ...] = scan.ROOTS) -> Activation:
    """Bind the variables that are read, by name; what they hold is converted once, at the first evaluation."""
    return _environment(with_item=True, roots=roots).Activation(variables)


# Compiling


def compile_expression(source: str, *, with_item: bool = False) -> Expression:
    """Compile; raises BadExpression with the place of the first problem. `item` is known only where it is said so."""
    if not source.strip():
        raise BadExpression(0, "an empty expression", "write what it shall give, such as event.user.uid")
    program = compile_program(source, with_item=with_item)
    kind = str(program.return_type())
    roots = (*scan.ROOTS, scan.ITEM) if with_item else scan.ROOTS
    fields = scan.fields(source, roots)
    _check_names(source)
    cel_source, optional = source, kind.startswith("optional_type<")
    if optional:
        kind = kind.removeprefix("optional_type<").removesuffix(">")
    _check_kind(kind)
    if optional:
        cel_source = f"({source}\n).optMap(value_, dyn(value_)).orValue(null)"
        program, kind = compile_program(cel_source, with_item=with_item), "DYN"
    hides = "DYN" in kind and scan.can_make_optional(source)
    return Expression(source.strip(), program, kind, scan.plain_path(source, roots), fields, hides, cel_source)


def compile_program(source: str, *, with_item: bool, roots: tuple[str, ...] = scan.ROOTS) -> Program:
    """Compile; raises BadExpression. What the result may be, and other variables than rules have, is the caller's."""
    if "\0" in source:
        raise BadExpression(source.index("\0"), "a NUL character", "remove it")
    try:
        return _environment(with_item=with_item, roots=roots).compile(source)
    except RuntimeError as error:
        raise _bad_expression(source, str(error), roots) from None


def _bad_expression(source: str, text: str, roots: tuple[str, ...]) -> BadExpression:
    match = _COMPILE_ERROR.search(text)
    if match is None:
        return BadExpression(0, text.split("\n")[0].removesuffix("]").split(" [")[0])
    line, column, what = int(match[1]), int(match[2]), match[3].removesuffix(" [INVALID_ARGUMENT]")
    lines = source.split("\n")
    offset = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
    if unknown := re.match(r"undeclared reference to '([^']*)'", what):
        return _unknown_name(source, unknown[1], min(offset, len(source)), roots)
    if "Syntax error" in what:
        what = what.removeprefix("Syntax error: ")
        if "mismatched input '<EOF>'" in what:
            what = "the expression ends too early"
        elif "token recognition error" in what or "no viable alternative" in what:
            what = "a character that does not belong here"
        else:
            what = re.sub(r"(?:mismatched|extraneous) input ('.*?') expecting .*", r"\1 does not belong here", what)
    elif overload := re.match(r"found no matching overload for '(.*?)' applied to '(.*)'", what):
        what = _no_overload(overload[1], overload[2])
        return BadExpression(offset, what, _conversion_hint(overload[2]))
    return BadExpression(min(offset, len(source)), what)


def _unknown_name(source: str, name: str, offset: int, roots: tuple[str, ...]) -> BadExpression:
    root = name.split(".")[0]
    for token in scan.tokens(source):
        if token.text == root:
            offset = token.start
            break
    if "." not in name and source[offset + len(root) :].lstrip().startswith("("):
        return BadExpression(offset, f"unknown function {root}()", "rules have CEL's own, strings, math, and first()")
    if root == scan.ITEM:
        return BadExpression(offset, "item is known only in a rule with each", "add each: with a list of the event")
    remedy = f"an expression knows {', '.join(roots[:-1])} and {roots[-1]}; text stands in quotes"
    return BadExpression(offset, f'unknown name "{root}"', remedy)


def _check_names(source: str) -> None:
    found = list(scan.tokens(source))
    known = ("topic", "partition", "offset", "key", "timestamp", "headers")
    for before, root, dot, name in zip([None, *found], found, found[1:], found[2:], strict=False):
        is_kafka = root.text == "kafka" and (before is None or before.text != ".")
        if is_kafka and dot.text == "." and name.kind == "name" and name.text not in known:
            raise BadExpression(name.start, f'kafka has no "{name.text}"', f"it has {', '.join(known)}")


def _check_kind(kind: str) -> None:
    if match := _NOT_JSON.search(kind):
        raise BadExpression(0, f"it gives {match[1].lower()}, which JSON does not know", "write string(...) around it")
    if "optional_type<" in kind:
        raise BadExpression(0, "it gives an optional inside a list or map", "write {?'key': value} or [?value]")
    if re.search(r"MAP<(?!STRING|DYN)", kind):
        raise BadExpression(0, "it gives a map whose keys are not text", "write string(...) around the keys")


# Evaluating


def evaluate(expression: Expression, variables: Activation) -> Json:
    """Return the result. Raises Failed."""
    try:
        result = expression.program.eval(variables)
        if result.type() == cel.Type.ERROR:
            raise _reading_of(str(result.plain_value()))
        return slowly(result) if expression.may_hide_optional else as_json(result.plain_value())
    except Failed:
        raise
    except Exception as error:
        raise _raised(error) from error


def read(path: scan.Path, variable: object) -> Json:
    """Read a plain path without CEL, with the same result. Raises Failed, which names the field."""
    value: Any = variable
    try:
        for key in path.keys:
            value = value[key]
    except (LookupError, TypeError):
        raise Failed(*_broken(path, *scan.walk(variable, path.keys))) from None
    return as_json(value)


def _broken(path: scan.Path, depth: int, value: object) -> tuple[str, str]:
    if isinstance(value, Mapping):
        return "missing_field", f"{scan.Path(path.root, path.keys[: depth + 1])} is missing"
    return "wrong_type", f"{scan.Path(path.root, path.keys[:depth])} is {kind_of(value)}, not an object"


def blame(expression: Expression, failed: Failed, variables: Mapping[str, object]) -> Failed:
    """Say which field is to blame, if one can be told from the fields that the expression names."""
    for path in expression.fields.paths:
        depth, value = scan.walk(variables.get(path.root), path.keys)
        if depth == len(path.keys):
            continue
        is_missing = isinstance(value, Mapping)
        if (failed.key == path.keys[depth]) if is_missing else failed.text == NOT_AN_OBJECT:
            return Failed(*_broken(path, depth, value))
    return failed


def is_true(expression: Expression, variables: Activation) -> bool:
    """Return what a `when` says. Raises Failed, also when it is no bool."""
    if expression.kind == "BOOL":
        try:
            # Of a static bool an error is the only other result, and its plain value is a text.
            result = expression.program.eval(variables).plain_value()
        except Exception as error:
            raise _raised(error) from error
        if result is True or result is False:
            return result
    value = evaluate(expression, variables)
    if value is True or value is False:
        return value
    raise Failed("when_not_bool", f"the condition gives {kind_of(value)}, not true or false")


@dataclass(frozen=True, slots=True)
class Fused:
    """Several expressions compiled into one list: one evaluation instead of many."""

    expressions: tuple[Expression, ...]
    program: Program
    may_hide_optional: bool

    def evaluate(self, variables: Activation) -> list[Json]:
        """Return the results in order. Raises FailedAt, which names the expression."""
        try:
            result = self.program.eval(variables)
            if self.may_hide_optional:
                values = slowly(result) if result.type() != cel.Type.ERROR else None
                if isinstance(values, list):
                    return values
            else:
                plain = result.plain_value()
                if type(plain) is list:
                    return [as_json(value) for value in plain]
        except Exception:  # noqa: BLE001, S110  whatever it is, the single evaluations below name it
            pass
        return self._one_by_one(variables)

    def _one_by_one(self, variables: Activation) -> list[Json]:
        values: list[Json] = []
        for index, expression in enumerate(self.expressions):
            try:
                values.append(evaluate(expression, variables))
            except Failed as error:
                raise FailedAt(index, error) from error
        return values


class FailedAt(Exception):
    """Which of fused expressions failed, and why."""

    def __init__(self, index: int, failed: Failed) -> None:
        super().__init__(failed.text)
        self.index = index
        self.failed = failed


def fuse(expressions: Sequence[Expression]) -> Fused:
    """Compile expressions that compile singly into one. A line break ends a comment that one of them may end with."""
    source = "[" + ",".join(f"dyn({expression.cel_source}\n)" for expression in expressions) + "]"
    hides = any(expression.may_hide_optional for expression in expressions)
    with_item = any(scan.ITEM in expression.fields.roots for expression in expressions)
    return Fused(tuple(expressions), compile_program(source, with_item=with_item), hides)


# Values


def as_json(value: object, depth: int = 0) -> Json:
    """Turn a value of an event or of CEL into one that can be sent. Raises Failed for what JSON cannot say."""
    if value is None or isinstance(value, str) or isinstance(value, int):  # noqa: SIM101  twice as fast
        return value
    if isinstance(value, float):
        return _number(value)
    if depth >= MAX_RESULT_DEPTH:
        raise Failed("too_deep", f"the value nests more than {MAX_RESULT_DEPTH} levels")
    if isinstance(value, _MAPPINGS):
        if not all(isinstance(key, str) for key in value):
            raise Failed("wrong_type", "the value is a map whose keys are not text; write string(...) around the keys")
        return {key: as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, _LISTS):
        return [as_json(item, depth + 1) for item in value]
    raise Failed("wrong_type", f"the value is {kind_of(value)}, which JSON does not know; write string(...) around it")


def _number(value: float) -> int | float:
    if value != value or value in (float("inf"), float("-inf")):
        raise Failed("not_a_number", "the value is NaN or infinite")
    if not value.is_integer():
        return value
    if abs(value) > _EXACT:
        raise Failed("inexact_number", "the number is beyond 2^53 and cannot be told exactly; send it as text")
    return int(value)


def as_text(value: Json) -> str:
    """Write a value into a text: bools as true and false, numbers in decimal. Raises Failed for anything else."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case _:
            raise Failed("wrong_type", f"{kind_of(value)} cannot stand inside text; give a text or a number")


def slowly(value: _Result, depth: int = 0) -> Json:
    """Read a result value by value: an optional inside raises here, and would crash `plain_value` of the whole."""
    kind = value.type().name()
    if kind == "ERROR":
        raise Failed("wrong_type", "an optional inside a list or map; write {?'key': value} or [?value]")
    if depth >= MAX_RESULT_DEPTH:
        raise Failed("too_deep", f"the value nests more than {MAX_RESULT_DEPTH} levels")
    if kind.startswith("LIST"):
        return [slowly(item, depth + 1) for item in cast("Sequence[_Result]", value.value())]
    if kind.startswith("MAP"):
        inner = cast("Mapping[str, _Result]", value.value())
        items = {key: slowly(item, depth + 1) for key, item in inner.items()}
        return as_json(items, depth)
    return as_json(value.plain_value(), depth)


def kind_of(value: object) -> str:
    """Name the kind of a value for people."""
    names: dict[type, str] = {
        type(None): "null", bool: "a bool", int: "an integer", float: "a double", str: "a text", list: "a list",
        bytes: "bytes", bytearray: "bytes",
    }  # fmt: skip
    if isinstance(value, Mapping):
        return "an object"
    return names.get(type(value), f"a {type(value).__name__.lower().replace('timedelta', 'duration')}")


def has_nul(value: object) -> bool:
    """Tell whether a text or key in a value holds a NUL character, at which CEL would cut it."""
    pending: list[object] = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if "\0" in value:
                return True
        elif isinstance(value, Mapping):
            pending.extend(value)
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
    return False


# What the library's texts mean. They can quote keys, patterns and numbers of the event, so only known ones pass.

_SYMBOLS: Final = {
    "_&&_": "&&", "_||_": "||", "!_": "!", "-_": "-", "_?_:_": "? :", "<jump_condition>": "? :", "@in": "in",
    "_[_]": "[ ]", "_[?_]": "[? ]", "<iter_range>": "a list function",
}  # fmt: skip
_SAFE: Final = (
    "divide by zero", "modulus by zero", "integer overflow", "unsigned integer overflow", "int overflow",
    "double out of int64 range", "malformed UTF-8 bytes", "String to Timestamp conversion failed",
    "String to Duration conversion failed", "optional.none() dereference", "first: the count is negative",
)  # fmt: skip
_SAFE_PATTERN: Final = re.compile(
    r"cannot convert \w+ to \w+|Type conversion error from '\w+' to '\w+'|<string>\.\w+\([<>\w, ]*\): [<>\w .()]+"
)
_MISSING_KEY: Final = re.compile(r'Key not found in map : "(.*)"', re.DOTALL)
_OVERLOAD: Final = re.compile(
    r"No matching overloads found : ([\w@.!&|?:<>=+*/%\[\]-]+)(?:\(([\w, .]*)\))?(\.\w+\(\))?"
)


def _reading_of(text: str) -> Failed:
    """Turn an error value's text into one that is safe to show."""
    message = text.partition(": ")[2]
    if match := _MISSING_KEY.fullmatch(message):
        return Failed("missing_field", "a field is missing", match[1])
    return Failed(*_words_of(text, message))


def _words_of(text: str, message: str) -> tuple[str, str]:
    if message.startswith("No value with name"):
        return "missing_field", "a variable is missing"
    if message == "Applying SELECT to non-message type":
        return "wrong_type", NOT_AN_OBJECT
    if message.startswith("Index error"):
        return "missing_field", "a list is shorter than the index"
    if message.startswith("invalid regular expression"):
        return "expression_failed", "an invalid regular expression"
    if overload := _OVERLOAD.fullmatch(message):
        return "wrong_type", _no_overload(overload[1], overload[2] or "")
    if message in _SAFE or _SAFE_PATTERN.fullmatch(message):
        return "expression_failed", message
    return "expression_failed", f"the expression fails ({text.partition(':')[0].lower()[:30]})"


def _no_overload(function: str, arguments: str) -> str:
    kinds = [kind.strip().replace("int64", "int") for kind in arguments.strip("()").split(",") if kind.strip()]
    if function in ("_&&_", "_||_", "!_", "<jump_condition>", "_?_:_") and not kinds:
        return f"{_SYMBOLS[function]} needs true or false, and got something else"
    if match := re.fullmatch(r"_(\W+)_", function):
        return f"no {kinds[0]} {match[1]} {kinds[1]}" if len(kinds) == 2 else f"{match[1]} does not fit these kinds"
    name = _SYMBOLS.get(function, function)
    return f"{name} does not take ({', '.join(kinds)})" if kinds else f"{name} does not take this kind"


def _conversion_hint(arguments: str) -> str:
    if {"int", "double"} <= {kind.strip() for kind in arguments.strip("()").split(",")}:
        return "CEL does not mix int and double: write double(...) or int(...)"
    return ""


def _raised(error: Exception) -> Failed:
    if isinstance(error, Failed):
        return error
    if "budget" in str(error):
        return Failed("expression_budget", "the expression takes more than 10,000 steps")
    if isinstance(error, TypeError | SystemError):
        return Failed("wrong_type", "the value is an optional, or holds one")
    return Failed("bad_text", "the event holds text that is not Unicode")
