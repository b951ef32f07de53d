"""Which reasons the source can give: whatever a literal or a constant puts where something is called `reason`.

Found in the syntax tree, not in the tables of reasons, so that a reason without a row cannot hide.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import worker

WORKER = Path(worker.__file__).parent
NAME = "reason"
# Another company's servers have reasons of their own.
_FOREIGN = "sandbox"


def reasons_in_source(root: Path = WORKER) -> dict[str, str]:
    """Return each reason with one place that gives it (`file:line`)."""
    paths = [path for path in sorted(root.rglob("*.py")) if _FOREIGN not in path.parts]
    trees = {str(path.relative_to(root)): ast.parse(path.read_text()) for path in paths}
    constants = dict(pair for tree in trees.values() for pair in _constants(tree))
    positions: defaultdict[str, set[int]] = defaultdict(set)
    for tree in trees.values():
        for name, position in _takers(tree):
            positions[name].add(position)
    found: dict[str, str] = {}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            for given in _given(node, positions):
                for text in _texts(given, constants):
                    found.setdefault(text, f"{file}:{given.lineno}")
    found.pop("", None)  # says that there is none
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text)))
            ):
                yield name, text


def _takers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield what takes a reason as which positional argument: functions, and classes by their fields or __init__."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name != "__init__":
                names = _arguments(node)
            case ast.ClassDef(name=name, body=body):
                makers = [each for each in body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                names = _arguments(makers[0]) if makers else _fields(body)
            case _:
                continue
        if NAME in names:
            yield name, names.index(NAME)


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _fields(body: list[ast.stmt]) -> list[str]:
    return [each.target.id for each in body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]


def _given(node: ast.AST, positions: Mapping[str, set[int]]) -> Iterator[ast.expr]:
    """Yield the expressions that a node puts where a reason belongs."""
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            name = getattr(func, "id", getattr(func, "attr", ""))
            yield from (args[position] for position in positions.get(name, ()) if position < len(args))
            yield from (keyword.value for keyword in keywords if keyword.arg == NAME)
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            yield from (value for key, value in pairs if isinstance(key, ast.Constant) and key.value == NAME)
        case ast.Assign(targets=[target], value=value) if _is_reason(target):
            yield value
        case ast.AnnAssign(target=target, value=ast.expr() as value) if _is_reason(target):
            yield value


def _is_reason(target: ast.expr) -> bool:
    return getattr(target, "attr", getattr(target, "id", "")) == NAME


def _texts(given: ast.expr, constants: Mapping[str, str]) -> Iterator[str]:
    """Yield what an expression can be, as far as it says it itself; what comes from elsewhere is found there."""
    match given:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one, constants)
            yield from _texts(other, constants)
        case ast.BoolOp(values=values):
            for value in values:
                yield from _texts(value, constants)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in constants:
            yield constants[name]
