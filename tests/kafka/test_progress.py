"""A commit's metadata says who made it and what he could use; whatever is damaged says nothing."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kafka.progress import (
    LIMIT_CHARACTERS,
    Bounds,
    Mark,
    Note,
    Progress,
    Started,
    Unusable,
    decode,
    decode_progress,
    encode,
    fit,
    worst_bits,
)

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


@given(st.integers(0, 10**18), st.integers(0, 10**6), st.from_regex(r"[0-9a-f]{0,12}", fullmatch=True))
def test_the_range_of_a_backfill_goes_with_every_commit(begin: int, size: int, rules: str) -> None:
    bounds = Bounds(begin, begin + size, rules)
    metadata, _ = fit(Note("1f3a"), Progress(begin, begin + 9, done=(range(begin + 3, begin + 5),), bounds=bounds))
    assert decode_progress(metadata, begin).bounds == bounds


def test_a_range_that_cannot_be_one_is_damage() -> None:
    body = "b=5 h=9 e=5-"
    with pytest.raises(Unusable, match="damaged"):
        decode_progress(f"gw1 {body} s={zlib.crc32(body.encode()):08x}", 5)


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


# --- the progress of a partition ---------------------------------------------------------------------------------

NOTE = Note("1f3a5c7e9b2d", {"main": 45, "other": 7.5})


@st.composite
def progresses(draw: st.DrawFn, *, most: int = 25) -> Progress:
    base = draw(st.integers(0, 10**18))
    at, done, open_offsets = base, [], []
    for _ in range(draw(st.integers(0, most))):
        gap = draw(st.integers(1 if done else 0, draw(st.sampled_from([1, 3, 10_000]))))
        open_offsets += range(at, min(at + gap, at + 3))
        done.append(range(at + gap, at + gap + draw(st.integers(1, draw(st.sampled_from([1, 3, 10_000]))))))
        at = done[-1].stop
    open_offsets += range(at, at + 3)
    calls = st.lists(st.sampled_from(list(Mark)), max_size=12).map(tuple)
    rules = st.sampled_from(["9f86d081884c", "2c26b46b68ff", ""])
    chosen = draw(st.sets(st.sampled_from(open_offsets), max_size=20))
    started = {offset: Started(draw(rules), draw(calls), draw(st.booleans())) for offset in sorted(chosen)}
    horizon = draw(st.integers(base, at + 10_000))
    letters_below = draw(st.one_of(st.just(0), st.integers(base + 1, at + 10_000)))
    return Progress(base, horizon, letters_below, tuple(done), started)


def done_offsets(progress: Progress) -> set[int]:
    return {offset for run in progress.done for offset in run}


@given(progresses())
def test_what_fits_is_read_as_it_was_written(progress: Progress) -> None:
    text, told = fit(NOTE, progress, limit_characters=1_000_000)
    assert told == progress
    assert decode_progress(text, progress.base) == progress
    assert text.isascii()
    note = decode(text)
    assert note == NOTE


@given(progresses(most=30), st.integers(160, 4096))
def test_what_does_not_fit_is_believed_unfinished_and_suspect_never_done(progress: Progress, limit: int) -> None:
    text, told = fit(NOTE, progress, limit_characters=limit)
    assert len(text) <= limit
    assert decode_progress(text, progress.base) == told
    assert done_offsets(told) <= done_offsets(progress)
    assert all(offset < told.horizon for offset in done_offsets(progress) - done_offsets(told))
    assert told.horizon >= progress.horizon
    for offset, started in progress.started.items():
        if told.started.get(offset, Started("")).calls != started.calls:
            assert offset < told.horizon
    assert told.letters_below == progress.letters_below


@given(progresses(most=10), st.data())
def test_damage_is_noticed(progress: Progress, data: st.DataObject) -> None:
    text, _ = fit(Note(), progress)
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["cut", "change", "drop", "double"]))
    other = data.draw(st.characters())
    damaged = {
        "cut": text[:at],
        "change": text[:at] + other + text[at + 1 :],
        "drop": text[:at] + text[at + 1 :],
        "double": text[:at] + text[at] + text[at:],
    }[kind]
    try:
        told = decode_progress(damaged, progress.base)
    except Unusable:
        return
    assert told == progress


@given(st.text(max_size=300), st.integers(0, 10**12))
def test_no_metadata_makes_the_reading_of_progress_fail_otherwise(metadata: str, offset: int) -> None:
    for text in (metadata, f"gw1 {metadata}", f"gw1 b={offset} h={offset} {metadata} s=00000000"):
        with pytest.raises(Unusable):
            decode_progress(text, offset)


@given(st.binary(max_size=60), st.booleans())
def test_a_checksum_that_is_right_does_not_make_nonsense_dangerous(raw: bytes, of_map: bool) -> None:
    packed = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    body = f"b=100 h=200 {'d=' if of_map else 'c=ab.'}{packed}"
    try:
        told = decode_progress(f"gw1 {body} s={zlib.crc32(body.encode()):08x}", 100)
    except Unusable:
        return
    assert all(run.start >= 100 and len(run) > 0 for run in told.done)
    assert all(one.stop < other.start for one, other in pairwise(told.done))
    assert all(offset >= 100 for offset in told.started)


def test_the_form_of_the_progress_stays_what_other_versions_read() -> None:
    started = {122: Started("9f86d081884c", (Mark.DELIVERED, Mark.OPEN, Mark.STALE), has_letter=True)}
    progress = Progress(120, 1153, 0, (range(121, 122), range(123, 1000)), started)
    text, _ = fit(NOTE, progress)
    assert text == ("gw1 m=1f3a5c7e9b2d w=main:45,other:7.5 b=120 h=1153 d=WANt c=9f86d081884c.ZM8 s=" + text[-8:]), (
        text
    )
    assert decode_progress(text, 120) == progress


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ("", "absent"),
        ("gw1 m=1f3a5c7e9b2d w=main:45", "absent"),
        ("gw2 b=0 h=0", "version"),
        ("gw10 m=1f3a", "version"),
        ("some-consumer", "foreign"),
        ("gw1 b=7 h=9", "damaged"),
        (fit(Note(), Progress(8, 9))[0], "base"),
    ],
)
def test_why_metadata_is_not_used_is_told(metadata: str, why: str) -> None:
    with pytest.raises(Unusable, match=f"^{why}$"):
        decode_progress(metadata, 7)


def test_a_later_versions_further_field_of_the_progress_is_passed_over() -> None:
    body = "b=5 h=90 x=whatever"
    told = decode_progress(f"gw1 m=1f3a {body} s={zlib.crc32(body.encode()):08x} y=more", 5)
    assert told == Progress(5, 90)


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["alternating", "pairs", "one in three", "random"])
def test_the_map_of_10000_records_fits_whatever_the_pattern(pattern: str) -> None:
    rng = Random(7)
    is_done = {
        "alternating": lambda index: index % 2 == 1,
        "pairs": lambda index: index % 4 > 1,
        "one in three": lambda index: index % 3 == 1,
        "random": lambda index: rng.random() < 0.5,
    }[pattern]
    done: list[range] = []
    for offset in range(10_020):
        if offset and is_done(offset):
            done.append(
                range(done.pop().start, offset + 1) if done and done[-1].stop == offset else range(offset, offset + 1)
            )
    progress = Progress(10**18, 10**18 + 20_000, 0, tuple(range(r.start + 10**18, r.stop + 10**18) for r in done))
    sites = {f"a-rather-long-name-of-a-site-{number:02}": 12.5 for number in range(40)}
    text, told = fit(Note("1f3a5c7e9b2d", sites), progress)
    assert told == progress
    assert len(text) <= LIMIT_CHARACTERS


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=300))
def test_no_runs_take_more_than_the_bound_says(runs: list[int]) -> None:
    done, at = [], 0
    for index, run in enumerate(runs):
        if index % 2:
            done.append(range(at, at + run))
        at += run
    bits = sum(2 * number.bit_length() - 1 for number in runs)
    assert bits <= worst_bits(at, len(runs))
    assert bits <= worst_bits(at, len(runs) + 50)
    assert worst_bits(at, len(runs)) <= worst_bits(at + 100, len(runs)) + 1e-6


@given(progresses(most=10), st.integers(200, 1000), st.integers(0, 300))
def test_what_the_senders_leave_behind_has_the_room_that_is_left_and_never_takes_more(
    progress: Progress, limit: int, length: int
) -> None:
    asked: list[int] = []

    def left(limit_characters: int) -> dict[str, str]:
        asked.append(limit_characters)
        return {"main": "x" * length}

    text, told = fit(Note("1f3a"), progress, limit, left)
    assert len(text) <= limit
    assert decode_progress(text, progress.base) == told
    if asked and len("main:") + length <= asked[0]:
        assert told.left == {"main": "x" * length}
        assert replace(told, left={}) == progress
    else:
        assert not told.left
