"""Every reason that a record can get has a row, so that `explain` has an answer to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker
from worker.codecs import json as json_codec
from worker.delivery.reasons import DELIVERY_REASONS
from worker.gigya.reasons import REASONS
from worker.reasons import OWN_REASONS

WORKER = Path(worker.__file__).parent
KNOWN = {*OWN_REASONS, *DELIVERY_REASONS, *REASONS}
GIVERS = {"Undecodable", "Unmappable", "RecordError", "Failed", "Later", "_tripped"}  # each takes the reason first


def reasons_given() -> Iterator[tuple[str, str]]:
    for path in sorted(WORKER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in GIVERS and isinstance(node.args[0].value, str):
                yield node.args[0].value, path.name


def test_every_reason_in_the_code_has_a_row() -> None:
    given = dict(reasons_given())
    assert len(given) > 10
    assert {reason: place for reason, place in given.items() if reason not in KNOWN} == {}


def test_every_reason_of_the_codec_has_a_row() -> None:
    assert {reason for _, reason, _ in json_codec._REASONS} <= KNOWN


@pytest.mark.parametrize("reason", OWN_REASONS)
def test_a_row_says_what_it_means_and_what_to_do(reason: str) -> None:
    row = OWN_REASONS[reason]
    assert row.meaning.endswith(".")
    assert row.remedy.endswith(".")
    assert reason == reason.lower().replace(" ", "_")
