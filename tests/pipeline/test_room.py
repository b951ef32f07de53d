"""Memory is bounded, and no partition takes it all."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from worker.model import TopicPartition
from worker.pipeline.room import Room

MAX_BYTES = 1000
PARTITIONS = [TopicPartition("t", number) for number in range(5)]


def test_one_partition_alone_may_have_it_all() -> None:
    room = Room(MAX_BYTES)
    while room.has_for(PARTITIONS[0], partitions=1):
        room.take(PARTITIONS[0], 10)
    assert room.held_bytes == MAX_BYTES


def test_a_partition_that_comes_late_finds_its_share() -> None:
    room = Room(MAX_BYTES)
    while room.has_for(PARTITIONS[0], partitions=5):
        room.take(PARTITIONS[0], 10)
    assert room.held_bytes == 600  # the common half, and a fifth of the other
    for late in PARTITIONS[1:]:
        taken = 0
        while room.has_for(late, partitions=5):
            room.take(late, 10)
            taken += 10
        assert taken == 100
    assert room.held_bytes == MAX_BYTES


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300), st.booleans())), st.integers(1, 5))
def test_what_is_held_is_bounded_and_comes_back_to_nothing(steps: list[tuple[int, int, bool]], partitions: int) -> None:
    room, taken = Room(MAX_BYTES), Counter[TopicPartition]()
    for number, size, is_start in steps:
        partition = PARTITIONS[number % partitions]
        if is_start and room.has_for(partition, partitions=partitions):
            room.take(partition, size)
            taken[partition] += size
        elif not is_start and taken[partition]:
            room.give_back(partition, taken.pop(partition))
        assert room.held_bytes == taken.total() <= MAX_BYTES + partitions * 300
    for partition, size in taken.items():
        if size:
            room.give_back(partition, size)
    assert room.held_bytes == 0
    assert all(room.has_for(partition, partitions=partitions) for partition in PARTITIONS)
