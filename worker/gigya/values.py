"""Values before they are judged: what a call can carry at all, what is empty, and how a place in them is named. Pure.

When rules are loaded, a value may hold `DYNAMIC` at any depth: what only an event can tell is not judged. Per event
everything is known, and texts never show a value or a key that could be personal.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias


class Dynamic(Enum):
    """Stands, when rules are loaded, for a value that only an event can tell."""

    ANY = "any"  # of any kind, also none
    TEXT = "text"  # text that is not empty: an expression inside a longer text


DYNAMIC: Final = Dynamic.ANY
DYNAMIC_TEXT: Final = Dynamic.TEXT

Value: TypeAlias = "bool | int | float | str | Dynamic | Sequence[Value] | Mapping[str, Value] | None"

# Ours: deeper values are refused before a serialiser's own limit (254 levels) turns them into a stack trace.
MAX_DEPTH = 100
# JSON integers beyond 64 bits lose digits in most readers, and our serialiser refuses them.
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

_KEY_TO_SHOW = re.compile(r"[A-Za-z_][A-Za-z_-]{0,39}")  # no digits: neither a user id nor an address looks so


_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
# Concrete types first: an abstract one costs several times as much. Tuples, since `A | B` is made anew at each use.
_CONTAINERS = (dict, list)
_SCALARS = (bool, int, float, Dynamic, type(None))
_UNITS = (bool, Dynamic)
MAPPINGS = (dict, Mapping)
SEQUENCES = (list, Sequence)
_BYTES = (bytes, bytearray, memoryview)


class ParameterError(ValueError):
    """A value that the API would refuse or misread. `parameter` is a dotted path, e.g. `userAction.mediaItems[0].type`.

    `what` says what is wrong, `remedy` what to do. Texts of `Method.encode` name kinds, lengths and limits, never a
    value; those of `Method.check` may quote the rules file.
    """

    def __init__(self, parameter: str, what: str, remedy: str) -> None:
        super().__init__(f"{parameter} {what}; {remedy}" if remedy else f"{parameter} {what}")
        self.parameter = parameter
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and whether it may be shown: it may when it comes from the rules file."""

    path: str
    literal: bool

    def key(self, name: str, index: int) -> Place:
        if self.literal or _KEY_TO_SHOW.fullmatch(name):
            return Place(f"{self.path}.{name}", self.literal)
        return Place(f"{self.path}[{index}]", self.literal)

    def field(self, name: str) -> Place:
        """A field whose name is the API's, and so may be shown."""
        return Place(f"{self.path}.{name}", self.literal)

    def item(self, index: int) -> Place:
        return Place(f"{self.path}[{index}]", self.literal)

    def shown(self, value: str) -> str:
        """Return `"value" ` in quotes, or nothing where it may not be shown or is long."""
        return f'"{value}" ' if self.literal and len(value) <= 60 else ""

    def error(self, what: str, remedy: str = "") -> ParameterError:
        return ParameterError(self.path, what, remedy)


class _Unfit(Exception):
    """A value that no request can carry. Raised without a place: the fast walk does not keep one."""


def prune(value: Value, depth: int = 0) -> Value:
    """Return the value without what is empty (None, "", [], {}) at any depth; None when nothing is left.

    False and 0 are values and stay. Raises `_Unfit` for what JSON in UTF-8 cannot carry; `misfits` then tells where.
    """
    if isinstance(value, str):
        if not value.isascii() and (what := _scalar_misfit(value)):
            raise _Unfit(what)
        return value or None
    if isinstance(value, _CONTAINERS) or not isinstance(value, _SCALARS):
        return _pruned_container(value, depth)
    if what := _scalar_misfit(value):
        raise _Unfit(what)
    return value


def _pruned_container(value: Value, depth: int) -> Value:
    if depth >= MAX_DEPTH:
        raise _Unfit(_TOO_DEEP)
    if isinstance(value, MAPPINGS):
        kept = {}
        for key, inner in value.items():
            if not (isinstance(key, str) and key.isascii()) and (what := _key_misfit(key)):
                raise _Unfit(what)
            if (slim := prune(inner, depth + 1)) is not None:
                kept[key] = slim
        return kept or None
    if isinstance(value, SEQUENCES) and not isinstance(value, _BYTES):
        return [slim for inner in value if (slim := prune(inner, depth + 1)) is not None] or None
    raise _Unfit(_scalar_misfit(value))


def pruned(value: Value, place: Place) -> Value:
    """Return `prune(value)`. Raises ParameterError with the place of the first thing that cannot be sent."""
    try:
        return prune(value)
    except _Unfit as unfit:
        for error in misfits(value, place):
            raise error from None
        raise place.error(str(unfit), "") from None


def misfits(value: Value, place: Place, depth: int = 0) -> Iterator[ParameterError]:
    """Yield everything in a value that JSON in UTF-8 cannot carry, with its place."""
    if isinstance(value, str):
        if what := _scalar_misfit(value):
            yield place.error(what, "send only whole characters")
    elif isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            yield place.error(_TOO_DEEP, "send fewer levels")
            return
        for index, (key, inner) in enumerate(value.items()):
            if what := _key_misfit(key):
                yield place.item(index).error(what, "use text for keys")
            else:
                yield from misfits(inner, place.key(key, index), depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, _BYTES):
        if depth >= MAX_DEPTH:
            yield place.error(_TOO_DEEP, "send fewer levels")
            return
        for index, inner in enumerate(value):
            yield from misfits(inner, place.item(index), depth + 1)
    elif what := _scalar_misfit(value):
        yield place.error(what, "send text, a whole number, a number, true, false, a list or a mapping")


def _scalar_misfit(value: object) -> str:
    if value is None or isinstance(value, _UNITS):
        return ""
    if isinstance(value, str):
        return "" if _is_whole_unicode(value) else "holds half of a surrogate pair, which UTF-8 cannot carry"
    if isinstance(value, int):
        return "" if _INT_MIN <= value <= _INT_MAX else "is a whole number beyond 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is not a number that JSON can carry (NaN or infinity)"
    return f"is of a kind that a call cannot carry ({type(value).__name__})"


def _key_misfit(key: object) -> str:
    if not isinstance(key, str):
        return f"has a key that is not text ({type(key).__name__})"
    return "" if _is_whole_unicode(key) else "has a key that holds half of a surrogate pair"


def _is_whole_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Value) -> str:
    """Return what a person calls this kind of value."""
    match value:
        case bool():
            return "true or false"
        case str() | Dynamic.TEXT:
            return "text"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case Mapping():
            return "a mapping"
        case None:
            return "nothing"
        case _:
            return "a list"


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant; letter case does not matter."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None


def unknown_name(place: Place, name: str, index: int, known: Collection[str], noun: str) -> ParameterError:
    """Return the error for a field or parameter that the API does not have."""
    meant = nearest(name, known)
    remedy = f'did you mean "{meant}"?' if meant else f"known: {', '.join(sorted(known))}"
    if not place.literal:
        return place.error(f"has an unknown {noun}", remedy)
    return place.key(name, index).error(f"is an unknown {noun}", remedy)
