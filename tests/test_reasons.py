"""Every reason that a record can get has a row, so that `explain` has an answer to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reasons_in_source import reasons_in_source
from worker.codecs import json as json_codec
from worker.delivery.reasons import DELIVERY_REASONS
from worker.gigya.reasons import REASONS
from worker.reasons import OWN_REASONS

KNOWN = {*OWN_REASONS, *DELIVERY_REASONS, *REASONS}


def test_every_reason_in_the_source_has_a_row() -> None:
    given = reasons_in_source()
    assert len(given) > 50
    assert {reason: place for reason, place in given.items() if reason not in KNOWN} == {}


@pytest.mark.parametrize(
    "line",
    [
        'raise Unmappable("{}", "text")',
        'log.info("x", reason="{}")',
        'part |= {{"reason": "{}"}}',
        'reason = "ask" if held else "{}"',
        'self.reason = other or "{}"',
        'NEW = "{}"\nreturned = Failed(NEW)',
    ],
)
def test_a_reason_without_a_row_is_found_wherever_it_is_given(line: str, tmp_path: Path) -> None:
    known = "class Unmappable:\n    def __init__(self, reason, text): ...\nclass Failed:\n    reason: str\n"
    (tmp_path / "new.py").write_text(known + line.format("quite_new") + "\n")
    assert "quite_new" in reasons_in_source(tmp_path)


def test_a_reason_is_one_word_for_one_thing() -> None:
    assert len(KNOWN) == len(OWN_REASONS) + len(DELIVERY_REASONS) + len(REASONS)


def test_every_reason_of_the_codec_has_a_row() -> None:
    assert {reason for _, reason, _ in json_codec._REASONS} <= KNOWN


@pytest.mark.parametrize("reason", OWN_REASONS)
def test_a_row_says_what_it_means_and_what_to_do(reason: str) -> None:
    row = OWN_REASONS[reason]
    assert row.meaning.endswith(".")
    assert row.remedy.endswith(".")
    assert reason == reason.lower().replace(" ", "_")
