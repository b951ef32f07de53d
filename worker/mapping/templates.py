"""What does a value with `${ }` in it give? Literals, expressions, and text around them. Pure.

A value that is nothing but `${ CEL }` keeps the kind of the result; inside text a result becomes text; `$${` is a
literal `${`. Keys are literal. All expressions of one rule are numbered parts: plain paths are read directly, the
others are evaluated at once, and then the templates are filled with the results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from worker.gigya.calls import DYNAMIC, DYNAMIC_TEXT, Value
from worker.mapping import scan
from worker.mapping.document import QUOTES_REMEDY, Fields, Items, Node, Place, Scalar, Source
from worker.mapping.expressions import (
    BadExpression,
    Expression,
    Failed,
    as_json,
    as_text,
    compile_expression,
)
from worker.model import Json


@dataclass(frozen=True, slots=True)
class Part:
    """One `${ }` of a rule: where it stands, and the parameter it belongs to, as in `actionAttributes.genre`."""

    expression: Expression
    parameter: str
    place: Place


@dataclass(frozen=True, slots=True)
class Literal:
    value: Json


@dataclass(frozen=True, slots=True)
class Slot:
    """The result of part `index`, as it is."""

    index: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Text with the results of parts in it."""

    pieces: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    items: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    fields: tuple[tuple[str, Template], ...]


Template: TypeAlias = Literal | Slot | Joined | ListOf | MapOf


def fill(template: Template, results: Sequence[Json]) -> Json:
    """Put the parts' results into a template. Raises FailedIn when a result cannot stand inside text."""
    match template:
        case Literal():
            return template.value
        case Slot():
            return results[template.index]
        case Joined():
            return "".join(piece if isinstance(piece, str) else _text(piece, results) for piece in template.pieces)
        case ListOf():
            return [fill(item, results) for item in template.items]
        case MapOf():
            return {key: fill(item, results) for key, item in template.fields}


class FailedIn(Exception):
    """A part's result does not fit where it stands."""

    def __init__(self, index: int, failed: Failed) -> None:
        super().__init__(failed.text)
        self.index = index
        self.failed = failed


def _text(index: int, results: Sequence[Json]) -> str:
    try:
        return as_text(results[index])
    except Failed as error:
        raise FailedIn(index, error) from error


def outline(template: Template) -> Value:
    """Return the value with what only an event can tell left open, for checks at load."""
    match template:
        case Literal():
            return template.value
        case Slot():
            return DYNAMIC
        case Joined():
            has_text = any(isinstance(piece, str) for piece in template.pieces)
            return DYNAMIC_TEXT if has_text else DYNAMIC
        case ListOf():
            return [outline(item) for item in template.items]
        case MapOf():
            return {key: outline(item) for key, item in template.fields}


class Compiler:
    """Compiles the values of one rule; collects parts in `parts` and problems in the source."""

    def __init__(self, source: Source, rule: str, *, with_item: bool = False) -> None:
        self._source = source
        self._rule = rule
        self._with_item = with_item
        self.parts: list[Part] = []
        self.has_errors = False

    def compile(self, node: Node, parameter: str) -> Template:
        match node:
            case Scalar():
                return self._scalar(node, parameter)
            case Items():
                children = tuple(self.compile(item, f"{parameter}[{at}]") for at, item in enumerate(node.values))
                if all(isinstance(child, Literal) for child in children):
                    return Literal([child.value for child in children if isinstance(child, Literal)])
                return ListOf(children)
            case Fields():
                return self._fields(node, parameter)

    def _fields(self, node: Fields, parameter: str) -> Template:
        for entry in node.entries:
            if "${" in entry.key:
                self._error(
                    entry.place,
                    f"{self._rule}, {parameter}: a key is literal, ${{ }} works in values only",
                    "name the key",
                )
        children = tuple((entry.key, self.compile(entry.value, f"{parameter}.{entry.key}")) for entry in node.entries)
        if all(isinstance(child, Literal) for _, child in children):
            return Literal({key: child.value for key, child in children if isinstance(child, Literal)})
        return MapOf(children)

    def _scalar(self, node: Scalar, parameter: str) -> Template:
        if not isinstance(node.value, str) or "${" not in node.value:
            return self._literal(node, parameter)
        try:
            found = scan.pieces(node.value)
        except scan.Unterminated as error:
            self._unterminated(node, error.offset, parameter)
            return Slot(0)
        if not any(piece.is_expression for piece in found):
            return Literal("".join(piece.text for piece in found))
        if len(found) == 1:
            return Slot(self._part(node, found[0], parameter, in_text=False))
        return Joined(
            tuple(
                self._part(node, piece, parameter, in_text=True) if piece.is_expression else piece.text
                for piece in found
            )
        )

    def _literal(self, node: Scalar, parameter: str) -> Template:
        try:
            return Literal(as_json(node.value))
        except Failed as error:
            self._error(node.place, f"{self._rule}, {parameter}: {error.text}", "put quotes around it")
            return Slot(0)

    def _part(self, node: Scalar, piece: scan.Piece, parameter: str, *, in_text: bool) -> int:
        what = f"{self._rule}, {parameter}"
        expression = compile_at(self._source, node, piece.text, piece.offset, what, with_item=self._with_item)
        if expression is None:
            self.has_errors = True
            return 0
        place = self._source.place_in(node, piece.offset)
        if in_text and re.match(r"LIST|MAP|NULL", expression.kind):
            kind = expression.kind.split("<")[0].lower()
            self._error(
                place, f"{self._rule}, {parameter}: a {kind} cannot stand inside text", "give a text or a number"
            )
        self.parts.append(Part(expression, parameter, place))
        return len(self.parts) - 1

    def _unterminated(self, node: Scalar, offset: int, parameter: str) -> None:
        place = self._source.place_in(node, offset)
        if re.match(r"[ \t]+#", self._source.text[node.end :]):
            what, remedy = 'a plain YAML value ends at " #", so the ${ is never closed', QUOTES_REMEDY
        else:
            what, remedy = "${ without its }", "close it with }, or write $${ for the two characters"
        self._error(place, f"{self._rule}, {parameter}: {what}", remedy)

    def _error(self, place: Place, what: str, remedy: str) -> None:
        self.has_errors = True
        self._source.error(place, what, remedy)


def compile_at(
    source: Source, node: Scalar, text: str, offset: int, what: str, *, with_item: bool = False
) -> Expression | None:
    """Compile an expression that starts at `offset` of a scalar; report what is wrong with it at its place."""
    try:
        return compile_expression(text, with_item=with_item)
    except BadExpression as error:
        source.error(source.place_in(node, offset + error.offset), f"{what}: {error.what}", error.remedy)
        return None


def values_of(templates: Mapping[str, Template]) -> dict[str, Value]:
    return {name: outline(template) for name, template in templates.items()}
