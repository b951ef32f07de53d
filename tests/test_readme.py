"""The README says what the code does: its tables are made from it, and what it names exists."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from tests.readme import README, written
from worker import exits
from worker.sandbox.gigya_config import FaultKind
from worker.sandbox.gigya_ledger import Arrival, Executed

TEXT = README.read_text()
ROOT = README.parent


def test_the_tables_are_those_of_the_code() -> None:
    assert written(TEXT) == TEXT, "run `python -m tests.readme`"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_file_that_is_linked_exists(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", TEXT, re.MULTILINE))))
def test_every_make_target_that_is_named_exists(name: tuple[str, str]) -> None:
    target = "".join(name)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, code in vars(exits).items() if name.isupper()])
def test_every_exit_code_is_explained(name: str, code: int) -> None:
    assert re.search(rf"^\| {code} \|", TEXT, re.MULTILINE), name


def test_every_room_is_on_the_map() -> None:
    rooms = {
        path.stem for path in (ROOT / "worker").iterdir() if not path.name.startswith("_") and path.suffix != ".typed"
    }
    missing = {room for room in rooms if not re.search(rf"\b{room}\b", TEXT)}
    assert not missing


def test_no_place_was_left_to_be_filled() -> None:
    assert not re.findall(r"\b[A-Z]+_HERE\b", TEXT)


def test_the_folder_of_examples_is_complete() -> None:
    named = set(re.findall(r"deploy/examples/[\w.-]+", TEXT + (ROOT / "deploy/compose.yaml").read_text()))
    assert all((ROOT / Path(name)).exists() for name in named)


def test_every_kind_of_fault_of_the_local_gigya_is_in_the_table() -> None:
    section = TEXT[TEXT.index("## The local Gigya") : TEXT.index("## Figures")]
    assert {kind for kind in get_args(FaultKind) if f"`{kind}`" not in section} == set()


def test_the_ledgers_format_is_what_is_written_down() -> None:
    section = TEXT[TEXT.index("A line of the ledger") : TEXT.index("## Figures")]
    for entry in (Executed, Arrival):
        assert {field.name for field in fields(entry) if f"`{field.name}`" not in section} == set()
