"""Kinds of parameters: what a value may be, its limits, and its text on the wire. Pure.

Each judges a value of the rules file, where parts may be `DYNAMIC`, and a value of an event alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from worker.gigya.values import (
    MAPPINGS,
    SEQUENCES,
    Dynamic,
    ParameterError,
    Place,
    Value,
    kind_of,
    nearest,
    unknown_name,
)
from worker.model import Json

# Doubles carry whole numbers exactly below this (IEEE 754); beyond it digits are lost before we see the number.
_EXACT_BELOW = 2**53
_TEXTS = (str, Dynamic)
_NUMBERS = (int, float)
_ABSOLUTE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#]")


class Kind(Protocol):
    """A kind of value. Pure; values have been pruned and found fit for JSON before."""

    @property
    def limits(self) -> str:
        """What people read in a table: kind and limits."""
        ...

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        """Yield what is wrong; skip what is dynamic."""
        ...

    def text(self, value: Json) -> str:
        """Return the value as it is sent; called only for values without problems."""
        ...


def compact_json(value: Json) -> str:
    """Return compact JSON in raw UTF-8: serialised once, so that what is signed is what is sent."""
    return orjson.dumps(value).decode()


def _not_text(value: Value, place: Place) -> ParameterError:
    remedy = "put it in quotes" if place.literal else "make it text in the rule, e.g. ${ string(...) }"
    return place.error(f"is {kind_of(value)}, not text", remedy)


@dataclass(frozen=True, slots=True)
class Text:
    """Text of at most `max_chars` characters (0 = no limit known); one of `choices` where there are any."""

    max_chars: int = 0
    choices: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    refused_because: str = ""
    absolute_url: bool = False

    @property
    def limits(self) -> str:
        parts = ["text"]
        if self.max_chars:
            parts.append(f"at most {self.max_chars} characters")
        if self.choices:
            parts.append("one of " + ", ".join(self.choices))
        if self.refused:
            parts.append("not " + ", ".join(self.refused))
        if self.absolute_url:
            parts.append("an absolute URL")
        return ", ".join(parts)

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if isinstance(value, Dynamic):
            return
        if not isinstance(value, str):
            yield _not_text(value, place)
            return
        if self.max_chars and len(value) > self.max_chars:
            yield place.error(f"has {len(value)} characters", f"at most {self.max_chars} are allowed")
        if self.choices and value not in self.choices:
            meant = nearest(value, self.choices) if place.literal else None
            remedy = f'did you mean "{meant}"?' if meant else f"use one of {', '.join(self.choices)}"
            yield place.error(f"{place.shown(value)}is not one of its values", remedy)
        if value in self.refused:
            yield place.error(f'"{value}" is refused', self.refused_because)
        if self.absolute_url and not _ABSOLUTE_URL.match(value):
            yield place.error(
                f"{place.shown(value)}is not an absolute URL", "write it with scheme and host: https://..."
            )

    def text(self, value: Json) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """A whole number, negative ones included. A double without a fraction passes while doubles are exact."""

    @property
    def limits(self) -> str:
        return "whole number, may be negative"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if value is Dynamic.ANY:
            return
        if isinstance(value, int) and not isinstance(value, bool):
            return
        if not isinstance(value, float):
            yield place.error(f"is {kind_of(value)}, not a whole number", "write a whole number, or ${ int(...) }")
        elif not value.is_integer():
            shown = f"{value} " if place.literal else ""
            yield place.error(f"{shown}is not a whole number", "the API takes whole numbers only; write ${ int(...) }")
        elif abs(value) >= _EXACT_BELOW:
            yield place.error(
                "is a double of 2**53 or more, which has lost digits", "send it as an integer, not as a double"
            )

    def text(self, value: Json) -> str:
        return str(int(value)) if isinstance(value, _NUMBERS) else str(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A number between two bounds, both included."""

    lowest: float
    highest: float

    @property
    def limits(self) -> str:
        return f"number from {self.lowest:g} to {self.highest:g}"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if value is Dynamic.ANY:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield place.error(f"is {kind_of(value)}, not a number", "write a number, or ${ double(...) }")
        elif not self.lowest <= value <= self.highest:
            yield place.error("is out of range", f"it goes from {self.lowest:g} to {self.highest:g}")

    def text(self, value: Json) -> str:
        return compact_json(value)


@dataclass(frozen=True, slots=True)
class Length:
    """A length in pixels: a whole number from 0, or its digits as text (the API's examples write it so)."""

    @property
    def limits(self) -> str:
        return "whole number of pixels, or its digits as text"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if isinstance(value, Dynamic):
            return
        is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)
        if not is_whole and not (isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value)):
            yield place.error("is not a number of pixels", "write a whole number")

    def text(self, value: Json) -> str:
        return compact_json(value)


