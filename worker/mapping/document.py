"""Where does each value of a YAML file stand? Pure but for reading the file.

A file becomes a tree of Scalar, Items and Fields that knows the line and column of every key and value. Only what JSON
can say comes through: dates stay text as they were written, custom tags are problems. Anchors, aliases and merge keys
work; what they expand to is bounded, so that a small file cannot become a huge one.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from worker.errors import Problem
from worker.model import Json

MAX_BYTES: Final = 1 << 20  # a pure-Python scanner reads some 200 kB a second
MAX_VALUES: Final = 100_000  # with every alias written out
MAX_DEPTH: Final = 100

QUOTES_REMEDY: Final = "put single quotes around the whole value: '${ a ? b : c }'"
_COLON_REMEDY: Final = "put single quotes around the whole value, or check the indentation"
_TAGGED: Final = re.compile(r"(?:: +|- +)(!.*)")
_CORE: Final = "tag:yaml.org,2002:"


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value: what JSON reads, the text as YAML unquotes it, and the slice of the file it came from."""

    value: bool | int | float | str | None
    text: str
    place: Place
    start: int
    end: int

    def json(self) -> Json:
        return self.value


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Node, ...]
    place: Place

    def json(self) -> Json:
        return [value.json() for value in self.values]


class Entry(NamedTuple):
    """One key of a mapping with the place of the key."""

    key: str
    place: Place
    value: Node


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping; keys are text and unique."""

    entries: tuple[Entry, ...]
    place: Place

    def json(self) -> Json:
        return {entry.key: entry.value.json() for entry in self.entries}

    def get(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)


Node: TypeAlias = Scalar | Items | Fields


class Source:
    """The file's text, and problems that point into it."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self._lines = text.split("\n")
        self.problems: list[Problem] = []

    def error(self, place: Place, what: str, remedy: str = "") -> None:
        self.problems.append(self.problem(place, what, remedy))

    def warn(self, place: Place, what: str, remedy: str = "") -> None:
        self.problems.append(self.problem(place, what, remedy, "warn"))

    def line(self, place: Place) -> str:
        return self._lines[place.line - 1] if 0 < place.line <= len(self._lines) else ""

    def problem(self, place: Place, what: str, remedy: str, severity: Literal["error", "warn"] = "error") -> Problem:
        return Problem(self.file, place.line, place.column, what, remedy, severity, self.line(place))

    def place_of(self, index: int) -> Place:
        """Return line and column of a position in the text."""
        before = self.text[:index]
        return Place(before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)

    def place_in(self, scalar: Scalar, offset: int) -> Place:
        """Return where character `offset` of a scalar's text stands in the file.

        Text and file differ by quotes, escapes, folding and indentation, so both are walked side by side.
        """
        raw = self.text
        at = scalar.start
        if raw[at : at + 1] in ("|", ">"):
            at = raw.find("\n", at) + 1 or at
        for position, character in enumerate(scalar.text):
            found = _skip_to(raw, at, scalar.end, character)
            if found is None:
                return scalar.place
            if position >= offset:
                return self.place_of(found)
            at = found + 1
        return self.place_of(min(at, scalar.end))


def _skip_to(raw: str, at: int, end: int, character: str) -> int | None:
    while at < end:
        if raw[at] == character or (character.isspace() and raw[at].isspace()):
            return at
        at += 1
    return None


def read(path: Path, file: str) -> tuple[Source, Node | None]:
    """Read a YAML file. The node is None when it cannot be read; the source then holds the problems."""
    source = Source(file, "")
    nowhere = Place(0, 0)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        source.error(
            nowhere, f"cannot be read: {error.strerror or type(error).__name__}", "check the path and its rights"
        )
        return source, None
    if len(data) > MAX_BYTES:
        source.error(nowhere, f"is larger than {MAX_BYTES:,} bytes", "split it; a rules file is read as a whole")
        return source, None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1)
        source.error(place, f"is not UTF-8 text (byte 0x{data[error.start]:02x})", "save it as UTF-8")
        return source, None
    return parse(file, text)


