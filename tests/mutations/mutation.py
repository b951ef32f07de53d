"""A way to break the code, and who must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Edit:
    """One place in one file: `old` stands there exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """A promise that is broken by these edits, and the tests (node ids) of which each must fail then."""

    name: str
    edits: tuple[Edit, ...]
    noticed_by: tuple[str, ...]
    needs_broker: bool = False


def mutation(name: str, file: str, old: str, new: str, *noticed_by: str, needs_broker: bool = False) -> Mutation:
    """Return a mutation of one place."""
    return Mutation(name, (Edit(file, old, new),), noticed_by, needs_broker)


def misfits(mutant: Mutation, root: Path) -> list[str]:
    """Return what is wrong with a mutation in this tree: texts that are not there once, edits that change nothing."""
    wrong: list[str] = []
    for edit in mutant.edits:
        path = root / edit.file
        count = path.read_text("utf-8").count(edit.old) if path.is_file() else 0
        if count != 1:
            wrong.append(f"{edit.file}: {edit.old!r} stands there {count} times, not once")
        if edit.old == edit.new:
            wrong.append(f"{edit.file}: {edit.old!r} is not changed")
    return wrong


def broken(mutant: Mutation, root: Path) -> dict[Path, str]:
    """Return the files of the tree that a mutation changes, with their new texts."""
    texts: dict[Path, str] = {}
    for edit in mutant.edits:
        path = root / edit.file
        texts[path] = texts.get(path, path.read_text("utf-8")).replace(edit.old, edit.new)
    return texts
