"""Where does each value of a YAML file stand?

Reads a text into plain values and remembers line and column of every one, so that a problem can point at it. Stricter
than YAML: no duplicate keys, aliases, tags, merge keys or second documents, which hide mistakes in a short file.
Its texts never quote a value, because any value may be a secret. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from worker.errors import Problem

Scalar: TypeAlias = "bool | int | float | str | None"
Tree: TypeAlias = "Scalar | list[Tree] | dict[str, Tree]"
Path: TypeAlias = "tuple[str | int, ...]"
MAX_BYTES = 1_000_000  # a settings or rules file of a megabyte is something else, given by mistake
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands: lines and columns from 1; `end_column` is the one after it."""

    line: int
    column: int
    end_line: int
    end_column: int

    def reaches_into(self, line: int) -> bool:
        """Whether it started above `line` and has text on it."""
        return self.line < line and (line < self.end_line or (line == self.end_line and self.end_column > 1))


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file's values with their places. `tree` is {} for an empty file."""

    name: str
    lines: tuple[str, ...]
    tree: dict[str, Tree]
    values: Mapping[Path, Span] = field(repr=False)
    keys: Mapping[Path, Span] = field(repr=False)

    def excerpt(self, line: int, column: int, *, shown: Callable[[Path], bool]) -> str:
        """Return a line with the values that `shown` does not allow hidden; never its comment.

        Empty when something before `column` must be hidden, so that a caret below it always points at the place.
        """
        if not 0 < line <= len(self.lines):
            return ""
        text = self.lines[line - 1].split(" #", 1)[0].rstrip()
        hidden = [span for path, span in self.values.items() if self._is_scalar(path) and not shown(path)]
        if any(span.reaches_into(line) or (span.line == line and span.column < column) for span in hidden):
            return ""
        # From right to left, so that the columns of what is still to be replaced stay true.
        for span in sorted(hidden, key=lambda span: -span.column):
            if span.line == line and (span.end_column > span.column or span.end_line > line):
                rest = text[span.end_column - 1 :] if span.end_line == line else ""
                text = text[: span.column - 1] + "***" + rest
        return text

    def _is_scalar(self, path: Path) -> bool:
        return not isinstance(value_at(self.tree, path), dict | list)


