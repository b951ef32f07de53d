"""How problems look: with the line and a caret on a terminal, one line each when piped, JSON for programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from worker.errors import Problem, Refused

_WORD = re.compile(r"'[^']*'?|\"[^\"]*\"?|[^\s,\]}]+")


def show_refusal(refused: Refused) -> None:
    """Print on stderr why nothing was started."""
    print_problems(refused.problems, sys.stderr)
    print(f"{counted(len(refused.problems), 'problem')}. Nothing was started.", file=sys.stderr)


def print_problems(problems: Sequence[Problem], stream: TextIO) -> None:
    """Print problems for people: with excerpts if the stream is a terminal, else one line each."""
    if not stream.isatty():
        for problem in problems:
            print(one_line(problem), file=stream)
        return
    width = max((len(_place(problem)) for problem in problems), default=0)
    for problem in problems:
        _print_with_excerpt(problem, min(width, 40), stream)


def one_line(problem: Problem) -> str:
    """Return `file:line:column: error: what; remedy`, as editors and log searches understand it."""
    remedy = f"; {problem.remedy}" if problem.remedy else ""
    return _printable(f"{_place(problem)}: {_severity(problem)}: {problem.what}{remedy}")


def as_json(problem: Problem) -> dict[str, str | int]:
    """Return a problem for programs."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "severity": problem.severity,
        "what": problem.what,
        "remedy": problem.remedy,
        "excerpt": problem.excerpt,
    }


def counted(count: int, noun: str) -> str:
    """Return `1 problem`, `2 problems`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _place(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file


def _severity(problem: Problem) -> str:
    return "warning" if problem.severity == "warn" else "error"


def _print_with_excerpt(problem: Problem, width: int, stream: TextIO) -> None:
    colour = "33" if problem.severity == "warn" else "31"
    word = "warn " if problem.severity == "warn" else "error"
    print(f"{_place(problem):<{width}}  \x1b[{colour}m{word}\x1b[0m  {_printable(problem.what)}", file=stream)
    margin = " " * (width + 9)
    if problem.excerpt.strip():
        indent = len(problem.excerpt) - len(problem.excerpt.lstrip())
        print(f"{margin}{_printable(problem.excerpt[indent:].rstrip())}", file=stream)
        if problem.column > indent:
            print(f"{margin}{_caret(problem.excerpt, indent, problem.column - 1)}", file=stream)
    if problem.remedy:
        print(f"{margin}{_printable(problem.remedy)}", file=stream)


def _caret(excerpt: str, indent: int, start: int) -> str:
    """Return the carets under the word that starts at `start`; wide characters before it count twice."""
    from rich.cells import cell_len

    word = _WORD.match(excerpt, start)
    length = cell_len(word[0]) if word else 1
    return " " * cell_len(excerpt[indent:start]) + "^" * max(1, length)


def _printable(text: str) -> str:
    """Keep control characters of a file from moving the cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
