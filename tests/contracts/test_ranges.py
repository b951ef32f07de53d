"""A bounded read: what it finds, and that nobody notices it. On a real broker only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.harness import KafkaScene
from worker.errors import StartFailed
from worker.kafka.ranges import RangeReader, Sample, Span, shares
from worker.model import TopicPartition


@pytest.fixture
async def kafka(kafka_bootstrap: str, fresh_name: Callable[[str], str]) -> AsyncIterator[KafkaScene]:
    scene = KafkaScene(kafka_bootstrap, fresh_name)
    yield scene
    await scene.close()


async def last(kafka: KafkaScene, topic: str, count: int, *, limit_s: float = 10) -> Sample:
    async with RangeReader.opened(kafka.settings([topic], "nobody")) as reader:
        return await reader.last([topic], count, limit_s=limit_s)


def values(sample: Sample) -> list[bytes | None]:
    return [record.value for record in sample.records]


async def append_transaction(kafka: KafkaScene, partition: TopicPartition, *texts: bytes, commit: bool) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{partition.topic}")
    await producer.start()
    try:
        await producer.begin_transaction()
        for text in texts:
            await producer.send(partition.topic, text, partition=partition.partition)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


async def test_the_newest_records_come_in_the_order_of_their_time(kafka: KafkaScene) -> None:
    left, right = await kafka.topic(2)
    for number in range(6):
        await kafka.append((left, right)[number % 2], b"%d" % number)
        await asyncio.sleep(0.002)  # the broker's timestamps are milliseconds
    sample = await last(kafka, left.topic, 4)
    assert values(sample) == [b"2", b"3", b"4", b"5"]
    assert sample.is_whole


async def test_partitions_with_less_than_their_share_are_made_up_for(kafka: KafkaScene) -> None:
    quiet, busy, empty = await kafka.topic(3)
    await kafka.append(quiet, b"q")
    await kafka.append(busy, *(b"%d" % number for number in range(20)))
    sample = await last(kafka, busy.topic, 10)
    assert set(values(sample)) == {b"q", *(b"%d" % number for number in range(11, 20))}
    assert {record.partition for record in sample.records} == {quiet.partition, busy.partition} - {empty.partition}


async def test_more_than_there_is_gives_what_there_is(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, b"a", None, b"", key=b"k")
    sample = await last(kafka, only.topic, 1_000)
    assert values(sample) == [b"a", None, b""]
    assert sample.is_whole


async def test_an_empty_topic_gives_nothing_at_once(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    assert await last(kafka, only.topic, 10) == Sample([], is_whole=True)


async def test_where_transactions_were_taken_back_it_reads_further_back(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, *(b"%d" % number for number in range(10)))
    for _ in range(5):
        await append_transaction(kafka, only, b"never", b"happened", commit=False)
    await append_transaction(kafka, only, b"happened", commit=True)
    sample = await last(kafka, only.topic, 4)
    assert values(sample) == [b"7", b"8", b"9", b"happened"]
    assert sample.is_whole


async def test_what_retention_has_deleted_is_not_asked_for(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, *(b"%d" % number for number in range(10)))
    await kafka.delete_before(only, 7)
    assert values(await last(kafka, only.topic, 5)) == [b"7", b"8", b"9"]


async def test_records_that_are_deleted_before_they_are_read_are_counted(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, *(b"%d" % number for number in range(10)))
    async with RangeReader.opened(kafka.settings([only.topic], "nobody")) as reader:
        await kafka.delete_before(only, 4)
        found = [record.offset async for batch in reader.read({only: Span(0, 8)}) for record in batch]
        assert found == [4, 5, 6, 7]
        assert reader.lost == {only: 4}


async def test_a_span_ends_before_its_end_and_spans_can_be_read_again(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, *(b"%d" % number for number in range(50)))
    async with RangeReader.opened(kafka.settings([only.topic], "nobody")) as reader:
        assert await reader.spans([only.topic]) == {only: Span(0, 50)}
        for span in (Span(10, 13), Span(0, 2), Span(49, 50), Span(5, 5)):
            found = [record.offset async for batch in reader.read({only: span}) for record in batch]
            assert found == list(range(*span))


async def test_nothing_is_joined_and_nothing_is_committed(kafka: KafkaScene, group: str) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, b"a")
    async with RangeReader.opened(kafka.settings([only.topic], group)) as reader:
        await reader.last([only.topic], 1, limit_s=10)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            assert group not in {name for name, _ in await admin.list_consumer_groups()}
        finally:
            await admin.close()


async def test_a_topic_that_is_not_there_is_named_and_not_made(kafka: KafkaScene) -> None:
    for _ in range(2):
        with pytest.raises(StartFailed, match="topic nowhere-to-be-found does not exist"):
            await last(kafka, "nowhere-to-be-found", 1)


async def test_without_time_it_says_that_it_has_not_read_everything(kafka: KafkaScene) -> None:
    (only,) = await kafka.topic()
    await kafka.append(only, b"a")
    assert not (await last(kafka, only.topic, 1, limit_s=0)).is_whole


async def test_nothing_at_the_address_is_one_line() -> None:
    from worker.kafka.client import KafkaSettings

    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1", group_id="g", topics=("t",), dead_letter_topic="d")
    with pytest.raises(StartFailed, match=r"Kafka at 127\.0\.0\.1:1: nothing answers there"):
        async with RangeReader.opened(nowhere):
            pass


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 300))
def test_shares_are_even_where_there_is_room_and_use_all_there_is(sizes: list[int], count: int) -> None:
    room = {TopicPartition("t", number): size for number, size in enumerate(sizes)}
    given_out = shares(room, count)
    assert sum(given_out.values()) == min(count, sum(sizes))
    assert all(0 <= given_out[partition] <= size for partition, size in room.items())
    unfilled = [given_out[partition] for partition, size in room.items() if given_out[partition] < size]
    if unfilled:
        assert max(given_out.values()) - min(unfilled) <= 1
