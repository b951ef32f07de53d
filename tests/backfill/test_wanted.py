"""What a command asks for, and the name that the same command always has."""

from __future__ import annotations

import pytest

from worker.backfill.wanted import END, Wanted, checked_run_id, offsets_of, time_ms, time_text
from worker.kafka.ranges import Span
from worker.model import TopicPartition

NOON_MS = 1_793_534_400_000


@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("2026-11-01T12:00", NOON_MS),
        ("2026-11-01T12:00:00Z", NOON_MS),
        ("2026-11-01T14:00+02:00", NOON_MS),
        ("2026-11-01", NOON_MS - 12 * 3_600_000),
        ("2026-11-01 12:00:00.5", NOON_MS + 500),
        ("earliest", None),
    ],
)
def test_a_moment_without_a_zone_is_utc(text: str, moment_ms: int | None) -> None:
    assert time_ms(text) == moment_ms


@pytest.mark.parametrize("text", ["", "yesterday", "-24h", "24h", "now", "2026-13-01", "latest"])
def test_what_would_be_another_moment_the_next_time_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="write 2026-11-01"):
        time_ms(text)


def test_a_moment_is_told_in_utc() -> None:
    assert time_text(NOON_MS) == "2026-11-01 12:00:00"


def test_offsets_are_a_span_of_one_partition_and_either_end_may_be_open() -> None:
    assert offsets_of(["a.b/3:10-20", "a.b/4:10-", "a.b/5:-20"]) == {
        TopicPartition("a.b", 3): Span(10, 20),
        TopicPartition("a.b", 4): Span(10, END),
        TopicPartition("a.b", 5): Span(0, 20),
    }


@pytest.mark.parametrize("text", ["a/3", "a:1-2", "a/3:5-5", "a/3:9-5", "a/x:1-2", "a/3:1-2-3"])
def test_offsets_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        offsets_of([text])


def test_a_partition_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="named twice"):
        offsets_of(["a/3:1-2", "a/3:5-9"])


BASE = Wanted(("a", "b"), from_ms=1, to_ms=2)
OTHERS = [
    Wanted(("a",), from_ms=1, to_ms=2),
    Wanted(("a", "b"), from_ms=1, to_ms=3),
    Wanted(("a", "b"), from_ms=1),
    Wanted(("a", "b"), to_ms=2),
    Wanted(("a", "b"), from_ms=1, to_ms=2, rules="other.yaml"),
    Wanted(("a", "b"), from_ms=1, to_ms=2, skips_delivered=True),
    Wanted(("a", "b"), offsets={TopicPartition("a", 1): Span(1, 2)}),
    Wanted(("a", "b"), offsets={TopicPartition("a", 1): Span(1, END)}),
    Wanted(("a", "b"), files=("x.jsonl",)),
]


def test_ranges_that_differ_have_names_that_differ() -> None:
    names = {each.run_id for each in (BASE, *OTHERS)}
    assert len(names) == len(OTHERS) + 1


def test_the_same_range_has_the_same_name_in_whatever_order_it_is_said() -> None:
    assert Wanted(("b", "a"), from_ms=1, to_ms=2).run_id == BASE.run_id
    # Written down: another version that names it otherwise would make every call of an interrupted run again.
    assert BASE.run_id == "1b6ae4377c"


@pytest.mark.parametrize("text", ["", "a/b", "a b", "-a", "a" * 61, "ä"])
def test_a_name_that_cannot_be_in_a_group_or_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        checked_run_id(text)
    assert checked_run_id("2026-11-01_quiz.2") == "2026-11-01_quiz.2"