def parse(file: str, text: str) -> tuple[Source, Node | None]:
    """Read YAML text; see `read`."""
    source = Source(file, text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor that is set again: YAML allows it, and the later one counts
            root = YAML(typ="safe", pure=True).compose(text)
    except ReaderError as error:
        source.error(
            source.place_of(error.position), f"the control character U+{_code(error.character):04X}", "remove it"
        )
        return source, None
    except MarkedYAMLError as error:
        _report_syntax(source, error)
        return source, None
    except RecursionError:
        source.error(Place(0, 0), "is nested too deeply", "flatten it")
        return source, None
    except (YAMLError, ValueError, AssertionError) as error:
        # ruamel lets a few of its own slips through (a bad %YAML line, a bad escape); the file is wrong all the same.
        source.error(Place(0, 0), f"is not YAML ({type(error).__name__})", "check it with a YAML linter")
        return source, None
    if root is None:
        source.error(Place(1, 1), "the file is empty", 'start with "version: 1"')
        return source, None
    node = _Converter(source).convert(root, 0)
    return source, None if source.problems else node


def _code(character: int | str) -> int:
    return character if isinstance(character, int) else ord(character[:1] or "\0")


def _report_syntax(source: Source, error: MarkedYAMLError) -> None:
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(0, 0)
    what = str(error.problem or error.context or "not YAML")
    if mark and _is_unquoted_expression(source.text, mark.index):
        if "mapping values" in what:
            what = """an expression without quotes: ": " ends a plain YAML value"""
        else:
            what = "an expression without quotes: { } [ ] , have a meaning of their own inside { } and [ ]"
        source.error(place, what, _quoted(source, mark.index))
    elif _TAGGED.search(source.line(place)[: place.column]):
        _report_tag(source, place)
    elif "mapping values are not allowed" in what:
        source.error(
            place, '": " does not belong here', "put single quotes around the whole value, or check the indentation"
        )
    elif "\\t" in what or "'\t'" in what:
        source.error(place, "a tab; YAML indents with spaces only", "replace it by spaces")
    elif "expected a single document" in str(error.context):
        source.error(place, "a second YAML document starts here", "remove the ---; one file holds one document")
    elif what.startswith("expected <block end>, but found '<scalar>'"):
        source.error(
            place,
            "text goes on after a quoted value",
            """put quotes around the whole value, the other kind: '"a" == event.b'""",
        )
    else:
        source.error(place, f"not YAML: {what}", "check indentation, quotes and brackets")


def _quoted(source: Source, index: int) -> str:
    """Return what to do about the unquoted expression around `index`: with its own text where that is one line."""
    start = source.text.rfind("${", 0, index + 1)
    meant = source.text[start:].split("\n")[0].strip()
    is_whole = meant.endswith("}") and meant.count("{") == meant.count("}") and "'" not in meant
    return f"put single quotes around the whole value: '{meant}'" if is_whole and len(meant) < 80 else QUOTES_REMEDY


def _report_tag(source: Source, place: Place) -> None:
    """Report a plain value such as `!has(event.a) && b`, which YAML takes for a tag and something after it."""
    match = _TAGGED.search(source.line(place))
    meant = match[1].strip() if match else "!..."
    if match:
        place = Place(place.line, match.start(1) + 1)
    source.error(place, 'a plain value that starts with "!" is a YAML tag', f"put quotes around it: '{meant[:60]}'")


def _is_unquoted_expression(text: str, index: int) -> bool:
    """Tell whether the reader stumbled inside a `${ ... }` that has no quotes around it."""
    start = text.rfind("${", 0, index + 1)
    if start < 0 or "}" in text[start:index]:
        return False
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return line.count("'") % 2 == 0 and line.count('"') % 2 == 0 and text.count("\n", start, index) <= 3


class _Converter:
    """Turns ruamel's nodes into ours. Aliased nodes are shared, never copied."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._done: dict[int, tuple[Node, int]] = {}
        self._open: set[int] = set()

    def convert(self, root: object, depth: int) -> Node:
        node, _ = self._convert(root, depth)
        return node

    def _convert(self, raw: object, depth: int) -> tuple[Node, int]:
        assert isinstance(raw, ScalarNode | SequenceNode | MappingNode)  # noqa: S101  what compose() returns
        if id(raw) in self._done:
            return self._done[id(raw)]
        place = Place(raw.start_mark.line + 1, raw.start_mark.column + 1)
        empty = Scalar(None, "", place, raw.start_mark.index, raw.end_mark.index)
        if id(raw) in self._open:
            self._source.error(place, "an alias that contains itself", "write the value out")
            return empty, 1
        if depth > MAX_DEPTH:
            self._source.error(place, f"more than {MAX_DEPTH} levels are nested", "flatten it")
            return empty, 1
        self._open.add(id(raw))
        node: Node
        if isinstance(raw, ScalarNode):
            node, size = self._scalar(raw, place), 1
        elif isinstance(raw, SequenceNode):
            node, size = self._items(raw, place, depth)
        else:
            node, size = self._fields(raw, place, depth)
        self._open.discard(id(raw))
        if size > MAX_VALUES:
            if depth == 0 or not self._source.problems:
                self._source.error(place, f"aliases expand to more than {MAX_VALUES:,} values", "write fewer of them")
            size = MAX_VALUES + 1
        self._done[id(raw)] = node, size
        return node, size

    def _items(self, raw: SequenceNode, place: Place, depth: int) -> tuple[Node, int]:
        self._refuse_tag(raw, place)
        pairs = [self._convert(child, depth + 1) for child in raw.value]
        return Items(tuple(node for node, _ in pairs), place), 1 + sum(size for _, size in pairs)

    def _fields(self, raw: MappingNode, place: Place, depth: int) -> tuple[Node, int]:
        self._refuse_tag(raw, place)
        total = 1
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for raw_key, raw_value in raw.value:
            key_place = Place(raw_key.start_mark.line + 1, raw_key.start_mark.column + 1)
            if not isinstance(raw_key, ScalarNode):
                self._source.error(key_place, "a key that is a list or a mapping", "a key is text")
                continue
            value, size = self._convert(raw_value, depth + 1)
            total += size
            if isinstance(value, Scalar) and value.start == value.end:
                value = replace(value, place=key_place)  # nothing is there; YAML's place for it is the next line
            if raw_key.tag == _CORE + "merge":
                for entry in self._merge(value, key_place):
                    merged.setdefault(entry.key, entry)
            elif (first := own.get(raw_key.value)) is not None:
                self._source.error(
                    key_place, f'"{raw_key.value}" is set twice, first in line {first.place.line}', "keep one of them"
                )
            else:
                own[raw_key.value] = Entry(raw_key.value, key_place, value)
        entries = (*own.values(), *(entry for key, entry in merged.items() if key not in own))
        return Fields(entries, place), total

    def _merge(self, value: Node, place: Place) -> Iterator[Entry]:
        for part in value.values if isinstance(value, Items) else (value,):
            if isinstance(part, Fields):
                yield from part.entries
            else:
                self._source.error(place, "<< merges mappings only", "point it at a mapping: <<: *name")

    def _scalar(self, raw: ScalarNode, place: Place) -> Scalar:
        value: bool | int | float | str | None = raw.value
        match str(raw.tag).removeprefix(_CORE):
            case "str" | "timestamp" | "value":
                pass
            case "null":
                value = None
            case "bool":
                value = raw.value.lower() in ("true", "yes", "on", "y")
            case "int":
                value = self._integer(raw.value, place)
            case "float":
                value = self._double(raw.value, place)
            case "merge":
                pass
            case tag if tag.startswith("!"):
                _report_tag(self._source, place)
            case tag:
                self._source.error(
                    place, f"the YAML tag !!{tag[:20]} is not known here", "write text, a number or a bool"
                )
        return Scalar(value, raw.value, place, raw.start_mark.index, raw.end_mark.index)

    def _refuse_tag(self, raw: SequenceNode | MappingNode, place: Place) -> None:
        if str(raw.tag) not in (_CORE + "seq", _CORE + "map"):
            self._source.error(place, "a YAML tag is not known here", "remove the word that starts with !")

    def _integer(self, text: str, place: Place) -> int | str:
        digits = text.replace("_", "")
        try:
            return int(digits) if re.fullmatch(r"[-+]?\d{1,40}", digits) else int(digits, 0)
        except ValueError:
            self._source.error(place, "a number that cannot be read", "put quotes around it if it is text")
            return text

    def _double(self, text: str, place: Place) -> float | str:
        try:
            value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
        self._source.error(place, f"{text[:20]} is not a JSON number", "write a finite number, or quotes if it is text")
        return text