def value_at(tree: Tree, path: Path) -> Tree:
    """Return the value at a path; None where there is none."""
    for step in path:
        if isinstance(tree, dict) and isinstance(step, str):
            tree = tree.get(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree


def read_yaml(text: str, name: str) -> tuple[YamlFile | None, list[Problem]]:
    """Return the file and what is wrong with it as YAML; None where it cannot be read at all."""
    import ruamel.yaml  # here, because most commands read no file and `--help` must answer at once
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    lines = tuple(text.splitlines())
    try:
        root = ruamel.yaml.YAML(pure=True).compose(text)
    except MarkedYAMLError as error:
        return None, [_syntax_problem(error, name)]
    except YAMLError:  # the reader's: a character that YAML forbids
        return None, [_forbidden_character(text, name)]
    except RecursionError:
        return None, [Problem(name, 1, 1, "nested too deeply to be a settings or rules file")]
    except (ValueError, IndexError, AttributeError, TypeError):
        # The parser itself gives up on a few malformed texts with whatever it stumbled over.
        return None, [Problem(name, 1, 1, "is not YAML that can be read")]
    reading = _Reading(name)
    tree = reading.tree(root, (), 0) if root is not None else {}
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        return None, [Problem(name, 1, 1, f"must be a mapping (key: value), is {_kind(tree)}")]
    return YamlFile(name, lines, tree, reading.values, reading.keys), reading.problems


class _Reading:
    """One walk over the nodes of a text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[Path, Span] = {}
        self.keys: dict[Path, Span] = {}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()

    def tree(self, node: object, path: Path, depth: int) -> Tree:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        span = _span(node)
        self.values[path] = span
        if id(node) in self._seen or depth > _MAX_DEPTH:
            what = "nested too deeply" if depth > _MAX_DEPTH else "aliases (*name) are not read here"
            self._problem(span, what, "write the value out")
            return None
        self._seen.add(id(node))
        if isinstance(node, ScalarNode):
            return self._scalar(str(node.tag), str(node.value), span)
        if isinstance(node, SequenceNode):
            return [self.tree(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        assert isinstance(node, MappingNode)  # noqa: S101 - the composer knows three kinds of nodes
        return self._mapping(node.value, path, depth)

    def _mapping(self, pairs: list[tuple[object, object]], path: Path, depth: int) -> dict[str, Tree]:
        result: dict[str, Tree] = {}
        for key_node, value_node in pairs:
            span = _span(key_node)
            key = getattr(key_node, "value", None)
            if not isinstance(key, str):
                self._problem(span, "a key must be plain text", "")
            elif str(getattr(key_node, "tag", "")) == f"{_TAG}merge":
                self._problem(span, "merge keys (<<) are not read here", "write the values out")
            elif key in result:
                self._problem(span, f"{dotted((*path, key))} is given twice", "keep one of the two")
            else:
                self.keys[*path, key] = span
                result[key] = self.tree(value_node, (*path, key), depth + 1)
        return result

    def _scalar(self, tag: str, text: str, span: Span) -> Scalar:
        kind = tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return _integer(text)
            if kind == "float":
                return _double(text)
        except ValueError:
            self._problem(span, "is not a number that can be read", "")
            return None
        if kind not in {"str", "timestamp"}:
            self._problem(span, "tags (!name) are not read here", "write the value without it")
            return None
        return text

    def _problem(self, span: Span, what: str, remedy: str) -> None:
        self.problems.append(Problem(self.name, span.line, span.column, what, remedy))


def dotted(path: Path) -> str:
    """Return a path as people write it: `sites.main.auth.secret`, `topics[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > 40:  # int() of a long text takes quadratic time, and no setting is that large
        raise ValueError
    return int(digits, 0 if digits.lstrip("+-")[:2].lower() in {"0x", "0o", "0b"} else 10)


def _double(text: str) -> float:
    match text.lower().lstrip("+-"):
        case ".inf":
            return -math.inf if text.startswith("-") else math.inf
        case ".nan":
            return math.nan
    return float(text.replace("_", ""))


def _span(node: object) -> Span:
    start, end = node.start_mark, node.end_mark  # type: ignore[attr-defined]  # ruamel's nodes ship no attribute types
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _kind(value: Tree) -> str:
    return "a list" if isinstance(value, list) else "a single value"


def _forbidden_character(text: str, name: str) -> Problem:
    found = re.search("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    before = text[: found.start()] if found else ""
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    which = f" (U+{ord(found[0]):04X})" if found else ""
    return Problem(name, line, column, f"holds a character that YAML forbids{which}", "remove it")


_SYNTAX = (  # what the parser says -> what people can use; the first that is found counts
    ("mapping values are not allowed", '": " ends a plain value', "put quotes around a value that holds ': '"),
    ("unexpected end of stream", "a quoted text is not closed", "add the closing quote"),
    ("\\t", "a tab where YAML wants spaces", "indent with spaces"),
    ("cannot start any token", "a value starts with a character that YAML reserves", "put quotes around the value"),
    ("undefined alias", "a value starts with *, which YAML reads as an alias", "put quotes around the value"),
    ("another document", "a second document starts here (---)", "keep one document in the file"),
    ("expected ',' or", "a bracket is not closed, or a comma is missing", "check [ ] and { }"),
    ("could not find expected ':'", "a key without ': ' after it", "write key: value, with a space after the colon"),
    ("expected <block end>", "the indentation does not fit the lines above", "indent keys of one mapping alike"),
)


def _syntax_problem(error: object, name: str) -> Problem:
    """Say what the parser met, in words of ours: its own may quote the text, and the text may be a secret."""
    said = str(getattr(error, "problem", "") or "")
    mark = getattr(error, "problem_mark", None)
    if "unexpected end" in said or "expected ',' or" in said:
        mark = getattr(error, "context_mark", None) or mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    for needle, what, remedy in _SYNTAX:
        if needle in said:
            return Problem(name, line, column, f"not valid YAML: {what}", remedy)
    return Problem(name, line, column, "not valid YAML here", "check indentation, colons and quotes on this line")
