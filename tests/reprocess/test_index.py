"""What stands in a compacted topic: the latest of each key, whatever came before it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reprocess.letters import DIED_S, TOPIC, letter_at, message, tombstone
from worker.deadletters.glance import glance
from worker.deadletters.record import NotADeadLetter, decode
from worker.model import Record
from worker.reprocess.index import Index, user_number


def taken(index: Index, message: Record, user: int = 0) -> None:
    index.add(message, None if message.value is None else glance(message.key, message.headers), user=user)


def index_of(*messages: Record) -> Index:
    index = Index()
    for each in messages:
        taken(index, each)
    return index


def places(index: Index) -> set[str]:
    return {index.place(row) for row in index.rows()}


def test_a_glance_says_what_the_whole_letter_says() -> None:
    letter = letter_at(7, partition=3, run="r1", died_s=DIED_S + 0.25, generation=2)
    sent = message(letter, 0)
    seen, whole = glance(sent.key, sent.headers), decode(sent.key, sent.value, sent.headers)
    assert (seen.topic, seen.partition, seen.offset, seen.run) == (TOPIC, 3, 7, "r1")
    assert (seen.kind.fingerprint, seen.kind.reason, seen.kind.code) == (whole.fingerprint, whole.reason, whole.code)
    assert (seen.died_ms, seen.generation, seen.timestamp_ms) == (whole.last_s * 1000, 2, whole.record.timestamp)
    assert seen.key == whole.record.key


@pytest.mark.parametrize("spoilt", ["dlq.version", "dlq.fingerprint", "dlq.last_time", "dlq.key"])
def test_a_message_without_what_a_letter_has_is_none(spoilt: str) -> None:
    sent = message(letter_at(1), 0)
    with pytest.raises(NotADeadLetter):
        glance(sent.key, [(name, value) for name, value in sent.headers if name != spoilt])
    with pytest.raises(NotADeadLetter, match="copied"):
        glance(b"user-events/0/2", sent.headers)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_the_latest_of_each_key_counts(history: list[tuple[int, bool]]) -> None:
    index, standing = Index(), {}
    for at, (offset, is_letter) in enumerate(history):
        letter = letter_at(offset)
        taken(index, message(letter, at) if is_letter else tombstone(letter, at))
        standing[offset] = at if is_letter else None
    assert {index.origin(row)[2]: index.where(row).offset for row in index.rows()} == {
        offset: at for offset, at in standing.items() if at is not None
    }


@pytest.mark.parametrize("tombstone_first", [True, False])
def test_in_a_topic_that_was_given_more_partitions_the_later_write_counts(tombstone_first: bool) -> None:
    letter = letter_at(1)
    old = message(letter, 0, partition=0, written_ms=100)
    resolved = tombstone(letter, 0, partition=4, written_ms=200)
    assert places(index_of(*((resolved, old) if tombstone_first else (old, resolved)))) == set()
    died_again = message(letter, 1, partition=4, written_ms=300)
    assert places(index_of(resolved, died_again, old)) == {"user-events/0/1"}


def test_a_backfills_letter_is_not_that_of_the_live_worker() -> None:
    live, of_a_run = letter_at(1), letter_at(1, run="r1")
    index = index_of(message(live, 0), message(of_a_run, 1), tombstone(live, 2))
    assert places(index) == {"user-events/0/1/r1"}


def test_groups_count_what_is_there_and_the_greatest_comes_first() -> None:
    index = Index()
    for offset in range(6):
        letter = letter_at(offset, uid=f"u{offset % 2}", died_s=DIED_S + offset)
        taken(index, message(letter, offset), user=user_number(letter.record.key or b""))
    taken(index, message(letter_at(9, reason="missing_field", code=None, rule="other"), 6))
    taken(index, tombstone(letter_at(0), 7))
    big, small = index.groups()
    assert (big.records, big.users, big.kind.reason) == (5, 2, "user_unknown")
    assert (big.first_ms, big.last_ms) == ((DIED_S + 1) * 1000, (DIED_S + 5) * 1000)
    assert big.example == "user-events/0/5"
    assert (small.records, small.users, small.kind.rule) == (1, 0, "other")


def test_a_letter_that_died_again_of_something_else_has_left_its_group() -> None:
    first, again = letter_at(1), letter_at(1, reason="parked", code=None)
    (group,) = index_of(message(first, 0), message(again, 1)).groups()
    assert group.kind.reason == "parked"


_RECORD = st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 100))  # partition, offset, time


@given(st.lists(_RECORD, max_size=30, unique_by=lambda record: record[:2]), st.randoms(use_true_random=False))
def test_the_original_order_keeps_each_partition_by_offset(
    records: list[tuple[int, int, int]], rng: random.Random
) -> None:
    letters = [letter_at(offset, partition=p, timestamp_ms=time_ms) for p, offset, time_ms in records]
    rng.shuffle(letters)
    index = index_of(*(message(letter, at) for at, letter in enumerate(letters)))
    ordered = [index.origin(row)[1:] for row in index.in_original_order(index.rows())]
    assert len(ordered) == len(records)
    for partition in {place.partition for place, _ in ordered}:
        offsets = [offset for place, offset in ordered if place.partition == partition]
        assert offsets == sorted(offsets)


def test_partitions_go_side_by_side_by_time() -> None:
    early = [letter_at(offset, partition=1, timestamp_ms=1_000 + offset) for offset in range(3)]
    late = [letter_at(offset, partition=0, timestamp_ms=2_000 + offset) for offset in range(3)]
    index = index_of(*(message(letter, at) for at, letter in enumerate(late + early)))
    assert [index.origin(row)[1].partition for row in index.in_original_order(index.rows())] == [1, 1, 1, 0, 0, 0]


def test_a_key_is_enough_and_values_are_not_kept() -> None:
    index = Index()
    big = letter_at(1, value=b"x" * 5_000_000)
    taken(index, message(big, 0))
    (row,) = index.rows()
    assert index.size_bytes(row) == 5_000_000
    assert not any(isinstance(each, bytes) and len(each) > 100 for each in vars(index).values())
