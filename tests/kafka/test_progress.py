"""A commit's metadata says who made it and what he could use; whatever is damaged says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.progress import LIMIT_CHARACTERS, Note, decode, encode

SITES = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
RATES = st.floats(min_value=0, max_value=1e5)


@given(st.from_regex(r"[0-9a-f]{12}", fullmatch=True), st.dictionaries(SITES, RATES, max_size=8))
def test_a_note_is_read_as_it_was_written_but_for_digits_nobody_needs(member: str, wanted: dict[str, float]) -> None:
    note = decode(encode(Note(member, wanted)))
    assert note is not None
    assert note.member == member
    assert note.wanted_per_s.keys() == wanted.keys()
    for site, rate in wanted.items():
        assert note.wanted_per_s[site] == pytest.approx(rate, rel=0.06, abs=1e-9)


def test_the_form_of_the_note_stays_what_other_versions_read() -> None:
    assert encode(Note("1f3a5c7e9b2d", {"main": 45, "other": 7.51})) == "gw1 m=1f3a5c7e9b2d w=main:45,other:7.5"


def test_a_later_versions_further_fields_are_passed_over() -> None:
    assert decode("gw1 m=1f3a5c7e9b2d d=AAEC h=991 w=main:45") == Note("1f3a5c7e9b2d", {"main": 45.0})


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "gw2 m=1f3a5c7e9b2d w=main:45",
        "gw1",
        "gw1 w=main:45",
        "gw1 m=XYZ",
        "gw1 m=1f3a w=main:",
        "gw1 m=1f3a w=:4",
        "gw1 m=1f3a w=main:nan",
        "gw1 m=1f3a w=main:-1",
        "gw1 m=1f3a w=main:inf",
        '{"offset": 3}',
        "consumer-1",
    ],
)
def test_what_is_damaged_foreign_or_of_an_unknown_version_is_no_note(metadata: str) -> None:
    assert decode(metadata) is None


@given(st.text(max_size=200))
def test_no_metadata_makes_reading_fail(metadata: str) -> None:
    decode(metadata)
    decode(f"gw1 {metadata}")


def test_a_note_of_too_many_sites_keeps_to_kafkas_limit() -> None:
    text = encode(Note("1f3a5c7e9b2d", {f"site-{number:04}": 12.5 for number in range(1000)}))
    assert len(text) <= LIMIT_CHARACTERS
    assert decode(text) is not None
