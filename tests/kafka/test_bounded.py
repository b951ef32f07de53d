"""The consumer of a backfill on a real broker: its range is fixed by its first commit, whoever comes later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.contracts.harness import KafkaScene, Owner, read_all
from worker.clock import SystemClock
from worker.kafka.bounded import BoundedSource
from worker.kafka.membership import Position
from worker.kafka.progress import Bounds, Note, Progress, fit
from worker.kafka.runs import commits_of
from worker.kafka.source import SourceFailed
from worker.model import TopicPartition

pytestmark = pytest.mark.broker


@pytest.fixture
async def scene(kafka_bootstrap: str, fresh_name: Callable[[str], str]):
    scene = KafkaScene(kafka_bootstrap, fresh_name)
    yield scene
    await scene.close()


def bounded(
    scene: KafkaScene, partitions: list[TopicPartition], group: str, bounds: dict[TopicPartition, Bounds]
) -> BoundedSource:
    topics = sorted({partition.topic for partition in partitions})
    return BoundedSource(scene.settings(topics, group), bounds, drain_s=2, clock=SystemClock())


def told(offset: int, bounds: Bounds) -> Position:
    return Position(offset, fit(Note(), Progress(offset, offset, bounds=bounds))[0])


async def test_nothing_is_read_beyond_the_range_and_a_later_start_cannot_move_it(scene, fresh_name):
    partitions = await scene.topic(2)
    for partition in partitions:
        await scene.append(partition, *[b"%d" % number for number in range(20)])
    group = fresh_name("run")
    bounds = {partitions[0]: Bounds(5, 12, "r1"), partitions[1]: Bounds(20, 20, "r1")}
    source = bounded(scene, partitions, group, bounds)
    await source.start(Owner())
    found = await commits_of(source._settings, group)
    assert {one: position.offset for one, position in found.items()} == {partitions[0]: 5, partitions[1]: 20}
    await scene.append(partitions[0], b"later")
    records = await read_all(source, 7)
    assert [(record.partition, record.offset) for record in records] == [(0, offset) for offset in range(5, 12)]
    assert source.position(partitions[0]) == 12
    assert await source.end_offsets(partitions) == {partitions[0]: 12, partitions[1]: 20}
    await source.commit({partitions[0]: told(9, bounds[partitions[0]])})
    await source.stop()

    again = bounded(scene, partitions, group, {partitions[0]: Bounds(0, 21), partitions[1]: Bounds(0, 20)})
    await again.start(Owner())
    assert [record.offset for record in await read_all(again, 3)] == [9, 10, 11]
    assert again.bounds(partitions[1]) == Bounds(20, 20, "r1")
    await again.stop()


async def test_two_that_begin_at_once_agree_on_one_range(scene, fresh_name):
    partitions = await scene.topic(4)
    group = fresh_name("run")
    one = bounded(scene, partitions, group, dict.fromkeys(partitions, Bounds(0, 7, "one")))
    two = bounded(scene, partitions, group, dict.fromkeys(partitions, Bounds(0, 9, "two")))
    await asyncio.gather(one.start(Owner()), two.start(Owner()))
    found = await commits_of(one._settings, group)
    assert len({position.metadata for position in found.values()}) == 1
    assert len({source.bounds(each).rules for source in (one, two) for each in source.assignment()}) == 1
    await one.stop()
    await two.stop()


async def test_a_partition_that_came_after_the_run_began_is_not_in_its_range(scene, fresh_name):
    partitions = await scene.topic(2)
    await scene.append(partitions[1], b"1", b"2")
    group = fresh_name("run")
    source = bounded(scene, partitions, group, {partitions[0]: Bounds(0, 0)})
    await source.start(Owner())
    assert await read_all(source, 1, limit_s=1.0) == []
    assert source.position(partitions[1]) == 0
    await source.stop()


async def test_an_offset_that_somebody_else_has_set_ends_the_run_and_is_not_taken_for_a_range(scene, fresh_name):
    (partition,) = await scene.topic(1)
    group = fresh_name("run")
    live = scene.source([partition.topic], group)
    await live.start(Owner())
    await live.stop()
    source = bounded(scene, [partition], group, {partition: Bounds(0, 9)})
    with pytest.raises(SourceFailed, match="another --run-id"):
        await source.start(Owner())
    await source.stop()


async def test_what_retention_took_of_a_part_that_is_done_is_no_gap(scene, fresh_name):
    partitions = await scene.topic(2)
    for partition in partitions:
        await scene.append(partition, *[b"x"] * 30)
    group = fresh_name("run")
    bounds = {partitions[0]: Bounds(0, 10), partitions[1]: Bounds(0, 10)}
    first = bounded(scene, partitions, group, bounds)
    await first.start(Owner())
    await first.commit({partitions[0]: told(10, bounds[partitions[0]]), partitions[1]: told(4, bounds[partitions[1]])})
    await first.stop()
    for partition in partitions:
        await scene.delete_before(partition, 20)
    again = bounded(scene, partitions, group, bounds)
    await again.start(Owner())
    assert again.lost == {partitions[1]: 6}
    assert again.position(partitions[0]) == 10
    await again.stop()


async def test_a_group_that_never_was_has_committed_nothing(scene, fresh_name):
    (partition,) = await scene.topic(1)
    assert await commits_of(scene.settings([partition.topic], "any"), fresh_name("nobody")) == {}