@dataclass(frozen=True, slots=True)
class Names:
    """Several names: a list of texts, or text with commas between them. Sent with commas, without spaces."""

    choices: tuple[str, ...] = ()

    @property
    def limits(self) -> str:
        return "list, or text with commas" + (f"; of {', '.join(self.choices)}" if self.choices else "")

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if isinstance(value, str):
            names = _split(value)
            if not names:
                yield place.error("holds commas and no name", "write at least one name, or leave the parameter out")
            for name in names:
                yield from self._problems_of_one(name, place)
        elif isinstance(value, Mapping) or not isinstance(value, Sequence | Dynamic):
            yield place.error(f"is {kind_of(value)}, not a list of texts", "write [one, two] or one,two")
        elif isinstance(value, Sequence):
            for index, item in enumerate(value):
                yield from self._problems_of_item(item, place.item(index))

    def _problems_of_item(self, name: Value, place: Place) -> Iterator[ParameterError]:
        if isinstance(name, Dynamic):
            return
        if not isinstance(name, str):
            yield _not_text(name, place)
        elif "," in name or not name.strip():
            yield place.error("is blank or holds a comma", "the API separates names by commas; write one name an item")
        else:
            yield from self._problems_of_one(name.strip(), place)

    def _problems_of_one(self, name: str, place: Place) -> Iterator[ParameterError]:
        if self.choices and name not in self.choices:
            meant = nearest(name, self.choices) if place.literal else None
            remedy = f'did you mean "{meant}"?' if meant else f"use {', '.join(self.choices)}"
            yield place.error(f"{place.shown(name)}is not a name that the API knows", remedy)

    def text(self, value: Json) -> str:
        names = _split(value) if isinstance(value, str) else [str(name).strip() for name in _items(value)]
        return ",".join(names)


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _items(value: Json) -> Sequence[Json]:
    return value if isinstance(value, Sequence) else ()


@dataclass(frozen=True, slots=True)
class FreeObject:
    """A JSON object of any shape."""

    @property
    def limits(self) -> str:
        return "mapping, sent as JSON"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        yield from _not_a_mapping(value, place)

    def text(self, value: Json) -> str:
        return compact_json(value)


def _not_a_mapping(value: Value, place: Place) -> Iterator[ParameterError]:
    if value is not Dynamic.ANY and not isinstance(value, MAPPINGS):
        yield place.error(f"is {kind_of(value)}, not a mapping", "write a mapping; the worker makes the JSON")


@dataclass(frozen=True, slots=True)
class Attributes:
    """Keys with one text or a list of texts each, at most `max_values` texts in total."""

    max_values: int

    @property
    def limits(self) -> str:
        return f"mapping of keys to text or lists of text, at most {self.max_values} values in total"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        yield from _not_a_mapping(value, place)
        if not isinstance(value, MAPPINGS):
            return
        count = 0
        for index, (key, inner) in enumerate(value.items()):
            if not key:
                yield place.item(index).error("has an empty key", "name the attribute")
            if isinstance(inner, str):
                count += 1
            elif isinstance(inner, SEQUENCES):
                count += sum(one is not Dynamic.ANY for one in inner)
                for at, one in enumerate(inner):
                    if not isinstance(one, _TEXTS):
                        yield _not_text(one, place.key(key, index).item(at))
            elif isinstance(inner, Dynamic):
                count += inner is Dynamic.TEXT
            else:
                yield _not_text(inner, place.key(key, index))
        if count > self.max_values:
            yield place.error(
                f"has {count} values", f"at most {self.max_values} in total are allowed, over all keys together"
            )

    def text(self, value: Json) -> str:
        return compact_json(value)


@dataclass(frozen=True, slots=True)
class Shape:
    """A JSON object whose fields are known."""

    fields: Mapping[str, Kind]
    required: tuple[str, ...] = ()

    @property
    def limits(self) -> str:
        return "mapping with " + ", ".join(self.fields)

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        yield from _not_a_mapping(value, place)
        if not isinstance(value, MAPPINGS):
            return
        for index, (name, inner) in enumerate(value.items()):
            if (kind := self.fields.get(name)) is None:
                yield unknown_name(place, name, index, self.fields, "field")
            else:
                yield from kind.problems(inner, place.field(name))
        for name in self.required:
            if name not in value:
                yield place.field(name).error("is missing or empty", "set it")

    def text(self, value: Json) -> str:
        return compact_json(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind."""

    kind: Kind

    @property
    def limits(self) -> str:
        return f"list; each: {self.kind.limits}"

    def problems(self, value: Value, place: Place) -> Iterator[ParameterError]:
        if value is Dynamic.ANY:
            return
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            yield place.error(f"is {kind_of(value)}, not a list", "write a list")
            return
        for index, one in enumerate(value):
            yield from self.kind.problems(one, place.item(index))

    def text(self, value: Json) -> str:
        return compact_json(value)
