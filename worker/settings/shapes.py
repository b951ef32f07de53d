"""What may stand where in a tree of settings, read off the pydantic models that will receive it.

The models decide what is valid; a shape only says which keys exist, which kind of value each wants and which are
secret: what is needed to read text from the environment, to name the nearest key, and to know what must not be shown.
Pure.
"""

from __future__ import annotations

import difflib
import enum
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from worker.settings.yamlfile import Path, Tree

_LISTS = (list, tuple, set, frozenset, Sequence, Collection, AbstractSet)
_MAPS = (dict, Mapping)
NAMES = {  # a kind of value -> how a person calls it
    "flag": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "text": "text",
    "null": "null",
    "list": "a list",
    "mapping": "a mapping",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What one place of the tree takes. No kinds: anything, and the model alone decides."""

    kinds: frozenset[str] = frozenset()
    fields: Mapping[str, Shape] = field(default_factory=dict)  # of a model: exactly these keys
    values: Shape | None = None  # of a map: any key, each with this shape
    items: Shape | None = None  # of a list
    secret: bool = False
    is_path: bool = False

    def below(self, step: str | int) -> Shape | None:
        """Return the shape of a key or a list's item; None where there is no such place."""
        if isinstance(step, int):
            return self.items
        return self.fields.get(step) or self.values

    def at(self, path: Path) -> Shape | None:
        shape: Shape | None = self
        for step in path:
            shape = shape.below(step) if shape is not None else None
        return shape

    def leaves(self, known: Tree, path: Path = ()) -> Iterator[tuple[Path, Shape]]:
        """Yield every place that takes a single value or a list; maps with the keys that `known` has."""
        tree = known if isinstance(known, dict) else {}
        children = dict(self.fields)
        if self.values is not None:
            children |= {key: self.values for key in tree if key not in children}
        for key, child in children.items():
            if child.fields or child.values is not None:
                yield from child.leaves(tree.get(key), (*path, key))
            if not child.fields:
                yield (*path, key), child


def shape_of(annotation: object) -> Shape:
    """Return what a field with this annotation takes."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _either([shape_of(member) for member in get_args(annotation)])
    if origin is Literal:
        return _either([shape_of(type(choice)) for choice in get_args(annotation)])
    if origin in _LISTS or annotation in _LISTS:
        items = [item for item in get_args(annotation) if item is not Ellipsis]
        return Shape(frozenset({"list"}), items=_either([shape_of(item) for item in items]) if items else Shape())
    if origin in _MAPS or annotation in _MAPS:
        args = get_args(annotation)
        return Shape(frozenset({"mapping"}), values=shape_of(args[1]) if args else Shape())
    return _plain(annotation) if isinstance(annotation, type) else Shape()


def _plain(kind: type) -> Shape:
    if issubclass(kind, BaseModel):
        fields = {name: shape_of(info.annotation) for name, info in kind.model_fields.items()}
        return Shape(frozenset({"mapping"}), fields=fields)
    if kind is types.NoneType:
        return Shape(frozenset({"null"}))
    if issubclass(kind, bool):
        return Shape(frozenset({"flag"}))
    if issubclass(kind, enum.Enum):
        return _either([shape_of(type(member.value)) for member in kind])
    for base, name in ((int, "integer"), (float, "number"), (str, "text"), (SecretStr, "text"), (FilePath, "text")):
        if issubclass(kind, base):
            return Shape(frozenset({name}), secret=base is SecretStr, is_path=base is FilePath)
    return Shape()


def _either(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of a union: whatever one of its members takes."""
    fields: dict[str, Shape] = {}
    for shape in shapes:
        for name, child in shape.fields.items():
            fields[name] = _either([fields[name], child]) if name in fields else child
    anything = any(not shape.kinds for shape in shapes)
    return Shape(
        frozenset() if anything else frozenset().union(*(shape.kinds for shape in shapes)),
        fields,
        next((shape.values for shape in shapes if shape.values is not None), None),
        next((shape.items for shape in shapes if shape.items is not None), None),
        secret=any(shape.secret for shape in shapes),
        is_path=any(shape.is_path for shape in shapes),
    )


def kind_of(value: Tree) -> str:
    """Return which of `NAMES` a value is."""
    match value:
        case None:
            return "null"
        case bool():
            return "flag"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
    return "mapping"


def nearest(word: str, known: Collection[str]) -> str:
    """Return the known word that was probably meant; empty when none is near."""
    by_fold = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""


def misplaced(tree: Tree, shape: Shape, path: Path = ()) -> Iterator[tuple[Path, str, str]]:
    """Yield every key nobody knows and every value of the wrong kind, as (path, what, remedy)."""
    if shape.kinds and not _fits(tree, shape):
        yield path, *_wrong_kind(tree, shape)
    elif isinstance(tree, list) and shape.items is not None:
        for index, item in enumerate(tree):
            yield from misplaced(item, shape.items, (*path, index))
    elif isinstance(tree, dict) and (shape.fields or shape.values is not None):
        for key, value in tree.items():
            child = shape.below(key)
            if child is None:
                yield (*path, key), "unknown setting", ""
            else:
                yield from misplaced(value, child, (*path, key))


def _fits(value: Tree, shape: Shape) -> bool:
    kind = kind_of(value)
    return kind in shape.kinds or (kind == "integer" and "number" in shape.kinds)


def _wrong_kind(value: Tree, shape: Shape) -> tuple[str, str]:
    kind = kind_of(value)
    order = [name for name in NAMES if name in shape.kinds]
    if kind == "null":
        return "has no value", f"write {' or '.join(NAMES[name] for name in order)} after the colon"
    what = f"must be {' or '.join(NAMES[name] for name in order)}, is {NAMES[kind]}"
    if kind in {"integer", "number", "flag"} and "text" in shape.kinds:
        return what, "put quotes around it"
    if kind == "text" and shape.kinds & {"integer", "number"} and _reads_as_number(str(value)):
        return what, "write it without quotes"
    if kind == "text" and "flag" in shape.kinds:
        return what, "write true or false"
    if kind != "list" and "list" in shape.kinds:
        return what, "write [first, second]"
    return what, ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
