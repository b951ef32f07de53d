"""What can be seen in the text of an expression without compiling it? Pure.

Finds where a `${ ... }` ends, whether an expression is a plain path (read directly, without CEL), and which fields it
names (only those are handed to CEL, and problems are told with them).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

ROOTS: Final = ("event", "kafka", "ce")
ITEM: Final = "item"  # one element of the list of `each`, in rules that have it

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<text>[rR]?[bB]?[rR]?(?:
          \"{3}(?:\\.|[^\\])*?\"{3}
        | '{3}(?:\\.|[^\\])*?'{3}
        | "(?:\\.|[^"\\\n])*"
        | '(?:\\.|[^'\\\n])*'))
    | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN_TEXT: Final = re.compile(r"""(["'])([^"'\\\0]*)\1""")
# With .? [? {? these make optionals; the list functions of the optional extension are not switched on.
_OPTIONAL_NAMES: Final = frozenset({"optional", "optMap", "optFlatMap"})


class Token(NamedTuple):
    kind: str
    text: str
    start: int


class Path(NamedTuple):
    """A chain of fields from one of the variables: `event.user.uid`."""

    root: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return self.root + "".join(f".{key}" if key.isidentifier() else f"['{key}']" for key in self.keys)


class Fields(NamedTuple):
    """What an expression reads.

    `event_keys` are the first-level fields of the event that it may read; None when it may read any.
    """

    paths: tuple[Path, ...]
    event_keys: frozenset[str] | None
    roots: frozenset[str]


class Unterminated(ValueError):
    """A `${` without its `}`; `offset` is where the `${` stands."""

    def __init__(self, offset: int) -> None:
        super().__init__("${ without }")
        self.offset = offset


class Piece(NamedTuple):
    """A part of a text: literal, or the source of an expression that starts at `offset` of the whole."""

    text: str
    is_expression: bool
    offset: int


def tokens(source: str, start: int = 0) -> Iterator[Token]:
    for match in _TOKEN.finditer(source, start):
        if match.lastgroup != "space":
            yield Token(match.lastgroup or "mark", match.group(), match.start())


def pieces(text: str) -> tuple[Piece, ...]:
    """Split a text at its `${ ... }`; `$${` stands for a literal `${`. Raises Unterminated."""
    found: list[Piece] = []
    literal: list[str] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        if start > at and text[start - 1] == "$":
            literal.append(text[at : start - 1] + "${")
            at = start + 2
            continue
        literal.append(text[at:start])
        if joined := "".join(literal):
            found.append(Piece(joined, False, at))
        literal.clear()
        end = _closing_brace(text, start)
        found.append(Piece(text[start + 2 : end], True, start + 2))
        at = end + 1
    literal.append(text[at:])
    if joined := "".join(literal):
        found.append(Piece(joined, False, at))
    return tuple(found)


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for token in tokens(text, start + 2):
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth == 0:
                return token.start
            depth -= 1
    raise Unterminated(start)


def plain_path(source: str, roots: Collection[str] = ROOTS) -> Path | None:
    """Return the path when the expression is nothing else, such as `event.user.uid` or `event['tv-show']`.

    `item` alone is a path, too, without keys: the elements of a list may be texts.
    """
    found = list(tokens(source))
    if not found or found[0].text not in roots:
        return None
    root = found[0].text
    keys, used = _chain(found, 1)
    return Path(root, keys) if (keys or root == ITEM) and used == len(found) else None


def fields(source: str, roots: Collection[str] = ROOTS) -> Fields:
    """Return the fields that an expression names; more rather than fewer, as it is not parsed."""
    found = list(tokens(source))
    paths: dict[Path, None] = {}
    keys_read: set[str] | None = set()
    named: set[str] = set()
    for index, token in enumerate(found):
        if token.text not in roots or (index and found[index - 1].text == "."):
            continue
        named.add(token.text)
        keys, used = _chain(found, index + 1)
        is_call = used < len(found) and found[used].text == "("
        if is_call:
            keys = keys[:-1]
        if token.text == "event":
            if not keys:
                keys_read = None
            elif keys_read is not None:
                keys_read.add(keys[0])
        if keys:
            paths[Path(token.text, keys)] = None
    return Fields(tuple(paths), None if keys_read is None else frozenset(keys_read), frozenset(named))


def _chain(found: list[Token], index: int) -> tuple[tuple[str, ...], int]:
    """Return the fields that follow a variable, and the index of the first token that is none of them."""
    keys: list[str] = []
    while index + 1 < len(found):
        if found[index].text == "." and found[index + 1].kind == "name":
            keys.append(found[index + 1].text)
            index += 2
        elif found[index].text == "[" and index + 2 < len(found) and found[index + 2].text == "]":
            text = _PLAIN_TEXT.fullmatch(found[index + 1].text)
            if text is None:
                break
            keys.append(text[2])
            index += 3
        else:
            break
    return tuple(keys), index


def can_make_optional(source: str) -> bool:
    """Tell whether the expression may hold an optional somewhere; yes rather than no."""
    before = ""
    for token in tokens(source):
        if token.text in _OPTIONAL_NAMES or (token.text == "?" and before in (".", "[", "{", ",")):
            return True
        before = token.text
    return False


def walk(value: object, keys: tuple[str, ...]) -> tuple[int, object]:
    """Follow `keys` into nested mappings; return how many could be followed and the value reached."""
    for depth, key in enumerate(keys):
        # Payloads are dicts: asking for the abstract Mapping costs ten times as much.
        if not (type(value) is dict or isinstance(value, Mapping)) or key not in value:
            return depth, value
        value = value[key]
    return len(keys), value
