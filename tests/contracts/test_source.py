"""What the engine may rely on: one battery for KafkaSource and for the fake that other tests use."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.contracts.harness import FakeScene, Owner, Source, read_all, until_owned
from worker.errors import CommitRefused
from worker.kafka.membership import untouched
from worker.kafka.progress import LIMIT_CHARACTERS, Note, Progress, decode_progress, fit
from worker.kafka.source import FETCH_BYTES, Position, SourceFailed
from worker.model import TopicPartition


async def test_every_record_comes_once_and_in_offset_order(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, *(b"a%d" % number for number in range(30)))
    await scene.append(b, *(b"b%d" % number for number in range(20)))
    source = await started(scene.source([a.topic], group))
    records = await read_all(source, 50)
    for partition, letter, count in ((a, b"a", 30), (b, b"b", 20)):
        mine = [record for record in records if record.partition == partition.partition]
        assert [(record.offset, record.value) for record in mine] == [
            (number, letter + b"%d" % number) for number in range(count)
        ]


async def test_bytes_are_not_touched(scene, started, group):
    (partition,) = await scene.topic()
    headers = [("twice", b"1"), ("twice", b"\xff\x00"), ("none", None), ("empty", b"")]
    await scene.append(partition, b"\x00\xff", None, b"", key=b"k\x00", headers=headers)
    source = await started(scene.source([partition.topic], group))
    records = await read_all(source, 3)
    assert [record.value for record in records] == [b"\x00\xff", None, b""]
    assert [record.key for record in records] == [b"k\x00"] * 3
    assert [list(record.headers) for record in records] == [headers] * 3
    assert all(record.timestamp > 1_600_000_000_000 for record in records)


async def test_a_record_larger_than_what_is_fetched_at_once_arrives(scene, started, group):
    (partition,) = await scene.topic()
    sizes = [10, FETCH_BYTES + 1, 10, 3 * FETCH_BYTES, 10]
    for size in sizes:
        await scene.append(partition, b"x" * size)
    source = await started(scene.source([partition.topic], group))
    assert [len(record.value) for record in await read_all(source, len(sizes))] == sizes


async def test_no_more_than_max_records_come_at_once(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, *[b"x"] * 12)
    source = await started(scene.source([partition.topic], group))
    sizes = []
    while sum(sizes) < 12:
        sizes.append(sum(map(len, (await source.read([partition], max_records=5, timeout_s=1)).values())))
    assert max(sizes) == 5


async def test_a_partition_that_is_not_asked_for_is_read_later(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, b"a")
    await scene.append(b, b"b")
    source = await started(scene.source([a.topic], group))
    first = await source.read([a], max_records=10, timeout_s=5)
    assert set(first) == {a}
    assert source.position(b) == 0
    second = await source.read([b], max_records=10, timeout_s=5)
    assert [record.value for record in second[b]] == [b"b"]


async def test_asking_for_nothing_hands_out_nothing_and_drops_nothing(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, b"1", b"2")
    source = await started(scene.source([partition.topic], group))
    assert await source.read((), max_records=10, timeout_s=0.3) == {}
    assert source.position(partition) == 0
    assert [record.value for record in await read_all(source, 2)] == [b"1", b"2"]


async def test_a_read_without_news_comes_back_in_time(scene, started, group):
    (partition,) = await scene.topic()
    source = await started(scene.source([partition.topic], group))
    async with asyncio.timeout(2):
        assert await source.read([partition], max_records=10, timeout_s=0.1) == {}
        assert await source.read([partition], max_records=10, timeout_s=0) == {}


async def test_a_record_that_arrives_ends_the_wait(scene, started, group):
    (partition,) = await scene.topic()
    source = await started(scene.source([partition.topic], group))
    reading = asyncio.create_task(source.read([partition], max_records=10, timeout_s=30))
    await asyncio.sleep(0)
    await scene.append(partition, b"news")
    async with asyncio.timeout(5):
        assert [record.value for record in (await reading)[partition]] == [b"news"]


async def test_a_cancelled_read_loses_nothing(scene, started, group):
    (partition,) = await scene.topic()
    source = await started(scene.source([partition.topic], group))
    reading = asyncio.create_task(source.read([partition], max_records=10, timeout_s=30))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await scene.append(partition, b"1", b"2")
    assert [record.offset for record in await read_all(source, 2)] == [0, 1]


async def test_the_owner_hears_of_its_partitions_with_their_positions_before_start_returns(scene, started, group):
    partitions = await scene.topic(3)
    owner = Owner()
    source = await started(scene.source([partitions[0].topic], group), owner)
    assert owner.heard == [("assigned", frozenset(partitions))]
    assert owner.positions == dict.fromkeys(partitions, 0)
    assert source.assignment() == frozenset(partitions)


async def test_a_commit_is_where_the_next_member_begins(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, *[b"x"] * 5)
    source = await started(scene.source([partition.topic], group))
    await read_all(source, 5)
    await source.commit({partition: Position(3, "v1 text")})
    assert await source.committed([partition]) == {partition: Position(3, "v1 text")}
    await source.stop()
    successor = await started(scene.source([partition.topic], group))
    assert successor.position(partition) == 3
    assert [record.offset for record in await read_all(successor, 2)] == [3, 4]


async def test_a_commits_metadata_is_found_by_the_next_owner_up_to_kafkas_limit(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, *[b"x"] * 5)
    source = await started(scene.source([partition.topic], group))
    await read_all(source, 5)
    done = (range(4, 5), *(range(offset, offset + 1) for offset in range(6, 10_000, 2)))
    text, told = fit(Note("1f3a5c7e9b2d", {"main": 45.0}), Progress(3, 20_000, 0, done))
    assert told.done == done
    text += " z=" + "y" * (LIMIT_CHARACTERS - len(text) - 3)
    assert len(text) == LIMIT_CHARACTERS
    assert await source.commit({partition: Position(3, text)})
    await source.stop()
    successor = await started(scene.source([partition.topic], group))
    found = successor.found(partition)
    assert (committed := found.committed) == Position(3, text)
    assert found.end == 5
    assert decode_progress(committed.metadata, committed.offset).done == done


async def test_the_first_commit_of_a_new_group_says_that_nothing_was_attempted(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, *[b"x"] * 5)
    source = await started(scene.source([partition.topic], group))
    found = source.found(partition)
    assert (committed := found.committed) is not None
    assert found.end == 5
    assert decode_progress(committed.metadata, committed.offset) == Progress(0, 0)


async def test_a_new_group_begins_at_the_beginning_by_default(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, b"1", b"2")
    source = await started(scene.source([a.topic], group))
    assert await source.committed([a, b]) == {a: untouched(0), b: untouched(0)}


async def test_a_new_group_told_to_begin_at_the_end_commits_that_before_it_reads(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, b"old", b"old")
    source = await started(scene.source([a.topic], group, start="latest"))
    assert await source.committed([a, b]) == {a: untouched(2), b: untouched(0)}
    await scene.append(a, b"new")
    assert [record.value for record in await read_all(source, 1)] == [b"new"]


async def test_a_single_partition_without_an_offset_is_a_later_one_and_read_from_its_beginning(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, b"1")
    await scene.append(b, b"2")
    await _commit_only(scene, started, group, a, Position(1))
    source = await started(scene.source([a.topic], group, start="latest"))
    assert source.position(a) == 1
    assert source.position(b) == 0


async def _commit_only(scene, started, group: str, partition: TopicPartition, position: Position) -> None:
    """Leave a group that has an offset for one partition of the topic, as before somebody added partitions."""
    if isinstance(scene, FakeScene):
        scene.cluster.committed[group, partition] = position
        return
    from aiokafka import AIOKafkaConsumer
    from aiokafka import TopicPartition as Theirs

    consumer = AIOKafkaConsumer(bootstrap_servers=scene.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([Theirs(*partition)])
    await consumer.commit({Theirs(*partition): tuple(position)})
    await consumer.stop()


async def test_a_group_with_an_offset_ignores_where_new_groups_begin(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, b"1", b"2")
    first = await started(scene.source([partition.topic], group))
    await first.stop()
    source = await started(scene.source([partition.topic], group, start="latest"))
    assert source.position(partition) == 0


async def test_offsets_that_retention_deleted_stop_their_partition_only(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, *[b"a"] * 5)
    await scene.append(b, b"b")
    first = await started(scene.source([a.topic], group))
    await first.commit({a: Position(1), b: Position(0)})
    await first.stop()
    await scene.delete_before(a, 4)
    source = await started(scene.source([a.topic], group))
    assert [record.value for record in await read_all(source, 1)] == [b"b"]
    assert dict(source.lost) == {a: 3}
    assert source.position(a) == 1


async def test_retention_that_overtakes_a_reader_stops_the_partition(scene, started, group):
    (partition,) = await scene.topic()
    source = await started(scene.source([partition.topic], group))
    await scene.append(partition, b"1")
    await read_all(source, 1)
    await source.stop()
    await scene.append(partition, *[b"x"] * 5)
    await scene.delete_before(partition, 6)
    source = await started(scene.source([partition.topic], group))
    await source.read([partition], max_records=10, timeout_s=0.5)
    assert dict(source.lost) == {partition: 6}


async def test_a_gap_that_was_agreed_to_is_passed(scene, started, group):
    (partition,) = await scene.topic()
    first = await started(scene.source([partition.topic], group))
    await first.stop()
    await scene.append(partition, *[b"x"] * 5)
    await scene.delete_before(partition, 3)
    source = await started(scene.source([partition.topic], group, accept_gap=True))
    assert [record.offset for record in await read_all(source, 2)] == [3, 4]
    assert dict(source.lost) == {}


async def test_an_offset_beyond_the_end_stops_the_partition(scene, started, group):
    (partition,) = await scene.topic()
    await scene.append(partition, b"1")
    first = await started(scene.source([partition.topic], group))
    await first.commit({partition: Position(7)})
    await first.stop()
    source = await started(scene.source([partition.topic], group))
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while partition not in source.lost:
                assert await source.read([partition], max_records=10, timeout_s=0.1) == {}
    assert dict(source.lost) == {partition: 0}, "it reads on from where the library likes"


async def test_ends_and_highwater_are_one_above_the_last_record(scene, started, group):
    a, b = await scene.topic(2)
    await scene.append(a, b"1", b"2")
    source = await started(scene.source([a.topic], group))
    await read_all(source, 2)
    assert await source.end_offsets([a, b]) == {a: 2, b: 0}
    assert source.highwater(a) == 2
    assert source.position(a) == 2


async def test_there_is_no_lease_before_the_group_was_joined(scene, group):
    (partition,) = await scene.topic()
    assert scene.source([partition.topic], group).lease_valid_until_s() == float("-inf")


async def test_a_second_member_gets_its_share_when_the_first_has_given_back(scene, started, group):
    partitions = await scene.topic(4)
    first_owner, second_owner = Owner(), Owner()
    await scene.append(partitions[0], *[b"x"] * 3)
    first = await started(scene.source([partitions[0].topic], group), first_owner)
    await read_all(first, 3)
    first_owner.to_commit = {partitions[0]: Position(2, "drained")}
    second = scene.source([partitions[0].topic], group)
    joining = asyncio.create_task(started(second, second_owner))
    await until_owned(first, 2)
    await joining
    await until_owned(second, 2)
    assert first_owner.heard[1] == ("revoked", frozenset(partitions))
    assert first.assignment() | second.assignment() == frozenset(partitions)
    heir = first if partitions[0] in first.assignment() else second
    assert heir.position(partitions[0]) == 2
    assert await heir.committed(partitions[:1]) == {partitions[0]: Position(2, "drained")}


async def test_nothing_is_handed_out_while_the_owner_gives_back_and_reads_come_back(scene, started, group):
    partitions = await scene.topic(2)
    owner = Owner()
    first = await started(scene.source([partitions[0].topic], group), owner)
    owner.may_give_back.clear()
    waiting = asyncio.create_task(first.read(partitions, max_records=10, timeout_s=30))
    joining = asyncio.create_task(started(scene.source([partitions[0].topic], group)))
    async with asyncio.timeout(15):
        await owner.is_giving_back.wait()
        if not isinstance(scene, FakeScene):
            assert await waiting == {}
        await scene.append(partitions[0], b"for the next owner")
        assert await first.read(partitions, max_records=10, timeout_s=0.2) == {}
        waiting.cancel()
        owner.may_give_back.set()
        await until_owned(first, 1)
        await joining


async def test_a_commit_of_what_was_given_back_is_refused(scene, started, group):
    partitions = await scene.topic(2)
    first = await started(scene.source([partitions[0].topic], group))
    joining = asyncio.create_task(started(scene.source([partitions[0].topic], group)))
    await until_owned(first, 1)
    await joining
    with pytest.raises(CommitRefused):
        await first.commit(dict.fromkeys(partitions, Position(0)))


async def test_partitions_of_a_member_that_leaves_go_to_the_others(scene, started, group):
    partitions = await scene.topic(2)
    first = await started(scene.source([partitions[0].topic], group))
    second = scene.source([partitions[0].topic], group)
    joining = asyncio.create_task(started(second))
    await until_owned(first, 1)
    await joining
    await first.stop()
    await until_owned(second, 2)


async def test_an_owner_that_fails_is_heard_of_by_the_reader(scene, started, group):
    partitions = await scene.topic(2)
    owner = Owner()
    first = await started(scene.source([partitions[0].topic], group), owner)
    owner.error = RuntimeError("a bug")
    second = asyncio.create_task(started(scene.source([partitions[0].topic], group)))
    with pytest.raises(SourceFailed, match="RuntimeError") as caught:
        await _read_on(first)
    assert isinstance(caught.value.__cause__, RuntimeError)
    await second


async def _read_on(source: Source) -> None:
    async with asyncio.timeout(15):
        while True:
            await source.read((), max_records=1, timeout_s=0.05)


async def test_stopping_twice_or_before_the_start_does_nothing(scene, started, group):
    (partition,) = await scene.topic()
    source = scene.source([partition.topic], group)
    await source.stop()
    await started(source)
    await source.stop()
    await source.stop()
